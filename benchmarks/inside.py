"""Single readings of the engine's inside, to be called in processes of their own by `benchmarks.bench_engine`."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.bench_sweep import GRIDS, grid_of
from benchmarks.toy import TOY
from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import cells, make_grid, plan, run_trials
from pruneft.sweep.lanes import Layout
from pruneft.sweep.local import taker
from pruneft.sweep.loop import run_lanes
from pruneft.sweep.programs import Programs, pack
from pruneft.trial import Bucket

# Steps of a timed segment; with the one before it less than the first attempt of a trial, so that no lane stops.
_STEPS = 480
_PATIENCE = 300.0
Shape = Sequence[int]  # n, d, k, lanes


class _Segments:
    """Segments of a bucket whose lanes are all at work."""

    def __init__(self, shape: Shape) -> None:
        n, d, k, self._lanes = shape
        cell = RECOVERY.resolve({"n": n, "d": d, "k": k, "r": 2, "method": "prune"})
        bucket = Bucket((("d", d), ("k", k), ("n", n)), (("method", "prune"),))
        inputs = RECOVERY.inputs(cell)
        self._programs = Programs(RECOVERY.trial(bucket), tuple(inputs), "float64", Layout.of(self._lanes))
        self._queue, self._returned = self._programs.no_queue(), self._programs.no_returned()
        for slot in range(self._lanes):
            self._queue.words[slot] = RECOVERY.key_data(cell, slot)
            self._queue.inputs[slot] = pack(inputs, self._programs.names)
            self._queue.row[slot] = slot
        self._queue.end[0] = self._lanes

    def time(self) -> float:
        """Seconds of a lane-step in one segment, its boundary included."""
        carry = self._programs.empty()
        # No step, as all lanes are idle, but the refill.
        carry, _ = jax.block_until_ready(self._programs.segment(carry, self._queue, self._returned, 1, self._lanes + 1))
        begin = time.perf_counter()
        _, outcome = jax.block_until_ready(
            self._programs.segment(carry, self._queue, self._returned, _STEPS, self._lanes + 1)
        )
        taken = time.perf_counter() - begin
        if int(outcome.used[0]) != _STEPS * self._lanes:
            raise RuntimeError(
                f"{self._lanes} lanes were to be at work for {_STEPS} steps: {outcome.used} lane-steps were."
            )
        return taken / (_STEPS * self._lanes)


def speeds(shapes: Sequence[Shape], rounds: int) -> list[float]:
    """Seconds of a lane-step at each (n, d, k, lanes): the median of the rounds, every shape once in each."""
    every = [_Segments(shape) for shape in shapes]
    for one in every:
        one.time()
    found = [[one.time() for one in every] for _ in range(rounds)]
    return [statistics.median(times) for times in zip(*found, strict=True)]


def sustained(shapes: Sequence[Shape], seconds: float, meet: str, among: int) -> list[float]:
    """Seconds of a lane-step at each shape, each run for so many seconds by ``among`` processes at the same time.

    Args:
      shapes: as in `speeds`.
      seconds: for each shape.
      meet: an empty folder in which the processes wait for one another.
      among: how many there are.
    """
    every = [_Segments(shape) for shape in shapes]
    for one in every:
        one.time()
    found = []
    for place, one in enumerate(every):
        _wait_for_others(Path(meet), place, among)
        end = time.monotonic() + seconds
        taken = []
        while time.monotonic() < end:
            taken.append(one.time())
        found.append(statistics.median(taken))
    return found


def _wait_for_others(meet: Path, place: int, among: int) -> None:
    (meet / f"{place}-{os.getpid()}").touch()
    end = time.monotonic() + _PATIENCE
    while len(list(meet.glob(f"{place}-*"))) < among:
        if time.monotonic() > end:
            raise RuntimeError(f"another process did not come within {_PATIENCE} s: see what it says above.")
        time.sleep(0.002)


def toy(ways: Sequence[tuple[int, int | None, bool]], rounds: int, trials: int) -> list[dict[str, float]]:
    """The toy's trials for each (lanes, steps of a segment, lookahead): medians over the rounds, all ways in each."""
    (cell,) = cells(TOY, make_grid(TOY, {}, trials))
    todo = [(cell, seed) for seed in range(trials)]
    (task,) = plan(TOY, todo, dtype="float64")
    programs = {
        lanes: Programs(TOY.trial(task.bucket), tuple(TOY.inputs(cell)), "float64", Layout.of(lanes))
        for lanes in dict.fromkeys(lanes for lanes, _, _ in ways)
    }

    def once(lanes: int, steps: int | None, lookahead: bool) -> tuple[float, Any]:
        begin = time.perf_counter()
        usage = run_lanes(
            programs[lanes],
            TOY,
            taker(iter(todo)),
            lambda rows, usage: None,
            segment_steps=steps,
            lookahead=lookahead,
        )
        return time.perf_counter() - begin, usage

    for lanes in programs:
        once(lanes, None, True)
    found = [[once(*way) for way in ways] for _ in range(rounds)]
    told = []
    for runs in zip(*found, strict=True):
        usage = runs[-1][1]
        taken = statistics.median(seconds for seconds, _ in runs)
        told.append(
            {"seconds": taken, "segments": usage.segments, "used": usage.used, "utilisation": usage.utilisation}
        )
    return told


def whole_trials(d: int, trials: int) -> float:
    """Seconds of a trial, rank 2 and n = 1.5 dof, by the lanes of one process, compiled before or not."""
    (cell,) = cells(RECOVERY, make_grid(RECOVERY, {"d": [d], "r": [2], "n_per_dof": [1.5], "method": ["prune"]}, 1))
    begin = time.perf_counter()
    rows = sum(len(rows) for rows in run_trials(RECOVERY, [(cell, seed) for seed in range(trials)], dtype="float64"))
    return (time.perf_counter() - begin) / rows


def plans() -> dict[str, Any]:
    """Padding and buckets of both grids as they are planned for one process."""
    found = {}
    for name in GRIDS:
        grid = grid_of(name)
        todo = [(cell, seed) for cell in cells(RECOVERY, grid) for seed in range(grid.seeds)]
        made = plan(RECOVERY, todo, dtype="float64")
        sizes = [task.bucket["n"] for task in made]
        one = plan(RECOVERY, todo, dtype="float64", sizes={"n": max(sizes)})
        found[name] = {"waste": made.waste, "sizes": sizes, "trials": made.trials, "one": one.waste}
    return found


def exponent(sizes: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """The slope of log time against log size by least squares, and its standard error."""
    x, y = np.log(np.array(sizes, float)), np.log(np.array(times, float))
    x = x - x.mean()
    slope = float(np.sum(x * y) / np.sum(x * x))
    left = y - y.mean() - slope * x
    free = len(x) - 2
    error = float(np.sqrt(np.sum(left * left) / free / np.sum(x * x))) if free > 0 else float("nan")
    return slope, error
