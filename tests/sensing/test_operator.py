import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import Gram, Operator, PackedOperator
from pruneft.sensing.operator import cast

N, D, R = 7, 5, 2


def _data(dtype="float64"):
    generator = np.random.default_rng(0)
    a = generator.standard_normal((N, D, D))
    x = generator.standard_normal((D, D))
    return a, x + x.T, generator.standard_normal(N), generator.standard_normal((D, R))


A, X, E, U = _data()
SYMMETRIC = (A + np.swapaxes(A, 1, 2)) / 2
OPERATOR = PackedOperator.from_matrices(jnp.asarray(A))


def test_apply_is_the_inner_product_with_asymmetric_matrices_too(dtype, tolerance):
    operator = PackedOperator.from_matrices(jnp.asarray(A, dtype))
    result = operator.apply(jnp.asarray(X, dtype))
    assert (operator.dtype, result.dtype) == (dtype, dtype)
    np.testing.assert_allclose(result, np.einsum("nij,ij->n", A, X), rtol=10 * tolerance, atol=10 * tolerance)


def test_adjoint_is_the_sum_of_symmetric_parts():
    np.testing.assert_allclose(OPERATOR.adjoint(jnp.asarray(E)), np.einsum("n,nij->ij", E, SYMMETRIC), rtol=1e-11)


def test_adjoint_is_adjoint_to_apply():
    forward = np.asarray(OPERATOR.apply(jnp.asarray(X))) @ E
    back = np.sum(X * np.asarray(OPERATOR.adjoint(jnp.asarray(E))))
    np.testing.assert_allclose(forward, back, rtol=1e-12)


def test_jacobian_is_the_derivative_of_the_measured_square():
    factor = jnp.asarray(U)
    expected = jax.jit(jax.jacobian(lambda u: OPERATOR.apply(u @ u.T)))(factor)
    chex.assert_trees_all_close(OPERATOR.jacobian(factor), expected, rtol=1e-11)
    np.testing.assert_allclose(OPERATOR.jacobian(factor), 2 * SYMMETRIC @ U, rtol=1e-11)


def test_batches_go_through_in_front():
    batch = np.stack([X, 2 * X, X @ X])
    np.testing.assert_allclose(
        OPERATOR.apply(jnp.asarray(batch)), np.einsum("nij,bij->bn", A, batch), rtol=1e-10, atol=1e-12
    )
    errors = np.stack([E, -E, E**2])
    np.testing.assert_allclose(
        OPERATOR.adjoint(jnp.asarray(errors)), np.einsum("bn,nij->bij", errors, SYMMETRIC), rtol=1e-10, atol=1e-12
    )
    factors = np.stack([U, -3 * U])
    np.testing.assert_allclose(
        OPERATOR.jacobian(jnp.asarray(factors)), 2 * np.einsum("nij,bjr->bnir", SYMMETRIC, factors), rtol=1e-10
    )


def test_operator_meets_the_contract_and_is_a_pytree():
    assert isinstance(OPERATOR, Operator)
    assert (OPERATOR.n, OPERATOR.d) == (N, D)
    doubled = jax.jit(lambda operator: operator.scaled(2.0))(OPERATOR)
    np.testing.assert_allclose(doubled.rows, 2 * OPERATOR.rows)
    assert cast(OPERATOR, jnp.float32).dtype == np.float32


@pytest.mark.parametrize(("d", "r", "p"), [(16, 1, 16), (16, 2, 31), (16, 16, 136), (5, 3, 12)])
def test_degrees_of_freedom_do_not_count_rotations(d, r, p):
    assert OPERATOR.dof(r, d) == p


def test_degrees_of_freedom_take_the_side_of_the_matrix_if_no_live_one_is_given():
    assert OPERATOR.dof(2) == 2 * D - 1
    assert int(jax.jit(lambda r: OPERATOR.dof(r, jnp.asarray(16.0)))(jnp.asarray(2.0))) == 31


def test_scaling_takes_one_factor_or_one_per_measurement():
    factors = np.arange(1.0, N + 1)
    np.testing.assert_allclose(
        OPERATOR.scaled(jnp.asarray(factors)).apply(jnp.asarray(X)), factors * np.einsum("nij,ij->n", A, X), rtol=1e-11
    )


def test_gain_is_the_root_mean_square_of_the_live_entries(dtype, tolerance):
    rows = np.random.default_rng(1).standard_normal((30, 15))
    expected = np.sqrt(np.mean(rows**2))
    padded = np.zeros((34, 21))
    padded[:30, :15] = rows
    gain = jax.jit(lambda rows, n, d: PackedOperator(rows).gain(n, d))
    for unit in (1e-30, 1.0, 1e30):  # squares of these overflow or vanish in float32
        found = gain(jnp.asarray(unit * padded, dtype), 30, 5)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, unit * expected, rtol=tolerance)
    assert float(gain(jnp.zeros((34, 21), dtype), 30, 5)) == 0


def test_gain_of_the_gaussian_ensemble_is_one():
    # 400 x 36 standard normal entries: the root mean square has standard error 1/sqrt(2 * 14400) = .006.
    rows = np.random.default_rng(2).standard_normal((400, 36))
    assert abs(float(PackedOperator(jnp.asarray(rows)).gain(400, 8)) - 1) < 5 * 0.006


def test_gram_form_gives_the_residual_matrix_of_the_direct_form():
    y = jnp.asarray(E)
    direct = OPERATOR.adjoint(OPERATOR.apply(jnp.asarray(X)) - y) / N
    gram = Gram.of(OPERATOR, y, N)
    chex.assert_trees_all_close(gram.residual_matrix(jnp.asarray(X)), direct, rtol=1e-11, atol=1e-13)


def test_gram_form_averages_over_live_measurements_only():
    y = jnp.asarray(E)
    padded = PackedOperator(jnp.zeros((N + 3, 15)).at[:N].set(OPERATOR.rows))
    gram = Gram.of(padded, jnp.zeros(N + 3).at[:N].set(y), N)
    chex.assert_trees_all_close(gram, Gram.of(OPERATOR, y, N), rtol=1e-12)


def test_gram_form_pays_from_as_many_measurements_as_packed_entries():
    assert [Gram.pays(n, 8) for n in (35, 36, 37)] == [False, True, True]
