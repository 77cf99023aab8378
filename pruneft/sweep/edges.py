"""Where buckets end: the sizes that trials are padded to, so that compilation and padding together cost least."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

Sizes = tuple[int, ...]

# A choice among more sizes than this would take longer than it can save.
_MOST_RUNGS = 512


class Edges(NamedTuple):
    """A choice of buckets.

    Attributes:
      last: for each bucket the index of its last size, rising; a bucket holds what follows the one before.
      sizes: what each bucket is padded to.
      seconds: compilation and steps together.
    """

    last: tuple[int, ...]
    sizes: tuple[Sizes, ...]
    seconds: float


def rung(size: int, coarse: int = 1) -> int:
    """The size rounded up to a fixed ladder: multiples of 16 up to 64, then of 32, all times ``coarse``.

    Sizes of a ladder come up again in the next grid, whose programs are then in the compilation cache.
    """
    step = (16 if size <= 64 * coarse else 32) * coarse
    return -(-size // step) * step


def coarseness(sizes: Sequence[Sizes]) -> int:
    """The finest ladder, 1 or a higher power of two, on which not too many different sizes remain to choose among."""
    coarse = 1
    while len({tuple(rung(size, coarse) for size in one) for one in sizes}) > _MOST_RUNGS:
        coarse *= 2
    return coarse


def choose_edges(
    sizes: Sequence[Sizes],
    steps: Sequence[float],
    seconds: Callable[[Sizes], float],
    compile_seconds: float,
) -> Edges:
    r"""The buckets that cost least, by dynamic programming over sizes in the order given.

    .. math:: best(j) = \min_{i<j} best(i) + C + t(s_{i+1} \vee \dots \vee s_j) \sum_{i<l\le j} steps_l

    Args:
      sizes: what trials need, cheapest first; a bucket takes neighbours and is padded to the largest of each.
      steps: expected lane-steps of all trials of each size.
      seconds: sizes -> t, seconds of one lane-step padded to them.
      compile_seconds: C, what each bucket costs to compile.

    Returns:
      The `Edges`; of choices that cost the same the one with fewer buckets.
    """
    before = [0.0, *accumulate(steps)]
    known: dict[Sizes, float] = {}
    # After the first j sizes: what they cost, where the last bucket begins, and what it is padded to.
    best, start = [0.0], [0]
    padded: list[Sizes] = [()]
    for j in range(1, len(sizes) + 1):
        least, begin, kept = math.inf, 0, sizes[j - 1]
        edge = sizes[j - 1]
        for i in range(j - 1, -1, -1):
            edge = tuple(map(max, edge, sizes[i]))
            if edge not in known:
                known[edge] = seconds(edge)
            cost = best[i] + compile_seconds + known[edge] * (before[j] - before[i])
            if cost <= least:
                least, begin, kept = cost, i, edge
        best.append(least)
        start.append(begin)
        padded.append(kept)
    last: list[int] = []
    chosen: list[Sizes] = []
    j = len(sizes)
    while j > 0:
        last.append(j - 1)
        chosen.append(padded[j])
        j = start[j]
    return Edges(tuple(reversed(last)), tuple(reversed(chosen)), best[-1])
