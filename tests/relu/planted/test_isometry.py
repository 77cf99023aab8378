import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.planted import coordinates, interior, nic, nic_linear
from tests.relu.planted.conic import instance


def _worst(blocks, nu, planted):
    size = np.linalg.norm(np.asarray(blocks.adjoint(jnp.asarray(nu))), axis=0)
    return max(value for j, value in enumerate(size) if j not in planted)


def test_the_linear_condition_is_its_formula():
    blocks, _, _ = instance("skip", n=30)
    w = np.array([1.0, 2.0, -1.0, 0.5])
    X = np.asarray(blocks.X)
    nu = X @ np.linalg.solve(X.T @ X, w / np.linalg.norm(w))
    found = nic_linear(blocks, jnp.asarray(w))
    np.testing.assert_allclose(found.nu, nu, atol=1e-10)
    assert float(found.worst) == pytest.approx(_worst(blocks, nu, {0}), rel=1e-10)
    assert float(found.misfit) < 1e-12


@pytest.mark.parametrize("k", [1, 2])
def test_the_conditions_of_relu_neurons_are_their_formulas(k):
    blocks, _, w = instance("plain", n=30)
    X, D, signs = np.asarray(blocks.X), np.asarray(blocks.D), np.array([1.0, -1.0])[:k]
    units = w[:, :k] / np.linalg.norm(w[:, :k], axis=0) * signs
    rows = np.concatenate([X.T * D[:, i] for i in range(k)])
    nu = np.linalg.pinv(rows) @ units.T.ravel()
    found = nic(blocks, jnp.arange(k), jnp.asarray(w[:, :k]), jnp.asarray(signs))
    np.testing.assert_allclose(found.nu, nu, atol=1e-8)
    assert float(found.worst) == pytest.approx(_worst(blocks, nu, set(range(k))), rel=1e-9)


def test_the_normalised_condition_does_not_depend_on_the_bases():
    blocks, _, w = instance("normalised", n=30)
    X, D = np.asarray(blocks.X), np.asarray(blocks.D)
    rows, units = [], []
    for i in range(2):
        U, size, Vt = np.linalg.svd(D[:, [i]] * X, full_matrices=False)
        turned = np.linalg.qr(np.random.default_rng(i).standard_normal((4, 4)))[0]
        inside = turned.T @ (size * (Vt @ w[:, i]))
        rows.append((U @ turned).T)
        units.append(inside / np.linalg.norm(inside))
    nu = np.linalg.pinv(np.concatenate(rows)) @ np.concatenate(units)
    found = nic(blocks, jnp.arange(2), jnp.asarray(w))
    assert float(found.worst) == pytest.approx(_worst(blocks, nu, {0, 1}), rel=1e-9)


def test_a_pattern_that_contains_the_planted_one_ties():
    blocks, _, w = instance("plain", n=30)
    more = blocks.D.at[:, 5].set(blocks.D[:, 0].at[jnp.argmin(blocks.D[:, 0])].set(1))
    tied = type(blocks)(X=blocks.X, D=more, model="plain")
    found = nic(tied, jnp.array([0]), jnp.asarray(w[:, :1]))
    assert float(jnp.linalg.norm(tied.adjoint(found.nu)[:, 5])) == pytest.approx(1, abs=1e-12)
    assert not bool(found.holds)


def test_where_the_condition_holds_the_planted_blocks_are_the_optimum():
    held = 0
    for seed in range(6):
        blocks, y, w = instance("normalised", n=24, P=16, seed=seed, neurons=1, noise=0.0)
        found = nic(blocks, jnp.array([0]), jnp.asarray(w))
        solved = interior.solve(blocks, y)
        aim = jnp.zeros((blocks.d, blocks.g)).at[:, 0].set(coordinates(blocks, 0, jnp.asarray(w[:, 0])))
        close = float(jnp.max(jnp.abs(solved.W - aim))) < 1e-4
        assert close or not bool(found.holds)
        held += bool(found.holds)
    assert held >= 2


def test_what_cannot_be_asked_is_refused():
    blocks, _, w = instance("plain")
    with pytest.raises(ValueError, match="skip connection"):
        nic_linear(blocks, jnp.ones(4))
    with pytest.raises(ValueError, match=r"neuron 1 .* is zero"):
        nic(blocks, jnp.arange(2), jnp.asarray(w).at[:, 1].set(0))
    with pytest.raises(ValueError, match="at most d=4 features"):
        nic(blocks, jnp.arange(5), jnp.ones((4, 5)))
    assert np.isinf(float(jax.jit(lambda w: nic(blocks, jnp.arange(1), w).worst)(jnp.zeros((4, 1)))))
