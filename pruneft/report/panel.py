"""One phase diagram as plain numbers, and the panels of an experiment that names none of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneft.plot import Curve
from pruneft.sweep.summary import CellSummary, summarise
from pruneft.trial import Experiment


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Success over rows and x, for one setting of all other axes. A panel of one row is drawn as a curve.

    Attributes:
      title: what tells this panel from the others.
      row: one per cell: its row, all numbers or all strings.
      x: one per cell: its place in the row.
      cells: what the trials of each cell say. No two cells share row and x.
      row_label, x_label: names of the two directions.
      curves: theory to draw beside them, row -> x.
      scale: of x: "linear", "log" or "auto".
    """

    title: str
    row: Sequence[Any]
    x: Sequence[float]
    cells: Sequence[CellSummary]
    row_label: str
    x_label: str
    curves: Sequence[Curve] = ()
    scale: str = "auto"

    def __post_init__(self) -> None:
        if not len(self.row) == len(self.x) == len(self.cells) > 0:
            raise ValueError(
                f"panel {self.title!r}: row, x and cells must be equally long and not empty, got {len(self.row)}, "
                f"{len(self.x)} and {len(self.cells)}."
            )


def generic_panels(experiment: Experiment, summaries: Sequence[CellSummary]) -> list[Panel]:
    """Panels from whatever varies: the numeric axis with most values along x, the next one as rows.

    A panel for each setting of the other axes. With one numeric axis, a text axis that varies makes the rows; without
    any there is no panel.

    Args:
      experiment: names the axes and their order.
      summaries: one per cell, over all axes.
    """
    values = {
        axis.name: dict.fromkeys(summary.cell.get(axis.name) for summary in summaries) for axis in experiment.axes
    }
    varying = {name: list(found) for name, found in values.items() if len(found) > 1}
    numeric = [name for name, found in varying.items() if all(_is_number(value) for value in found)]
    if not numeric:
        return []
    # Sorting is stable: of axes with equally many values the first of the experiment's becomes the rows.
    by_length = sorted(numeric, key=lambda name: len(varying[name]))
    x = by_length[-1]
    texts = [name for name, found in varying.items() if all(isinstance(value, str) for value in found)]
    row = by_length[-2] if len(by_length) > 1 else texts[0] if texts else None
    rest = [name for name in varying if name not in (x, row)]
    settings: dict[tuple[Any, ...], list[CellSummary]] = {}
    for summary in summaries:
        settings.setdefault(tuple(summary.cell.get(name) for name in rest), []).append(summary)
    return [
        Panel(
            title=", ".join(f"{name} = {show(value)}" for name, value in zip(rest, setting, strict=True)),
            row=["" if row is None else summary.cell[row] for summary in members],
            x=[summary.cell[x] for summary in members],
            cells=members,
            row_label=row or "",
            x_label=x,
        )
        for setting, members in sorted(settings.items(), key=lambda item: str(item[0]))
    ]


def summarise_all(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[CellSummary]]:
    """The axes that the trials have, and one summary per cell over all of them."""
    axes = [axis.name for axis in experiment.axes if axis.name in rows[0]]
    return axes, summarise(rows, axes, success=experiment.success)


def show(value: Any) -> str:
    """An axis value as text; None is what the experiment chooses by itself."""
    return "default" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
