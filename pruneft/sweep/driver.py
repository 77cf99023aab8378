"""Run a grid.

Plan, lanes, ledger. The inside of this file may be replaced; what it promises is the signature and the ledger.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pruneft.sweep.code import code_of
from pruneft.sweep.grid import Grid, cells
from pruneft.sweep.lanes import Programs
from pruneft.sweep.ledger import Ledger, Row
from pruneft.sweep.plan import Planned, Task, plan
from pruneft.sweep.runs import LEDGER_NAME, hold
from pruneft.trial import Bucket, Experiment, Trial

_LANES = 8  # few lanes whose problems fit the cache beat many on CPU
_SEGMENT_STEPS = 1000
_BATCH_BYTES = 1 << 31


class Swept(NamedTuple):
    """What a sweep did.

    Attributes:
      path: the ledger.
      planned: trials of the grid; ``new``: how many of them were run now, the others stood in the ledger already.
    """

    path: Path
    planned: int
    new: int


def sweep(
    experiment: Experiment,
    grid: Grid,
    run_dir: str | Path,
    *,
    dtype: str = "float64",
    lanes: int = _LANES,
    remarks: Mapping[str, Any] | None = None,
    on_plan: Callable[[int, int, int], None] | None = None,
    on_rows: Callable[[Sequence[Row]], None] | None = None,
) -> Swept:
    """Run every trial of a grid that the run does not hold yet; finished ones are stored batch by batch.

    Args:
      experiment: what to run.
      grid: axes and seeds. A run can be extended by a wider grid.
      run_dir: the run's directory, made if needed; one process at a time may write to it.
      dtype: of data, fine-tuning and selection: "float64" (needs JAX's 64-bit mode) or "float32".
      lanes: trials side by side at most.
      remarks: kept in the ledger's manifest beside versions and machine.
      on_plan: called once with (planned trials, stored ones, buckets).
      on_rows: called after rows were stored.

    Raises:
      ValueError: the grid or dtype makes no sense.
      LedgerError: the run holds other trials, is held by another process, or cannot be written. Stored trials stay.
    """
    _check(dtype, lanes)
    planned = cells(experiment, grid)
    directory = Path(run_dir)
    new = 0
    with hold(directory), Ledger.open(directory / LEDGER_NAME) as ledger:
        ledger.begin(code_of(experiment, {"dtype": dtype}), experiment.name, {**manifest(dtype), **(remarks or {})})
        todo = ledger.missing(planned, grid.seeds)
        tasks = plan(experiment, todo)
        total = len(planned) * grid.seeds
        if on_plan is not None:
            on_plan(total, total - len(todo), len(tasks))
        for rows in _run_tasks(experiment, tasks, dtype, lanes):
            new += ledger.write(rows)
            if on_rows is not None:
                on_rows(rows)
    return Swept(directory / LEDGER_NAME, total, new)


def run_trials(
    experiment: Experiment, trials: Sequence[Planned], *, dtype: str = "float64", lanes: int = _LANES
) -> Iterator[list[Row]]:
    """Run trials without a ledger, for pipelines that keep rows in a way of their own; yields rows batch by batch.

    Args:
      experiment: what to run.
      trials: pairs of resolved cell and seed, as `pruneft.sweep.cells` makes the cells.
      dtype, lanes: as in `sweep`.

    Raises:
      ValueError: dtype or lanes make no sense.
    """
    _check(dtype, lanes)
    return _run_tasks(experiment, plan(experiment, trials), dtype, lanes)


def _run_tasks(experiment: Experiment, tasks: Sequence[Task], dtype: str, lanes: int) -> Iterator[list[Row]]:
    for task in tasks:
        keys = np.stack([experiment.key_data(cell, seed) for cell, seed in task.trials])
        inputs = stack_inputs([experiment.inputs(cell) for cell, _ in task.trials], np.dtype(dtype))
        programs = _programs(experiment.trial, task.bucket, min(lanes, len(task.trials))).fit_memory(
            inputs, _BATCH_BYTES
        )
        for part in batches(len(task.trials), programs.lanes):
            reports = run_batch(programs, keys[part], {name: values[part] for name, values in inputs.items()})
            yield [Row(cell, seed, report) for (cell, seed), report in zip(task.trials[part], reports, strict=True)]


@functools.lru_cache(maxsize=32)
def _programs(make: Callable[[Bucket], Trial], bucket: Bucket, lanes: int) -> Programs:
    """The programs of a bucket, kept so that a second sweep in the same process compiles nothing again."""
    return Programs(make(bucket), lanes, _SEGMENT_STEPS)


def _check(dtype: str, lanes: int) -> None:
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64: got {dtype!r}.")
    if dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            "dtype float64 needs JAX's 64-bit mode: call jax.config.update('jax_enable_x64', True) first, or ask for float32."
        )
    if lanes < 1:
        raise ValueError(f"lanes must be at least 1: got {lanes}.")


def manifest(dtype: str) -> dict[str, Any]:
    """Where the trials are computed: versions, machine, device."""
    device = jax.devices()[0]
    return {
        "pruneft": _version("pruneft"),
        "jax": jax.__version__,
        "jaxlib": _version("jaxlib"),
        "optax": _version("optax"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform} {device.device_kind}",
        "dtype": dtype,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
