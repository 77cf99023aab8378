import numpy as np
import pytest

from pruneft.plot import new_figure, save, training_curves


def _history():
    step = np.arange(0, 100, 10)
    return {
        "step": step,
        "residual": np.exp(-step / 20.0),
        "columns": np.array([4, 4, 3, 3, 2, 4, 3, 2, 2, 2]),
        "column_norms": np.exp(-np.outer(step, [0.0, 0.01, 0.1, 0.1])),
        "phase": np.array(["train"] * 4 + ["fine-tune"] + ["train"] * 3 + ["fine-tune"] * 2),
        "attempt": np.array([0] * 5 + [1] * 5),
    }


def test_only_the_panels_that_the_history_has_are_drawn():
    history = _history()
    assert len(training_curves(history).axes) == 3
    bare = training_curves({name: history[name] for name in ("step", "residual")})
    assert len(bare.axes) == 1
    assert bare.legend is bare.column_norms is bare.columns is None


def test_the_residual_is_drawn_on_a_logarithmic_axis_and_broken_at_a_restart():
    history = _history()
    drawn = training_curves(history)
    x, y = drawn.residual.get_data()
    assert drawn.axes[0].get_yscale() == "log"
    assert np.isnan(y).sum() == 1
    np.testing.assert_array_equal(x[~np.isnan(y)], history["step"])
    np.testing.assert_array_equal(y[~np.isnan(y)], history["residual"])
    assert np.flatnonzero(np.isnan(y)).tolist() == [5]


def test_phase_changes_and_restarts_are_marked_at_their_steps(tmp_path):
    drawn = training_curves(_history())
    assert drawn.phase_changes == (40.0, 50.0, 80.0)
    assert drawn.restarts == (50.0,)
    assert [t.get_text() for t in drawn.legend.get_texts()] == ["train", "fine-tune", "restart"]
    save(drawn.figure, tmp_path / "training.png")


def test_every_column_has_a_line():
    history = _history()
    drawn = training_curves(history)
    segments = drawn.column_norms.get_segments()
    assert len(segments) == 4
    np.testing.assert_allclose(segments[1][:5, 1], history["column_norms"][:5, 1])


def test_numbered_phases_are_named():
    drawn = training_curves(_history() | {"phase": np.array([0] * 9 + [1])})
    assert [t.get_text() for t in drawn.legend.get_texts()][:2] == ["phase 0", "phase 1"]


def test_a_residual_that_is_not_finite_leaves_a_gap_and_a_cross():
    history = {"step": np.arange(4), "residual": np.array([1.0, 0.5, np.nan, np.inf])}
    drawn = training_curves(history)
    assert np.isnan(drawn.residual.get_ydata()).tolist() == [False, False, True, True]
    np.testing.assert_array_equal(drawn.not_finite.get_xdata(), [2, 3])


def test_a_history_of_one_step_or_of_failures_only_is_drawn(tmp_path):
    one = training_curves({"step": [0], "residual": [1.0]})
    failed = training_curves({"step": [0, 1], "residual": [np.nan] * 2})
    assert one.not_finite is None
    assert failed.not_finite is not None
    np.testing.assert_array_equal(failed.not_finite.get_xdata(), [0, 1])
    for name, drawn in (("one.png", one), ("none.png", failed)):
        save(drawn.figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": []}, "at least one entry"),
        ({"residual": np.ones(3)}, "expected 10 entries"),
        ({"attempt": np.ones(3)}, "expected 10 entries"),
        ({"step": np.zeros(10) - np.arange(10)}, "must not decrease"),
        ({"column_norms": np.ones(10)}, r"\[t, k\]"),
    ],
)
def test_wrong_histories_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        training_curves(_history() | change)


def test_a_history_without_residual_is_refused():
    with pytest.raises(ValueError, match="residual"):
        training_curves({"step": [0, 1]})


def test_the_wrong_number_of_axes_is_refused():
    with pytest.raises(ValueError, match="expected 3, got 1"):
        training_curves(_history(), axes=[new_figure().subplots()])
