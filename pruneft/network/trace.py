"""A model traced once, and read with labels on its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pruneft.network import rules, rules_products, rules_shapes  # noqa: F401  they register themselves
from pruneft.network.labels import DATA, FROZEN, PARAMETER, Axis, Labels, Value, constant
from pruneft.network.program import Reader
from pruneft.network.trees import is_array, is_floating, named_arrays, with_arrays


class Trace(NamedTuple):
    """A program of named parameters.

    Attributes:
      closed: the closed jaxpr; its first inputs are the parameters in order of ``names``, then those of the data.
      names: of the parameters.
      shape: structure of the outputs.
    """

    closed: Any
    names: tuple[str, ...]
    shape: Any


def trace(fn: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> Trace:
    """The program of ``fn(params, *inputs)``.

    Raises:
      ValueError: the function cannot be traced; the message has what JAX said.
    """
    arrays = named_arrays(params)
    leaves, structure = jax.tree.flatten(inputs)
    numeric = [place for place, leaf in enumerate(leaves) if is_array(leaf)]

    def flat(values: dict[str, Any], data: list[Any]) -> Any:
        filled = list(leaves)
        for place, value in zip(numeric, data, strict=True):
            filled[place] = value
        return fn(with_arrays(params, values), *jax.tree.unflatten(structure, filled))

    data = [leaves[place] for place in numeric]
    # By position and not as a dictionary, which JAX would sort.
    names = tuple(arrays)
    try:
        closed, shape = jax.make_jaxpr(
            lambda values, data: flat(dict(zip(names, values, strict=True)), data), return_shape=True
        )(list(arrays.values()), data)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    ) as error:
        raise ValueError(
            "the function cannot be traced: it must be made of JAX operations whose course does not depend on values. "
            f"JAX says: {_first_line(error)}"
        ) from error
    return Trace(closed, names, shape)


def read(traced: Trace, labels: Labels, starts: dict[str, list[Axis]], choices: Any = None) -> Reader:
    """The program read with given labels of its parameters; the outputs stay."""
    reader = Reader(labels, choices)
    invars = traced.closed.jaxpr.invars
    args = [Value(tuple(starts[name]), PARAMETER) for name in traced.names]
    for var in invars[len(traced.names) :]:
        args.append(Value(tuple(constant(int(size), FROZEN) for size in var.aval.shape), DATA))
    for value in reader.closed(traced.closed, args):
        reader.stay(value, "it is an output of the model")
    return reader


def number(params: Any) -> tuple[dict[str, list[Axis]], list[tuple[str, int, int, int]]]:
    """Labels from 0 on for every axis of every floating array; of each axis (name, axis, first label, size).

    Arrays of whole numbers are not pruned: their coordinates stay.
    """
    starts: dict[str, list[Axis]] = {}
    table, count = [], 0
    for name, leaf in named_arrays(params).items():
        starts[name] = []
        for axis, size in enumerate(leaf.shape):
            if is_floating(leaf):
                starts[name].append(np.arange(count, count + size, dtype=np.int64))
                table.append((name, axis, count, size))
                count += size
            else:
                starts[name].append(constant(size, FROZEN))
    return starts, table


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
