"""`pruneft sweep`."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneft.cli import _adaptive
from pruneft.cli._common import (
    OK,
    check_counts,
    duration,
    need_figures,
    progress,
    set_precision,
    show,
    show_json,
)
from pruneft.cli._grid import asked
from pruneft.experiments import locate
from pruneft.sweep import Ledger, Plan, Progress, run_path, summarise, sweep
from pruneft.sweep.engine import check_processes
from pruneft.sweep.local import Settings
from pruneft.trial import Experiment

STOPPING = "stopping after the segments under way; Ctrl-C again does not wait for them"


def run(options: argparse.Namespace) -> int:
    """Run the grid, draw it, print a table."""
    check_counts(options, "lanes", "processes", "max_steps")
    _adaptive.check(options)
    wanted = asked(options)
    experiment, grid, name = wanted.experiment, wanted.grid, wanted.run
    if experiment.figure:
        need_figures()
    set_precision(options.dtype)
    # Refused now, before there is a progress bar.
    Settings(options.dtype, options.lanes, options.max_steps).check()
    check_processes(experiment, options.processes)
    directory = run_path(options.runs_dir, name)
    remarks = {"experiment_place": wanted.place, "command": shlex.join(["pruneft", *options.words])}
    if options.adaptive is not None:
        return _adaptive.run(experiment, grid, options, name=name, remarks=remarks, run=directory)
    started = time.monotonic()
    with progress(f"{experiment.name} -> {directory}", quiet=options.quiet) as bar:

        def on_plan(planned: int, stored: int, made: Plan) -> None:
            buckets = "1 bucket" if made.compilations == 1 else f"{made.compilations} buckets"
            had = f", {stored} were stored already" if stored else ""
            # Nothing moves for seconds now, which looks like a program that hangs.
            waits = f"compiling {buckets}; the first trials take some seconds{had}" if stored < planned else had[2:]
            bar(total=planned, completed=stored, note=waits)

        stopping = False

        def on_progress(now: Progress) -> None:
            if now.utilisation is not None:
                bar(completed=now.done, note=STOPPING if stopping else describe(now))

        def on_stop() -> None:
            nonlocal stopping
            stopping = True
            bar(note=STOPPING)

        swept = sweep(
            experiment,
            grid,
            directory,
            dtype=options.dtype,
            lanes=options.lanes,
            processes=options.processes,
            max_steps=options.max_steps,
            remarks=remarks,
            on_plan=on_plan,
            on_progress=on_progress,
            on_stop=on_stop,
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
                "utilisation": swept.usage.utilisation,
                "programs": swept.usage.programs,
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


def describe(now: Progress) -> str:
    """How far a run is, for the end of a progress bar."""
    parts = [f"{now.rate:.3g} trials/s"]
    if now.utilisation is not None:
        parts.append(f"lanes {100 * now.utilisation:.0f}% busy")
    if now.eta is not None and now.done < now.planned:
        parts.append(f"{duration(now.eta)} left")
    parts.append(f"{now.failed} without success")
    if now.workers > 1:
        parts.append(f"{now.workers} processes")
    return ", ".join(parts)


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
