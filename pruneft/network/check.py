"""Families held against the model: one group of each is taken away, and the smaller model must do what the labels say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pruneft.network.families import Family
from pruneft.network.labels import FREE, FROZEN, Axis, Labels, Value
from pruneft.network.metadata import refreshed
from pruneft.network.program import Reader
from pruneft.network.trace import read, trace
from pruneft.network.trees import map_arrays, take


class _Refused(Exception):
    """The smaller model is not the model without a group."""


def sound(
    fn: Callable[..., Any],
    params: Any,
    inputs: tuple[Any, ...],
    families: Sequence[Family],
    canonical: Axis,
    reader: Reader,
    starts: dict[str, list[Axis]],
) -> tuple[list[Family], list[tuple[Family, str]]]:
    """The families that hold, some of them marked inexact, and those that do not, with the reason.

    First and last groups of all are tried at once, then the first ones alone, then those of halves of the families, so that two
    families that only fit while they shrink together are told apart. Where that fails, or a number in the program has changed, each
    is tried on its own.
    """
    candidates = [family for family in families if family.width > 1]
    dropped = [(family, "a single group: nothing of it can go") for family in families if family.width == 1]
    model = _Model(fn, params, inputs, families, canonical, reader, starts)
    halves = [
        [family for place, family in enumerate(candidates) if place >> bit & 1 == side]
        for bit in range(max(len(candidates) - 1, 0).bit_length())
        for side in (0, 1)
    ]
    try:
        if not any(
            model.changed(some, ends)
            for some, ends in ((candidates, True), (candidates, False), *((h, True) for h in halves))
        ):
            return candidates, dropped
    except _Refused:
        pass
    found = []
    for family in candidates:
        try:
            remarks = dict.fromkeys([*model.changed([family], True), *model.changed([family], False)])
        except _Refused as refusal:
            dropped.append((family, str(refusal)))
            continue
        if remarks:
            family = dataclasses.replace(family, exact=False, remarks=(*family.remarks, *remarks))
        found.append(family)
    return found, dropped


class _Model(NamedTuple):
    """What was traced, and how it was read."""

    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    families: Sequence[Family]
    canonical: Axis
    reader: Reader
    starts: dict[str, list[Axis]]

    def changed(self, tried: Sequence[Family], ends: bool) -> tuple[str, ...]:
        """What else changes in the program when the first group of some families goes, and the last too if ``ends``.

        Raises:
          _Refused: the smaller model does not trace, or does something else.
        """
        stays = self._stays(tried, ends)

        def smaller(axis: Axis) -> Axis:
            if axis.size == 0 or axis.max() < 0:
                return axis
            owned = np.where(axis >= 0, self.canonical[np.maximum(axis, 0)], axis)
            return owned[stays[np.maximum(owned, FROZEN)]]

        def shrink(name: str, leaf: Any) -> Any:
            for axis, labels in enumerate(self.starts[name]):
                if labels.size and labels[0] >= 0:
                    stay = np.flatnonzero(stays[self.canonical[labels]])
                    leaf = take(leaf, stay, axis) if stay.size < labels.size else leaf
            return leaf

        raw = map_arrays(shrink, self.params)
        traced, said = None, ""
        for tree in (lambda: raw, lambda: refreshed(raw)):
            try:
                traced = trace(self.fn, tree(), self.inputs)
                break
            except Exception as error:  # whatever a model raises when its shapes do not fit
                said = said or (str(error).strip().splitlines() or [type(error).__name__])[0]
        if traced is None:
            raise _Refused(
                f"the model does not trace without one of its groups, as with a size written into it: {said}"
            )
        known = {name: [smaller(axis) for axis in axes] for name, axes in self.starts.items()}
        again = read(traced, Labels(stays.size - 1), known, self.reader.choices)
        return _compare(self.reader, again, smaller)

    def _stays(self, tried: Sequence[Family], ends: bool) -> np.ndarray:
        """Which groups, numbered through all families, stay; the last entry is that of what belongs to none."""
        stays, count = [], 0
        for family in self.families:
            mine = np.ones(family.width, bool)
            if any(family is each for each in tried):
                mine[0] = False
                mine[-1] &= not (ends and family.width > 2)
            stays.append(mine)
            count += family.width
        return np.concatenate([*stays, [True]])


def _compare(first: Reader, again: Reader, smaller: Callable[[Axis], Axis]) -> tuple[str, ...]:
    if [event.primitive for event in first.events] != [event.primitive for event in again.events]:
        raise _Refused("the model takes another course without one of its groups")
    if again.labels.crossed().size:
        raise _Refused("the model mixes other coordinates without one of its groups, as with a size written into it")
    remarks: list[str] = []
    for before, now in zip(first.events, again.events, strict=True):
        for old, new in zip(before.outs, now.outs, strict=True):
            if not _same(old, new, smaller):
                raise _Refused(f"a size written into the model no longer fits in {before.primitive}")
        # NaN, as in the guards of jnp.var, is equal to itself here.
        other = [(a, b) for a, b in zip(before.numbers, now.numbers) if a != b and not (a != a and b != b)]
        if other:
            old_number, new_number = other[0]
            remarks.append(f"a constant of the model depends on the width: {old_number:g} becomes {new_number:g}")
        if before.counted != now.counted:
            remarks.append(f"{before.primitive} counts the groups")
    return tuple(dict.fromkeys(remarks))


def _same(old: Value, new: Value, smaller: Callable[[Axis], Axis]) -> bool:
    for before, now in zip(old.axes, new.axes, strict=True):
        wanted = smaller(before)
        if wanted is now:
            continue
        if wanted.size and now.size and wanted[0] == FREE == now[0]:
            continue  # its length follows from what it is joined with
        if wanted.size != now.size or not np.array_equal(np.maximum(wanted, FROZEN), np.maximum(now, FROZEN)):
            return False
    return True
