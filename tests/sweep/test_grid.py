import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.sweep.grid import cells, make_grid
from pruneft.sweep.gridfile import load_toml
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


def _file(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_grid_file_is_read(tmp_path):
    text = '\ufeffexperiment = "toy"\nrun = "first"\nseeds = 3\n[grid]\na = [1, 2.0]\nb = 4\nmode = "plain"\n'
    read = load_toml(_file(tmp_path, text), ["toy", "other"])
    assert (read.experiment, read.run, read.seeds) == ("toy", "first", 3)
    assert make_grid(TOY, read.axes, read.seeds).axes == {"a": (1, 2), "b": (4.0,), "mode": ("plain",)}


def test_an_empty_grid_file_says_nothing(tmp_path):
    read = load_toml(_file(tmp_path, ""))
    assert (read.experiment, read.run, read.seeds, read.axes) == (None, None, None, {})


def test_a_module_may_stand_in_a_grid_file(tmp_path):
    assert load_toml(_file(tmp_path, 'experiment = "mine:exp"'), ["toy"]).experiment == "mine:exp"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 3", "unknown key 'seed'. Did you mean 'seeds'"),
        ("a = 3", "unknown key 'a'.*grid"),
        ("experiment = 3", "experiment must be a name"),
        ('experiment = "tyo"', "unknown experiment 'tyo'. Did you mean 'toy'"),
        ("seeds = 1.5", "--seeds"),
        ("seeds = true", "--seeds"),
        ("grid = 3", "grid must be a table"),
        ("[grid]\na = [[1]]", "a in .grid. must be"),
        ("[grid]\na = {x = 1}", "a in .grid. must be"),
        ("[grid]\na = [true]", "a in .grid. must be"),
        ("[grid]\na = 2020-01-01", "a in .grid. must be"),
        ("a = = 3", "not a TOML file"),
        (b"\xff\xfe\x00", "not a TOML file"),
    ],
)
def test_a_faulty_grid_file_is_refused(tmp_path, text, message):
    with pytest.raises(GridError, match=message):
        load_toml(_file(tmp_path, text), ["toy"])


def test_a_grid_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(GridError, match="cannot read the grid file"):
        load_toml(tmp_path / "none.toml")
    with pytest.raises(GridError, match="cannot read the grid file"):
        load_toml(tmp_path)
    path = _file(tmp_path, "seeds = 1")
    path.chmod(0)
    if not os.access(path, os.R_OK):  # not for root
        with pytest.raises(GridError, match="Permission denied"):
            load_toml(path)
