"""Everything the page says, as one JSON object; the page draws from it, and tests read it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pruneft import status as statuses_
from pruneft.plot import Curve
from pruneft.plot._cells import Cells, row_key
from pruneft.plot.phase import _CURVE_STYLES as CURVE_STYLES
from pruneft.report._coarse import pool, rows_of
from pruneft.report.panel import Panel, generic_panels, summarise_all
from pruneft.report.transition import METHOD, Transition, transition
from pruneft.sweep.summary import CellSummary
from pruneft.trial import Experiment

FORMAT = 1
# A browser draws this many cells, and draws them again when its window is resized, in a second or a few.
MOST_CELLS = 20_000
MOST_PANELS = 12


def document(
    experiment: Experiment,
    rows: Sequence[Mapping[str, Any]],
    *,
    run: str,
    manifest: Mapping[str, Any],
    command: str,
    written: datetime,
    panels: Callable[[Sequence[Mapping[str, Any]]], Sequence[Panel]] | None = None,
    estimate: Callable[..., Transition] = transition,
    method: str = METHOD,
    most_cells: int = MOST_CELLS,
) -> dict[str, Any]:
    """What the page shows, ready for JSON: no NaN, no infinity.

    Args:
      experiment: whose run it is.
      rows: the ledger's rows.
      run: name of the run.
      manifest: the ledger's.
      command: what makes the run again.
      written: when the page is made.
      panels: rows -> panels; those of `generic_panels` if None.
      estimate: (x, successes, trials, scale=...) -> `Transition`.
      method: a sentence on how ``estimate`` finds the 50 % point.
      most_cells: above so many, diagrams are drawn coarser and the table of cells is left out.

    Raises:
      ValueError: there are no rows, or they lack ``experiment.success``.
    """
    if not rows:
        raise ValueError(
            f"run {run!r} holds no finished trial yet, so there is nothing to report. Run its sweep first."
        )
    axes, summaries = summarise_all(experiment, rows)
    shown = list(panels(rows)) if panels is not None else generic_panels(experiment, summaries)
    notes = []
    if len(shown) > MOST_PANELS:
        notes.append(f"{len(shown)} settings in this run: only the first {MOST_PANELS} are drawn.")
        shown = shown[:MOST_PANELS]
    full = len(summaries) > most_cells
    if full:
        notes.append(
            f"{len(summaries)} cells in this run: the table of cells is left out above {most_cells}; "
            "pruneft export writes all trials to a file."
        )
    pool_of_cells = _Pool([] if full else summaries)
    listed = len(pool_of_cells.cells)
    styles: dict[str, int] = {}
    drawn = [
        _panel(panel, pool_of_cells, styles, estimate, max(1, most_cells // max(1, len(shown))), notes)
        for panel in shown
    ]
    return _plain(
        {
            "format": FORMAT,
            "run": run,
            "experiment": experiment.name,
            "written": written.isoformat(timespec="seconds"),
            "trials": len(rows),
            "successes": sum(summary.successes for summary in summaries),
            "cell_count": len(summaries),
            "axes": axes,
            "varying": _varying(axes, summaries),
            "medians": sorted({name for summary in summaries for name in summary.medians}),
            "notes": notes,
            "panels": drawn,
            "method": method,
            "cells": pool_of_cells.cells,
            "listed": listed,
            "statuses": _statuses(rows),
            "manifest": dict(manifest),
            "command": command,
        }
    )


class _Pool:
    """Cells by number, each once: those of the table first, then those that only a panel has."""

    def __init__(self, summaries: Sequence[CellSummary]) -> None:
        self.cells: list[dict[str, Any]] = []
        self._known: dict[str, int] = {}
        for summary in summaries:
            self.number(summary)

    def number(self, summary: CellSummary, pooled: int = 1) -> int:
        key = json.dumps([summary.cell, summary.trials, summary.successes, pooled], sort_keys=True, default=str)
        if key not in self._known:
            self._known[key] = len(self.cells)
            self.cells.append(summary._asdict() if pooled == 1 else {**summary._asdict(), "pooled": pooled})
        return self._known[key]


def _panel(
    panel: Panel,
    cells: _Pool,
    styles: dict[str, int],
    estimate: Callable[..., Transition],
    most: int,
    notes: list[str],
) -> dict[str, Any]:
    before = len(panel.cells)
    panel, names, sizes = pool(panel, most)
    if len(panel.cells) < before:
        notes.append(
            f"{panel.title or 'The diagram'}: {before} cells are drawn as {len(panel.cells)}, each the sum of its neighbours."
        )
    for curve in panel.curves:
        styles.setdefault(curve.label, len(styles))
    places = Cells.checked(
        list(panel.row), panel.x, [c.successes for c in panel.cells], [c.trials for c in panel.cells], panel.scale
    )
    rows = rows_of(panel)
    members: list[list[int]] = [[] for _ in rows]
    for i, number in enumerate(places.row.tolist()):
        members[number].append(i)
    return {
        "title": panel.title,
        "row_label": panel.row_label,
        "x_label": panel.x_label,
        "scale": places.scale,
        "rows": rows,
        "row_names": [names[row] for row in rows],
        "points": [
            {
                "row": int(places.row[i]),
                "x": places.x[i],
                "left": places.low[i],
                "right": places.high[i],
                "cell": cells.number(panel.cells[i], sizes[i]),
            }
            for i in range(len(panel.cells))
        ],
        "curves": [
            {"style": styles[curve.label] % len(CURVE_STYLES), "label": curve.label, "values": _values(curve, rows)}
            for curve in panel.curves
        ],
        "transitions": [
            estimate(
                [panel.x[i] for i in member],
                [panel.cells[i].successes for i in member],
                [panel.cells[i].trials for i in member],
                scale=places.scale,
            )._asdict()
            for member in members
        ],
    }


def _values(curve: Curve, rows: Sequence[Any]) -> list[float | None]:
    known = {row_key(row): value for row, value in curve.values.items()}
    return [known.get(row_key(row)) for row in rows]


def _varying(axes: Sequence[str], summaries: Sequence[CellSummary]) -> list[str]:
    return [name for name in axes if len({summary.cell[name] for summary in summaries}) > 1]


def _statuses(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Codes by falling count, each with its name and what it means."""
    found = []
    for code, count in sorted(
        Counter(int(row["status"]) for row in rows).items(), key=lambda item: (-item[1], item[0])
    ):
        try:
            name, text = statuses_.Status(code).name, statuses_.message(code)
        except ValueError:
            name, text = f"STATUS_{code}", "not known to the version of pruneft that made this page."
        found.append({"code": code, "name": name, "trials": count, "message": text})
    return found


def _plain(value: Any) -> Any:
    """What JSON can hold: NumPy scalars as numbers, and null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
