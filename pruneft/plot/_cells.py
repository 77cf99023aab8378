"""The cells of a phase diagram as numbers: checked, with their edges, and where success passes one half."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pruneft.plot._style import vector


class Cells(NamedTuple):
    """Checked input. ``probability`` is NaN where nothing was run; ``low`` and ``high`` are the cells' edges."""

    row: np.ndarray
    x: np.ndarray
    probability: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rows: tuple[Any, ...]
    scale: str

    @classmethod
    def checked(cls, row: Any, x: ArrayLike, successes: ArrayLike, trials: ArrayLike, scale: str) -> Cells:
        where = vector("x", x)
        good, total = vector("successes", successes), vector("trials", trials)
        names = [row_key(r) for r in np.asarray(row).ravel().tolist()]
        lengths = {"row": len(names), "x": where.size, "successes": good.size, "trials": total.size}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"row, x, successes and trials must be equally long, got {lengths}.")
        if not np.isfinite(where).all():
            raise ValueError("x: expected finite values, got NaN or an infinity. Leave such cells out.")
        if len({isinstance(name, str) for name in names}) != 1:
            raise ValueError("row: expected all numbers or all strings, got a mixture.")
        if not isinstance(names[0], str) and not all(map(math.isfinite, names)):
            raise ValueError("row: expected finite numbers, got NaN or an infinity.")
        run = total > 0
        with np.errstate(invalid="ignore"):
            wrong = run & ~((good >= 0) & (good <= total)) | (total < 0) | np.isposinf(total)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"cell {i} (row {names[i]}, x {where[i]:g}): expected 0 <= successes <= trials, "
                f"got successes={good[i]:g}, trials={total[i]:g}."
            )
        if len(set(zip(names, where.tolist(), strict=True))) != where.size:
            raise ValueError("two cells have the same row and x: add up their successes and trials first.")

        rows = tuple(dict.fromkeys(names)) if isinstance(names[0], str) else tuple(sorted(set(names)))
        number = np.array([rows.index(name) for name in names])
        scale = _scale(scale, where, number)
        place = np.log(where) if scale == "log" else where
        spare = _spare_width(place, number)
        low, high = np.empty_like(place), np.empty_like(place)
        for i in range(len(rows)):
            member = np.flatnonzero(number == i)
            member = member[np.argsort(place[member])]
            edge = _edges(place[member], spare)
            low[member], high[member] = edge[:-1], edge[1:]
        if scale == "log":
            low, high = np.exp(low), np.exp(high)
        probability = np.full(where.shape, np.nan)
        probability[run] = good[run] / total[run]
        return cls(number, where, probability, low, high, rows, scale)

    def transitions(self) -> dict[Any, float]:
        """Row to the x where success passes one half for the last time, and stays; rows without one are left out."""
        found: dict[Any, float] = {}
        for i, row_value in enumerate(self.rows):
            member = np.flatnonzero((self.row == i) & ~np.isnan(self.probability))
            member = member[np.argsort(self.x[member])]
            p, x = self.probability[member], self.x[member]
            below = np.flatnonzero(p < 0.5)
            if below.size == 0 or below[-1] == p.size - 1:
                continue
            j = int(below[-1])
            found[row_value] = float(x[j] + (0.5 - p[j]) / (p[j + 1] - p[j]) * (x[j + 1] - x[j]))
        return found


def row_key(value: Any) -> Any:
    """Rows of any number type compare and print alike."""
    return value if isinstance(value, str) else float(value)


def _scale(scale: str, x: np.ndarray, row: np.ndarray) -> str:
    if scale not in ("auto", "linear", "log"):
        raise ValueError(f"scale: expected 'auto', 'linear' or 'log', got {scale!r}.")
    if scale == "log" and (x <= 0).any():
        raise ValueError(f"scale='log' needs positive x, got {x.min():g}. Use scale='linear'.")
    if scale != "auto":
        return scale
    if (x <= 0).any():
        return "linear"
    gaps = [np.diff(np.sort(x[row == i])) for i in np.unique(row)]
    growth = [gap[-1] / gap[0] for gap in gaps if gap.size > 1]
    return "log" if x.max() / x.min() >= 20 or (growth and np.median(growth) >= 4) else "linear"


def _spare_width(place: np.ndarray, row: np.ndarray) -> float:
    """Width of a cell that is alone in its row: as the others' usual width, or whatever the rows leave room for."""
    gaps = np.concatenate([np.diff(np.sort(place[row == i])) for i in np.unique(row)])
    if gaps.size == 0:
        gaps = np.diff(np.unique(place))
    return float(np.median(gaps)) if gaps.size else 0.2


def _edges(place: np.ndarray, spare: float) -> np.ndarray:
    if place.size == 1:
        return np.array([place[0] - spare / 2, place[0] + spare / 2])
    middle = (place[1:] + place[:-1]) / 2
    return np.concatenate([[2 * place[0] - middle[0]], middle, [2 * place[-1] - middle[-1]]])
