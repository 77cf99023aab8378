import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import draw_instance, draw_truth
from pruneft.sensing.packing import packed_size

KEY = jax.random.key(7)
N, D, R = 9, 5, 3


@functools.cache
def _drawer(n, d, dtype):
    def draw(key, live_n, live_d, r, kappa, scale, sigma):
        return draw_instance(
            key, n=n, d=d, r=r, kappa=kappa, scale=scale, sigma=sigma, dtype=dtype, live_n=live_n, live_d=live_d
        )

    return jax.jit(draw)


def _draw(n=N, d=D, dtype="float64", live=(N, D), r=R, kappa=4.0, scale=2.0, sigma=0.1, key=KEY):
    return _drawer(n, d, dtype)(key, *live, r, kappa, scale, sigma)


def test_padding_changes_no_bit_of_the_measurements_and_only_rounding_of_the_rest():
    plain, padded = _draw(), _draw(n=N + 4, d=D + 3)
    rows = np.asarray(padded.operator.rows)
    np.testing.assert_array_equal(rows[:N, : packed_size(D)], plain.operator.rows)
    np.testing.assert_allclose(padded.truth[:D, :D], plain.truth, atol=1e-13)
    np.testing.assert_allclose(padded.factor[:D, :D], plain.factor, atol=1e-13)
    np.testing.assert_allclose(padded.y[:N], plain.y, atol=1e-12)


def test_everything_that_is_padded_is_exactly_zero():
    padded = _draw(n=N + 4, d=D + 3)
    rows = np.asarray(padded.operator.rows)
    for part in (rows[N:], rows[:, packed_size(D) :], padded.y[N:], padded.truth[D:], padded.factor[D:]):
        assert not np.any(part)
    assert not np.any(padded.factor[:, R:])
    assert np.all(np.any(rows[:N, : packed_size(D)], axis=1))


def test_both_precisions_see_the_same_instance():
    single, double = _draw(dtype="float32"), _draw(dtype="float64")
    np.testing.assert_array_equal(single.operator.rows, double.operator.rows)
    assert (single.y.dtype, double.y.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single.y, double.y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(single.truth, double.truth, atol=1e-5)


def test_batched_draws_are_those_of_single_trials_bit_for_bit():
    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(lambda key: _drawer(N, D, "float64")(key, N, D, R, 4.0, 2.0, 0.1)))(keys)
    for lane in range(3):
        alone = _draw(key=keys[lane])
        np.testing.assert_array_equal(together.operator.rows[lane], alone.operator.rows)
        np.testing.assert_allclose(together.y[lane], alone.y, atol=1e-12)


@pytest.mark.parametrize("r", [1, 2, 3, 5])
def test_eigenvalues_fall_geometrically_by_kappa_and_have_the_norm_asked_for(r):
    drawn = _draw(r=r, kappa=8.0, scale=3.0)
    eigenvalues = np.sort(np.linalg.eigvalsh(drawn.truth))[::-1]
    shape = 8.0 ** (-np.arange(r) / max(r - 1, 1))
    np.testing.assert_allclose(eigenvalues[:r], 3.0 * shape / np.linalg.norm(shape), rtol=1e-10)
    np.testing.assert_allclose(eigenvalues[r:], 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(drawn.truth), 3.0, rtol=1e-12)
    np.testing.assert_allclose(drawn.factor @ drawn.factor.T, drawn.truth, atol=1e-13)


def test_data_are_measurements_of_the_truth_plus_sigma_times_one_noise():
    clean, noisy, noisier = (_draw(sigma=sigma) for sigma in (0.0, 0.1, 0.3))
    np.testing.assert_allclose(clean.operator.apply(clean.truth.astype(jnp.float32)), clean.y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(noisier.y - clean.y, 3 * (noisy.y - clean.y), rtol=1e-10)


def test_truth_and_noise_do_not_depend_on_each_others_settings():
    # Methods and noise levels must meet the same measurements and the same truth.
    reference = _draw()
    for other in (_draw(sigma=0.0), _draw(kappa=1.0), _draw(scale=7.0)):
        np.testing.assert_array_equal(other.operator.rows, reference.operator.rows)
    np.testing.assert_array_equal(_draw(sigma=0.0).truth, reference.truth)


def test_other_keys_draw_other_instances():
    other = _draw(key=jax.random.key(8))
    assert not np.any(np.asarray(other.operator.rows) == np.asarray(_draw().operator.rows))
    assert np.abs(np.asarray(other.truth - _draw().truth)).max() > 0.1


@pytest.fixture(scope="module")
def many():
    """2000 measurements of one truth."""
    return _draw(n=2000, d=6, live=(2000, 6), sigma=0.5, scale=1.0)


def test_noise_is_standard_normal_times_sigma(many):
    noise = np.asarray(many.y) - np.asarray(many.operator.apply(many.truth.astype(jnp.float32)), np.float64)
    # Mean 0 +- .5/sqrt(2000) = .011; standard deviation .5 +- .5/sqrt(4000) = .008: five standard errors.
    assert abs(noise.mean()) < 5 * 0.011
    assert abs(noise.std() - 0.5) < 5 * 0.008
    assert abs(np.mean(noise**4) / noise.std() ** 4 - 3) < 5 * (24 / 2000) ** 0.5


def test_measurements_are_isotropic(many):
    # E <A, X>^2 = ||X||_F^2 with variance 2 ||X||^4 / n: relative standard error sqrt(2/2000) = .032. A wrong factor on
    # the off-diagonal entries (1 or 2 instead of sqrt 2) moves the off-diagonal X by a factor 2.
    for matrix in (np.eye(6), np.diag([1.0, -1, 0, 0, 0, 0]), np.eye(6)[::-1].copy(), np.ones((6, 6)) - np.eye(6)):
        measured = np.asarray(many.operator.apply(jnp.asarray(matrix, jnp.float32)), np.float64)
        assert abs(np.mean(measured**2) / np.sum(matrix**2) - 1) < 5 * 0.032


def test_noise_and_measurements_are_uncorrelated(many):
    rows = np.asarray(many.operator.rows, np.float64)
    noise = np.asarray(many.y) - np.asarray(many.operator.apply(many.truth.astype(jnp.float32)), np.float64)
    correlations = rows.T @ noise / (2000 * 0.5)
    assert np.abs(correlations).max() < 5 / 2000**0.5
    assert np.abs(np.corrcoef(rows[:-1].ravel()[:10000], rows[1:].ravel()[:10000])[0, 1]) < 5 / 100


def test_eigenvectors_favour_no_direction():
    # Entries of a uniform unit vector in d dimensions have mean square 1/d, with variance 2(d-1)/(d^2 (d+2)): over 600
    # draws of d = 4 the standard error is sqrt(6/96/600) = .0102.
    keys = jax.random.split(KEY, 600)
    factors = jax.jit(jax.vmap(lambda key: draw_truth(key, d=4, r=1)[:, 0]))(keys)
    assert np.abs(np.mean(np.asarray(factors) ** 2, axis=0) - 0.25).max() < 5 * 0.0102
