import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu import LOSSES, gap
from pruneft.relu.interior import Interior, interior_point
from pruneft.relu.interior_blocks import frame
from pruneft.relu.interior_start import begin
from pruneft.status import Status
from tests.relu.conic import optimum, teacher

KINDS = {"exact": {"skip": True}, "relaxed": {"form": "relaxed"}}
TOL = 1e-8
SIZES = (16, 3, 8)


@pytest.fixture(scope="module", params=[(loss, kind) for loss in LOSSES for kind in KINDS], ids="-".join)
def solved(request):
    """A program, its solution, and its optimum by Clarabel."""
    loss, kind = request.param
    program = teacher(*SIZES, loss, **KINDS[kind])
    return program, interior_point(program, tol=TOL), optimum(program)


def test_the_optimum_is_that_of_a_conic_solver_and_lies_between_the_bounds(solved):
    _, found, value = solved
    assert found.status == Status.CONVERGED
    assert float(found.gap) <= TOL
    assert float(found.objective) == pytest.approx(value, rel=1e-7)
    slack = 3e-8 * abs(value)  # Clarabel's own
    assert float(found.dual) <= value + slack
    assert float(found.objective) >= value - slack


def test_the_returned_blocks_have_the_reported_objective_and_break_no_cone(solved):
    program, found, _ = solved
    E = np.asarray(gap.cone_signs(program))
    assert np.all(E * (np.asarray(program.X) @ np.asarray(found.U)) >= 0)
    assert float(program.objective(found.U)) == pytest.approx(float(found.objective), rel=1e-14)


def test_blocks_that_the_dual_holds_at_zero_are_exact_zeros(solved):
    _, found, _ = solved
    norms = np.linalg.norm(np.asarray(found.U), axis=0)
    assert np.any(norms == 0)
    assert np.all((norms == 0) | (norms > 1e-6 * norms.max()))


def test_the_bounds_come_together_within_forty_iterations(solved):
    _, found, _ = solved
    there = np.asarray(found.history.iteration) >= 0
    steps, above, below = (np.asarray(part)[there] for part in found.history)
    np.testing.assert_array_equal(steps, np.arange(1, int(found.iterations) + 1))
    assert len(steps) <= 40
    assert np.all(np.diff(above) <= 0)
    assert np.all(np.diff(below) >= 0)


@pytest.mark.parametrize("solved", [("hinge", "exact")], indirect=True)
def test_padding_is_inert_and_problems_side_by_side_give_what_each_gives_alone(solved):
    program, _, _ = solved  # the hinge is not zero at f = 0, y = 0: only the row weight keeps such a row out
    lams = program.lam * jnp.asarray([1.0, 3.0])
    n, d, P = (size + 2 for size in SIZES)

    def lane(lam):
        return interior_point(dataclasses.replace(program.padded(n, d, P), lam=lam), tol=TOL)

    both = jax.vmap(lane)(lams)
    U = np.asarray(program.unpadded(both.U, P))
    assert np.count_nonzero(both.U) == np.count_nonzero(U)
    for k in range(2):
        alone = interior_point(dataclasses.replace(program, lam=lams[k]), tol=TOL)
        assert float(both.objective[k]) == pytest.approx(float(alone.objective), rel=2 * TOL)
        assert float(both.dual[k]) == pytest.approx(float(alone.dual), rel=2 * TOL)
        np.testing.assert_allclose(U[k], alone.U, atol=1e-4)
        assert both.status[k] == Status.CONVERGED


def test_above_the_zero_threshold_all_blocks_are_zero_and_the_status_says_so(solved):
    program, _, _ = solved
    found = interior_point(dataclasses.replace(program, lam=2 * gap.lam_max(program)), tol=TOL)
    assert found.status == Status.ALL_ZERO
    assert not np.any(found.U)


def test_an_exhausted_budget_is_said_and_its_bounds_hold(solved):
    program, _, value = solved
    # The tolerance below rounding: the run ends by itself, with all that float64 gives.
    found = interior_point(program, tol=1e-17)
    assert found.status == Status.BUDGET_SPENT
    assert float(found.dual) <= value * (1 + 3e-8)
    assert float(found.gap) < 1e-7


@pytest.mark.parametrize("solved", [(loss, "exact") for loss in LOSSES], indirect=True)
def test_a_block_without_an_interior_direction_stays_zero_and_no_bound_is_wrong(solved):
    program, _, value = solved
    H = program.H.at[:, 0].set(0.0)
    found = interior_point(dataclasses.replace(program, H=H), tol=1e-3)
    first = int(program.skip)
    assert not np.any(np.asarray(found.U)[:, [first, first + program.P]])
    assert float(found.dual) <= value * (1 + 3e-8)
    assert float(found.objective) >= value * (1 - 3e-8)


def test_a_label_that_is_not_finite_ends_as_not_finite(solved):
    program, _, _ = solved
    found = interior_point(dataclasses.replace(program, y=program.y.at[0].set(jnp.nan)), tol=TOL)
    assert found.status == Status.NOT_FINITE


def test_the_start_is_interior_and_balanced():
    program = teacher(*SIZES, "squared")
    fixed = frame(program)
    point = jax.jit(begin, static_argnums=3)(program, fixed, jnp.asarray(0.1), Interior().centring)
    s = np.asarray(fixed.E * (program.X @ point.x.tail))
    np.testing.assert_allclose(s * np.asarray(point.mu), 0.1, rtol=1e-6)
    np.testing.assert_allclose(program.X.T @ (fixed.E * point.mu), -point.z, rtol=1e-6, atol=1e-9)
    assert np.all(np.linalg.norm(point.x.tail, axis=0) < np.asarray(point.x.head))


def test_bad_arguments_are_errors_that_say_what_to_do():
    program = teacher(*SIZES, "squared")
    with pytest.raises(ValueError, match=r"needs float64.*jax_enable_x64"):
        interior_point(teacher(*SIZES, "squared", dtype="float32"))
    with pytest.raises(ValueError, match=r"tol .* must be positive"):
        interior_point(program, tol=0.0)
    with pytest.raises(ValueError, match=r"lam .* must be positive"):
        interior_point(dataclasses.replace(program, lam=jnp.asarray(0.0)))
    with pytest.raises(ValueError, match="max_iterations must be a whole number"):
        interior_point(program, max_iterations=0)
