"""Side by side timing: every case of a comparison once per round, so that noise of the machine meets all alike."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

# Ratios nearer to 1 than this are called level: repeated runs differ by as much.
LEVEL = 0.15


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
      run: one call; it must not return before the work is done.
      units: how many units of work (gradient steps, for example) a call does; times are per unit.
    """

    run: Callable[[], Any]
    units: int = 1


Times = dict[str, list[float]]


def interleave(cases: Mapping[str, Case], *, rounds: int = 15, sample_seconds: float = 0.03) -> Times:
    """Seconds per unit of every case in every round; compilation is outside.

    Args:
      cases: name -> case.
      rounds: how often all of them are timed, in turn; each round begins with another case.
      sample_seconds: a sample repeats a short call until it lasts about this long.
    """
    counts = {}
    for name, case in cases.items():
        case.run()
        once = min(_seconds(case.run, 1) for _ in range(3))
        counts[name] = max(1, math.ceil(sample_seconds / max(once, 1e-9)))
    times: Times = {name: [] for name in cases}
    names = list(cases)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds(cases[name].run, counts[name]) / cases[name].units)
    return times


def _seconds(run: Callable[[], Any], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - begin) / count


def ratio(times: Times, name: str, to: str) -> float:
    """Median over the rounds of one case's time divided by another's of the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def median(times: Times, name: str) -> float:
    """Median seconds per unit."""
    return statistics.median(times[name])


class CompileClock:
    """Seconds that XLA's compiler took while the clock was open; tracing and lowering are not in it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.programs = 0

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *error: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            self.seconds += seconds
            self.programs += 1


def machine() -> str:
    """The machine and the versions, one line."""
    packages = ("jax", "jaxlib", "numpy", "scipy", "optax", "cvxpy", "clarabel")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return (
        f"{_processor()}, {os.cpu_count()} cores, {_memory()}; {platform.system()}; "
        f"device {jax.devices()[0].platform}; Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family = ", ".join(f"{name} {found[name]}" for name in ("cpu family", "model") if name in found)
    return f"{found.get('model name', platform.machine())} ({family})" if family else platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "memory unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
