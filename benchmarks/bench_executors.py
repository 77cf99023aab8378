"""Workers: what it costs to start them, what a task costs beside the executor's own, and what a second core gains.

Run: ``python -m benchmarks.collect executors``. The acceptance bars: at most 5 ms per task beyond the executor's, and two
processes at least 1.5 times as fast as one on the sensing step up to n = 128.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, NamedTuple

import jax

from benchmarks.table import Table, seconds, times
from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import cells, make_grid
from pruneft.sweep.executors import run_on_executor
from pruneft.sweep.ledger import Row
from pruneft.sweep.local import Settings
from pruneft.sweep.loop import Usage
from pruneft.sweep.plan import Planned, Task, plan
from pruneft.sweep.pool import close_workers
from pruneft.sweep.processes import run_in_processes
from pruneft.sweep.worker import find_place
from pruneft.trial import Bucket

TASKS = 2000
SEEDS = 128
BAR_TASK_SECONDS, BAR_TWO = 5e-3, 1.5


class _Empty(Executor):
    """Answers every task with a ready text: what is left is the engine's own time."""

    def submit(self, function: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        trials = json.loads(args[0])["trials"]
        rows = [[cell, seed, {"status": 1}] for cell, seed in trials]
        future.set_result(json.dumps({"rows": rows, "usage": list(Usage())}))
        return future


class Start(NamedTuple):
    """Seconds until the first row, and until the end."""

    first: float
    whole: float


def _place() -> str:
    place = find_place(RECOVERY)
    if place is None:
        raise RuntimeError("the recovery experiment is not to be found under its name.")
    return place


def _trials(seeds: int, n_per_dof: float = 2.0) -> list[Planned]:
    grid = make_grid(RECOVERY, {"d": [16], "r": [2], "n_per_dof": [n_per_dof]}, seeds)
    return [(cell, seed) for cell in cells(RECOVERY, grid) for seed in range(seeds)]


def overhead(tasks: int) -> float:
    """Seconds per task of one trial that the engine takes on an executor which takes next to none."""
    trials = tuple(({"n": 1}, seed) for seed in range(tasks))
    task = Task(bucket=Bucket(sizes=(("n", 1),), static=()), trials=trials)
    begin = time.perf_counter()
    run_on_executor(
        _Empty(),
        "nowhere:nothing",
        [task],
        Settings(),
        lambda rows, usage: None,
        lambda: False,
        seconds_per_trial=lambda _: 1e3,
    )
    return (time.perf_counter() - begin) / tasks


def bare(tasks: int) -> float:
    """Seconds per empty task of a spawning pool with two workers."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(abs, range(2)))
        begin = time.perf_counter()
        for future in [pool.submit(abs, number) for number in range(tasks)]:
            future.result()
        return (time.perf_counter() - begin) / tasks


def by_processes(processes: int, trials: list[Planned]) -> Start:
    """A run of these trials by so many processes, which wait for the next one."""
    began = time.perf_counter()
    arrived: list[float] = []

    def put(rows: list[Row], usage: Usage) -> None:
        if rows:
            arrived.append(time.perf_counter() - began)

    tasks = list(plan(RECOVERY, trials, dtype="float64", processes=processes))
    run_in_processes(_place(), tasks, Settings("float64", lanes=8), processes, put, lambda: False, code="benchmark")
    return Start(arrived[0], time.perf_counter() - began)


def measure(seeds: int = SEEDS, tasks: int = TASKS) -> list[Table]:
    """The tables of this file."""
    jax.config.update("jax_enable_x64", True)
    few, many = _trials(2), _trials(seeds)
    start = by_processes(2, few)
    # The first run of each kind compiles.
    one, two = ([by_processes(count, many).whole for _ in range(3)] for count in (1, 2))
    close_workers()
    gain = min(one[1:]) / min(two[1:])
    own, pool = overhead(tasks), bare(tasks)
    return [
        Table(
            title=f"Workers: start, tasks, and {len(many)} sensing trials (d = 16, r = 2, n = {many[0][0]['n']})",
            columns=["what", "measured", "bar"],
            rows=[
                ["two processes, start to first row", seconds(start.first), ""],
                ["the engine's time per task", seconds(own), f"at most {seconds(BAR_TASK_SECONDS)}"],
                ["an empty task of a spawning pool, two workers", seconds(pool), ""],
                ["one process that has waited, the better of two runs", seconds(min(one[1:])), ""],
                ["two processes that have waited, the better of two runs", seconds(min(two[1:])), ""],
                ["one / two processes", times(gain), f"at least {BAR_TWO}"],
            ],
            says=f"The bar of a task is {'held' if own <= BAR_TASK_SECONDS else 'missed'}, "
            f"that of two processes {'held' if gain >= BAR_TWO else 'missed'}.",
        )
    ]
