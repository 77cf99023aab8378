"""The rows of an adaptive sweep: which cells lie along the axis, and at which x each of them lies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from pruneft.sweep.grid import Grid, GridError, flag, nearest
from pruneft.trial import Axis, Experiment, canonical_json

# Places asked along a derived axis, and along a direct one. A cell of a derived axis that falls between two places is
# passed over: with so many of them the steps are far below any target.
_PLACES, _DIRECT_PLACES = 2000, 800
_HALVINGS = 40
_DIGITS = 12


@dataclass(frozen=True)
class GridRow:
    """The cells that trials of one row may lie in.

    Attributes:
      cell: the axes of the resolved cells that do not vary along the row.
      cells: resolved cells, [m], in rising x.
      x: [m] where they lie: the value itself for a direct axis, the middle of the values that resolve to the cell for a
        derived one, which is n / dof exactly for n measurements.
    """

    cell: dict[str, Any]
    cells: list[dict[str, Any]]
    x: np.ndarray
    axis: str = ""
    _known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cell, x in zip(self.cells, self.x, strict=True):
            self._known[canonical_json(cell)] = float(x)

    def place(self, cell: Mapping[str, Any]) -> float | None:
        """The x of a resolved cell; None if it does not lie on this row."""
        found = self._known.get(canonical_json(cell))
        if found is None and self.axis in cell and cell.keys() == self.cells[0].keys():
            # A direct axis: any value within the range will do, also one that an ordinary sweep has visited.
            others = {name: value for name, value in cell.items() if name != self.axis}
            if canonical_json(others) == canonical_json(self.cell) and self.x[0] <= cell[self.axis] <= self.x[-1]:
                return float(cell[self.axis])
        return found


def adaptive_axis(experiment: Experiment, grid: Grid, name: str | None = None) -> Axis:
    """The axis to search along, checked: a float axis whose values in the grid span a range.

    Args:
      experiment: whose axis it is.
      grid: holds at least two values of it.
      name: the axis; the experiment's only derived one if None.

    Raises:
      GridError: there is no such axis, it is not a float axis, or the grid gives no range.
    """
    known = {axis.name: axis for axis in experiment.axes}
    if name is None:
        derived = [axis.name for axis in experiment.axes if axis.kind == "derived" and axis.type is float]
        if len(derived) != 1:
            floats = [axis.name for axis in experiment.axes if axis.type is float]
            raise GridError(
                f"experiment {experiment.name!r} has {len(derived)} derived axes, so the axis to search along must be "
                f"named: one of {', '.join(floats) or '(it has no float axis)'}."
            )
        name = derived[0]
    if name not in known:
        raise GridError(f"experiment {experiment.name!r} has no axis {name!r}. {nearest(name, known)}")
    axis = known[name]
    if axis.type is not float:
        raise GridError(
            f"{flag(name)} is an axis of {axis.type.__name__} values: the axis to search along must be a float axis. "
            "Choose another one."
        )
    values = grid.axes.get(name, ())
    if len(set(values)) < 2:
        raise GridError(
            f"{flag(name)}: expected two values at least, the ends of the range to search, got {list(values)}. Write for "
            f"example {flag(name)} 1,2."
        )
    return axis


def grid_rows(experiment: Experiment, grid: Grid, axis: Axis) -> list[GridRow]:
    """The rows of a grid, the last axis varying fastest; one that comes up twice is kept once.

    Raises:
      GridError: the experiment refuses a cell, or a row has only one cell in the range.
    """
    low, high = min(grid.axes[axis.name]), max(grid.axes[axis.name])
    others = {name: values for name, values in grid.axes.items() if name != axis.name}
    rows: dict[str, GridRow] = {}
    for point in itertools.product(*others.values()):
        base = dict(zip(others, point, strict=True))

        def resolve(x: float, base: Mapping[str, Any] = base) -> dict[str, Any]:
            return experiment.resolve({**base, axis.name: x})

        try:
            found = (_derived if axis.kind == "derived" else _direct)(resolve, low, high)
        except ValueError as error:
            shown = ", ".join(f"{name}={value!r}" for name, value in base.items()) or "all defaults"
            raise GridError(f"row ({shown}), {axis.name} from {low:g} to {high:g}: {error}") from error
        cells = list(found.values())
        if len(cells) < 2:
            shown = ", ".join(f"{name}={value!r}" for name, value in base.items()) or "all defaults"
            raise GridError(
                f"row ({shown}): {flag(axis.name)} from {low:g} to {high:g} makes only one cell. Widen the range."
            )
        same = {name: value for name, value in cells[0].items() if all(cell[name] == value for cell in cells)}
        rows.setdefault(
            canonical_json(same),
            GridRow(same, cells, np.array(list(found)), axis.name if axis.kind != "derived" else ""),
        )
    return list(rows.values())


Resolve = Callable[[float], dict[str, Any]]


def _direct(resolve: Resolve, low: float, high: float) -> dict[float, dict[str, Any]]:
    """Evenly spaced x -> its cell."""
    # In exact arithmetic on the decimals, so that cells have short names.
    first, last = Fraction(repr(low)), Fraction(repr(high))
    steps = range(_DIRECT_PLACES + 1)
    return {x: resolve(x) for x in (float(first + (last - first) * step / _DIRECT_PLACES) for step in steps)}


def _derived(resolve: Resolve, low: float, high: float) -> dict[float, dict[str, Any]]:
    """Middle of the x that resolve to a cell, also where those reach out of the range -> the cell."""
    places = np.linspace(low, high, _PLACES + 1).tolist()
    firsts: list[tuple[float, float, dict[str, Any]]] = []  # first and last place of each cell
    for x in places:
        cell = resolve(x)
        if firsts and firsts[-1][2] == cell:
            firsts[-1] = (firsts[-1][0], x, cell)
        else:
            firsts.append((x, x, cell))
    step = (high - low) / _PLACES
    found = {}
    for first, last, cell in firsts:
        middle = (_edge(resolve, cell, first, -step, high - low) + _edge(resolve, cell, last, step, high - low)) / 2
        found[float(f"{middle:.{_DIGITS}g}")] = cell
    return found


def _edge(resolve: Resolve, cell: Mapping[str, Any], x: float, step: float, span: float) -> float:
    """Where the values that resolve to a cell end, from ``x``, which does, in the direction of ``step``."""

    def holds(value: float) -> bool:
        try:
            return resolve(value) == cell
        except ValueError:  # beyond what the experiment knows
            return False

    reach = step
    while holds(x + reach):
        reach *= 2
        if abs(reach) > span:
            return x + reach / 2
    inside, outside = x, x + reach
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside
