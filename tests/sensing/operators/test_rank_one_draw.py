import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.random import normals
from pruneft.sensing import draw_family
from pruneft.sensing.family import MEASUREMENTS, TRUTH
from pruneft.sensing.operators.rank_one_draw import RANK_ONE, RANK_ONE_COMPLEX

KEY = jax.random.key(7)
N, D, R = 9, 5, 3
FAMILIES = (RANK_ONE, RANK_ONE_COMPLEX)


@functools.cache
def _drawer(family, rows, d, dtype):
    def draw(key, live_n, live_d, r, kappa, scale, sigma):
        draws = normals(key, *family.blocks(rows, d))
        return family.make(
            draws,
            rows=rows,
            d=d,
            r=r,
            kappa=kappa,
            scale=scale,
            sigma=sigma,
            dtype=jnp.dtype(dtype),
            live_n=live_n,
            live_d=live_d,
        )

    return jax.jit(jax.vmap(draw, in_axes=(0, None, None, None, None, None, None)))


def _draw(family, rows=N, d=D, dtype="float64", r=R, kappa=4.0, scale=2.0, sigma=0.1, seeds=(7, 8)):
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    return _drawer(family, rows, d, dtype)(keys, N, D, r, kappa, scale, sigma)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_padding_changes_no_bit_of_the_vectors_and_is_zero(family):
    plain, padded = _draw(family), _draw(family, rows=N + 4, d=D + 3)
    for part in ("vectors", "imaginary"):
        if getattr(plain.operator, part) is not None:
            found = np.asarray(getattr(padded.operator, part))
            np.testing.assert_array_equal(found[:, :N, :D], getattr(plain.operator, part))
            assert not np.any(found[:, N:])
            assert not np.any(found[:, :, D:])
    np.testing.assert_array_equal(padded.operator.level[0], np.arange(N + 4) < N)
    for part in ("truth", "factor"):
        found = np.asarray(getattr(padded, part))
        np.testing.assert_allclose(found[:, :D, :D], getattr(plain, part), atol=1e-13)
        assert not np.any(found[:, D:])
    np.testing.assert_allclose(padded.y[:, :N], plain.y, atol=1e-12)
    assert not np.any(padded.y[:, N:])
    assert not np.any(padded.factor[:, :, R:])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_truth_and_data_are_what_was_asked_for_in_both_precisions(family):
    double, single = _draw(family), _draw(family, dtype="float32")
    assert (double.y.dtype, single.y.dtype) == (np.float64, np.float32)
    assert jnp.iscomplexobj(double.truth) == (family.field == "complex")
    np.testing.assert_array_equal(double.operator.vectors, single.operator.vectors)
    np.testing.assert_allclose(single.y, double.y, rtol=1e-4, atol=1e-4)
    values = np.linalg.eigvalsh(np.asarray(double.truth[0]))[::-1]
    shape = 4.0 ** (-np.arange(R) / (R - 1))
    np.testing.assert_allclose(values[:R], 2 * shape / np.linalg.norm(shape), rtol=1e-10)
    np.testing.assert_allclose(values[R:], 0, atol=1e-12)
    vectors = np.asarray(double.operator.vectors[0], np.float64)
    if family.field == "complex":
        vectors = vectors + 1j * np.asarray(double.operator.imaginary[0], np.float64)
    quiet = _draw(family, sigma=0.0)
    clean = np.einsum("ni,ij,nj->n", vectors.conj(), np.asarray(double.truth[0]), vectors).real
    np.testing.assert_allclose(quiet.y[0], clean, rtol=1e-10)
    np.testing.assert_allclose(_draw(family, sigma=0.2).y[0] - clean, 2 * (double.y[0] - clean), rtol=1e-9)
    assert np.abs(double.truth[1] - double.truth[0]).max() > 0.1


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_entries_have_mean_zero_and_unit_variance_and_noise_is_apart(kind):
    drawn = draw_family(
        {"real": RANK_ONE, "complex": RANK_ONE_COMPLEX}[kind], KEY, n=4000, d=6, r=2, sigma=0.5, dtype=jnp.float64
    )
    vectors = np.asarray(drawn.operator.vectors, np.float64)
    if kind == "complex":
        vectors = vectors + 1j * np.asarray(drawn.operator.imaginary)
    gram = vectors.conj().T @ vectors / 4000
    np.testing.assert_allclose(gram, np.eye(6), atol=5 * (2 / 4000) ** 0.5)
    assert abs(np.mean(vectors)) < 5 / (6 * 4000) ** 0.5
    if kind == "complex":  # circular: E x² = 0
        assert abs(np.mean(vectors**2)) < 5 * 2**0.5 / (6 * 4000) ** 0.5
    noise = np.asarray(drawn.y) - np.einsum("ni,ij,nj->n", vectors.conj(), np.asarray(drawn.truth), vectors).real
    assert abs(noise.std() / 0.5 - 1) < 5 / 8000**0.5


def test_families_say_what_sweeps_ask():
    assert [family.dof(16, 2) for family in FAMILIES] == [31, 60]
    assert [family.rows(40, 16) for family in FAMILIES] == [40, 40]
    assert all(family.most(16) is None for family in FAMILIES)
    assert len({family.subject for family in FAMILIES} | {"sensing/packed-gaussian"}) == 3
    for family in FAMILIES:
        assert {block.stream for block in family.blocks(4, 3)} == {MEASUREMENTS, TRUTH}
