"""Which trials share a compiled program, and in which order they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pruneft.sweep.cost import STEP_SECONDS, CostModel, LaneCost, largest
from pruneft.sweep.edges import Sizes, choose_edges, coarseness, rung
from pruneft.trial import Bucket, Cell, Experiment

Planned = tuple[Mapping[str, Any], int]  # a resolved cell and a seed

# Seconds to compile the programs of a bucket that are not in the compilation cache: draws, segment, a stage.
COMPILE_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """The trials of one bucket, in the order in which they run.

    Attributes:
      bucket: what they are padded to.
      trials: the longest expected first, otherwise as they came.
      steps: expected lane-steps of all of them.
      seconds: predicted for those steps on one process, compilation apart; see `plan` for when it is a lower bound.
      waste: share of the lane-steps' work that is padding, taking work as proportional to the product of padded sizes.
    """

    bucket: Bucket
    trials: tuple[Planned, ...]
    steps: float = 0.0
    seconds: float = 0.0
    waste: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A choice of buckets that was weighed: its name, how many buckets it has, and its predicted seconds."""

    name: str
    buckets: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan(Sequence[Task]):
    """The tasks of a sweep, smallest sizes first; iterates over them.

    Attributes:
      tasks: one for each bucket.
      compile_seconds: what a bucket was taken to cost to compile.
      processes: what the steps were taken to be shared by.
      alternatives: the choices weighed: one bucket for what can share one, one bucket for each size, and the chosen.
    """

    tasks: tuple[Task, ...]
    compile_seconds: float = COMPILE_SECONDS
    processes: int = 1
    alternatives: tuple[Alternative, ...] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, place: Any) -> Any:
        return self.tasks[place]

    @property
    def compilations(self) -> int:
        """Buckets, each compiled once (its programs: draw, segment, stages)."""
        return len(self.tasks)

    @property
    def trials(self) -> int:
        """Trials of all tasks."""
        return sum(len(task.trials) for task in self.tasks)

    @property
    def steps(self) -> float:
        """Expected lane-steps of all tasks."""
        return sum(task.steps for task in self.tasks)

    @property
    def waste(self) -> float:
        """Share of all predicted lane-step work that is padding."""
        work = sum(task.seconds for task in self.tasks)
        return sum(task.waste * task.seconds for task in self.tasks) / work if work else 0.0

    @property
    def total(self) -> float:
        """Predicted seconds, compilation included, lanes always busy."""
        return self.compile_seconds * len(self.tasks) + sum(task.seconds for task in self.tasks) / self.processes

    def describe(self) -> str:
        """The plan in one line."""
        if not self.tasks:
            return "nothing to run"
        names = "1 bucket" if len(self.tasks) == 1 else f"{len(self.tasks)} buckets"
        return f"{self.trials} trials in {names}, {self.waste:.0%} padding, about {self.total:.3g} s"


@dataclass
class _Pile:
    """The trials of a group that round up to the same sizes."""

    trials: list[Planned] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    own: float = 0.0  # sum of steps times product of the sizes before padding


@dataclass
class _Group:
    """Trials that may share a bucket: equal sizes where these are not padded, equal static axes."""

    exact: tuple[tuple[str, int], ...]
    static: tuple[tuple[str, str], ...]
    names: tuple[str, ...]  # of the padded sizes
    cell: Cell
    piles: dict[Sizes, _Pile] = field(default_factory=dict)

    def bucket(self, sizes: Sizes) -> Bucket:
        return Bucket(
            sizes=tuple(sorted((*self.exact, *zip(self.names, sizes, strict=True)))),
            static=self.static,
        )


def plan(
    experiment: Experiment,
    trials: Sequence[Planned],
    *,
    compile_seconds: float = COMPILE_SECONDS,
    step_seconds: tuple[float, float] = STEP_SECONDS,
    processes: int = 1,
    sizes: Mapping[str, int] | None = None,
    cost: Callable[[Bucket], LaneCost] | None = None,
    dtype: Any = None,
) -> Plan:
    """Group trials into buckets so that compilation and padding together cost least.

    Trials with equal exact sizes and static axes may share a bucket. Among those the edges are chosen by dynamic
    programming, from the steps that the experiment expects of each cell and the operations of a step at each size. Edges
    lie on a fixed ladder of sizes (see `rung`), a grid of a single size included, so that later grids find compiled
    programs.

    Args:
      experiment: what runs.
      trials: resolved cells and seeds; those of a cell one after the other.
      compile_seconds: to compile the programs of one bucket.
      step_seconds: seconds of a lane-step: a fixed part, and a part for each floating point operation.
      processes: how many share the steps; all compile at the same time.
      sizes: padded sizes that every bucket shall have, for rounds that share programs; one bucket for each group then.
      cost: bucket -> cost of a lane. If None it is counted from the experiment's step, but only where there is a choice:
        a grid of one size is planned without tracing anything, and its ``seconds`` are of the fixed part alone.
      dtype: of the inputs; JAX's widest float if None.

    Raises:
      ValueError: a size that ``sizes`` names is not one the experiment pads, or is too small for a trial; or
        ``expected_steps`` is not a positive number.
    """
    groups = _groups(experiment, trials)
    coarse = 1 if sizes else max((coarseness(list(group.piles)) for group in groups), default=1)
    for group in groups:
        group.piles = _rounded(group.piles, coarse)
    if sizes:
        groups = [_forced(experiment, group, sizes) for group in groups]
    if cost is None and all(len(group.piles) == 1 for group in groups):
        cost = _uncounted
    elif cost is None:
        cost = _model(experiment, groups, compile_seconds * processes, step_seconds, dtype)
    tasks: list[Task] = []
    options = {"one": [0, 0.0], "each": [0, 0.0], "chosen": [0, 0.0]}
    for group in groups:

        def seconds(one: Sizes, group: _Group = group, cost: Callable[[Bucket], LaneCost] = cost) -> float:
            return cost(group.bucket(one)).seconds(step_seconds) / processes

        order = sorted(group.piles, key=lambda one: (seconds(one), one))
        work = [sum(group.piles[one].steps) for one in order]
        edges = choose_edges(order, work, seconds, compile_seconds)
        begin = 0
        for last, padded in zip(edges.last, edges.sizes, strict=True):
            piles = [group.piles[one] for one in order[begin : last + 1]]
            tasks.append(_task(group.bucket(padded), group, padded, piles, processes * seconds(padded)))
            begin = last + 1
        top = tuple(map(max, *order)) if len(order) > 1 else order[0]
        for name, count, spent in (
            ("one", 1, compile_seconds + sum(work) * seconds(top)),
            ("each", len(order), sum(compile_seconds + w * seconds(s) for w, s in zip(work, order, strict=True))),
            ("chosen", len(edges.last), edges.seconds),
        ):
            options[name][0] += count
            options[name][1] += spent
    titles = {"one": "as few buckets as possible", "each": "a bucket for each size", "chosen": "chosen"}
    return Plan(
        tasks=tuple(sorted(tasks, key=lambda task: (task.bucket.sizes, task.bucket.static))),
        compile_seconds=compile_seconds,
        processes=processes,
        alternatives=tuple(
            Alternative(name=titles[name], buckets=int(count), seconds=spent)
            for name, (count, spent) in options.items()
        ),
    )


def _uncounted(bucket: Bucket) -> LaneCost:
    return LaneCost(bytes=0.0, flops=0.0, moved=0.0, counted=False)


def _groups(experiment: Experiment, trials: Sequence[Planned]) -> list[_Group]:
    """The groups, each with a pile for every combination of unrounded padded sizes."""
    static_axes = [axis.name for axis in experiment.axes if axis.type is str]
    groups: dict[Any, _Group] = {}
    seen: Cell | None = None
    pile, steps, volume = _Pile(), 0.0, 0.0
    for trial in trials:
        cell = trial[0]
        if cell is not seen and cell != seen:  # trials of a cell come together: sizes are asked for once for each
            seen = cell
            found = experiment.sizes(cell)
            steps = float(experiment.expected_steps(cell))
            if not (math.isfinite(steps) and steps > 0):
                raise ValueError(
                    f"experiment {experiment.name!r}: expected_steps must give a positive number, got {steps} for {dict(cell)}."
                )
            names = tuple(sorted(name for name in found if name in experiment.padded))
            exact = tuple(sorted((name, size) for name, size in found.items() if name not in experiment.padded))
            static = tuple((name, str(cell[name])) for name in static_axes if name in cell)
            key = (exact, static, names)
            if key not in groups:
                groups[key] = _Group(exact, static, names, cell)
            own = tuple(found[name] for name in names)
            pile = groups[key].piles.setdefault(own, _Pile())
            volume = math.prod(own)
        pile.trials.append(trial)
        pile.steps.append(steps)
        pile.own += steps * volume
    return [groups[key] for key in sorted(groups)]


def _rounded(piles: Mapping[Sizes, _Pile], coarse: int) -> dict[Sizes, _Pile]:
    """The piles put together where their sizes round up to the same."""
    found: dict[Sizes, _Pile] = {}
    for own, pile in piles.items():
        into = found.setdefault(tuple(rung(size, coarse) for size in own), _Pile())
        into.trials += pile.trials
        into.steps += pile.steps
        into.own += pile.own
    return found


def _forced(experiment: Experiment, group: _Group, sizes: Mapping[str, int]) -> _Group:
    for name in sizes:
        if name not in group.names:
            padded = ", ".join(group.names) or "none"
            raise ValueError(f"sizes: {name} is not padded by experiment {experiment.name!r}; it pads {padded}.")
    top = tuple(sizes.get(name, max(one[place] for one in group.piles)) for place, name in enumerate(group.names))
    for pile in group.piles.values():
        for cell, _ in pile.trials:
            need = experiment.sizes(cell)
            for name, size in zip(group.names, top, strict=True):
                if need[name] > size:
                    raise ValueError(f"sizes: a trial needs {name}={need[name]}, more than the {size} asked for.")
    whole = _Pile()
    for pile in group.piles.values():
        whole.trials += pile.trials
        whole.steps += pile.steps
        whole.own += pile.own
    return _Group(group.exact, group.static, group.names, group.cell, {top: whole})


def _model(
    experiment: Experiment,
    groups: Sequence[_Group],
    worth: float,
    step_seconds: tuple[float, float],
    dtype: Any,
) -> CostModel:
    """The cost of every bucket that the groups may ask for."""
    every = {group.bucket(one): group.cell for group in groups for one in group.piles}
    kinds: dict[Any, dict[Bucket, Cell]] = {}
    for bucket, cell in every.items():
        kinds.setdefault(bucket.static, {})[bucket] = cell
    tops = {top: members[top] for members in kinds.values() for top in [largest(list(members))]}
    model = CostModel(experiment, tops, dtype)
    # Tracing a step takes a tenth of a second, so only the largest are traced where even they cost less than compiling
    # once more: no edge can pay then.
    steps = sum(sum(pile.steps) for group in groups for pile in group.piles.values())
    if steps * step_seconds[1] * max(model(top).flops for top in tops) <= worth:
        return model
    return CostModel(experiment, every, dtype)


def _task(bucket: Bucket, group: _Group, padded: Sizes, piles: Sequence[_Pile], seconds: float) -> Task:
    trials = [trial for pile in piles for trial in pile.trials]
    steps = np.array([step for pile in piles for step in pile.steps])
    order = np.argsort(-steps, kind="stable")  # the longest first, or the last lanes would wait for one of them
    total = float(steps.sum())
    return Task(
        bucket=bucket,
        trials=tuple(trials[place] for place in order),
        steps=total,
        seconds=total * seconds,
        waste=1 - sum(pile.own for pile in piles) / (total * math.prod(padded)),
    )
