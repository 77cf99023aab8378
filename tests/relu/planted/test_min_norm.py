"""Both solvers of the programs without cones: splitting and interior points."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.planted import MODELS, exact, interior, make_blocks, min_norm
from pruneft.status import Status
from tests.relu.planted.conic import instance, optimum

SOLVERS = {"splitting": min_norm.solve, "interior": interior.solve}
TOL = 1e-8


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    return instance(request.param)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_optimum_is_that_of_a_conic_solver_and_lies_between_the_bounds(case, solver):
    blocks, y, _ = case
    for lam in (0.0, 5e-7, 0.1):
        found, value = SOLVERS[solver](blocks, y, lam=lam, tol=TOL), optimum(blocks, y, lam=lam)
        assert found.status == Status.CONVERGED
        assert float(found.objective) == pytest.approx(value, rel=1e-6)
        assert float(found.dual) - 1e-7 * value <= value <= float(found.objective) + 1e-7 * value
        norms = float(jnp.sum(jnp.linalg.norm(found.W, axis=0)))
        misfit = float(jnp.linalg.norm(blocks.apply(found.W) - y))
        assert float(found.objective) == pytest.approx(norms + (misfit**2 / (2 * lam) if lam else 0), rel=1e-9)
        assert lam or misfit < 1e-12


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_dual_point_is_feasible_and_has_the_value_that_is_reported(case, solver):
    blocks, y, _ = case
    found = SOLVERS[solver](blocks, y, tol=TOL)
    assert float(jnp.max(jnp.linalg.norm(blocks.adjoint(found.nu), axis=0))) <= 1
    assert float(y @ found.nu) == pytest.approx(float(found.dual), rel=1e-12)


def test_any_multiplier_proves_a_bound_that_is_not_above_the_optimum_and_would_not_without_the_scaling(case):
    blocks, y, _ = case
    value, zero = float(interior.solve(blocks, y, tol=TOL).objective), jnp.zeros(())
    raw = [10 * y + jnp.asarray(np.random.default_rng(k).standard_normal(16)) for k in range(8)]
    assert all(float(min_norm.proven(blocks, y, zero, nu)[1]) <= value for nu in raw)
    assert all(float(min_norm.proven(blocks, y, zero, -nu)[1]) == 0 for nu in raw if y @ nu > 0)
    assert any(float(y @ nu) > value for nu in raw)


@pytest.mark.parametrize("solver", SOLVERS)
def test_padding_is_inert_and_lanes_do_not_see_one_another(solver):
    solve = SOLVERS[solver]
    blocks, y, _ = instance("skip")
    X = jnp.pad(blocks.X, ((0, 3), (0, 2)))
    D = jnp.pad(blocks.D, ((0, 3), (0, 4))).at[16:, :12].set(1)  # a zero row is switched on by the rule X h >= 0
    padded, longer = make_blocks(X, D, "skip"), jnp.pad(y, (0, 3))
    batch = jax.tree.map(lambda *parts: jnp.stack(parts), padded, padded)
    found = jax.vmap(solve)(batch, jnp.stack([longer, 1e3 * jnp.flip(longer.at[16:].set(0))]).at[1, 16:].set(0))
    alone = solve(blocks, y)
    np.testing.assert_allclose(found.W[0, :4, :13], alone.W, atol=1e-9)
    assert float(jnp.max(jnp.abs(found.W[0, 4:]))) == 0
    assert float(jnp.max(jnp.abs(found.W[0, :, 13:]))) == 0
    assert found.status[0] == alone.status == Status.CONVERGED


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_not_solved_says_why(solver):
    solve = SOLVERS[solver]
    blocks, y, _ = instance("plain")
    twice = dataclasses.replace(blocks, X=blocks.X.at[1].set(blocks.X[0]), D=blocks.D.at[1].set(blocks.D[0]))
    batch = jax.tree.map(lambda *parts: jnp.stack(parts), *[twice, twice, blocks, blocks, blocks])
    budget = jnp.array([10_000, 10_000, 10_000, 10_000, 1])
    ys = [y, y.at[1].set(y[0]), 0 * y, y.at[3].set(jnp.nan), y]
    found = jax.vmap(lambda blocks, y, most: solve(blocks, y, max_iterations=most))(batch, jnp.stack(ys), budget)
    told = [Status(int(code)) for code in found.status]
    # Duplicate samples that contradict each other, that agree (a singular Gram matrix), nothing to explain, bad data, no budget.
    assert told == [Status.INFEASIBLE, Status.CONVERGED, Status.ALL_ZERO, Status.NOT_FINITE, Status.BUDGET_SPENT]
    assert float(found.dual[4]) <= float(interior.solve(blocks, y).objective) <= float(found.objective[4])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": jnp.ones(5)}, r"one number for each of the 16 rows of X: got shape \(5,\)"),
        ({"lam": -1.0}, "lam must not be negative: got -1.0"),
        ({"lam": jnp.nan}, "lam must not be negative: got nan"),
        ({"tol": 0.0}, "tol must be positive: got 0.0"),
        ({"max_iterations": 0}, "max_iterations must be positive: got 0"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(change, says):
    blocks, y, _ = instance("plain")
    for solve in (min_norm.solve, interior.solve):
        with pytest.raises(ValueError, match=says):
            solve(**{"blocks": blocks, "y": y, **change})
    if "lam" not in change:
        with pytest.raises(ValueError, match=says):
            exact.solve(**{"blocks": blocks, "inner": jnp.zeros((blocks.d, blocks.P)), "y": y, **change})


def test_no_live_pattern_is_infeasible_but_for_what_a_linear_block_says():
    blocks, y, _ = instance("skip")
    none = dataclasses.replace(blocks, D=jnp.zeros_like(blocks.D))
    w = jnp.arange(1.0, 5)
    found = interior.solve(none, none.X @ w)
    assert interior.solve(none, y).status == Status.INFEASIBLE
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.W[:, 0], w, atol=1e-7)


@pytest.mark.parametrize(("solver", "tol"), [("splitting", 1e-4), ("interior", 2e-3)])
def test_float32_reaches_the_gap_that_it_can_and_keeps_its_dtype(solver, tol):
    blocks, y, _ = instance("skip", dtype="float32")
    found = SOLVERS[solver](blocks, y, tol=tol)
    assert (found.status, found.W.dtype) == (Status.CONVERGED, jnp.float32)
    assert float(found.objective) == pytest.approx(optimum(blocks, y), rel=2 * tol)


def test_a_planted_linear_neuron_is_found_to_the_accuracy_of_the_gap():
    blocks, _, _ = instance("skip", n=40, P=30)
    w = jnp.asarray([1.0, -2.0, 0.5, 0.0])
    found = interior.solve(blocks, blocks.X @ w)
    np.testing.assert_allclose(found.W[:, 0], w, atol=1e-6)
    assert int(found.iterations) <= 20
