import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu import gap
from pruneft.relu.admm import init, path, solve
from pruneft.status import Status
from tests.relu.conic import optimum, teacher

KINDS = {"exact": {}, "relaxed": {"form": "relaxed"}, "skip": {"skip": True}}
TOL = 1e-7


# The other combinations are among the claims: what takes the time is compiling them.
FEW = [("squared", "exact"), ("squared", "skip"), ("hinge", "exact"), ("hinge", "relaxed"), ("bce", "exact")]


@pytest.fixture(scope="module", params=FEW, ids="-".join)
def solved(request):
    """A program, its solution, and its optimum by Clarabel."""
    loss, kind = request.param
    program = teacher(16, 3, 8, loss, **KINDS[kind])
    return program, solve(program, tol=TOL), optimum(program)


def test_the_optimum_is_that_of_a_conic_solver_and_lies_between_the_bounds(solved):
    _, found, value = solved
    assert found.status == Status.CONVERGED
    assert float(found.objective) == pytest.approx(value, rel=1e-6)  # Clarabel itself is good to 1e-8 or so
    slack = 1e-7 * abs(value)
    assert float(found.dual) <= value + slack
    assert float(found.objective) >= value - slack
    assert float(found.gap) <= TOL


def test_the_returned_blocks_have_the_reported_objective_and_break_no_cone(solved):
    program, found, _ = solved
    U, X = np.asarray(found.U), np.asarray(program.X)
    E = np.asarray(gap.cone_signs(program))
    assert np.all(E * (X @ U) >= 0)
    assert float(program.objective(found.U)) == pytest.approx(float(found.objective), rel=1e-14)


def test_bounds_only_become_better_and_are_those_of_the_history(solved):
    _, found, _ = solved
    there = np.asarray(found.history.iteration) >= 0
    steps, above, below = (np.asarray(part)[there] for part in found.history)
    assert np.all(np.diff(steps) > 0)
    assert np.all(np.diff(above) <= 0)
    assert np.all(np.diff(below) >= 0)
    assert (steps[-1], above[-1], below[-1]) == (found.iterations, found.objective, found.dual)


def _padded(program, n=3, d=2, P=4):
    def pad(array, *more):
        return jnp.pad(array, [(0, m) for m in more])

    return dataclasses.replace(
        program,
        X=pad(program.X, n, d),
        y=pad(program.y, n),
        D=pad(program.D, n, P),
        H=pad(program.H, d, P),
        weights=pad(program.weights, n),
    )


def test_padded_rows_columns_and_patterns_are_inert():
    program = teacher(16, 3, 8, "hinge")  # which is not zero at f = 0, y = 0: only the row weight keeps such a row out
    found, padded = solve(program, tol=1e-5), solve(_padded(program), tol=1e-5)
    assert int(padded.iterations) == int(found.iterations)
    assert float(padded.objective) == pytest.approx(float(found.objective), rel=1e-10)
    assert float(padded.dual) == pytest.approx(float(found.dual), rel=1e-10)
    V, W = np.split(np.asarray(padded.U), 2, axis=1)
    assert not V[3:].any()
    assert not V[:, 8:].any()
    np.testing.assert_allclose(np.concatenate([V[:3, :8], W[:3, :8]], axis=1), found.U, atol=1e-9)


def test_problems_side_by_side_give_what_each_gives_alone():
    programs = [teacher(16, 3, 8, "squared", seed=seed) for seed in range(3)]
    together = jax.vmap(lambda program: solve(program, tol=1e-5))(
        jax.tree.map(lambda *parts: jnp.stack(parts), *programs)
    )
    for k, program in enumerate(programs):
        alone = solve(program, tol=1e-5)
        assert int(together.iterations[k]) == int(alone.iterations)
        assert float(together.objective[k]) == pytest.approx(float(alone.objective), rel=1e-10)
    assert len(set(np.asarray(together.iterations).tolist())) > 1


def test_a_path_over_lam_is_warm_started_and_ends_where_single_fits_do():
    program = teacher(16, 3, 8, "squared")
    lams = program.lam * jnp.asarray([4.0, 2.0, 1.0, 0.9, 0.8])
    found = path(program, lams, tol=1e-6)
    assert np.all(np.asarray(found.status) == Status.CONVERGED)
    alone = [solve(dataclasses.replace(program, lam=lam), tol=1e-6) for lam in lams]
    np.testing.assert_allclose(found.objective, [each.objective for each in alone], rtol=2e-6)
    assert np.sum(np.asarray(found.iterations)[1:]) < 0.8 * sum(int(each.iterations) for each in alone[1:])


def test_an_end_without_a_certificate_is_said():
    program = teacher(16, 3, 8, "squared")
    short = solve(program, tol=1e-12, max_iterations=30)
    assert (short.status, short.iterations) == (Status.BUDGET_SPENT, 40)
    assert float(short.gap) > 1e-12
    broken = solve(dataclasses.replace(program, y=program.y.at[0].set(1e200)), tol=1e-12, max_iterations=30)
    assert broken.status == Status.NOT_FINITE
    assert np.all(np.isfinite(broken.U))


def test_where_lam_is_above_its_threshold_the_zero_solution_is_certified_at_once():
    program = teacher(16, 3, 8, "bce", lam=1.0001)
    found = solve(program, tol=1e-6)
    assert (found.status, found.iterations) == (Status.ALL_ZERO, 0)
    assert float(found.objective) == pytest.approx(16 * np.log(2))
    assert np.any(solve(dataclasses.replace(program, lam=program.lam * 0.5), tol=1e-6).U)


@pytest.mark.claims  # XLA computed NaN only with all its optimisations, and from some size on
def test_lanes_over_labels_begin_at_the_loss_of_predicting_zero():
    program = teacher(384, 96, 128, "bce")
    labels = jnp.stack([program.y, -program.y])
    begun = jax.jit(lambda p, ys: jax.vmap(lambda y: init(dataclasses.replace(p, y=y)).best.objective)(ys))
    np.testing.assert_allclose(begun(program, labels), 384 * np.log(2) * float(program.weights[0]), rtol=1e-12)
