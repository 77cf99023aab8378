"""Grids: which cells a sweep visits, checked before anything is drawn.

A grid is the product of the values of its axes, some of which may move together, and a list of further cells; a value
may be a formula of the other axes. Whatever a cell does not name takes the experiment's default. Every mistake in it is a
`GridError` that names the flag, because a sweep of hours should not start from a misread value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneft.sweep.formula import Formula, Values
from pruneft.sweep.values import GridError, check_seeds, check_values, computed_value, flag, nearest
from pruneft.trial import Axis, Experiment, canonical_json

# The plan is held in memory: about 1 kB for each cell, 0.1 kB for each trial.
_MOST_TRIALS = 2_000_000
_PLAIN = (int, float, str, type(None))
_SHOWN = 6  # values of an axis in a description


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A product of axes and groups of axes, and further cells.

    Attributes:
      axes: axis name -> its values, in the order of the experiment's axes; a value may be a `Formula`.
      seeds: trials per cell; their seeds are 0 .. seeds - 1.
      zipped: groups of axes that move together: the first values of all, the second values of all, ...
      listed: cells beside the product. With ``listed`` and no ``axes`` there is no product, only they.
    """

    axes: Mapping[str, tuple[Any, ...]]
    seeds: int
    zipped: tuple[tuple[str, ...], ...] = ()
    listed: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        taken: set[str] = set()
        for group in self.zipped:
            shown = ", ".join(group)
            if len(group) < 2:
                raise GridError(f"--zip {shown}: at least two axes move together, got {len(group)}. Write --zip r,k.")
            for name in group:
                if name not in self.axes:
                    raise GridError(f"--zip {shown}: {name} has no values. Give them: {flag(name)} VALUES.")
                if name in taken:
                    raise GridError(f"--zip {shown}: {name} already moves with other axes. Name every axis once.")
                taken.add(name)
            lengths = {name: len(self.axes[name]) for name in group}
            if len(set(lengths.values())) > 1:
                counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
                raise GridError(f"--zip {shown}: axes that move together need equally many values: {counts}.")

    @property
    def factors(self) -> tuple[tuple[str, ...], ...]:
        """What the product is taken of: axes and groups of axes, each group where its first axis stands."""
        group_of = {name: group for group in self.zipped for name in group}
        return tuple(dict.fromkeys(group_of.get(name, (name,)) for name in self.axes))

    @property
    def points(self) -> int:
        """How many points there are, before those that come up twice are dropped."""
        if not self.axes and self.listed:
            return len(self.listed)
        return math.prod(len(self.axes[names[0]]) for names in self.factors) + len(self.listed)

    def spec(self) -> dict[str, Any]:
        """The grid as JSON: a formula as its text, a Python function as ``=function`` and its name.

        ``make_grid(experiment, spec["axes"], spec["seeds"], zipped=spec["zip"], listed=spec["cells"])`` is this grid
        again, unless it holds Python functions.
        """

        def plain(value: Any) -> Any:
            return _text(value) if isinstance(value, Formula) else value

        return {
            "axes": {name: [plain(value) for value in values] for name, values in self.axes.items()},
            "zip": [list(group) for group in self.zipped],
            "cells": [{name: plain(value) for name, value in cell.items()} for cell in self.listed] or None,
            "seeds": self.seeds,
        }

    def describe(self) -> str:
        """The grid in one line, the same for the same grid."""
        parts = []
        for names in self.factors if self.axes or not self.listed else ():
            rows = list(zip(*(self.axes[name] for name in names), strict=True))
            single = len(names) == 1
            texts = [_text(row[0]) if single else f"({', '.join(map(_text, row))})" for row in rows]
            shown = ", ".join(texts)
            if len(texts) > _SHOWN:
                shown = f"{', '.join(texts[:3])}, ..., {texts[-1]} ({len(texts)} values)"
            parts.append(f"{names[0] if single else '(' + ', '.join(names) + ')'} = {shown}")
        if self.listed:
            parts.append(f"{len(self.listed)} listed {'cell' if len(self.listed) == 1 else 'cells'}")
        text = "; ".join(parts) or "the defaults"
        return f"{text}; {self.seeds} {'seed' if self.seeds == 1 else 'seeds'}"


def make_grid(
    experiment: Experiment,
    axes: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    *,
    zipped: Iterable[Sequence[str]] = (),
    listed: Iterable[Mapping[str, Any]] | None = None,
) -> Grid:
    """A checked grid: what the caller gave, the experiment's default grid for the rest.

    A derived axis named ``<x>_per_...`` is another way to give axis ``x``; when the caller gives one of the two, the
    default grid's values of the other give way.

    Args:
      experiment: whose grid it is.
      axes: axis name -> scalar or values; each replaces the default grid's values of that axis. A value may be a
        function of the cell, or a text such as ``"=1.2*r*d"``; on an axis of whole numbers its result is rounded.
      seeds: trials per cell; the experiment's default if None.
      zipped: groups of names of axes that move together instead of being multiplied.
      listed: cells (axis name -> value) that are added to the product; where no ``axes`` are given, the only ones.

    Raises:
      GridError: an unknown axis, a bad value, an axis without values, an axis given both directly and derived, axes that
        move together but have different numbers of values, an empty list of cells, or a bad number of seeds.
    """
    known = {axis.name: axis for axis in experiment.axes}
    given = {name: check_values(_axis(experiment, name), values) for name, values in (axes or {}).items()}
    pairs = _derivations(experiment)
    _check_derived(pairs, given)
    extra = None if listed is None else tuple(_listed_cell(experiment, pairs, cell) for cell in listed)
    if extra is not None and not extra:
        raise GridError("empty grid: the list of cells is empty. Give at least one cell, or leave the list out.")
    chosen: dict[str, tuple[Any, ...]] = {}
    if given or extra is None:
        chosen = {name: check_values(known[name], values) for name, values in experiment.default_grid.items()}
    for derived, base in pairs:
        if base in given:
            chosen.pop(derived, None)
        if derived in given:
            chosen.pop(base, None)
    chosen.update(given)
    for name, values in chosen.items():
        if not values:
            raise GridError(
                f"empty grid: {flag(name)} has no values. Give at least one, or leave it out for the default."
            )
        _check_formulas(experiment, name, values)
    return Grid(
        axes={name: chosen[name] for name in known if name in chosen},
        seeds=check_seeds(experiment.default_seeds if seeds is None else seeds),
        zipped=tuple(_group(experiment, group) for group in zipped),
        listed=extra or (),
    )


def cells(experiment: Experiment, grid: Grid) -> list[dict[str, Any]]:
    """The resolved cells of a grid, the last axis varying fastest, then the listed ones; one that comes up twice is kept once.

    Raises:
      GridError: the experiment refuses a cell, or a formula cannot be computed; the message shows which. Or there are
        more than two million trials.
    """
    total = grid.points * grid.seeds
    if total > _MOST_TRIALS:
        raise GridError(
            f"the grid has {total} trials: at most {_MOST_TRIALS} at a time. Give fewer values or --seeds; a run can be "
            "extended later."
        )
    known = {axis.name: axis for axis in experiment.axes}
    defaults = {axis.name: None if axis.kind == "derived" else axis.default for axis in experiment.axes}
    found: dict[Any, dict[str, Any]] = {}
    names: list[str] = []  # of resolved cells
    for point in _points(grid):
        try:
            cell = _computed(known, defaults, point)
            resolved = experiment.resolve(cell)
        except ValueError as error:
            shown = ", ".join(f"{name}={_text(value)}" for name, value in point.items()) or "all defaults"
            raise GridError(f"cell ({shown}): {error}") from error
        names = names or list(resolved)
        found.setdefault(_identity(resolved, names), resolved)
    return list(found.values())


def _points(grid: Grid) -> Iterator[dict[str, Any]]:
    if grid.axes or not grid.listed:
        factors = grid.factors
        columns = [list(zip(*(grid.axes[name] for name in names), strict=True)) for names in factors]
        names = [name for group in factors for name in group]
        for parts in itertools.product(*columns):
            yield dict(zip(names, itertools.chain.from_iterable(parts), strict=True))
    for cell in grid.listed:
        yield dict(cell)


def _computed(known: Mapping[str, Axis], defaults: Mapping[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """The point with its formulas computed."""
    if not any(isinstance(value, Formula) for value in point.values()):
        return point
    values = Values(point, defaults, lambda name, number: computed_value(known[name], number))
    return {name: values[name] for name in point}


def _identity(cell: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What tells cells with these axes apart: as their canonical form does, at a tenth of its price."""
    values = tuple(cell.values())
    plain = all(kind in _PLAIN for kind in map(type, values)) and list(cell) == names
    finite = plain and all(math.isfinite(value) for value in values if type(value) is float)
    return values if finite else canonical_json(cell)


def _axis(experiment: Experiment, name: str) -> Axis:
    for axis in experiment.axes:
        if axis.name == name:
            return axis
    known = [axis.name for axis in experiment.axes]
    raise GridError(f"experiment {experiment.name!r} has no axis {name!r}. {nearest(name, known)}")


def _listed_cell(experiment: Experiment, pairs: Sequence[tuple[str, str]], cell: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in cell.items():
        values = check_values(_axis(experiment, name), value)
        if len(values) != 1:
            raise GridError(
                f"a listed cell has one value on each axis: {name} has {len(values)}. List a cell for each."
            )
        _check_formulas(experiment, name, values)
        found[name] = values[0]
    _check_derived(pairs, found)
    return found


def _group(experiment: Experiment, group: Sequence[str]) -> tuple[str, ...]:
    names = [group] if isinstance(group, str) else list(group)
    return tuple(_axis(experiment, name).name for name in names)


def _check_formulas(experiment: Experiment, name: str, values: Iterable[Any]) -> None:
    known = [axis.name for axis in experiment.axes]
    for value in values:
        for read in value.names if isinstance(value, Formula) else ():
            if read not in known:
                raise GridError(f"{flag(name)}: {value.text} reads {read!r}, which is no axis. {nearest(read, known)}")
            if _axis(experiment, read).type is str:
                raise GridError(f"{flag(name)}: {value.text} reads {read}, whose values are names, not numbers.")


def _check_derived(pairs: Iterable[tuple[str, str]], given: Mapping[str, Any]) -> None:
    for derived, base in pairs:
        if derived in given and base in given:
            raise GridError(
                f"{flag(derived)} and {flag(base)} both set {base}: got {_text(given[derived])} and "
                f"{_text(given[base])}. Give only one of them."
            )


def _derivations(experiment: Experiment) -> list[tuple[str, str]]:
    """Pairs (derived axis, the axis it stands for)."""
    names = {axis.name for axis in experiment.axes}
    pairs = ((axis.name, axis.name.split("_per_")[0]) for axis in experiment.axes if axis.kind == "derived")
    return [(derived, base) for derived, base in pairs if derived != base and base in names]


def _text(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, Formula):
        return value.text if value.text.startswith("=") else f"=function {value.text}"
    return f"({', '.join(map(_text, value))})" if isinstance(value, tuple) else repr(value)
