"""From trials to what is said of each cell: success rate with its interval, how the lanes ended, medians.

`summarise` takes rows and gives a list; `summary` takes a ledger of any size and gives an xarray Dataset, counted by
SQLite.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pruneft.status import Status
from pruneft.sweep._dataset import build, order
from pruneft.sweep.ledger import Ledger

if TYPE_CHECKING:
    import xarray


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
      success: the reported number that counts as success; NaN does not, nor does a trial that did not come to report
        it.

    Returns:
      A list that depends on the rows alone and not on their order. Medians are of everything numeric in the rows but
      the axes, ``seed``, ``status`` and truth values.

    Raises:
      ValueError: a row lacks an axis, or all of them lack ``success``.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    names: set[str] = set()
    for row in rows:
        names.update(row)
        if lacking := [name for name in axes if name not in row]:
            raise _unknown(lacking, row)
        groups.setdefault(tuple(row[name] for name in axes), []).append(row)
    if groups and success not in names:
        raise _unknown([success], names)
    found = []
    for key in sorted(groups, key=lambda key: tuple(map(order, key))):
        found.append(_summary(dict(zip(axes, key, strict=True)), groups[key], success))
    return found


def summary(ledger: Ledger | str | Path, *, of: Sequence[str] = (), success: str | None = None) -> xarray.Dataset:
    """All cells of a ledger, as a Dataset with named dimensions.

    The dimensions are the axes that vary, with their values sorted; the other axes are scalar coordinates. An axis left
    to the experiment (None) is NaN, or the empty name where the axis has names. Where the cells are no grid (n that
    follows from r: the product has more than 10 000 points and four times as many as there are cells) there is one
    dimension ``cell`` instead, with the axes as coordinates along it.

    Variables: ``trials``, ``successes``, ``rate``, ``low`` and ``high`` (95 percent Wilson interval) and ``statuses``,
    the number of trials by ``status``, a dimension of names. An axis of one of these names gets ``_axis`` behind it. A
    point that was never run has 0 trials, rate NaN and the interval [0, 1].

    Args:
      ledger: an open one, or the file's path.
      of: reported numbers; each adds ``<name>_median`` and ``<name>_mean``, over the trials in which it is not NaN.
      success: the reported scalar that counts as success, the run's own if None. NaN does not count, nor does a trial
        that did not come to report it.

    Returns:
      The Dataset; its attributes are ``experiment``, ``manifest`` (JSON) and ``pruneft`` (the version that computed the
      trials, as the manifest has it).

    Raises:
      ImportError: xarray is not installed.
      LedgerError: the ledger cannot be read.
      ValueError: nothing was reported under the name of ``success``, or a name in ``of`` is unknown or no number.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError("summaries need xarray: python -m pip install 'pruneft[cli]'") from error
    if not isinstance(ledger, Ledger):
        with Ledger.open(ledger, read_only=True) as opened:
            return summary(opened, of=of, success=success)
    manifest = ledger.manifest
    attributes = {
        "experiment": ledger.experiment or "",
        "manifest": json.dumps(manifest, sort_keys=True),
        "pruneft": str(manifest.get("pruneft", "unknown")),
    }
    name = ledger.success if success is None else success
    with ledger.snapshot() as snapshot:
        reported = snapshot.reported
        lacking = [each for each in (*([name] if snapshot.columns else []), *of) if each not in reported]
        if lacking:
            raise _unknown(lacking, [*snapshot.axes, "seed", "status", *reported])
        built = build(snapshot, reported.get(name, []), tuple(dict.fromkeys(of)), wilson, status_name)
    return xarray.Dataset(built.variables, coords=built.coordinates, attrs=attributes)


def _unknown(lacking: Sequence[str], names: Iterable[str]) -> ValueError:
    return ValueError(
        f"the trials have no {' and no '.join(map(repr, lacking))}; they have: {', '.join(sorted(names))}."
    )


def _summary(cell: dict[str, Any], rows: Sequence[Mapping[str, Any]], success: str) -> CellSummary:
    successes = sum(_holds(row.get(success)) for row in rows)
    low, high = wilson(successes, len(rows))
    statuses = Counter(status_name(row["status"]) for row in rows if "status" in row)
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


def status_name(code: int) -> str:
    """The name of a `Status`, of one that this version does not know its number."""
    try:
        return Status(code).name
    except ValueError:  # a ledger of a newer version may know more of them
        return f"STATUS_{code}"
