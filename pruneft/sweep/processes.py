"""One process per core on this machine: workers pull trials and stream rows back as lanes finish.

A worker that dies gives its trials back to the board and is started again; a trial that was under way at two deaths is run
alone, and if it kills its worker alone as well, twice, it is reported as lost instead of being tried for ever.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, NamedTuple

from pruneft.sweep.board import Board
from pruneft.sweep.ledger import Row
from pruneft.sweep.local import Settings, TrialError
from pruneft.sweep.loop import Put, Usage
from pruneft.sweep.plan import Task

# Workers that die one after another, nothing finished in between, point to the set-up and not to a trial.
_IDLE_DEATHS = 3
_LOST_AT_ONCE = 3
_POLL_SECONDS = 0.1
_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_END_SECONDS = 20.0
_LAST_WORDS_SECONDS = 2.0
_KINDS: dict[str, type[Exception]] = {"TrialError": TrialError, "MemoryError": MemoryError, "ValueError": ValueError}


class WorkersFailed(RuntimeError):
    """Worker processes cannot be started, or die before they finish anything."""


class _Event(NamedTuple):
    """From a worker's thread to the caller's; an error ends the run."""

    worker: int
    rows: list[Row]
    usage: Usage = Usage()
    error: Exception | None = None


def run_in_processes(
    place: str,
    tasks: list[Task],
    settings: Settings,
    processes: int,
    put: Put,
    stop: Callable[[], bool],
) -> Usage:
    """Run the tasks' trials in so many processes.

    Args:
      place: ``module:name`` of the experiment.
      tasks: what is to be run.
      settings: for the workers.
      processes: at most so many, each on one core.
      put: called in this thread with finished rows and the usage of all workers.
      stop: true ends the run after the segments under way, or after five seconds.

    Returns:
      The usage of all workers.

    Raises:
      WorkersFailed: they cannot start.
      TrialError: a trial's code fails.
      Exception: whatever a worker met; rows put before are not touched.
    """
    board = Board(tasks)
    with _Workers(place, tasks, settings, board) as workers:
        return workers.run(min(processes, sum(len(task.trials) for task in tasks)), put, stop)


class _Workers:
    """The processes, a thread for the connection of each, and the events they send."""

    def __init__(self, place: str, tasks: list[Task], settings: Settings, board: Board) -> None:
        self._place, self._tasks, self._settings, self._board = place, tasks, settings, board
        self._events: queue.Queue[_Event] = queue.Queue()
        self._key = secrets.token_bytes(16)
        self._stopping = threading.Event()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # by number
        self._begun: dict[int, float] = {}
        self._threads: dict[int, threading.Thread] = {}  # of those that have said hello
        self._dismissed: set[int] = set()
        self._usage: dict[int, Usage] = {}
        self._idle_deaths = 0
        self._finished = False  # anything, by anybody
        self._lost: list[Row] = []

    def __enter__(self) -> _Workers:
        # The backlog holds all workers, which connect at about the same time.
        self._listener = Listener(None, backlog=64, authkey=self._key)
        self._accepting = threading.Thread(target=self._accept, name="pruneft-accept", daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *error: object) -> None:
        hurry = self._stopping.is_set() or error[0] is not None
        self._stopping.set()
        deadline = time.monotonic() + (0.5 if hurry else _END_SECONDS)
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # Closing does not wake a thread that waits in accept; a visitor does.
        with contextlib.suppress(Exception):
            Client(self._listener.address).close()
        self._accepting.join(_LAST_WORDS_SECONDS)
        with contextlib.suppress(OSError):
            self._listener.close()

    def run(self, processes: int, put: Put, stop: Callable[[], bool]) -> Usage:
        alive = {self._start() for _ in range(processes)}
        ending = 0.0
        while alive:
            self._hear(put, _POLL_SECONDS)
            for number in sorted(alive):
                if self._processes[number].poll() is None:
                    self._check_start(number)
                    continue
                # What it said before it ended comes first; its thread ends with the connection.
                if number in self._threads:
                    self._threads[number].join(_LAST_WORDS_SECONDS)
                self._hear(put, 0.0)
                alive.discard(number)
                if not self._stopping.is_set():
                    alive |= self._replace(number, others=bool(alive))
            if stop() and not self._stopping.is_set():
                self._stopping.set()
                ending = time.monotonic() + _STOP_SECONDS
            if ending and time.monotonic() > ending:
                break
        self._hear(put, 0.0)
        put(self._lost, self._total())
        return self._total()

    def _hear(self, put: Put, seconds: float) -> None:
        """Pass on what the workers have sent; wait so long for the first of it."""
        try:
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
            while True:
                if event.error is not None:
                    raise event.error
                self._usage[event.worker] = event.usage
                rows = event.rows
                if rows:
                    self._idle_deaths, self._finished = 0, True
                    rows, self._lost = [*rows, *self._lost], []
                put(rows, self._total())
                event = self._events.get_nowait()
        except queue.Empty:
            put([], self._total())  # what was put before must not wait for the next event

    def _replace(self, number: int, *, others: bool) -> set[int]:
        """A worker has ended: give its trials back, and start another one if there is work for it."""
        code = self._processes[number].returncode
        died = number not in self._dismissed
        lost, busy = self._board.give_back(number, died=died)
        self._lost += lost
        if not self._finished and len(self._lost) >= _LOST_AT_ONCE:
            raise WorkersFailed(
                f"{len(self._lost)} different trials killed their worker (exit code {code}), each alone, and none was "
                "finished. The cause is probably not in the trials. Try with one process (processes=1), which shows the error."
            )
        if died:
            self._idle_deaths = 0 if busy else self._idle_deaths + 1
        if self._idle_deaths >= _IDLE_DEATHS:
            if others:
                return set()  # they may be able to do it all
            raise WorkersFailed(
                f"worker processes end with exit code {code} before they have done anything. Try with one process "
                "(processes=1), which shows the error."
            )
        return {self._start()} if self._board.left else set()

    def _check_start(self, number: int) -> None:
        """One that never says hello would be waited for for ever."""
        if number not in self._threads and time.monotonic() - self._begun[number] > _START_SECONDS:
            self._processes[number].kill()

    def _total(self) -> Usage:
        total = Usage()
        for number, usage in self._usage.items():
            ended = self._processes[number].poll() is not None
            total += usage._replace(running=0) if ended else usage
        return total

    def _start(self) -> int:
        number = len(self._processes)
        try:
            self._processes[number] = subprocess.Popen(
                # -P: the caller's path and no more; a file in the current directory must not hide a module.
                [sys.executable, "-P", "-c", "from pruneft.sweep.worker import main; raise SystemExit(main())"],
                env=_environment(str(self._listener.address), self._key, number),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller, who tells the workers
            )
        except OSError as error:
            raise WorkersFailed(f"a worker process cannot be started: {error}") from error
        self._begun[number] = time.monotonic()
        return number

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection = self._listener.accept()
            except Exception:
                # Somebody without the key, or a worker that died while it connected; the others still want to.
                time.sleep(0.01)
                continue
            threading.Thread(target=self._converse, args=(connection,), name="pruneft-worker", daemon=True).start()

    def _converse(self, connection: Connection) -> None:
        """Answer one worker until it goes."""
        with contextlib.suppress(EOFError, OSError), connection:
            kind, number = connection.recv()
            if kind != "hello" or number in self._threads:
                return
            self._threads[number] = threading.current_thread()
            connection.send((self._place, tuple(self._settings)))
            while True:
                kind, *values = connection.recv()
                connection.send(self._answer(number, kind, values))

    def _answer(self, number: int, kind: str, values: list[Any]) -> Any:
        if kind == "bucket":
            found = None if self._stopping.is_set() else self._board.bucket(number)
            if found is None:
                self._dismissed.add(number)
                return None
            bucket = self._tasks[found[0]].bucket
            return bucket.sizes, bucket.static, found[1]
        if kind == "take":
            return [] if self._stopping.is_set() else self._board.take(number, values[0])
        if kind == "rows":
            rows = self._board.done(number, (Row(*row) for row in values[0]))
            self._events.put(_Event(number, rows, Usage(*values[1])))
            return self._stopping.is_set()
        name, text, trace = values
        error = _KINDS[name](text) if name in _KINDS else RuntimeError(f"a worker failed: {name}: {text}\n{trace}")
        self._events.put(_Event(number, [], error=error))
        return None


def _environment(address: str, key: bytes, number: int) -> dict[str, str]:
    """The caller's path and settings of JAX, which change numbers; and one core each.

    Threads of several processes on the same cores slow one another down many times.
    """
    import jax

    settings = {
        **os.environ,
        "PRUNEFT_WORKER_ADDRESS": address,
        "PRUNEFT_WORKER_KEY": key.hex(),
        "PRUNEFT_WORKER_NUMBER": str(number),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "multi_thread_eigen" not in flag]
    settings["XLA_FLAGS"] = " ".join([*flags, "--xla_cpu_multi_thread_eigen=false"])
    cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if cache:
        settings["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        settings["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    for name in (
        "jax_enable_x64",
        "jax_platforms",
        "jax_numpy_dtype_promotion",
        "jax_default_matmul_precision",
        "jax_threefry_partitionable",
        "jax_disable_most_optimizations",
    ):
        value = getattr(jax.config, name, None)
        if value is not None:
            settings[name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
    return settings
