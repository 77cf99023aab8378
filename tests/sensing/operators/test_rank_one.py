import operator as operators

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import Operator
from pruneft.sensing.field import factor_of, stored_of
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.rank_one import RankOne
from pruneft.sensing.operators.rank_one_input import SuspiciousData, SuspiciousVectors

N, D, K, BATCH = 9, 4, 3, 2
RNG = np.random.default_rng(0)


def _numbers(kind, *shape):
    real = RNG.standard_normal(shape)
    return real if kind == "real" else (real + 1j * RNG.standard_normal(shape)) / 2**0.5


def _case(kind):
    vectors = _numbers(kind, N, D)
    half = _numbers(kind, BATCH, D, D)
    return {
        "vectors": vectors,
        "matrices": vectors[:, :, None] * vectors[:, None, :].conj(),
        "X": half + half.conj().swapaxes(1, 2),
        "U": _numbers(kind, BATCH, D, K),
        "e": RNG.standard_normal((BATCH, N)),
    }


KINDS = ("real", "complex")
CASES = {kind: _case(kind) for kind in KINDS}


def _operator(kind, dtype="float64"):
    return cast(RankOne.from_vectors(CASES[kind]["vectors"]), dtype)


def _stored(kind, dtype="float64"):
    return jnp.asarray(stored_of(CASES[kind]["U"], kind), dtype)


def _close(found, expected, tolerance):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=20 * tolerance * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_dense_matrices(kind, dtype, tolerance):
    case, operator, stored = CASES[kind], _operator(kind, dtype), _stored(kind, dtype)
    dense, e, U = case["matrices"], jnp.asarray(case["e"], dtype), case["U"]
    wide = {"float32": "complex64", "float64": "complex128"}[dtype]
    X = jnp.asarray(case["X"], dtype if kind == "real" else wide)
    assert isinstance(operator, Operator)
    assert (operator.n, operator.d, operator.field, operator.dtype) == (N, D, kind, dtype)
    M = U @ U.conj().swapaxes(1, 2)
    _close(operator.apply(X), np.einsum("nij,bji->bn", dense, case["X"]).real, tolerance)
    _close(operator.adjoint(e), np.einsum("bn,nij->bij", case["e"], dense), tolerance)
    _close(operator.image(stored), np.einsum("nij,bji->bn", dense, M).real, tolerance)
    pulled = operator.pull(e, stored)
    assert pulled.dtype == dtype
    _close(factor_of(np.asarray(pulled), kind), np.einsum("bn,nij,bjk->bik", case["e"], dense, U), tolerance)
    slopes = factor_of(np.asarray(operator.jacobian(stored)), kind)
    _close(slopes, 2 * np.einsum("nij,bjk->bnik", dense, U), tolerance)
    np.testing.assert_array_equal(operator.linearised()(stored[0]), operator.jacobian(stored[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_and_pull_are_derivatives_of_the_image_as_stored(kind):
    operator, stored, e = _operator(kind), _stored(kind)[0], jnp.asarray(CASES[kind]["e"][0])
    _close(operator.jacobian(stored), jax.jit(jax.jacobian(operator.image))(stored), 1e-12)
    _close(2 * operator.pull(e, stored), jax.jit(jax.grad(lambda u: e @ operator.image(u)))(stored), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_problems_are_those_of_single_ones(kind):
    operator = _operator(kind)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), operator)
    together = jax.jit(jax.vmap(lambda op, u: op.pull(op.whiten(op.image(u), op.n, op.d), u)))(twice, _stored(kind))
    for place in range(2):
        one = jax.tree.map(operators.itemgetter(place), twice)
        u = _stored(kind)[place]
        _close(together[place], one.pull(one.whiten(one.image(u), N, D), u), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_whitening_is_symmetric_invertible_and_leaves_truth_at_zero_residual(kind):
    operator = _operator(kind)
    W = np.asarray(operator.whiten(jnp.eye(N), N, D)) * np.asarray(operator.level[0]) ** 2
    np.testing.assert_allclose(W, W.T, atol=1e-14)
    g = 2 if kind == "real" else 1
    # All directions but the mean over g, the mean over d: nothing is lost.
    np.testing.assert_allclose(np.linalg.eigvalsh(W), np.sort([1 / D] + [1 / g] * (N - 1)), atol=1e-14)
    assert not np.any(operator.whiten(jnp.zeros(N), N, D))


@pytest.mark.parametrize("kind", KINDS)
def test_whitened_measurements_of_many_vectors_are_isotropic(kind):
    n, d = 40_000, 5
    operator = RankOne.from_vectors(3.0 * _numbers(kind, n, d))
    y = np.stack([_numbers(kind, d, d) for _ in range(2)])
    shapes = [np.eye(d), np.diag([1.0, -1, 0, 0, 0]), np.ones((d, d)) - np.eye(d), *(y + y.conj().swapaxes(1, 2))]
    for X in shapes:
        image = operator.apply(jnp.asarray(X))
        energy = float(image @ operator.whiten(image, n, d)) / n
        trace, norm = np.trace(X).real ** 2, np.linalg.norm(X) ** 2
        expected = norm + trace / d  # population curvature: g/d of the squared trace is left, over g
        # Fourth moments of x give a relative deviation of at most 12 / sqrt(n).
        np.testing.assert_allclose(energy, expected, rtol=5 * 12 / n**0.5)
    # The size of the data is the root of the variance over g: exact for the traceless ones.
    data = operator.apply(jnp.asarray(shapes[1]))
    np.testing.assert_allclose(operator.size(data, n, d), np.linalg.norm(shapes[1]), rtol=5 * 6 / n**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_inert_and_exactly_zero(kind):
    vectors = CASES[kind]["vectors"]
    padded_vectors = np.zeros((N + 3, D + 2), vectors.dtype)
    rows = np.r_[0:4, 6 : N + 2]  # zero rows stand between measurements too
    padded_vectors[rows, :D] = vectors
    plain, padded = _operator(kind), RankOne.from_vectors(padded_vectors)
    # The mean square of the entries counts the padded dimensions: set it to what it was.
    padded = RankOne(padded.vectors, padded.imaginary, padded.level * (D + 2) / D, None, kind)
    factor = np.zeros((D + 2, K), vectors.dtype)
    factor[:D] = CASES[kind]["U"][0]
    u, wide = _stored(kind)[0], jnp.asarray(stored_of(factor, kind))
    e, wide_e = plain.image(u), padded.image(wide)
    w, wide_w = plain.whiten(e - 1, N, D), padded.whiten(wide_e - 1, N, D)
    gaps = np.setdiff1d(np.arange(N + 3), rows)
    assert not np.any(wide_e[gaps])
    assert not np.any(wide_w[gaps])
    np.testing.assert_allclose(wide_w[rows], w, atol=1e-13)
    pulled = padded.pull(wide_w, wide)
    assert not np.any(pulled[u.shape[0] :])
    assert not np.any(padded.jacobian(wide)[gaps])
    np.testing.assert_allclose(pulled[: u.shape[0]], plain.pull(w, u), atol=1e-12)
    np.testing.assert_allclose(padded.size(wide_e, N, D), plain.size(e, N, D), rtol=1e-12)
    np.testing.assert_allclose(padded.noise_edge(0.1, N, D), plain.noise_edge(0.1, N, D), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_scale_measurements_whitening_and_all(kind):
    operator, weights = _operator(kind), jnp.asarray(RNG.uniform(0.5, 2, N))
    scaled, u = operator.scaled(weights), _stored(kind)[0]
    np.testing.assert_allclose(scaled.image(u), weights * operator.image(u), rtol=1e-12)
    # What a multiple of the identity gives is shrunk to g/d of itself, whatever the weights.
    same = scaled.whiten(scaled.level, N, D)
    np.testing.assert_allclose(same / scaled.level, (same / scaled.level)[0], rtol=1e-12)
    for unit in (1e-3, 1e3):
        other = operator.scaled(unit)
        np.testing.assert_allclose(
            other.size(unit * operator.image(u), N, D), operator.size(operator.image(u), N, D), rtol=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_edge_is_the_largest_eigenvalue_that_noise_gives(kind):
    n, d = 2000, 20
    operator = RankOne.from_vectors(2.0 * _numbers(kind, n, d))
    noise = jnp.asarray(0.3 * RNG.standard_normal((5, n)))
    largest = np.linalg.eigvalsh(np.asarray(operator.adjoint(operator.whiten(noise, n, d))) / n)[:, -1]
    # Five draws of a Tracy-Widom edge at d = 20: within a quarter of it.
    assert abs(largest.mean() / float(operator.noise_edge(0.3, n, d)) - 1) < 0.25


@pytest.mark.parametrize(("kind", "expected"), [("real", [4, 7, 9, 10]), ("complex", [7, 12, 15, 16])])
def test_degrees_of_freedom_are_the_rank_of_the_jacobian(kind, expected):
    operator = RankOne.from_vectors(_numbers(kind, 24, D))
    for rank, dof in enumerate(expected, start=1):
        assert operator.dof(rank) == dof
        slopes = operator.jacobian(jnp.asarray(stored_of(_numbers(kind, D, rank), kind)))
        assert np.linalg.matrix_rank(np.asarray(slopes).reshape(24, -1), tol=1e-9) == dof
    assert operator.dof(2, d=7) == (13 if kind == "real" else 24)


@pytest.mark.parametrize("kind", KINDS)
def test_correlated_vectors_are_made_white_and_factors_led_back(kind):
    mix = _numbers(kind, D, D)
    covariance = mix @ mix.conj().T
    vectors = CASES[kind]["vectors"] @ mix.T
    operator = RankOne.from_vectors(vectors, covariance=covariance)
    inner = CASES[kind]["U"][0]  # what recovery finds: a factor of C^{1/2} M C^{1/2}
    outer = operator.original(inner)
    plain = RankOne.from_vectors(vectors)
    np.testing.assert_allclose(
        operator.image(jnp.asarray(stored_of(inner, kind))), plain.image(jnp.asarray(stored_of(outer, kind))), rtol=1e-9
    )
    values, basis = np.linalg.eigh(covariance)
    root = (basis * np.sqrt(values)) @ basis.conj().T
    np.testing.assert_allclose(root @ outer, inner, atol=1e-9)
    assert plain.original(inner) is inner


def test_cost_of_a_step_counts_two_products_with_the_vectors():
    flops, moved = _operator("real", "float32").step_cost(K)
    assert flops == 4 * N * D * K
    assert moved == 4 * (2 * N * D + 4 * N * K + 4 * D * K)
    assert _operator("complex").step_cost(K)[0] == 4 * flops


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((3, 2)), "all zero"),
        (np.zeros(3), r"shape \[n, d\]"),
        (np.zeros((0, 3)), r"shape \[n, d\]"),
        (np.array([[1.0, np.nan]]), r"first at index \(0, 1\)"),
        (np.array([["a"]]), "numbers"),
    ],
)
def test_vectors_that_make_no_sense_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        RankOne.from_vectors(vectors)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (np.eye(3), r"shape \[d, d\] = \[4, 4\]"),
        (np.diag([1.0, 1, 1, 0]), "positive definite"),
        (np.triu(np.ones((4, 4))), "Hermitian"),
        (1j * np.eye(4), "real where the vectors are"),
    ],
)
def test_covariances_that_make_no_sense_are_refused(covariance, message):
    with pytest.raises(ValueError, match=message):
        RankOne.from_vectors(CASES["real"]["vectors"], covariance=covariance)
    with pytest.raises(ValueError, match="factor must have shape"):
        _operator("real").original(np.zeros(4))


def _data(vectors, sigma=0.0):
    U = np.eye(vectors.shape[1])[:, :2]
    return np.sum(np.abs(vectors @ U) ** 2, axis=1) + sigma * RNG.standard_normal(len(vectors))


@pytest.mark.parametrize("kind", KINDS)
def test_plausible_data_pass_without_a_word(kind):
    for n, d in ((40, 30), (200, 8), (1000, 20)):
        vectors = _numbers(kind, n, d)
        RankOne.from_vectors(vectors).check_data(_data(vectors, sigma=0.2), n)


def test_data_that_no_positive_matrix_gives_are_refused():
    vectors = _numbers("real", 200, 8)
    operator, y = RankOne.from_vectors(vectors), _data(vectors)
    with pytest.raises(ValueError, match="mean estimates the trace"):
        operator.check_data(-y, 200)
    gross = y.copy()
    gross[17] = -100 * y.std()
    with pytest.raises(ValueError, match="measurement 17"):
        operator.check_data(gross, 200)
    with pytest.warns(SuspiciousData, match="mean was subtracted"):
        operator.check_data(y - y.mean(), 200)


def test_vectors_with_a_mean_or_with_correlations_are_warned_of():
    vectors = _numbers("real", 200, 8)
    shifted, long = vectors + 1.0, vectors * np.array([4.0, 1, 1, 1, 1, 1, 1, 1])
    with pytest.warns(SuspiciousVectors, match="mean of the vectors"):
        RankOne.from_vectors(shifted).check_data(_data(shifted), 200)
    with pytest.warns(SuspiciousVectors, match="correlated"):
        RankOne.from_vectors(long).check_data(_data(long), 200)
    white = RankOne.from_vectors(long, covariance=np.diag([16.0, 1, 1, 1, 1, 1, 1, 1]))
    white.check_data(_data(long), 200)
