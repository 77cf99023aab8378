"""`pruneft explain`: what a sweep is going to do and cost."""

from __future__ import annotations

import argparse
from typing import Any

from pruneft.cli._common import DTYPES, OK, check_counts, duration, say, set_precision, show, show_json, whole
from pruneft.cli._grid import Asked, add_options, asked
from pruneft.sweep import run_path
from pruneft.sweep.explain import Explanation, explain, missing_trials
from pruneft.sweep.local import Settings
from pruneft.sweep.runs import LEDGER_NAME
from pruneft.trial import Experiment

_MOST_SHOWN = 20


def add(commands: Any, experiment: Experiment | None) -> None:
    """The flags."""
    parser = commands.add_parser(
        "explain",
        help="say what a sweep is going to do and cost, and run nothing",
        description="Cells, trials, buckets, memory and time of the sweep with the same flags. Times some steps for it; stores nothing.",
    )
    add_options(parser, experiment)
    parser.add_argument("--runs-dir", metavar="DIR", default="runs", help="where runs live (runs)")
    parser.add_argument("--lanes", type=whole, help="trials side by side (by memory, device and number of trials)")
    parser.add_argument("--processes", type=whole, help="processes that share the work (on a CPU one for each core)")
    parser.add_argument("--max-steps", type=whole, default=Settings().max_steps, help="as sweep has it (10000000)")
    parser.add_argument(
        "--no-calibrate", action="store_true", help="compile and time nothing; estimate from constants of one CPU core"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--dtype", choices=DTYPES, default="float64", help="as sweep has it (float64)")
    parser.set_defaults(run_command=run)


def run(options: argparse.Namespace) -> int:
    """Plan, look, time a little, print."""
    wanted = asked(options)
    check_counts(options, "lanes", "processes", "max_steps")
    set_precision(options.dtype)
    ledger = run_path(options.runs_dir, wanted.run) / LEDGER_NAME
    settings = Settings(options.dtype, options.lanes, options.max_steps)
    todo = missing_trials(wanted.experiment, wanted.cells, wanted.grid.seeds, ledger, settings)
    if not (options.quiet or options.no_calibrate):
        say("pruneft: compiling and timing some steps, which takes seconds to a minute (not with --no-calibrate)")
    found = explain(
        wanted.experiment,
        wanted.cells,
        wanted.grid.seeds,
        todo=todo,
        dtype=options.dtype,
        lanes=options.lanes,
        processes=options.processes,
        measure=not options.no_calibrate,
    )
    if options.json:
        show_json(as_json(wanted, found))
    else:
        _print(wanted, found)
    return OK


def as_json(wanted: Asked, found: Explanation) -> dict[str, Any]:
    """The explanation as one object."""
    return {
        "experiment": wanted.experiment.name,
        "run": wanted.run,
        "grid": wanted.grid.spec(),
        "cells": found.cells,
        "trials": found.trials,
        "stored": found.stored,
        "compilations": found.plan.compilations,
        "padding": found.plan.waste,
        "buckets": [
            {
                "sizes": dict(bucket.task.bucket.sizes),
                "static": dict(bucket.task.bucket.static),
                "cells": bucket.cells,
                "trials": len(bucket.task.trials),
                "lanes": bucket.lanes,
                "lane_bytes": bucket.cost.bytes,
                "step_flops": bucket.cost.flops,
                "step_bytes": bucket.cost.moved,
                "counted": bucket.cost.counted,
                "padding": bucket.task.waste,
                "steps": bucket.task.steps,
                "step_seconds": bucket.step_seconds,
                "measured": bucket.timing is not None,
                "seconds": bucket.seconds,
            }
            for bucket in found.buckets
        ],
        "edges": [
            {"choice": choice.name, "buckets": choice.buckets, "seconds": choice.seconds}
            for choice in found.alternatives
        ],
        "device": found.device._asdict(),
        "processes": found.processes,
        "memory": {"needed": found.memory, "there": found.device.memory},
        "calibrated": found.calibrated,
        "seconds": found.seconds,
    }


def _print(wanted: Asked, found: Explanation) -> None:
    left = found.trials - found.stored
    show(f"experiment  {wanted.experiment.name}")
    show(f"grid        {wanted.grid.describe()}")
    stored = f", {found.stored} of them in run {wanted.run!r} already" if found.stored else ""
    show(f"trials      {found.trials} of {_many(found.cells, 'cell')}{stored}")
    if not left:
        show("nothing is left to run")
        return
    buckets = _many(found.plan.compilations, "bucket", "each compiled once")
    show(f"buckets     {buckets}; {found.plan.waste:.0%} of the work is padding, counting sizes")
    _print_buckets(found)
    show("edges       the choices weighed, by the constants of the model:")
    for choice in found.alternatives:
        show(f"            {duration(choice.seconds):>8}  {choice.name} ({choice.buckets})")
    memory = found.device.memory
    there = "the device does not say how much there is" if memory is None else f"{_bytes(memory)} there"
    fits = "" if memory is None or found.memory <= memory else "; IT DOES NOT FIT: fewer --lanes or --processes"
    show(
        f"memory      {_bytes(found.memory)} for problems and states of {_many(found.processes, 'process')}, {there}{fits}"
    )
    seconds = found.seconds
    source = "steps timed on this machine" if found.calibrated else "from constants of one CPU core, nothing timed"
    show(
        f"time        about {duration(seconds['total'])} ({source}): steps {duration(seconds['steps'])}, draws "
        f"{duration(seconds['draw'])}, compilation {duration(seconds['compile'])} or less if cached"
    )
    show("            if trials take the steps that the experiment expects; the work of a second stage is not counted")


def _print_buckets(found: Explanation) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("bucket")
    for name in ("cells", "trials", "lanes", "bytes/lane", "FLOP/step", "padding", "us/lane-step"):
        table.add_column(name, justify="right")
    for bucket in found.buckets[:_MOST_SHOWN]:
        sizes = [f"{name} {size}" for name, size in bucket.task.bucket.sizes]
        flops = f"{bucket.cost.flops:.3g}" if bucket.cost.counted else f"~{bucket.cost.flops:.1g}"
        table.add_row(
            ", ".join([*sizes, *(value for _, value in bucket.task.bucket.static)]),
            str(bucket.cells),
            str(len(bucket.task.trials)),
            str(bucket.lanes),
            _bytes(bucket.cost.bytes),
            flops,
            f"{bucket.task.waste:.0%}",
            f"{1e6 * bucket.step_seconds:.3g}" + ("" if bucket.timing else "*"),
        )
    Console(width=None if Console().is_terminal else 120, highlight=False).print(table)
    if len(found.buckets) > _MOST_SHOWN:
        show(f"            and {len(found.buckets) - _MOST_SHOWN} more (--json lists all)")
    if not all(bucket.timing for bucket in found.buckets[:_MOST_SHOWN]):
        show("            * not timed: " + ("inferred from those that were" if found.calibrated else "from constants"))


def _many(count: int, noun: str, remark: str = "") -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count} {noun if count == 1 else plural}" + (f" ({remark})" if remark else "")


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
