"""The experiment on planted neurons: decided by certificates, padding changes nothing, figures say what they show."""

import functools

import jax
import numpy as np
import pytest

from pruneft.experiments import load, planted_figure
from pruneft.experiments.planted import NEAR, PLANTED, trial
from pruneft.relu.planted import min_norm
from pruneft.status import Status
from pruneft.sweep.local import Settings, run_tasks
from pruneft.sweep.plan import Task
from pruneft.trial import Bucket, wrap_key

CELLS = {
    "linear": {"d": 4},
    "normalised": {"d": 3, "model": "normalised", "planted": "two", "weights": "antipodal"},
}
N_PER_D = (1.5, 3.0)


def _bucket(cells, **sizes):
    largest = {name: max(PLANTED.sizes(cell)[name] for cell in cells) for name in ("n", "d", "P")}
    static = tuple((axis.name, cells[0][axis.name]) for axis in PLANTED.axes if axis.type is str)
    return Bucket(sizes=tuple({**largest, **sizes}.items()), static=static)


@functools.cache
def _rows(name, n=None):
    P = 12
    cells = [PLANTED.resolve({**CELLS[name], "P": P, "n_per_d": ratio, "n": None}) for ratio in N_PER_D]
    bucket = _bucket(cells, **({} if n is None else {"n": n, "P": P + 2}))
    task = Task(bucket=bucket, trials=tuple((cell, seed) for cell in cells for seed in range(6)))
    rows = []
    run_tasks(PLANTED, [task], Settings(lanes=12), lambda found, _: rows.extend(found), lambda: False)
    found = [{**row.cell, "seed": row.seed, **row.report} for row in rows]
    return sorted(found, key=lambda row: (row["n"], row["seed"]))


def test_the_experiment_is_known():
    assert load("planted") is PLANTED


@pytest.mark.parametrize("name", CELLS)
def test_every_trial_is_decided_and_says_why(name):
    rows = _rows(name)
    assert {bool(row["success"]) for row in rows} == {True, False}
    for row in rows:
        assert not row["undecided"]
        lost = row["status"] == Status.NOT_IDENTIFIABLE  # a neuron that no sample switches on
        assert row["status"] == Status.CONVERGED or (lost and not row["success"])
        assert row["objective"] * (1 + 1e-12) >= row["dual"]
        if row["success"]:
            assert row["gap"] <= row["tol"]
            assert row["distance"] < NEAR * 4
            assert row["error"] < 1e-3
        else:
            assert row["distance"] > NEAR
        if row["nic"]:
            assert row["success"]


def test_a_linear_neuron_is_recovered_only_where_no_direction_switches_every_sample_on():
    for row in _rows("linear"):
        assert row["all_ones"] in (0, 1)
        if row["success"]:
            assert row["all_ones"] == 0
    assert any(row["all_ones"] == 1 for row in _rows("linear"))


def test_padding_changes_no_row():
    for one, two in zip(_rows("linear"), _rows("linear", 15), strict=True):
        for name in ("success", "nic", "all_ones", "patterns", "undecided"):
            assert one[name] == two[name], name
        np.testing.assert_allclose(one["isometry"], two["isometry"], rtol=1e-6)


def _with(state, **changes):
    return state._replace(best=state.best._replace(**changes))


def test_a_trial_that_the_budget_does_not_decide_is_undecided_and_no_failure():
    cell = PLANTED.resolve({"d": 4, "n": 12, "P": 12})
    made = trial(_bucket([cell]))
    values = {name: np.float64(value) for name, value in PLANTED.inputs(cell).items()}
    task = jax.jit(made.draw)(wrap_key(PLANTED.key_data(cell, 0)), values)
    state = jax.jit(made.init)(task)
    report = jax.jit(made.report)
    early = report(task, _with(state, iteration=state.best.iteration + 40_000))
    assert bool(early["undecided"])
    assert not bool(early["success"])
    assert int(early["status"]) == Status.BUDGET_SPENT
    assert bool(made.finished(task, _with(state, iteration=state.best.iteration + 40_000)))
    none = report(task, _with(state, infeasible=np.bool_(True)))
    assert int(none["status"]) == Status.INFEASIBLE
    # A point that is cheaper than any near the planted one refutes it, whatever its gap.
    cheap = report(task, _with(state, objective=task.least * 0.99))
    assert (bool(cheap["undecided"]), bool(cheap["success"])) == (False, False)
    lost = task._replace(planted=task.planted._replace(there=np.bool_(False)))
    assert int(report(lost, state)["status"]) == Status.NOT_IDENTIFIABLE
    answer = min_norm.solve(task.blocks, task.planted.y)
    assert float(answer.objective) <= float(task.cost) * (1 + 1e-8)


BAD = [
    ({"n": 12, "n_per_d": 2.0}, "give n or n_per_d, not both"),
    ({"n_per_d": -1.0}, "n_per_d .* must be positive"),
    ({"P": 0}, "or there is no pattern: got 0"),
    ({"sigma": -0.1}, "sigma must be finite and not negative"),
    ({"tol": 0.0}, "tol .* must be from 1e-12 to 1"),
    ({"planted": "four"}, "planted must be one of"),
    ({"kappa": 2}, "unknown axis 'kappa'"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_cells_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PLANTED.resolve({"d": 4, **change})


def test_figures_show_what_the_run_holds():
    linear, other = _rows("linear"), _rows("normalised")
    assert planted_figure.heat_map(linear).axes[0].get_title() == "skip, linear"
    lines = planted_figure.draw(linear).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["skip, linear", "no pattern of ones (Wendel)"]
    titles = [ax.get_title() for ax in planted_figure.isometry([*linear, *other]).axes]
    assert titles == ["normalised, two, antipodal, d = 3", "skip, linear, d = 4"]
    noisy = [{**row, "sigma": sigma} for row in linear for sigma in (0.0, 0.1)]
    left, right = planted_figure.draw(noisy).axes
    assert len(left.get_lines()) == len(right.get_lines()) == 2
    assert planted_figure.law_quantile(20, 0.5) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no finished trial"):
        planted_figure.draw([])
