"""What runs in other processes: ``work`` for any executor, and ``main`` for the processes of this machine's cores.

Work travels as JSON: an experiment by name, a bucket, cells and seeds. Nothing of the caller's main module is needed.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection
from typing import Any

from pruneft.sweep.ledger import Row
from pruneft.sweep.plan import Planned, Task
from pruneft.trial import Bucket, Experiment

_TELL_SECONDS = 0.2


def find_place(experiment: Experiment) -> str | None:
    """``module:name`` under which a worker can import an experiment; None where there is no such name."""
    module = sys.modules.get(experiment.module)
    if module is None or experiment.module == "__main__":
        return None
    for name, value in vars(module).items():
        if value is experiment:
            return f"{experiment.module}:{name}"
    return None


def spec_of(place: str, bucket: Bucket, trials: Sequence[Planned], settings: Sequence[Any]) -> str:
    """A task as JSON."""
    return json.dumps(
        {
            "place": place,
            "sizes": bucket.sizes,
            "static": bucket.static,
            "trials": [[dict(cell), seed] for cell, seed in trials],
            "settings": list(settings),
        }
    )


def work(spec: str) -> str:
    """Run a task and return its rows; the function that executors are given.

    Args:
      spec: from `spec_of`.

    Returns:
      JSON: ``rows`` [[cell, seed, report], …] and ``usage``.

    Raises:
      ValueError: the experiment cannot be imported here.
      TrialError: see `pruneft.sweep.local.run_tasks`.
    """
    from pruneft.sweep.local import Settings, run_tasks

    task = json.loads(spec)
    settings = Settings(*task["settings"])
    _set_precision(settings.dtype)
    experiment = load_place(task["place"])
    bucket = _bucket(task["sizes"], task["static"])
    rows: list[Row] = []
    trials = tuple((cell, seed) for cell, seed in task["trials"])
    usage = run_tasks(
        experiment, [Task(bucket=bucket, trials=trials)], settings, lambda found, _: rows.extend(found), lambda: False
    )
    return json.dumps({"rows": rows, "usage": usage})


@functools.cache
def load_place(place: str) -> Experiment:
    """The experiment at ``module:name``.

    Raises:
      ValueError: it cannot be imported.
    """
    import importlib

    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"a worker cannot import {place!r}: {error}. Put the experiment into a module that is installed, or on the "
            "workers' path."
        ) from error
    if not isinstance(found, Experiment):
        raise ValueError(f"{place} is a {type(found).__name__}: expected a pruneft.Experiment.")
    return found


def serve(connection: Connection) -> None:
    """Ask for buckets and trials, and send rows, until there is nothing left to do or the caller has gone."""
    from pruneft.sweep.local import Settings, run_bucket

    teller = _Teller(connection)
    ask = teller.ask

    try:
        place, values = ask("hello", os.getpid())
        settings = Settings(*values)
        _set_precision(settings.dtype)
        experiment = load_place(place)
        while (task := ask("bucket")) is not None:
            sizes, static, trials = task
            teller.stop = False
            bucket = _bucket(sizes, static)
            run_bucket(experiment, bucket, trials, settings, teller.take, teller.put, lambda: teller.stop)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the caller has gone; what it has acknowledged is on its disk
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        connection.send(("failed", error, traceback.format_exc()))
        connection.recv()


class _Teller:
    """A worker's side of the conversation."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told = 0.0
        self.stop = False

    def ask(self, *message: Any) -> Any:
        self._connection.send(message)
        return self._connection.recv()

    def take(self, count: int) -> Sequence[Planned]:
        found: Sequence[Planned] = self.ask("take", count)
        return found

    def put(self, rows: list[Row], usage: Any) -> None:
        # Rows at once; without any, often enough for progress and for a stop.
        if rows or time.monotonic() - self._told > _TELL_SECONDS:
            self.stop = self.ask("rows", [tuple(row) for row in rows], tuple(usage))
            self._told = time.monotonic()


def _bucket(sizes: Sequence[Sequence[Any]], static: Sequence[Sequence[str]]) -> Bucket:
    return Bucket(
        sizes=tuple((name, int(size)) for name, size in sizes), static=tuple((name, value) for name, value in static)
    )


def _set_precision(dtype: str) -> None:
    import jax

    if dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        jax.config.update("jax_enable_x64", True)


def main() -> int:
    """A worker process; its place and the caller's address come through the environment."""
    address = os.environ["PRUNEFT_WORKER_ADDRESS"]
    with Client(address, authkey=bytes.fromhex(os.environ.pop("PRUNEFT_WORKER_KEY"))) as connection:
        serve(connection)
    return 0
