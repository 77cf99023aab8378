"""Small models in plain JAX, Flax NNX, Flax Linen and Equinox, each with the families it must have."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from pruneft import network
from pruneft.network import trees

KEY = jax.random.key(0)


class Case(NamedTuple):
    """A model, and its families as {name: (width, {member: coordinates of a group})}; consumers have a star."""

    fn: Any
    params: Any
    inputs: tuple[Any, ...]
    families: dict[str, tuple[int, dict[str, int]]]


def draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Numbers without zeros among them."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def tree(shapes: dict[str, tuple[int, ...]]) -> dict[str, jax.Array]:
    """Weights of given shapes."""
    return drawn({name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()})


def drawn(shapes: Any) -> Any:
    """Numbers in place of shapes: nothing is compiled, as drawing by JAX would."""

    def fill(name: str, leaf: Any) -> jax.Array:
        values = draw(leaf.shape, len(name))
        return jnp.asarray(np.abs(values) + 0.5 if "var" in name else values)

    return trees.map_arrays(fill, shapes)


def conv(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    """Same size, channels last."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def mlp(p: Any, x: jax.Array) -> jax.Array:
    h = jax.nn.relu(x @ p["w1"] + p["b1"])
    h = jax.nn.relu(h @ p["w2"] + p["b2"])
    return h @ p["w3"] + p["b3"]


def residual(p: Any, x: jax.Array) -> jax.Array:
    h = x @ p["in"]
    h = h + jax.nn.relu(h @ p["w"] + p["b"])
    h = h + jnp.tanh(h @ p["u"]) @ p["d"]
    return h @ p["out"]


def cnn(p: Any, x: jax.Array) -> jax.Array:
    h = conv(x, p["k1"])
    h = (h - p["mean"]) * jax.lax.rsqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]
    h = nn.max_pool(jax.nn.relu(h), (2, 2), (2, 2))
    h = jax.nn.relu(conv(h, p["k2"]) + p["b2"])
    return h.reshape(h.shape[0], -1) @ p["w"]


def concatenation(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.concatenate([jax.nn.relu(x @ p["a"]), jnp.tanh(x @ p["b"])], axis=-1)
    return h @ p["w"]


def depthwise(p: Any, x: jax.Array) -> jax.Array:
    h = jax.nn.relu(conv(x, p["k"]))
    h = jax.nn.relu(conv(h, p["dw"], h.shape[-1]))
    return h.mean((1, 2)) @ p["w"]


IMAGE = jnp.asarray(draw((3, 4, 4, 2)))
ROWS = jnp.asarray(draw((5, 6)))
PLAIN = {
    "mlp": Case(
        mlp,
        tree({"w1": (6, 8), "b1": (8,), "w2": (8, 7), "b2": (7,), "w3": (7, 3), "b3": (3,)}),
        (ROWS,),
        {"w1:1": (8, {"w1[1]": 1, "b1[0]": 1, "w2[0]*": 1}), "w2:1": (7, {"w2[1]": 1, "b2[0]": 1, "w3[0]*": 1})},
    ),
    "residual": Case(
        residual,
        tree({"in": (6, 8), "w": (8, 8), "b": (8,), "u": (8, 5), "d": (5, 8), "out": (8, 3)}),
        (ROWS,),
        {
            "w:1": (8, {"in[1]": 1, "w[0]*": 1, "w[1]": 1, "b[0]": 1, "u[0]*": 1, "d[1]": 1, "out[0]*": 1}),
            "u:1": (5, {"u[1]": 1, "d[0]*": 1}),
        },
    ),
    "cnn": Case(
        cnn,
        tree(
            {
                "k1": (3, 3, 2, 6),
                "mean": (6,),
                "var": (6,),
                "scale": (6,),
                "bias": (6,),
                "k2": (3, 3, 6, 5),
                "b2": (5,),
                "w": (20, 3),
            }
        ),
        (IMAGE,),
        {
            "k1:3": (6, {"k1[3]": 1, "mean[0]": 1, "var[0]": 1, "scale[0]": 1, "bias[0]": 1, "k2[2]*": 1}),
            "k2:3": (5, {"k2[3]": 1, "b2[0]": 1, "w[0]*": 4}),
        },
    ),
    "concatenation": Case(
        concatenation,
        tree({"a": (6, 4), "b": (6, 5), "w": (9, 3)}),
        (ROWS,),
        {"a:1": (4, {"a[1]": 1, "w[0]*": 1}), "b:1": (5, {"b[1]": 1, "w[0]*": 1})},
    ),
    "depthwise": Case(
        depthwise,
        tree({"k": (3, 3, 2, 6), "dw": (3, 3, 1, 6), "w": (6, 3)}),
        (IMAGE,),
        {"k:3": (6, {"k[3]": 1, "dw[3]": 1, "w[0]*": 1})},
    ),
}


class NnxCNN(nnx.Module):
    """Convolution, batch normalisation, depthwise, residual dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.deep = nnx.Conv(6, 6, (3, 3), feature_group_count=6, rngs=rngs)
        self.join = nnx.Linear(96, 7, rngs=rngs)
        self.same = nnx.Linear(7, 7, rngs=rngs)
        self.last = nnx.Linear(14, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = jax.nn.relu(self.deep(jax.nn.relu(self.norm(self.first(x)))))
        h = self.join(h.reshape(h.shape[0], -1))
        h = h + jax.nn.relu(self.same(h))
        return self.last(jnp.concatenate([h, jnp.tanh(h)], axis=-1))


class LinenCNN(nn.Module):
    """The same in Linen."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.Conv(6, (3, 3), name="first")(x)
        h = jax.nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(h))
        h = jax.nn.relu(nn.Conv(h.shape[-1], (3, 3), feature_group_count=h.shape[-1], name="deep")(h))
        h = nn.Dense(7, name="join")(h.reshape(h.shape[0], -1))
        h = h + jax.nn.relu(nn.Dense(7, name="same")(h))
        return nn.Dense(3, name="last")(jnp.concatenate([h, jnp.tanh(h)], axis=-1))


class EqxCNN(eqx.Module):
    """The same in Equinox, channels first, its own batch normalisation by stored statistics."""

    first: eqx.nn.Conv2d
    mean: jax.Array
    var: jax.Array
    scale: jax.Array
    bias: jax.Array
    deep: eqx.nn.Conv2d
    join: eqx.nn.Linear
    same: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 5)
        self.first = eqx.nn.Conv2d(2, 6, 3, padding=1, key=keys[0], dtype=jnp.float32)
        self.mean, self.bias = (jnp.asarray(draw((6, 1, 1), seed)) for seed in (1, 2))
        self.var = self.scale = jnp.ones((6, 1, 1), jnp.float32)
        self.deep = eqx.nn.Conv2d(6, 6, 3, padding=1, groups=6, key=keys[1], dtype=jnp.float32)
        self.join = eqx.nn.Linear(96, 7, key=keys[2], dtype=jnp.float32)
        self.same = eqx.nn.Linear(7, 7, key=keys[3], dtype=jnp.float32)
        self.last = eqx.nn.Linear(14, 3, key=keys[4], dtype=jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = (self.first(x) - self.mean) * jax.lax.rsqrt(self.var + 1e-5) * self.scale + self.bias
        h = jax.nn.relu(self.deep(jax.nn.relu(h)))
        h = self.join(h.reshape(-1))
        h = h + jax.nn.relu(self.same(h))
        return self.last(jnp.concatenate([h, jnp.tanh(h)]))


def _expected(
    kernel: str, conv_out: int, dense_in: int, names: dict[str, str]
) -> dict[str, tuple[int, dict[str, int]]]:
    """Families of the three: the channels, and the residual width."""
    out = 1 - dense_in
    channels = {f"{layer}/{kernel}[{conv_out}]": 1 for layer in ("first", "deep")}
    channels |= {f"{layer}/bias[0]": 1 for layer in ("first", "deep")}
    channels |= dict.fromkeys(names["norm"].split(), 1) | {f"join/{kernel}[{dense_in}]*": 16}
    width = {
        f"join/{kernel}[{out}]": 1,
        "join/bias[0]": 1,
        f"same/{kernel}[{dense_in}]*": 1,
        f"same/{kernel}[{out}]": 1,
    }
    width |= {"same/bias[0]": 1, f"last/{kernel}[{dense_in}]*": 2}
    return {"channels": (6, channels), "width": (7, width)}


@functools.cache
def framework_cases() -> dict[str, Case]:
    """One model in three frameworks; NNX both split and whole."""
    norm = {"norm": "norm/scale[0] norm/bias[0] norm/mean[0] norm/var[0]"}
    flax = _expected("kernel", 3, 0, norm)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: NnxCNN(nnx.Rngs(0))))
    state = drawn(state)
    model = nnx.merge(graphdef, state)
    variables = drawn(jax.eval_shape(LinenCNN().init, KEY, IMAGE))
    linen = {
        name: (
            width,
            {("batch_stats/" if "/mean" in m or "/var" in m else "params/") + m: r for m, r in members.items()},
        )
        for name, (width, members) in flax.items()
    }
    equinox = _expected("weight", 0, 1, {"norm": "mean[0] var[0] scale[0] bias[0]"})
    return {
        "nnx split": Case(network.nnx(graphdef), state, (IMAGE,), flax),
        "nnx whole": Case(lambda m, x: m(x), model, (IMAGE,), flax),
        "linen": Case(network.linen(LinenCNN()), variables, (IMAGE,), linen),
        "equinox": Case(
            lambda m, x: jax.vmap(m)(x),
            drawn(eqx.filter_eval_shape(EqxCNN, KEY)),
            (jnp.moveaxis(IMAGE, -1, 1),),
            equinox,
        ),
    }


def cases() -> dict[str, Case]:
    """All of them."""
    return {**PLAIN, **framework_cases()}


NAMES = (*PLAIN, "nnx split", "nnx whole", "linen", "equinox")


def normalise(x: jax.Array, p: Any) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def transformer(p: Any, tokens: jax.Array) -> jax.Array:
    """Blocks before whose branches the residual stream is normalised; heads of four, as many as the weights have."""
    x = p["embedding"][tokens] + p["position"][: tokens.shape[1]]
    for q in p["blocks"]:
        h = normalise(x, q["norm1"])
        heads = [(h @ q[name]).reshape(*h.shape[:2], -1, 4) for name in ("query", "key", "value")]
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", heads[0], heads[1]) / 2)
        x = x + jnp.einsum("bhts,bshd->bthd", weights, heads[2]).reshape(*h.shape[:2], -1) @ q["out"]
        h = normalise(x, q["norm2"])
        x = x + jax.nn.gelu(h @ q["up"] + q["bias"]) @ q["down"]
    return x.mean(1) @ p["head"]


def transformer_case() -> Case:
    """Two blocks: width 6, three heads, 10 feed-forward units."""

    def block(seed: int) -> Any:
        shapes = {"query": (6, 12), "key": (6, 12), "value": (6, 12), "out": (12, 6), "up": (6, 10), "bias": (10,)}
        norm = {"scale": (6,), "bias": (6,)}
        return {**tree({**shapes, "down": (10, 6)}), "norm1": tree(norm), "norm2": tree(norm)}

    params = {**tree({"embedding": (11, 6), "position": (5, 6), "head": (6, 3)}), "blocks": [block(0), block(1)]}
    stream = {"embedding[1]": 1, "position[1]": 1, "head[0]*": 1}
    families: dict[str, tuple[int, dict[str, int]]] = {}
    for place in (0, 1):
        at = f"blocks/{place}/"
        stream |= {at + name: 1 for name in ("query[0]*", "key[0]*", "value[0]*", "up[0]*", "out[1]", "down[1]")}
        stream |= {f"{at}norm{i}/{name}[0]": 1 for i in (1, 2) for name in ("scale", "bias")}
        families[f"{at}heads"] = (3, {f"{at}query[1]": 4, f"{at}key[1]": 4, f"{at}value[1]": 4, f"{at}out[0]*": 4})
        families[f"{at}feed-forward"] = (10, {f"{at}up[1]": 1, f"{at}bias[0]": 1, f"{at}down[0]*": 1})
    families["stream"] = (6, stream)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 5)), jnp.int32)
    return Case(transformer, params, (tokens,), families)
