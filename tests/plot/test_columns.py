import numpy as np
import pytest

from pruneft.plot import before_after, column_norms, save


def _share_at(line, x):
    """The drawn value at x: steps-pre holds each value on the interval to the left of its point."""
    xs, ys = line.get_data()
    return ys[np.searchsorted(xs, x)]


def test_the_share_curve_is_the_share_of_columns_at_or_above_x_times_the_largest():
    rng = np.random.default_rng(0)
    norms = rng.exponential(size=(3, 50))
    line = column_norms({"a": norms}).shares["a"]
    assert line.get_drawstyle() == "steps-pre"
    for x in (0.0, 0.1, 0.33, 0.9, 1.0):
        per_seed = [(seed >= x * seed.max()).mean() for seed in norms]
        assert _share_at(line, x) == pytest.approx(np.mean(per_seed))


@pytest.mark.parametrize("norms", [[1.0, 0.5, 0.0], [[3.0, 1.0], [0.2, 0.2]], [2.0]])
def test_the_share_curve_starts_at_one_and_never_rises(norms):
    x, share = column_norms({"a": norms}).shares["a"].get_data()
    assert (x[0], share[0]) == (0.0, 1.0)
    assert x[-1] == 1.0
    assert (np.diff(share) <= 0).all()


def test_the_histogram_counts_every_column_once_averaged_over_seeds():
    norms = {"a": np.random.default_rng(1).exponential(size=(4, 30)), "b": np.ones(7)}
    drawn = column_norms(norms)
    assert drawn.histograms["a"].get_data().values.sum() == pytest.approx(30)
    assert drawn.histograms["b"].get_data().values[-1] == 7
    assert all(ax.get_yscale() == "log" for ax in drawn.axes)


def test_one_large_column_and_hundreds_of_small_ones_are_both_in_the_picture(tmp_path):
    drawn = column_norms({"a": [1.0] + [1e-3] * 490}, threshold=0.05)
    low, high = drawn.axes[1].get_ylim()
    assert low < 1
    assert high > 490
    assert drawn.axes[0].get_ylim()[0] < 1 / 491
    save(drawn.figure, tmp_path / "columns.png")


def test_threshold_and_law_are_drawn_where_they_are():
    drawn = column_norms({"a": [1.0, 0.1]}, threshold=0.07, law=([0, 0.5, 1], [1, 0.2, 0]))
    assert [line.get_xdata()[0] for line in drawn.thresholds] == [0.07, 0.07]
    np.testing.assert_array_equal(drawn.law.get_ydata(), [1, 0.2, 0])
    assert [t.get_text() for t in drawn.legend.get_texts()] == ["a", "unregularised law", "pruning threshold"]


@pytest.mark.parametrize(
    ("norms", "more", "message"),
    [
        ({}, {}, "at least one label"),
        ({"a": []}, {}, "not empty"),
        ({"a": np.ones((2, 2, 2))}, {}, r"\[k\] or \[seeds, k\]"),
        ({"a": [1.0, np.nan]}, {}, "a: expected finite norms, got 1"),
        ({"a": [1.0, -0.1]}, {}, "negative"),
        ({"a": [[1.0, 0.5], [0.0, 0.0]]}, {}, "all norms of a seed are zero"),
        ({"a": [1.0]}, {"threshold": 1.5}, "threshold"),
        ({"a": [1.0]}, {"law": ([0, 1], [1])}, "equally long"),
    ],
)
def test_wrong_norms_are_refused(norms, more, message):
    with pytest.raises(ValueError, match=message):
        column_norms(norms, **more)


def test_kept_and_pruned_columns_differ_in_marker_and_colour_and_none_is_lost(tmp_path):
    norms = np.array([0.01, 1.0, 0.0, 0.8, 0.02, 0.0])
    drawn = before_after(norms, norms > 0.5)
    np.testing.assert_array_equal(drawn.kept.get_ydata(), [1.0, 0.8])
    np.testing.assert_array_equal(drawn.pruned.get_ydata(), [0.02, 0.01])
    np.testing.assert_array_equal(drawn.zero.get_xdata(), [5, 6])
    assert drawn.axes.get_ylim()[0] < drawn.zero.get_ydata()[0] < 0.01
    assert drawn.kept.get_marker() != drawn.pruned.get_marker() != drawn.zero.get_marker()
    assert drawn.kept.get_color() != drawn.pruned.get_color()
    save(drawn.figure, tmp_path / "before_after.png")


def test_without_a_threshold_the_middle_of_the_gap_is_drawn_if_there_is_a_gap():
    assert before_after([1.0, 0.01], np.array([True, False])).threshold.get_ydata()[0] == pytest.approx(0.1)
    assert before_after([1.0, 0.01], np.array([False, True])).threshold is None
    assert before_after([1.0, 0.01], np.array([True, True])).threshold is None
    assert before_after([1.0, 0.01], np.array([True, False]), threshold=0.3).threshold.get_ydata()[0] == 0.3


@pytest.mark.parametrize(
    ("norms", "kept", "message"),
    [
        ([], [], "at least one entry"),
        ([1.0, 2.0], [True], "expected 2 booleans"),
        ([1.0, 2.0], [1, 0], "expected 2 booleans"),
        ([1.0, np.nan], [True, False], "finite"),
        ([1.0, 0.0], [True, True], "zero is marked as kept"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(norms, kept, message):
    with pytest.raises(ValueError, match=message):
        before_after(norms, np.array(kept))
