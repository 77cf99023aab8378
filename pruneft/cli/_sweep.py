"""`pruneft sweep`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneft.cli._common import (
    OK,
    CommandError,
    need_figures,
    progress,
    set_precision,
    show,
    show_json,
)
from pruneft.cli._grid import asked
from pruneft.experiments import locate
from pruneft.sweep import Ledger, Row, run_path, summarise, sweep
from pruneft.trial import Experiment


def run(options: argparse.Namespace) -> int:
    """Run the grid, draw it, print a table."""
    wanted = asked(options)
    experiment, grid, name = wanted.experiment, wanted.grid, wanted.run
    if options.lanes < 1:
        raise CommandError(f"--lanes: expected a whole number of trials side by side, at least 1, got {options.lanes}.")
    if experiment.figure:
        need_figures()
    set_precision(options.dtype)
    directory = run_path(options.runs_dir, name)
    started = time.monotonic()
    done, failed = 0, 0
    with progress(f"{experiment.name} -> {directory}", quiet=options.quiet) as bar:

        def on_plan(planned: int, stored: int, buckets: int) -> None:
            nonlocal done
            done = stored
            bar(total=planned, completed=stored, note=f"{buckets} programs" + (f", {stored} stored" if stored else ""))

        def on_rows(rows: Sequence[Row]) -> None:
            nonlocal done, failed
            done += len(rows)
            failed += sum(not row.report.get(experiment.success, True) for row in rows)
            sizes = ", ".join(f"{axis} {value}" for axis, value in experiment.sizes(rows[-1].cell).items())
            bar(completed=done, note=f"{sizes}; {failed} unsuccessful")

        swept = sweep(
            experiment,
            grid,
            directory,
            dtype=options.dtype,
            lanes=options.lanes,
            remarks={"experiment_place": wanted.place},
            on_plan=on_plan,
            on_rows=on_rows,
        )
    with Ledger.open(swept.path, read_only=True) as ledger:
        rows = ledger.rows()
    figure = None if not experiment.figure else draw_run(experiment, rows, directory / "figure.png")
    seconds = time.monotonic() - started
    if options.json:
        show_json(
            {
                "run": name,
                "experiment": experiment.name,
                "ledger": swept.path,
                "figure": figure,
                "trials": swept.planned,
                "new": swept.new,
                "stored": len(rows),
                "seconds": round(seconds, 3),
                "cells": table(experiment, rows),
            }
        )
        return OK
    print_table(experiment, rows)
    show(f"{swept.new} new trials of {swept.planned} in {seconds:.0f} s")
    show(f"ledger  {swept.path}")
    if figure is not None:
        show(f"figure  {figure}")
    return OK


def draw_run(experiment: Experiment, rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw a run's figure to a file."""
    from pruneft.plot import save

    save(locate(experiment.figure)(rows), path)
    return path


def table(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One flat dict per cell: its axes, trials, successes, rate with its Wilson interval, and medians."""
    axes = [axis.name for axis in experiment.axes if any(axis.name in row for row in rows)]
    return [
        {
            **summary.cell,
            "trials": summary.trials,
            "successes": summary.successes,
            "rate": summary.rate,
            "low": summary.low,
            "high": summary.high,
            "statuses": summary.statuses,
            "medians": summary.medians,
        }
        for summary in summarise(rows, axes, success=experiment.success)
    ]


def print_table(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> None:
    """Cells of a run, one per line: the axes that vary, successes of trials, and medians."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    lines = table(experiment, rows)
    if not lines:
        show("no finished trial yet")
        return
    names = [axis.name for axis in experiment.axes if axis.name in lines[0]]
    varying = [name for name in names if len({str(cell.get(name)) for cell in lines}) > 1] or names[:1]
    fixed = ", ".join(
        f"{name} = {lines[0][name]}" for name in names if name not in varying and lines[0][name] is not None
    )
    reported = [name for name in ("error", "rank", "steps") if name in lines[0]["medians"]] or list(
        lines[0]["medians"]
    )[:3]
    grid = Table(
        box=box.SIMPLE_HEAD,
        title=f"{experiment.name}: {fixed}" if fixed else experiment.name,
        title_justify="left",
        pad_edge=False,
    )
    for name in varying:
        grid.add_column(name, justify="right")
    grid.add_column("success", justify="right")
    grid.add_column("95% interval", justify="right")
    for name in reported:
        grid.add_column(f"median {name}", justify="right")
    for cell in lines:
        values = [f"{cell[name]:g}" if isinstance(cell[name], float) else str(cell[name]) for name in varying]
        medians = [f"{cell['medians'][name]:.3g}" if name in cell["medians"] else "-" for name in reported]
        grid.add_row(
            *values, f"{cell['successes']}/{cell['trials']}", f"{cell['low']:.2f}-{cell['high']:.2f}", *medians
        )
    # A fixed width where stdout is no terminal, or a long table would be folded to 80 columns in a log.
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(grid)
