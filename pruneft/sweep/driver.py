"""Run a grid: plan, lanes, ledger."""

from __future__ import annotations

import contextlib
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pruneft.sweep.code import code_of
from pruneft.sweep.engine import check_processes, choose_processes, run_plan
from pruneft.sweep.executors import ExecutorOrFactory
from pruneft.sweep.grid import Grid, cells
from pruneft.sweep.keeper import Keeper
from pruneft.sweep.ledger import Ledger, Row
from pruneft.sweep.local import Settings, run_tasks
from pruneft.sweep.loop import Usage
from pruneft.sweep.plan import Plan, Planned, plan
from pruneft.sweep.progress import Progress
from pruneft.sweep.runs import LEDGER_NAME, hold
from pruneft.trial import Experiment


class Swept(NamedTuple):
    """What a sweep did.

    Attributes:
      path: the ledger.
      planned: trials of the grid; ``new``: how many of them were run now, the others stood in the ledger already.
      usage: what the lanes did: steps, utilisation, programs.
    """

    path: Path
    planned: int
    new: int
    usage: Usage = Usage()


def sweep(
    experiment: Experiment,
    grid: Grid,
    run_dir: str | Path,
    *,
    dtype: str = "float64",
    lanes: int | None = None,
    processes: int | None = None,
    executor: ExecutorOrFactory | None = None,
    max_steps: int = Settings().max_steps,
    segment_steps: int | None = None,
    remarks: Mapping[str, Any] | None = None,
    on_plan: Callable[[int, int, Plan], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_stop: Callable[[], None] | None = None,
) -> Swept:
    """Run every trial of a grid that the run does not hold yet; finished ones are stored as their lanes finish.

    Ctrl-C ends the sweep after the segments under way, everything finished stored; the same call goes on from there.

    Args:
      experiment: what to run.
      grid: axes and seeds. A run can be extended by a wider grid.
      run_dir: the run's directory, made if needed; one process at a time may write to it.
      dtype: of data, fine-tuning and selection: "float64" (needs JAX's 64-bit mode) or "float32".
      lanes: trials side by side on each device; by cache, memory and number of trials if None.
      processes: that share the work. None: on a CPU one for each core, if the work is worth their start and they can import
        the experiment by its name; otherwise this process, lanes spread over all its devices.
      executor: a `concurrent.futures.Executor` (Dask's ``client.get_executor()``, a spawning process pool, …), or a
        function that makes one, to do the work elsewhere.
      max_steps: a trial that takes more is ended and stored with status UNFINISHED.
      segment_steps: steps between looks at the lanes; about 30 ms of them if None. Does not change results.
      remarks: kept in the ledger's manifest beside grid, versions and machine.
      on_plan: called once with (planned trials, stored ones, the plan).
      on_progress: called after rows were stored, and at least every half second while lanes run.
      on_stop: called at the first Ctrl-C, which lets the segments under way end; the second one does not wait for them.

    Raises:
      ValueError: the grid or a setting makes no sense, or other processes cannot import the experiment.
      LedgerError: the run holds other trials, is held by another process, or cannot be written. Stored trials stay.
      TrialError: the trial's own code fails.
      KeyboardInterrupt: after a clean stop.
    """
    settings = Settings(dtype, lanes, max_steps, segment_steps)
    settings.check()
    check_processes(experiment, None if executor is not None else processes)
    planned = cells(experiment, grid)
    directory = Path(run_dir)
    with hold(directory), Ledger.open(directory / LEDGER_NAME) as ledger:
        kept = {**manifest(dtype, experiment), "grid": grid.spec(), **(remarks or {})}
        code = code_of(experiment, settings.identity)
        ledger.begin(code, experiment.name, kept, success=experiment.success)
        todo = ledger.missing(planned, grid.seeds)
        total = len(planned) * grid.seeds
        made = plan(experiment, todo, dtype=dtype, processes=processes or 1)
        count = 1 if executor is not None else choose_processes(experiment, made, processes)
        if on_plan is not None:
            on_plan(total, total - len(todo), made)
        keeper = Keeper(ledger, experiment, total, len(todo), made.steps, workers=count, on_progress=on_progress)
        usage = Usage()
        with interruptible(on_stop) as stop, keeper:
            if todo:
                usage = run_plan(
                    experiment,
                    made,
                    settings,
                    keeper.put,
                    stop,
                    processes=count,
                    executor=executor,
                    code=code.hash,
                )
            keeper.interrupted = stop()
        if stop():
            raise KeyboardInterrupt
    return Swept(directory / LEDGER_NAME, total, keeper.new, usage)


def run_trials(
    experiment: Experiment,
    trials: Sequence[Planned],
    *,
    dtype: str = "float64",
    lanes: int | None = None,
    max_steps: int = Settings().max_steps,
    sizes: Mapping[str, int] | None = None,
    on_rows: Callable[[list[Row]], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[list[Row]]:
    """Run trials without a ledger, in this process, for pipelines that keep rows in a way of their own.

    Args:
      experiment: what to run.
      trials: pairs of resolved cell and seed, as `pruneft.sweep.cells` makes the cells.
      dtype, lanes, max_steps: as in `sweep`.
      sizes: padded sizes that every bucket shall have, for rounds of trials that share their programs.
      on_rows: given rows as they finish, none of them twice, before their bucket is through.
      stop: true ends the run after the segment under way.

    Yields:
      The rows of each bucket, in the order in which they finished.

    Raises:
      ValueError: dtype or lanes make no sense.
      TrialError: the trial's own code fails.
    """
    settings = Settings(dtype, lanes, max_steps)
    settings.check()
    return _run_trials(experiment, plan(experiment, trials, dtype=dtype, sizes=sizes), settings, on_rows, stop)


def _run_trials(
    experiment: Experiment,
    made: Plan,
    settings: Settings,
    on_rows: Callable[[list[Row]], None] | None,
    stop: Callable[[], bool],
) -> Iterator[list[Row]]:
    for task in made:
        rows: list[Row] = []

        def put(found: list[Row], _: Usage, rows: list[Row] = rows) -> None:
            rows.extend(found)
            if found and on_rows is not None:
                on_rows(found)

        run_tasks(experiment, [task], settings, put, stop)
        yield rows


@contextlib.contextmanager
def interruptible(on_stop: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks for a clean stop, the second one interrupts at once.

    Args:
      on_stop: called at the first one.

    Yields:
      Whether a stop was asked for. Always false outside the main thread, or where somebody else handles Ctrl-C.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread may handle signals
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        if on_stop is not None:
            on_stop()

    if before is not signal.default_int_handler:
        yield asked.is_set  # somebody else handles it, or ignores it
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def manifest(dtype: str, experiment: Experiment | None = None) -> dict[str, Any]:
    """Where the trials are computed: versions, machine, device, git revision of the experiment's source if it has one."""
    device = jax.devices()[0]
    return {
        "pruneft": _version("pruneft"),
        "jax": jax.__version__,
        "jaxlib": _version("jaxlib"),
        "optax": _version("optax"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform} {device.device_kind}",
        "devices": jax.device_count(),
        "dtype": dtype,
        "git": None if experiment is None else _git_revision(experiment),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_revision(experiment: Experiment) -> str | None:
    """The commit of the experiment's source, with a plus sign where files differ from it."""
    file = getattr(sys.modules.get(experiment.module), "__file__", None)
    if file is None:
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=Path(file).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
