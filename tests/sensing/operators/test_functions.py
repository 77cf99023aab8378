import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import Operator, PackedOperator, check_adjoint
from pruneft.sensing.field import to_stored
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.functions import FunctionOperator

D, N = 6, 40
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((N, D))
PACKED = PackedOperator(jnp.asarray(RNG.standard_normal((N, D * (D + 1) // 2))))
_SIGNS = [np.array(m) for m in ([[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]])]
PAULIS = np.array([2 * np.kron(a, b) for a in _SIGNS for b in _SIGNS])  # times sqrt(d), d = 4


def _squares(matrix):
    return jnp.einsum("ni,ij,nj->n", VECTORS, matrix, VECTORS)


def _outer(residual):
    return jnp.einsum("n,ni,nj->ij", residual, VECTORS, VECTORS)


def _values(matrix, paulis):
    return jnp.real(jnp.einsum("nij,ji->n", paulis, matrix))


@pytest.fixture(scope="module")
def rank_one():
    return FunctionOperator.from_functions(_squares, _outer, d=D, dtype="float64")


@pytest.fixture(scope="module")
def pauli():
    return FunctionOperator.from_functions(
        _values, d=4, field="complex", arrays=(jnp.asarray(PAULIS),), dtype="float64"
    )


@pytest.fixture(scope="module")
def packed():
    return FunctionOperator.from_functions(PACKED.apply, d=D, n=N, dtype="float64")


def test_one_function_is_enough_and_the_parts_belong_together(rank_one, packed):
    assert check_adjoint(rank_one) < 1e-12
    assert check_adjoint(packed) < 1e-12
    assert isinstance(packed, Operator)
    assert (packed.n, packed.d, packed.dtype, packed.field) == (N, D, np.float64, "real")


def test_packed_measurements_as_a_function_are_what_they_were(packed):
    factor, e = jnp.asarray(RNG.standard_normal((3, D, 2))), jnp.asarray(RNG.standard_normal((3, N)))
    np.testing.assert_allclose(packed.image(factor), PACKED.image(factor), rtol=1e-11)
    np.testing.assert_allclose(packed.pull(e, factor), PACKED.pull(e, factor), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(packed.jacobian(factor), PACKED.jacobian(factor), rtol=1e-10, atol=1e-11)
    assert packed.dof(2) == PACKED.dof(2)


def test_the_whitening_of_gaussian_measurements_is_found(packed):
    # 32 probes of dimension 20: the gain's square to some percent; and the identity answers like any other matrix.
    e = jnp.asarray(RNG.standard_normal(N))
    white, expected = np.asarray(packed.whiten(e, N, D)), np.asarray(PACKED.whiten(e, N, D))
    assert np.linalg.norm(white - expected) < 0.35 * np.linalg.norm(expected)
    np.testing.assert_allclose(packed.size(e, N, D), PACKED.size(e, N, D), rtol=0.15)
    edge = float(PACKED.noise_edge(0.1, N, D))
    assert 0.7 * edge < float(packed.noise_edge(0.1, N, D)) < 1.3 * edge


def test_for_rank_one_measurements_the_estimate_does_what_soft_centring_does():
    # Soft centring of real unit Gaussian vectors is the loss (1/2) [mean e^2 - (1 - 2/d) (mean e)^2]. The estimate takes the response
    # ||x_i||^2 to the identity for the direction instead of a constant one, near which it scatters by sqrt(2/d).
    vectors = jnp.asarray(RNG.standard_normal((600, 16)))
    operator = FunctionOperator.from_functions(
        lambda matrix, x: jnp.sum((x @ matrix) * x, axis=-1), d=16, arrays=(vectors,), dtype="float64"
    )
    u, v = np.linalg.qr(RNG.standard_normal((16, 2)))[0].T
    matrices = np.array(
        [np.outer(u, u), np.outer(u, u) + 0.5 * np.outer(v, v), np.outer(u, u) - np.outer(v, v), np.eye(16)]
    )
    images = np.asarray(operator.apply(jnp.asarray(matrices)))
    white = np.asarray(operator.whiten(jnp.asarray(images), 600, 16))
    sizes = np.sum(matrices**2, axis=(1, 2))
    found = np.mean(images * white, axis=1) / sizes
    soft = (np.mean(images**2, axis=1) - (1 - 2 / 16) * np.mean(images, axis=1) ** 2) / 2 / sizes
    np.testing.assert_allclose(found[:3], soft[:3], rtol=0.2)
    assert np.all((found > 0.7) & (found < 1.4))
    plain = np.mean(images**2, axis=1) / 2 / sizes
    assert plain[3] > 6 * found[3]  # what is cured: the identity answers d/2 + 1 times as strongly as it should


@pytest.fixture
def usual_promotion():
    """Complex numbers made of real ones need it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_complex_measurements_see_hermitian_matrices(pauli, usual_promotion):
    factor = RNG.standard_normal((4, 2)) + 1j * RNG.standard_normal((4, 2))
    matrix = factor @ factor.conj().T
    values = np.real(np.einsum("nij,ji->n", PAULIS, matrix))
    np.testing.assert_allclose(pauli.image(jnp.asarray(to_stored(factor))), values, rtol=1e-11)
    e = RNG.standard_normal(16)
    back = np.einsum("n,nij->ij", e, PAULIS)
    np.testing.assert_allclose(pauli.adjoint(jnp.asarray(e)), back, atol=1e-11)
    pulled = np.asarray(pauli.pull(jnp.asarray(e), jnp.asarray(to_stored(factor))))
    np.testing.assert_allclose(pulled, to_stored(back @ factor), atol=1e-10)
    # The full set of Paulis times sqrt(d) is isotropic: W is the identity.
    np.testing.assert_allclose(pauli.whiten(jnp.asarray(e), 16, 4), e, rtol=1e-10)
    assert (pauli.field, pauli.dof(2)) == ("complex", 12)


def test_it_goes_through_jit_vmap_and_both_precisions(pauli, usual_promotion):
    stored = jnp.asarray(RNG.standard_normal((3, 8, 2)))
    expected = np.asarray(pauli.image(stored))
    np.testing.assert_allclose(jax.jit(lambda o, u: jax.vmap(o.image)(u))(pauli, stored), expected, rtol=1e-12)
    narrow = cast(pauli, jnp.float32)
    assert narrow.dtype == np.float32
    assert narrow.apply(jnp.eye(4, dtype=jnp.complex64)).dtype == jnp.float32
    hash(jax.tree.structure(pauli))  # static functions: what jit looks programs up by


def test_a_whitening_of_ones_own_is_used_as_it_is():
    operator = FunctionOperator.from_functions(_squares, d=D, whitening=lambda e: 3 * e, dtype="float64")
    e = jnp.asarray(RNG.standard_normal((2, N)))
    np.testing.assert_allclose(operator.whiten(e, N, D), 3 * np.asarray(e), rtol=1e-12)


def test_its_cost_grows_with_columns(packed, pauli):
    assert packed.step_cost(4)[0] == 4 * D * D * 4
    assert pauli.step_cost(4)[0] == 4 * 4 * 16 * 4
    assert packed.step_cost(8)[1] > packed.step_cost(4)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"apply": lambda X: X}, r"turn a \[6, 6\] matrix into a vector"),
        ({"apply": _squares, "n": 7}, r"vector \[7\]"),
        ({"apply": lambda X: np.asarray(X)[0]}, "JAX can trace"),
        ({"apply": lambda X: X[0] + 1}, "not linear"),
        ({"apply": lambda X: X[0].astype(complex)}, "real numbers"),
        ({"apply": lambda X: 0 * X[0]}, "all measurements are zero"),
        ({"apply": lambda X: X[0] * jnp.nan}, "finite"),
        ({"apply": _squares, "adjoint": lambda e: 2 * _outer(e)}, "not the adjoint of apply"),
        ({"apply": 3}, "apply must be a function"),
        ({"apply": _squares, "field": "quaternion"}, "field must be"),
        ({"apply": _squares, "d": 0}, "d .side of the matrix."),
    ],
)
def test_functions_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FunctionOperator.from_functions(**{"d": D, "dtype": "float64", **arguments})
