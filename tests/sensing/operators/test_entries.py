import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.random import normals
from pruneft.sensing import Operator, check_adjoint
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.entries import Entries, SuspiciousEntries, entries_of
from pruneft.sensing.operators.entries_draw import ENTRIES, NON_NEGATIVE_ENTRIES, SPIKY_ENTRIES

D, R = 5, 2
PAIRS = np.array([(0, 0), (1, 0), (1, 2), (4, 4), (3, 1), (0, 4), (2, 2)])
N = len(PAIRS)
RNG = np.random.default_rng(0)
U, V, E = RNG.standard_normal((D, R)), RNG.standard_normal((3, D, R)), RNG.standard_normal((3, N))
X = RNG.standard_normal((3, D, D))
X = X + np.swapaxes(X, 1, 2)
DENSE = np.zeros((N, D, D))
for row, (i, j) in enumerate(PAIRS):
    DENSE[row, i, j] += 0.5
    DENSE[row, j, i] += 0.5


def _operator(form, dtype="float64"):
    operator = Entries.from_pairs(PAIRS, D, dtype=dtype)
    return operator if form == "by matrix" else Entries(operator.first, operator.second, operator.live, None, D)


@pytest.fixture(params=["by matrix", "by pairs"])
def form(request):
    return request.param


def test_every_product_is_that_of_the_dense_measurements(form, dtype, tolerance):
    operator = _operator(form, dtype)
    x, e, v = (jnp.asarray(array, dtype) for array in (X, E, V))
    close = {"rtol": 10 * tolerance, "atol": 10 * tolerance}
    np.testing.assert_allclose(operator.apply(x), np.einsum("nij,bij->bn", DENSE, X), **close)
    np.testing.assert_allclose(operator.adjoint(e), np.einsum("bn,nij->bij", E, DENSE), **close)
    np.testing.assert_allclose(operator.image(v), np.einsum("nij,bir,bjr->bn", DENSE, V, V), **close)
    np.testing.assert_allclose(operator.pull(e, v), np.einsum("bn,nij,bjr->bir", E, DENSE, V), **close)
    np.testing.assert_allclose(operator.jacobian(v), 2 * np.einsum("nij,bjr->bnir", DENSE, V), **close)
    assert operator.pull(e, v).dtype == operator.image(v).dtype == operator.jacobian(v).dtype == dtype


def test_the_parts_belong_together(form):
    assert check_adjoint(_operator(form)) < 1e-12


def test_it_meets_the_contract_and_goes_through_jit_and_vmap():
    operator = _operator("by matrix")
    assert isinstance(operator, Operator)
    assert (operator.n, operator.d, operator.field, operator.pair_kind) == (N, D, "real", "entries")
    assert cast(operator, jnp.float32).dtype == np.float32
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), operator)
    both = jax.jit(jax.vmap(lambda one, e: one.pull(one.whiten(e, N, D), jnp.asarray(U))))(stacked, jnp.asarray(E[:2]))
    each = [operator.pull(operator.whiten(e, N, D), jnp.asarray(U)) for e in jnp.asarray(E[:2])]
    chex.assert_trees_all_close(both, jnp.stack(each), rtol=1e-12)


def test_a_large_sparse_sample_goes_by_pairs():
    pairs = np.stack([np.arange(300), np.arange(300)], axis=1)
    assert Entries.from_pairs(pairs, 300).place is None
    assert Entries.from_pairs(pairs[:30], 30).place is not None


def test_whitened_over_all_entries_the_loss_is_the_squared_frobenius_norm():
    # Every entry once: the mean over uniform samples of any size is this.
    everything = Entries.from_mask(np.ones((D, D)), dtype="float64")
    images = everything.apply(jnp.asarray(X))
    energy = np.sum(images * everything.whiten(images, everything.n, D), axis=-1) / everything.n
    np.testing.assert_allclose(energy, np.sum(X**2, axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(everything.size(images[0], everything.n, D), np.linalg.norm(X[0]), rtol=1e-12)


@pytest.mark.parametrize(("d", "n"), [(24, 94), (32, 252)])
def test_the_noise_edge_is_where_noise_ends(d, n):
    # Simulation: mean over 12 draws of the largest eigenvalue over the edge; twice or half the edge would fail.
    numbers, upper = np.random.default_rng(0), np.stack(np.triu_indices(d), axis=1)
    several = [Entries.from_pairs(upper[numbers.permutation(len(upper))[:n]], d, dtype="float64") for _ in range(12)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    noise = jnp.asarray(0.3 * numbers.standard_normal((12, n)))
    matrices = jax.jit(jax.vmap(lambda one, e: one.adjoint(one.whiten(e, n, d)) / n))(stacked, noise)
    largest = np.linalg.eigvalsh(np.asarray(matrices))[:, -1]
    assert 0.85 < np.mean(largest) / float(several[0].noise_edge(0.3, n, d)) < 1.1


KEY = jax.random.key(3)


@functools.cache
def _drawer(family, rows, d):
    """One compiled program for all draws of a family at this padding."""

    def draw(n, side, r, sigma):
        drawn = normals(KEY, *family.blocks(rows, d))
        return family.make(
            drawn, rows=rows, d=d, r=r, kappa=4.0, scale=2.0, sigma=sigma, dtype=jnp.float64, live_n=n, live_d=side
        )

    return jax.jit(draw)


@jax.jit
def _seen(operator, e, factor):
    white = operator.whiten(e, 30, 8)
    return {
        "pull": operator.pull(white, factor),
        "image": operator.image(factor),
        "jacobian": operator.jacobian(factor),
        "adjoint": operator.adjoint(white),
    }


def test_padding_changes_nothing_and_stays_zero():
    lone, wide = _drawer(ENTRIES, 30, 8)(30, 8, 2, 0.1), _drawer(ENTRIES, 40, 11)(30, 8, 2, 0.1)
    np.testing.assert_array_equal(lone.operator.first, wide.operator.first[:30])
    np.testing.assert_array_equal(lone.operator.second, wide.operator.second[:30])
    np.testing.assert_allclose(lone.y, wide.y[:30], rtol=1e-12)
    assert len(wide.operator.pairs()) == 30
    assert not np.any(wide.y[30:])
    assert not np.any(wide.factor[8:])
    factor, e = np.zeros((11, 3)), jnp.asarray(RNG.standard_normal(40))  # residuals of padding are not zero here
    factor[:8] = RNG.standard_normal((8, 3))
    live = _seen(lone.operator, e[:30], jnp.asarray(factor[:8]))
    for operator in (wide.operator, _by_pairs(wide.operator)):
        padded = _seen(operator, e, jnp.asarray(factor))
        np.testing.assert_allclose(padded["pull"][:8], live["pull"], rtol=1e-12, atol=1e-12)
        for name in ("pull", "adjoint"):
            assert not np.any(np.asarray(padded[name])[8:])
        for name in ("image", "jacobian"):
            assert not np.any(np.asarray(padded[name])[30:])


def _by_pairs(operator):
    return Entries(operator.first, operator.second, operator.live, None, operator.side)


def test_draws_are_a_sample_without_replacement_of_which_more_measurements_are_an_extension():
    drawn = _drawer(ENTRIES, 40, 11)(36, 8, 3, 0.0)
    pairs = drawn.operator.pairs()
    assert len({tuple(pair) for pair in pairs.tolist()}) == 36  # all of them, each once
    np.testing.assert_allclose(drawn.y[:36], np.asarray(drawn.truth)[tuple(pairs.T)], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(drawn.truth), 2.0, rtol=1e-5)
    values = np.linalg.eigvalsh(np.asarray(drawn.truth))[::-1]
    np.testing.assert_allclose(values[0] / values[2], 4.0, rtol=1e-4)
    fewer = _drawer(ENTRIES, 40, 11)(9, 8, 3, 0.0)
    np.testing.assert_array_equal(fewer.operator.pairs(), pairs[:9])
    assert (ENTRIES.rows(100, 8), ENTRIES.most(8), ENTRIES.dof(8, 2)) == (36, 36, 15)


def test_other_truths_have_the_rank_and_the_shape_they_are_named_for():
    drawn = {}
    for family in (NON_NEGATIVE_ENTRIES, SPIKY_ENTRIES):
        drawn[family.name] = np.asarray(_drawer(family, 20, 8)(20, 8, 2, 0.0).truth, np.float64)
    for truth in drawn.values():
        values = np.linalg.eigvalsh(truth)
        assert values[-2] > 1e-4 > 100 * abs(values[-3])
        np.testing.assert_allclose(np.linalg.norm(truth), 2, rtol=1e-5)
    assert np.all(drawn["entries-non-negative"] > 0)
    spiky = np.diag(drawn["entries-spiky"])
    assert spiky[:2].sum() > 20 * spiky[-4:].sum()


def test_a_family_says_what_it_cannot_draw():
    with pytest.raises(ValueError, match="36 entries: got n=40"):
        ENTRIES.check({"n": 40, "d": 8})
    with pytest.raises(ValueError, match="kappa has no meaning"):
        SPIKY_ENTRIES.check({"n": 20, "d": 8, "kappa": 3.0})
    ENTRIES.check({"n": 36, "d": 8, "kappa": 3.0})


@pytest.mark.parametrize(
    ("pairs", "d", "message"),
    [
        ([(0, 5)], 5, r"indices from 0 to 4: got \(0, 5\) in row 0"),
        ([(0, 1), (-1, 2)], 5, "in row 1"),
        ([(0, 1), (2, 2), (1, 0)], 5, r"\(0, 1\) comes 2 times"),
        ([(0.5, 1)], 5, "whole numbers: got dtype float64"),
        ([0, 1], 5, r"shape \[n, 2\]"),
        (np.zeros((0, 2), int), 5, r"shape \[n, 2\]"),
        ([(0, 1)], 0, "d .side of the matrix. must be a whole number"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(pairs, d, message):
    with pytest.raises(ValueError, match=message):
        Entries.from_pairs(pairs, d)


def test_a_matrix_and_a_mask_make_a_problem():
    truth = U @ U.T
    mask = np.zeros((D, D), bool)
    mask[[0, 2, 3], [1, 2, 0]] = True
    operator, y = entries_of(np.where(mask, truth, np.nan), dtype="float64")
    np.testing.assert_array_equal(operator.pairs(), [(0, 1), (2, 2), (0, 3)])
    np.testing.assert_allclose(y, [truth[0, 1], truth[2, 2], truth[3, 0]])
    np.testing.assert_allclose(entries_of(truth, mask)[1], y)
    np.testing.assert_allclose(entries_of(truth, mask | mask.T)[1], y)


@pytest.mark.parametrize(
    ("Y", "mask", "message"),
    [
        (np.array([[1.0, 2.0], [3.0, 1.0]]), None, r"Y\[0, 1\] = 2 and Y\[1, 0\] = 3 are both observed"),
        (np.ones((2, 3)), None, "square"),
        (np.ones((2, 2)), np.ones((3, 3)), "same shape"),
        (np.ones((2, 2)), np.zeros((2, 2)), "true somewhere"),
        (np.ones((2, 2)), np.full((2, 2), 0.5), "truth values"),
        (np.ones((2, 2)) * 1j, None, "real numbers: got dtype complex128"),
        (np.full((2, 2), np.nan), np.ones((2, 2)), "finite"),
    ],
)
def test_matrices_that_make_no_sense_are_refused(Y, mask, message):
    with pytest.raises(ValueError, match=message):
        entries_of(Y, mask)


def test_data_that_no_positive_matrix_has_are_noticed():
    truth = U @ U.T
    mask = np.ones((D, D))
    operator, y = entries_of(truth, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operator.check_data(y, len(y))
    with pytest.raises(ValueError, match="diagonal must not be negative"):
        operator.check_data(-y, len(y))
    wrong = truth.copy()
    wrong[0, 1] = wrong[1, 0] = 3 * np.max(np.abs(truth))
    with pytest.warns(SuspiciousEntries, match="1 observed entries cannot be"):
        operator.check_data(entries_of(wrong, mask)[1], len(y))


def test_a_step_by_pairs_is_counted_by_pairs():
    pairs = np.stack([np.arange(300), np.arange(300)], axis=1)
    sparse, dense = Entries.from_pairs(pairs, 300), _operator("by matrix")
    assert sparse.step_cost(8)[0] == 6 * 300 * 8
    assert dense.step_cost(8)[0] == 4 * D * D * 8
    assert dense.step_cost(16)[1] > dense.step_cost(8)[1] > 0
