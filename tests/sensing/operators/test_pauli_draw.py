import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.random import normals
from pruneft.sensing.operators.pauli_draw import PAULI

KEY = jax.random.key(3)
N, D, R = 20, 8, 2


@functools.cache
def _drawer(rows, d, dtype):
    def draw(key, live_n, live_d, r, kappa, scale, sigma):
        drawn = normals(key, *PAULI.blocks(rows, d))
        values = {"kappa": kappa, "scale": scale, "sigma": sigma, "live_n": live_n, "live_d": live_d}
        return PAULI.make(drawn, rows=rows, d=d, r=r, dtype=dtype, **values)

    return jax.jit(draw)


def _draw(rows=N, d=D, dtype="float64", live=(N, D), r=R, kappa=3.0, scale=1.0, sigma=0.1, key=KEY):
    return _drawer(rows, d, dtype)(key, *live, r, kappa, scale, sigma)


@pytest.mark.parametrize(("rows", "d"), [(N + 12, D), (N, 16), (70, 12)])
def test_padding_changes_no_observable_and_only_rounding_of_the_rest(rows, d):
    plain, padded = _draw(), _draw(rows=rows, d=d)
    assert padded.operator.strings[:N] == [("I" * (padded.operator.qubits - 3)) + s for s in plain.operator.strings]
    np.testing.assert_allclose(padded.truth[:D, :D], plain.truth, atol=1e-13)
    np.testing.assert_allclose(padded.factor[:D, :D], plain.factor, atol=1e-13)
    np.testing.assert_allclose(padded.y[:N], plain.y, atol=1e-12)
    for part in (padded.operator.side[N:], padded.y[N:], padded.truth[D:], padded.truth[:, D:], padded.factor[D:]):
        assert not np.any(part)
    assert not np.any(padded.factor[:, R:])


def test_observables_are_distinct_and_the_identity_is_always_first():
    for key in jax.random.split(KEY, 5):
        strings = _draw(key=key).operator.strings
        assert (len(set(strings)), strings[0]) == (N, "III")


def test_all_observables_are_there_at_full_sampling():
    drawn = _draw(rows=64, live=(64, D))
    assert len(set(drawn.operator.strings)) == 64
    np.testing.assert_allclose(np.mean(np.asarray(_draw(rows=64, live=(64, D), sigma=0.0).y) ** 2), 1, rtol=1e-10)


def test_every_observable_is_as_likely_as_another():
    # 19 of the 63 others in each of 600 draws: a share of .302 with standard error sqrt(.302 * .698 / 600) = .0188.
    draw = jax.jit(jax.vmap(lambda key: _drawer(N, D, "float64")(key, N, D, R, 3.0, 1.0, 0.0).operator))
    operator = draw(jax.random.split(KEY, 600))
    counts = np.bincount((np.asarray(operator.x) * D + np.asarray(operator.z)).ravel(), minlength=64)
    assert counts[0] == 600
    assert np.abs(counts[1:] / 600 - 19 / 63).max() < 5 * 0.0188


def test_truth_has_the_spectrum_asked_for_and_is_complex():
    drawn = _draw(r=3, kappa=8.0, scale=2.0)
    eigenvalues = np.linalg.eigvalsh(drawn.truth)[::-1]
    shape = 8.0 ** (-np.arange(3) / 2)
    np.testing.assert_allclose(eigenvalues[:3], 2 * shape / np.linalg.norm(shape), rtol=1e-10)
    np.testing.assert_allclose(eigenvalues[3:], 0, atol=1e-12)
    assert np.abs(np.imag(drawn.truth)).max() > 0.05
    np.testing.assert_allclose(drawn.factor @ np.conj(drawn.factor.T), drawn.truth, atol=1e-13)


def test_data_are_values_of_the_truth_plus_sigma_times_one_noise():
    clean, noisy, noisier = (_draw(sigma=sigma) for sigma in (0.0, 0.1, 0.3))
    np.testing.assert_allclose(clean.y[0], np.sqrt(D) * np.trace(clean.truth).real, rtol=1e-12)
    np.testing.assert_allclose(noisier.y - clean.y, 3 * (noisy.y - clean.y), rtol=1e-9)
    noise = np.asarray(noisy.y - clean.y) / 0.1
    assert np.all(noise != 0)
    assert abs(noise.std() - 1) < 5 / np.sqrt(2 * N)


def test_both_precisions_see_the_same_instance():
    single, double = _draw(dtype="float32"), _draw(dtype="float64")
    assert single.operator.strings == double.operator.strings
    assert (single.y.dtype, double.y.dtype, single.truth.dtype) == (np.float32, np.float64, np.complex64)
    np.testing.assert_allclose(single.y, double.y, atol=1e-5)


def test_cells_that_cannot_be_drawn_are_refused():
    PAULI.check({"d": 16, "n": 256})
    with pytest.raises(ValueError, match=r"power of two, at least 2: got d=12\. The nearest are 8 and 16"):
        PAULI.check({"d": 12, "n": 20})
    with pytest.raises(ValueError, match="d² = 64 Pauli observables of d=8: got n=65"):
        PAULI.check({"d": 8, "n": 65})
    assert (PAULI.dof(8, 1), PAULI.most(8), PAULI.rows(20, 8)) == (15, 64, 20)
    assert jnp.issubdtype(_draw().operator.x.dtype, jnp.integer)
