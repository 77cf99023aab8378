"""Initial weights for lookahead permutation, and how long to wait between syncs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import binom

from pruneft.optim import apply_sync, laperm, rank_moves, shared_value_init, sparse_init, suggest_period

SIZES = {"in": {"w": (64, 100), "b": (100,)}, "out": {"w": (100, 60)}}


def _params(seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.uniform(0.5, 1, shape)), SIZES, is_leaf=lambda node: isinstance(node, tuple)
    )


def _within(zeros, size, share):
    low, high = binom.ppf([5e-7, 1 - 5e-7], size, share)
    return low <= zeros <= high


def test_a_share_of_the_weights_is_zero_and_first_layers_keep_four_fifths():
    params = _params()
    for key, removed, first in ((0, 0.7, 0.2), (1, 0.1, 0.1)):
        found = sparse_init(jax.random.key(key), params, removed, first="['in']")
        assert _within(int(jnp.sum(found["out"]["w"] == 0)), 6000, removed)
        assert _within(int(jnp.sum(found["in"]["w"] == 0)), 6400, first)
        np.testing.assert_array_equal(found["in"]["b"], params["in"]["b"])
        kept = found["out"]["w"] != 0
        np.testing.assert_array_equal(found["out"]["w"][kept], params["out"]["w"][kept])
    np.testing.assert_array_equal(sparse_init(jax.random.key(0), params, 0.0)["out"]["w"], params["out"]["w"])


def test_the_share_may_be_traced_and_may_differ_between_leaves():
    params = _params()
    made = jax.jit(lambda share: sparse_init(jax.random.key(3), params, share))(0.5)
    eager = sparse_init(jax.random.key(3), params, 0.5)
    np.testing.assert_array_equal(made["out"]["w"], eager["out"]["w"])
    ruled = sparse_init(jax.random.key(3), params, lambda path, leaf: 0.5 if "out" in path else 0.0)
    np.testing.assert_array_equal(ruled["out"]["w"], eager["out"]["w"])
    np.testing.assert_array_equal(ruled["in"]["w"], params["in"]["w"])


def test_zeros_move_but_their_number_stays_for_every_output_unit():
    start = sparse_init(jax.random.key(0), _params(), 0.5)
    transformation = laperm(optax.identity(), 1)
    noise = jax.tree.map(lambda leaf: 3 * jax.random.normal(jax.random.key(1), leaf.shape, leaf.dtype), start)
    _, state = transformation.update(noise, transformation.init(start), start)
    moved = apply_sync(optax.apply_updates(start, noise), state)
    for layer in ("in", "out"):
        before, after = (np.asarray(tree[layer]["w"] == 0) for tree in (start, moved))
        np.testing.assert_array_equal(before.sum(axis=0), after.sum(axis=0))
        assert np.mean(before != after) > 0.1


def test_weights_of_a_shared_value_are_zero_or_that_value():
    params = _params()
    found = shared_value_init(
        jax.random.key(0), params, 0.03, kept=lambda path, leaf: 1 / 15 if "in" in path else 1 / 3
    )
    for layer, share in (("in", 1 / 15), ("out", 1 / 3)):
        w = np.asarray(found[layer]["w"])
        assert set(np.unique(w)) == {0.0, 0.03}
        assert _within(int(np.sum(w != 0)), w.size, share)
    np.testing.assert_array_equal(found["in"]["b"], params["in"]["b"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key, params: sparse_init(key, params, 1.0), "removed is a probability at least 0 and below 1: got 1.0"),
        (lambda key, params: sparse_init(key, params, float("nan")), "removed is a probability"),
        (lambda key, params: sparse_init(key, params, 0.5, first=("in", "stem")), "first='stem' is part of no path"),
        (lambda key, params: shared_value_init(key, params, kept=0.0), "kept is a probability above 0 and at most 1"),
        (lambda key, params: shared_value_init(key, params, 0.0), "must be finite and not zero: got 0.0"),
    ],
)
def test_starts_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0), _params())


def _uniform(n, units, bound):
    """Evenly spaced values from -bound to bound for each unit, whose range over n is the gap but for one part in n."""
    return jnp.asarray(np.tile(np.linspace(-bound, bound, n)[:, None], (1, units)))


def test_the_move_is_the_way_of_a_weight_over_the_gap_of_its_group():
    params = {"first": _uniform(64, 8, 0.3), "second": _uniform(128, 4, 0.2), "bias": jnp.zeros(8)}
    moves = rank_moves(1e-3, 100, params)
    assert moves == pytest.approx({"['first']": 0.1 * 64 / 0.6, "['second']": 0.1 * 128 / 0.4})
    assert rank_moves(1e-3, 100, {"w": params["first"].T}, axis=0)["['w']"] == pytest.approx(moves["['first']"])
    assert rank_moves(1e-3, 1, params)["['first']"] < 1  # a sync after every step undoes it


def test_the_suggested_period_moves_the_slowest_leaf_by_so_many_ranks():
    params = {"first": _uniform(64, 8, 0.3), "second": _uniform(128, 4, 0.2)}
    period = suggest_period(1e-3, params)
    assert min(rank_moves(1e-3, period, params).values()) == pytest.approx(20, rel=0.01)
    assert suggest_period(1e-3, params, move=10) == pytest.approx(period / 2, abs=1)
    assert suggest_period(1e-3, params, steps=1500) == 100
    assert suggest_period(1e-3, params, steps=30) == 10  # one rank takes 9.4 steps: less trains nothing
    assert suggest_period(5.0, params) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda params: suggest_period(0.0, params), "learning rate must be positive"),
        (lambda params: suggest_period(1e-3, params, move=0.5), "move must be at least 1 rank"),
        (lambda params: suggest_period(1e-3, params, steps=0), "steps at least 1"),
        (lambda params: rank_moves(1e-3, 0, params), "the period at least 1"),
        (lambda params: suggest_period(1e-3, {"w": jnp.ones((3, 3))}), "holds two different values"),
        (lambda params: suggest_period(1e-3, {"b": jnp.arange(3.0)}), "holds two different values"),
    ],
)
def test_periods_of_nothing_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call({"w": _uniform(4, 2, 1.0)})
