"""`pruneft report`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pruneft.cli._common import OK, CommandError, check_target, show, show_json
from pruneft.experiments import EXPERIMENTS, load, locate
from pruneft.report import document, render, write
from pruneft.sweep import GridError, Ledger, cells, find_ledger, make_grid
from pruneft.trial import Experiment, canonical_json


def add(commands: Any) -> None:
    """The command and its flags."""
    parser = commands.add_parser(
        "report",
        help="write one HTML page about a run, which works offline",
        description="One HTML page about a run: phase diagram, transition, statuses, manifest. It loads nothing from anywhere.",
    )
    parser.add_argument("target", metavar="RUN", help="name of a run")
    parser.add_argument("--runs-dir", metavar="DIR", default="runs", help="where runs live (runs)")
    parser.add_argument("--out", metavar="FILE.html", help="where the page goes (report.html beside the ledger)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(run_command=run)


def run(options: argparse.Namespace) -> int:
    """Write the page; an older one at the same place gives way."""
    ledger_path = find_ledger(options.runs_dir, options.target)
    target = Path(ledger_path.parent / "report.html" if options.out is None else options.out)
    if target.suffix not in (".html", ".htm"):
        raise CommandError(f"--out must end in .html: got {str(target)!r}.")
    check_target(target)
    with Ledger.open(ledger_path, read_only=True) as ledger:
        rows, name, manifest = ledger.rows(), ledger.experiment, ledger.manifest
    if not rows:
        raise CommandError(f"run {options.target} holds no finished trial yet: nothing to report. Run its sweep first.")
    experiment = _experiment(name or "", manifest)
    made = document(
        experiment,
        rows,
        run=options.target,
        manifest=manifest,
        command=command_of(experiment, rows, manifest, options.target),
        written=datetime.now().astimezone(),
        panels=locate(experiment.panels) if experiment.panels else None,
    )
    write(render(made), target)
    if options.json:
        show_json(
            {
                "report": target,
                "run": options.target,
                "experiment": experiment.name,
                "trials": made["trials"],
                "cells": made["cell_count"],
                "panels": len(made["panels"]),
                "notes": made["notes"],
            }
        )
        return OK
    for note in made["notes"]:
        show(f"note    {note}")
    show(f"report  {target} (open it in a browser)")
    return OK


def _experiment(name: str, manifest: Mapping[str, Any]) -> Experiment:
    place = name if name in EXPERIMENTS else manifest.get("experiment_place", "")
    if not place:
        raise CommandError(
            f"this run's experiment {name!r} is not known here: run its sweep again, which records where it is."
        )
    return load(str(place))


def command_of(experiment: Experiment, rows: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any], run: str) -> str:
    """The command line that makes a run again.

    The manifest's own ``command`` where it was kept. Otherwise the shortest sweep whose grid is that of the rows: the
    experiment's default grid, or the product of the values of the axes; where neither is, a remark says so.
    """
    kept = manifest.get("command")
    if isinstance(kept, str) and kept:
        return kept
    if isinstance(kept, list) and kept:
        return shlex.join(map(str, kept))
    names = [axis.name for axis in experiment.axes if axis.name in rows[0]]
    there: dict[str, dict[str, Any]] = {}
    for row in rows:
        cell = {name: row[name] for name in names}
        there.setdefault(canonical_json(cell), cell)
    seeds = 1 + max(int(row["seed"]) for row in rows)
    words = ["pruneft", "sweep"]
    place = str(manifest.get("experiment_place") or experiment.name)
    if place != "recovery":
        words.append(place)
    words += ["--run", run, "--seeds", str(seeds)]
    if manifest.get("dtype", "float64") != "float64":
        words += ["--dtype", str(manifest["dtype"])]
    if _is_grid(experiment, {}, seeds, there):
        return shlex.join(words)
    values = {name: list(dict.fromkeys(cell[name] for cell in there.values())) for name in names}
    one = next(iter(there.values()))
    axes = {name: found for name, found in values.items() if None not in found}
    for name in [name for name, found in axes.items() if len(found) == 1 and name not in experiment.default_grid]:
        fewer = {other: one[other] for other in axes if other != name}
        if _resolved(experiment, fewer) == one:  # its default, or what follows from the others
            del axes[name]
    if _is_grid(experiment, axes, seeds, there):
        for name, found in axes.items():
            words += ["--" + name.replace("_", "-"), ",".join(map(str, found))]
        return shlex.join(words)
    return f"{shlex.join(words)}  # and the flags of its grid, which the manifest did not keep: see the table of cells"


def _is_grid(
    experiment: Experiment, axes: Mapping[str, Any], seeds: int, there: Mapping[str, Mapping[str, Any]]
) -> bool:
    """Whether a product grid has exactly these cells."""
    try:
        made = cells(experiment, make_grid(experiment, axes, seeds))
    except (GridError, ValueError):
        return False
    return {canonical_json(cell) for cell in made} == set(there)


def _resolved(experiment: Experiment, cell: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return experiment.resolve(cell)
    except ValueError:
        return None
