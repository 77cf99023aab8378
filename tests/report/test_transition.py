import numpy as np
import pytest

from pruneft.report import transition

X = np.array([1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0])


def _draw(rng, mu, width, trials, top=1.0):
    return rng.binomial(trials, top / (1 + np.exp(-(X - mu) / width)))


def _brute(x, good, total):
    """The same posterior written down anew: probabilities and not logarithms, one dense grid in x itself."""
    span = np.ptp(x)
    c = np.linspace(x.min() - span / 2, x.max() + span / 2, 3001)[:, None, None]
    s = np.geomspace(0.003, 0.5, 150)[None, :, None] * span
    mu = c - s * np.log(0.5 / 0.47)
    p = 0.97 / (1 + np.exp(np.clip((mu - x) / s, -500, 500)))
    weight = np.trapezoid(np.prod(p**good * (1 - p) ** (total - good), axis=2), axis=1)
    total_weight = np.cumsum(weight) / weight.sum()
    return np.interp([0.025, 0.5, 0.975], total_weight, c[:, 0, 0])


@pytest.mark.parametrize("good", [(0, 1, 3, 4, 4, 4, 4, 4), (0, 0, 2, 2, 3, 4, 3, 4), (0, 0, 0, 0, 1, 4, 4, 4)])
def test_point_and_interval_are_those_of_the_posterior(good):
    found = transition(X, good, [4] * 8)
    low, point, high = _brute(X, np.array(good), np.full(8, 4))
    np.testing.assert_allclose([found.low, found.point, found.high], [low, point, high], atol=2e-3)
    assert found.bracketed


def test_many_trials_find_the_true_point():
    found = transition(X, _draw(np.random.default_rng(0), 1.3, 0.1, 20_000, top=0.97), [20_000] * 8)
    # 0.97 logistic(t) is one half a little above the middle of the logistic.
    assert found.point == pytest.approx(1.3 + 0.1 * np.log(0.5 / 0.47), abs=3e-3)
    assert found.high - found.low < 0.01


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    width, hits = 0.06, 0
    for _ in range(300):
        mu = rng.uniform(1.2, 1.8)
        truth = mu + width * np.log(0.5 / 0.47)
        found = transition(X, _draw(rng, mu, width, 16, top=0.97), [16] * 8)
        hits += found.low <= truth <= found.high
    # Of 300 at .95: fewer than 271 has a probability below 0.1 percent. A half-width too small by a third fails.
    assert hits >= 271


def test_units_and_origin_of_x_do_not_matter():
    good = [0, 1, 3, 4, 4, 4, 4, 4]
    plain, moved = transition(X, good, [4] * 8), transition(7 * X - 30, good, [4] * 8)
    np.testing.assert_allclose(moved[:3], 7 * np.array(plain[:3]) - 30, rtol=1e-9)
    logarithmic = transition(np.exp(X), good, [4] * 8, scale="log")
    np.testing.assert_allclose(np.log(logarithmic[:3]), plain[:3], rtol=1e-9)


def test_success_may_fall_with_x():
    good = [0, 1, 3, 4, 4, 4, 4, 4]
    rising, falling = transition(X, good, [4] * 8), transition(-X, good, [4] * 8)
    expected = [rising.low, rising.point, rising.high]
    np.testing.assert_allclose([-falling.high, -falling.point, -falling.low], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("good", "total", "note"),
    [
        ([0] * 8, [4] * 8, "success was never seen"),
        ([4] * 8, [4] * 8, "success was always seen"),
        ([0] * 8, [0] * 8, "no trials"),
        ([2, 0, 0, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0, 0], "a single x"),
    ],
)
def test_what_does_not_bracket_the_point_says_so(good, total, note):
    found = transition(X, good, total)
    assert np.isnan(found[:3]).all()
    assert (found.note, found.bracketed) == (note, False)


def test_an_end_beyond_the_cells_is_left_open():
    found = transition(X, [1, 4, 4, 4, 4, 4, 4, 4], [4] * 8)
    assert np.isnan(found.low)
    assert 1.0 < found.high < 1.2
    assert found.note == "the interval reaches below the cells that were run"
    falling = transition(X, [4, 4, 4, 4, 4, 4, 4, 3], [4] * 8)
    assert np.isnan(falling.high)
    assert "above" in falling.note


@pytest.mark.parametrize(
    ("x", "good", "total", "scale", "words"),
    [
        ([1, 2], [0], [4, 4], "linear", "equally long, got 2, 1 and 2"),
        ([1, 2], [0, 5], [4, 4], "linear", "0 <= successes <= trials"),
        ([1, np.nan], [0, 4], [4, 4], "linear", "expected finite numbers"),
        ([0, 1], [0, 4], [4, 4], "log", "expected finite positive numbers"),
    ],
)
def test_counts_that_make_no_sense_are_refused(x, good, total, scale, words):
    with pytest.raises(ValueError, match=words):
        transition(x, good, total, scale=scale)
