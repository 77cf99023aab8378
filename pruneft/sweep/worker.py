"""What runs in other processes: ``work`` for any executor, and ``main`` for the processes of this machine's cores.

Work travels as JSON: an experiment by name, a bucket, cells and seeds. Nothing of the caller's main module is needed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection
from typing import Any

from pruneft.sweep.ledger import Row
from pruneft.sweep.plan import Planned, Task
from pruneft.trial import Bucket, Experiment

# What a worker process learns from its environment.
ADDRESS, KEY, NUMBER = "PRUNEFT_WORKER_ADDRESS", "PRUNEFT_WORKER_KEY", "PRUNEFT_WORKER_NUMBER"

_TELL_SECONDS = 0.2
_PARENT_SECONDS = 0.5
_IDLE_SECONDS = 300.0


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
    """A task as JSON; JAX's 64-bit mode goes with it, because it decides the dtype of what a trial leaves open."""
    import jax

    return json.dumps(
        {
            "place": place,
            "sizes": bucket.sizes,
            "static": bucket.static,
            "trials": [[dict(cell), seed] for cell, seed in trials],
            "settings": list(settings),
            "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        }
    )


def work(spec: str, attempt: int = 0) -> str:
    """Run a task and return its rows; the function that executors are given.

    Args:
      spec: from `spec_of`.
      attempt: makes this call another one than those before, for executors that know calls by their arguments.

    Returns:
      JSON: ``rows`` [[cell, seed, report], …] and ``usage``.

    Raises:
      ValueError: the experiment cannot be imported here.
      TrialError: see `pruneft.sweep.local.run_tasks`.
    """
    import jax

    from pruneft.sweep.local import Settings, run_tasks

    task = json.loads(spec)
    settings = Settings(*task["settings"])
    if jax.config.jax_enable_x64 != task["x64"]:  # type: ignore[attr-defined]
        jax.config.update("jax_enable_x64", task["x64"])
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


def ping() -> str:
    """Whether a worker is able to work at all: it has imported JAX and found a device."""
    import jax

    return str(jax.devices()[0].platform)


def serve(connection: Connection, number: int) -> None:
    """Do one job after another, until one fails, none has come for five minutes, or the caller has gone."""
    with contextlib.suppress(EOFError, OSError):
        connection.send(("hello", number))
        while connection.poll(_IDLE_SECONDS):
            place, values = connection.recv()
            if not _do(connection, place, values):
                return


def _do(connection: Connection, place: str, values: Sequence[Any]) -> bool:
    """Ask for buckets and trials, and send rows, until there is nothing left to do; whether all went well."""
    from pruneft.sweep.local import Settings, run_bucket

    teller = _Teller(connection)
    ask = teller.ask
    try:
        settings = Settings(*values)
        experiment = load_place(place)
        while (task := ask("bucket")) is not None:
            sizes, static, trials = task
            teller.stop = False
            bucket = _bucket(sizes, static)
            usage = run_bucket(experiment, bucket, trials, settings, teller.take, teller.put, lambda: teller.stop)
            teller.before += usage._replace(running=0)
    except Exception as error:
        if teller.alone:
            return False  # what the caller has acknowledged is on its disk
        # As text: the caller may not be able to import the class of the error.
        kinds = [
            kind.__name__
            for kind in type(error).__mro__
            if kind.__name__ in ("TrialError", "MemoryError", "ValueError")
        ]
        name = kinds[0] if kinds else type(error).__name__
        with contextlib.suppress(EOFError, OSError):
            ask("failed", name, str(error), traceback.format_exc())
        return False
    return True


class _Teller:
    """A worker's side of the conversation."""

    def __init__(self, connection: Connection) -> None:
        from pruneft.sweep.loop import Usage

        self._connection = connection
        self._told = 0.0
        self.stop = False
        self.alone = False  # the caller has gone
        self.before = Usage()  # of the buckets before this one

    def ask(self, *message: Any) -> Any:
        try:
            self._connection.send(message)
            return self._connection.recv()
        except (EOFError, OSError):
            self.alone = True
            raise

    def take(self, count: int) -> Sequence[Planned]:
        found: Sequence[Planned] = self.ask("take", count)
        return found

    def put(self, rows: list[Row], usage: Any) -> None:
        # Rows at once; without any, often enough for progress and for a stop.
        if rows or time.monotonic() - self._told > _TELL_SECONDS:
            self.stop = self.ask("rows", [tuple(row) for row in rows], tuple(self.before + usage))
            self._told = time.monotonic()


def _bucket(sizes: Sequence[Sequence[Any]], static: Sequence[Sequence[str]]) -> Bucket:
    return Bucket(
        sizes=tuple((name, int(size)) for name, size in sizes), static=tuple((name, value) for name, value in static)
    )


def main() -> int:
    """A worker process; its number and the caller's address come through the environment."""
    threading.Thread(target=_end_with, args=(os.getppid(),), name="pruneft-parent", daemon=True).start()
    address, number = os.environ[ADDRESS], int(os.environ[NUMBER])
    try:
        connection = Client(address, authkey=bytes.fromhex(os.environ.pop(KEY)))
    except (EOFError, OSError):
        return 1  # the caller has gone
    with connection:
        serve(connection, number)
    return 0


def _end_with(parent: int) -> None:
    """End this process when the caller has gone, even in the middle of a compilation or of a long stage."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)
