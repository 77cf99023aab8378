"""Small networks for handwritten digits, 8 x 8 pixels: a dense one, a convolutional one and a transformer, as pure functions.

The digits are those of scikit-learn (`sklearn.datasets.load_digits`, 1797 images).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft import network
from pruneft.network import Families

CLASSES = 10
_HEAD = 8  # size of an attention head


def mlp(p: Any, x: Float[Array, "b 64"]) -> Float[Array, "b 10"]:
    """64-128-128-10."""
    h = jax.nn.relu(x @ p["w1"] + p["b1"])
    h = jax.nn.relu(h @ p["w2"] + p["b2"])
    return h @ p["w3"] + p["b3"]


def _convolve(x: Array, kernel: Array) -> Array:
    """Three by three, same size: shifted images side by side and one product, which is faster under vmap than grouped kernels."""
    height, width = x.shape[1:3]
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ kernel


def _pool(x: Array) -> Array:
    """Largest of two by two."""
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def cnn(p: Any, x: Float[Array, "b 64"]) -> Float[Array, "b 10"]:
    """Sixteen and thirty-two channels, pooled twice, and a dense layer."""
    h = _pool(jax.nn.relu(_convolve(x.reshape(-1, 8, 8, 1), p["k1"]) + p["b1"]))
    h = _pool(jax.nn.relu(_convolve(h, p["k2"]) + p["b2"]))
    return h.reshape(h.shape[0], -1) @ p["w"] + p["b"]


def _normalised(x: Array, scale: Array) -> Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6) * scale


def transformer(p: Any, x: Float[Array, "b 64"]) -> Float[Array, "b 10"]:
    """Rows of pixels as eight tokens; two blocks of four heads of eight and 64 feed-forward units, stream of 32."""
    h = x.reshape(-1, 8, 8) @ p["embed"] + p["place"]
    for name in ("block1", "block2"):
        q = p[name]
        s = _normalised(h, q["norm1"])
        query, key, value = ((s @ q[each]).reshape(*s.shape[:2], -1, _HEAD) for each in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", query, key) / math.sqrt(_HEAD))
        h = h + jnp.einsum("bhts,bshd->bthd", weights, value).reshape(*s.shape[:2], -1) @ q["out"]
        s = _normalised(h, q["norm2"])
        h = h + jax.nn.relu(s @ q["up"] + q["bias"]) @ q["down"]
    return jnp.mean(_normalised(h, p["norm"]), axis=1) @ p["w"] + p["b"]


_BLOCK = {
    **dict.fromkeys(("query", "key", "value", "out"), (32, 32)),
    **{"up": (32, 64), "bias": (64,), "down": (64, 32), "norm1": (32,), "norm2": (32,)},
}
_SHAPES: dict[str, dict[str, Any]] = {
    "mlp": {"w1": (64, 128), "b1": (128,), "w2": (128, 128), "b2": (128,), "w3": (128, CLASSES), "b3": (CLASSES,)},
    "cnn": {"k1": (9, 16), "b1": (16,), "k2": (144, 32), "b2": (32,), "w": (128, CLASSES), "b": (CLASSES,)},
    "transformer": {
        **{"embed": (8, 32), "place": (8, 32), "block1": _BLOCK, "block2": _BLOCK},
        **{"norm": (32,), "w": (32, CLASSES), "b": (CLASSES,)},
    },
}
MODELS: dict[str, Callable[[Any, Array], Array]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def weights(model: str, key: Array) -> Any:
    """First weights, float32: kernels normal of variance 2 over their inputs, scales one, biases zero."""
    flat, structure = jax.tree_util.tree_flatten_with_path(_SHAPES[model], is_leaf=lambda leaf: isinstance(leaf, tuple))
    made = []
    for (path, shape), each in zip(flat, jax.random.split(key, len(flat)), strict=True):
        name = path[-1].key
        if len(shape) == 2:
            made.append(jax.random.normal(each, shape, jnp.float32) * math.sqrt(2 / shape[0]))
        else:
            made.append(jnp.full(shape, 1 if name.startswith("norm") else 0, jnp.float32))
    return jax.tree.unflatten(structure, made)


@functools.cache
def families(model: str) -> Families:
    """What can be pruned without changing the function: units, channels, heads; not the transformer's stream, which is normalised."""
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        _SHAPES[model],
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    found = network.groups(MODELS[model], shapes, jax.ShapeDtypeStruct((2, 64), jnp.float32))
    return found.replace([family for family in found if family.exact])


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 64] in [0, 1], float32, and their digits, int32.

    Raises:
      ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("the digits come with scikit-learn: pip install 'pruneft[sklearn]'.") from error
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target.astype(np.int32)
