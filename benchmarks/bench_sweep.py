"""Two phase diagrams by the sweep engine, and by what one would write without it.

Run: ``pytest benchmarks/bench_sweep.py`` for a small one, ``python -m benchmarks.collect sweep`` for the tables, about 25 minutes on two
quiet cores; ``PRUNEFT_BENCH_SMALL=1`` makes everything small, to try it out, and ``PRUNEFT_BENCH_SEEDS`` sets the seeds of the
second grid (32). ``PRUNEFT_BENCH_BRIEF=1`` leaves out what takes longest: the second grid, the rivals in other batches, repetitions.
The rivals are in `benchmarks.naive`.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import alone
from benchmarks.alone import Call, tell
from benchmarks.naive import STEPS, Batches, NumpyTraining, PlainLoop
from benchmarks.table import Table, seconds, times
from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import Grid, Ledger, Plan, Progress, cells, make_grid, sweep

SMALL = bool(os.environ.get("PRUNEFT_BENCH_SMALL"))
BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))

_RATIOS = (1.05, 1.1, 1.2, 1.3, 1.5, 2.0, 2.5, 3.0)
_FINE = (1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.45, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0)
# Name -> axes and seeds. The second has 20 rows, 10 ranks at two condition numbers, and 20 columns.
GRIDS: dict[str, tuple[dict[str, Sequence[Any]], int]] = {
    "first": ({"d": [16], "r": [1, 2, 3, 4, 6, 8], "n_per_dof": _RATIOS}, 16),
    "second": (
        {"d": [20], "r": list(range(1, 11)), "kappa": [1.0, 3.0], "n_per_dof": _FINE},
        int(os.environ.get("PRUNEFT_BENCH_SEEDS", "32")),
    ),
}
if SMALL:
    GRIDS = {
        "first": ({"d": [16], "r": [2], "n_per_dof": [1.2, 1.5, 2.0]}, 4),
        "second": ({"d": [20], "r": [2], "kappa": [1.0, 3.0], "n_per_dof": [1.3, 2.0]}, 4),
    }
CALLS = 2 if BRIEF else 3  # in one process: the first, and two more with everything compiled
_SAMPLE = 3 if SMALL else 10  # cells that the NumPy rival is timed on
_SECOND_SAMPLE = 3 if SMALL else 8


def grid_of(name: str, seeds: int | None = None) -> Grid:
    """A grid by its name, with another number of seeds if one is given."""
    axes, own = GRIDS[name]
    return make_grid(RECOVERY, {**axes, "method": ["prune"]}, seeds or own)


def engine(grid: str, processes: int | None, seeds: int | None = None) -> dict[str, Any]:
    """A grid by `sweep`, ledger and all, into a fresh directory; what was done as plain numbers."""
    told: dict[str, Any] = {"written": 0.0, "writes": 0, "first_row": None}

    def plain_write(ledger: Ledger, *arguments: Any) -> int:
        begin = time.monotonic()
        new = write(ledger, *arguments)
        told["written"] += time.monotonic() - begin
        told["writes"] += 1
        told["first_row"] = told["first_row"] or time.monotonic()
        return new

    def on_plan(_: int, __: int, made: Plan) -> None:
        told.update(waste=made.waste, buckets=len(made))

    def on_progress(progress: Progress) -> None:
        told["workers"] = progress.workers

    write: Any = Ledger.write
    Ledger.write = plain_write  # type: ignore[method-assign, assignment]
    try:
        with tempfile.TemporaryDirectory() as directory:
            begin = time.monotonic()
            run = Path(directory) / "run"
            done = sweep(
                RECOVERY, grid_of(grid, seeds), run, processes=processes, on_plan=on_plan, on_progress=on_progress
            )
            taken = time.monotonic() - begin
            with Ledger.open(done.path, read_only=True) as ledger:
                successes = sum(bool(row["success"]) for row in ledger.rows())
    finally:
        Ledger.write = write  # type: ignore[method-assign]
    if told["first_row"] is not None:
        told["first_row"] -= begin
    usage = {**done.usage._asdict(), "utilisation": done.usage.utilisation}
    return {"trials": done.new, "successes": successes, "sweep_seconds": taken, **usage, **told}


_loops: dict[str, PlainLoop] = {}
_batches: dict[tuple[str, int | None], Batches] = {}


def plain_loop(grid: str, places: Sequence[int]) -> dict[str, Any]:
    """The plain loop over cells of a grid by their places; programs are kept from call to call in one process."""
    made = grid_of(grid)
    every = cells(RECOVERY, made)
    loop = _loops.setdefault(grid, PlainLoop(keep=True))
    outcome, taken = loop([every[place] for place in places], made.seeds)
    return {**outcome._asdict(), "cells": taken}


def batches(grid: str, lanes: int | None) -> dict[str, Any]:
    """Vmapped while-loops without refill; programs are kept from call to call in one process."""
    key = (grid, lanes)
    if key not in _batches:
        _batches[key] = Batches(grid_of(grid), lanes)
    return _batches[key]()._asdict()


def numpy_trials(grid: str, places: Sequence[int]) -> dict[str, Any]:
    """One trial of each of these cells in NumPy; their drawing is not timed."""
    every = cells(RECOVERY, grid_of(grid))
    taken, errors = [], []
    for place in places:
        trial = NumpyTraining(every[place], 0)
        begin = time.perf_counter()
        errors.append(trial.train())
        taken.append(time.perf_counter() - begin)
    return {"cells": taken, "errors": errors}


def sample(grid: str, count: int) -> list[int]:
    """Places of so many cells of a grid, evenly spread over their numbers of measurements."""
    n = [cell["n"] for cell in cells(RECOVERY, grid_of(grid))]
    order = sorted(range(len(n)), key=lambda place: n[place])
    return [order[int(at)] for at in np.linspace(0, len(order) - 1, min(count, len(order))).round()]


def extrapolate(grid: str, places: Sequence[int], taken: Sequence[float]) -> float:
    """Seconds for one such call per cell of the whole grid, taken as linear in the number of measurements."""
    n = np.array([cell["n"] for cell in cells(RECOVERY, grid_of(grid))], float)
    slope, level = np.polyfit(n[list(places)], np.array(taken), 1)
    return float(np.sum(level + slope * n))


@pytest.mark.parametrize("contestant", ["engine", "plain loop", "batches of 8"])
def bench_grid(contestant: str, benchmark: Any) -> None:
    benchmark.group = "grid of the first kind, 2 seeds, compiled"
    grid = make_grid(RECOVERY, {"d": [16], "r": [1, 3], "n_per_dof": [1.2, 2.0], "method": ["prune"]}, 2)
    which, loop, rival = cells(RECOVERY, grid), PlainLoop(keep=True), Batches(grid, 8)

    def by_engine() -> None:
        with tempfile.TemporaryDirectory() as directory:
            sweep(RECOVERY, grid, Path(directory) / "run", processes=1)

    contestants: dict[str, Callable[[], Any]] = {
        "engine": by_engine,
        "plain loop": lambda: loop(which, 2),
        "batches of 8": rival,
    }
    run = contestants[contestant]
    run()
    benchmark.pedantic(run, rounds=2)


def measure() -> list[Table]:
    """The tables of this file."""
    return _first() if BRIEF else [*_first(), _second()]


def again(found: Sequence[Call]) -> float:
    """Seconds of a call with everything compiled: the median of all but the first."""
    return statistics.median(one.seconds for one in found[1:])


def _first() -> list[Table]:
    cold: dict[Any, list[Call]] = {}
    warm: dict[Any, list[Call]] = {}
    for processes in (1, 2) if BRIEF else (1, 2, None):
        with alone.scratch() as cache:
            for found, said in ((cold, "empty cache"), (warm, "warm cache")):
                tell(f"engine, processes={processes}, {said}")
                found[processes] = alone.call(engine, cache, calls=CALLS, grid="first", processes=processes)
    tell(f"plain loop, {len(cells(RECOVERY, grid_of('first')))} cells, twice")
    every = list(range(len(cells(RECOVERY, grid_of("first")))))
    with alone.scratch() as cache:
        loop = alone.call(plain_loop, cache, calls=2, grid="first", places=every)
        tell("NumPy, a sample of cells")
        places = sample("first", _SAMPLE)
        each = alone.call(numpy_trials, cache, grid="first", places=places)[0].value["cells"]
    by_numpy = extrapolate("first", places, each) * grid_of("first").seeds
    rivals: dict[int | None, list[Call]] = {}
    for lanes in (8,) if BRIEF else (8, 16, None):
        tell(f"while-loops without refill, {lanes or 'all'} lanes")
        with alone.scratch() as cache:
            calls = CALLS if lanes else 2  # the last takes minutes
            rivals[lanes] = alone.call(batches, cache, calls=calls, grid="first", lanes=lanes)
    return [_against(cold, warm, loop, rivals, by_numpy, len(places)), _musts(cold, warm, loop, rivals)]


def _engine_name(processes: int | None, found: Sequence[Call]) -> str:
    if processes is None:
        return f"engine, default processes (it takes {found[0].value['workers']})"
    return f"engine, {processes} process{'es' if processes > 1 else ''}"


def _against(
    cold: dict[Any, list[Call]],
    warm: dict[Any, list[Call]],
    loop: list[Call],
    rivals: dict[int | None, list[Call]],
    by_numpy: float,
    sampled: int,
) -> Table:
    first, kept = loop[0].since_start, again(loop)
    rows: list[list[str]] = []

    def row(name: str, how: str, taken: float, value: dict[str, Any] | None) -> None:
        ratios = [times(first / taken), times(kept / taken)]
        if value is None:
            rows.append([name, how, seconds(taken), *ratios, "", "", ""])
            return
        share = value["used"] / value["spent"]
        success = f"{value['successes'] / value['trials']:.3f}"
        rows.append([name, how, seconds(taken), *ratios, success, f"{share:.2f}", str(value["programs"])])

    for processes, found in cold.items():
        name = _engine_name(processes, found)
        row(name, "cold: new process, empty cache", found[0].since_start, found[0].value)
        row(name, "new process, warm cache", warm[processes][0].since_start, warm[processes][0].value)
        row(name, "again in the process", again(warm[processes]), warm[processes][-1].value)
    row(f"(a) plain loop, {STEPS} steps", "cold, a program for each cell", first, loop[0].value)
    row(f"(a) plain loop, {STEPS} steps", "again in the process", kept, loop[-1].value)
    row(f"(b) NumPy per trial, {STEPS} steps", f"extrapolated from {sampled} trials", by_numpy, None)
    for lanes, found in rivals.items():
        name = f"(c) while-loop, {f'batches of {lanes}' if lanes else 'a bucket at once'}, no refill"
        row(name, "cold", found[0].since_start, found[0].value)
        row(name, "again in the process", again(found), found[-1].value)
    trials = cold[1][0].value["trials"]
    return Table(
        title=f"The first grid: d = 16, {len(GRIDS['first'][0]['r'])} ranks, {len(GRIDS['first'][0]['n_per_dof'])} values of "
        f"n/dof, {grid_of('first').seeds} seeds, method prune, {trials} trials",
        columns=[
            "by",
            "how",
            "time",
            "(a) cold / this",
            "(a) compiled / this",
            "success",
            "utilisation",
            "programs",
        ],
        rows=rows,
        says=f"{alone.SAYS} Cold and warm-cache times contain the start of Python and the imports; the engine's contain "
        "its ledger and, with several processes, their start at the first call (programs are counted in each process). "
        "(a) and (b) train once for a fixed time, the engine and (c) also restart, prune and fine-tune, on the same "
        f"buckets. The compiler had {seconds(loop[0].compiler)} of the plain loop's first pass.",
    )


def _musts(
    cold: dict[Any, list[Call]], warm: dict[Any, list[Call]], loop: list[Call], rivals: dict[int | None, list[Call]]
) -> Table:
    best = min(rivals, key=lambda lanes: again(rivals[lanes]))
    least = again(rivals[best])
    one, two = again(warm[1]), again(warm[2])
    first, kept = loop[0].since_start, again(loop)
    use = warm[1][-1].value
    rows = [
        _must("(a) cold / engine compiled, one process", first / one, 15, "x", above=True),
        _must("(a) compiled / engine compiled, one process", kept / one, 15, "x", above=True),
        _must("(a) cold / engine compiled, two processes", first / two, 15, "x", above=True),
        _must("(a) compiled / engine compiled, two processes", kept / two, 15, "x", above=True),
        _must("engine cold, one process", cold[1][0].since_start, 60, " s"),
        *(
            _must(f"engine cold, {'default' if key is None else 'two processes'}", cold[key][0].since_start, 60, " s")
            for key in cold
            if key != 1
        ),
        _must("utilisation, one process", use["used"] / use["spent"], 0.75, "", above=True),
        _must("programs, one process", float(cold[1][0].value["programs"]), 16, ""),
    ]
    for lanes, found in rivals.items():
        name = f"batches of {lanes}" if lanes else "a bucket at once"
        rows.append(_must(f"engine, one process / (c) {name}, compiled", one / again(found), 0.75, ""))
        rows.append(_must(f"engine, two processes / (c) {name}, compiled", two / again(found), 0.5, ""))
    missed = [row[0] for row in rows if row[-1] == "no"]
    return Table(
        title="The first grid against what was asked for",
        columns=["what", "measured", "asked for", "held"],
        rows=rows,
        says=("Missed: " + "; ".join(missed) + "." if missed else "All held.")
        + f" The fastest form of (c) takes {seconds(least)} ({f'batches of {best}' if best else 'a bucket at once'}).",
    )


def _must(what: str, value: float, bar: float, unit: str, *, above: bool = False) -> list[str]:
    held = value >= bar if above else value <= bar
    return [what, f"{value:.3g}{unit}", f"{'at least' if above else 'at most'} {bar:g}{unit}", "yes" if held else "no"]


def _second() -> Table:
    made = grid_of("second")
    every = cells(RECOVERY, made)
    with alone.scratch() as cache:
        tell(f"second grid: the engine, {len(every) * made.seeds} trials")
        ours = alone.call(engine, cache, grid="second", processes=None)[0]
        places = sample("second", _SECOND_SAMPLE)
        tell(f"second grid: the plain loop on {len(places)} of {len(every)} cells, twice")
        loop = alone.call(plain_loop, cache, calls=2, grid="second", places=places)
        tell("second grid: NumPy on as many trials")
        each = alone.call(numpy_trials, cache, grid="second", places=places)[0].value["cells"]
    kept = extrapolate("second", places, loop[1].value["cells"])
    compiling = [all_ - run for all_, run in zip(loop[0].value["cells"], loop[1].value["cells"], strict=True)]
    shapes = {(cell["n"], cell["r"]) for cell in every}
    rivals = {
        f"(a) plain loop, compiling {len(shapes)} programs": kept
        + extrapolate("second", places, compiling) * len(shapes) / len(every),
        "(a) plain loop, compiled before": kept,
        "(b) NumPy per trial": extrapolate("second", places, each) * made.seeds,
    }
    value = ours.value
    trials = value["trials"]
    mine = ours.since_start
    share = f"{value['used'] / value['spent']:.3f}"
    name = f"engine, default processes (it takes {value['workers']}), cold"
    rows = [[name, "measured", seconds(mine), seconds(mine / trials), "1", share]]
    for rival, taken in rivals.items():
        how = f"extrapolated from {len(places)} of {len(every)} cells"
        rows.append([rival, how, seconds(taken), seconds(taken / trials), times(taken / mine), ""])
    return Table(
        title=f"The second grid: d = 20, {len(GRIDS['second'][0]['r'])} ranks at condition numbers 1 and 3, "
        f"{len(GRIDS['second'][0]['n_per_dof'])} values of n/dof from 1.05 to 3, {made.seeds} seeds, {trials} trials",
        columns=["by", "how", "time", "per trial", "this / engine", "utilisation"],
        rows=rows,
        says=f"{alone.SAYS} Success {value['successes'] / trials:.3f} of the engine's trials, {value['waste']:.0%} of "
        f"the planned work is padding, {value['buckets']} buckets. The engine's time contains the start of Python, all "
        "compilation and the ledger. Rivals as above, taken as linear in n from cell to cell; what they need before their "
        "first cell is not counted.",
    )
