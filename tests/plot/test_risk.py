import numpy as np
import pytest

from pruneft.plot import new_figure, risk_curve, save


def test_medians_and_quartiles_are_those_of_the_trials(tmp_path):
    rng = np.random.default_rng(0)
    x = [40, 80, 160]
    errors = {"a": [rng.exponential(size=9) + 0.1 for _ in x], "b": [rng.exponential(size=4) + 0.1 for _ in x]}
    drawn = risk_curve(x, errors, oracle=[0.3, 0.2, 0.1])
    for label, series in errors.items():
        np.testing.assert_allclose(drawn.medians[label].get_ydata(), [np.median(e) for e in series])
        corners = drawn.bands[label].get_paths()[0].vertices
        for at, e in zip(x, series, strict=True):
            heights = corners[np.isclose(corners[:, 0], at), 1]
            np.testing.assert_allclose([heights.min(), heights.max()], np.quantile(e, [0.25, 0.75]))
    np.testing.assert_array_equal(drawn.oracle.get_ydata(), [0.3, 0.2, 0.1])
    assert (drawn.axes.get_xscale(), drawn.axes.get_yscale()) == ("log", "log")
    assert drawn.medians["a"].get_marker() != drawn.medians["b"].get_marker()
    save(drawn.figure, tmp_path / "risk.png")


def test_points_are_drawn_in_ascending_order_whatever_order_they_come_in():
    drawn = risk_curve([100, 50], {"a": [[1.0], [2.0]]}, oracle=[0.1, 0.2])
    np.testing.assert_array_equal(drawn.medians["a"].get_xydata(), [[50, 2.0], [100, 1.0]])
    np.testing.assert_array_equal(drawn.oracle.get_ydata(), [0.2, 0.1])


def test_a_failed_trial_counts_as_an_infinite_error_and_is_reported():
    drawn = risk_curve([1, 2, 3], {"a": [[1.0, 2.0, np.nan], [1.0, np.nan, np.inf], []]})
    np.testing.assert_array_equal(drawn.medians["a"].get_ydata(), [2.0, np.nan, np.nan])
    assert drawn.not_finite == {"a": 3}
    assert drawn.legend.get_texts()[0].get_text() == "a (3 not finite)"


def test_one_point_is_enough(tmp_path):
    drawn = risk_curve([10], {"a": [[0.5, 0.6]]})
    np.testing.assert_allclose(drawn.medians["a"].get_ydata(), [0.55])
    save(drawn.figure, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 0


def test_it_draws_into_the_axes_it_is_given():
    ax = new_figure().subplots()
    assert risk_curve([10, 20], {"a": [[0.5], [0.1]]}, ax=ax).axes is ax


@pytest.mark.parametrize(
    ("x", "errors", "oracle", "message"),
    [
        ([], {"a": []}, None, "at least one entry"),
        ([1, 2], {}, None, "at least one method"),
        ([1, 2], {"a": [[1.0]]}, None, "expected 2 arrays"),
        ([0, 2], {"a": [[1.0], [1.0]]}, None, "positive numbers"),
        ([2, 2], {"a": [[1.0], [1.0]]}, None, "each once"),
        ([1, 2], {"a": [[1.0], [-1.0]]}, None, "negative"),
        ([1, 2], {"a": [[1.0], [1.0]]}, [1.0], "oracle"),
        ([1, 2], {"a": [[np.nan], []]}, None, "finite median"),
    ],
)
def test_wrong_input_is_refused(x, errors, oracle, message):
    with pytest.raises(ValueError, match=message):
        risk_curve(x, errors, oracle)
