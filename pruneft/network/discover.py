"""Families found by tracing the model once: `groups`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pruneft.network.check import sound
from pruneft.network.families import Families, Family, Member, Product, Role, Whole
from pruneft.network.labels import FROZEN, Axis, Labels, labelled
from pruneft.network.program import Reader
from pruneft.network.trace import number, read, trace
from pruneft.network.trees import abstract, is_floating, named_arrays

Table = list[tuple[str, int, int, int]]


def groups(
    fn: Callable[..., Any],
    params: Any,
    *example_inputs: Any,
    exclude: Sequence[str] = (),
    round_to: int = 1,
    min_width: int = 1,
) -> Families:
    """The families of coupled coordinates of a model: what can be removed from it, unit by unit.

    The model is traced once, every coordinate of every parameter is followed through it, and what must go together is
    tied. Then one group of every family is taken away and the smaller model traced again: a family whose smaller model does
    not trace, or does not do what the labels say (a size written into the code), is left whole. Nothing is computed.

    Args:
      fn: ``fn(params, *example_inputs)``, the model as it is used for prediction: no dropout, normalisation by stored
        statistics.
      params: any pytree with arrays; an Equinox or Flax NNX model itself will do.
      example_inputs: arrays or `jax.ShapeDtypeStruct`.
      exclude: regular expressions; a family with a member whose path one of them matches (`re.search`) is left whole.
      round_to: widths to be kept are multiples of this.
      min_width: at least so many groups of a family are kept.

    Returns:
      The families, and what stays whole and why (``print`` it).

    Raises:
      ValueError: the function cannot be traced, a pattern matches nothing, or a number is below 1.

    Source: derived (ours); the idea of dependency groups is that of Fang et al. (2023), arXiv:2301.12900.
    """
    if round_to < 1 or min_width < 1:
        raise ValueError(f"round_to and min_width must be at least 1: got {round_to} and {min_width}.")
    shapes = {name: tuple(leaf.shape) for name, leaf in named_arrays(params).items()}
    for pattern in exclude:
        if not any(re.search(pattern, name) for name in shapes):
            raise ValueError(f"exclude: the pattern {pattern!r} matches no array. Arrays are {_some(shapes)}.")
    params = abstract(params)
    traced = trace(fn, params, example_inputs)
    starts, table = number(params)
    labels = Labels(sum(size for *_, size in table))
    reader = read(traced, labels, starts)
    classes = labels.classes()
    families, whole = _collect(labels, classes, table, min_width, round_to)
    for name, leaf in named_arrays(params).items():
        if not is_floating(leaf):
            whole.append(Whole(path=name, axis=0, count=int(np.prod(leaf.shape)), why=f"its dtype is {leaf.dtype}"))
    kept = []
    for family in families:
        hit = [p for p in exclude if any(re.search(p, member.path) for member in family.members)]
        if hit:
            whole += _left(family, f"excluded by {hit[0]!r}")
        else:
            kept.append(family)
    found, dropped = sound(fn, params, example_inputs, kept, _canonical(kept, classes, table), reader, starts)
    for family, why in dropped:
        whole += _left(family, why)
    return Families(
        items=tuple(found),
        whole=tuple(whole),
        unknown=tuple(reader.unknown),
        shapes=shapes,
        products=_products(found, _canonical(found, classes, table), reader),
        fn=fn,
        inputs=example_inputs,
    )


def _products(families: Sequence[Family], canonical: Axis, reader: Reader) -> tuple[Product, ...]:
    """What the model multiplies, by families."""
    owner = np.repeat(np.arange(len(families)), [family.width for family in families])
    owner = np.append(owner, -1)  # of what belongs to none
    found = []
    for event in reader.events:
        if not event.products:
            continue
        factor, lengths = event.times, []
        for axis in event.products:
            if not labelled(axis):
                factor *= axis.size
                continue
            whose = owner[np.where(axis >= 0, canonical[np.maximum(axis, 0)], FROZEN)]
            counts = np.bincount(whose + 1, minlength=len(families) + 1)
            varied = {f.name: n / f.width for f, n in zip(families, counts[1:].tolist(), strict=True) if n}
            lengths.append((int(counts[0]), varied))
        found.append(Product(factor=factor, lengths=tuple(lengths)))
    return tuple(found)


def _some(shapes: Any) -> str:
    names = list(shapes)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _left(family: Family, why: str) -> list[Whole]:
    return [Whole(path=m.path, axis=m.axis, count=m.indices.size, why=why) for m in family.members]


def _canonical(families: Sequence[Family], classes: Axis, table: Table) -> Axis:
    """For every label a number of its group, equal for all labels of one group, and -1 for what stays, [labels]."""
    first = {(name, axis): start for name, axis, start, _ in table}
    found = np.full(classes.size, -1, np.int64)
    count = 0
    for family in families:
        for member in family.members:
            ids = first[member.path, member.axis] + member.indices
            found[ids] = count + np.arange(family.width)[:, None]
        count += family.width
    return found


def _collect(
    labels: Labels, classes: Axis, table: Table, min_width: int, round_to: int
) -> tuple[list[Family], list[Whole]]:
    """Classes that may go, by the coordinates they have; and the axes that stay."""
    count = int(classes.max(initial=-1)) + 1
    reason = np.full(count, -1, np.int64)
    marks = {what: labels.marked(what) for what in ("frozen", "reduced", "used", "consumed", "produced")}
    for what in ("frozen", "reduced"):
        marks[what + " class"] = reason.copy()
        np.maximum.at(marks[what + " class"], classes, marks[what])
    used = np.zeros(count, bool)
    used[classes[marks["used"] >= 0]] = True
    frozen, reduced = marks["frozen class"], marks["reduced class"]
    open_ = (frozen < 0) & used
    # Classes with equal numbers of coordinates everywhere are one family: a hash of the counts tells them apart.
    draws = np.random.default_rng(0)
    code = (reduced + 1).astype(np.uint64) * np.uint64(draws.integers(1, 2**63, dtype=np.uint64))
    counts: dict[tuple[str, int], np.ndarray] = {}
    whole: list[Whole] = []
    for name, axis, start, size in table:
        mine = classes[start : start + size]
        counts[name, axis] = np.bincount(mine, minlength=count)
        code += counts[name, axis].astype(np.uint64) * np.uint64(draws.integers(1, 2**63, dtype=np.uint64))
        stays = ~open_[mine]
        for why in np.unique(frozen[mine[stays]]):
            share = stays & (frozen[mine] == why)
            text = labels.reasons[why] if why >= 0 else "nothing that the model computes depends on it being there"
            whole.append(Whole(path=name, axis=axis, count=int(share.sum()), why=text))
    families = []
    numbers = np.flatnonzero(open_)
    _, first, inverse = np.unique(code[numbers], return_index=True, return_inverse=True)
    for kind in np.argsort(first):
        mine = numbers[inverse == kind]
        families.append(_family(mine, counts, marks, classes, table, labels, reduced, min_width, round_to))
    return families, whole


def _family(
    mine: np.ndarray,
    counts: dict[tuple[str, int], np.ndarray],
    marks: dict[str, np.ndarray],
    classes: Axis,
    table: Table,
    labels: Labels,
    reduced: np.ndarray,
    min_width: int,
    round_to: int,
) -> Family:
    members: list[Member] = []
    place = np.full(counts[next(iter(counts))].size, -1, np.int64)
    place[mine] = np.arange(mine.size)
    for name, axis, start, size in table:
        each = int(counts[name, axis][mine[0]])
        if each == 0:
            continue
        where = place[classes[start : start + size]]
        coordinates = np.flatnonzero(where >= 0)
        order = np.argsort(where[coordinates], kind="stable")
        indices = coordinates[order].reshape(mine.size, each)
        ids = start + coordinates
        consumed = (marks["consumed"][ids] >= 0).any() and not (marks["produced"][ids] >= 0).any()
        role: Role = "consumer" if consumed else "producer"
        members.append(Member(path=name, axis=axis, indices=indices, role=role))
    producers = [member for member in members if member.role == "producer"] or members
    # Named after the largest array that makes the units: a kernel rather than its bias.
    sizes = {name: sum(s for other, _, _, s in table if other == name) for name in {m.path for m in producers}}
    chief = max(producers, key=lambda member: sizes[member.path])
    order = np.argsort(chief.indices[:, 0], kind="stable")
    why = reduced[mine[0]]
    return Family(
        name=f"{chief.path}:{chief.axis}",
        width=mine.size,
        original=mine.size,
        members=tuple(Member(path=m.path, axis=m.axis, indices=m.indices[order], role=m.role) for m in members),
        exact=bool(why < 0),
        remarks=(labels.reasons[why],) if why >= 0 else (),
        min_width=min_width,
        round_to=round_to,
    )
