import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.sweep.grid import cells, make_grid
from pruneft.sweep.values import GridError, check_values, parse_values
from pruneft.trial import Axis
from tests.sweep.toy import AXES, TOY, resolve

A, B, GAIN, MODE = AXES
RATIO = Axis(name="a_per_unit", default=None, kind="derived", type=float)


def _with_ratio(**default_grid):
    """The toy with an axis a_per_unit that resolves into a = 10 a_per_unit."""

    def resolve_ratio(cell):
        cell = dict(cell)
        ratio = cell.pop("a_per_unit", None)
        return resolve(cell if ratio is None else {**cell, "a": int(10 * ratio)})

    return dataclasses.replace(TOY, axes=(*AXES, RATIO), resolve=resolve_ratio, default_grid=default_grid)


def test_lists_are_read_in_the_type_of_the_axis():
    assert parse_values(A, "1, 2,3") == (1, 2, 3)
    assert parse_values(A, "1e3,4.0") == (1000, 4)
    assert all(type(value) is int for value in parse_values(A, "1e3,4.0"))
    assert parse_values(B, "1,.5") == (1.0, 0.5)
    assert parse_values(MODE, "squared, plain") == ("squared", "plain")


def test_a_range_has_as_many_values_as_it_says_and_both_ends():
    assert parse_values(B, "1.0:3.0:5") == (1.0, 1.5, 2.0, 2.5, 3.0)
    assert parse_values(A, "4:20:5") == (4, 8, 12, 16, 20)
    assert parse_values(A, "20:4:5") == (20, 16, 12, 8, 4)
    assert parse_values(B, "1:2:3,5") == (1.0, 1.5, 2.0, 5.0)


def test_values_inside_a_range_are_the_decimals_a_user_would_type():
    assert parse_values(B, "1:1.3:4") == parse_values(B, "1,1.1,1.2,1.3")
    assert parse_values(B, "0.1:0.7:7") == parse_values(B, "0.1,0.2,0.3,0.4,0.5,0.6,0.7")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_what_is_written_by_repr_is_read_back(values):
    assert parse_values(B, ",".join(map(repr, values))) == tuple(values)


@given(st.integers(-100, 100), st.integers(-9, 9), st.integers(2, 9))
@settings(max_examples=50, deadline=None)
def test_a_whole_number_range_is_read_back(start, step, count):
    stop = start + step * (count - 1)
    assert parse_values(A, f"{start}:{stop}:{count}") == tuple(start + step * i for i in range(count))


@pytest.mark.parametrize(
    ("axis", "text"),
    [
        *[(A, text) for text in ("", " , ", "1,,2", "two", "1.5", "nan", "inf", "1e30", "True", "0x10")],
        *[
            (B, text)
            for text in ("", "nan", "-inf", "1e999", "1;2", "1:2", "1:2:3:4", "1:2:1", "1:2:0", "1:2:1.5", "1:x:3")
        ],
        *[(B, text) for text in ("0:1:1000000000", "nan:1:3", "1::3")],
        (A, "4:20:4"),
        (MODE, "plane"),
        (MODE, ""),
    ],
)
def test_what_is_not_a_value_is_refused_by_the_name_of_its_flag(axis, text):
    with pytest.raises(GridError, match=f"--{axis.name}: "):
        parse_values(axis, text)


def test_a_count_that_was_meant_as_a_step_is_explained():
    with pytest.raises(GridError, match=r"For steps of 4 write 4:20:5"):
        parse_values(A, "4:20:4")


def test_a_misspelt_choice_is_answered_with_the_nearest():
    with pytest.raises(GridError, match="Did you mean 'squared'"):
        parse_values(MODE, "square")


def test_flags_are_spelt_with_dashes():
    with pytest.raises(GridError, match="--a-per-unit"):
        parse_values(RATIO, "x")


def test_python_values_may_be_scalars_ranges_and_arrays():
    assert check_values(A, 3) == (3,)
    assert check_values(A, range(1, 4)) == (1, 2, 3)
    assert check_values(A, np.array([2.0, 3.0])) == (2, 3)
    assert check_values(A, [np.int64(2), 3.0]) == (2, 3)
    assert check_values(B, np.linspace(0, 1, 3)) == (0.0, 0.5, 1.0)
    assert check_values(MODE, "plain") == ("plain",)
    assert all(type(value) is int for value in check_values(A, np.array([2.0, 3.0])))


@pytest.mark.parametrize("value", [True, np.True_, 1.5, "1", None, float("nan"), 2.0**60, {"x": 1}, [[1]], 1j])
def test_python_values_of_the_wrong_kind_are_refused(value):
    with pytest.raises(GridError, match="--a: "):
        check_values(A, value)


@pytest.mark.parametrize("value", [False, "x", float("inf"), 10**400])
def test_real_axes_take_finite_numbers_only(value):
    with pytest.raises(GridError, match="--b: "):
        check_values(B, [1.0, value])


def test_given_axes_replace_those_of_the_default_grid():
    grid = make_grid(TOY, {"mode": ["plain", "squared"], "a": 3}, seeds=2)
    assert grid.axes == {"a": (3,), "b": (5.0, 10.0), "mode": ("plain", "squared")}
    assert grid.seeds == 2
    assert make_grid(TOY).seeds == TOY.default_seeds


def test_the_grid_does_not_depend_on_the_order_of_the_flags():
    one = make_grid(TOY, {"b": 1.0, "a": (1, 2)})
    two = make_grid(TOY, {"a": (1, 2), "b": 1.0})
    assert list(one.axes) == list(two.axes)
    assert cells(TOY, one) == cells(TOY, two)


def test_a_derived_default_gives_way_to_the_axis_it_stands_for_and_the_other_way_round():
    assert "a_per_unit" not in make_grid(_with_ratio(a_per_unit=(1.0, 2.0)), {"a": 7}).axes
    assert "a" not in make_grid(_with_ratio(a=(1, 2)), {"a_per_unit": 0.5}).axes
    assert make_grid(_with_ratio(a_per_unit=(1.0, 2.0)), {"b": 7}).axes["a_per_unit"] == (1.0, 2.0)


def test_an_axis_given_both_directly_and_derived_is_refused():
    with pytest.raises(GridError, match="--a-per-unit and --a both set a"):
        make_grid(_with_ratio(), {"a": 7, "a_per_unit": 0.5})


@pytest.mark.parametrize("seeds", [0, -1, 1.5, True, "3", float("nan"), float("inf")])
def test_a_number_of_seeds_that_counts_nothing_is_refused(seeds):
    with pytest.raises(GridError, match="--seeds"):
        make_grid(TOY, seeds=seeds)


def test_an_unknown_axis_is_answered_with_the_nearest():
    with pytest.raises(GridError, match=r"no axis 'gian'\. Did you mean 'gain'"):
        make_grid(TOY, {"gian": 1})


def test_an_axis_without_values_is_refused():
    with pytest.raises(GridError, match="empty grid: --a has no values"):
        make_grid(TOY, {"a": []})


def test_cells_are_the_product_in_order_with_the_defaults_filled_in():
    found = cells(TOY, make_grid(TOY, {"a": [1, 2], "b": [3.0, 4.0]}))
    assert [(cell["a"], cell["b"]) for cell in found] == [(1, 3.0), (1, 4.0), (2, 3.0), (2, 4.0)]
    assert all(cell["mode"] == "plain" and cell["gain"] == 0.5 for cell in found)


def test_a_cell_that_comes_up_twice_is_kept_once():
    experiment = _with_ratio()
    found = cells(experiment, make_grid(experiment, {"a_per_unit": [0.2, 0.25, 0.3], "b": [1, 1.0]}))
    assert [cell["a"] for cell in found] == [2, 3]


def test_a_cell_that_makes_no_sense_is_shown():
    with pytest.raises(GridError, match=r"cell \(a=0, b=5.0\): a \(length"):
        cells(TOY, make_grid(TOY, {"a": [1, 0]}))


def _pairs(experiment, grid, *names):
    return [tuple(cell[name] for name in names) for cell in cells(experiment, grid)]


def test_axes_that_are_zipped_move_together_and_the_others_are_multiplied():
    grid = make_grid(TOY, {"a": [1, 2, 3], "b": [5.0, 6.0, 7.0], "gain": [0.1, 0.2]}, 1, zipped=[("b", "a")])
    assert grid.points == 6
    assert _pairs(TOY, grid, "a", "b", "gain") == [
        (1, 5.0, 0.1),
        (1, 5.0, 0.2),
        (2, 6.0, 0.1),
        (2, 6.0, 0.2),
        (3, 7.0, 0.1),
        (3, 7.0, 0.2),
    ]


def test_two_groups_of_zipped_axes_are_multiplied_with_each_other():
    axes = {"a": [1, 2], "b": [5.0, 6.0], "gain": [0.1, 0.2], "mode": ["plain", "squared"]}
    grid = make_grid(TOY, axes, 1, zipped=[("a", "gain"), ("b", "mode")])
    assert _pairs(TOY, grid, "a", "gain", "b", "mode") == [
        (a, gain, b, mode) for a, gain in ((1, 0.1), (2, 0.2)) for b, mode in ((5.0, "plain"), (6.0, "squared"))
    ]


@pytest.mark.parametrize(
    ("zipped", "message"),
    [
        ([("a", "b")], r"--zip a, b: .*a has 3, b has 2"),
        ([("a",)], "at least two axes move together, got 1"),
        ([("a", "gain")], r"gain has no values. Give them: --gain VALUES"),
        ([("a", "a")], "a already moves with other axes"),
        ([("a", "mode"), ("mode", "b")], "mode already moves with other axes"),
        ([("a", "gian")], "no axis 'gian'. Did you mean 'gain'"),
    ],
)
def test_axes_that_cannot_move_together_are_refused(zipped, message):
    with pytest.raises(GridError, match=message):
        make_grid(TOY, {"a": [1, 2, 3], "b": [5.0, 6.0], "mode": ["plain", "squared", "plain"]}, 1, zipped=zipped)


def test_listed_cells_alone_are_the_grid_and_beside_axes_they_are_added():
    listed = [{"a": 7}, {"a": 9, "b": 6.0}]
    alone = make_grid(TOY, seeds=2, listed=listed)
    assert (alone.points, _pairs(TOY, alone, "a", "b")) == (2, [(7, 10.0), (9, 6.0)])
    beside = make_grid(TOY, {"a": 7, "b": 10.0}, listed=listed)
    assert _pairs(TOY, beside, "a", "b") == [(7, 10.0), (9, 6.0)]  # the one that comes up twice is kept once


def test_a_grid_of_one_cell_is_a_grid():
    assert len(cells(TOY, make_grid(TOY, {"a": 3, "b": 5.0}, 1))) == 1
    assert len(cells(TOY, make_grid(TOY, listed=[{}]))) == 1


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([], "the list of cells is empty"),
        ([{"gian": 1}], "no axis 'gian'"),
        ([{"a": [1, 2]}], "a listed cell has one value on each axis: a has 2"),
        ([{"a": []}], "a has 0"),
        ([{"a": 1.5}], "--a: expected whole numbers"),
        ([{"a": 1, "a_per_unit": 0.5}], "--a-per-unit and --a both set a: got 0.5 and 1"),
    ],
)
def test_listed_cells_that_make_no_sense_are_refused(listed, message):
    with pytest.raises(GridError, match=message):
        make_grid(_with_ratio(), listed=listed)


def test_an_axis_may_be_a_formula_of_the_others_defaults_included():
    grid = make_grid(TOY, {"a": "=1.5*b", "b": [2.0, 3.0], "gain": ["=1/b", 0.5]}, 1)
    assert _pairs(TOY, grid, "b", "a", "gain") == [(2.0, 3, 0.5), (3.0, 4, 1 / 3), (3.0, 4, 0.5)]
    assert _pairs(TOY, make_grid(TOY, listed=[{"a": "=b"}]), "a") == [(10,)]


def test_a_function_of_the_cell_may_stand_for_the_values_of_any_axis():
    axes = {"a": [2, 30], "b": lambda cell: np.float64(cell["a"] / 4), "mode": [_mode]}
    assert _pairs(TOY, make_grid(TOY, axes, 1), "b", "mode") == [(0.5, "plain"), (7.5, "squared")]


def _mode(cell):
    return "squared" if cell["a"] > 10 else "plain"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"a": "=3*c"}, r"--a: =3\*c reads 'c', which is no axis"),
        ({"a": "=mode"}, "reads mode, whose values are names"),
        ({"a": "=os.path"}, "--a: a formula is arithmetic"),
        ({"a": "=b", "b": "=a"}, r"cell \(a==b, b==a\): the formulas go in a circle: a -> b -> a"),
        ({"a": "=1/(b-5)", "b": 5.0}, r"cell .*: a: =1/\(b-5\) cannot be computed: (float )?division by zero"),
        ({"gain": "=a*10**308*10**308"}, "--gain: expected finite numbers, got inf from its formula"),
        ({"mode": lambda cell: "plane"}, "--mode: expected one of plain, squared"),
        ({"b": lambda cell: None}, "--b: expected finite numbers, got None"),
    ],
)
def test_formulas_that_make_no_sense_are_refused(axes, message):
    with pytest.raises(GridError, match=message):
        cells(TOY, make_grid(TOY, axes, 1))


def test_a_formula_reads_no_derived_axis_that_the_grid_does_not_give():
    experiment = dataclasses.replace(_with_ratio(), axes=(*AXES, dataclasses.replace(RATIO, default=1.0)))
    with pytest.raises(GridError, match="b is a function of a_per_unit, which has no value here"):
        cells(experiment, make_grid(experiment, {"a": 3, "b": "=a_per_unit"}, 1))
    assert _pairs(experiment, make_grid(experiment, {"a_per_unit": 0.5, "b": "=a_per_unit"}, 1), "b") == [(0.5,)]


def test_commas_inside_parentheses_do_not_separate_values():
    grid = make_grid(TOY, {"a": parse_values(A, "=min(2, b),5,=max(b,(7))"), "b": 6.0}, 1)
    assert _pairs(TOY, grid, "a") == [(2,), (5,), (7,)]


def test_the_spec_of_a_grid_goes_through_json_and_makes_the_same_grid():
    grid = make_grid(
        TOY,
        {"a": [1, 2], "b": ["=2*a", 7.0], "gain": [0.1, 0.2]},
        3,
        zipped=[("a", "gain")],
        listed=[{"a": 5, "b": "=a"}],
    )
    spec = json.loads(json.dumps(grid.spec()))
    again = make_grid(TOY, spec["axes"], spec["seeds"], zipped=spec["zip"], listed=spec["cells"])
    assert again == grid
    assert again.describe() == grid.describe()
    plain = make_grid(TOY)
    spec = plain.spec()
    assert make_grid(TOY, spec["axes"], spec["seeds"], zipped=spec["zip"], listed=spec["cells"]) == plain


def test_a_grid_is_described_in_one_line():
    grid = make_grid(
        TOY,
        {"a": range(1, 21), "b": "=2*a", "gain": [0.1, 0.2], "mode": ["plain", "squared"]},
        1,
        zipped=[("mode", "gain")],
    )
    assert grid.describe() == (
        "a = 1, 2, 3, ..., 20 (20 values); b = =2*a; (mode, gain) = ('plain', 0.1), ('squared', 0.2); 1 seed"
    )
    assert make_grid(TOY, seeds=3, listed=[{"a": 1}]).describe() == "1 listed cell; 3 seeds"
    assert "=function tests.sweep.test_grid._mode" in make_grid(TOY, {"mode": _mode}).describe()


def test_more_trials_than_a_plan_holds_are_refused_before_they_are_made():
    with pytest.raises(GridError, match="the grid has 4000000 trials: at most 2000000"):
        cells(TOY, make_grid(TOY, {"a": range(1, 2001), "b": 5.0}, 2000))
