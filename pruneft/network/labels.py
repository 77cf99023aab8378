"""Labels of coordinates: which of them belong together, and which must stay.

Every coordinate of every axis of every parameter has a number. Rules tie numbers, freeze them or mark them; nothing is resolved
before the end, when one pass over all ties gives the classes, so that a hundred thousand coordinates take milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

FROZEN = -1  # a coordinate that no parameter owns, or that is not understood
FREE = -2  # an axis along which nothing changes, because it was broadcast: it fits any other

Axis = np.ndarray  # one label for every coordinate
CONSTANT, PARAMETER, DATA = 0, 1, 2


class Value(NamedTuple):
    """What is known of an intermediate: a label array for each axis, and what it is made from.

    Attributes:
      axes: labels, [size] each.
      kind: CONSTANT, PARAMETER (of parameters and constants alone) or DATA.
    """

    axes: tuple[Axis, ...]
    kind: int


def constant(size: int, label: int) -> Axis:
    """An axis without labels."""
    return np.full(size, label, np.int64)


def labelled(axis: Axis) -> bool:
    """Whether some coordinate has a label."""
    return bool(axis.size) and int(axis.max()) >= 0


def is_free(axis: Axis) -> bool:
    """Whether the axis was broadcast."""
    return bool(axis.size) and int(axis[0]) == FREE


def unlabelled(value: Value) -> Value:
    """The same shape with every coordinate frozen."""
    return value._replace(axes=tuple(constant(axis.size, FROZEN) for axis in value.axes))


class Labels:
    """Ties and marks, collected while a program is read.

    Attributes:
      count: how many coordinates there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._ties: list[tuple[Axis, Axis]] = []
        self._marks: dict[str, list[tuple[Axis, int]]] = {}
        self.reasons: list[str] = []

    def tie(self, first: Axis, second: Axis, why: str) -> Axis:
        """Two axes that are one: the labels of both are tied, and frozen where one of them is. Returns the axis that both are."""
        if first is second:
            return first
        both = (first >= 0) & (second >= 0) & (first != second)
        if both.any():
            self._ties.append((first[both], second[both]))
        self.freeze(first[second == FROZEN], why)
        self.freeze(second[first == FROZEN], why)
        return np.where(first >= 0, first, np.where(second >= 0, second, np.maximum(first, second)))

    def freeze(self, axis: Axis, why: str) -> None:
        """These coordinates stay."""
        self.mark("frozen", axis, why)

    def mark(self, what: str, axis: Axis, why: str = "") -> None:
        """Remember something of the labels of an axis, with a reason."""
        owned = axis[axis >= 0]
        if owned.size:
            if why not in self.reasons:
                self.reasons.append(why)
            self._marks.setdefault(what, []).append((owned, self.reasons.index(why)))

    def classes(self) -> Axis:
        """The class of every coordinate, [count], numbered from 0."""
        if not self._ties:
            return np.arange(self.count)
        rows, columns = (np.concatenate(part) for part in zip(*self._ties, strict=True))
        graph = coo_matrix((np.ones(rows.size, bool), (rows, columns)), shape=(self.count, self.count))
        return connected_components(graph, directed=False)[1].astype(np.int64)

    def crossed(self) -> Axis:
        """Labels that were tied to others or frozen: none, when a program is read whose labels are classes already."""
        found = [part for tie in self._ties for part in tie] + [ids for ids, _ in self._marks.get("frozen", [])]
        return np.unique(np.concatenate(found)) if found else constant(0, 0)

    def marked(self, what: str) -> np.ndarray:
        """For every coordinate the number of the first reason it was marked with, -1 where it was not, [count]."""
        found = constant(self.count, -1)
        for ids, reason in reversed(self._marks.get(what, [])):
            found[ids] = reason
        return found
