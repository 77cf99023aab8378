"""What a sweep is going to do and cost, before it does anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruneft.sweep.calibrate import Timing, calibrate
from pruneft.sweep.code import code_of
from pruneft.sweep.cost import CostModel, LaneCost, lane_cost
from pruneft.sweep.device import Device, choose_lanes, this_device
from pruneft.sweep.engine import check_processes, choose_processes
from pruneft.sweep.ledger import Ledger
from pruneft.sweep.local import Settings, local_devices
from pruneft.sweep.plan import COMPILE_SECONDS, Alternative, Plan, Planned, Task, plan
from pruneft.trial import Bucket, Experiment

_LOOKED_AT = 12  # buckets whose step is traced; beyond that costs are interpolated
_CALIBRATED = 3
# Share of lane-steps that a sweep spends on trials that still run, where there are many trials for each lane.
_BUSY = 0.85
_SHARE = 0.5  # of the memory, which problems and states of a bucket may take for it to be calibrated


@dataclass(frozen=True, kw_only=True)
class BucketCost:
    """One bucket of a plan.

    Attributes:
      task: its trials.
      cells: how many cells they are of.
      lanes: trials side by side.
      cost: of one lane.
      step_seconds: of one lane-step, measured or from the constants of the model.
      timing: what was measured on this very bucket; None if nothing was.
      busy: share of lane-steps expected to be useful.
    """

    task: Task
    cells: int
    lanes: int
    cost: LaneCost
    step_seconds: float
    timing: Timing | None
    busy: float

    @property
    def bytes(self) -> float:
        """Problems and states of all lanes."""
        return self.lanes * self.cost.bytes

    @property
    def seconds(self) -> float:
        """Of all its steps on one process, idle lanes included."""
        return self.task.steps * self.step_seconds / self.busy


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a sweep is going to do.

    Attributes:
      plan: the plan.
      buckets: its buckets, in the same order.
      cells: of the grid; ``trials``: of the grid; ``stored``: those that the run holds already.
      device: what computes.
      processes: that share the steps and the memory.
      devices: that each process spreads its lanes over.
      compile_seconds: of one bucket, measured or assumed.
      draw_seconds: of one trial; 0 if it was not measured.
      calibrated: whether anything was measured.
    """

    plan: Plan
    buckets: tuple[BucketCost, ...]
    cells: int
    trials: int
    stored: int
    device: Device
    processes: int
    devices: int
    compile_seconds: float
    draw_seconds: float
    calibrated: bool

    @property
    def memory(self) -> float:
        """Bytes of problems and states, all processes in their largest bucket."""
        return self.processes * max((bucket.bytes for bucket in self.buckets), default=0.0)

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """The choices of edges that were weighed."""
        return self.plan.alternatives

    @property
    def seconds(self) -> dict[str, float]:
        """The estimate: compilation if nothing is in the cache, draws, steps, and their total.

        The work of a stage is not in it.
        """
        compilation = self.compile_seconds * self.plan.compilations
        shared = self.processes * self.devices
        draws = self.draw_seconds * (self.trials - self.stored) / shared
        steps = sum(bucket.seconds for bucket in self.buckets) / shared
        return {"compile": compilation, "draw": draws, "steps": steps, "total": compilation + draws + steps}


def explain(
    experiment: Experiment,
    cells: Sequence[Mapping[str, Any]],
    seeds: int,
    *,
    todo: Sequence[Planned] | None = None,
    dtype: str = "float64",
    lanes: int | None = None,
    processes: int | None = None,
    measure: bool = True,
    compile_seconds: float = COMPILE_SECONDS,
    device: Device | None = None,
) -> Explanation:
    """What a sweep of these cells is going to do; runs none of its trials and stores nothing.

    Args:
      experiment: what the sweep runs.
      cells: resolved cells.
      seeds: trials per cell.
      todo: the trials that are left; all of them if None.
      dtype: of the inputs.
      lanes: trials side by side; by memory, device and number of trials if None.
      processes: that share the work; the engine's choice if None, see `pruneft.sweep.engine.choose_processes`.
      measure: whether to compile and time the steps of up to three buckets, seconds to a minute, or to use the model's
        constants, which are of one CPU core.
      compile_seconds: what the choice of edges takes a bucket to cost to compile.
      device: what computes; JAX's first local device if None.

    Raises:
      ValueError: the numbers of lanes or processes make no sense, or other processes cannot import the experiment.
    """
    if lanes is not None and lanes < 1:
        raise ValueError(f"lanes must be at least 1: got {lanes}.")
    check_processes(experiment, processes)
    device = this_device() if device is None else device
    left = [(cell, seed) for cell in cells for seed in range(seeds)] if todo is None else todo
    made = plan(experiment, left, dtype=np.dtype(dtype), processes=processes or 1, compile_seconds=compile_seconds)
    processes = choose_processes(experiment, made, processes)
    devices = len(local_devices()) if processes == 1 else 1
    costs = _costs(experiment, made, dtype)
    # Processes begin with a bucket each, and share one only where there are fewer buckets.
    sharers = devices * -(-processes // max(1, len(made)))
    wanted = {
        task.bucket: lanes or choose_lanes(costs[task.bucket].bytes, -(-len(task.trials) // sharers), device)
        for task in made
    }
    timings: dict[Bucket, Timing] = {}
    if measure:
        for task in _representatives(made, costs):
            held = wanted[task.bucket] * costs[task.bucket].bytes
            if device.memory is None or held <= _SHARE * device.memory:
                timings[task.bucket] = calibrate(experiment, task, wanted[task.bucket], np.dtype(dtype))
    buckets = tuple(
        BucketCost(
            task=task,
            cells=len({tuple(cell.values()) for cell, _ in task.trials}),
            lanes=wanted[task.bucket],
            cost=costs[task.bucket],
            step_seconds=_step_seconds(task.bucket, costs, timings),
            timing=timings.get(task.bucket),
            busy=_busy(len(task.trials), wanted[task.bucket] * processes * devices),
        )
        for task in made
    )
    found = list(timings.values())
    return Explanation(
        plan=made,
        buckets=buckets,
        cells=len(cells),
        trials=len(cells) * seeds,
        stored=len(cells) * seeds - len(left),
        device=device,
        processes=processes,
        devices=devices,
        compile_seconds=_mean([one.compile_seconds for one in found]) if found else compile_seconds,
        draw_seconds=_mean([one.draw_seconds for one in found]) if found else 0.0,
        calibrated=bool(found),
    )


def missing_trials(
    experiment: Experiment, cells: Sequence[Mapping[str, Any]], seeds: int, ledger: str | Path, settings: Settings
) -> list[Planned] | None:
    """The trials that a run does not hold yet, without writing to it; None if there is no such ledger.

    Raises:
      LedgerError: it cannot be read, or holds trials of another experiment or code.
    """
    if not Path(ledger).is_file():
        return None
    with Ledger.open(ledger, read_only=True) as held:
        held.check_owner(code_of(experiment, settings.identity), experiment.name)
        return list(held.missing(cells, seeds))


def _costs(experiment: Experiment, made: Plan, dtype: str) -> dict[Bucket, LaneCost]:
    samples = {task.bucket: task.trials[0][0] for task in made}
    if len(samples) <= _LOOKED_AT:
        return {bucket: lane_cost(experiment, bucket, cell, np.dtype(dtype)) for bucket, cell in samples.items()}
    model = CostModel(experiment, samples, np.dtype(dtype))
    return {bucket: model(bucket) for bucket in samples}


def _representatives(made: Plan, costs: Mapping[Bucket, LaneCost]) -> list[Task]:
    """Up to three tasks: cheapest, middle and dearest step."""
    order = sorted(made, key=lambda task: costs[task.bucket].flops)
    if len(order) <= _CALIBRATED:
        return order
    return [order[0], order[len(order) // 2], order[-1]]


def _step_seconds(bucket: Bucket, costs: Mapping[Bucket, LaneCost], timings: Mapping[Bucket, Timing]) -> float:
    """Measured; or the model's, times how far the model was off where something was measured."""
    if bucket in timings:
        return timings[bucket].step_seconds
    model = costs[bucket].seconds()
    if not timings:
        return model
    places = sorted(
        (math.log1p(costs[one].flops), math.log(timings[one].step_seconds / costs[one].seconds())) for one in timings
    )
    off = np.interp(math.log1p(costs[bucket].flops), *np.array(places).T)
    return float(model * math.exp(off))


def _busy(trials: int, lanes: int) -> float:
    """A queue that is short for its lanes leaves them idle while its longest trials end."""
    return max(1 / lanes, min(_BUSY, trials / (2 * lanes)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
