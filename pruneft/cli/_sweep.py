"""`pruneft sweep`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneft.cli import _adaptive
from pruneft.cli._common import (
    OK,
    CommandError,
    check_memory,
    need_figures,
    progress,
    sensing_bytes,
    set_precision,
    show,
    show_json,
)
from pruneft.experiments import EXPERIMENTS, load, locate
from pruneft.sweep import (
    Grid,
    GridFile,
    Ledger,
    Row,
    cells,
    check_name,
    load_toml,
    make_grid,
    parse_values,
    run_path,
    summarise,
    sweep,
)
from pruneft.trial import Experiment

DEFAULT = "recovery"


def experiment_of(arguments: Sequence[str]) -> Experiment:
    """The experiment that a command line asks for, known before its flags can be parsed: they are its axes."""
    probe = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    probe.add_argument("--config")
    try:
        known, rest = probe.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise CommandError(str(error)) from error
    for place, word in enumerate(rest):
        # The first word that is no flag and no flag's value; every flag of sweep but these takes a value.
        before = rest[place - 1] if place else ""
        if not word.startswith("-") and (
            not before.startswith("--") or "=" in before or before in ("--json", "--quiet", "--adaptive-falling")
        ):
            return load(word)
    if known.config is not None:
        return load(load_toml(known.config, tuple(EXPERIMENTS)).experiment or DEFAULT)
    return load(DEFAULT)


def run(options: argparse.Namespace) -> int:
    """Run the grid, draw it, print a table."""
    experiment: Experiment = options.loaded
    _adaptive.check(options)
    file = GridFile(experiment=None, run=None, seeds=None, axes={})
    if options.config is not None:
        file = load_toml(options.config, tuple(EXPERIMENTS))
    grid = _grid(experiment, file, options)
    planned = cells(experiment, grid)  # a cell that makes no sense is an error before anything is written
    name = next(given for given in (options.run, file.run, experiment.name) if given is not None)
    check_name(name)
    if options.lanes < 1:
        raise CommandError(f"--lanes: expected a whole number of trials side by side, at least 1, got {options.lanes}.")
    if experiment.figure:
        need_figures()
    set_precision(options.dtype)
    _check_memory(experiment, planned, options.dtype)
    directory = run_path(options.runs_dir, name)
    place = options.experiment or file.experiment or DEFAULT
    if options.adaptive is not None:
        return _adaptive.run(experiment, grid, options, name=name, place=place, run=directory)
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
            remarks={"experiment_place": place},
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


def _grid(experiment: Experiment, file: GridFile, options: argparse.Namespace) -> Grid:
    axes: dict[str, Any] = dict(file.axes)
    for axis in experiment.axes:
        text = getattr(options, f"axis_{axis.name}")
        if text is not None:
            axes[axis.name] = parse_values(axis, text)
    return make_grid(experiment, axes, file.seeds if options.seeds is None else options.seeds)


def _check_memory(experiment: Experiment, planned: Sequence[Mapping[str, Any]], dtype: str) -> None:
    """Refuse trials that cannot fit; of an experiment of another subject nothing is known beforehand."""
    if experiment.subject != load(DEFAULT).subject or not planned:
        return
    need, sizes = max(
        (sensing_bytes(sizes["n"], sizes["d"], sizes["k"], dtype), tuple(sizes.items()))
        for sizes in map(experiment.sizes, planned)
    )
    check_memory(need, "a trial of " + ", ".join(f"{name}={size}" for name, size in sizes))


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
