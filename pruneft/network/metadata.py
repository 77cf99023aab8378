"""Sizes that layers of Equinox and Flax write down beside their arrays, put right after the arrays have become smaller.

Nothing is imported unless the caller has it: a layer is known by the name of its class and of the package that it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def refreshed(tree: Any) -> Any:
    """A copy of a model whose layers' sizes are those of their arrays; of anything else, the thing itself.

    Known are the layers of `equinox.nn` and `flax.nnx` that have sizes: dense, convolution, normalisation, embedding, attention.
    """
    copy = jax.tree.map(lambda leaf: leaf, tree)
    _visit(copy, set())
    return copy


def nnx(graphdef: Any) -> Callable[..., Any]:
    """``fn(state, *inputs)`` of a Flax NNX model that was split into ``graphdef`` and state, at whatever width the state has."""
    from flax import nnx as flax_nnx

    def apply(state: Any, *inputs: Any, **options: Any) -> Any:
        model = flax_nnx.merge(graphdef, state)
        _visit(model, set())
        return model(*inputs, **options)

    return apply


def linen(module: Any) -> Callable[..., Any]:
    """``fn(variables, *inputs)`` of a Flax Linen module, at whatever width the variables have.

    Linen compares stored parameters with the sizes that a module was made with; here each layer takes its sizes from its
    parameters.
    """
    from flax import linen as flax_linen

    def resize(following: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if layer.scope is not None and type(layer).__module__.startswith("flax.linen"):
            stored = dict(layer.variables.get("params", {}).items())
            for name, value in _linen_sizes(layer, stored).items():
                object.__setattr__(layer, name, value)
        return following(*args, **kwargs)

    def apply(variables: Any, *inputs: Any, **options: Any) -> Any:
        with flax_linen.intercept_methods(resize):
            return module.apply(variables, *inputs, **options)

    return apply


def _linen_sizes(layer: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    kind = type(layer).__name__
    if "kernel" in stored:
        shape = tuple(stored["kernel"].shape)
        if kind == "Dense":
            return {"features": shape[-1]}
        if kind == "DenseGeneral":
            one = isinstance(layer.features, int)
            return {"features": shape[-1] if one else shape[-len(layer.features) :]}
        if kind in ("Conv", "ConvLocal", "ConvTranspose"):
            depthwise = getattr(layer, "feature_group_count", 1) > 1 and shape[-2] == 1
            grouped = (
                {"feature_group_count": layer.feature_group_count * shape[-1] // layer.features} if depthwise else {}
            )
            return {"features": shape[-1], **grouped}
    if kind == "Embed" and "embedding" in stored:
        count, features = stored["embedding"].shape
        return {"num_embeddings": count, "features": features}
    if kind in ("MultiHeadDotProductAttention", "SelfAttention", "MultiHeadAttention") and "query" in stored:
        _, heads, size = stored["query"]["kernel"].shape
        return {"num_heads": heads, "qkv_features": heads * size, "out_features": stored["out"]["kernel"].shape[-1]}
    return {}


def _visit(thing: Any, seen: set[int]) -> None:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, dict):
        parts: Any = thing.values()
    elif isinstance(thing, list | tuple):
        parts = thing
    elif _is_module(thing):
        parts = vars(thing).values()
    else:
        return
    for part in parts:
        _visit(part, seen)
    if _is_module(thing):
        rules = _NNX if _framework(thing) == "flax" else _EQUINOX
        for base in type(thing).__mro__:
            if base.__module__.startswith(("flax.nnx", "equinox.nn")) and base.__name__ in rules:
                for name, value in rules[base.__name__](thing).items():
                    if hasattr(thing, name) and getattr(thing, name) != value:
                        object.__setattr__(thing, name, value)
                break


def _framework(thing: Any) -> str:
    for base in type(thing).__mro__:
        if base.__module__.startswith("equinox._module") or base.__module__.startswith("flax.nnx"):
            return base.__module__.split(".")[0]
    return ""


def _is_module(thing: Any) -> bool:
    return hasattr(thing, "__dict__") and _framework(thing) != "" and type(thing).__mro__[0] is not type


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(array.shape)


def _nnx_linear(layer: Any) -> dict[str, Any]:
    inputs, outputs = _shape(layer.kernel)
    return {"in_features": inputs, "out_features": outputs}


def _nnx_general(layer: Any) -> dict[str, Any]:
    shape, inputs = _shape(layer.kernel), len(layer.in_features)
    batch = len(shape) - inputs - len(layer.out_features)
    return {"in_features": shape[batch : batch + inputs], "out_features": shape[batch + inputs :]}


def _nnx_conv(layer: Any) -> dict[str, Any]:
    shape = _shape(layer.kernel)
    groups = layer.feature_group_count
    if groups > 1 and groups == layer.in_features:
        groups = groups * shape[-1] // layer.out_features
    return {
        "kernel_shape": shape,
        "feature_group_count": groups,
        "in_features": shape[-2] * groups,
        "out_features": shape[-1],
    }


def _nnx_norm(layer: Any) -> dict[str, Any]:
    for name in ("scale", "bias", "mean"):
        array = getattr(layer, name, None)
        if getattr(array, "shape", None):
            return {"num_features": _shape(array)[0]}
    return {}


def _nnx_embed(layer: Any) -> dict[str, Any]:
    count, features = _shape(layer.embedding)
    return {"num_embeddings": count, "features": features}


def _nnx_attention(layer: Any) -> dict[str, Any]:
    inputs, heads, size = _shape(layer.query.kernel)
    return {
        "num_heads": heads,
        "num_kv_heads": _shape(layer.key.kernel)[1],
        "head_dim": size,
        "qkv_features": heads * size,
        "in_features": inputs,
        "in_kv_features": _shape(layer.key.kernel)[0],
        "out_features": _shape(layer.out.kernel)[-1],
    }


_NNX: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Linear": _nnx_linear,
    "LinearGeneral": _nnx_general,
    "Conv": _nnx_conv,
    "BatchNorm": _nnx_norm,
    "LayerNorm": _nnx_norm,
    "RMSNorm": _nnx_norm,
    "Embed": _nnx_embed,
    "MultiHeadAttention": _nnx_attention,
}


def _linear(layer: Any) -> dict[str, Any]:
    outputs, inputs = _shape(layer.weight)
    return {
        "in_features": layer.in_features if layer.in_features == "scalar" else inputs,
        "out_features": layer.out_features if layer.out_features == "scalar" else outputs,
    }


def _conv(layer: Any) -> dict[str, Any]:
    shape, groups = _shape(layer.weight), layer.groups
    if groups > 1 and groups == layer.in_channels:
        groups = groups * shape[0] // layer.out_channels
    return {"groups": groups, "in_channels": shape[1] * groups, "out_channels": shape[0]}


def _norm(layer: Any) -> dict[str, Any]:
    array = layer.weight if layer.weight is not None else layer.bias
    return {} if array is None else {"shape": _shape(array)}


def _batch_norm(layer: Any) -> dict[str, Any]:
    return {} if layer.weight is None else {"input_size": int(np.prod(_shape(layer.weight)))}


def _embedding(layer: Any) -> dict[str, Any]:
    count, size = _shape(layer.weight)
    return {"num_embeddings": count, "embedding_size": size}


def _attention(layer: Any) -> dict[str, Any]:
    queries, inputs = _shape(layer.query_proj.weight)
    return {
        "num_heads": queries // layer.qk_size,
        "query_size": inputs,
        "key_size": _shape(layer.key_proj.weight)[1],
        "value_size": _shape(layer.value_proj.weight)[1],
        "output_size": _shape(layer.output_proj.weight)[0],
    }


def _mlp(layer: Any) -> dict[str, Any]:
    if layer.depth == 0:
        return {}
    return {"width_size": _shape(layer.layers[0].weight)[0]}


_EQUINOX: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Linear": _linear,
    "Conv": _conv,
    "LayerNorm": _norm,
    "RMSNorm": _norm,
    "BatchNorm": _batch_norm,
    "Embedding": _embedding,
    "MultiheadAttention": _attention,
    "MLP": _mlp,
}
