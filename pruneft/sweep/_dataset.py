"""The arrays of a summary: where each cell goes, what stands there, and the coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pruneft.sweep._columns import Column
from pruneft.sweep._snapshot import Snapshot

_LARGEST_PRODUCT = 10_000  # below this an empty point costs nothing
_SPARSE = 4
_TAKEN = ("trials", "successes", "rate", "low", "high", "statuses", "cell")

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]


class Built(NamedTuple):
    """The arguments of an xarray Dataset."""

    variables: Variables
    coordinates: dict[str, Any]


class _Layout(NamedTuple):
    """Where cells go.

    Attributes:
      dimensions: names.
      shape: sizes.
      places: number of a cell -> its place in the flat arrays.
      coordinates: of the dimensions, and of the axes that do not vary.
    """

    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    places: dict[int, int]
    coordinates: dict[str, Any]


def build(
    snapshot: Snapshot,
    success: Sequence[Column],
    of: Sequence[str],
    interval: Callable[[int, int], tuple[float, float]],
    status_name: Callable[[int], str],
) -> Built:
    """Counts, rates with their intervals, counts by status, and medians and means of ``of``.

    Raises:
      ValueError: something in ``of`` is no number.
    """
    layout = _layout(snapshot.cells)
    size = math.prod(layout.shape)
    trials, successes = np.zeros(size, np.int64), np.zeros(size, np.int64)
    by_status: dict[int, np.ndarray] = {}
    for cell, status, count, good in snapshot.tally(success):
        place = layout.places[cell]
        trials[place] += count
        successes[place] += good
        by_status.setdefault(status, np.zeros(size, np.int64))[place] += count
    low, high = np.zeros(size), np.ones(size)
    known: dict[tuple[int, int], tuple[float, float]] = {}  # most cells have as many trials, and few counts differ
    for place, pair in enumerate(zip(successes.tolist(), trials.tolist(), strict=True)):
        if pair not in known:
            known[pair] = interval(*pair)
        low[place], high[place] = known[pair]
    rate = np.divide(successes, trials, out=np.full(size, np.nan), where=trials > 0)
    flat = {"trials": trials, "successes": successes, "rate": rate, "low": low, "high": high}
    flat |= _statistics(snapshot, of, layout.places, size)
    variables: Variables = {name: (layout.dimensions, values.reshape(layout.shape)) for name, values in flat.items()}
    statuses = sorted(by_status)
    stacked = np.stack([by_status[s] for s in statuses], axis=-1) if statuses else np.zeros((size, 0), np.int64)
    variables["statuses"] = ((*layout.dimensions, "status"), stacked.reshape(*layout.shape, len(statuses)))
    names = np.array([status_name(status) for status in statuses], dtype=np.str_)
    return Built(variables, {**layout.coordinates, "status": names})


def _layout(cells: dict[int, dict[str, Any]]) -> _Layout:
    from pruneft.sweep.summary import order

    axes = sorted({name for cell in cells.values() for name in cell})
    levels = {axis: sorted({cell.get(axis) for cell in cells.values()}, key=order) for axis in axes}
    varying = [axis for axis in axes if len(levels[axis]) > 1]
    shape = tuple(len(levels[axis]) for axis in varying)
    product = math.prod(shape)
    fixed = {_name(axis): coordinate(levels[axis])[0] for axis in axes if axis not in varying}
    if not cells:
        return _Layout(("cell",), (0,), {}, {})
    index = {axis: {value: place for place, value in enumerate(levels[axis])} for axis in varying}
    if product <= max(_LARGEST_PRODUCT, _SPARSE * len(cells)):
        strides = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
        places = {
            number: sum(index[axis][cell.get(axis)] * stride for axis, stride in zip(varying, strides, strict=True))
            for number, cell in cells.items()
        }
        coordinates = {_name(axis): (_name(axis), coordinate(levels[axis])) for axis in varying}
        if len(set(places.values())) == len(cells):  # an axis that only some cells have makes two of one point
            return _Layout(tuple(map(_name, varying)), shape, places, {**coordinates, **fixed})
    # No grid: the cells in the order of their axes.
    ranked = sorted(cells, key=lambda number: [index[axis][cells[number].get(axis)] for axis in varying])
    along = {_name(axis): ("cell", coordinate([cells[n].get(axis) for n in ranked])) for axis in varying}
    places = {number: place for place, number in enumerate(ranked)}
    return _Layout(("cell",), (len(ranked),), places, {**along, **fixed})


def coordinate(values: Sequence[Any]) -> np.ndarray:
    """The values of an axis as an array of truth values, whole numbers, numbers or names, the first that fits them all.

    None is NaN among numbers, and the empty name among names.
    """
    kinds = {type(value) for value in values}
    if str in kinds:
        return np.array(["" if value is None else str(value) for value in values], dtype=np.str_)
    if kinds == {bool}:
        return np.array(values, dtype=np.bool_)
    if kinds <= {bool, int} and all(abs(value) < 2**63 for value in values):
        return np.array(values, dtype=np.int64)
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def order(value: Any) -> tuple[int, Any]:
    """A key to sort an axis by.

    What was left to the experiment (None) first, then numbers, then names: they do not compare with one another.
    """
    return (0, 0) if value is None else (2, value) if isinstance(value, str) else (1, value)


def _name(axis: str) -> str:
    return f"{axis}_axis" if axis in _TAKEN else axis


def _statistics(snapshot: Snapshot, of: Sequence[str], places: dict[int, int], size: int) -> dict[str, np.ndarray]:
    """Median and mean of reported numbers by cell; only one cell's are held at a time."""
    if not of:
        return {}
    reported = snapshot.reported
    expressions = []
    for name in of:
        if any(column.kind == "str" for column in reported[name]):
            raise ValueError(f"a median is of numbers, and {name!r} is text: leave it out.")
        # A blob is NaN.
        found = [f"case when typeof({c.sql}) <> 'blob' then {c.sql} end" for c in reported[name] if c.kind != "none"]
        expressions.append(f"coalesce({', '.join([*found, 'null', 'null'])})")
    results = {f"{name}_{what}": np.full(size, np.nan) for name in of for what in ("median", "mean")}
    for cell, place in places.items():
        numbers = snapshot.numbers(cell, expressions)
        with np.errstate(invalid="ignore"):  # infinities of both signs have no mean
            for name, kept in zip(of, numbers.T, strict=True):
                kept = kept[~np.isnan(kept)]
                if kept.size:
                    results[f"{name}_median"][place] = np.median(kept)
                    results[f"{name}_mean"][place] = np.mean(kept)
    return results
