"""Thresholding while training ends at the width asked for, with a model that removal leaves as it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruneft import network
from pruneft.network import trees
from tests.network import models

CASE = models.PLAIN["mlp"]
FAMILIES = network.groups(CASE.fn, CASE.params, *CASE.inputs)
TARGET = jnp.asarray(models.draw((5, 3), 9))
STEPS = 40


def train(params, optimiser, steps=STEPS):
    """Parameters and states after every step, in one program."""

    def loss(p):
        return jnp.mean((CASE.fn(p, *CASE.inputs) - TARGET) ** 2)

    def step(carry, _):
        params, state = carry
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies Python floats with counters
            updates, state = optimiser.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        return (params, state), (params, state[-1])

    return jax.lax.scan(step, (params, optimiser.init(params)), None, length=steps)


@pytest.fixture(scope="module")
def trained():
    optimiser = optax.chain(
        optax.adam(0.01), network.gradual_threshold(FAMILIES, {"w1:1": 0.5, "w2:1": 0.3}, STEPS, every=1)
    )
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), CASE.params)
    return jax.jit(jax.vmap(lambda p: train(p, optimiser)))(stacked)


def live(params, seed):
    """Groups that are not zero, of both families, at every step."""
    first = np.any(params["w1"][seed], axis=1) | (params["b1"][seed] != 0) | np.any(params["w2"][seed], axis=2)
    second = np.any(params["w2"][seed], axis=1) | (params["b2"][seed] != 0) | np.any(params["w3"][seed], axis=2)
    return first, second


def test_width_falls_along_the_cubic_to_what_was_asked_for(trained):
    _, (history, _) = trained
    t = np.arange(STEPS)
    z = np.clip((t / STEPS - 0.1) / 0.5, 0, 1)
    for seed in (0, 1):
        for found, width, final in zip(live(history, seed), (8, 7), (4, 2), strict=True):
            expected = np.round(width - (width - final) * (1 - (1 - z) ** 3))
            np.testing.assert_array_equal(found.sum(1), expected)


def test_state_knows_the_groups_that_are_zero(trained):
    _, (history, states) = trained
    for seed in (0, 1):
        for found, name in zip(live(history, seed), ("w1:1", "w2:1"), strict=True):
            np.testing.assert_array_equal(states.keep[name][seed], found)


def test_removal_at_the_end_changes_nothing(trained):
    ((params, state), _) = trained
    params, state = (jax.tree.map(lambda leaf: leaf[0], tree) for tree in (params, state))
    removed = network.remove(params, FAMILIES, state[-1].keep, opt_state=state[0], calls=0)
    assert removed.report.change <= 1e-6
    assert removed.params["w2"].shape == (4, 2) == removed.opt_state[0].mu["w2"].shape


def test_zeros_stay_between_looks():
    optimiser = optax.chain(optax.sgd(0.05), network.gradual_threshold(FAMILIES, 0.5, STEPS, every=5))
    _, (history, _) = jax.jit(lambda p: train(p, optimiser))(CASE.params)
    first, _ = live({name: leaf[None] for name, leaf in history.items()}, 0)
    assert first[-1].sum() == 4
    changes = np.flatnonzero(np.any(first[1:] != first[:-1], axis=1)) + 1
    assert np.all(changes % 5 == 0)


def test_rounds_reach_the_share_and_tune_after_each():
    widths = []

    def tune(params, families):
        widths.append(tuple(f.width for f in families))
        return jax.tree.map(lambda leaf: 2 * leaf, params)

    shapes = network.groups(CASE.fn, CASE.params, trees.abstract(CASE.inputs[0]))
    done = network.prune_in_rounds(CASE.params, shapes, 0.25, 2, tune, compensate="none", calls=0)
    assert widths == [(4, 4), (2, 2)]
    assert [f.original for f in done.families] == [8, 7]
    # Tuned twice: every weight that is left is four times what it was.
    norms = np.sort(np.abs(np.asarray(CASE.params["b1"])))
    assert np.isin(np.abs(np.asarray(done.params["b1"])) / 4, norms).all()


BAD = {
    "begin": ({"begin": 0.7, "length": 0.5}, "begin=0.7, length=0.5"),
    "every": ({"every": 0}, "every=0"),
    "steps": ({"steps": 0}, "steps=0"),
    "keep": ({"keep": 0.0}, r"must lie in \(0, 1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_settings_out_of_range_are_errors(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        network.gradual_threshold(FAMILIES, **{"keep": 0.5, "steps": 10, **options})


def test_update_without_parameters_is_an_error():
    threshold = network.gradual_threshold(FAMILIES, 0.5, 10)
    with pytest.raises(ValueError, match="needs the parameters"):
        threshold.update(CASE.params, threshold.init(CASE.params))


def test_other_parameters_are_an_error():
    threshold = network.gradual_threshold(FAMILIES, 0.5, 10)
    with pytest.raises(ValueError, match="w1 is gone"):
        threshold.init(
            {"b1": CASE.params["b1"], "b2": CASE.params["b2"], "b3": CASE.params["b3"], "w2": CASE.params["w2"]}
        )
