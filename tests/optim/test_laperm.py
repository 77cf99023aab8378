"""Lookahead permutation as a transformation: what a sync keeps and what it leaves alone, on random trees and in optax chains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.optim import LaPermState, apply_sync, laperm, last_sync, sync, synced
from pruneft.optim.laperm_groups import to_groups

PERIOD = 3
# Shapes, output axis, whether vectors are permuted: every tree compiles once.
TREES = {
    "convolution": ([(3, 3, 2, 4), (4,), {"head": (4, 2)}], -1, False),
    "output first": (((4, 6), (3, 2, 2), ()), 0, False),
    "vectors": ({"scale": (7,), "w": (2, 2)}, -1, True),
}


def _is_shape(node):
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


def _rule(vectors):
    return (lambda path, leaf: leaf.ndim >= 1) if vectors else (lambda path, leaf: leaf.ndim >= 2)


def _draw(name, seed, decimals):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(np.round(rng.standard_normal(shape), decimals)), TREES[name][0], is_leaf=_is_shape
    )


def _inner():
    return optax.sgd(0.3, momentum=0.9)


@functools.cache
def _stepper(name, period):
    _, axis, vectors = TREES[name]
    transformation = laperm(_inner(), period, permute=_rule(vectors), axis=axis)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(transformation.init), step


@jax.jit
def _alone(params, state, gradient):
    updates, state = _inner().update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def _groups(name, params):
    """Every permuted leaf as groups, sorted."""
    _, axis, vectors = TREES[name]
    kept = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= (1 if vectors else 2)]
    return [np.sort(np.asarray(to_groups(leaf, axis % leaf.ndim)), axis=-1) for leaf in kept]


def _free(name, params):
    return [leaf for leaf in jax.tree.leaves(params) if leaf.ndim < (1 if TREES[name][2] else 2)]


def _run(name, seed, decimals, steps, period=PERIOD):
    init, step = _stepper(name, period)
    params = _draw(name, seed, decimals)
    state = init(params)
    for place in range(steps):
        params, state = step(params, state, _draw(name, 1000 * seed + place, 3))
    return params, state


_trees = st.sampled_from(sorted(TREES))
_quick = settings(max_examples=12, deadline=None)


@_quick
@given(_trees, st.integers(0, 10**6), st.sampled_from([0, 12]))
def test_after_a_sync_every_group_holds_its_initial_values(name, seed, decimals):
    start = _groups(name, _draw(name, seed, decimals))
    params, state = _run(name, seed, decimals, 2 * PERIOD)
    assert bool(synced(state))
    assert int(last_sync(state)) == 2 * PERIOD
    largest = max(np.abs(group).max() for group in start)
    for found, expected in zip(_groups(name, params), start, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * largest)
    exact = apply_sync(params, state)
    for found, expected in zip(_groups(name, exact), start, strict=True):
        np.testing.assert_array_equal(found, expected)  # bit for bit, zeros among them
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(_draw(name, seed, decimals))))


@_quick
@given(_trees, st.integers(0, 10**6))
def test_between_syncs_weights_are_free_and_a_sync_can_be_made_at_any_time(name, seed):
    params, state = _run(name, seed, 12, PERIOD + 1)
    start = _groups(name, _draw(name, seed, 12))
    assert not bool(synced(state))
    assert int(last_sync(state)) == PERIOD
    assert any(np.abs(found - expected).max() > 0.01 for found, expected in zip(_groups(name, params), start))
    there, after = sync(params, state)
    assert bool(synced(after))
    assert int(last_sync(after)) == PERIOD + 1
    for found, expected in zip(_groups(name, there), start, strict=True):
        np.testing.assert_array_equal(found, expected)


@_quick
@given(st.integers(0, 10**6), st.sampled_from([None, 100]))
def test_without_a_sync_it_is_the_inner_optimiser_bit_for_bit(seed, period):
    name = "convolution"
    ours, state = _run(name, seed, 12, 5, period)
    params = _draw(name, seed, 12)
    alone = _inner().init(params)
    for place in range(5):
        params, alone = _alone(params, alone, _draw(name, 1000 * seed + place, 3))
    for one, other in zip(jax.tree.leaves((ours, state.inner)), jax.tree.leaves((params, alone)), strict=True):
        np.testing.assert_array_equal(one, other)


@_quick
@given(_trees, st.integers(0, 10**6))
def test_a_sync_touches_neither_free_leaves_nor_the_state_of_the_inner_optimiser(name, seed):
    # The gradients do not depend on the weights here, so both runs feed the inner optimiser the same.
    with_syncs, state = _run(name, seed, 12, 2 * PERIOD + 1)
    without, plain = _run(name, seed, 12, 2 * PERIOD + 1, None)
    for one, other in zip(_free(name, with_syncs), _free(name, without), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(jax.tree.leaves(state.inner), jax.tree.leaves(plain.inner), strict=True):
        np.testing.assert_array_equal(one, other)
    for values in jax.tree.leaves(state.values):
        assert np.all(np.diff(values, axis=-1) >= 0)


def _loss(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]) ** 2)


def _train(transformation, steps, key):
    """Parameters and state after a scan over steps from a random start."""
    params = {"w": jax.random.normal(key, (4, 3)), "b": jnp.zeros(3)}
    x = jax.random.normal(jax.random.fold_in(key, 1), (8, 4))

    def body(carry, _):
        params, state = carry
        updates, state = transformation.update(jax.grad(_loss)(params, x), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(body, (params, transformation.init(params)), None, length=steps)[0]


def test_a_scan_over_lanes_gives_what_single_runs_give_and_keeps_the_branch():
    transformation = laperm(_inner(), PERIOD)
    train = functools.partial(_train, transformation, 7)
    keys = jax.random.split(jax.random.key(0), 3)
    lanes = jax.jit(jax.vmap(train))
    together, states = lanes(keys)
    for place, key in enumerate(keys):
        alone, _ = jax.jit(train)(key)
        for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(one, other[place], rtol=1e-9, atol=1e-12)
    assert jax.vmap(synced)(states).tolist() == [False] * 3
    whole = str(jax.make_jaxpr(jax.vmap(train))(keys))
    assert "cond[" in whole  # a branch that is taken when a sync is due, not a choice between two results
    there, states = jax.vmap(sync)(together, states)
    start = jnp.sort(jax.vmap(lambda key: jax.random.normal(key, (4, 3)))(keys), axis=1)
    np.testing.assert_array_equal(jnp.sort(there["w"], axis=1), start)
    assert bool(jnp.all(jax.vmap(synced)(states)))


def test_lanes_that_count_differently_sync_each_at_its_own_time():
    transformation = laperm(optax.sgd(0.1), 2)
    params = {"w": jnp.asarray([[3.0, 1.0], [1.0, 2.0]])}
    state = transformation.init(params)
    states = jax.vmap(lambda count: state._replace(steps=count))(jnp.asarray([0, 1], jnp.int32))
    step = jax.jit(jax.vmap(lambda state: transformation.update({"w": jnp.ones((2, 2))}, state, params)))
    updates, states = step(states)
    np.testing.assert_allclose(updates["w"], np.stack([np.full((2, 2), -0.1), np.zeros((2, 2))]))
    assert states.synced_at.tolist() == [0, 2]


def test_it_works_inside_a_chain_and_on_the_parts_of_a_partition():
    params = {"kernel": jnp.asarray([[1.0, -2.0], [0.5, 4.0], [-3.0, 0.0]]), "embedding": jnp.ones((2, 2)) / 3}
    parts = {
        "ours": optax.chain(optax.clip(1.0), laperm(optax.sgd(0.7), 2, axis=-1)),
        "theirs": optax.sgd(0.1),
    }
    transformation = optax.partition(parts, {"kernel": "ours", "embedding": "theirs"})
    state = transformation.init(params)
    now = params
    for _ in range(2):
        updates, state = transformation.update(jax.tree.map(jnp.sin, now), state, now)
        now = optax.apply_updates(now, updates)
    assert bool(synced(state))
    exact = apply_sync(now, state)
    np.testing.assert_array_equal(jnp.sort(exact["kernel"], axis=0), jnp.sort(params["kernel"], axis=0))
    np.testing.assert_allclose(exact["kernel"], now["kernel"], atol=1e-12)
    assert np.all(now["embedding"] < params["embedding"])
    np.testing.assert_array_equal(exact["embedding"], now["embedding"])


def test_weights_narrower_than_their_updates_come_back_exactly():
    params = {"w": jax.random.normal(jax.random.key(0), (5, 3), jnp.float32).astype(jnp.bfloat16)}
    transformation = laperm(optax.identity(), 1)
    noise = {"w": jax.random.normal(jax.random.key(1), (5, 3), jnp.float32)}
    with jax.numpy_dtype_promotion("standard"):
        updates, state = transformation.update(noise, transformation.init(params), params)
        moved = optax.apply_updates(params, updates)
    assert updates["w"].dtype == jnp.float32
    assert moved["w"].dtype == state.values["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(jnp.sort(moved["w"], axis=0), jnp.sort(params["w"], axis=0))


def test_a_nan_is_still_there_after_a_sync():
    params = {"w": jnp.asarray([[1.0, 2.0], [3.0, 4.0]])}
    transformation = laperm(optax.identity(), 1)
    step = {"w": jnp.asarray([[jnp.nan, 2.0], [0.0, -5.0]])}
    updates, _ = transformation.update(step, transformation.init(params), params)
    moved = np.asarray(optax.apply_updates(params, updates)["w"])
    assert np.isnan(moved[0, 0])
    assert moved[:, 1].tolist() == [4.0, 2.0]


@pytest.mark.parametrize("period", [0, -1, True])
def test_a_period_that_is_no_number_of_steps_is_refused(period):
    with pytest.raises(ValueError, match="whole number of at least 1, or None"):
        laperm(optax.sgd(0.1), period)


def test_what_is_missing_is_named():
    params = {"w": jnp.ones((2, 2))}
    transformation = laperm(optax.sgd(0.1))
    state = transformation.init(params)
    assert isinstance(state, LaPermState)
    with pytest.raises(ValueError, match=r"call update\(gradient, state, params\)"):
        transformation.update(params, state)
    for function in (lambda: apply_sync(params, state.inner), lambda: synced(state.inner), lambda: sync(params, ())):
        with pytest.raises(ValueError, match=r"expected the state of pruneft.optim.laperm"):
            function()
