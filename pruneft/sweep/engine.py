"""Which machinery runs a plan: this process and its devices, a process for each core, or somebody's executor."""

from __future__ import annotations

from collections.abc import Callable

import jax

from pruneft.sweep.executors import ExecutorOrFactory, check_place, run_on_executor
from pruneft.sweep.local import Settings, cores, run_tasks
from pruneft.sweep.loop import Put, Usage
from pruneft.sweep.plan import Plan
from pruneft.sweep.processes import run_in_processes
from pruneft.sweep.worker import find_place
from pruneft.trial import Experiment

# Below so many predicted seconds of steps, starting processes (and compiling in each) costs more than they save.
_WORTH_SECONDS = 10.0


def choose_processes(experiment: Experiment, made: Plan, processes: int | None) -> int:
    """How many processes a plan is given.

    Args:
      experiment: what is run.
      made: the plan.
      processes: what the caller asks for; None for the engine's choice: on a CPU one for each core where the plan is long
        enough and others can import the experiment, otherwise this one.

    Raises:
      ValueError: several were asked for, and other processes cannot import the experiment; or the number makes no sense.
    """
    check_processes(experiment, processes)
    if processes is not None:
        return processes
    long = sum(task.seconds for task in made) >= _WORTH_SECONDS
    alone = jax.default_backend() != "cpu" or jax.local_device_count() > 1
    return cores() if long and not alone and find_place(experiment) is not None else 1


def check_processes(experiment: Experiment, processes: int | None) -> None:
    """Nothing, if so many processes can run the experiment; asked before anything is written.

    Raises:
      ValueError: see `choose_processes`.
    """
    if processes is None:
        return
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes must be a whole number of at least 1: got {processes!r}.")
    if processes > 1:
        check_place(experiment, find_place(experiment))


def run_plan(
    experiment: Experiment,
    made: Plan,
    settings: Settings,
    put: Put,
    stop: Callable[[], bool],
    *,
    processes: int = 1,
    executor: ExecutorOrFactory | None = None,
    code: str | None = None,
) -> Usage:
    """Run every trial of a plan; ``put`` is called in this thread with rows as they finish, and with the usage so far.

    Args:
      experiment: what is run.
      made: the plan.
      settings: for the lanes.
      put: given rows, some or none, and the usage of all workers.
      stop: true ends the run after the segments under way.
      processes: from `choose_processes`.
      executor: goes before ``processes``; see `pruneft.sweep.executors.run_on_executor`.
      code: see `pruneft.sweep.processes.run_in_processes`.

    Raises:
      ValueError: other processes cannot import the experiment.
      TrialError, ExecutorFailed, WorkersFailed: see where they come from.
    """
    if executor is not None:
        place = check_place(experiment, find_place(experiment))
        seconds = {id(task): task.seconds / max(1, len(task.trials)) for task in made}
        return run_on_executor(
            executor, place, list(made), settings, put, stop, seconds_per_trial=lambda task: seconds[id(task)]
        )
    if processes > 1:
        place = check_place(experiment, find_place(experiment))
        return run_in_processes(place, list(made), settings, processes, put, stop, code)
    return run_tasks(experiment, made, settings, put, stop)
