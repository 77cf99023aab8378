"""Running averages of batch normalisation lie beside the weights: they go with their channel, and count for nothing before that."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pruneft import network
from pruneft.network import trees
from tests.network import models

PICTURES = jnp.moveaxis(models.IMAGE, -1, 1)


class Normalised(eqx.Module):
    """Convolution, Equinox's own batch normalisation, dense layer."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, mode: str) -> None:
        first, second = jax.random.split(models.KEY)
        self.conv = eqx.nn.Conv2d(2, 6, 3, padding=1, key=first, dtype=jnp.float32)
        self.norm = eqx.nn.BatchNorm(6, axis_name="batch", mode=mode, dtype=jnp.float32)
        self.last = eqx.nn.Linear(96, 3, key=second, dtype=jnp.float32)

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        h, state = self.norm(self.conv(x), state)
        return self.last(jax.nn.relu(h).reshape(-1)), state


def forward(model, state, x):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


def predict(both, x):
    model, state = both
    return forward(eqx.nn.inference_mode(model), state, x)[0]


@pytest.fixture(scope="module", params=["batch", "ema"])
def equinox(request):
    with jax.numpy_dtype_promotion("standard"):  # Equinox joins its counter with floats
        model, state = eqx.nn.make_with_state(Normalised)(request.param)
        # Averages, scales and shifts that are not those of the start: else a channel's would be like any other's.
        model = eqx.tree_at(lambda m: (m.norm.weight, m.norm.bias), model, tuple(map(jnp.asarray, models.draw((2, 6)))))
        state = eqx.filter_jit(forward)(model, state, PICTURES)[1]
    return model, state


def test_equinox_channels_take_their_averages_with_them(equinox):
    with jax.numpy_dtype_promotion("standard"):
        families = network.groups(predict, equinox, PICTURES)
        (family,) = families
        assert {f"{m.path}[{m.axis}]": m.indices.shape[1] for m in family.members} == {
            "0/conv/weight[0]": 1,
            "0/conv/bias[0]": 1,
            "0/norm/weight[0]": 1,
            "0/norm/bias[0]": 1,
            "0/last/weight[1]": 16,
            "1/1/0[0]": 1,
            "1/1/1[0]": 1,
        }
        removed = network.remove(equinox, families, {family.name: [1, 2, 4]}, compensate="none", calls=0)
        assert removed.report.mismatch <= 1e-5
        assert removed.report.change > 0.01
        model, state = removed.params
        assert (model.norm.input_size, model.conv.out_channels, model.last.in_features) == (3, 3, 48)
        assert not model.norm.inference
        # It trains on: statistics of the batch, and averages of three channels.
        _, state = eqx.filter_jit(forward)(model, state, PICTURES)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(state)) == [(), (3,), (3,)]


def test_averages_of_equinox_count_for_nothing(equinox):
    model, state = equinox
    with jax.numpy_dtype_promotion("standard"):
        families = network.groups(predict, equinox, PICTURES)
        huge = jax.tree.map(lambda leaf: 1000 * leaf if leaf.shape else leaf, state)
        first = network.scores("norm", (model, state), families)
        again = network.scores("norm", (model, huge), families)
        weights = network.scores("norm", model, families.part(model, at="0/"))
    for name in families.names:
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], weights[name])


class Flax(nnx.Module):
    """The same in NNX, channels last."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.5, rngs=rngs)
        self.last = nnx.Linear(96, 3, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        h = jax.nn.relu(self.norm(self.conv(x), use_running_average=not train))
        return self.last(h.reshape(h.shape[0], -1))


def test_an_nnx_optimiser_of_the_weights_alone_thresholds_and_removes():
    steps = 8
    with jax.numpy_dtype_promotion("standard"):
        graphdef, state = nnx.split(nnx.eval_shape(lambda: Flax(nnx.Rngs(0))))
        model = nnx.merge(graphdef, models.drawn(state))
        families = network.groups(lambda m, x: m(x), model, models.IMAGE)
        weights = families.part(nnx.state(model, nnx.Param))
        assert families.names == weights.names
        chain = optax.chain(optax.adam(0.01), network.gradual_threshold(weights, 0.5, steps, every=1))
        optimiser = nnx.Optimizer(model, chain, wrt=nnx.Param)

        @nnx.jit
        def step(model: Flax, optimiser: nnx.Optimizer) -> None:
            optimiser.update(model, nnx.grad(lambda m: jnp.mean(m(models.IMAGE, train=True) ** 2))(model))

        for _ in range(steps):
            step(model, optimiser)
        keep = optimiser.opt_state[-1].keep
        removed = network.remove(model, families, keep, calls=0)
    assert removed.report.widths == {"conv/kernel:3": (6, 3)}
    assert removed.report.change <= 1e-5
    assert trees.named_arrays(nnx.state(removed.params, nnx.BatchStat))["norm/var"].shape == (3,)


def test_a_part_that_does_not_belong_is_an_error(equinox):
    with jax.numpy_dtype_promotion("standard"):
        families = network.groups(predict, equinox, PICTURES)
    with pytest.raises(
        ValueError, match=r"conv/weight .* is no part of what was grouped: conv/weight is not there.*at="
    ):
        families.part(equinox[0])
    wider = eqx.tree_at(lambda m: m.norm.bias, equinox[0], jnp.zeros(7, jnp.float32))
    with pytest.raises(ValueError, match=r"norm/bias of shape \(7,\) .* has shape \(6,\) there"):
        families.part(wider, at="0/")
