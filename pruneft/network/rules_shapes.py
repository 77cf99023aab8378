"""How labels pass primitives that only move numbers: broadcast, transpose, slices, reshape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pruneft.network.labels import FREE, FROZEN, Value, constant, is_free, labelled
from pruneft.network.program import Reader, blank, free, kind_of, rule


@rule("broadcast_in_dim")
def broadcast(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Axes of equal size keep their labels; what is new or stretched is free."""
    value, shape = ins[0], tuple(map(int, equation.params["shape"]))
    axes = [free(size) for size in shape]
    for labels, place in zip(value.axes, equation.params["broadcast_dimensions"], strict=True):
        if labels.size == shape[place]:
            axes[place] = labels
        else:
            reader.labels.freeze(labels, "it is an axis of length one that is broadcast")
    return [Value(tuple(axes), value.kind)]


@rule("transpose")
def transpose(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Permuted."""
    return [ins[0]._replace(axes=tuple(ins[0].axes[place] for place in equation.params["permutation"]))]


@rule("squeeze")
def squeeze(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Without the axes that are dropped."""
    gone = equation.params["dimensions"]
    for place in gone:
        reader.labels.freeze(ins[0].axes[place], "it is an axis of length one that is dropped")
    return [ins[0]._replace(axes=tuple(axis for place, axis in enumerate(ins[0].axes) if place not in gone))]


@rule("expand_dims")
def expand(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """New axes are free."""
    rest = iter(ins[0].axes)
    new, shape = equation.params["dimensions"], equation.outvars[0].aval.shape
    return [ins[0]._replace(axes=tuple(free(1) if place in new else next(rest) for place in range(len(shape))))]


@rule("rev")
def reverse(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Labels in the other order."""
    turned = equation.params["dimensions"]
    return [ins[0]._replace(axes=tuple(a[::-1] if place in turned else a for place, a in enumerate(ins[0].axes)))]


@rule("slice")
def cut(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """A piece of each axis."""
    given = equation.params
    steps = given["strides"] or (1,) * len(ins[0].axes)
    pieces = zip(ins[0].axes, given["start_indices"], given["limit_indices"], steps, strict=True)
    return [ins[0]._replace(axes=tuple(axis[begin:end:step] for axis, begin, end, step in pieces))]


@rule("split")
def split(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """The pieces of one axis."""
    place = equation.params["axis"]
    ends = np.cumsum(np.asarray(equation.params["sizes"]))[:-1]
    return [
        ins[0]._replace(axes=(*ins[0].axes[:place], piece, *ins[0].axes[place + 1 :]))
        for piece in np.split(ins[0].axes[place], ends)
    ]


@rule("concatenate")
def concatenate(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """One axis end to end; the others are one. A broadcast piece beside others is a constant that stays."""
    place = equation.params["dimension"]
    axes = list(ins[0].axes)
    for value in ins[1:]:
        for other, labels in enumerate(value.axes):
            if other != place:
                axes[other] = reader.tie(axes[other], labels, "concatenate joins it with something that stays")
    pieces = [value.axes[place] for value in ins]
    axes[place] = _stiff(pieces[0] if len(pieces) == 1 else np.concatenate([_stiff(piece) for piece in pieces]))
    return [Value(tuple(axes), kind_of(ins))]


def _stiff(axis: np.ndarray) -> np.ndarray:
    return np.where(axis == FREE, FROZEN, axis)


@rule("pad")
def pad(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """What is added stays; axes with gaps between their entries stay altogether."""
    (out,) = blank(equation, kind_of(ins))
    axes = list(out.axes)
    for place, (labels, (low, high, gaps)) in enumerate(
        zip(ins[0].axes, equation.params["padding_config"], strict=True)
    ):
        low, high, gaps = int(low), int(high), int(gaps)
        if (low, high, gaps) == (0, 0, 0):
            axes[place] = labels
        elif gaps:
            reader.labels.freeze(labels, "pad puts gaps between its entries")
        else:
            inner = _stiff(labels[max(-low, 0) : labels.size - max(-high, 0)])
            ends = (constant(max(low, 0), FROZEN), constant(max(high, 0), FROZEN))
            axes[place] = np.concatenate([ends[0], inner, ends[1]])
    return [out._replace(axes=tuple(axes))]


@rule("reshape")
def reshape(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    """Blocks of axes of equal product, each on its own."""
    value, sizes = ins[0], tuple(map(int, equation.params["new_sizes"]))
    if equation.params.get("dimensions") is not None:
        reader.stay(value, "reshape permutes it")
        return blank(equation, value.kind)
    old = tuple(axis.size for axis in value.axes)
    plan = reader.decide(lambda: [[*block, None] for block in _blocks(old, sizes)])
    out: list[np.ndarray] = [free(size) for size in sizes]
    for block in plan:
        olds, news, chosen = block
        before = [value.axes[place] for place in olds]
        shape = tuple(sizes[place] for place in news)
        if math.prod(axis.size for axis in before) != math.prod(shape):
            # Only where a smaller model is read by the plan of a larger one: sizes written into the model no longer fit.
            for place in news:
                out[place] = constant(sizes[place], FROZEN)
            continue
        made, took = _block(reader, before, shape, chosen)
        block[2] = took if chosen is None else chosen
        for place, labels in zip(news, made, strict=True):
            out[place] = labels
    return [Value(tuple(out), value.kind)]


def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[list[list[int]]]:
    """Smallest runs of old and new axes with the same product; what is left over are axes of length one."""
    if 0 in old or 0 in new:
        return [[list(range(len(old))), list(range(len(new)))]]
    found, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        olds, news = [i], [j]
        a, b, i, j = old[i], new[j], i + 1, j + 1
        while a != b:
            if a < b:
                olds, a, i = [*olds, i], a * old[i], i + 1
            else:
                news, b, j = [*news, j], b * new[j], j + 1
        found.append([olds, news])
    found += [[[place], []] for place in range(i, len(old))] + [[[], [place]] for place in range(j, len(new))]
    return found


def _block(
    reader: Reader, before: list[np.ndarray], shape: tuple[int, ...], chosen: int | None
) -> tuple[list[np.ndarray], int | None]:
    """Labels of the new axes of one block, and the axis that took them.

    A merge repeats the labels of the one axis that has any. A split gives them to the one new axis along which they change; where
    they change along several, all but one are tied: of (heads, size of a head) the heads are what can go.
    """
    owned = [place for place, axis in enumerate(before) if labelled(axis)]
    if not owned or not shape:
        for axis in before:
            reader.labels.freeze(axis, "it is an axis of length one that is dropped")
        open_ = all(is_free(axis) for axis in before)
        return [constant(size, FREE if open_ else FROZEN) for size in shape], None
    if len(owned) > 1:
        for axis in before:
            reader.labels.freeze(axis, "reshape merges it with another axis that could be pruned")
        return [constant(size, FROZEN) for size in shape], None
    sizes = [axis.size for axis in before]
    flat = before[owned[0]].reshape([-1 if place == owned[0] else 1 for place in range(len(before))])
    grid = np.broadcast_to(flat, sizes).reshape(shape)
    if len(shape) == 1:
        return [grid], 0
    if chosen is None:
        wide = [place for place, size in enumerate(shape) if size > 1]
        chosen = next((place for place in wide if _steady(grid, place)), next(iter(wide), 0))
    rows = np.moveaxis(grid, chosen, 0).reshape(shape[chosen], -1)
    axis = rows[:, 0]
    if not _steady(grid, chosen):
        for column in range(1, rows.shape[1]):
            axis = reader.tie(axis, rows[:, column], "reshape ties it to something that stays")
    others = [constant(size, FREE if size == 1 else FROZEN) for size in shape]
    return [axis if place == chosen else others[place] for place in range(len(shape))], chosen


def _steady(grid: np.ndarray, place: int) -> bool:
    """Whether the labels change along this axis alone."""
    rows = np.moveaxis(grid, place, 0).reshape(grid.shape[place], -1)
    return bool((rows == rows[:, :1]).all())
