"""`pruneft sweep --adaptive`."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneft.cli._common import NOT_OK, OK, CommandError, number, progress, show, show_json, whole
from pruneft.sweep import Grid, Ledger, Row
from pruneft.sweep.adaptive_sweep import MOST_TRIALS, Transition, adaptive_sweep, plan_adaptive
from pruneft.trial import Experiment

_ADVICE = {
    "ok": "",
    "open": "not finished",
    "below": "lies below the range: widen it downwards",
    "above": "lies above the range: widen it upwards",
    "limit": "has had its most trials: raise --adaptive-most or the target",
    "coarse": "is sharper than the steps along the axis: no trial tells more",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of adaptive allocation."""
    group = parser.add_argument_group(
        "adaptive allocation", "instead of the same number of trials in every cell; exit code 1 if a row has no answer"
    )
    group.add_argument(
        "--adaptive",
        metavar="TARGET",
        type=number,
        help="find where success passes one half in each row, to a 95%% interval of this width along the axis",
    )
    group.add_argument(
        "--adaptive-axis",
        metavar="NAME",
        help="the axis to search along; its least and largest values are the range (the derived axis)",
    )
    group.add_argument("--adaptive-falling", action="store_true", help="success falls along the axis")
    group.add_argument("--adaptive-most", metavar="TRIALS", type=whole, help=f"trials per row at most ({MOST_TRIALS})")


def check(options: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
      CommandError: they do not, or the target is no width.
    """
    if options.adaptive is None:
        for name in ("axis", "falling", "most"):
            if getattr(options, f"adaptive_{name}"):
                raise CommandError(f"--adaptive-{name} goes with --adaptive TARGET: give a target, or leave it out.")
        return
    if not (math.isfinite(options.adaptive) and options.adaptive > 0):
        raise CommandError(f"--adaptive: expected a positive width along the axis, got {options.adaptive:g}.")
    if options.seeds is not None:
        raise CommandError(
            "--seeds has no meaning with --adaptive, which chooses how many trials a cell gets: leave it out, or limit the "
            "trials per row with --adaptive-most."
        )
    if options.adaptive_most is not None and options.adaptive_most < 1:
        raise CommandError(f"--adaptive-most: expected at least 1 trial per row, got {options.adaptive_most}.")


def run(
    experiment: Experiment, grid: Grid, options: argparse.Namespace, *, name: str, remarks: Mapping[str, Any], run: Path
) -> int:
    """Run it, draw what an ordinary sweep draws, print a line per row.

    Args:
      experiment, grid: checked.
      options: the command line.
      name: of the run; ``remarks``: for its manifest; ``run``: its directory.
    """
    from pruneft.cli._sweep import STOPPING, draw_run

    rising = not options.adaptive_falling
    # Refused now, before there is a progress bar.
    axis = plan_adaptive(experiment, grid, target=options.adaptive, axis=options.adaptive_axis, rising=rising).axis
    started = time.monotonic()
    with progress(f"{experiment.name} -> {run}", quiet=options.quiet) as bar:
        stored, standing = 0, ""

        def on_round(rows: Sequence[Transition]) -> None:
            nonlocal stored, standing
            stored = sum(row.trials for row in rows)
            left = sum(row.flag == "open" for row in rows)
            standing = f"{len(rows) - left} of {len(rows)} rows done"
            bar(completed=stored, note=f"{standing}, {stored} trials so far")

        def on_rows(rows: Sequence[Row]) -> None:
            nonlocal stored
            stored += len(rows)
            bar(completed=stored, note=f"{standing}, {stored} trials so far")

        adapted = adaptive_sweep(
            experiment,
            grid,
            run,
            target=options.adaptive,
            axis=axis,
            rising=rising,
            most=MOST_TRIALS if options.adaptive_most is None else options.adaptive_most,
            dtype=options.dtype,
            lanes=options.lanes,
            processes=options.processes or 1,
            max_steps=options.max_steps,
            remarks={**remarks, "adaptive": {"axis": axis, "target": options.adaptive}},
            on_round=on_round,
            on_rows=on_rows,
            on_stop=lambda: bar(note=STOPPING),
        )
    figure = None
    if experiment.figure:
        with Ledger.open(adapted.path, read_only=True) as ledger:
            figure = draw_run(experiment, ledger.rows(), run / "figure.png")
    seconds = time.monotonic() - started
    code = OK if all(row.flag == "ok" for row in adapted.transitions) else NOT_OK
    if options.json:
        show_json(
            {
                "run": name,
                "experiment": experiment.name,
                "ledger": adapted.path,
                "figure": figure,
                "axis": axis,
                "target": options.adaptive,
                "new": adapted.new,
                "stored": sum(row.trials for row in adapted.transitions),
                "seconds": round(seconds, 3),
                "transitions": [row._asdict() for row in adapted.transitions],
            }
        )
        return code
    print_table(experiment, axis, adapted.transitions)
    show(f"{adapted.new} new trials in {seconds:.0f} s")
    show(f"ledger  {adapted.path}")
    if figure is not None:
        show(f"figure  {figure}")
    return code


def print_table(experiment: Experiment, axis: str, rows: Sequence[Transition]) -> None:
    """One line per row: the axes that vary between rows, the transition with its interval, and what is wrong with it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = [one.name for one in experiment.axes if one.name in rows[0].cell]
    varying = [name for name in names if len({str(row.cell.get(name)) for row in rows}) > 1]
    fixed = ", ".join(
        f"{name} = {rows[0].cell[name]}" for name in names if name not in varying and rows[0].cell[name] is not None
    )
    reached = [name for name in dict.fromkeys(name for row in rows for name in row.reached) if name != axis]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{experiment.name}: {fixed}" if fixed else experiment.name,
        title_justify="left",
        pad_edge=False,
    )
    for name in (*varying, f"{axis} at 50%", "95% interval", *reached, "trials"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        table.add_row(
            *(_shown(row.cell.get(name)) for name in varying),
            "-" if math.isnan(row.estimate) else f"{row.estimate:.4g}",
            _interval(row),
            *(_shown(row.reached.get(name, "-")) for name in reached),
            str(row.trials),
            _ADVICE[row.flag],
        )
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(table)


def _interval(row: Transition) -> str:
    if math.isinf(row.low):
        return f"< {row.high:.4g}"
    return f"> {row.low:.4g}" if math.isinf(row.high) else f"{row.low:.4g}-{row.high:.4g}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
