"""How labels pass products: contractions and convolutions."""

from __future__ import annotations

from typing import Any

from pruneft.network.labels import DATA, PARAMETER, Value, is_free, labelled
from pruneft.network.program import Reader, blank, kind_of, rule

_CONTRACTED = "it is contracted with the model's input or a constant"


def _weight(lhs: Value, rhs: Value) -> Value | None:
    """The operand that is a weight, or nothing where both depend on the data."""
    if rhs.kind == PARAMETER:
        return rhs
    return lhs if lhs.kind == PARAMETER else None


@rule("dot_general")
def dot(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Contracted axes are one, batch axes are one, the others pass."""
    lhs, rhs = ins
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    weight = _weight(lhs, rhs)
    for a, b in zip(left, right, strict=True):
        for mine, other in ((lhs.axes[a], rhs.axes[b]), (rhs.axes[b], lhs.axes[a])):
            if is_free(other):
                reader.summed(mine, "it is summed up")
            reader.labels.mark("used", mine)
        reader.tie(lhs.axes[a], rhs.axes[b], _CONTRACTED)
    batch = [
        reader.tie(lhs.axes[a], rhs.axes[b], "it is a batch axis of a product with something that stays")
        for a, b in zip(left_batch, right_batch, strict=True)
    ]
    if weight is not None:
        contracted = right if weight is rhs else left
        for place, labels in enumerate(weight.axes):
            reader.labels.mark("consumed" if place in contracted else "produced", labels)
    rest = [
        labels
        for value, gone in ((lhs, (*left, *left_batch)), (rhs, (*right, *right_batch)))
        for place, labels in enumerate(value.axes)
        if place not in gone
    ]
    reader.multiplies(*batch, *rest, *(lhs.axes[place] for place in left))
    return [Value((*batch, *rest), kind_of(ins))]


@rule("conv_general_dilated")
def convolution(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Channels are contracted as in a product; depthwise, a channel of the input is one, or several, of the output."""
    lhs, rhs = ins
    given = equation.params
    numbers = given["dimension_numbers"]
    (out,) = blank(equation, kind_of(ins))
    axes = list(out.axes)
    batch, channel, *space = numbers.lhs_spec
    makes, takes, *kernel_space = numbers.rhs_spec
    axes[numbers.out_spec[0]] = lhs.axes[batch]
    for value, places in ((lhs, space), (rhs, kernel_space)):
        for place in places:
            reader.labels.freeze(value.axes[place], "a convolution slides along it")
    groups = given["feature_group_count"]
    inputs, outputs = lhs.axes[channel], rhs.axes[makes]
    if given["batch_group_count"] == 1 and groups == 1:
        for mine, other in ((inputs, rhs.axes[takes]), (rhs.axes[takes], inputs)):
            if is_free(other):
                reader.summed(mine, "it is summed up")
            reader.labels.mark("used", mine)
        reader.tie(inputs, rhs.axes[takes], _CONTRACTED)
        if rhs.kind == PARAMETER and lhs.kind == DATA:
            reader.labels.mark("consumed", rhs.axes[takes])
            reader.labels.mark("produced", outputs)
        axes[numbers.out_spec[1]] = outputs
    elif given["batch_group_count"] == 1 and groups == inputs.size:
        reader.labels.freeze(rhs.axes[takes], "a depthwise kernel has one input channel")
        if rhs.kind == PARAMETER:
            reader.labels.mark("produced", outputs)
        repeated = inputs.repeat(outputs.size // groups)
        axes[numbers.out_spec[1]] = reader.tie(outputs, repeated, "a depthwise kernel works on channels that stay")
    else:
        name = "conv_general_dilated with groups"
        if name not in reader.unknown and any(labelled(axis) for value in ins for axis in value.axes):
            reader.unknown.append(name)
        stays = [reader.stay(value, "a grouped convolution that is not depthwise keeps its channels") for value in ins]
        # Counted all the same: each output meets one group of channels, the length of the kernel's axis.
        reader.multiplies(*axes, stays[1].axes[takes], *(stays[1].axes[place] for place in kernel_space))
        return [out]
    # A depthwise kernel's axis of input channels has length one, so this is right for it too.
    reader.multiplies(*axes, rhs.axes[takes], *(rhs.axes[place] for place in kernel_space))
    return [out._replace(axes=tuple(axes))]
