import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.planted import MODELS, exact, interior
from pruneft.status import Status
from tests.relu.planted.conic import instance, optimum


@pytest.fixture(scope="module", params=MODELS)
def solved(request):
    """Blocks, targets, and the solution with cones."""
    blocks, y, _ = instance(request.param, n=14, d=3, P=10)
    return blocks, y, exact.solve(blocks, exact.inner_directions(blocks), y, tol=1e-7)


def test_the_optimum_is_that_of_a_conic_solver_and_lies_between_the_bounds(solved):
    blocks, y, found = solved
    value = optimum(blocks, y, cones=True)
    assert found.status == Status.CONVERGED
    assert float(found.objective) == pytest.approx(value, rel=1e-6)
    assert float(found.dual) - 1e-7 * value <= value <= float(found.objective) + 1e-7 * value


def test_the_blocks_interpolate_lie_in_their_cones_and_have_the_objective(solved):
    blocks, y, found = solved
    np.testing.assert_allclose(exact.predict(blocks, found.W), y, atol=1e-10)
    W = np.asarray(found.W)
    assert float(np.sum(np.linalg.norm(W, axis=0))) == pytest.approx(float(found.objective), rel=1e-12)
    for j in range(blocks.P):
        back = np.eye(blocks.d) if blocks.back is None else np.asarray(blocks.back[:, :, j])
        rows = (2 * np.asarray(blocks.D[:, [j]]) - 1) * (np.asarray(blocks.X) @ back)
        size = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
        for part in (W[:, blocks.first + j], W[:, blocks.first + blocks.P + j]):
            assert np.all(rows @ part / size >= -1e-12)


def test_cones_cost_something(solved):
    blocks, y, found = solved
    assert float(found.dual) > float(interior.solve(blocks, y).objective)


def test_data_out_of_reach_and_data_of_nothing_are_told_apart():
    blocks, y, _ = instance("plain", n=14, d=3, P=10)
    twice = blocks.__class__(X=blocks.X.at[1].set(blocks.X[0]), D=blocks.D.at[1].set(blocks.D[0]), model="plain")
    inner = exact.inner_directions(blocks)
    assert exact.solve(twice, inner, y).status == Status.INFEASIBLE
    assert exact.solve(blocks, inner, 0 * y).status == Status.ALL_ZERO


def test_blocks_without_a_direction_stay_zero():
    blocks, _, w = instance("plain", n=14, d=3, P=10, noise=0.0)
    y = blocks.predictions(jnp.zeros((3, 10)).at[:, 0].set(w[:, 0])).sum(axis=1)
    inner = exact.inner_directions(blocks)
    found = exact.solve(blocks, inner.at[:, 4:].set(0), y)
    assert found.status == Status.CONVERGED
    assert not np.any(np.asarray(found.W).reshape(3, 2, 10)[:, :, 4:])
    assert float(found.dual) >= float(exact.solve(blocks, inner, y).dual) - 1e-6
    assert exact.solve(blocks, 0 * inner, y).status == Status.INFEASIBLE


def test_lanes_near_a_solution_or_not_are_decided_within_forty_iterations():
    cases = [instance("plain", n=14, d=3, P=10, seed=seed, noise=noise) for seed in (1, 2) for noise in (0.0, 0.1)]
    blocks = jax.tree.map(lambda *parts: jnp.stack(parts), *(case[0] for case in cases))
    inner = jnp.stack([exact.inner_directions(case[0]) for case in cases])
    found = jax.vmap(exact.solve)(blocks, inner, jnp.stack([case[1] for case in cases]))
    assert np.all(np.asarray(found.status) == Status.CONVERGED)
    assert int(jnp.max(found.iterations)) <= 40
