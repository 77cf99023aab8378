import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import gauge_basis, least_curvature
from pruneft.sensing.second_order import dense_curvature

D, R, N = 7, 3, 30
GENERATOR = np.random.default_rng(0)
HALF = GENERATOR.standard_normal((N, D, D))
A = HALF + np.swapaxes(HALF, 1, 2)
U = GENERATOR.standard_normal((D, R))
Y = np.einsum("nij,ik,jk->n", A, U, U) + 0.3 * GENERATOR.standard_normal(N)


def _loss(flat):
    u = flat.reshape(D, R)
    return jnp.mean((jnp.einsum("nij,ik,jk->n", A, u, u) - Y) ** 2)


HESSIAN = np.asarray(jax.hessian(_loss)(jnp.asarray(U.ravel())))


def test_gauge_directions_leave_the_matrix_as_it_is():
    basis = gauge_basis(U)
    assert basis.shape == (D * R, 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    for direction in basis.T.reshape(3, D, R):
        np.testing.assert_allclose(U @ direction.T + direction @ U.T, 0, atol=1e-12)
    assert gauge_basis(U[:, :1]).shape == (D, 0)


def test_lanczos_finds_the_ends_of_the_spectrum_that_a_dense_solver_finds():
    gauge = gauge_basis(U)
    complement = np.linalg.svd(gauge, full_matrices=True)[0][:, 3:]
    exact = np.linalg.eigvalsh(complement.T @ HESSIAN @ complement)
    dense = dense_curvature(HESSIAN, gauge)
    found = least_curvature(lambda v: HESSIAN @ v, D * R, deflate=gauge)
    np.testing.assert_allclose([dense.low, dense.high], exact[[0, -1]], rtol=1e-9, atol=1e-9 * exact[-1])
    np.testing.assert_allclose([found.low, found.high], exact[[0, -1]], rtol=1e-7, atol=1e-7 * exact[-1])
    assert found.steps <= D * R - 3


def test_without_deflation_the_rotations_hide_the_least_curvature_of_a_minimum():
    # Positive curvature everywhere but along three null directions.
    gauge = gauge_basis(U)
    frame = np.linalg.svd(gauge, full_matrices=True)[0]
    matrix = frame @ np.diag([0, 0, 0, *np.linspace(2, 5, D * R - 3)]) @ frame.T
    assert abs(least_curvature(lambda v: matrix @ v, D * R).low) < 1e-9
    np.testing.assert_allclose(least_curvature(lambda v: matrix @ v, D * R, deflate=gauge).low, 2, rtol=1e-9)


def test_repeated_eigenvalues_and_few_steps_are_survived():
    found = least_curvature(lambda v: np.where(np.arange(40) == 7, -1.0, 3.0) * v, 40)
    np.testing.assert_allclose([found.low, found.high], [-1, 3], rtol=1e-9)
    short = least_curvature(lambda v: np.arange(40.0) * v, 40, max_steps=4)
    assert short.steps == 4
    assert short.error > 0


def test_a_product_that_is_not_finite_and_an_empty_space_are_refused():
    with pytest.raises(ValueError, match="Hessian-vector product is not finite"):
        least_curvature(lambda v: v * np.nan, 4)
    with pytest.raises(ValueError, match="3 of 3 directions are deflated"):
        least_curvature(lambda v: v, 3, deflate=np.eye(3))
