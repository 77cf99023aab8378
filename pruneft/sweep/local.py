"""Buckets one after another in this process, on its own devices."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pruneft.kept import kept
from pruneft.sweep.cost import lane_cost
from pruneft.sweep.device import choose_lanes, this_device
from pruneft.sweep.lanes import Layout
from pruneft.sweep.loop import OutOfMemory, Put, Take, Usage, run_lanes
from pruneft.sweep.plan import Planned, Task
from pruneft.sweep.programs import Programs
from pruneft.trial import Bucket, Cell, Experiment, Trial

_log = logging.getLogger("pruneft.sweep")


class Settings(NamedTuple):
    """What a worker has to know beside experiment and trials.

    Attributes:
      dtype: "float64" or "float32".
      lanes: side by side on each device; None for the engine's choice.
      max_steps: a trial that takes more is ended as unfinished.
      segment_steps: steps of a segment; None for segments of about 30 ms.
    """

    dtype: str = "float64"
    lanes: int | None = None
    max_steps: int = 10_000_000
    segment_steps: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What of them changes results, and therefore belongs to the identity of a stored trial."""
        usual = self.max_steps == Settings().max_steps
        return {"dtype": self.dtype} if usual else {"dtype": self.dtype, "max_steps": self.max_steps}

    def check(self) -> None:
        """Raise where they make no sense.

        Raises:
          ValueError: says what was expected, what came, and what to do.
        """
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64: got {self.dtype!r}.")
        if self.dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise ValueError(
                "dtype float64 needs JAX's 64-bit mode: call jax.config.update('jax_enable_x64', True) first, or ask for float32."
            )
        for name in ("lanes", "max_steps", "segment_steps"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}.")
            if value is not None and value >= 2**31:
                raise ValueError(f"{name} must be below 2**31: got {value}.")


class TrialError(RuntimeError):
    """A trial's own code failed; the message says in which bucket, the cause is the original error."""


def run_tasks(
    experiment: Experiment, tasks: Iterable[Task], settings: Settings, put: Put, stop: Callable[[], bool]
) -> Usage:
    """Run every trial of the tasks; ``put`` is given rows and the usage of all tasks so far.

    Raises:
      TrialError: a trial cannot be traced or fails while it runs; what was put before is not touched.
    """
    total = Usage()
    for task in tasks:
        if stop():
            break
        trials = iter(task.trials)

        def put_more(rows: list[Any], usage: Usage, before: Usage = total) -> None:
            put(rows, before + usage)

        total += run_bucket(experiment, task.bucket, len(task.trials), settings, taker(trials), put_more, stop)
        total = total._replace(running=0)
    return total


def run_bucket(
    experiment: Experiment,
    bucket: Bucket,
    trials: int,
    settings: Settings,
    take: Take,
    put: Put,
    stop: Callable[[], bool],
) -> Usage:
    """Run the trials that ``take`` gives, all of one bucket; about ``trials`` of them are to be expected.

    Lanes are halved for as long as the device has not enough memory for them.

    Raises:
      TrialError: see `run_tasks`. What ``take``, ``put`` and ``stop`` raise passes as it is.
      MemoryError: not even one lane fits.
    """
    again: list[Planned] = []
    before, last = Usage(), Usage()
    theirs: list[BaseException] = []  # raised by the caller's functions, not by the trial

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except Exception as error:
                theirs.append(error)
                raise

        return call

    guarded_take, guarded_put = guard(take), guard(put)

    def take_again(count: int) -> Sequence[Planned]:
        if again:
            taken = again[:count]
            del again[:count]
            return taken
        return guarded_take(count)

    def put_more(rows: list[Any], usage: Usage) -> None:
        nonlocal last
        last = usage
        guarded_put(rows, before + usage)

    first = take(1)
    if not first:
        return Usage()
    again.extend(first)
    wanted = settings.lanes
    while True:
        programs = None
        try:
            names = tuple(experiment.inputs(first[0][0]))
            programs = _sized(experiment, bucket, names, trials, settings._replace(lanes=wanted), first[0][0])
            return before + run_lanes(
                programs, experiment, take_again, put_more, stop=guard(stop), segment_steps=settings.segment_steps
            )
        except OutOfMemory as error:
            if error.__cause__ in theirs:
                raise error.__cause__ from None
            before += last._replace(running=0)
            lanes = programs.layout.lanes if programs is not None else 1
            if lanes == 1:
                raise MemoryError(f"one trial of {_shown(bucket)} does not fit the device: {error}") from error
            again.extend(error.unfinished)
            wanted = lanes // 2
            _log.warning("%s: out of memory with %d lanes; trying %d.", _shown(bucket), lanes, wanted)
        except Exception as error:
            if error in theirs:
                raise
            raise TrialError(
                f"trials of {experiment.name} with {_shown(bucket)} fail: {type(error).__name__}: {error}"
            ) from error


def taker(trials: Iterator[Planned]) -> Take:
    """The next trials of an iterator."""

    def take(count: int) -> list[Planned]:
        found = []
        for trial in trials:
            found.append(trial)
            if len(found) >= count:
                break
        return found

    return take


def local_devices() -> tuple[Any, ...]:
    """The devices that lanes are spread over."""
    return tuple(jax.local_devices())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sized(
    experiment: Experiment, bucket: Bucket, names: tuple[str, ...], trials: int, settings: Settings, cell: Cell
) -> Programs:
    devices = local_devices()
    each = -(-trials // len(devices))
    if settings.lanes is None:
        bytes_ = lane_cost(experiment, bucket, cell, np.dtype(settings.dtype)).bytes
        lanes = choose_lanes(bytes_, each, this_device())
    else:
        lanes = settings.lanes
    return _programs(experiment.trial, bucket, names, settings.dtype, settings.max_steps, Layout.of(lanes, devices))


@kept(maxsize=32)
def _programs(
    make: Callable[[Bucket], Trial],
    bucket: Bucket,
    names: tuple[str, ...],
    dtype: str,
    max_steps: int,
    layout: Layout,
) -> Programs:
    """The programs of a bucket, kept so that a second sweep in the same process compiles nothing again."""
    return Programs(make(bucket), names, dtype, layout, max_steps=max_steps)


def _shown(bucket: Bucket) -> str:
    parts: Mapping[str, Any] = {**dict(bucket.sizes), **dict(bucket.static)}
    return ", ".join(f"{name}={value}" for name, value in parts.items()) or "no sizes"
