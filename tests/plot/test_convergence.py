import numpy as np
import pytest

from pruneft.plot import convergence, save

HISTORY = {
    "iteration": np.array([0, 20, 40]),
    "objective": np.array([9.0, 2.0, 1.5]),
    "dual": np.array([-np.inf, 1.0, 1.4]),
    "seconds": np.array([0.1, 0.2, 0.35]),
    "error": np.array([1.0, 0.4, 0.3]),
    "fresh_error": np.array([1.0, 0.6, 0.5]),
}


def test_bounds_gap_and_errors_are_drawn_against_iterations_and_seconds(tmp_path):
    drawn = convergence(HISTORY, error="share of wrong signs")
    assert len(drawn.panels) == 6
    x, gap = drawn.lines["gap over seconds"].get_data()
    np.testing.assert_array_equal(x, HISTORY["seconds"])
    np.testing.assert_allclose(gap, [np.nan, 0.5, 0.1 / 1.5])
    assert np.isnan(drawn.lines["dual over iterations"].get_ydata()[0])  # a bound that was not found yet
    np.testing.assert_array_equal(drawn.lines["fresh_error over iterations"].get_ydata(), HISTORY["fresh_error"])
    assert drawn.panels[4].get_ylabel() == "share of wrong signs"
    assert save(drawn.figure, tmp_path / "c.png").stat().st_size > 0


def test_the_axis_of_bounds_shows_where_they_meet_and_not_how_far_off_they_began():
    far = {**HISTORY, "objective": np.array([1e9, 2.0, 1.5]), "dual": np.array([-1e9, 1.0, 1.4])}
    low, high = convergence(far).panels[0].get_ylim()
    assert 0 < low < 1.4 < 1.5 < high < 4


def test_without_seconds_and_errors_there_are_two_panels():
    drawn = convergence({name: HISTORY[name] for name in ("iteration", "objective", "dual")})
    assert len(drawn.panels) == 2
    assert set(drawn.lines) == {"objective over iterations", "dual over iterations", "gap over iterations"}


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ({"iteration": [0, 1]}, "expected arrays iteration, objective and dual"),
        ({**HISTORY, "dual": [1.0]}, "expected 3 entries as in iteration, got 1"),
    ],
)
def test_a_history_that_cannot_be_drawn_says_what_is_missing(history, text):
    with pytest.raises(ValueError, match=text):
        convergence(history)
