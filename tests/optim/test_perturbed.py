"""Noise that leaves saddles."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruneft import optim

D = 5
BASIS = np.linalg.qr(np.random.default_rng(2).standard_normal((D, D)))[0]
TARGET = jnp.asarray(BASIS[:, :2] * [1.0, 0.5] @ BASIS[:, :2].T)
# The second eigenvector fits the smaller eigenvalue: a strict saddle of the rank-one fit.
SADDLE = jnp.asarray(np.sqrt(0.5) * BASIS[:, 1:2])


def _gradient(factor):
    return 4 * (factor @ factor.T - TARGET) @ factor


def _noisy(**settings):
    return optim.perturbed(
        optax.sgd(0.05), **{"radius": 1e-2, "threshold": 1e-3, "patience": 20, "seed": 1, **settings}
    )


def _run(transformation, start, steps=200):
    transformation = optax.with_extra_args_support(transformation)

    def step(carry, _):
        factor, state = carry
        updates, state = transformation.update(_gradient(factor), state, factor)
        factor = optax.apply_updates(factor, updates)
        return (factor, state), factor

    (factor, state), path = jax.jit(
        lambda start: jax.lax.scan(step, (start, transformation.init(start)), None, length=steps)
    )(start)
    return np.asarray(factor), state, np.asarray(path)


def test_descent_stays_at_a_saddle_and_leaves_it_with_noise():
    stuck, _, _ = _run(optax.sgd(0.05), SADDLE)
    np.testing.assert_allclose(stuck, SADDLE, atol=1e-6)
    free, state, _ = _run(_noisy(), SADDLE)
    # The noise goes on at the minimum, so the end is as near as its radius.
    np.testing.assert_allclose(free @ free.T, BASIS[:, :1] @ BASIS[:, :1].T, atol=3e-2)
    assert int(state.given) >= 1


def test_noise_comes_when_the_gradient_has_waited_and_has_its_radius():
    _, state, path = _run(_noisy(patience=7), SADDLE, steps=8)
    moves = np.linalg.norm(np.diff(np.concatenate([SADDLE[None], path]), axis=0), axis=(1, 2))
    assert np.all(moves[:6] < 1e-12)
    assert moves[6] == pytest.approx(1e-2, rel=1e-6)
    assert (int(state.given), int(state.since)) == (1, 1)


def test_a_gradient_above_the_threshold_is_left_alone():
    start = SADDLE + 0.3 * jnp.asarray(BASIS[:, :1])
    noisy, state, _ = _run(_noisy(patience=1), start, steps=5)
    plain, _, _ = _run(optax.sgd(0.05), start, steps=5)
    np.testing.assert_array_equal(noisy, plain)
    assert int(state.given) == 0


def _noise(factor, **settings):
    transformation = _noisy(patience=1, **settings)

    @jax.jit
    def update(factor):
        return transformation.update(jnp.zeros_like(factor), transformation.init(factor), factor)[0]

    return np.asarray(update(factor))


def test_padding_gets_no_noise_and_changes_none():
    padded = np.pad(np.asarray(SADDLE), ((0, 2), (0, 3)))
    found = _noise(jnp.asarray(padded))
    assert np.all(found[D:] == 0)
    assert np.all(found[:, 1:] == 0)
    np.testing.assert_allclose(found[:D, :1], _noise(SADDLE), rtol=1e-12)


def test_at_zero_nothing_moves_unless_a_mask_says_what_is_alive():
    zero = jnp.zeros((D, 3))
    assert np.all(_noise(zero) == 0)
    assert np.all(_noise(zero, live=True) != 0)
    some = _noise(zero, live=jnp.arange(3) < 2)
    assert np.all(some[:, :2] != 0)
    assert np.all(some[:, 2] == 0)
    assert np.linalg.norm(some) == pytest.approx(1e-2)


def test_matrices_leaves_and_seeds_have_noise_of_their_own():
    stack = jnp.stack([SADDLE, SADDLE])
    first, second = _noise(stack)
    assert not np.allclose(first, second)
    assert [np.linalg.norm(noise) for noise in (first, second)] == pytest.approx([1e-2, 1e-2])
    tree = {"a": SADDLE, "b": SADDLE}
    transformation = _noisy(patience=1)
    zeros = jax.tree.map(jnp.zeros_like, tree)
    updates, _ = transformation.update(zeros, transformation.init(tree), tree)
    assert not np.allclose(updates["a"], updates["b"])
    np.testing.assert_array_equal(_noise(SADDLE, seed=jax.random.key(7)), _noise(SADDLE, seed=7))
    assert not np.allclose(_noise(SADDLE, seed=7), _noise(SADDLE, seed=8))


def test_seeds_may_be_traced_one_for_each_lane():
    keys = jax.random.split(jax.random.key(0), 2)
    lanes = jax.vmap(lambda key: _noisy(patience=1, seed=key).init(SADDLE).key)(keys)
    chex.assert_trees_all_equal(lanes, jax.random.key_data(keys))


@pytest.mark.parametrize("settings", [{"radius": 0.0}, {"threshold": -1.0}, {"patience": 0}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ValueError, match="radius and threshold must be positive and patience at least 1: got"):
        _noisy(**settings)
