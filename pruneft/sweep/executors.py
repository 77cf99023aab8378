"""Any ``concurrent.futures`` executor: work goes out as small tasks, rows come back, the caller keeps the ledger.

The standard library's pools, Dask's ``Client.get_executor()``, loky's, mpi4py's, executorlib's. To send a lost task again is
the engine's duty, not the executor's: a broken pool is made anew where it can be, the tasks whose rows have not come
back go out again, and a task that breaks its pool is split, until a single trial is known to be the one that kills.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from pruneft.status import Status
from pruneft.sweep.board import name_of
from pruneft.sweep.ledger import Row
from pruneft.sweep.local import Settings, TrialError
from pruneft.sweep.loop import Put, Usage
from pruneft.sweep.plan import Planned, Task
from pruneft.sweep.worker import ping, spec_of, work
from pruneft.trial import Bucket, Experiment

ExecutorOrFactory = Executor | Callable[[], Executor]
_TASK_SECONDS = 10.0
_TASKS_PER_WORKER = 4
_BREAKS_TO_SUSPECT = 2
_KILLS_TO_LOSE = 2
_MOST_CANCELS = 5
_MOST_POOLS = 10
_POLL_SECONDS = 0.2
_LAST_SECONDS = 5.0
_PROBE_SECONDS = 300.0
_CANCELLED = concurrent.futures.CancelledError()
_COMMUNICATION = ("CommClosedError", "TimeoutError")
_VERSION = "The workers may run another version of pruneft: install the same one."


class ExecutorFailed(RuntimeError):
    """The executor cannot be used, or breaks again and again; what came back before is kept."""


@dataclass
class _Job:
    """A task, and what happened to it.

    Attributes:
      breaks: pools that broke while it was out beside others, any of which may have been the cause.
      kills: pools that broke while it was out alone.
      cancels: how often it was cancelled without our asking.
    """

    bucket: Bucket
    trials: tuple[Planned, ...]
    breaks: int = 0
    kills: int = 0
    cancels: int = 0

    @property
    def suspect(self) -> bool:
        return self.breaks >= _BREAKS_TO_SUSPECT

    def halves(self) -> list[_Job]:
        middle = len(self.trials) // 2
        return [_Job(self.bucket, part, self.breaks) for part in (self.trials[:middle], self.trials[middle:])]


def run_on_executor(
    executor: ExecutorOrFactory,
    place: str,
    tasks: Iterable[Task],
    settings: Settings,
    put: Put,
    stop: Callable[[], bool],
    *,
    seconds_per_trial: Callable[[Task], float] = lambda task: 0.05,
    workers: int | None = None,
) -> Usage:
    """Run every trial of the tasks on an executor.

    Args:
      executor: one that is open, and stays open; or a function that makes one, called again where a pool broke.
      place: ``module:name`` of the experiment, importable where the work is done.
      tasks: what is to be run.
      settings: for the workers.
      put: called in this thread with the rows of each task that came back.
      stop: true ends the run: tasks that have not begun are cancelled.
      seconds_per_trial: a guess, which sets the size of the tasks (about 10 seconds).
      workers: how many there are; asked of the executor if None.

    Raises:
      ValueError: a pool that forks: a forked child hangs in JAX.
      ExecutorFailed: it breaks and cannot be made again.
      TrialError: a trial's code fails.
    """
    run = _Run(executor, place, settings, put, workers)
    try:
        usage = run.all(list(tasks), seconds_per_trial, stop)
    except BaseException:
        run.close(wait=False)
        raise
    run.close(wait=not stop())
    return usage


class _Run:
    """One call of `run_on_executor`.

    At first every task is out at once. When a pool has broken, only a few are, so that few are suspected; and a task that
    was out at two such breaks is kept until the others are done, and then goes out alone, behind a task that does nothing:
    if the pool breaks then, it is known who broke it.
    """

    def __init__(
        self, executor: ExecutorOrFactory, place: str, settings: Settings, put: Put, workers: int | None
    ) -> None:
        self._executor, self._place, self._settings, self._put = executor, place, settings, put
        self._pool = _open(executor)
        self._workers = workers or _workers(self._pool)
        self._usage = Usage()
        self._barren = 0  # pools in a row that broke before anything came back
        self._most_out = math.inf
        self._sent = 0
        self._todo: list[_Job] = []  # the next one last
        self._suspects: list[_Job] = []
        self._out: dict[Future[str], _Job] = {}
        self._back: queue.SimpleQueue[Future[str]] = queue.SimpleQueue()

    def all(self, tasks: list[Task], seconds_per_trial: Callable[[Task], float], stop: Callable[[], bool]) -> Usage:
        jobs = [job for task in tasks for job in _cut(task, self._workers, seconds_per_trial(task))]
        self._todo = jobs[::-1]
        while self._todo or self._suspects or self._out:
            try:
                self._send()
                for future in self._arrived():
                    self._receive(future)
                self._put([], self._usage._replace(running=self._running()))  # or rows would wait for the next task
            except BrokenExecutor as error:
                self._broken(error)
            if stop():
                self._wind_up()
                break
        return self._usage

    def close(self, *, wait: bool) -> None:
        """Leave nothing behind in the executor, and close it if it is ours."""
        for future in self._out:
            future.cancel()
        if self._pool is not self._executor:
            with contextlib.suppress(Exception):
                self._pool.shutdown(wait=wait, cancel_futures=True)

    def _send(self) -> None:
        while self._todo and len(self._out) < self._most_out:
            self._submit(self._todo.pop())
        if not self._out and self._suspects:
            self._probe()
            self._submit(self._suspects.pop())

    def _submit(self, job: _Job) -> None:
        spec = spec_of(self._place, job.bucket, job.trials, self._settings)
        try:
            # With a number, or Dask would take a task that is sent again for the one that has failed.
            self._sent += 1
            future = self._pool.submit(work, spec, self._sent)
        except BrokenExecutor:
            (self._suspects if job.suspect else self._todo).append(job)  # it never got there
            raise
        except RuntimeError as error:
            raise ExecutorFailed(
                f"the executor takes no tasks: {error}. Finished trials are kept; pass one that is open."
            ) from error
        self._out[future] = job
        future.add_done_callback(self._back.put)

    def _probe(self) -> None:
        """Whether the pool works at all, before somebody is blamed for breaking it."""
        try:
            self._pool.submit(ping).result(_PROBE_SECONDS)
        except BrokenExecutor:
            raise
        except Exception as error:
            raise ExecutorFailed(
                f"the executor does not work any more: {type(error).__name__}: {error}. Finished trials are kept."
            ) from error
        self._barren = 0

    def _arrived(self) -> Iterator[Future[str]]:
        """What has come back; waits a moment for the first."""
        with contextlib.suppress(queue.Empty):
            yield self._back.get(timeout=_POLL_SECONDS)
            while True:
                yield self._back.get_nowait()

    def _running(self) -> int:
        return sum(len(job.trials) for future, job in self._out.items() if future.running())

    def _receive(self, future: Future[str]) -> None:
        if future not in self._out:
            return  # from a pool that is given up, too late: its task has gone out again
        error = _CANCELLED if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            raise error  # with its task still out
        job = self._out.pop(future)
        if error is None:
            self._keep(job, future.result())
        elif isinstance(error, concurrent.futures.CancelledError) or type(error).__name__ in _COMMUNICATION:
            job.cancels += 1
            if job.cancels >= _MOST_CANCELS:
                raise ExecutorFailed(
                    f"a task was cancelled {job.cancels} times on the executor: is its scheduler there? "
                    "Finished trials are kept."
                )
            self._todo.append(job)
        elif type(error).__name__ == "KilledWorker":  # Dask's, after it has tried on several workers
            job.breaks = _BREAKS_TO_SUSPECT
            self._guilty(job)
        else:
            self._wind_up()
            if isinstance(error, TrialError | ValueError | MemoryError):
                raise error
            raise ExecutorFailed(f"a task failed on the executor: {type(error).__name__}: {error}") from error

    def _broken(self, error: BrokenExecutor) -> None:
        """The pool is dead: keep what came back before, make a new one, and send the rest again."""
        out, self._out = self._out, {}
        missing = []
        for future, job in out.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                self._keep(job, future.result())
            else:
                missing.append(job)
        self._barren += 1
        if self._barren >= _MOST_POOLS:
            raise ExecutorFailed(
                f"{self._barren} pools in a row broke before a task came back. Finished trials are kept."
            ) from error
        self._renew(error)
        alone = len(missing) == 1 and missing[0].suspect
        blame = self._most_out < math.inf
        self._most_out = 2 * self._workers
        for job in reversed(missing):
            if alone:
                self._guilty(job)
                continue
            job.breaks += blame
            (self._suspects if job.suspect else self._todo).append(job)

    def _guilty(self, job: _Job) -> None:
        """A task that kills its worker: split it, until it is known which trial does."""
        if len(job.trials) > 1:
            self._suspects.extend(job.halves())
            return
        job.kills += 1
        if job.kills < _KILLS_TO_LOSE:
            self._suspects.append(job)
        else:
            self._put([Row(*job.trials[0], {"status": int(Status.WORKER_LOST)})], self._usage)

    def _keep(self, job: _Job, text: str) -> None:
        asked = {name_of(trial): trial for trial in job.trials}
        rows = []
        try:
            result = json.loads(text)
            usage = Usage(*result["usage"])._replace(running=0)
            for cell, seed, report in result["rows"]:
                trial = asked.pop(name_of((cell, seed)), None)
                if trial is not None:  # a worker that answers twice is counted once
                    rows.append(Row(*trial, report))
        except (ValueError, KeyError, TypeError) as error:
            raise ExecutorFailed(
                f"a task came back with something else than rows: {type(error).__name__}: {error}. {_VERSION}"
            ) from error
        self._barren = 0
        self._usage += usage
        self._put(rows, self._usage)
        if asked:
            raise ExecutorFailed(f"a task came back without {len(asked)} of its {len(job.trials)} trials. {_VERSION}")

    def _renew(self, error: BrokenExecutor) -> None:
        """A new pool for a broken one."""
        old = self._pool
        with contextlib.suppress(Exception):
            old.shutdown(wait=False, cancel_futures=True)
        if not isinstance(self._executor, Executor):
            try:
                self._pool = _open(self._executor)
            except Exception as failure:
                raise ExecutorFailed(
                    f"a pool broke, and a new one cannot be made: {type(failure).__name__}: {failure}. "
                    "Finished trials are kept."
                ) from failure
        elif type(old) is ProcessPoolExecutor:
            known: Any = old
            self._pool = ProcessPoolExecutor(
                known._max_workers,
                mp_context=known._mp_context,
                initializer=known._initializer,
                initargs=known._initargs,
                max_tasks_per_child=known._max_tasks_per_child,
            )
        else:
            raise ExecutorFailed(
                "the executor broke (a worker died) and cannot be made again from here. Finished trials are kept; pass a "
                "function that makes the executor instead, and it will be."
            ) from error

    def _wind_up(self) -> None:
        """Cancel what has not begun; keep what comes back within seconds."""
        out, self._out = self._out, {}
        begun = {future: job for future, job in out.items() if not future.cancel()}
        done, _ = concurrent.futures.wait(begun, timeout=_LAST_SECONDS)
        for future in done:
            if not future.cancelled() and future.exception() is None:
                self._keep(begun[future], future.result())


def _open(executor: ExecutorOrFactory) -> Executor:
    pool = executor if isinstance(executor, Executor) else executor()
    if not isinstance(pool, Executor):
        raise ValueError(
            f"executor must be a concurrent.futures.Executor or a function that makes one: got {type(pool).__name__}. "
            "For Dask pass client.get_executor()."
        )
    context = getattr(pool, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        if pool is not executor:
            pool.shutdown(wait=False)
        raise ValueError(
            "the executor forks its workers, and a forked child hangs in JAX: make it with "
            "mp_context=multiprocessing.get_context('spawn')."
        )
    return pool


def _workers(pool: Executor) -> int:
    known = getattr(pool, "_max_workers", None)
    if isinstance(known, int):
        return max(1, known)
    client = getattr(pool, "_client", None)  # Dask's
    with contextlib.suppress(Exception):
        return max(4, len(client.nthreads()))  # type: ignore[union-attr]  # more may come
    return 4


def _cut(task: Task, workers: int, seconds: float) -> list[_Job]:
    """Tasks of about ten seconds, at least four for each worker; each with its share of the long trials."""
    count = len(task.trials)
    jobs = max(math.ceil(count * seconds / _TASK_SECONDS), min(_TASKS_PER_WORKER * workers, math.ceil(count / 8)))
    jobs = max(1, min(jobs, count))
    return [_Job(task.bucket, tuple(task.trials[begin::jobs])) for begin in range(jobs)]


def check_place(experiment: Experiment, place: str | None) -> str:
    """The place, if there is one.

    Raises:
      ValueError: other processes cannot import the experiment.
    """
    if place is None:
        raise ValueError(
            f"other processes must be able to import experiment {experiment.name!r}, and it is not to be found in module "
            f"{experiment.module!r}. Put it into a file of its own, as a name of that module, or use processes=1."
        )
    return place
