import math

import numpy as np
import pytest

from pruneft.experiments.recovery import RECOVERY
from pruneft.sensing.theory import dof
from pruneft.sweep import GridError, make_grid
from pruneft.sweep.adaptive_rows import adaptive_axis, grid_rows
from tests.sweep.bernoulli import BERNOULLI
from tests.sweep.toy import TOY


def _rows(experiment, axes, name=None):
    grid = make_grid(experiment, axes)
    return grid_rows(experiment, grid, adaptive_axis(experiment, grid, name))


def test_a_derived_axis_visits_every_whole_n_at_exactly_n_over_dof():
    rows = _rows(RECOVERY, {"d": 16, "r": [1, 2, 4], "n_per_dof": [1.0, 2.0]})
    assert [row.cell["r"] for row in rows] == [1, 2, 4]
    for row in rows:
        p = dof(16, row.cell["r"])
        assert [cell["n"] for cell in row.cells] == list(range(p, 2 * p + 1))
        np.testing.assert_allclose(row.x, [cell["n"] / p for cell in row.cells], rtol=1e-11)
        assert "n" not in row.cell


def test_a_direct_axis_visits_its_ends_and_takes_any_value_between():
    (row,) = _rows(TOY, {"a": 2, "b": [5.0, 10.0], "gain": 0.5, "mode": "plain"}, "b")
    assert (row.x[0], row.x[-1]) == (5.0, 10.0)
    assert [cell["b"] for cell in row.cells] == row.x.tolist()
    assert row.cell == {"a": 2, "gain": 0.5, "mode": "plain"}
    assert row.place({"a": 2, "gain": 0.5, "mode": "plain", "b": 6.123}) == 6.123
    assert row.place({"a": 2, "gain": 0.5, "mode": "plain", "b": 11.0}) is None
    assert row.place({"a": 3, "gain": 0.5, "mode": "plain", "b": 6.0}) is None


def test_cells_of_other_rows_have_no_place_on_this_one():
    first, second = _rows(BERNOULLI, {"half": [1.2, 1.6], "n_per_dof": [1.0, 2.0]})
    assert first.place(first.cells[3]) == first.x[3]
    assert first.place(second.cells[3]) is None


def test_rows_that_resolve_to_the_same_cells_are_one():
    assert len(_rows(RECOVERY, {"d": 16, "r": 2, "k": [16, 16], "n_per_dof": [1.0, 2.0]})) == 1


@pytest.mark.parametrize(
    ("axes", "name", "said"),
    [
        ({"n_per_dof": [1, 2]}, "n_per_dov", "has no axis 'n_per_dov'. Did you mean 'n_per_dof'?"),
        ({"n_per_dof": [1, 2]}, "dof", "--dof is an axis of int values: the axis to search along must be a float axis"),
        ({"n_per_dof": 1.5}, None, r"--n-per-dof: expected two values at least, the ends of the range to search, got \[1.5\]"),
        ({"n_per_dof": [1, 2]}, "half", r"--half: expected two values at least, .* got \[\]"),
        ({"n_per_dof": [1.0, 1.001]}, None, "--n-per-dof from 1 to 1.001 makes only one cell. Widen the range"),
        ({"n_per_dof": [0.01, 1.0]}, None, r"row \(all defaults\), n_per_dof from 0.01 to 1: n_per_dof must be at least 0.1"),
    ],
)  # fmt: skip
def test_an_axis_that_cannot_be_searched_is_refused(axes, name, said):
    with pytest.raises(GridError, match=said):
        _rows(BERNOULLI, axes, name)


def test_an_experiment_without_one_derived_axis_wants_the_axis_named():
    with pytest.raises(GridError, match=r"'toy' has 0 derived axes, .* must be named: one of b, gain"):
        _rows(TOY, {"b": [5.0, 10.0]})


def test_the_ends_of_the_range_may_touch_what_the_experiment_refuses():
    (row,) = _rows(BERNOULLI, {"n_per_dof": [0.1, 1.0], "dof": 10})
    assert row.cells[0]["n"] == 1
    assert math.isclose(row.x[-1], 1.0)
