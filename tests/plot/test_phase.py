import matplotlib
import numpy as np
import pytest

from pruneft.plot import Curve, new_figure, phase_diagram, phase_panels

RANKS = (1, 2, 3, 4, 6)
TRACE = Curve("trace minimisation", dict(zip(RANKS, (1.79, 1.56, 1.42, 1.33, 1.22), strict=True)))
FEASIBLE = Curve("PSD feasibility", dict(zip(RANKS, (4.75, 2.69, 2.0, 1.67, 1.34), strict=True)))


def _grid(rows=RANKS, xs=(1.0, 1.3, 1.6, 1.9, 2.2), trials=20):
    row, x = np.repeat(rows, len(xs)), np.tile(xs, len(rows))
    successes = np.round(trials / (1 + np.exp(-(x - 1.4) * 8)))
    return {"row": row, "x": x, "successes": successes, "trials": np.full(row.shape, trials)}


def test_every_cell_is_a_rectangle_with_the_colour_of_its_fraction():
    data = _grid()
    drawn = phase_diagram(**data)
    assert len(drawn.cells) == data["x"].size
    cividis = matplotlib.colormaps["cividis"]
    for cell, s, t in zip(drawn.cells, data["successes"], data["trials"], strict=True):
        assert cell.get_facecolor() == pytest.approx(cividis(s / t))
    assert drawn.colorbar.ax.get_ylabel() == "success probability"


def test_colours_grow_lighter_with_every_success():
    drawn = phase_diagram([1] * 11, np.arange(11.0), np.arange(11), [10] * 11)
    grey = [np.dot(c.get_facecolor()[:3], (0.2126, 0.7152, 0.0722)) for c in drawn.cells]
    assert (np.diff(grey) > 0).all()


def test_cells_meet_half_way_and_rows_keep_their_own_x_values():
    drawn = phase_diagram([2, 2, 2, 5, 5], [1.0, 1.2, 1.6, 1.1, 1.5], [0, 1, 2, 0, 2], [2] * 5, scale="linear")
    edges = [(c.get_x(), c.get_x() + c.get_width()) for c in drawn.cells]
    np.testing.assert_allclose(edges, [(0.9, 1.1), (1.1, 1.4), (1.4, 1.8), (0.9, 1.3), (1.3, 1.7)])
    assert [c.get_y() for c in drawn.cells] == [-0.5] * 3 + [0.5] * 2
    assert drawn.rows == (2, 5)
    assert [t.get_text() for t in drawn.axes.get_yticklabels()] == ["2", "5"]


def test_the_order_of_the_cells_does_not_matter():
    data = _grid()
    order = np.random.default_rng(0).permutation(data["x"].size)
    plain, mixed = phase_diagram(**data), phase_diagram(**{k: v[order] for k, v in data.items()})
    assert [plain.cells[i].get_bbox().bounds for i in order] == [c.get_bbox().bounds for c in mixed.cells]
    assert plain.transitions == mixed.transitions


def test_on_a_logarithmic_axis_cells_meet_at_the_geometric_mean():
    drawn = phase_diagram([1, 1, 1], [1.0, 4.0, 64.0], [0, 1, 2], [2, 2, 2])
    assert drawn.axes.get_xscale() == "log"
    assert drawn.cells[1].get_x() == pytest.approx(2.0)
    assert drawn.cells[1].get_x() + drawn.cells[1].get_width() == pytest.approx(16.0)


def test_labels_are_the_fractions_and_only_certainty_is_written_as_one_or_zero():
    drawn = phase_diagram([1] * 5, range(1, 6), [0, 1, 88, 999, 1000], [1000, 1000, 100, 1000, 1000])
    assert [t.get_text() for t in drawn.labels] == ["0", ".01", ".88", ".99", "1"]
    assert drawn.labels[0].get_color() == "white"
    assert drawn.labels[-1].get_color() == "black"


def test_labels_stay_in_their_cells_and_off_the_lines_where_there_is_room():
    drawn = phase_diagram([1, 1, 1], [1.0, 2.0, 3.0], [0, 2, 2], [2, 2, 2], curves=[Curve("c", {1: 2.0})])
    word, line = drawn.labels[1].get_window_extent(), drawn.axes.transData.transform((2.0, 0.0))[0]
    assert not word.x0 <= line <= word.x1
    cell = drawn.cells[1].get_window_extent()
    assert cell.x0 < word.x0
    assert word.x1 < cell.x1


def test_a_crowded_diagram_drops_its_labels():
    data = _grid(range(1, 21), np.linspace(1, 3, 20))
    drawn = phase_diagram(**data)
    assert len(drawn.cells) == 400
    assert drawn.labels == ()


def test_the_transition_is_interpolated_and_missing_where_success_never_crosses_one_half():
    row = [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    drawn = phase_diagram(row, [1, 2, 3] * 4, [0, 1, 4, 2, 3, 4, 0, 1, 1, 3, 0, 4], [4] * 12)
    # Row 1 passes from 1/4 to 1 between 2 and 3; row 2 is never below one half, row 3 never above; row 4 dips.
    assert drawn.transitions == pytest.approx({1: 2 + 1 / 3, 4: 2.5})
    assert [line.get_xdata()[0] for line in drawn.transition_lines] == pytest.approx([2 + 1 / 3, 2.5])
    np.testing.assert_allclose(drawn.transition_lines[1].get_ydata(), [2.5, 3.5])


def test_curves_stand_at_their_values_and_can_be_told_apart_without_colour():
    drawn = phase_diagram(**_grid(), curves=[TRACE, FEASIBLE])
    x, y = drawn.curves["trace minimisation"].get_data()
    for i, rank in enumerate(RANKS):
        assert list(x[2 * i : 2 * i + 2]) == [TRACE.values[rank]] * 2
        assert list(y[2 * i : 2 * i + 2]) == [i - 0.5, i + 0.5]
    first, second = drawn.curves.values()
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_color() != second.get_color()
    assert [t.get_text() for t in drawn.legend.get_texts()] == ["50 % success", TRACE.label, FEASIBLE.label]


def test_a_curve_beyond_the_range_has_an_arrow_in_that_row_only():
    drawn = phase_diagram(**_grid(), curves=[TRACE, FEASIBLE])
    # The cells end at 2.35: the feasibility curve is beyond in rows 1 and 2.
    assert set(drawn.arrows) == {(FEASIBLE.label, 1.0), (FEASIBLE.label, 2.0)}
    assert drawn.axes.get_xlim() == pytest.approx((0.85, 2.35))


def test_a_curve_that_is_nowhere_in_range_says_so_in_the_legend():
    drawn = phase_diagram(**_grid(), curves=[Curve("low", dict.fromkeys(RANKS, 0.1)), Curve("far", {1: np.inf})])
    texts = [t.get_text() for t in drawn.legend.get_texts()]
    assert texts[1:] == ["low (left of range)", "far (right of range)"]
    assert drawn.arrows == {}


def test_a_curve_has_a_gap_at_the_rows_it_does_not_cover():
    drawn = phase_diagram(**_grid(), curves=[Curve("c", {1: 1.5, 3: 1.4, 99: 1.0})])
    x = drawn.curves["c"].get_xdata()
    np.testing.assert_array_equal(np.isnan(x), [False, False, True, False, False, True, True])


def test_cells_that_never_ran_are_hatched_and_carry_no_number():
    drawn = phase_diagram([1, 1, 1], [1, 2, 3], [0, np.nan, 2], [2, 0, 2])
    assert [bool(c.get_hatch()) for c in drawn.cells] == [False, True, False]
    assert [t.get_text() for t in drawn.labels] == ["0", "1"]
    assert "not run" in [t.get_text() for t in drawn.legend.get_texts()]


@pytest.mark.parametrize("rows", [(3,), (1, 2, 3)])
@pytest.mark.parametrize("xs", [(1.5,), (1.2, 1.5)])
def test_one_row_or_one_x_is_enough(rows, xs):
    drawn = phase_diagram(**_grid(rows, xs))
    assert len(drawn.cells) == len(drawn.labels) == len(rows) * len(xs)
    assert all(c.get_width() > 0 for c in drawn.cells)


def test_a_diagram_in_which_nothing_ran_is_drawn():
    drawn = phase_diagram([1, 2], [1, 1], [0, 0], [0, 0])
    assert drawn.labels == ()
    assert drawn.transitions == {}


def test_rows_may_be_named():
    drawn = phase_diagram(["scaled", "scaled", "plain", "plain"], [1, 2, 1, 2], [0, 1, 0, 1], [1] * 4)
    assert drawn.rows == ("scaled", "plain")


def test_it_draws_into_the_axes_it_is_given():
    figure = new_figure(7.0, 3.0)
    left, right = figure.subplots(1, 2)
    drawn = phase_diagram(**_grid(), ax=right)
    assert drawn.axes is right
    assert drawn.figure is figure
    assert not left.patches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": [], "x": [], "successes": [], "trials": []}, "at least one entry"),
        ({"x": [1.0]}, "equally long"),
        ({"x": [1.0, np.nan]}, "finite"),
        ({"successes": [3, 0]}, "0 <= successes <= trials"),
        ({"successes": [-1, 0]}, "0 <= successes <= trials"),
        ({"successes": [np.nan, 0]}, "0 <= successes <= trials"),
        ({"trials": [-2, 2]}, "0 <= successes <= trials"),
        ({"x": [1.0, 1.0]}, "same row and x"),
        ({"row": [1, np.nan]}, "finite"),
        ({"scale": "cubic"}, "'auto', 'linear' or 'log'"),
        ({"scale": "log", "x": [0.0, 1.0]}, "positive x"),
        ({"curves": [Curve("c", {1: np.nan})]}, "expected numbers, got NaN"),
    ],
)
def test_wrong_input_is_refused_with_what_was_expected(change, message):
    good = {"row": [1, 1], "x": [1.0, 2.0], "successes": [0, 2], "trials": [2, 2]}
    with pytest.raises(ValueError, match=message):
        phase_diagram(**good | change)


def test_panels_share_one_colour_bar_one_legend_and_the_styles_of_the_curves():
    grid = _grid((1, 2, 3))
    panels = {"a": {**grid, "curves": [TRACE, FEASIBLE]}, "b": {**grid, "curves": [FEASIBLE]}, "c": grid}
    drawn = phase_panels(panels, title="all")
    assert list(drawn.diagrams) == ["a", "b", "c"]
    assert [d.axes.get_title() for d in drawn.diagrams.values()] == ["a", "b", "c"]
    assert len(drawn.figure.axes) == 4
    one, other = (drawn.diagrams[name].curves[FEASIBLE.label] for name in "ab")
    assert (one.get_color(), one.get_linestyle()) == (other.get_color(), other.get_linestyle())
    assert [t.get_text() for t in drawn.legend.get_texts()] == ["50 % success", TRACE.label, FEASIBLE.label]
    assert all(len(d.labels) == 15 for d in drawn.diagrams.values())


def test_panels_refuse_nothing_and_unknown_arguments():
    with pytest.raises(ValueError, match="at least one panel"):
        phase_panels({})
    with pytest.raises(ValueError, match="panel 'a'"):
        phase_panels({"a": {**_grid(), "colour": 1}})
    with pytest.raises(ValueError, match="columns"):
        phase_panels({"a": _grid()}, columns=0)
