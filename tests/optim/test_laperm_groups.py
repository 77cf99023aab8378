"""The nearest arrangement of a group's values: what makes it a projection, on random numbers with and without ties."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.optim import nearest_permutation
from pruneft.optim.laperm_groups import arrange, from_groups, matrices, sorted_values, stable_order, to_groups

N = 6
_project = jax.jit(nearest_permutation)
_order = jax.jit(stable_order)
_numbers = st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3))
_vectors = st.lists(_numbers, min_size=N, max_size=N).map(np.array)
_distinct = st.lists(_numbers, min_size=N, max_size=N, unique=True).map(np.array)
_few = st.lists(st.sampled_from([-1.0, -0.0, 0.0, 2.0]), min_size=N, max_size=N).map(np.array)
_any = st.one_of(_vectors, _few)
_quick = settings(max_examples=60, deadline=None)


def _nearest(weights, values):
    return np.asarray(_project(weights, np.sort(values)))


@_quick
@given(_any, _any)
def test_the_values_come_back_exactly_whatever_the_ties(weights, values):
    np.testing.assert_array_equal(np.sort(_nearest(weights, values)), np.sort(values))


@_quick
@given(_any, _any)
def test_no_arrangement_of_the_values_is_nearer(weights, values):
    others = values[np.array(list(itertools.permutations(range(N))))]
    least = np.min(np.sum((weights - others) ** 2, axis=1))
    assert np.sum((weights - _nearest(weights, values)) ** 2) <= least * (1 + 1e-12) + 1e-12


@_quick
@given(_any, _distinct)
def test_the_order_of_the_weights_is_kept(weights, values):
    found = _nearest(weights, values)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(weights, kind="stable"))


@_quick
@given(_any, _any)
def test_an_arrangement_of_the_values_stays_where_it_is(weights, values):
    np.testing.assert_array_equal(_nearest(values, values), values)
    once = _nearest(weights, values)
    np.testing.assert_array_equal(_nearest(once, values), once)


@_quick
@given(_any, _any, st.integers(-8, 8), st.integers(-8, 8))
def test_positive_scaling_and_shifts_of_the_weights_change_nothing(weights, values, power, shift):
    # Powers of two and whole shifts of whole numbers keep every tie and every order exactly.
    whole = np.round(weights)
    np.testing.assert_array_equal(_nearest(2.0**power * whole + shift, values), _nearest(whole, values))


@_quick
@given(_distinct, _any, st.permutations(range(N)))
def test_permuted_weights_give_permuted_values(weights, values, places):
    np.testing.assert_array_equal(_nearest(weights[places], values), _nearest(weights, values)[places])


@pytest.mark.parametrize(
    ("kind", "x64"), [("float16", False), ("bfloat16", True), ("float32", False), ("float32", True), ("float64", True)]
)
def test_the_order_is_that_of_a_stable_argsort(kind, x64):
    rng = np.random.default_rng(0)
    numbers = np.concatenate([np.round(3 * rng.standard_normal((4, 300))) / 4, rng.standard_normal((4, 301))], axis=1)
    numbers = np.where(numbers < -1.5, -0.0, numbers)  # zeros of both signs, equal to each other
    numbers[:, :2] = np.inf, -np.inf
    with jax.enable_x64(x64):
        weights = jnp.asarray(numbers, kind)
        found = np.asarray(_order(weights))
        exact = np.asarray(weights).astype(np.float64)
    np.testing.assert_array_equal(found, np.argsort(exact, axis=-1, kind="stable"))


@pytest.mark.parametrize(("kind", "x64"), [("float32", False), ("float64", True)])
def test_weights_that_differ_in_their_last_bits_are_ordered_too(kind, x64):
    """Sorting by high bits leaves them all equal; beside them a lane with a few such pairs and one with none."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(x64):
        step = np.finfo(kind).eps
        close = 1 + step * rng.permutation(90)
        pairs = np.concatenate([1 + rng.random(60), 3 + step * rng.permutation(30)])
        lanes = np.stack([close, pairs, rng.standard_normal(90)]).astype(kind)[:, None]
        found = np.asarray(jax.vmap(_order)(jnp.asarray(lanes)))
    np.testing.assert_array_equal(found, np.argsort(lanes, axis=-1, kind="stable"))


def test_very_long_groups_are_ordered_too():
    weights = np.random.default_rng(0).standard_normal((1, (1 << 17) + 3)).astype(np.float32)
    with jax.enable_x64(False):  # three passes of 14 bits beside 18 for the place
        found = np.asarray(_order(weights))
    np.testing.assert_array_equal(found, np.argsort(weights, kind="stable"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_group_that_broke_down_is_not_repaired(bad):
    weights = np.array([[1.0, bad, 2.0], [3.0, 2.0, 1.0]])
    found = np.asarray(_project(weights, np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])))
    np.testing.assert_array_equal(found, [[1.0, bad, 2.0], [7.0, 6.0, 5.0]])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_groups_are_put_back_where_they_came_from(axis):
    leaf = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    groups = to_groups(jnp.asarray(leaf), axis)
    assert groups.shape == (leaf.shape[axis], leaf.size // leaf.shape[axis])
    np.testing.assert_array_equal(groups[1], np.take(leaf, 1, axis).ravel())
    np.testing.assert_array_equal(from_groups(groups, leaf.shape, axis), leaf)


def test_values_of_another_tree_are_refused():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    stored = sorted_values(params)
    with pytest.raises(ValueError, match="do not fit a leaf of shape"):
        arrange({"a": jnp.ones((3, 2)), "b": jnp.ones(2)}, stored)
    with pytest.raises(ValueError, match=r"need jax\.vmap"):
        arrange(*jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), (params, stored)))


@pytest.mark.parametrize(
    ("leaf", "options", "message"),
    [
        (np.ones((2, 3), np.int32), {}, "only real floating-point leaves can be permuted: got ..w"),
        (np.ones((2, 3), np.complex64), {}, "only real floating-point leaves"),
        (np.ones((2, 3)), {"axis": 2}, "must be a whole number from -2 to 1"),
        (np.ones((2, 3)), {"axis": lambda path, leaf: None}, "got None"),
        (np.ones(()), {"permute": lambda path, leaf: True}, "needs an axis and an entry"),
        (np.ones((0, 3)), {}, "needs an axis and an entry"),
        (np.ones(3), {}, "no leaf would be permuted"),
    ],
)
def test_leaves_that_cannot_be_permuted_are_named(leaf, options, message):
    with pytest.raises(ValueError, match=message):
        sorted_values({"w": leaf}, **{"permute": matrices, "axis": -1, **options})
