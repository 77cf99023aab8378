"""Which trials share a compiled program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneft.trial import Bucket, Experiment

Planned = tuple[Mapping[str, Any], int]  # a resolved cell and a seed


@dataclass(frozen=True, kw_only=True)
class Task:
    """The trials of one bucket, in the order in which they run."""

    bucket: Bucket
    trials: tuple[Planned, ...]


def plan(experiment: Experiment, trials: Sequence[Planned]) -> list[Task]:
    """Group trials into buckets.

    Sizes that may be padded are grouped by powers of two and padded to the largest of their group, so that at most half
    of the work is padding, a grid needs few compilations, and a grid of one size is not padded at all. Trials are
    ordered by size within a bucket.
    """
    groups: dict[Any, list[Planned]] = {}
    for cell, seed in trials:
        sizes = experiment.sizes(cell)
        exact = tuple((name, size) for name, size in sorted(sizes.items()) if name not in experiment.padded)
        rough = tuple(
            (name, max(size - 1, 31).bit_length()) for name, size in sorted(sizes.items()) if name in experiment.padded
        )
        static = tuple(
            (axis.name, str(cell[axis.name])) for axis in experiment.axes if axis.type is str and axis.name in cell
        )
        groups.setdefault((exact, rough, static), []).append((cell, seed))
    tasks = []
    for (_, _, static), members in sorted(groups.items(), key=lambda item: str(item[0][:2])):
        every = [experiment.sizes(cell) for cell, _ in members]
        padded = tuple((name, max(one[name] for one in every)) for name in sorted(every[0]))
        members.sort(key=lambda trial: sorted(experiment.sizes(trial[0]).items()))
        tasks.append(Task(bucket=Bucket(sizes=padded, static=static), trials=tuple(members)))
    return sorted(tasks, key=lambda task: task.bucket.sizes)
