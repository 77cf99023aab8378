import math

import numpy as np
import pytest

from pruneft.sweep.adaptive import (
    Model,
    Verdict,
    allocate,
    judge,
    nearest_places,
    posterior,
    quantiles,
    simulate,
)

MODEL = Model(low=1.0, high=2.0, target=0.05)
X = np.arange(40, 81) / 40


def _logistic(x, half, width):
    return 1 / (1 + np.exp(-(x - half) / width))


def _told(won, lost, model=MODEL, x=X):
    return posterior(model, model.curves(x), np.atleast_2d(won), np.atleast_2d(lost))


def test_every_curve_passes_one_half_at_its_centre():
    # Whatever width and lapse: the centre is the x where success itself has probability one half, not the logistic.
    centres = MODEL.centres
    curves = MODEL.curves(centres)
    shape = (len(centres), len(centres), len(MODEL.widths), len(MODEL.lapses))
    own = np.exp(curves.success).reshape(shape)[np.arange(len(centres)), np.arange(len(centres))]
    np.testing.assert_allclose(own, 0.5, rtol=1e-5)


def test_chances_of_success_and_failure_sum_to_one_and_saturate_at_the_lapse():
    curves = MODEL.curves(np.array([-50.0, 1.3, 1.31, 50.0]))
    np.testing.assert_allclose(np.exp(curves.success) + np.exp(curves.failure), 1, rtol=1e-5)
    lapses = np.broadcast_to(MODEL.lapses, (len(MODEL.centres), len(MODEL.widths), len(MODEL.lapses))).ravel()
    np.testing.assert_allclose(np.exp(curves.failure[3]), lapses, rtol=1e-4)
    np.testing.assert_allclose(np.exp(curves.success[0]), 0, atol=1e-30)


def test_the_posterior_is_bayes_rule():
    # Three trials by hand: products of probabilities, normalised, summed over width and lapse.
    x = np.array([1.2, 1.5])
    chance = np.exp(MODEL.curves(x).success.astype(float))
    weight = chance[0] * (1 - chance[0]) * chance[1]
    weight /= weight.sum()
    told = _told([1, 1], [1, 0], x=x)
    np.testing.assert_allclose(told.centre[0], weight.reshape(len(MODEL.centres), -1).sum(1), rtol=2e-4, atol=1e-9)
    log = np.log(np.tile(np.repeat(MODEL.widths, len(MODEL.lapses)), len(MODEL.centres)))
    np.testing.assert_allclose(told.width[0], np.exp(weight @ log), rtol=1e-4)


def test_without_trials_every_centre_is_as_likely():
    told = _told(np.zeros(len(X)), np.zeros(len(X)))
    np.testing.assert_allclose(told.centre[0], 1 / len(MODEL.centres), rtol=1e-4)


@pytest.mark.parametrize("half", [1.113, 1.4, 1.777])
def test_the_posterior_concentrates_at_the_truth(half):
    chance = _logistic(X, half, 0.04)
    widths = []
    for trials in (1, 10, 40):
        told = _told(trials * chance, trials * (1 - chance))  # expected counts: no luck in it
        verdict = judge(MODEL, told.centre[0], trials * len(X))
        assert verdict.low < half < verdict.high
        widths.append(verdict.high - verdict.low)
    assert abs(verdict.estimate - half) < 0.003
    # Once the width of the curve is known, like 1/sqrt(trials); before, faster.
    np.testing.assert_allclose(widths[1] / widths[2], 2, rtol=0.15)
    assert widths[0] > 3 * widths[1]


def test_rows_know_nothing_of_one_another():
    random = np.random.default_rng(0)
    won, lost = random.integers(0, 3, (2, 4, len(X)))
    together = _told(won, lost)
    for row in range(4):
        alone = _told(won[row], lost[row])
        np.testing.assert_allclose(together.centre[row], alone.centre[0], rtol=1e-4, atol=1e-10)
        np.testing.assert_allclose(together.width[row], alone.width[0], rtol=1e-5)


def test_moving_data_and_range_moves_the_answer_and_nothing_else():
    random = np.random.default_rng(1)
    won, lost = random.integers(0, 3, (2, len(X)))
    here = judge(MODEL, _told(won, lost).centre[0], 60)
    there = Model(low=11.0, high=12.0, target=0.05)
    moved = judge(there, _told(won, lost, there, X + 10).centre[0], 60)
    np.testing.assert_allclose(np.array(moved[:3]) - 10, here[:3], atol=1e-4)
    scaled = Model(low=10.0, high=20.0, target=0.5)
    wide = judge(scaled, _told(won, lost, scaled, 10 * X).centre[0], 60)
    np.testing.assert_allclose(np.array(wide[:3]) / 10, here[:3], atol=1e-4)


def test_quantiles_are_those_of_a_known_density():
    # A normal density on the grid: its quantiles are mean + z sd.
    centres = MODEL.centres
    density = np.exp(-0.5 * ((centres - 1.4) / 0.03) ** 2)
    found = quantiles(MODEL, density, (0.025, 0.5, 0.975))
    np.testing.assert_allclose(found, [1.4 - 1.96 * 0.03, 1.4, 1.4 + 1.96 * 0.03], atol=2e-4)


def test_the_first_batch_covers_the_range_evenly():
    flat = np.ones(len(MODEL.centres))
    first = allocate(MODEL, flat, 0.1, judge(MODEL, flat, 0), 0)
    np.testing.assert_allclose(first, 1 + (np.arange(8) + 0.5) / 8, atol=0.01)


def test_later_batches_lie_around_the_transition_and_within_the_range():
    chance = _logistic(X, 1.4, 0.02)
    told = _told(3 * chance, 3 * (1 - chance))
    verdict = judge(MODEL, told.centre[0], 123)
    batch = allocate(MODEL, told.centre[0], float(told.width[0]), verdict, 123)
    assert 4 <= len(batch) <= 16
    assert np.all(np.abs(batch - 1.4) < 0.12)
    assert np.any(batch < 1.4)
    assert np.any(batch > 1.4)
    failing = _told(np.zeros(len(X)), np.ones(len(X)))
    edge = allocate(MODEL, failing.centre[0], 0.05, Verdict(1.9, 1.5, 2.2, "open"), 41)
    assert np.all((edge >= 1) & (edge <= 2))
    assert np.median(edge) > 1.9


def test_batches_shrink_as_the_interval_closes():
    flat = np.ones(len(MODEL.centres))
    sizes = [
        len(allocate(MODEL, flat, 0.05, Verdict(1.4, 1.4 - width / 2, 1.4 + width / 2, "open"), 60))
        for width in (0.3, 0.075, 0.051)
    ]
    # 60 trials at 0.075 lack 75 more, of which a share of 0.3 is 23; at 0.051, 3 trials.
    assert sizes == [16, 16, 4]


@pytest.mark.parametrize(
    ("successes", "flag", "low", "high"), [(0, "above", 2.0, math.inf), (1, "below", -math.inf, 1.0)]
)
def test_a_row_without_a_transition_says_on_which_side_it_lies(successes, flag, low, high):
    chance = np.full((3, len(X)), float(successes))
    verdicts, trials = simulate(MODEL, X, chance, seed=0)
    for verdict in verdicts:
        assert math.isnan(verdict.estimate)
        assert verdict[1:] == (low, high, flag)
    assert np.all(trials <= 40)


def test_no_verdict_comes_before_sixteen_trials():
    sharp = np.zeros(len(MODEL.centres))
    sharp[len(sharp) // 2] = 1
    assert judge(MODEL, sharp, 15).flag == "open"
    assert judge(MODEL, sharp, 16).flag == "ok"


def test_a_row_that_cannot_be_decided_ends_at_the_most_trials():
    # Success at random everywhere: no transition at all.
    verdicts, trials = simulate(MODEL, X, np.full((5, len(X)), 0.5), seed=3, most=60)
    assert trials.max() == 60
    assert "open" in {verdict.flag for verdict in verdicts}


def test_a_simulation_is_repeated_by_its_seed_and_not_by_another():
    chance = np.tile(_logistic(X, 1.4, 0.04), (5, 1))
    first, again, other = (simulate(MODEL, X, chance, seed=seed) for seed in (1, 1, 2))
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0] != other[0]


def test_nearest_places_are_nearest():
    assert nearest_places(np.array([1.0, 1.5, 2.0]), np.array([0.3, 1.2, 1.3, 9.0])).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("target", [0.0, -0.1, math.nan, math.inf, 1.0, 3.0])
def test_a_target_that_is_no_width_within_the_range_is_refused(target):
    with pytest.raises(
        ValueError, match=r"the target \(width of the interval\) must be positive and less than the range"
    ):
        Model(low=1.0, high=2.0, target=target)


def test_a_target_far_finer_than_the_range_is_refused():
    with pytest.raises(ValueError, match=r"is less than 1/200 of the range 1 to 2\. Narrow the range"):
        Model(low=1.0, high=2.0, target=0.001)


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (1.0, 1.0), (math.nan, 2.0), (1.0, math.inf)])
def test_a_range_that_does_not_rise_is_refused(low, high):
    with pytest.raises(ValueError, match="the range must be finite and rising"):
        Model(low=low, high=high, target=0.05)
