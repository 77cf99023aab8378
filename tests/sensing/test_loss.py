import jax
import jax.numpy as jnp
import numpy as np

from pruneft.penalty import smoothed_group_norm
from pruneft.sensing import PackedOperator, mean_squared_error, objective

GENERATOR = np.random.default_rng(0)
A = GENERATOR.standard_normal((7, 4, 4))
Y, U = GENERATOR.standard_normal(7), GENERATOR.standard_normal((4, 3))
ERRORS = np.einsum("nij,ij->n", A, U @ U.T) - Y


def _inputs(dtype):
    return jnp.asarray(U, dtype), PackedOperator.from_matrices(jnp.asarray(A, dtype)), jnp.asarray(Y, dtype)


def test_loss_and_gradient_have_their_closed_forms(dtype, tolerance):
    value, slope = jax.jit(jax.value_and_grad(mean_squared_error))(*_inputs(dtype))
    residual_matrix = np.einsum("n,nij->ij", ERRORS, (A + np.swapaxes(A, 1, 2)) / 2) / 7
    assert (value.dtype, slope.dtype) == (dtype, dtype)
    np.testing.assert_allclose(value, np.mean(ERRORS**2), rtol=10 * tolerance)
    np.testing.assert_allclose(slope, 4 * residual_matrix @ U, rtol=10 * tolerance, atol=10 * tolerance)


def test_mean_is_over_live_measurements():
    factor, operator, y = _inputs("float64")
    padded = PackedOperator(jnp.zeros((10, 10)).at[:7].set(operator.rows))
    value = mean_squared_error(factor, padded, jnp.zeros(10).at[:7].set(y), n=7)
    np.testing.assert_allclose(value, np.mean(ERRORS**2), rtol=1e-12)


def test_objective_adds_the_smoothed_norm_with_its_weight():
    factor, operator, y = _inputs("float64")
    expected = np.mean(ERRORS**2) + 0.7 * float(smoothed_group_norm(factor, 0.01))
    np.testing.assert_allclose(objective(factor, operator, y, 0.7, 0.01), expected, rtol=1e-12)


def test_gradient_of_the_objective_is_zero_at_a_zero_column():
    factor, operator, y = _inputs("float64")
    slope = jax.jit(jax.grad(objective))(factor.at[:, 1].set(0), operator, y, 0.7, 0.01)
    assert np.isfinite(slope).all()
    assert not np.any(slope[:, 1])
    assert np.any(slope[:, 0])
