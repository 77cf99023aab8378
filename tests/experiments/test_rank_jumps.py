"""The experiment on rank jumps: both methods from the same fit, reports of every phase, a figure with the control beside."""

import functools

import numpy as np
import pytest

from pruneft.experiments import load, rank_jumps_figure
from pruneft.experiments.rank_jumps import RANK_JUMPS
from pruneft.experiments.recipes import RECIPES
from pruneft.sweep import run_trials

SMALL = {"d": 4, "observed": 12, "width": 5, "norm": 3.0, "scale": 1.5, "first": 2000, "steps": 2000, "lam": 0.02}


@functools.cache
def _rows():
    trials = [(RANK_JUMPS.resolve({**SMALL, "method": method}), seed) for method in ("sgd", "gd") for seed in range(2)]
    rows = [row for batch in run_trials(RANK_JUMPS, trials, lanes=2) for row in batch]
    return sorted(
        ({**row.cell, "seed": row.seed, **row.report} for row in rows), key=lambda r: (r["method"], r["seed"])
    )


@pytest.mark.claims
def test_both_methods_begin_from_one_fit():
    assert load("rank-jumps") is RANK_JUMPS
    gd, sgd = _rows()[:2], _rows()[2:]
    for control, noisy in zip(gd, sgd, strict=True):
        assert (control["method"], noisy["method"]) == ("gd", "sgd")
        assert control["misfit_fitted"] < 0.01
        for name in ("rank_fitted", "beyond_fitted", "error_fitted", "misfit_fitted"):
            assert control[name] == pytest.approx(noisy[name], rel=1e-9)
        assert control["error_final"] != noisy["error_final"]


def test_success_is_a_rank_that_falls_to_the_true_one_and_stays():
    for row in _rows():
        jumped = row["rank_fitted"] > 1 and row["rank_decayed"] == 1 and row["rank_final"] == 1
        assert row["success"] == jumped
        assert row["beyond_decayed"] < row["beyond_fitted"]


def test_the_figure_shows_every_phase_of_both_methods():
    rows = [dict(row, lam=lam) for row in _rows() for lam in (1e-3, 1e-2)]
    figure = rank_jumps_figure.draw([*rows, *(dict(row, observed=14) for row in rows)])
    assert len(figure.axes) == 6
    first = figure.axes[0]
    labels = first.get_legend_handles_labels()[1]
    assert labels == [f"{name}, decay {lam}" for lam in ("0.001", "0.01") for name in ("SGD", "gradient descent")]
    medians = [line for line in first.get_lines() if not line.get_label().startswith("_")]
    expected = np.median([[row[f"rank_{phase}"] for phase in rank_jumps_figure.PHASES] for row in _rows()[2:]], axis=0)
    np.testing.assert_allclose(medians[0].get_ydata(), expected)
    with pytest.raises(ValueError, match="the run has eta = "):
        rank_jumps_figure.draw([*rows, dict(rows[0], eta=0.5)])
    with pytest.raises(ValueError, match="no finished trial"):
        rank_jumps_figure.draw([])


def test_every_cell_of_the_recipe_makes_sense():
    recipe = RECIPES["rank-jumps"]
    for cells in (recipe.cells, recipe.full):
        resolved = [RANK_JUMPS.resolve(cell) for cell in cells]
        # The control is always there: every cell of one method is one of the other.
        for method in ("sgd", "gd"):
            rest = [{k: v for k, v in row.items() if k != "method"} for row in resolved if row["method"] == method]
            assert len(rest) * 2 == len(resolved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1500}, "steps must be a positive multiple of 1000: got 1500"),
        ({"layers": 1}, "at least 2 layers"),
        ({"lam": 30.0}, r"below 1 / \(2 eta\): got 30.0"),
        ({"eta": 0.0}, "eta must be positive"),
        ({"method": "adam"}, "method must be one of sgd, gd"),
        ({"n": 3}, "unknown axis 'n'"),
    ],
)
def test_cells_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RANK_JUMPS.resolve(change)
