import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.planted import MODELS, make_blocks
from tests.relu.planted.conic import instance


@pytest.mark.parametrize("model", MODELS)
def test_the_products_are_those_of_one_matrix(model):
    blocks = instance(model)[0]
    rng = np.random.default_rng(1)
    W, nu = jnp.asarray(rng.standard_normal((blocks.d, blocks.g))), jnp.asarray(rng.standard_normal(blocks.n))
    units = jnp.eye(blocks.d * blocks.g).reshape(-1, blocks.d, blocks.g)
    A = np.asarray(jax.vmap(blocks.apply)(units)).T
    np.testing.assert_allclose(blocks.apply(W), A @ np.ravel(W), atol=1e-12)
    np.testing.assert_allclose(np.ravel(blocks.adjoint(nu)), A.T @ np.asarray(nu), atol=1e-12)
    np.testing.assert_allclose(blocks.gram(), A @ A.T, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(blocks.predictions(W), axis=1), blocks.apply(W), atol=1e-12)


def test_the_linear_block_comes_first():
    blocks = instance("skip")[0]
    w = jnp.arange(1.0, 5)
    np.testing.assert_allclose(blocks.apply(jnp.zeros((4, 13)).at[:, 0].set(w)), blocks.X @ w)


def test_bases_are_orthonormal_and_go_back_to_weights_also_where_the_rank_is_low():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((9, 4))
    D = np.stack([np.ones(9), np.arange(9) < 2, np.zeros(9)], axis=1)  # ranks 4, 2 and 0
    blocks = make_blocks(jnp.asarray(X), jnp.asarray(D), "normalised")
    for j, rank in enumerate((4, 2, 0)):
        U, back = np.asarray(blocks.U[:, :, j]), np.asarray(blocks.back[:, :, j])
        np.testing.assert_allclose(U.T @ U, np.diag(np.arange(4) < rank), atol=1e-12)
        np.testing.assert_allclose(D[:, [j]] * (X @ back), U, atol=1e-12)


def test_patterns_that_are_not_live_are_inert():
    X, D = jnp.ones((3, 2)), jnp.ones((3, 2))
    blocks = make_blocks(X, D, "skip", live=jnp.array([True, False]))
    np.testing.assert_array_equal(blocks.live, [True, True, False])
    np.testing.assert_array_equal(blocks.adjoint(jnp.ones(3))[:, 2], 0)


@pytest.mark.parametrize(
    ("X", "D", "model", "says"),
    [
        (np.ones((3, 2)), np.ones((3, 1)), "deep", "model must be one of"),
        (np.ones((3, 2)), np.ones((3, 0)), "plain", "no pattern left"),
        (np.ones((3, 4)), np.ones((3, 1)), "normalised", "n=3, d=4"),
    ],
)
def test_what_cannot_be_blocks_is_refused(X, D, model, says):
    with pytest.raises(ValueError, match=says):
        make_blocks(jnp.asarray(X), jnp.asarray(D), model)
