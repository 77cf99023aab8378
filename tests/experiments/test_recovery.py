import functools

import jax
import numpy as np
import pytest
from scipy import stats

from pruneft.experiments.recovery import experiment, resolve, sizes
from pruneft.sensing import PathRecipe, PruneRecipe, theory
from pruneft.status import Status
from pruneft.sweep import Ledger, make_grid, sweep
from pruneft.sweep.local import Settings, run_tasks
from pruneft.sweep.plan import Task
from pruneft.trial import Bucket

EXPERIMENT = experiment(prune=PruneRecipe(attempts=(1000,)), path=PathRecipe(starts=2, attempts=(100,)))
CERTIFIED = ("sigma_low", "sigma_high", "edge_ratio", "predicted_error")
PATH_ONLY = {"prune": (), "path": ("agreeing", "score_gap")}
KEYS = ("status", "rank", "success", "rank_exact", "steps")


@pytest.fixture(autouse=True)
def _lenient():
    # optax's Adam multiplies Python floats with int32 counters, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


BAD = [
    *(
        ({axis: bad}, rf"{axis} must be a whole number of at least 1: got")
        for axis in "ndkr"
        for bad in (0, -3, 2.5, True)
    ),
    ({"d": 4, "r": 5}, r"r \(true rank\) must not exceed d \(ambient dimension\): got r=5, d=4"),
    ({"k": 1, "r": 2}, r"k \(columns trained\) must be at least r \(true rank\): got k=1, r=2\. Raise k, or lower r"),
    *(({"n_per_dof": bad}, r"n_per_dof .* must be positive") for bad in (0.0, -1.0, float("inf"), float("nan"))),
    *(({"kappa": bad}, r"kappa .* must be at least 1") for bad in (0.5, 0.0, -2.0, float("inf"), float("nan"))),
    *(({"scale": bad}, r"scale .* must be positive") for bad in (0.0, -1.0, float("inf"))),
    *(({"sigma": bad}, r"sigma .* must not be negative") for bad in (-0.1, float("inf"), float("nan"))),
    *(({"lam": bad}, r"lam .* must not be negative") for bad in (-1e-3, float("inf"))),
    *(({"beta": bad}, r"beta .* must be positive") for bad in (0.0, -1.0, float("inf"))),
    ({"method": "magic"}, "method must be one of prune, path: got 'magic'"),
]


@pytest.mark.parametrize(("cell", "words"), BAD, ids=[str(cell) for cell, _ in BAD])
def test_a_cell_that_makes_no_sense_is_refused(cell, words):
    with pytest.raises(ValueError, match=words):
        resolve(cell)


@pytest.mark.parametrize(
    ("cell", "words"),
    [({"n": 7, "n_per_dof": 9.0}, "give n or n_per_dof, not both"), ({"sigmas": 0.1}, "unknown axis 'sigmas'")],
)
def test_a_cell_that_could_be_misread_is_refused(cell, words):
    with pytest.raises(ValueError, match=words):
        resolve(cell)


def test_a_cell_is_filled_in_and_measurements_follow_from_the_ratio():
    cell = resolve({"d": 10, "r": 3, "n_per_dof": 1.5})
    assert cell["n"] == round(1.5 * theory.dof(10, 3)) == 40
    assert cell["k"] == 10
    assert "n_per_dof" not in cell
    assert set(cell) == {axis.name for axis in EXPERIMENT.axes} - {"n_per_dof"}
    assert sizes(cell) == {"n": 40, "d": 10, "k": 10}
    assert resolve({"n": np.int64(7), "d": np.int32(8)})["n"] == 7
    assert resolve({"n_per_dof": 1e-9})["n"] == 1
    assert resolve(cell) == cell


def test_methods_meet_the_same_instance_and_other_data_another():
    cell = resolve({"d": 8, "r": 1})
    key = EXPERIMENT.key_data(cell, 0)
    for method in ({"k": 4}, {"method": "path"}, {"lam": 0.1}, {"beta": 0.1}):
        np.testing.assert_array_equal(EXPERIMENT.key_data(resolve({"d": 8, "r": 1, **method}), 0), key)
    for data in ({"n": 9}, {"d": 9}, {"r": 2}, {"kappa": 2.0}, {"scale": 2.0}, {"sigma": 0.1}):
        assert not np.array_equal(EXPERIMENT.key_data(resolve({"d": 8, "r": 1, **data}), 0), key)


def test_lane_is_told_the_noise_only_where_the_method_may_know_it():
    cells = {method: resolve({"d": 8, "sigma": 0.1, "method": method}) for method in ("prune", "path")}
    weights = {method: EXPERIMENT.inputs(cell)["lam_end"] for method, cell in cells.items()}
    noise = 0.1 / np.hypot(1, 0.1)
    edge = theory.noise_edge(cells["prune"]["n"], 8, noise)
    np.testing.assert_allclose(weights["prune"], 2 * 1e-3**0.5 * edge)
    assert weights["path"] == 1e-6


def test_zero_weight_trains_without_the_penalty():
    inputs = EXPERIMENT.inputs(resolve({"lam": 0.0}))
    assert (inputs["lam_start"], inputs["lam_end"]) == (0.0, 0.0)


@functools.cache
def _run(method, padded):
    """Three trials of d = 7, k = 6, r = 1, n = 18, alone or in a bucket of n = 24, d = 8, k = 8."""
    cell = resolve({"d": 7, "k": 6, "r": 1, "n": 18, "sigma": 0.02, "method": method})
    bucket = {"n": 24, "d": 8, "k": 8} if padded else sizes(cell)
    task = Task(
        bucket=Bucket(sizes=tuple(bucket.items()), static=(("method", method),)),
        trials=tuple((cell, seed) for seed in range(3)),
    )
    rows = []
    run_tasks(EXPERIMENT, [task], Settings(lanes=3), lambda found, _: rows.extend(found), lambda: False)
    return [row.report for row in sorted(rows, key=lambda row: row.seed)]


@pytest.mark.parametrize("method", [pytest.param("prune", marks=pytest.mark.claims), "path"])
def test_a_padded_trial_equals_its_unpadded_twin(method):
    for plain, padded in zip(_run(method, False), _run(method, True)):
        assert {name: padded[name] for name in KEYS} == {name: plain[name] for name in KEYS}
        for name in ("error", "residual", "sigma_estimate", "oracle_error", *CERTIFIED, *PATH_ONLY[method]):
            # Training is float32 and chaotic in its last digits; the least-squares fit that follows is not.
            np.testing.assert_allclose(padded[name], plain[name], rtol=1e-4, err_msg=name)


@pytest.mark.claims
def test_methods_are_judged_on_the_same_instances():
    for prune, path in zip(_run("prune", False), _run("path", False)):
        np.testing.assert_allclose(prune["oracle_error"], path["oracle_error"], rtol=1e-12)
        if prune["rank"] == path["rank"] == 1:  # the same least-squares fit, whoever found it
            np.testing.assert_allclose(prune["error"], path["error"], rtol=1e-3)
    assert sum(row["rank_exact"] for row in _run("path", False)) >= 2


def test_oracle_error_is_that_of_the_theory():
    expected = theory.oracle_risk(18, 7, 1, 0.02) ** 0.5  # the truth has norm 1
    np.testing.assert_allclose([row["oracle_error"] for row in _run("path", False)], expected, rtol=1e-6)


@pytest.mark.claims
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_small_sweep_recovers_in_both_precisions(tmp_path, dtype):
    grid = make_grid(EXPERIMENT, {"d": 8, "r": 1, "n": (4, 30)}, seeds=2)
    assert sweep(EXPERIMENT, grid, tmp_path, dtype=dtype).new == 4
    with Ledger.open(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        rows = ledger.rows()
    few, many = ([row for row in rows if row["n"] == n] for n in (4, 30))
    assert not any(row["success"] or row["status"] == Status.CONVERGED for row in few)
    assert all(row["success"] and row["rank_exact"] and row["status"] == Status.CONVERGED for row in many)
    assert max(row["error"] for row in many) < {"float32": 1e-4, "float64": 1e-7}[dtype]
    assert all(np.isfinite(row["error"]) for row in rows)


@pytest.mark.parametrize("method", ["prune", "path"])
def test_what_certifies_an_answer_is_in_the_ledger(method):
    for row in _run(method, False):
        left = 18 - (7 * row["rank"] - row["rank"] * (row["rank"] - 1) // 2)
        ends = row["sigma_estimate"] * np.sqrt(left / stats.chi2.ppf([0.975, 0.025], left))
        np.testing.assert_allclose([row["sigma_low"], row["sigma_high"]], ends, rtol=1e-9)
        assert row["edge_ratio"] > 0
        # The oracle's error with the estimated noise, relative to the estimate instead of the truth (of norm 1).
        if row["rank"] == 1:
            expected = row["oracle_error"] * row["sigma_estimate"] / 0.02
            np.testing.assert_allclose(row["predicted_error"], expected, rtol=0.2)
        assert ("score_gap" in row) == ("agreeing" in row) == (method == "path")
    assert all(1 <= row["agreeing"] <= 3 for row in _run("path", False))
