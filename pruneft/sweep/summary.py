"""From trials to one line per cell: success rate with its interval, how the lanes ended, and medians."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pruneft.status import Status


class CellSummary(NamedTuple):
    """What the trials of one cell say.

    Attributes:
      cell: the axes that were asked for and their values.
      trials: how many trials there are.
      successes: how many of them succeeded.
      rate: successes / trials.
      low: lower end of the 95 percent Wilson interval of the rate.
      high: its upper end.
      statuses: name of a `Status` -> how many trials ended with it, by falling count.
      medians: reported number -> its median over the trials in which it is not NaN; NaN if there is none.
    """

    cell: dict[str, Any]
    trials: int
    successes: int
    rate: float
    low: float
    high: float
    statuses: dict[str, int]
    medians: dict[str, float]


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    r"""Wilson score interval of a success rate.

    .. math:: \frac{k + z^2/2}{m + z^2} \pm \frac{z}{m + z^2} \sqrt{\frac{k (m - k)}{m} + \frac{z^2}{4}}

    Args:
      successes: k.
      trials: m; without trials nothing is known, and the interval is [0, 1].
      z: standard normal quantile; the default gives 95 percent.

    Returns:
      The lower and the upper end, within [0, 1].

    Raises:
      ValueError: not 0 <= successes <= trials, or z is not positive.

    Source: Wilson (1927), J. Amer. Statist. Assoc. 22, 209-212.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got successes={successes}, trials={trials}.")
    if not z > 0:
        raise ValueError(f"z must be positive, got {z}.")
    if trials == 0:
        return 0.0, 1.0
    square = z * z
    centre = (successes + square / 2) / (trials + square)
    half = z / (trials + square) * math.sqrt(successes * (trials - successes) / trials + square / 4)
    # At the ends the formula gives 0 and 1 exactly; rounding must not push the rate out of its own interval.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def summarise(rows: Iterable[Mapping[str, Any]], axes: Sequence[str], success: str = "success") -> list[CellSummary]:
    """One summary per cell, sorted by the axes in the order given.

    Args:
      rows: flat rows as a ledger returns them: axes, ``seed``, ``status`` and reported numbers.
      axes: what makes a cell; rows that differ in other axes are pooled.
      success: the reported number that counts as success; NaN does not.

    Returns:
      A list that depends on the rows alone and not on their order. Medians are of everything numeric in the rows but
      the axes, ``seed``, ``status`` and truth values.

    Raises:
      ValueError: a row lacks an axis or ``success``.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        lacking = [name for name in (*axes, success) if name not in row]
        if lacking:
            raise ValueError(
                f"the trials have no {' and no '.join(map(repr, lacking))}; they have: {', '.join(sorted(row))}."
            )
        groups.setdefault(tuple(row[name] for name in axes), []).append(row)
    return [_summary(dict(zip(axes, key, strict=True)), groups[key], success) for key in sorted(groups, key=_order)]


def _order(key: tuple[Any, ...]) -> tuple[tuple[int, Any], ...]:
    """Axes left to the experiment (None) first, then numbers, then names: they do not compare with one another."""
    return tuple((0, 0) if value is None else (2, value) if isinstance(value, str) else (1, value) for value in key)


def _summary(cell: dict[str, Any], rows: Sequence[Mapping[str, Any]], success: str) -> CellSummary:
    successes = sum(_holds(row[success]) for row in rows)
    low, high = wilson(successes, len(rows))
    statuses = Counter(_status_name(row["status"]) for row in rows if "status" in row)
    numbers: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if (
                name in cell
                or name in ("seed", "status")
                or isinstance(value, bool)
                or not isinstance(value, int | float)
            ):
                continue
            kept = numbers.setdefault(name, [])
            if not math.isnan(value):
                kept.append(float(value))
    return CellSummary(
        cell=cell,
        trials=len(rows),
        successes=successes,
        rate=successes / len(rows),
        low=low,
        high=high,
        statuses=dict(sorted(statuses.items(), key=lambda item: (-item[1], item[0]))),
        medians={name: statistics.median(kept) if kept else math.nan for name, kept in sorted(numbers.items())},
    )


def _holds(value: Any) -> bool:
    return value == value and bool(value)  # bool(nan) is True


def _status_name(code: int) -> str:
    try:
        return Status(code).name
    except ValueError:  # a ledger of a newer version may know more of them
        return f"STATUS_{code}"
