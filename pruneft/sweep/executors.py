"""Any ``concurrent.futures`` executor: work goes out as small tasks, rows come back, the caller keeps the ledger.

The standard library's pools, Dask's ``Client.get_executor()``, loky's, mpi4py's, executorlib's. To send a lost task again is
the engine's duty, not the executor's: a broken pool is made anew where it can be, the tasks whose rows have not come
back go out again, and a task that was lost twice is split, until a single trial is known to be the one that kills.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from pruneft.status import Status
from pruneft.sweep.ledger import Row
from pruneft.sweep.local import Settings, TrialError
from pruneft.sweep.loop import Put, Usage
from pruneft.sweep.plan import Planned, Task
from pruneft.sweep.worker import spec_of, work
from pruneft.trial import Bucket, Experiment, canonical_json

ExecutorOrFactory = Executor | Callable[[], Executor]
_TASK_SECONDS = 10.0
_TASKS_PER_WORKER = 4
_LOSSES_TO_SPLIT = 2
_MOST_POOLS = 20
_POLL_SECONDS = 0.2
_LAST_SECONDS = 5.0


class ExecutorFailed(RuntimeError):
    """The executor cannot be used, or breaks again and again; what came back before is kept."""


@dataclass
class _Job:
    """A task and how often it was lost."""

    bucket: Bucket
    trials: tuple[Planned, ...]
    losses: int = 0

    def halves(self) -> list[_Job]:
        middle = len(self.trials) // 2
        return [_Job(self.bucket, part, 1) for part in (self.trials[:middle], self.trials[middle:]) if part]


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
    pool, made = _open(executor)
    count = workers or _workers(pool)
    jobs = [job for task in tasks for job in _cut(task, count, seconds_per_trial(task))]
    run = _Run(executor, pool, place, settings, put)
    try:
        return run.all(jobs, stop)
    finally:
        if made or run.pool is not pool:
            run.pool.shutdown(wait=False, cancel_futures=True)


class _Run:
    def __init__(self, executor: ExecutorOrFactory, pool: Executor, place: str, settings: Settings, put: Put) -> None:
        self._executor, self.pool, self._place, self._settings, self._put = executor, pool, place, settings, put
        self._usage = Usage()
        self._pools = 1
        self._finished = 0  # tasks, since the pool was made

    def all(self, jobs: list[_Job], stop: Callable[[], bool]) -> Usage:
        waiting: dict[Future[str], _Job] = {}
        todo = list(reversed(jobs))
        while todo or waiting:
            lost: list[_Job] = []
            while todo and not lost:
                job = todo.pop()
                try:
                    waiting[self._submit(job)] = job
                except BrokenExecutor:
                    lost.append(job)
            done, _ = concurrent.futures.wait(
                waiting, timeout=_POLL_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )
            broken = bool(lost)
            for future in done:
                job = waiting.pop(future)
                error = future.exception()
                if error is None:
                    self._keep(job, future.result())
                elif _is_loss(error):
                    broken |= isinstance(error, BrokenExecutor)
                    lost.append(job)
                elif isinstance(error, TrialError | ValueError | MemoryError):
                    raise error
                else:
                    raise ExecutorFailed(f"a task failed on the executor: {type(error).__name__}: {error}") from error
            if broken:
                # Everything that was on its way went with the pool; who killed it is among them.
                for future, job in list(waiting.items()):
                    if future.done() and future.exception() is None:
                        self._keep(job, future.result())
                    else:
                        lost.append(job)
                waiting.clear()
                self._renew()
            for job in lost:
                todo.extend(self._again(job))
            if stop():
                self._wind_up(waiting)
                break
        return self._usage

    def _submit(self, job: _Job) -> Future[str]:
        return self.pool.submit(work, spec_of(self._place, job.bucket, job.trials, self._settings))

    def _keep(self, job: _Job, text: str) -> None:
        result = json.loads(text)
        asked = {_name(trial): trial for trial in job.trials}
        rows = []
        for cell, seed, report in result["rows"]:
            trial = asked.pop(_name((cell, seed)), None)
            if trial is not None:  # a worker that answers twice is counted once
                rows.append(Row(*trial, report))
        if asked:
            raise ExecutorFailed(
                f"a task came back without {len(asked)} of its {len(job.trials)} trials. The workers may run another "
                "version of pruneft: install the same one."
            )
        self._finished += 1
        self._usage += Usage(*result["usage"])._replace(running=0)
        self._put(rows, self._usage)

    def _again(self, job: _Job) -> list[_Job]:
        """What becomes of a task that was lost."""
        job.losses += 1
        if job.losses < _LOSSES_TO_SPLIT:
            return [job]
        if len(job.trials) > 1:
            return job.halves()
        self._put([Row(*job.trials[0], {"status": int(Status.WORKER_LOST)})], self._usage)
        return []

    def _renew(self) -> None:
        """A new pool for a broken one."""
        self._pools = 1 if self._finished else self._pools + 1
        self._finished = 0
        if self._pools > _MOST_POOLS:
            raise ExecutorFailed(
                f"{_MOST_POOLS} pools in a row broke without finishing a task. Finished trials are kept."
            )
        old = self.pool
        with contextlib.suppress(Exception):
            old.shutdown(wait=False, cancel_futures=True)
        if not isinstance(self._executor, Executor):
            self.pool = self._executor()
        elif type(old) is ProcessPoolExecutor:
            self.pool = ProcessPoolExecutor(old._max_workers, mp_context=old._mp_context)  # type: ignore[attr-defined]
        else:
            raise ExecutorFailed(
                "the executor broke (a worker died) and cannot be made again from here. Finished trials are kept; pass a "
                "function that makes the executor instead, and it will be."
            )

    def _wind_up(self, waiting: dict[Future[str], _Job]) -> None:
        """Cancel what has not begun; keep what comes back within seconds."""
        begun = {future: job for future, job in waiting.items() if not future.cancel()}
        done, _ = concurrent.futures.wait(begun, timeout=_LAST_SECONDS)
        for future in done:
            if not future.cancelled() and future.exception() is None:
                self._keep(begun[future], future.result())


def _open(executor: ExecutorOrFactory) -> tuple[Executor, bool]:
    pool = executor if isinstance(executor, Executor) else executor()
    if not isinstance(pool, Executor):
        raise ValueError(
            f"executor must be a concurrent.futures.Executor or a function that makes one: got {type(pool).__name__}. "
            "For Dask pass client.get_executor()."
        )
    context = getattr(pool, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "the executor forks its workers, and a forked child hangs in JAX: make it with "
            "mp_context=multiprocessing.get_context('spawn')."
        )
    return pool, pool is not executor


def _workers(pool: Executor) -> int:
    known = getattr(pool, "_max_workers", None)
    if isinstance(known, int):
        return max(1, known)
    client = getattr(pool, "_client", None)  # Dask's
    with contextlib.suppress(Exception):
        return max(1, len(client.scheduler_info()["workers"]))  # type: ignore[union-attr]
    return 4


def _cut(task: Task, workers: int, seconds: float) -> list[_Job]:
    """Tasks of about ten seconds, at least four for each worker; each with its share of the long trials."""
    count = len(task.trials)
    jobs = max(math.ceil(count * seconds / _TASK_SECONDS), min(_TASKS_PER_WORKER * workers, math.ceil(count / 8)))
    jobs = max(1, min(jobs, count))
    return [_Job(task.bucket, tuple(task.trials[begin::jobs])) for begin in range(jobs)]


def _is_loss(error: BaseException) -> bool:
    """Whether a worker died, as executors say it: broken pools, cancelled tasks, Dask's KilledWorker."""
    return isinstance(error, BrokenExecutor | concurrent.futures.CancelledError) or type(error).__name__ in (
        "KilledWorker",
        "FutureCancelledError",
        "CommClosedError",
    )


def _name(trial: Sequence[Any]) -> str:
    return f"{canonical_json(trial[0])} {trial[1]}"


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
