"""How labels pass primitives that compute or choose: element by element, sums, gathers, windows, programs within programs."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruneft.network.labels import DATA, FROZEN, PARAMETER, Value, constant, is_free, labelled
from pruneft.network.program import Reader, blank, free, kind_of, rule

_ELEMENTWISE = [
    "abs",
    "acos",
    "acosh",
    "add",
    "add_any",
    "and",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bessel_i0e",
    "bessel_i1e",
    "cbrt",
    "ceil",
    "clamp",
    "convert_element_type",
    "copy",
    "copy_p",
    "cos",
    "cosh",
    "digamma",
    "div",
    "eq",
    "erf",
    "erf_inv",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "ge",
    "gt",
    "igamma",
    "igammac",
    "imag",
    "integer_pow",
    "is_finite",
    "le",
    "lgamma",
    "log",
    "log1p",
    "logistic",
    "lt",
    "max",
    "min",
    "mul",
    "name",
    "ne",
    "neg",
    "nextafter",
    "not",
    "or",
    "polygamma",
    "pow",
    "real",
    "reduce_precision",
    "regularized_incomplete_beta",
    "rem",
    "round",
    "rsqrt",
    "select_n",
    "sharding_constraint",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "stop_gradient",
    "sub",
    "tan",
    "tanh",
    "xor",
    "population_count",
    "shift_left",
    "shift_right_logical",
]


@rule(*_ELEMENTWISE)
def elementwise(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Axes of all operands are one; a scalar, or an axis of length one, fits any."""
    out = equation.outvars[0].aval
    why = f"{equation.primitive.name} joins it with something that stays"
    kind = kind_of(ins)
    if not out.shape:
        return [Value((), kind)]
    axes: list[np.ndarray] | None = None
    for value in ins:
        if len(value.axes) != len(out.shape):
            continue
        if kind == DATA and value.kind == PARAMETER:
            _produces(reader, value)
        stretched = [_stretch(reader, labels, size) for labels, size in zip(value.axes, out.shape, strict=True)]
        axes = stretched if axes is None else [reader.tie(a, b, why) for a, b in zip(axes, stretched, strict=True)]
    return blank(equation, kind) if axes is None else [Value(tuple(axes), kind)]


def _stretch(reader: Reader, labels: np.ndarray, size: int) -> np.ndarray:
    """An axis of length one repeated, as element-wise primitives do of themselves."""
    if labels.size == size:
        return labels
    reader.labels.freeze(labels, "it is an axis of length one that is broadcast")
    return free(size)


@rule("optimization_barrier")
def barrier(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Each as it was."""
    return ins


def _produces(reader: Reader, value: Value) -> None:
    for axis in value.axes:
        reader.labels.mark("produced", axis)


@rule("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor")
def reduce(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """The axes that are summed over are gone; what lay on them may be removed, but their number may matter."""
    (value,) = ins
    gone = equation.params["axes"]
    for axis in gone:
        reader.summed(value.axes[axis], f"{equation.primitive.name} runs over it, as in a normalisation or softmax")
    return [Value(tuple(labels for place, labels in enumerate(value.axes) if place not in gone), value.kind)]


@rule("argmax", "argmin")
def choose(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Positions along an axis are numbers: the axis stays."""
    (value,) = ins
    gone = equation.params["axes"]
    for axis in gone:
        reader.labels.freeze(value.axes[axis], f"{equation.primitive.name} counts positions on it")
    return [Value(tuple(labels for place, labels in enumerate(value.axes) if place not in gone), value.kind)]


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulate(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """The order along the axis matters: it stays."""
    return [_hold(reader, ins[0], [equation.params["axis"]], equation.primitive.name)]


@rule("sort")
def sort(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """The sorted axis stays; the others are those of all operands."""
    kept = [_hold(reader, value, [equation.params["dimension"]], "sort") for value in ins]
    axes = kept[0].axes
    for value in kept[1:]:
        axes = tuple(reader.tie(a, b, "sort joins it with something that stays") for a, b in zip(axes, value.axes))
    return [Value(axes, kind_of(ins)) for _ in kept]


def _hold(reader: Reader, value: Value, held: list[int], name: str) -> Value:
    """The value with some axes frozen."""
    axes = list(value.axes)
    for axis in held:
        reader.labels.freeze(axes[axis], f"{name} works along it")
        axes[axis] = constant(axes[axis].size, FROZEN)
    return value._replace(axes=tuple(axes))


@rule("reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window", "cumred_reduce_window_impl")
def window(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Axes with a window of one keep their labels; the others stay."""
    given = equation.params
    (out,) = blank(equation, ins[0].kind)
    axes = list(out.axes)
    for place, labels in enumerate(ins[0].axes):
        plain = all(given[name][place] == 1 for name in ("window_dimensions", "window_strides", "base_dilation"))
        if plain and tuple(given["padding"][place]) == (0, 0):
            axes[place] = labels
        else:
            reader.labels.freeze(labels, f"{equation.primitive.name} slides along it")
    return [out._replace(axes=tuple(axes)) for _ in equation.outvars]


@rule("gather")
def gather(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Rows picked by number: axes taken whole keep their labels, the numbered one stays."""
    operand, indices = ins
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(operand.axes)) if axis not in gone]
    (out,) = blank(equation, kind_of(ins))
    axes = list(out.axes)
    for axis, labels in enumerate(operand.axes):
        whole = axis in kept and sizes[axis] == labels.size and axis not in numbers.start_index_map
        if whole:
            axes[numbers.offset_dims[kept.index(axis)]] = labels
        else:
            reader.labels.freeze(labels, "gather picks from it by number")
    reader.stay(indices, "gather takes its numbers from it")
    found = Value(tuple(axes), out.kind)
    if out.kind == DATA and operand.kind == PARAMETER:
        _produces(reader, found)
    return [found]


@rule("dynamic_slice")
def dynamic_slice(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Axes taken whole keep their labels; the others stay."""
    (out,) = blank(equation, kind_of(ins))
    axes = list(out.axes)
    for place, labels in enumerate(ins[0].axes):
        if labels.size == axes[place].size:
            axes[place] = labels
        else:
            reader.labels.freeze(labels, "dynamic_slice cuts it at a place known only later")
    return [out._replace(axes=tuple(axes))]


@rule("dynamic_update_slice")
def dynamic_update(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Axes that are replaced whole are one; the others stay."""
    operand, update = ins[:2]
    axes = []
    for old, new in zip(operand.axes, update.axes, strict=True):
        if old.size == new.size:
            axes.append(reader.tie(old, new, "dynamic_update_slice joins it with something that stays"))
        else:
            for labels in (old, new):
                reader.labels.freeze(labels, "dynamic_update_slice cuts it at a place known only later")
            axes.append(constant(old.size, FROZEN))
    return [Value(tuple(axes), kind_of(ins))]


@rule(
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "remat2",
    "checkpoint",
    "custom_lin",
    "xla_call",
    "remat",
)
def call(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """The program inside."""
    inside = next(equation.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in equation.params)
    if hasattr(inside, "consts"):
        return reader.closed(inside, ins)
    return reader.run(inside, [], ins)


@rule("scan")
def scan(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """The body once for all turns: what is carried keeps its labels from turn to turn, the axis of the turns stays."""
    given = equation.params
    fixed, carried = given["num_consts"], given["num_carry"]
    turns = ins[fixed + carried :]
    for value in turns:
        reader.labels.freeze(value.axes[0], "scan runs along it")
    slices = [value._replace(axes=value.axes[1:]) for value in turns]
    outer, reader.times = reader.times, reader.times * given["length"]
    outs = _loop(reader, given["jaxpr"], ins[:fixed], ins[fixed : fixed + carried], slices)
    reader.times = outer
    stacked = [value._replace(axes=(constant(int(given["length"]), FROZEN), *value.axes)) for value in outs[carried:]]
    return [*outs[:carried], *stacked]


@rule("while")
def loop(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """As scan, without turns; the condition sees what is carried."""
    given = equation.params
    first, second = given["cond_nconsts"], given["body_nconsts"]
    state = ins[first + second :]
    outs = _loop(reader, given["body_jaxpr"], ins[first : first + second], state, [])
    reader.closed(given["cond_jaxpr"], [*ins[:first], *outs])
    return outs


@rule("cond")
def branches(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Every branch; their results are one."""
    found = [reader.closed(branch, ins[1:]) for branch in equation.params["branches"]]
    outs = found[0]
    for others in found[1:]:
        outs = [_joined(reader, a, b, "cond") for a, b in zip(outs, others, strict=True)]
    return outs


def _joined(reader: Reader, first: Value, second: Value, name: str) -> Value:
    why = f"{name} joins it with something that stays"
    axes = tuple(reader.tie(a, b, why) for a, b in zip(first.axes, second.axes, strict=True))
    return Value(axes, max(first.kind, second.kind))


def _loop(reader: Reader, body: Any, consts: list[Value], state: list[Value], slices: list[Value]) -> list[Value]:
    """The body until what it carries has the same labels before and after; ties only grow, so this ends."""
    place = len(reader.events)
    while True:
        reader.rewind(place)
        outs = reader.closed(body, [*consts, *state, *slices])
        joined = [_joined(reader, a, b, "a loop") for a, b in zip(state, outs)]
        if all(_alike(a, b) for a, b in zip(state, joined, strict=True)):
            return [*joined, *outs[len(state) :]]
        state = joined


def _alike(first: Value, second: Value) -> bool:
    """Whether joining changed what is owned, frozen or free."""
    if first.kind != second.kind:
        return False
    return all(
        np.array_equal(np.minimum(a, 0), np.minimum(b, 0)) and labelled(a) == labelled(b) and is_free(a) == is_free(b)
        for a, b in zip(first.axes, second.axes, strict=True)
    )
