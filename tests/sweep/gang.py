"""What the tests of workers share: tasks of the toy and of its troubles, runs that collect rows, and a look at processes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruneft.sweep.ledger import Ledger, Row
from pruneft.sweep.local import Settings, run_tasks
from pruneft.sweep.loop import Usage
from pruneft.sweep.plan import Planned, Task, plan
from pruneft.sweep.runs import LEDGER_NAME
from pruneft.trial import Experiment
from tests.sweep.toy import TOY, resolve
from tests.sweep.troubles import TROUBLES

TOY_PLACE = "tests.sweep.toy:TOY"
TROUBLES_PLACE = "tests.sweep.troubles:TROUBLES"
# Segments of a fixed length, few lanes: programs that compile soon, and several segments for each trial.
SETTINGS = Settings(dtype="float32", lanes=4, segment_steps=100)


def trials_of(gains: Sequence[float], seeds: int, a: Sequence[int] = (4,)) -> list[Planned]:
    """Every gain and size with so many seeds."""
    return [(resolve({"gain": gain, "a": size}), seed) for size in a for gain in gains for seed in range(seeds)]


def tasks_of(trials: Sequence[Planned], experiment: Experiment = TROUBLES) -> list[Task]:
    """A plan with a bucket for every size."""
    return list(plan(experiment, trials, dtype="float32", compile_seconds=0.0))


Reports = dict[tuple[float, int, int], dict[str, Any]]


class Kept:
    """A ``put`` that keeps what it is given; `then` is called after each row."""

    def __init__(self, then: Callable[[Kept], None] = lambda kept: None) -> None:
        self.rows: list[Row] = []
        self.usage = Usage()
        self._then = then

    def __call__(self, rows: list[Row], usage: Usage) -> None:
        self.usage = usage
        for row in rows:
            self.rows.append(row)
            self._then(self)

    def reports(self) -> Reports:
        """(gain, a, seed) -> report; raises where a trial is there twice."""
        found = {(row.cell["gain"], row.cell["a"], row.seed): dict(row.report) for row in self.rows}
        assert len(found) == len(self.rows), "a row came twice"
        return found


def alone(trials: Sequence[Planned], experiment: Experiment = TOY) -> Reports:
    """The reports of one process; of the toy, which computes what its troubles compute."""
    kept = Kept()
    run_tasks(experiment, tasks_of(trials, experiment), SETTINGS, kept, lambda: False)
    return kept.reports()


def agree(found: Reports, expected: Reports, *, part: bool = False) -> bool:
    """Whether they are the same trials, or part of them, with the same reports.

    ``value`` may differ in its last digits: processes whose compilers have other settings add in another order.
    """
    if not (found.keys() <= expected.keys() if part else found.keys() == expected.keys()):
        return False
    for trial, report in found.items():
        other = expected[trial]
        if {**report, "value": 0} != {**other, "value": 0}:
            return False
        if not np.allclose(report["value"], other["value"], rtol=1e-5, atol=1e-6, equal_nan=True):
            return False
    return True


def never() -> bool:
    """Do not stop."""
    return False


def children(of: int | None = None) -> dict[int, str]:
    """Process id -> state of the children of a process, zombies (Z) included."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == (of or os.getpid()):
                found[int(stat.parent.name)] = state
    return found


def workers_below(of: int) -> set[int]:
    """Process ids of the workers that a process has started."""
    found = set()
    for one in children(of):
        with contextlib.suppress(OSError):
            if b"pruneft.sweep.worker" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.add(one)
    return found


def is_alive(process: int) -> bool:
    """Whether there is such a process that still runs."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], Any], seconds: float, what: str) -> float:
    """Wait for something to become true; returns how long it took."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < seconds, f"{what} took more than {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - begin


def stored(directory):
    """The rows of a run, by cell and seed."""
    with Ledger.open(directory / LEDGER_NAME, read_only=True) as ledger:
        return sorted(ledger.rows(), key=lambda row: (row["a"], row["seed"]))


def approximately(rows):
    """Rows to be met exactly but for `value`, which other XLA flags round otherwise."""
    return [{**row, "value": pytest.approx(row["value"], rel=1e-5, abs=1e-6)} for row in rows]
