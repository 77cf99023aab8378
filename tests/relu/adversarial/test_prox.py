import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu import LOSSES
from pruneft.relu.adversarial import admm, losses
from pruneft.relu.adversarial.norms import BALLS
from tests.relu.adversarial.instances import instance

_STEP = 0.7
_PAIRS = [("hinge", "inf"), ("bce", "2"), ("squared", "1")]


def _drawn(loss, norm):
    """Rows of every kind: far on either side, near a kink, not movable, without weight."""
    rng = np.random.default_rng(4)
    X, C0 = rng.standard_normal((2, 60, 4)) * np.array([1.0, 2.0])[:, None, None]
    y = rng.standard_normal(60) if loss == "squared" else rng.choice([-1.0, 1.0], 60)
    radius, weights = rng.uniform(0, 0.5, 60), rng.exponential(size=60)
    radius[:5], weights[5:10] = 0, 0
    C0[10:40] -= ((np.sum(X * C0, axis=1) - y) / np.sum(X * X, axis=1))[10:40, None] * X[10:40]  # predicts y
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    data = losses.Attacked(*(jnp.asarray(part) for part in (X, y, radius)), mask)
    return LOSSES[loss], BALLS[norm], data, jnp.asarray(C0), jnp.asarray(weights)


def _conjugate(loss, y, found, weights):
    """The conjugate at these multipliers, row by row."""
    if loss == "squared":
        return found.nu * y + np.where(weights > 0, found.t**2 / np.where(weights > 0, 2 * weights, 1), 0)
    if loss == "hinge":
        return y * found.nu
    a = np.where(weights > 0, -y * found.nu / np.where(weights > 0, 2 * weights, 1), 0)
    a = np.clip(a, 1e-300, 1 - 1e-16)
    return weights * (a * np.log(a) + (1 - a) * np.log(1 - a))


@pytest.fixture(scope="module", params=_PAIRS, ids="-".join)
def solved(request):
    loss, ball, data, C0, weights = _drawn(*request.param)
    C, found = jax.jit(lambda C0: losses.prox(loss, ball, data, C0, weights, jnp.asarray(_STEP)))(C0)
    return loss, ball, data, C0, weights, C, found


def test_multipliers_prove_that_the_prox_is_the_minimum(solved):
    loss, ball, data, C0, weights, C, found = solved
    Z = found.nu[:, None] * data.X + found.delta
    np.testing.assert_allclose(C + _STEP * Z, C0, atol=1e-12)
    assert np.all(np.asarray(ball.size(found.delta)) <= np.asarray(data.radius * found.t) + 1e-11)
    assert np.all(np.abs(found.nu) <= np.asarray(found.t) + 1e-12)
    # Fenchel: value plus conjugate is the inner product exactly where Z is a subgradient at C.
    conjugate = np.sum(_conjugate(loss.name, np.asarray(data.y), found, np.asarray(weights)))
    value = float(losses.value(loss, ball, data, C, weights))
    np.testing.assert_allclose(value + conjugate, float(jnp.sum(Z * C)), rtol=1e-9, atol=1e-9)


def test_no_point_near_the_prox_is_lower(solved):
    loss, ball, data, C0, weights, C, _ = solved
    rng = np.random.default_rng(5)

    @jax.jit
    def row_values(C):
        worst = losses.worst_prediction(loss, ball, data, C)
        rows = jax.vmap(lambda f, y, w: loss.value(f[None], y[None], w[None]))(worst, data.y, weights)
        return _STEP * rows + jnp.sum((C - C0) ** 2, axis=1) / 2

    least = np.asarray(row_values(C))
    for size in (1e-3, 1e-1, 1):
        for _ in range(20):
            other = row_values(C + size * jnp.asarray(rng.standard_normal(C.shape)))
            assert np.all(np.asarray(other) >= least - 1e-10)


def test_rows_without_weight_stay_and_a_radius_of_zero_is_the_plain_prox(solved):
    loss, _, data, C0, weights, C, _ = solved
    np.testing.assert_array_equal(C[5:10], C0[5:10])
    still = slice(0, 5)
    size = jnp.sum(data.X**2, axis=1)[still]
    before = jnp.sum(data.X * C0, axis=1)[still]
    plain = loss.prox(before, data.y[still], _STEP * size * weights[still])
    np.testing.assert_allclose(jnp.sum(data.X * C, axis=1)[still], plain, atol=1e-9)


@pytest.mark.parametrize("norm", BALLS)
def test_the_prox_of_cones_and_penalty_is_that_of_a_conic_solver(norm):
    program = instance("hinge", n=6, P=2, norm=norm, eps=0.2, bias=True)
    rng = np.random.default_rng(6)
    a0, s0 = rng.standard_normal((4, 4)), 3 * rng.standard_normal((6, 4))

    @jax.jit
    def found(a0, s0):
        factors = admm.factorise(program, admm.Constants())
        return factors, admm.cone_prox(program, factors, a0, s0, jnp.asarray(0.3))

    factors, (a, s) = found(jnp.asarray(a0), jnp.asarray(s0))
    order = {"inf": 1, "2": 2, "1": "inf"}[norm]
    b, r = cp.Variable((4, 4)), cp.Variable((6, 4))
    reach = np.asarray(factors.reach)
    cones = [r[:, g] >= reach * cp.norm(b[g, :3], order) for g in range(4)]
    far = (cp.sum_squares(b - a0) + cp.sum_squares(r - s0)) / 2
    cp.Problem(cp.Minimize(far + 0.3 * cp.sum(cp.norm(b, 2, axis=1))), cones).solve(solver=cp.CLARABEL)
    # A conic solver's point is as near as the root of its objective's error; its objective must not be lower.
    np.testing.assert_allclose(a, b.value, atol=3e-5)
    np.testing.assert_allclose(s, r.value, atol=3e-5)
    lengths = jnp.sum(jnp.linalg.norm(a, axis=1))
    ours = float((jnp.sum((a - a0) ** 2) + jnp.sum((s - s0) ** 2)) / 2 + 0.3 * lengths)
    theirs = float(far.value) + 0.3 * float(np.sum(np.linalg.norm(b.value, axis=1)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-7)
    assert np.all(np.asarray(s) >= reach[:, None] * np.asarray(program.ball.dual(a, program.mask)) - 1e-12)
