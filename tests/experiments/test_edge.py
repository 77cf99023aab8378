"""The experiment at the edge of stability: one tracked run a trial; figures say what they show."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from pruneft.experiments import edge_figure, edge_recipes, load
from pruneft.experiments.edge import EDGE, columns, trial
from pruneft.status import Status
from pruneft.sweep.local import Settings, run_tasks
from pruneft.sweep.plan import Task
from pruneft.trial import Bucket, wrap_key

CELL = {"m": 8, "d": 4, "r": 1, "steps": 12}
QUICK = dataclasses.replace(EDGE, trial=functools.partial(trial, flow=150))


def _bucket(cell):
    static = tuple((axis.name, cell[axis.name]) for axis in EDGE.axes if axis.type is str)
    return Bucket(sizes=tuple(EDGE.sizes(cell).items()), static=static)


@functools.cache
def _rows():
    cells = [EDGE.resolve({**CELL, "f": f, "lam": lam}) for f in (0.9, 0.97) for lam in (0.0, 0.01)]
    task = Task(bucket=_bucket(cells[0]), trials=tuple((cell, seed) for cell in cells for seed in range(2)))
    rows = []
    run_tasks(QUICK, [task], Settings(lanes=8), lambda found, _: rows.extend(found), lambda: False)
    return [{**row.cell, "seed": row.seed, **row.report} for row in rows]


@pytest.mark.claims
def test_the_experiment_is_known_and_every_trial_ends_with_a_status():
    assert load("edge") is EDGE
    rows = _rows()
    assert len(rows) == 8
    for row in rows:
        assert row["status"] in (Status.CONVERGED, Status.OUT_OF_DOMAIN, Status.NOT_FINITE, Status.BUDGET_SPENT)
        assert row["eta"] == pytest.approx(2 / (row["f"] * row["peak"]), rel=1e-12)
        assert 1 <= row["columns"] <= 4
        assert 0 <= row["inside"] <= 12
        if row["success"]:
            assert row["x"] >= 0.99
            assert 0.8 <= row["amplitude"] <= 1.25


@pytest.mark.claims
def test_methods_meet_the_same_instances():
    # The peak of the sharpness depends on data and penalty, not on the step size.
    peaks = {(row["lam"], row["seed"], row["f"]): row["peak"] for row in _rows()}
    for lam in (0.0, 0.01):
        for seed in range(2):
            assert peaks[lam, seed, 0.9] == pytest.approx(peaks[lam, seed, 0.97], rel=1e-12)
    assert peaks[0.0, 0, 0.9] != pytest.approx(peaks[0.0, 1, 0.9], rel=1e-3)


def test_columns_count_those_that_share_the_weight():
    U = np.zeros((3, 5))
    U[:, :2] = 1
    assert float(columns(U)) == pytest.approx(2)


def test_the_other_problems_draw():
    for problem, params in (("quadratic", 100), ("digits", 975)):
        cell = EDGE.resolve({"problem": problem})
        made = trial(_bucket(cell)).draw(
            wrap_key(EDGE.key_data(cell, 0)), {k: np.float64(v) for k, v in EDGE.inputs(cell).items()}
        )
        assert sum(leaf.size for leaf in jax.tree.leaves(made.problem.params)) == params


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ({"eta": 0.1}, "unknown axis 'eta'"),
        ({"problem": "mnist"}, "problem must be one of sensing, quadratic, digits: got 'mnist'"),
        ({"f": 1.2}, "f must be above 0 and at most 1: got 1.2"),
        ({"f": float("nan")}, "f must be finite"),
        ({"m": 0}, "m must be a whole number of at least 1: got 0"),
        ({"r": 11}, "r .true rank. must be at most d"),
        ({"problem": "digits", "lam": 0.1}, "digits take lam = 0"),
        ({"problem": "digits", "r": 1}, "from 2 to 10: got 1"),
    ],
)
def test_cells_that_make_no_sense_are_refused(cell, says):
    with pytest.raises(ValueError, match=says):
        EDGE.resolve(cell)


@pytest.mark.claims
def test_a_run_over_the_weight_draws_columns_and_over_the_step_size_correlations():
    figure = edge_figure.draw(_rows())
    assert figure.axes[0].get_ylabel() == "columns that share the weight"
    plain = [row for row in _rows() if row["lam"] == 0]
    figure = edge_figure.draw(plain)
    above, below = figure.axes
    assert above.get_title() == "sensing"
    assert len(above.lines) == 4
    shown = below.lines[0].get_xydata()
    np.testing.assert_array_equal(shown[:, 0], [0.9, 0.97])
    assert shown[0, 1] == pytest.approx(np.median([row["edge"] for row in plain if row["f"] == 0.9]))
    with pytest.raises(ValueError, match="one weight of the penalty"):
        edge_figure.step_size(_rows())
    with pytest.raises(ValueError, match="no finished trial"):
        edge_figure.draw([])


def test_a_history_shows_the_run_its_prediction_and_where_the_theory_ends():
    steps = np.arange(6.0)
    names = ("loss", "sharpness")
    seen = {name + kind: steps + i for i, kind in enumerate(("", "_constrained", "_predicted")) for name in names}
    seen |= {"x": -steps, "x_predicted": steps, "distance": steps, "distance_predicted": steps / 2}
    figure = edge_figure.history({**seen, "eta": np.float64(0.5), "inside": np.int32(4)})
    loss, sharp, out, away = figure.axes
    np.testing.assert_array_equal(out.lines[0].get_ydata(), [0, 1, -2, 3, -4, 5])  # every other sign is turned
    np.testing.assert_array_equal(out.lines[1].get_ydata(), [0, -1, 2, -3, 4, -5])
    assert 4.0 in sharp.lines[-1].get_ydata()  # 2 / eta
    assert len(loss.patches) == 1
    assert away.get_ylim()[0] == 0
    assert "outside the domain of the theory" in [text.get_text() for text in figure.legends[0].texts]


def test_the_stability_diagram_of_sgd_shows_shares_thresholds_and_the_control():
    seen = edge_recipes.diagram(steps=60, runs=2, places=6, batches=(1, 4))
    assert np.all(seen["exact"] <= np.minimum(seen["quartic"], seen["sharpness"]) * (1 + 1e-9))
    # The control is drawn beside SGD: at the largest step size it leaves too, at the smallest nothing does.
    assert (seen["control_escaped"][-1], seen["control_escaped"][0]) == (1, 0)
    figure = edge_figure.stability(seen)
    ax = figure.axes[0]
    shown = np.asarray(ax.collections[0].get_array())
    np.testing.assert_array_equal(shown, [*seen["escaped"].T, seen["control_escaped"]])
    labels = [line.get_label() for line in ax.lines]
    assert len(labels) == 4
    exact = ax.lines[0].get_xdata()
    assert exact == pytest.approx([*seen["exact"], seen["sharpness"][0]])


def test_recipes_name_functions_and_cells_that_exist():
    for sweep in edge_recipes.SWEEPS.values():
        assert callable(getattr(edge_figure, sweep.figure))
        for name, values in sweep.axes.items():
            for value in values:
                EDGE.resolve({name: value})
    assert {run.problem for run in edge_recipes.RUNS.values()} == {"sensing", "quadratic", "digits"}
