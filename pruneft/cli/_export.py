"""`pruneft export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pruneft.cli._common import OK, CommandError, progress, show, show_json
from pruneft.sweep.export import FORMATS, export
from pruneft.sweep.ledger import Ledger
from pruneft.sweep.runs import find_ledger


def add(commands: Any) -> None:
    """The command and its flags."""
    parser = commands.add_parser(
        "export",
        help="write a run's trials or summary for other programs",
        description="csv and parquet: a row per trial, with its axes, seed, status and reported scalars. netcdf and zarr: counts, "
        "rates and intervals by cell.",
    )
    parser.add_argument("run", metavar="RUN", help="name of the run")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    parser.add_argument("--out", metavar="PATH", required=True, help="the file; a directory for zarr")
    parser.add_argument("--of", metavar="NAMES", help="netcdf and zarr: medians and means of these, comma-separated")
    parser.add_argument("--force", action="store_true", help="replace an earlier export of the same format")
    parser.add_argument("--runs-dir", metavar="DIR", default="runs", help="where runs live (runs)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run_command=run)


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    of = tuple(name.strip() for name in options.of.split(",")) if options.of is not None else ()
    if not all(of):
        raise CommandError(f"--of: expected names of reported numbers, separated by commas, got {options.of!r}.")
    if of and options.format in ("csv", "parquet"):
        raise CommandError(f"--of is for netcdf and zarr: {options.format} holds every reported value as it is.")
    with (
        Ledger.open(find_ledger(options.runs_dir, options.run), read_only=True) as ledger,
        progress(f"{options.run} -> {options.out}", quiet=options.quiet) as bar,
    ):
        bar(total=ledger.count())
        done = export(
            ledger,
            Path(options.out),
            format=options.format,
            force=options.force,
            of=of,
            on_rows=lambda rows: bar(completed=rows),
        )
    if options.json:
        values = {"run": options.run, "format": options.format, "out": done.path}
        show_json({**values, "rows": done.rows, "columns": list(done.columns)})
    else:
        what = "trials" if options.format in ("csv", "parquet") else "cells"
        show(f"{options.format}  {done.path}: {done.rows} {what}, {', '.join(done.columns)}")
    return OK
