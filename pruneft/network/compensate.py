"""What removed units say to the next dense layer, moved into its bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from pruneft.network.families import Families
from pruneft.network.labels import DATA, PARAMETER, Axis, Labels, labelled
from pruneft.network.program import Event, Reader
from pruneft.network.trace import Trace, number, read, trace
from pruneft.network.trees import named_arrays, with_arrays

_PASSING = ("transpose", "convert_element_type", "copy", "copy_p")
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "remat2", "checkpoint", "remat")
_ROUNDING = 1e-6


class Dense(NamedTuple):
    """A product of data with a weight, to whose result a bias is added.

    Attributes:
      place: of the equation.
      weight: 0 or 1, which operand it is.
      contracted: axes of (data, weight) that are summed over.
      gone: of the weight's contracted axes, flattened, which coordinates belong to removed groups.
      bias: name of the array that is added.
    """

    place: int
    weight: int
    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    gone: np.ndarray
    bias: str


def compensated(
    fn: Any, params: Any, inputs: tuple[Any, ...], families: Families, kept: Mapping[str, np.ndarray], mode: str
) -> tuple[Any, tuple[str, ...]]:
    """The parameters with biases that make up for units to be removed, and which biases.

    Args:
      fn, params, inputs: the model and a batch of data.
      families, kept: what stays.
      mode: ``"constant"`` moves what does not change over the batch (a unit whose kernel is zero says phi(b)), ``"mean"`` the mean
        of everything.

    A convolution is left out: at its padded border the constant is another.
    """
    if mode not in ("constant", "mean", "none"):
        raise ValueError(f"compensate must be 'constant', 'mean' or 'none': got {mode!r}.")
    if mode == "none":
        return params, ()
    traced = trace(fn, params, inputs)
    starts, table = number(params)
    gone = np.zeros(sum(size for *_, size in table), bool)
    first = {(name, axis): start for name, axis, start, _ in table}
    for family in families:
        for member in family.members:
            gone[first[member.path, member.axis] + member.indices[~kept[family.name]]] = True
    reader = read(traced, Labels(gone.size), starts)
    layers = _layers(traced, reader, gone, table)
    if not layers:
        return params, ()
    arrays = named_arrays(params)
    shifts = jax.jit(lambda values, data: _shifts(traced, layers, mode, values, data))(
        [arrays[name] for name in traced.names], [x for x in jax.tree.leaves(inputs) if hasattr(x, "dtype")]
    )
    moved: dict[str, Any] = {}
    for layer, shift in zip(layers, shifts, strict=True):
        before = moved.get(layer.bias, arrays[layer.bias])
        moved[layer.bias] = before + shift.reshape(before.shape).astype(before.dtype)
    return with_arrays(params, moved), tuple(moved)


def _layers(traced: Trace, reader: Reader, gone: np.ndarray, table: list[tuple[str, int, int, int]]) -> list[Dense]:
    found = []
    depths = _top(traced.closed.jaxpr)
    for place, equation in depths.items():
        event = reader.events[place]
        if event.primitive != "dot_general":
            continue
        kinds = [value.kind for value in event.ins]
        if sorted(kinds) != [PARAMETER, DATA]:
            continue
        weight = kinds.index(PARAMETER)
        contracted, batch = equation.params["dimension_numbers"]
        if batch[0] or len(event.ins[weight].axes) != len(contracted[weight]) + 1:
            continue
        lost = _lost([event.ins[weight].axes[place] for place in contracted[weight]], gone)
        bias = _bias(traced, reader.events, place, table)
        if lost.any() and bias is not None:
            data_axes, weight_axes = contracted[1 - weight], contracted[weight]
            found.append(Dense(place, weight, (tuple(data_axes), tuple(weight_axes)), lost, bias))
    return found


def _lost(axes: list[Axis], gone: np.ndarray) -> np.ndarray:
    """Of a product of axes, which coordinates lie in a removed group."""
    lost = np.zeros([axis.size for axis in axes], bool)
    for place, axis in enumerate(axes):
        mine = np.where(axis >= 0, gone[np.maximum(axis, 0)], False)
        lost |= mine.reshape([-1 if other == place else 1 for other in range(len(axes))])
    return lost.reshape(-1)


def _bias(traced: Trace, events: list[Event], place: int, table: list[tuple[str, int, int, int]]) -> str | None:
    """The array that is added to the result of an equation, and to nothing else."""
    current = events[place].outs[0]
    for event in events[place + 1 :]:
        mine = [value for value in event.ins if value is current]
        if not mine or event.primitive in _CALLS:  # what is inside a call follows
            continue
        if sum(any(value is current for value in other.ins) for other in events if other.primitive not in _CALLS) > 1:
            return None
        if event.primitive in _PASSING:
            current = event.outs[0]
            continue
        if event.primitive not in ("add", "add_any") or len(mine) != 1:
            return None
        other = event.ins[1] if event.ins[0] is current else event.ins[0]
        owned = [axis for axis in other.axes if labelled(axis)]
        if other.kind != PARAMETER or len(owned) != 1:
            return None
        for name, _, start, size in table:
            if owned[0].size == size and np.array_equal(owned[0], start + np.arange(size)):
                shape = traced.closed.jaxpr.invars[traced.names.index(name)].aval.shape
                alone = int(np.prod(shape)) == size and _uses(traced, name) == 1
                return name if alone else None
        return None
    return None


def _uses(traced: Trace, name: str) -> int:
    var = traced.closed.jaxpr.invars[traced.names.index(name)]
    return sum(atom is var for equation in traced.closed.jaxpr.eqns for atom in equation.invars)


def _inside(equation: Any) -> list[Any]:
    """Programs within an equation, in the order in which they are read."""
    found: list[Any] = []
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr", "cond_jaxpr"):
        if name in equation.params:
            found.append(equation.params[name])
    found += list(equation.params.get("branches", ()))
    return [getattr(each, "jaxpr", each) for each in found]


def _length(jaxpr: Any) -> int:
    return sum(1 + sum(_length(inner) for inner in _inside(equation)) for equation in jaxpr.eqns)


def _top(jaxpr: Any, begin: int = 0) -> dict[int, Any]:
    """Equations by their number in the reader's order, those within calls included, those within loops not."""
    found, place = {}, begin
    for equation in jaxpr.eqns:
        found[place] = equation
        inner = _inside(equation)
        if equation.primitive.name in _CALLS and len(inner) == 1:
            found |= _top(inner[0], place + 1)
        place += 1 + sum(_length(each) for each in inner)
    return found


def _shifts(traced: Trace, layers: list[Dense], mode: str, values: Any, data: Any) -> list[Any]:
    """What removed coordinates add to the result of each product."""
    seen: dict[int, Any] = {layer.place: None for layer in layers}
    _evaluate(traced.closed.jaxpr, traced.closed.consts, [*values, *data], 0, seen)
    found = []
    for layer in layers:
        weight, said = seen[layer.place][layer.weight], seen[layer.place][1 - layer.weight]
        data_axes, weight_axes = layer.contracted
        rows = jnp.moveaxis(said, data_axes, range(-len(data_axes), 0)).reshape(-1, layer.gone.size)
        columns = jnp.moveaxis(weight, weight_axes, range(len(weight_axes))).reshape(layer.gone.size, -1)
        mean = jnp.mean(rows, axis=0)
        use = jnp.asarray(layer.gone)
        if mode == "constant":
            use &= jnp.max(rows, axis=0) - jnp.min(rows, axis=0) <= _ROUNDING * jnp.max(jnp.abs(rows), axis=0)
        found.append(jnp.where(use, mean, 0) @ columns)
    return found


def _evaluate(jaxpr: Any, consts: Any, args: list[Any], begin: int, seen: dict[int, Any]) -> list[Any]:
    """The program's values; what goes into the equations in ``seen`` is written there."""
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax.extend.core.Literal) else known[atom]

    place = begin
    for equation in jaxpr.eqns:
        ins = [value(atom) for atom in equation.invars]
        if place in seen:
            seen[place] = ins
        inner = _inside(equation)
        if equation.primitive.name in _CALLS and len(inner) == 1:
            program = next(equation.params[n] for n in ("jaxpr", "call_jaxpr", "fun_jaxpr") if n in equation.params)
            outs = _evaluate(inner[0], getattr(program, "consts", ()), ins, place + 1, seen)
        else:
            bound = equation.primitive.get_bind_params(equation.params)
            functions, settings = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.8
            result = equation.primitive.bind(*functions, *ins, **settings)
            outs = list(result) if equation.primitive.multiple_results else [result]
        known.update(zip(equation.outvars, outs, strict=True))
        place += 1 + sum(_length(each) for each in inner)
    return [value(atom) for atom in jaxpr.outvars]
