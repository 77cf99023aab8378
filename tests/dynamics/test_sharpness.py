"""Sharpness against dense eigenvalues, and what comes back where there is nothing good to return."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse.linalg import lobpcg_standard

from pruneft.dynamics import (
    Sharpness,
    central_flow,
    hessian_product,
    midpoint,
    onset,
    orbit,
    sharpness,
    sharpness_gradient,
    traces,
    track,
)
from pruneft.dynamics.lanczos import top
from pruneft.status import Status


def bowl(x, H):
    return x @ (H @ x) / 2


@functools.partial(jax.jit, static_argnames="k")
def of_matrix(H, k=1, previous=None):
    return sharpness(functools.partial(bowl, H=H), jnp.ones(H.shape[0], H.dtype), k, previous=previous)


def matrix(values, seed=0):
    n = len(values)
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    return Q @ np.diag(values) @ Q.T, Q.T


DATA = jax.random.normal(jax.random.key(5), (12, 6), jnp.float64)
NET = {
    "in": jax.random.normal(jax.random.key(6), (5, 4), jnp.float64) / 2,
    "out": (jax.random.normal(jax.random.key(7), (4,), jnp.float64), jnp.zeros((), jnp.float64)),
}


def net_loss(params):
    hidden = jnp.tanh(DATA[:, :5] @ params["in"])
    return jnp.mean((hidden @ params["out"][0] + params["out"][1] - DATA[:, 5]) ** 2)


@pytest.fixture(scope="module")
def net():
    flat, back = jax.flatten_util.ravel_pytree(NET)
    values, vectors = np.linalg.eigh(jax.hessian(lambda v: net_loss(back(v)))(flat))
    found = jax.jit(lambda params: sharpness(net_loss, params, 2))(NET)
    return flat, back, values[::-1], vectors[:, ::-1].T, found


def rows(tree):
    return np.concatenate([np.reshape(leaf, (leaf.shape[0], -1)) for leaf in jax.tree.leaves(tree)], axis=1)


def test_eigenpairs_of_a_network_are_those_of_its_dense_hessian(net):
    _, _, values, vectors, found = net
    assert int(found.status) == Status.CONVERGED
    np.testing.assert_allclose(found.eigenvalues, values[:2], rtol=1e-8)
    overlap = np.abs(np.sum(rows(found.eigenvectors) * vectors[:2], axis=1))
    assert np.all(1 - overlap < 1e-8)
    assert jax.tree.structure(found.eigenvectors) == jax.tree.structure(NET)
    assert found.eigenvectors["in"].shape == (2, 5, 4)


def test_residuals_are_those_of_the_vectors_returned(net):
    found = net[4]
    for i in range(2):
        vector = jax.tree.map(lambda leaf, i=i: leaf[i], found.eigenvectors)
        miss = jax.tree.map(
            lambda a, b, i=i: a - found.eigenvalues[i] * b, hessian_product(net_loss, NET, vector), vector
        )
        size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(miss)))
        assert float(size) <= (float(found.residuals[i]) + 1e-13) * float(found.eigenvalues[0]) * 1.01


def test_the_gradient_of_the_sharpness_is_its_central_difference(net):
    flat, back, _, _, found = net
    u = jax.tree.map(lambda leaf: leaf[0], found.eigenvectors)
    gradient = jax.flatten_util.ravel_pytree(sharpness_gradient(net_loss, NET, u))[0]
    hessian = jax.jit(jax.hessian(lambda v: net_loss(back(v))))
    direction = np.asarray(gradient / jnp.linalg.norm(gradient))
    for way in (direction, np.random.default_rng(0).normal(size=flat.size)):
        ends = [np.linalg.eigvalsh(hessian(flat + sign * 1e-5 * way))[-1] for sign in (1, -1)]
        assert float(gradient @ way) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


@pytest.fixture(scope="module")
def repeated():
    return matrix(np.r_[5.0, 5.0, np.linspace(3, 0, 58)])


def test_a_repeated_eigenvalue_is_found_as_often_as_it_is_there(repeated):
    found = of_matrix(jnp.asarray(repeated[0]), 2)
    np.testing.assert_allclose(found.eigenvalues, 5, rtol=1e-12)
    np.testing.assert_allclose(found.eigenvectors @ found.eigenvectors.T, np.eye(2), atol=1e-10)
    assert np.all(np.asarray(found.residuals) < 1e-7)


def test_a_start_that_is_another_eigenvector_does_not_hide_the_largest(repeated):
    H, vectors = matrix(np.r_[6.0, 5.5, np.linspace(3, 0, 58)])
    old = Sharpness(jnp.ones(1), jnp.asarray(vectors[1:2]), jnp.zeros(1), jnp.int32(0), jnp.int32(Status.CONVERGED))
    found = of_matrix(jnp.asarray(H), 1, old)
    assert float(found.eigenvalues[0]) == pytest.approx(6.0, rel=1e-12)


def test_a_warm_start_follows_the_sign_and_costs_less():
    H, _ = matrix(np.r_[6.0, 5.5, np.linspace(3, 0, 58)])
    cold = of_matrix(jnp.asarray(H), 1)
    turned = cold._replace(eigenvectors=-cold.eigenvectors)
    for old in (cold, turned):
        warm = of_matrix(jnp.asarray(H), 1, old)
        assert float(jnp.sum(warm.eigenvectors * old.eigenvectors)) == pytest.approx(1, abs=1e-9)
        assert int(warm.products) < int(cold.products)
    most = cold.eigenvectors[0, jnp.argmax(jnp.abs(cold.eigenvectors[0]))]
    assert float(most) > 0


def test_flat_directions_have_curvature_zero_and_no_residual():
    found = of_matrix(jnp.zeros((60, 60), jnp.float64), 2)
    assert int(found.status) == Status.CONVERGED
    np.testing.assert_array_equal(found.eigenvalues, 0)
    np.testing.assert_allclose(found.eigenvectors @ found.eigenvectors.T, np.eye(2), atol=1e-12)
    H, _ = matrix(np.r_[2.0, np.zeros(59)])
    np.testing.assert_allclose(of_matrix(jnp.asarray(H), 2).eigenvalues, [2, 0], atol=1e-12)


def test_negative_curvature_is_ordered_by_value_and_not_by_size():
    H, _ = matrix(-np.arange(1.0, 61.0))
    np.testing.assert_allclose(of_matrix(jnp.asarray(H), 2).eigenvalues, [-1, -2], rtol=1e-8)


def test_curvature_that_is_not_finite_is_a_status():
    found = of_matrix(jnp.full((60, 60), jnp.inf), 2)
    assert int(found.status) == Status.NOT_FINITE
    assert np.all(np.isnan(found.eigenvalues))


def test_a_kink_is_not_seen_by_derivatives_but_the_pieces_beside_it_are():
    def loss(w):
        return jnp.sum(jax.nn.relu(w - 1) ** 2)

    sides = [sharpness(loss, jnp.array([at]), 1) for at in (0.999, 1.001)]
    assert [float(side.eigenvalues[0]) for side in sides] == [0, 2]
    # The sharpness jumps by 2 in between, and its gradient is zero on both sides.
    for at in (0.999, 1.001):
        assert float(sharpness_gradient(loss, jnp.array([at]), jnp.ones(1))[0]) == 0


def test_what_misses_the_tolerance_is_not_returned_as_an_eigenvalue():
    H, _ = matrix(np.linspace(1, 0.99, 60))
    short = jax.jit(
        lambda H, keep: sharpness(functools.partial(bowl, H=H), jnp.ones(60), most=8, keep=keep), static_argnums=1
    )
    found = short(jnp.asarray(H), False)
    assert int(found.status) == Status.BUDGET_SPENT
    assert np.isnan(found.eigenvalues[0])
    assert float(found.residuals[0]) > 1e-8
    kept = short(jnp.asarray(H), True)
    away = np.min(np.abs(float(kept.eigenvalues[0]) - np.linspace(1, 0.99, 60)))
    assert away <= float(kept.residuals[0])


def test_lanes_of_a_batch_find_what_they_find_alone():
    batch = jnp.stack(
        [jnp.asarray(matrix(np.r_[top, np.linspace(3, 0, 59)], seed)[0]) for seed, top in enumerate((9, 4))]
    )
    both = jax.jit(jax.vmap(lambda H: sharpness(functools.partial(bowl, H=H), jnp.ones(60))))(batch)
    np.testing.assert_allclose(both.eigenvalues[:, 0], [9, 4], rtol=1e-12)
    one = of_matrix(batch[1])
    np.testing.assert_allclose(np.abs(np.sum(both.eigenvectors[1] * one.eigenvectors)), 1, rtol=1e-12)


def test_float32_reaches_its_own_tolerance():
    H, _ = matrix(np.r_[6.0, 5.5, np.linspace(3, 0, 58)])
    found = of_matrix(jnp.asarray(H, jnp.float32))
    assert found.eigenvalues.dtype == jnp.float32
    assert float(found.eigenvalues[0]) == pytest.approx(6, rel=2e-6)


@pytest.mark.parametrize("n", [1, 7])
def test_few_parameters_are_no_problem(n):
    H, _ = matrix(np.arange(1.0, n + 1))
    found = of_matrix(jnp.asarray(H), n)
    np.testing.assert_allclose(found.eigenvalues, np.arange(n, 0, -1), rtol=1e-12)


def test_many_parameters_do_not_loosen_the_tolerance_as_they_do_in_lobpcg():
    n = 200_000
    weights = jnp.linspace(0, 74.9, n, dtype=jnp.float32).at[n // 3].set(100)
    start = jax.random.normal(jax.random.key(0), (n, 1), jnp.float32)
    trapped = lobpcg_standard(lambda v: weights[:, None] * v, start)  # its tolerance grows with n
    assert abs(float(trapped[0][0]) - 100) > 5
    found = jax.jit(lambda: sharpness(lambda x: jnp.sum(weights * x**2) / 2, jnp.zeros(n, jnp.float32)))()
    assert float(found.eigenvalues[0]) == pytest.approx(100, rel=1e-5)
    assert float(found.residuals[0]) < 3.5e-4


def test_traces_come_with_standard_errors_that_hold():
    H, _ = matrix(np.linspace(1, 5, 20))
    found = traces(functools.partial(bowl, H=jnp.asarray(H)), jnp.zeros(20), jax.random.key(1), probes=200)
    assert abs(float(found.trace) - np.trace(H)) < 4 * float(found.trace_error)
    assert abs(float(found.square) - np.sum(H**2)) < 4 * float(found.square_error)
    assert 0 < float(found.trace_error) < 1


def test_the_trace_of_a_diagonal_hessian_has_no_error():
    found = traces(
        lambda p: jnp.sum(jnp.arange(1.0, 5) * p["a"] ** 2) / 2, {"a": jnp.zeros(4)}, jax.random.key(1), probes=2
    )
    assert float(found.trace) == pytest.approx(10)
    assert float(found.trace_error) == pytest.approx(0, abs=1e-12)


def test_the_midpoint_of_an_oscillation_is_its_centre():
    found = midpoint({"a": jnp.ones(2)}, {"a": -jnp.ones(2)})
    np.testing.assert_array_equal(found["a"], 0)


BAD = {
    "vector": (lambda p: p, jnp.ones(3), {}, "expected a function from params to one real number"),
    "half": (jnp.sum, jnp.ones(3, jnp.float16), {}, "float16. Convert half precision"),
    "integers": (lambda p: jnp.sum(p["w"]), {"w": jnp.ones(2), "n": jnp.arange(2)}, {}, "keep integer leaves out"),
    "two types": (lambda p: p[0] + 0.0, [jnp.ones(()), jnp.ones((), jnp.float32)], {}, "leaves of one type"),
    "empty": (lambda p: jnp.zeros(()), {}, {}, "empty pytree"),
    "too many": (jnp.sum, jnp.ones(3), {"k": 4}, "from 1 to the number of parameters, 3: got 4"),
    "too narrow": (jnp.sum, jnp.ones(30), {"k": 4, "width": 8}, "width must be at least 2 k"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_clear_error(name):
    loss, params, options, says = BAD[name]
    with pytest.raises(ValueError, match=says):
        sharpness(loss, params, **options)


def test_a_previous_result_of_another_model_is_refused():
    old = Sharpness(jnp.ones(1), jnp.ones((1, 4)), jnp.zeros(1), jnp.int32(0), jnp.int32(1))
    with pytest.raises(ValueError, match="expected eigenvectors of 3 parameters, got 4"):
        sharpness(lambda p: jnp.sum(p**2), jnp.ones(3), previous=old)
    with pytest.raises(ValueError, match="probes must be at least 2"):
        traces(lambda p: jnp.sum(p**2), jnp.ones(3), jax.random.key(0), probes=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda loss, params: onset(loss, params, steps=2),
        lambda loss, params: track(loss, params, 0.1, steps=2),
        lambda loss, params: central_flow(loss, params, 0.1, steps=2),
        lambda loss, params: orbit(loss, params, 0.1),
    ],
)
def test_every_call_refuses_a_vector_and_half_precision(call):
    with pytest.raises(ValueError, match="expected a function from params to one real number"):
        call(lambda w: w, jnp.ones(3))
    with pytest.raises(ValueError, match="Convert half precision"):
        call(jnp.sum, jnp.ones(3, jnp.float16))


@pytest.mark.parametrize("eta", [0.0, -1.0, float("inf"), float("nan")])
def test_a_step_size_that_is_none_is_refused(eta):
    for call in (functools.partial(track, steps=2), functools.partial(central_flow, steps=2), orbit):
        with pytest.raises(ValueError, match=f"must be positive and finite: got {eta}"):
            call(jnp.sum, jnp.ones(3), eta)


def test_products_beyond_convergence_do_no_harm():
    H, _ = matrix(np.r_[6.0, 4.0, np.linspace(3, 0, 58)])
    single = jnp.asarray(H, jnp.float32)
    start = jnp.ones(60, jnp.float32)
    found = top(
        lambda v: single @ v, start, jax.random.key(0), k=1, width=24, most=200, tol=0.0, check=False
    )  # 100 steps after the residual has come to rounding
    assert float(found.values[0]) == pytest.approx(6, rel=2e-6)
    assert float(found.residuals[0]) < 1e-5
