"""One process per core on this machine: workers pull trials and stream rows back as lanes finish.

The board knows which trials nobody has begun, which worker has which, and which are done. A worker that dies gives its
trials back and is started again; a trial that was under way at two deaths is run alone, and if it kills its worker alone as
well, twice, it is reported as lost instead of being tried for ever.
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
from collections import Counter, deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, Listener
from typing import Any, NamedTuple

from pruneft.status import Status
from pruneft.sweep.ledger import Row
from pruneft.sweep.local import Settings, TrialError
from pruneft.sweep.loop import Put, Usage
from pruneft.sweep.plan import Planned, Task
from pruneft.trial import canonical_json

_DEATHS_TO_SUSPECT = 2
_DEATHS_ALONE = 2
# Workers that die before they have done anything at all point to the set-up, not to a trial.
_IDLE_DEATHS = 3
_POLL_SECONDS = 0.1
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0


class WorkersFailed(RuntimeError):
    """Worker processes cannot be started, or die before they do anything."""


class _Event(NamedTuple):
    """From a worker's thread to the caller's."""

    kind: str  # rows, gone, failed
    worker: int
    rows: tuple[Row, ...] | list[Row] = ()
    usage: Usage = Usage()
    error: BaseException | None = None


class Board:
    """Who does what. Every method is safe to call from any thread."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Every trial of the tasks is to be done."""
        self._lock = threading.Lock()
        self._open = [(task.bucket, deque(task.trials)) for task in tasks]
        self._held: dict[int, dict[str, tuple[int, Planned]]] = {}
        self._where: dict[int, int] = {}  # worker -> place of its bucket in _open
        self._deaths: Counter[str] = Counter()
        self._suspects: deque[tuple[int, Planned]] = deque()
        self._alone: dict[int, bool] = {}

    def bucket(self, worker: int) -> tuple[int, int] | None:
        """(place in the tasks, trials to expect) of the bucket this worker should join; None if nothing is left."""
        with self._lock:
            self._alone[worker] = False
            busy = Counter(place for who, place in self._where.items() if who != worker)
            open_ = [(len(trials) / (1 + busy[place]), place) for place, (_, trials) in enumerate(self._open) if trials]
            if open_:
                share, place = max(open_, key=lambda item: (item[0], -item[1]))
                self._where[worker] = place
                return place, max(1, int(share))
            if self._suspects:
                place, _ = self._suspects[0]
                self._where[worker], self._alone[worker] = place, True
                return place, 1
            self._where.pop(worker, None)
            return None

    def take(self, worker: int, count: int) -> list[Planned]:
        """The next trials of the worker's bucket; none if it has no more."""
        with self._lock:
            place = self._where[worker]
            held = self._held.setdefault(worker, {})
            if self._alone[worker]:
                if held or not self._suspects or self._suspects[0][0] != place:
                    return []
                taken = [self._suspects.popleft()[1]]
            else:
                trials = self._open[place][1]
                others = sum(1 for other in self._where.values() if other == place)
                # Towards the end a worker takes no more than its share, or one would sit on what another could do.
                fair = max(1, len(trials) // (2 * others)) if others > 1 else count
                taken = [trials.popleft() for _ in range(min(count, fair, len(trials)))]
            for trial in taken:
                held[_name(trial)] = (place, trial)
            return taken

    def done(self, worker: int, rows: Iterable[Row]) -> list[Row]:
        """The rows that this worker had been given; others are not ours, and a row that comes twice counts once."""
        with self._lock:
            held = self._held.setdefault(worker, {})
            return [row for row in rows if held.pop(_name((row.cell, row.seed)), None) is not None]

    def give_back(self, worker: int, *, died: bool) -> tuple[list[Row], bool]:
        """Take back what a worker had: (rows of trials that are given up, whether it had anything)."""
        with self._lock:
            held = self._held.pop(worker, {})
            alone = self._alone.pop(worker, False)
            self._where.pop(worker, None)
            lost = []
            for name, (place, trial) in held.items():
                self._deaths[name] += died
                deaths = self._deaths[name]
                if alone and deaths >= _DEATHS_TO_SUSPECT + _DEATHS_ALONE:
                    lost.append(Row(*trial, {"status": int(Status.WORKER_LOST)}))
                elif deaths >= _DEATHS_TO_SUSPECT:
                    self._suspects.append((place, trial))
                else:
                    self._open[place][1].appendleft(trial)
            return lost, bool(held)

    @property
    def left(self) -> bool:
        """Whether there is anything that nobody has begun."""
        with self._lock:
            return bool(self._suspects) or any(trials for _, trials in self._open)


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
      stop: true ends the run after the segments under way.

    Returns:
      The usage of all workers.

    Raises:
      WorkersFailed: they cannot start.
      TrialError: a trial's code fails.
      Exception: whatever a worker met; rows put before are not touched.
    """
    board = Board(tasks)
    with _Workers(place, tasks, settings, board) as workers:
        return workers.run(processes, put, stop)


class _Workers:
    """The processes, a thread for the connection of each, and the events they send."""

    def __init__(self, place: str, tasks: list[Task], settings: Settings, board: Board) -> None:
        self._place, self._tasks, self._settings, self._board = place, tasks, settings, board
        self._events: queue.Queue[_Event] = queue.Queue()
        self._key = secrets.token_bytes(16)
        self._stopping = threading.Event()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # by number
        self._numbers: dict[int, int] = {}  # process id -> number
        self._usage: dict[int, Usage] = {}
        self._started = 0
        self._idle_deaths = 0
        self._lock = threading.Lock()

    def __enter__(self) -> _Workers:
        # The backlog holds all workers, which connect at about the same time.
        self._listener = Listener(None, backlog=64, authkey=self._key)
        threading.Thread(target=self._accept, name="pruneft-accept", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.close()
        deadline = time.monotonic() + (_STOP_SECONDS if error[0] is None else 0.5)
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, processes: int, put: Put, stop: Callable[[], bool]) -> Usage:
        for _ in range(processes):
            self._start()
        alive = set(self._processes)
        ending = 0.0
        while alive:
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=_POLL_SECONDS)
                if event.kind == "failed":
                    assert event.error is not None
                    raise event.error
                self._usage[event.worker] = (
                    self._usage.get(event.worker, Usage()) if event.kind == "gone" else event.usage
                )
                put(list(event.rows), self._total())
            for number in sorted(alive):
                process = self._processes[number]
                if process.poll() is None:
                    continue
                if not self._events.empty():
                    break  # what it sent before it ended comes first
                alive.discard(number)
                if not self._stopping.is_set():
                    alive |= self._replace(number, process.returncode, put)
            if stop() and not self._stopping.is_set():
                self._stopping.set()
                ending = time.monotonic() + _STOP_SECONDS
            if ending and time.monotonic() > ending:
                break
        return self._total()

    def _replace(self, number: int, code: int, put: Put) -> set[int]:
        """A worker has ended: give its trials back, and start another one if there is work for it."""
        lost, busy = self._board.give_back(number, died=code != 0)
        put(lost, self._total())
        if code != 0:
            self._idle_deaths = 0 if busy else self._idle_deaths + 1
            if self._idle_deaths >= _IDLE_DEATHS:
                raise WorkersFailed(
                    f"worker processes end with exit code {code} before they have done anything. Try with one process "
                    "(processes=1), which shows the error."
                )
        return {self._start()} if self._board.left else set()

    def _total(self) -> Usage:
        total = Usage()
        for number, usage in self._usage.items():
            ended = number in self._processes and self._processes[number].poll() is not None
            total += usage._replace(running=0) if ended else usage
        return total

    def _start(self) -> int:
        number, self._started = self._started, self._started + 1
        with self._lock:
            process = subprocess.Popen(
                [sys.executable, "-c", "from pruneft.sweep.worker import main; raise SystemExit(main())"],
                env=_environment(str(self._listener.address), self._key, self._settings.dtype),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller, who tells the workers
            )
            self._processes[number], self._numbers[process.pid] = process, number
        return number

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection = self._listener.accept()
            except OSError:
                return
            except Exception:
                continue  # somebody without the key
            threading.Thread(target=self._converse, args=(connection,), name="pruneft-worker", daemon=True).start()

    def _converse(self, connection: Connection) -> None:
        """Answer one worker until it goes."""
        number: int | None = None
        with contextlib.suppress(EOFError, OSError), connection:
            while True:
                kind, *values = connection.recv()
                if kind == "hello":
                    with self._lock:
                        number = self._numbers[values[0]]
                    answer: Any = (self._place, tuple(self._settings))
                elif number is None:
                    return
                else:
                    answer = self._answer(number, kind, values)
                connection.send(answer)

    def _answer(self, number: int, kind: str, values: list[Any]) -> Any:
        if kind == "bucket":
            found = None if self._stopping.is_set() else self._board.bucket(number)
            if found is None:
                return None
            bucket = self._tasks[found[0]].bucket
            return bucket.sizes, bucket.static, found[1]
        if kind == "take":
            return [] if self._stopping.is_set() else self._board.take(number, values[0])
        if kind == "rows":
            rows = self._board.done(number, (Row(*row) for row in values[0]))
            self._events.put(_Event("rows", number, rows, Usage(*values[1])))
            return self._stopping.is_set()
        error, text = values
        if not isinstance(error, TrialError | MemoryError | ValueError):
            error = RuntimeError(f"a worker failed: {type(error).__name__}: {error}\n{text}")
        self._events.put(_Event("failed", number, error=error))
        return None


def _environment(address: str, key: bytes, dtype: str) -> dict[str, str]:
    """One core each: threads of several processes on the same cores slow one another down many times."""
    import jax

    settings = {
        **os.environ,
        "PRUNEFT_WORKER_ADDRESS": address,
        "PRUNEFT_WORKER_KEY": key.hex(),
        "PYTHONPATH": os.pathsep.join(path for path in ["", *sys.path] if path),
        "JAX_ENABLE_X64": "1" if dtype == "float64" else "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "multi_thread_eigen" not in flag]
    settings["XLA_FLAGS"] = " ".join([*flags, "--xla_cpu_multi_thread_eigen=false"])
    cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if cache:
        settings["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        settings["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    for name in ("jax_numpy_dtype_promotion", "jax_disable_most_optimizations"):
        value = getattr(jax.config, name, None)
        if value is not None:
            settings[name.upper()] = str(value).lower() if not isinstance(value, bool) else str(int(value))
    return settings


def _name(trial: Planned) -> str:
    return f"{canonical_json(trial[0])} {trial[1]}"
