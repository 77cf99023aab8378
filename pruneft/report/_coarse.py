"""Panels with more cells than a browser should draw, pooled into fewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pruneft.plot import Curve
from pruneft.report.panel import Panel, show
from pruneft.sweep.summary import CellSummary, wilson

MOST_ROWS = 200


class Pooled(NamedTuple):
    """A panel as it is drawn.

    Attributes:
      panel: with at most the cells that were allowed.
      row_names: name of each row value, where a row stands for several.
      sizes: for each cell how many it pools.
    """

    panel: Panel
    row_names: dict[Any, str]
    sizes: list[int]


def rows_of(panel: Panel) -> list[Any]:
    """The distinct rows from the lowest up: numbers ascending, names in the order in which they come."""
    distinct = list(dict.fromkeys(panel.row))
    return distinct if any(isinstance(row, str) for row in distinct) else sorted(distinct)


def pool(panel: Panel, most: int) -> Pooled:
    """The panel, with neighbouring rows and then neighbouring x put together until at most ``most`` cells are left.

    Successes, trials and statuses are added up; medians of medians mean nothing and are left out. A pooled row is placed at
    its middle value, and theory curves are read there.

    Args:
      panel: any number of cells.
      most: cells, at least 1.
    """
    rows = rows_of(panel)
    if len(panel.cells) <= most and len(rows) <= MOST_ROWS:
        return Pooled(panel, {row: show(row) for row in rows}, [1] * len(panel.cells))
    together = max(-(-len(rows) // MOST_ROWS), -(-len(rows) // max(1, int(most**0.5))))
    group_of = {row: i // together for i, row in enumerate(rows)}
    groups = [rows[i : i + together] for i in range(0, len(rows), together)]
    x = np.asarray(panel.x, dtype=np.float64)
    members = _members(np.array([group_of[row] for row in panel.row]), x, max(1, most // len(groups)))
    row_names = {group[len(group) // 2]: _range(group) for group in groups}
    middle = list(row_names)
    keys = sorted(members)
    return Pooled(
        Panel(
            title=panel.title,
            row=[middle[group] for group, _ in keys],
            x=[float(np.mean(x[members[key]])) for key in keys],
            cells=[
                _sum(
                    [panel.cells[i] for i in members[key]],
                    {
                        **({panel.row_label: row_names[middle[key[0]]]} if panel.row_label else {}),
                        panel.x_label: _range(sorted(x[members[key]].tolist())),
                    },
                )
                for key in keys
            ],
            row_label=panel.row_label,
            x_label=panel.x_label,
            curves=[
                Curve(curve.label, {row: curve.values[row] for row in middle if row in curve.values})
                for curve in panel.curves
            ],
            scale=panel.scale,
        ),
        row_names,
        [len(members[key]) for key in keys],
    )


def _members(group: np.ndarray, x: np.ndarray, columns: int) -> dict[tuple[int, int], np.ndarray]:
    """(group, column) -> the cells in it; equally many different x in every column, wherever the group's cells lie."""
    members: dict[tuple[int, int], np.ndarray] = {}
    order = np.lexsort((x, group))
    for mine in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        different, rank = np.unique(x[mine], return_inverse=True)
        column = rank * min(columns, different.size) // different.size
        parts = np.split(mine, np.flatnonzero(np.diff(column)) + 1)
        members |= {(int(group[mine[0]]), i): part for i, part in enumerate(parts)}
    return members


def _range(values: Sequence[Any]) -> str:
    first, last = (f"{v:.4g}" if isinstance(v, float) else show(v) for v in (values[0], values[-1]))
    return first if first == last else f"{first} to {last}"


def _sum(summaries: Sequence[CellSummary], cell: dict[str, Any]) -> CellSummary:
    successes, trials = sum(s.successes for s in summaries), sum(s.trials for s in summaries)
    statuses: Counter[str] = Counter()
    for summary in summaries:
        statuses.update(summary.statuses)
    ordered = dict(sorted(statuses.items(), key=lambda item: (-item[1], item[0])))
    return CellSummary(cell, trials, successes, successes / trials, *wilson(successes, trials), ordered, {})
