"""The sweep engine from inside: utilisation, padding, lanes, segments, growth, ledger and start-up.

Run: ``pytest benchmarks/bench_engine.py`` for single readings, ``python -m benchmarks.collect engine`` for the tables, about ten
minutes on two quiet cores; ``PRUNEFT_BENCH_SMALL=1`` makes everything small, to try it out.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from benchmarks import alone, inside
from benchmarks.alone import SAYS, Call, tell
from benchmarks.bench_sweep import SMALL, engine
from benchmarks.table import Table, seconds, times

LANES = (1, 8) if SMALL else (1, 2, 4, 8, 16, 32, 64)
SIZES = (32, 128) if SMALL else (32, 128, 320)
ROUNDS = 3 if SMALL else 15
SECOND_SEEDS = 1 if SMALL else 4
_TOY_TRIALS = 256 if SMALL else 1024

# What grows -> (what is timed, its values, (n, d, k) at a value). n < d (d + 1) / 2 is computed directly, above that by a Gram
# matrix, whose cost does not depend on n.
GROWTH: dict[str, tuple[str, tuple[int, ...], Any]] = {
    "n": ("a lane-step, d = k = 16, direct form", (32, 48, 64, 96, 128), lambda n: (n, 16, 16)),
    "n, Gram form": ("a lane-step, d = k = 16, Gram form", (160, 224, 320, 512), lambda n: (n, 16, 16)),
    "d": ("a lane-step, n = 32, k = 8, direct form", (8, 12, 16, 24, 32), lambda d: (32, d, 8)),
    "k": ("a lane-step, n = 64, d = 16", (4, 8, 16, 32), lambda k: (64, 16, k)),
}
_TRIAL_D = (8, 16) if SMALL else (8, 12, 16, 24, 32)
_SEEDS = (2, 4) if SMALL else (4, 8, 16, 32)
_IMPORTS = ("", "import jax", "import pruneft", "import pruneft.experiments.recovery, pruneft.sweep")


@pytest.mark.parametrize("lanes", [1, 8, 64])
def bench_segment(lanes: int, benchmark: Any) -> None:
    benchmark.group = "a segment at n = 128"
    segments = inside._Segments((128, 16, 16, lanes))
    benchmark(segments.time)


@pytest.mark.parametrize("steps", [10, 100, None])
def bench_toy(steps: int | None, benchmark: Any) -> None:
    benchmark.group = "1024 trials of the toy, compilation included"
    benchmark.pedantic(inside.toy, args=([(16, steps, True)], 1, 1024), rounds=1)


def measure() -> list[Table]:
    """The tables of this file."""
    with alone.scratch() as cache:
        lanes = _lanes(cache)
        toy, boundary = _toy(cache)
        growth = _growth(cache)
    runs, plans = _runs()
    return [_usage(runs, plans, boundary), lanes, toy, growth, _ledger(runs), _start_up(runs)]


def _lanes(cache: str) -> Table:
    shapes = [(n, 16, 16, count) for n in SIZES for count in LANES]
    tell(f"lane counts: {len(shapes)} programs")
    found = dict(zip(shapes, alone.call(inside.speeds, cache, shapes=shapes, rounds=ROUNDS)[0].value, strict=True))
    tell("one process and two at the same time")
    pairs = [(n, 16, 16, 8) for n in SIZES]
    length = 0.5 if SMALL else 3.0

    def run(meet: str, among: int) -> list[float]:
        return alone.call(inside.sustained, cache, shapes=pairs, seconds=length, meet=meet, among=among)[0].value

    with alone.scratch() as meet:
        by_one = run(meet, 1)
    with alone.scratch() as meet, ThreadPoolExecutor(2) as pool:
        by_two = list(pool.map(lambda _: run(meet, 2), range(2)))
    gains = [one * sum(1 / other[place] for other in by_two) for place, one in enumerate(by_one)]
    rows = [
        [str(n), *(seconds(found[n, 16, 16, count]) for count in LANES), times(gains[place])]
        for place, n in enumerate(SIZES)
    ]
    best = {n: min(LANES, key=lambda count: found[n, 16, 16, count]) for n in SIZES}
    eight = {n: found[n, 16, 16, 8] / found[n, 16, 16, best[n]] for n in SIZES}
    return Table(
        title="Seconds of a lane-step against lanes side by side, d = k = 16, segments of 480 steps, one process",
        columns=["n", *(f"L = {count}" for count in LANES), "two processes / one"],
        rows=rows,
        says=f"{SAYS} The inverse is trial-steps per second: "
        + "; ".join(
            f"at n = {n} {1 / found[n, 16, 16, best[n]]:.0f} with the best L = {best[n]}, and L = 8 takes "
            f"{times(eight[n])} times as long a step as that"
            for n in SIZES
        )
        + ". n = 320 is computed by a Gram matrix. The last column is the steps per second of two processes at the same "
        "time, 8 lanes each, over those of one alone (asked for: at least 1.5 up to n = 128).",
    )


def _toy(cache: str) -> tuple[Table, float]:
    """The table, and the seconds that the boundary of a segment costs."""
    ways = [(16, steps, True) for steps in (10, 30, 100, 300, 1000, None)]
    ways += [(16, 10, False), (16, 100, False), (16, None, False)]
    ways += [(lanes, None, True) for lanes in (4, 8, 32, 64)]
    tell(f"toy: {len(ways)} ways, {ROUNDS} rounds")
    told = alone.call(inside.toy, cache, ways=ways, rounds=ROUNDS, trials=_TOY_TRIALS)[0].value
    found = dict(zip(ways, told, strict=True))

    def slope(lookahead: bool) -> float:
        few, many = found[16, 100, lookahead], found[16, 10, lookahead]
        return float((many["seconds"] - few["seconds"]) / (many["segments"] - few["segments"]))

    boundary = slope(True)
    rows = []
    for (lanes, steps, lookahead), one in found.items():
        rows.append(
            [
                str(lanes),
                "the engine's choice" if steps is None else str(steps),
                "yes" if lookahead else "no",
                seconds(one["seconds"]),
                f"{one['utilisation']:.3f}",
                str(one["segments"]),
                f"{one['segments'] * boundary / one['seconds']:.1%}",
            ]
        )
    own, without = found[16, None, True], found[16, None, False]
    lost = own["segments"] * boundary / own["seconds"]
    table = Table(
        title=f"The toy: {_TOY_TRIALS} trials with a state of 32 floats, Pareto(1.2) numbers of steps up to 20 000",
        columns=["lanes", "steps of a segment", "lookahead", "time", "utilisation", "segments", "of it boundaries"],
        rows=rows,
        says=f"A boundary costs {seconds(boundary)} with lookahead and {seconds(slope(False))} without (slopes between 10 "
        f"and 100 steps; asked for: at most 0.5 ms). With the engine's own segments {lost:.1%} of the time are "
        f"boundaries, lookahead gains {times(without['seconds'] / own['seconds'])}, and utilisation at 16 "
        f"lanes is {own['utilisation']:.2f} (at least 0.6). {SAYS}",
    )
    return table, boundary


def _growth(cache: str) -> Table:
    shapes = {name: [(*shape(value), 8) for value in values] for name, (_, values, shape) in GROWTH.items()}
    if SMALL:
        shapes = {name: every[:3] for name, every in shapes.items()}
    whole = [shape for every in shapes.values() for shape in every]
    tell(f"growth of a lane-step: {len(whole)} programs")
    found = dict(zip(whole, alone.call(inside.speeds, cache, shapes=whole, rounds=ROUNDS)[0].value, strict=True))
    rows = []

    def row(name: str, what: str, sizes: list[int], taken: list[float]) -> None:
        slope, error = inside.exponent(sizes, taken)
        shown = ", ".join(f"{size}: {seconds(one)}" for size, one in zip(sizes, taken, strict=True))
        rows.append([name, what, shown, f"{slope:.2f} ± {error:.2f}"])

    for name, every in shapes.items():
        what, values, _ = GROWTH[name]
        row(name.split(",")[0], what, list(values[: len(every)]), [found[shape] for shape in every])
    trials = 8 if SMALL else 64
    taken = []
    for d in _TRIAL_D:
        tell(f"growth of a trial: d = {d}")
        taken.append(alone.call(inside.whole_trials, cache, calls=2, d=d, trials=trials)[-1].value)
    row("d", f"a whole trial, r = 2, n = 1.5 dof, k = d, {trials} trials", list(_TRIAL_D), taken)
    taken, counts = [], []
    for seeds in _SEEDS:
        tell(f"growth with trials: {seeds} seeds")
        last = alone.call(engine, cache, calls=2, grid="first", processes=1, seeds=seeds)[-1]
        taken.append(last.seconds)
        counts.append(last.value["trials"])
    row("trials", "the first grid, compiled, one process", counts, taken)
    return Table(
        title="How cost grows: exponents of the size by least squares of the logarithms, ± one standard error",
        columns=["with", "what is timed", "times", "exponent"],
        rows=rows,
        says=f"{SAYS} Lane-steps with 8 lanes. Exponents below those of the operations (1 in n, 2 in d, 1 in k) are the "
        "fixed part of a step.",
    )


def _runs() -> tuple[dict[tuple[str, int, str], Call], dict[str, Any]]:
    """(grid, processes, how) -> a run of the engine; and what is planned for both grids."""
    runs: dict[tuple[str, int, str], Call] = {}
    for processes in (1, 2):
        with alone.scratch() as cache:
            tell(f"first grid, {processes} processes, cold and warm")
            runs["first", processes, "cold"] = alone.call(engine, cache, grid="first", processes=processes)[0]
            new, *_, last = alone.call(engine, cache, calls=2, grid="first", processes=processes)
            runs["first", processes, "warm cache"] = new
            runs["first", processes, "compiled"] = last
            if processes == 2:
                tell(f"second grid, {SECOND_SEEDS} seeds")
                _, last = alone.call(engine, cache, calls=2, grid="second", processes=2, seeds=SECOND_SEEDS)
                runs["second", 2, "compiled"] = last
                tell("plans")
                plans = alone.call(inside.plans, cache)[0].value
    return runs, plans


def _usage(runs: dict[tuple[str, int, str], Call], plans: dict[str, Any], boundary: float) -> Table:
    rows = []
    for grid, processes in (("first", 1), ("first", 2), ("second", 2)):
        value = runs[grid, processes, "compiled"].value
        lost = value["segments"] * boundary / value["workers"] / value["sweep_seconds"]
        rows.append(
            [
                f"{grid}, {value['trials']} trials",
                str(processes),
                seconds(value["sweep_seconds"]),
                f"{value['used'] / value['spent']:.3f}",
                str(value["segments"]),
                f"{lost:.1%}",
                str(value["stage_calls"]),
                f"{value['waste']:.1%}",
                str(value["buckets"]),
            ]
        )
    shown = "; ".join(
        f"{name}: {len(made['sizes'])} buckets (n = {', '.join(map(str, made['sizes']))}) for {made['trials']} trials, "
        f"{made['waste']:.1%} padding, against {made['one']:.1%} in a single bucket"
        for name, made in plans.items()
    )
    return Table(
        title="Utilisation and padding on the grids of the part above, compiled, ledger included",
        columns=[
            "grid",
            "processes",
            "time",
            "utilisation",
            "segments",
            "lost at their boundaries",
            "stage calls",
            "padding",
            "buckets",
        ],
        rows=rows,
        says=f"{SAYS} Utilisation is the share of lane-steps in which a trial was at work, over all rounds (asked for: at "
        f"least 0.75). Padding is the share of planned work in padded rows. The whole grids are planned as: {shown}. "
        f"The loss is taken from the toy, {seconds(boundary)} a boundary (asked for: at most 5%).",
    )


def _ledger(runs: dict[tuple[str, int, str], Call]) -> Table:
    rows, shares = [], []
    for (grid, processes, how), one in runs.items():
        value = one.value
        shares.append(value["written"] / value["sweep_seconds"])
        rows.append(
            [
                grid,
                str(processes),
                how,
                str(value["trials"]),
                str(value["writes"]),
                seconds(value["written"]),
                seconds(value["sweep_seconds"]),
                f"{shares[-1]:.2%}",
            ]
        )
    return Table(
        title="The ledger's share of a run",
        columns=["grid", "processes", "how", "rows", "transactions", "inside Ledger.write", "whole sweep", "share"],
        rows=rows,
        says=f"At most {max(shares):.2%} of a sweep are spent in writing (asked for: at most 2%).",
    )


def _start_up(runs: dict[tuple[str, int, str], Call]) -> Table:
    rows = []
    for line in _IMPORTS:
        taken = [_python(line) for _ in range(1 if SMALL else 5)]
        rows.append([f"python -c '{line}'", seconds(statistics.median(taken))])
    for (grid, processes, how), one in runs.items():
        if grid == "first" and one.value["first_row"] is not None:
            before = one.since_start - one.seconds
            first = one.value["first_row"] + (0.0 if how == "compiled" else before)
            since = "from the call of sweep" if how == "compiled" else "from the start of Python"
            name = f"first rows on disk, {processes} process{'es' if processes > 1 else ''}, {how}, {since}"
            rows.append([name, seconds(first)])
    return Table(
        title="Start-up",
        columns=["what", "time"],
        rows=rows,
        says=f"Rows are stored at most 0.4 s after they are finished. {SAYS}",
    )


def _python(line: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", line], check=True)
    return time.perf_counter() - begin
