"""Grouped convolutions stay whole, depthwise ones go channel by channel; layer normalisation is flagged on its own axis alone."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pruneft import network
from pruneft.network import trees
from tests.network import models

PICTURES = jnp.moveaxis(models.IMAGE, -1, 1)


class FlaxGrouped(nnx.Module):
    """Convolution, grouped convolution, dense layers."""

    def __init__(self, outputs: int, groups: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.middle = nnx.Conv(4, outputs, (3, 3), feature_group_count=groups, rngs=rngs)
        self.hidden = nnx.Linear(outputs, 7, rngs=rngs)
        self.last = nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = jax.nn.relu(self.middle(jax.nn.relu(self.first(x))))
        return self.last(jax.nn.relu(self.hidden(h.mean((1, 2)))))


class EquinoxGrouped(eqx.Module):
    """The same, channels first."""

    first: eqx.nn.Conv2d
    middle: eqx.nn.Conv2d
    hidden: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, outputs: int, groups: int) -> None:
        keys = jax.random.split(models.KEY, 4)
        self.first = eqx.nn.Conv2d(2, 4, 3, padding=1, key=keys[0], dtype=jnp.float32)
        self.middle = eqx.nn.Conv2d(4, outputs, 3, padding=1, groups=groups, key=keys[1], dtype=jnp.float32)
        self.hidden = eqx.nn.Linear(outputs, 7, key=keys[2], dtype=jnp.float32)
        self.last = eqx.nn.Linear(7, 3, key=keys[3], dtype=jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = jax.nn.relu(self.middle(jax.nn.relu(self.first(x))))
        return self.last(jax.nn.relu(self.hidden(h.mean((1, 2)))))


def plain(groups):
    def model(p, x):
        h = jax.nn.relu(models.conv(x, p["first"]))
        # As many groups as the kernel's input channels say.
        h = jax.nn.relu(models.conv(h, p["middle"], h.shape[-1] // p["middle"].shape[2]))
        return jax.nn.relu(h.mean((1, 2)) @ p["hidden"]) @ p["last"]

    return model


def grouped(framework, outputs, groups):
    """(fn, params, batch) of a network whose middle convolution has four input channels."""
    if framework == "plain":
        shapes = {"first": (3, 3, 2, 4), "middle": (3, 3, 4 // groups, outputs), "hidden": (outputs, 7), "last": (7, 3)}
        return plain(groups), models.tree(shapes), models.IMAGE
    if framework == "nnx":
        graphdef, state = nnx.split(nnx.eval_shape(lambda: FlaxGrouped(outputs, groups, nnx.Rngs(0))))
        return lambda m, x: m(x), nnx.merge(graphdef, models.drawn(state)), models.IMAGE
    model = models.drawn(eqx.filter_eval_shape(EquinoxGrouped, outputs, groups))
    return lambda m, x: jax.vmap(m)(x), model, PICTURES


@pytest.mark.parametrize("outputs", [4, 8])
@pytest.mark.parametrize("framework", ["plain", "nnx", "equinox"])
def test_channels_around_a_grouped_convolution_stay_and_the_rest_goes(framework, outputs):
    """Two groups: without a channel before it, or one of its own, the others would meet other weights."""
    fn, params, batch = grouped(framework, outputs, 2)
    found = network.groups(fn, params, batch)
    assert [family.width for family in found] == [7]
    assert found.unknown == ("conv_general_dilated with groups",)
    stay = {each.path.split("/")[0] for each in found.whole if "not depthwise" in each.why}
    assert stay == {"first", "middle"}
    removed = network.remove(params, found, {found[0].name: [0, 2, 3]}, compensate="none", calls=0)
    assert removed.report.mismatch <= 1e-5
    assert removed.report.change > 0.01
    # Two operations each: 16 places, nine weights, two input channels in every convolution; three pictures.
    assert found.flops() == 2 * 3 * (16 * 9 * 2 * (4 + outputs) + outputs * 7 + 7 * 3)
    assert removed.report.flops[1] == 2 * 3 * (16 * 9 * 2 * (4 + outputs) + outputs * 3 + 3 * 3)


@pytest.mark.parametrize("framework", ["plain", "nnx", "equinox"])
def test_a_depthwise_channel_goes_with_all_that_it_makes(framework):
    """Channel multiplier two: an input channel is two neighbouring ones of the output."""
    fn, params, batch = grouped(framework, 8, 4)
    found = network.groups(fn, params, batch)
    (family,) = (f for f in found if f.width == 4)
    assert family.exact
    made = {m.path.split("/")[0]: m for m in family.members if m.axis == (0 if framework == "equinox" else 3)}
    np.testing.assert_array_equal(made["middle"].indices, [[0, 1], [2, 3], [4, 5], [6, 7]])
    removed = network.remove(params, found, {family.name: [1, 3]}, compensate="none", calls=0)
    assert removed.report.mismatch <= 1e-5
    assert removed.report.change > 0.01
    if framework == "nnx":
        assert (removed.params.middle.feature_group_count, removed.params.middle.out_features) == (2, 4)
    if framework == "equinox":
        assert (removed.params.middle.groups, removed.params.middle.out_channels) == (2, 4)


def layered(p, x):
    """Hidden units before a layer normalisation, a stream on it, hidden units behind it."""
    h = jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    s = models.normalise(h, p)
    return jax.nn.sigmoid(s @ p["w3"] + p["b3"]) @ p["w4"] + p["b4"]


SHAPES = {"w1": (6, 8), "b1": (8,), "w2": (8, 5), "b2": (5,), "scale": (5,), "bias": (5,)}
SHAPES |= {"w3": (5, 7), "b3": (7,), "w4": (7, 3), "b4": (3,)}


def silent(units):
    """Every second hidden unit has a kernel of zeros, and says phi(b)."""
    p = models.tree(SHAPES)
    p["b1"] = jnp.abs(p["b1"])
    return {**p, "w1": p["w1"].at[:, ::2].set(0), "w3": p["w3"].at[:, ::2].set(0)}


def test_constants_before_and_behind_a_layer_normalisation_are_moved_exactly(recwarn):
    p = silent(SHAPES)
    families = network.groups(layered, p, models.ROWS)
    assert {f.name: f.exact for f in families} == {"w1:1": True, "w2:1": False, "w3:1": True}
    keep = {"w1:1": np.arange(8) % 2 == 1, "w3:1": np.arange(7) % 2 == 1}
    removed = network.remove(p, families, keep, calls=0)
    assert set(removed.report.biases) == {"b2", "b4"}
    assert removed.report.change <= 1e-5
    assert not recwarn.list
    left = network.remove(p, families, keep, compensate="none", calls=0)
    assert left.report.change > 0.01


@pytest.mark.parametrize("compensate", ["none", "constant", "mean"])
def test_what_a_layer_normalisation_counts_is_flagged_whatever_is_compensated(compensate):
    """Zeros on its axis: the mean counts them, and no bias makes up for that."""
    p = models.tree(SHAPES)
    zero = {"w2:1": np.arange(5) != 1}
    families = network.groups(layered, p, models.ROWS)
    p = network.zeroed(p, families, zero)
    with pytest.warns(UserWarning, match="w2:1 is not exact: .*normalisation"):
        removed = network.remove(p, families, zero, compensate=compensate, calls=0)
    assert removed.report.mismatch > 1e-2
    assert removed.report.remarks
    assert "is not exact" in str(removed.report)


def test_normalised_layers_of_equinox_and_flax_shrink_with_their_stream():
    class Stream(eqx.Module):
        embed: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        root: eqx.nn.RMSNorm
        last: eqx.nn.Linear

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(self.root(self.norm(self.embed(x))))

    class Flax(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.embed, self.last = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)
            self.norm, self.root = nnx.LayerNorm(5, rngs=rngs), nnx.RMSNorm(5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(self.root(self.norm(self.embed(x))))

    def equinox() -> Stream:
        key = models.KEY
        first, last = eqx.nn.Linear(6, 5, key=key), eqx.nn.Linear(5, 3, key=key)
        return Stream(first, eqx.nn.LayerNorm(5), eqx.nn.RMSNorm(5), last)

    def narrow(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32)

    graphdef, state = nnx.split(nnx.eval_shape(lambda: Flax(nnx.Rngs(0))))
    whole = models.drawn(trees.map_arrays(lambda _, leaf: narrow(leaf), eqx.filter_eval_shape(equinox)))
    for fn, params in (
        (lambda m, x: jax.vmap(m)(x), whole),
        (lambda m, x: m(x), nnx.merge(graphdef, models.drawn(state))),
    ):
        (family,) = network.groups(fn, params, models.ROWS)
        assert (family.width, family.exact) == (5, False)
        with pytest.warns(UserWarning, match="not exact"):
            removed = network.remove(params, network.groups(fn, params, models.ROWS), {family.name: [0, 1, 4]}, calls=0)
        shapes = {name: leaf.shape for name, leaf in trees.named_arrays(removed.params).items()}
        assert {name: shape for name, shape in shapes.items() if name.startswith(("norm", "root"))} == dict.fromkeys(
            [name for name in shapes if name.startswith(("norm", "root"))], (3,)
        )
        assert np.all(np.isfinite(fn(removed.params, models.ROWS)))
