"""The experiment on convex ReLU networks: trials are what `fit` finds, padding changes nothing, the figure says what it shows."""

import functools

import jax
import numpy as np
import pytest

from pruneft.experiments import load
from pruneft.experiments.relu import RELU, trial
from pruneft.experiments.relu_figure import draw
from pruneft.relu import admm, fit
from pruneft.status import Status
from pruneft.sweep.local import Settings, run_tasks
from pruneft.sweep.plan import Task
from pruneft.trial import Bucket, wrap_key

CELL = {"n": 13, "d": 3, "P": 6, "teacher": 2, "sigma": 0.1}


def _bucket(cell, **sizes):
    return Bucket(
        sizes=tuple({**RELU.sizes(cell), **sizes}.items()), static=(("loss", cell["loss"]), ("form", cell["form"]))
    )


@functools.cache
def _rows(n=13):
    cells = [RELU.resolve({**CELL, "lam_share": share, "tol": 1e-5}) for share in (0.05, 0.3, 2.0)]
    task = Task(bucket=_bucket(cells[0], n=n), trials=tuple((cell, seed) for cell in cells for seed in range(2)))
    rows = []
    run_tasks(RELU, [task], Settings(lanes=4), lambda found, _: rows.extend(found), lambda: False)
    found = [{**row.cell, "seed": row.seed, **row.report} for row in rows]
    return sorted(found, key=lambda row: (row["lam_share"], row["seed"]))


def test_the_experiment_is_known_and_its_trials_end_with_a_proof_of_their_gap():
    assert load("relu") is RELU
    for row in _rows():
        assert row["success"]
        assert row["gap"] <= 1e-5
        assert row["objective"] * (1 + 1e-12) >= row["dual"]
        assert row["status"] == (Status.ALL_ZERO if row["lam_share"] >= 1 else Status.CONVERGED)
        assert (row["neurons"] == 0) == (row["lam_share"] >= 1)


def test_padding_changes_no_row():
    for one, two in zip(_rows(), _rows(16), strict=True):
        assert one["patterns"] == two["patterns"]
        np.testing.assert_allclose([one["objective"], one["lam"]], [two["objective"], two["lam"]], rtol=2e-5)


def test_a_trial_is_the_fit_of_its_data():
    cell = RELU.resolve({**CELL, "tol": 1e-7})
    made = trial(_bucket(cell))
    values = {name: np.float64(value) for name, value in RELU.inputs(cell).items()}
    task = jax.jit(made.draw)(wrap_key(RELU.key_data(cell, 0)), values)
    program = task.program
    D = np.asarray(program.D)[:, np.any(np.asarray(program.D), axis=0)]
    found = fit(program.X, program.y, patterns=D, lam=float(program.lam), tol=1e-7)
    ours = admm.solve(program, tol=1e-7)
    assert int(ours.status) == Status.CONVERGED
    np.testing.assert_allclose(float(ours.objective), found.objective, rtol=3e-7)


def test_the_figure_shows_what_was_varied(tmp_path):
    titles = [ax.get_title() for ax in draw(_rows()).axes]
    assert titles == ["neurons", "error on fresh samples", "iterations"]
    several = [{**row, "tol": tol, "iterations": row["iterations"] + 20} for row in _rows() for tol in (1e-5, 1e-3)]
    assert [ax.get_title() for ax in draw(several).axes][3:] == [
        "certified relative gap",
        "objective",
        "error on fresh samples",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n must be a whole number"),
        ({"sigma": -1.0}, "sigma must be finite and not negative"),
        ({"lam_share": 0.0}, "lam_share must be finite and positive"),
        ({"loss": "huber"}, "loss must be one of"),
        ({"m": 3}, "unknown axis"),
    ],
)
def test_cells_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RELU.resolve({**CELL, **change})


def test_a_figure_of_nothing_or_of_several_settings_is_refused():
    with pytest.raises(ValueError, match="no finished trial"):
        draw([])
    with pytest.raises(ValueError, match="one setting: the run has n = 13, 20"):
        draw([_rows()[0], {**_rows()[0], "n": 20}])
