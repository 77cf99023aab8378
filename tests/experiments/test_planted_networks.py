"""The experiment on trained networks: the instances of the convex experiment, reports that fit together, its figure."""

import jax
import numpy as np
import pytest

from pruneft.experiments import load, planted_figure
from pruneft.experiments.planted import PLANTED
from pruneft.experiments.planted_networks import PLANTED_NETWORKS
from pruneft.experiments.planted_recipes import RECIPES, cells
from pruneft.sweep.local import Settings, run_tasks
from pruneft.sweep.plan import Task
from pruneft.trial import Bucket, wrap_key

CELL = {"d": 3, "n": 12, "neurons": 3, "steps": 600}


def _bucket(experiment, cell):
    static = tuple((axis.name, cell[axis.name]) for axis in experiment.axes if axis.type is str)
    return Bucket(sizes=tuple(experiment.sizes(cell).items()), static=static)


def _drawn(experiment, cell):
    values = {name: np.float64(value) for name, value in experiment.inputs(cell).items()}
    draw = experiment.trial(_bucket(experiment, cell)).draw
    return jax.jit(lambda: draw(wrap_key(experiment.key_data(cell, 0)), values).planted)()


def test_both_experiments_meet_the_same_instances():
    ours = _drawn(PLANTED_NETWORKS, PLANTED_NETWORKS.resolve(CELL))
    theirs = _drawn(PLANTED, PLANTED.resolve({"d": 3, "n": 12}))
    for name in ("X", "y", "w", "fresh"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6)


def test_networks_are_trained_pruned_and_drawn():
    assert load("planted-networks") is PLANTED_NETWORKS
    cell = PLANTED_NETWORKS.resolve(CELL)
    task = Task(bucket=_bucket(PLANTED_NETWORKS, cell), trials=tuple((cell, seed) for seed in range(4)))
    found = []
    run_tasks(PLANTED_NETWORKS, [task], Settings(lanes=4), lambda rows, _: found.extend(rows), lambda: False)
    rows = [{**row.cell, "seed": row.seed, **row.report} for row in found]
    for row in rows:
        assert row["neurons_left"] <= row["neurons_before"] <= 3
        assert row["success"] == (row["distance"] < 0.01)  # the planted weights have length 1
    assert any(row["success"] for row in rows)
    beside = [{**row, "gap": 0.0} for row in rows]
    left, middle, right = planted_figure.networks([*rows, *beside]).axes
    assert [line.get_label() for line in left.get_lines()] == ["AdamW", "pruned, fine-tuned", "convex"]
    assert [len(ax.get_lines()) for ax in (middle, right)] == [3, 2]


def test_cells_of_recipes_leave_out_what_cannot_be():
    for recipe in RECIPES.values():
        made = cells(recipe, full=True)
        assert all(PLANTED.resolve(cell) for cell in made)
    grid = cells(RECIPES["planted-recovery"], full=True)
    linear = [cell for cell in grid if cell["planted"] == "linear" and "weights" not in cell]
    assert len(linear) == 40 * 10
    assert not any(cell["model"] == "normalised" and cell["n"] < cell["d"] for cell in grid)
    with pytest.raises(ValueError, match="no cell is left"):
        cells(RECIPES["planted-recovery"]._replace(settings=({"model": "normalised"},)), d=(9,), ratios=(0.5,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 250}, "steps must be a positive multiple of 200: got 250"),
        ({"neurons": 0}, "neurons must be a positive multiple of 1: got 0"),
        ({"lam": -1.0}, "lam must be finite and not negative"),
        ({"n": 0}, "n must be a whole number of at least 1"),
        ({"tol": 0.1}, "unknown axis 'tol'"),
    ],
)
def test_cells_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PLANTED_NETWORKS.resolve({**CELL, **change})
