"""One process per core on this machine: workers pull trials and stream rows back as lanes finish.

A worker that dies gives its trials back to the board and is started again; a trial that was under way at two deaths is run
alone, and if it kills its worker alone as well, twice, it is reported as lost instead of being tried for ever.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from pruneft.sweep.board import Board
from pruneft.sweep.ledger import Row
from pruneft.sweep.local import Settings, TrialError
from pruneft.sweep.loop import Put, Usage
from pruneft.sweep.plan import Task
from pruneft.sweep.pool import Pool, Worker, WorkersFailed, leave_pool, take_pool

# Workers that die one after another, nothing finished in between, point to the set-up and not to a trial.
_IDLE_DEATHS = 3
_LOST_AT_ONCE = 3
_POLL_SECONDS = 0.1
_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_END_SECONDS = 20.0
_LAST_WORDS_SECONDS = 2.0
_KINDS: dict[str, type[Exception]] = {"TrialError": TrialError, "MemoryError": MemoryError, "ValueError": ValueError}


class _Event(NamedTuple):
    """From the thread of a seat to the caller's; an error ends the run."""

    seat: int
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
    code: str | None = None,
) -> Usage:
    """Run the tasks' trials in so many processes.

    Args:
      place: ``module:name`` of the experiment.
      tasks: what is to be run.
      settings: for the workers.
      processes: at most so many, each on one core.
      put: called in this thread with finished rows and the usage of all workers.
      stop: true ends the run after the segments under way, or after five seconds.
      code: the hash of the experiment's source. With it, workers are kept for the next call with the same place and code;
        see `pruneft.sweep.close_workers`.

    Returns:
      The usage of all workers.

    Raises:
      WorkersFailed: they cannot start.
      TrialError: a trial's code fails.
      Exception: whatever a worker met; rows put before are not touched.
    """
    same = None if code is None else f"{place} {code}"
    board = Board(tasks)
    pool = take_pool(same)
    try:
        with _Seats(pool, place, tasks, settings, board) as seats:
            return seats.run(min(processes, sum(len(task.trials) for task in tasks)), put, stop)
    finally:
        leave_pool(pool, same)


class _Seats:
    """The workers of one run, a thread for each, and the events they send.

    A seat is a worker's number in this run, and not used again: a worker that is kept can sit down a second time.
    """

    def __init__(self, pool: Pool, place: str, tasks: list[Task], settings: Settings, board: Board) -> None:
        self._pool, self._place, self._tasks, self._settings, self._board = pool, place, tasks, settings, board
        self._events: queue.Queue[_Event] = queue.Queue()
        self._stopping = threading.Event()
        self._workers: list[Worker] = []  # by seat
        self._threads: list[threading.Thread] = []
        self._taken: set[int] = set()  # seats whose worker is still ours
        self._dismissed: set[int] = set()
        self._usage: dict[int, Usage] = {}
        self._idle_deaths = 0
        self._finished = False  # anything, by anybody
        self._lost: list[Row] = []

    def __enter__(self) -> _Seats:
        return self

    def __exit__(self, *error: object) -> None:
        hurry = self._stopping.is_set() or error[0] is not None
        self._stopping.set()
        deadline = time.monotonic() + (0.5 if hurry else _END_SECONDS)
        for seat in sorted(self._taken):
            self._threads[seat].join(max(0.0, deadline - time.monotonic()))
            self._leave(seat, max(0.0, deadline - time.monotonic()))
            self._threads[seat].join(_LAST_WORDS_SECONDS)

    def run(self, processes: int, put: Put, stop: Callable[[], bool]) -> Usage:
        for _ in range(processes):
            self._seat()
        ending = 0.0
        while self._taken:
            self._hear(put, _POLL_SECONDS)
            for seat in sorted(self._taken):
                worker, thread = self._workers[seat], self._threads[seat]
                if worker.alive and thread.is_alive():
                    self._check_start(worker)
                    continue
                # What it said before it ended comes first; its thread ends with the connection.
                thread.join(_LAST_WORDS_SECONDS)
                self._hear(put, 0.0)
                self._leave(seat, _LAST_WORDS_SECONDS)
                if not self._stopping.is_set():
                    self._replace(seat)
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
                self._usage[event.seat] = event.usage
                rows = event.rows
                if rows:
                    self._idle_deaths, self._finished = 0, True
                    rows, self._lost = [*rows, *self._lost], []
                put(rows, self._total())
                event = self._events.get_nowait()
        except queue.Empty:
            put([], self._total())  # what was put before must not wait for the next event

    def _replace(self, seat: int) -> None:
        """A worker has gone: give its trials back, and take another one if there is work for it."""
        code = self._workers[seat].process.returncode
        died = seat not in self._dismissed
        lost, busy = self._board.give_back(seat, died=died)
        self._lost += lost
        if not self._finished and len(self._lost) >= _LOST_AT_ONCE:
            raise WorkersFailed(
                f"{len(self._lost)} different trials killed their worker (exit code {code}), each alone, and none was "
                "finished. The cause is probably not in the trials. Try with one process (processes=1), which shows the error."
            )
        if died:
            self._idle_deaths = 0 if busy else self._idle_deaths + 1
        if self._idle_deaths >= _IDLE_DEATHS:
            if self._taken:
                return  # the others may be able to do it all
            raise WorkersFailed(
                f"worker processes end with exit code {code} before they have done anything. Try with one process "
                "(processes=1), which shows the error."
            )
        if self._board.left:
            self._seat()

    def _check_start(self, worker: Worker) -> None:
        """One that never says hello would be waited for for ever."""
        if not worker.greeted.is_set() and time.monotonic() - worker.begun > _START_SECONDS:
            worker.process.kill()

    def _total(self) -> Usage:
        total = Usage()
        for seat, usage in self._usage.items():
            total += usage if seat in self._taken else usage._replace(running=0)
        return total

    def _seat(self) -> None:
        """Take a worker, and talk to it in a thread of its own."""
        seat = len(self._workers)
        self._workers.append(self._pool.get())
        thread = threading.Thread(target=self._converse, args=(seat,), name=f"pruneft-seat-{seat}", daemon=True)
        self._threads.append(thread)
        self._taken.add(seat)
        thread.start()

    def _leave(self, seat: int, seconds: float) -> None:
        """The worker goes back to the pool if it waits for its next job, and ends otherwise."""
        self._taken.discard(seat)
        worker = self._workers[seat]
        if seat in self._dismissed and not self._threads[seat].is_alive() and worker.alive:
            self._pool.put_back(worker)
        else:
            worker.end(seconds)

    def _converse(self, seat: int) -> None:
        """Give one worker the job and answer it until it is done, or goes."""
        worker = self._workers[seat]
        while not worker.greeted.wait(_POLL_SECONDS):
            if self._stopping.is_set() or not worker.alive:
                return
        connection = worker.connection
        assert connection is not None
        with contextlib.suppress(EOFError, OSError):
            self._serve(seat, connection)

    def _serve(self, seat: int, connection: Connection) -> None:
        connection.send((self._place, tuple(self._settings)))
        while True:
            kind, *values = connection.recv()
            connection.send(self._answer(seat, kind, values))
            if seat in self._dismissed or kind == "failed":
                return

    def _answer(self, seat: int, kind: str, values: list[Any]) -> Any:
        if kind == "bucket":
            found = None if self._stopping.is_set() else self._board.bucket(seat)
            if found is None:
                self._dismissed.add(seat)
                return None
            bucket = self._tasks[found[0]].bucket
            return bucket.sizes, bucket.static, found[1]
        if kind == "take":
            return [] if self._stopping.is_set() else self._board.take(seat, values[0])
        if kind == "rows":
            rows = self._board.done(seat, (Row(*row) for row in values[0]))
            self._events.put(_Event(seat, rows, Usage(*values[1])))
            return self._stopping.is_set()
        name, text, trace = values
        error = _KINDS[name](text) if name in _KINDS else RuntimeError(f"a worker failed: {name}: {text}\n{trace}")
        self._events.put(_Event(seat, [], error=error))
        return None
