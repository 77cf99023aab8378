import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.prune import (
    keep_above,
    keep_count,
    keep_fraction,
    keep_gap,
    keep_share,
    smoothing_threshold,
    take_groups,
    zero_groups,
)

NAN = float("nan")
_count, _gap = jax.jit(keep_count), jax.jit(keep_gap)


def _kept(mask):
    return np.asarray(mask).astype(int).tolist()


def test_keep_above_is_strict_and_never_keeps_nan():
    norms = jnp.asarray([0.0, 0.5, 0.5 + 1e-9, NAN, 2.0])
    assert _kept(keep_above(norms, 0.5)) == [0, 0, 1, 0, 1]
    assert _kept(keep_above(norms, 0)) == [0, 1, 1, 0, 1]
    assert _kept(jax.jit(keep_above)(norms, 1.0)) == [0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match=r"threshold must not be negative: got -1"):
        keep_above(norms, -1.0)
    with pytest.raises(ValueError, match="threshold must not be negative: got nan"):
        keep_above(norms, NAN)


def test_smoothing_threshold_is_two_root_beta():
    assert smoothing_threshold(0.25) == 1.0
    with pytest.raises(ValueError, match="beta"):
        smoothing_threshold(0.0)


def test_keep_share_looks_at_the_largest_of_its_own_row():
    norms = jnp.asarray([[1.0, 0.06, 0.04, 0.0], [100.0, 6.0, 4.0, 5.0], [0.0, 0.0, 0.0, 0.0], [NAN, 0.06, 1.0, 0.04]])
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert _kept(keep_share(norms, 0.05)) == expected
    assert _kept(jax.jit(jax.vmap(lambda row: keep_share(row, 0.05)))(norms)) == expected
    assert _kept(keep_share(norms, 0)) == [[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]]


def test_keep_share_of_nothing_but_nan_keeps_nothing():
    assert _kept(keep_share(jnp.asarray([NAN, NAN]), 0.1)) == [0, 0]


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, NAN])
def test_a_share_outside_zero_to_one_is_refused(share):
    with pytest.raises(ValueError, match=r"share of the largest norm must lie in \[0, 1\)"):
        keep_share(jnp.ones(3), share)


def test_keep_count_breaks_ties_by_lower_index():
    norms = jnp.asarray([1.0, 2.0, 1.0, 2.0, 1.0])
    expected = [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [1, 1, 0, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert [_kept(_count(norms, jnp.asarray(count, jnp.int32))) for count in range(6)] == expected
    assert _kept(keep_count(norms, 3)) == expected[3]


def test_keep_count_never_keeps_nan_and_may_keep_zeros():
    assert _kept(_count(jnp.asarray([NAN, 0.0, 3.0, NAN, 0.0]), 2)) == [0, 1, 1, 0, 0]
    assert _kept(_count(jnp.asarray([NAN, 0.0, 3.0, NAN, 0.0]), 5)) == [0, 1, 1, 0, 1]


@pytest.mark.parametrize("count", [-1, 4, 1.5, 2.0, NAN])
def test_a_count_that_is_no_number_of_groups_is_refused(count):
    with pytest.raises(ValueError, match=r"count must be a whole number from 0 to the number of groups, 3: got"):
        inspect.unwrap(keep_count)(jnp.ones(3), count)  # as a user without type checks calls it


@given(st.lists(st.sampled_from([0.0, 1e-7, 0.1, 1.0, 2.0, NAN]), min_size=5, max_size=5), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_keep_count_keeps_what_a_stable_sort_puts_first(norms, count):
    order = sorted((i for i in range(5) if norms[i] == norms[i]), key=lambda i: (-norms[i], i))
    expected = [int(i in order[:count]) for i in range(5)]
    assert _kept(_count(jnp.asarray(norms), jnp.asarray(count, jnp.int32))) == expected


@pytest.mark.parametrize("width", [256, 257])
def test_many_groups_are_ranked_like_few(width):
    """Places are counted up to 256 groups and sorted for beyond."""
    norms = np.round(np.random.default_rng(width).random((3, width)), 2)
    norms[:, ::17] = NAN
    expected = [sorted((i for i in range(width) if row[i] == row[i]), key=lambda i: (-row[i], i))[:90] for row in norms]
    found = np.asarray(_count(jnp.asarray(norms), jnp.asarray(90, jnp.int32)))
    assert [sorted(row) for row in expected] == [np.flatnonzero(row).tolist() for row in found]


def test_masks_of_a_batch_are_those_of_its_rows():
    norms = jnp.asarray(np.random.default_rng(0).random((2, 3, 5)))

    def masks(v):
        return keep_count(v, 2), keep_gap(v), keep_share(v, 0.5), keep_fraction(v, 0.5)

    wholes = jax.jit(masks)(norms)
    assert [whole.shape for whole in wholes] == [norms.shape] * 4
    chex.assert_trees_all_equal(wholes, jax.jit(jax.vmap(jax.vmap(masks)))(norms))


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0, 0), (1e-3, 1), (0.2, 1), (0.21, 2), (0.6, 3), (0.8, 4), (1, 5), (1.0, 5)]
)
def test_keep_fraction_rounds_up_and_is_not_fooled_by_rounding(fraction, kept):
    # 0.6 * 5 is 3.0000000000000004 with some orders of rounding: still three.
    assert sum(_kept(keep_fraction(jnp.arange(1.0, 6.0), fraction))) == kept


def test_three_tenths_of_ten_groups_are_three():
    assert 0.3 * 10 == 3.0
    assert 0.7 * 10 > 6.99
    assert [int(np.sum(keep_fraction(jnp.arange(1.0, 11.0), f / 10))) for f in range(11)] == list(range(11))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, NAN])
def test_a_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction of the width must lie in \[0, 1\]"):
        keep_fraction(jnp.ones(3), fraction)


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([1.0, 0.9, 0.01, 0.008], [1, 1, 0, 0]),
        ([0.008, 1.0, 0.01, 0.9], [0, 1, 0, 1]),  # order does not matter
        ([1.0, 0.5, 0.25, 0.13], [1, 1, 1, 1]),  # no fall of a factor 3
        ([1.0, 0.5, 0.25, 0.0], [1, 1, 1, 0]),  # ... but a zero group never stays
        ([1.0, 1e-8, 1e-11, 0.0], [1, 0, 0, 0]),  # all below the floor: no gap between them
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0]),
        ([NAN, 1.0, 0.9, 0.01], [0, 1, 1, 0]),  # NaN counts as a dead group
        ([2.0, 2.0, 2.0, 2.0], [1, 1, 1, 1]),
    ],
)
def test_keep_gap_cuts_at_the_largest_fall(norms, expected):
    assert _kept(_gap(jnp.asarray(norms))) == expected


def test_keep_gap_does_not_change_with_padding():
    norms = jnp.asarray([1.0, 0.9, 0.01])
    assert _kept(_gap(norms)) == [1, 1, 0]
    assert _kept(_gap(jnp.append(norms, jnp.zeros(2)))) == [1, 1, 0, 0, 0]
    assert _kept(_gap(jnp.append(norms, 1e-9))) == [1, 1, 0, 0]


def test_keep_gap_takes_a_fall_of_exactly_the_least_ratio():
    norms = jnp.asarray([3.0, 1.0])
    assert _kept(keep_gap(norms, least_ratio=3.0)) == [1, 0]
    assert _kept(keep_gap(norms, least_ratio=3.01)) == [1, 1]


def test_keep_gap_of_a_single_group_keeps_it_unless_it_is_zero():
    assert _kept(keep_gap(jnp.asarray([[0.2], [0.0], [NAN]]))) == [[1], [0], [0]]


def test_keep_gap_does_not_depend_on_units(dtype):
    norms = jnp.asarray([1.0, 0.7, 0.1, 0.06], dtype)
    for unit in (1e-12, 1.0, 1e12):
        assert _kept(_gap(norms * jnp.asarray(unit, dtype))) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"least_ratio": 1.0}, "least_ratio must exceed 1"),
        ({"floor": 0.0}, r"floor must lie in \(0, 1\)"),
        ({"floor": 1.0}, "floor"),
    ],
)
def test_settings_of_the_gap_that_make_no_sense_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        keep_gap(jnp.ones(3), **setting)


def test_zeroed_groups_keep_their_place_and_the_others_their_values():
    factor = jnp.arange(1.0, 13.0).reshape(3, 4)
    keep = jnp.asarray([True, False, True, False])
    zeroed = np.asarray(jax.jit(zero_groups)(factor, keep))
    np.testing.assert_array_equal(zeroed[:, [0, 2]], np.asarray(factor)[:, [0, 2]])
    assert not zeroed[:, [1, 3]].any()
    rows = np.asarray(zero_groups(factor, jnp.asarray([False, True, True]), axis=-1))
    assert not rows[0].any()
    np.testing.assert_array_equal(rows[1:], np.asarray(factor)[1:])


def test_zeroing_removes_nan_of_groups_that_go_and_lets_no_gradient_through():
    factor = jnp.ones((2, 3)).at[0, 1].set(NAN)
    keep = jnp.asarray([True, False, True])
    assert np.isfinite(zero_groups(factor, keep)).all()
    slope = jax.grad(lambda u: jnp.sum(zero_groups(u, keep) ** 2))(factor)
    np.testing.assert_array_equal(slope, [[2, 0, 2], [2, 0, 2]])


def test_filters_of_a_kernel_are_zeroed_by_tuple_axes():
    kernel = jnp.ones((2, 2, 3, 4))
    zeroed = zero_groups(kernel, jnp.asarray([True, False, False, True]), axis=(0, 1, 2))
    np.testing.assert_array_equal(np.sum(zeroed, axis=(0, 1, 2)), [12, 0, 0, 12])


def test_taken_groups_stand_in_their_old_order():
    factor = jnp.arange(12.0).reshape(3, 4)
    keep = np.array([False, True, False, True])
    np.testing.assert_array_equal(take_groups(factor, keep), np.asarray(factor)[:, keep])
    np.testing.assert_array_equal(
        take_groups(factor, jnp.asarray([True, False, True]), axis=0), np.asarray(factor)[::2]
    )
    assert take_groups(factor, np.zeros(4, bool)).shape == (3, 0)


def test_zeroed_and_taken_factors_are_the_same_matrix():
    factor = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4)))
    keep = keep_count(jnp.linalg.norm(factor, axis=0), 2)
    small, wide = take_groups(factor, keep), zero_groups(factor, keep)
    assert small.shape == (5, 2)
    np.testing.assert_allclose(small @ small.T, wide @ wide.T, rtol=1e-13)


@pytest.mark.parametrize("wrong", [np.ones(3, bool), np.ones(5, bool), np.ones((4, 1), bool)])
def test_a_mask_of_the_wrong_length_is_refused(wrong):
    with pytest.raises(ValueError, match="keep must be a mask of length 4, the size of axis -1: got shape"):
        take_groups(jnp.ones((3, 4)), wrong)


def test_taking_groups_under_a_transformation_says_what_to_use_instead():
    factor, keep = jnp.ones((3, 4)), jnp.ones(4, bool)
    with pytest.raises(ValueError, match="cannot run under jit, vmap or grad: use zero_groups"):
        jax.jit(take_groups)(factor, keep)
    with pytest.raises(ValueError, match="use zero_groups"):
        jax.vmap(lambda mask: take_groups(factor, mask))(keep[None])
    with pytest.raises(ValueError, match="use zero_groups"):
        jax.jit(lambda u: take_groups(u, np.ones(4, bool)))(factor)
