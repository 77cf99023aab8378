"""Grids: which cells a sweep visits, from a command line, a TOML file or Python, checked before anything is drawn.

A grid is the product of the values of its axes; whatever it does not name takes the experiment's default. Every mistake
in it is a `GridError` that names the flag, because a sweep of hours should not start from a misread value.
"""

from __future__ import annotations

import difflib
import itertools
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any

from pruneft.trial import Axis, Experiment, canonical_json

# Beyond this, whole numbers are not exact in a cell's canonical form, and neighbours would pass for one another.
_LARGEST_INT = 2**53
_LONGEST_RANGE = 100_000
# The plan is held in memory, about 1 kB for each trial.
_MOST_TRIALS = 2_000_000


class GridError(ValueError):
    """A grid that cannot be swept: the message says what was expected, what came, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A product grid.

    Attributes:
      axes: axis name -> its values, in the order of the experiment's axes.
      seeds: trials per cell; their seeds are 0 .. seeds - 1.
    """

    axes: Mapping[str, tuple[Any, ...]]
    seeds: int


@dataclass(frozen=True, kw_only=True)
class GridFile:
    """What a grid file says; None where it says nothing.

    Attributes:
      experiment: name of the experiment.
      run: name of the run.
      seeds: trials per cell.
      axes: axis name -> scalar or list, checked against the experiment by `make_grid`.
    """

    experiment: str | None = None
    run: str | None = None
    seeds: int | None = None
    axes: Mapping[str, Any]


def flag(name: str) -> str:
    """The command line flag of an axis or setting: ``n_per_dof`` is ``--n-per-dof``."""
    return "--" + name.replace("_", "-")


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests what may have been meant by an unknown name, with everything there is to choose from."""
    known = list(known)
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known are: {', '.join(known) if known else 'none'}."


def parse_values(axis: Axis, text: str) -> tuple[Any, ...]:
    """The values in a command line argument.

    Items are separated by commas. An item is a value or, on a number axis, a range ``start:stop:count``: ``count``
    evenly spaced values with both ends included, for whole and for real numbers alike (the third number is never a
    step). ``1:2:3,5`` is 1, 1.5, 2, 5.

    Args:
      axis: whose values they are.
      text: the argument.

    Returns:
      The values, of the axis's type, in the order given.

    Raises:
      GridError: nothing was given, or an item is not a value of this axis.
    """
    items = [item.strip() for item in text.split(",")]
    if not any(items):
        raise GridError(f"{flag(axis.name)}: expected {_wanted(axis)}, got nothing. {_example(axis)}")
    if not all(items):
        raise GridError(f"{flag(axis.name)}: an empty item between commas in {text!r}. {_example(axis)}")
    values: list[Any] = []
    for item in items:
        if axis.type is str:
            values.append(_value(axis, item, item))
        elif ":" in item:
            values.extend(_range(axis, item))
        else:
            values.append(_value(axis, _number(axis, item, item), item))
    return tuple(values)


def check_values(axis: Axis, values: Any) -> tuple[Any, ...]:
    """The values of an axis as given from Python or a TOML file.

    Args:
      axis: whose values they are.
      values: a scalar (one value) or any iterable of scalars, NumPy arrays included. A whole float is taken for an int.

    Returns:
      The values, of the axis's type, in the order given; may be empty.

    Raises:
      GridError: a value is not of the axis's type, not finite, or not among its choices.
    """
    if hasattr(values, "tolist"):  # NumPy and JAX arrays and scalars: to plain Python numbers, exactly
        values = values.tolist()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        values = [values]
    return tuple(_value(axis, value.tolist() if hasattr(value, "tolist") else value, repr(value)) for value in values)


def make_grid(experiment: Experiment, axes: Mapping[str, Any] | None = None, seeds: int | None = None) -> Grid:
    """A checked grid: what the caller gave, the experiment's default grid for the rest.

    A derived axis named ``<x>_per_...`` is another way to give axis ``x``; when the caller gives one of the two, the
    default grid's values of the other give way.

    Args:
      experiment: whose grid it is.
      axes: axis name -> scalar or values; each replaces the default grid's values of that axis.
      seeds: trials per cell; the experiment's default if None.

    Raises:
      GridError: an unknown axis, a bad value, an axis without values, an axis given both directly and derived, or a bad
        number of seeds.
    """
    known = {axis.name: axis for axis in experiment.axes}
    given: dict[str, tuple[Any, ...]] = {}
    for name, values in (axes or {}).items():
        if name not in known:
            raise GridError(f"experiment {experiment.name!r} has no axis {name!r}. {nearest(name, known)}")
        given[name] = check_values(known[name], values)
    chosen = {name: check_values(known[name], values) for name, values in experiment.default_grid.items()}
    for derived, base in _derivations(experiment):
        if derived in given and base in given:
            raise GridError(
                f"{flag(derived)} and {flag(base)} both set {base}: got {given[derived]} and {given[base]}. Give only "
                "one of them."
            )
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
    return Grid(
        axes={name: chosen[name] for name in known if name in chosen},
        seeds=_check_seeds(experiment.default_seeds if seeds is None else seeds),
    )


def cells(experiment: Experiment, grid: Grid) -> list[dict[str, Any]]:
    """The resolved cells of a grid, the last axis varying fastest; a cell that comes up twice is kept once.

    Raises:
      GridError: the experiment refuses a cell; the message shows which. Or there are more than two million trials.
    """
    total = math.prod(len(values) for values in grid.axes.values()) * grid.seeds
    if total > _MOST_TRIALS:
        raise GridError(
            f"the grid has {total} trials: at most {_MOST_TRIALS} at a time. Give fewer values or --seeds; a run can be "
            "extended later."
        )
    found: dict[str, dict[str, Any]] = {}
    for point in itertools.product(*grid.axes.values()):
        cell = dict(zip(grid.axes, point, strict=True))
        try:
            resolved = experiment.resolve(cell)
        except ValueError as error:
            shown = ", ".join(f"{name}={value!r}" for name, value in cell.items()) or "all defaults"
            raise GridError(f"cell ({shown}): {error}") from error
        found.setdefault(canonical_json(resolved), resolved)
    return list(found.values())


def load_toml(path: str | Path, experiment_names: Sequence[str] = ()) -> GridFile:
    """Read a grid file: ``experiment``, ``run``, ``seeds`` and a table ``[grid]`` of axis = scalar or list.

    Args:
      path: the file.
      experiment_names: the names ``experiment`` may have; any, if empty.

    Raises:
      GridError: the file cannot be read, is not TOML, or holds an unknown key or a value of the wrong kind.
    """
    try:
        # utf-8-sig: some editors put a byte order mark in front, which TOML does not know.
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise GridError(
            f"cannot read the grid file {path}: {error.strerror or error}. Check the path and its permissions."
        ) from error
    except RecursionError as error:
        raise GridError(f"{path} is not a grid file: it is nested too deeply.") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise GridError(f"{path} is not a TOML file: {error}.") from error
    keys = ("experiment", "run", "seeds", "grid")
    for key in table:
        if key not in keys:
            raise GridError(f"{path}: unknown key {key!r}. {nearest(key, keys)} Axes belong into the table [grid].")
    for key in ("experiment", "run"):
        if not isinstance(table.get(key, ""), str):
            raise GridError(f"{path}: {key} must be a name in quotes, got {table[key]!r}.")
    name = table.get("experiment")
    if name is not None and experiment_names and name not in experiment_names and ":" not in name:
        raise GridError(f"{path}: unknown experiment {name!r}. {nearest(name, experiment_names)}")
    axes = table.get("grid", {})
    if not isinstance(axes, dict):
        raise GridError(
            f"{path}: grid must be a table, got {axes!r}. Write [grid] on a line of its own, then axis = values."
        )
    for axis, values in axes.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise GridError(
                    f"{path}: {axis} in [grid] must be a number, a string, or a list of them, got {value!r}."
                )
    seeds = None if "seeds" not in table else _check_seeds(table["seeds"])
    return GridFile(experiment=name, run=table.get("run"), seeds=seeds, axes=axes)


def _derivations(experiment: Experiment) -> list[tuple[str, str]]:
    """Pairs (derived axis, the axis it stands for)."""
    names = {axis.name for axis in experiment.axes}
    pairs = ((axis.name, axis.name.split("_per_")[0]) for axis in experiment.axes if axis.kind == "derived")
    return [(derived, base) for derived, base in pairs if derived != base and base in names]


def _check_seeds(seeds: Any) -> int:
    if not _is_finite(seeds) or not _is_whole(seeds) or seeds < 1:
        raise GridError(f"--seeds: expected a whole number of trials per cell, at least 1, got {seeds!r}.")
    return int(seeds)


def _wanted(axis: Axis) -> str:
    if axis.type is str:
        return f"one of {', '.join(axis.choices)}" if axis.choices else "names"
    return "whole numbers" if axis.type is int else "finite numbers"


def _example(axis: Axis) -> str:
    if axis.type is str:
        return f"Write for example {flag(axis.name)} {','.join(axis.choices[:2]) or 'name'}."
    example = (
        "4,8,16 or 4:16:3 (3 values from 4 to 16)" if axis.type is int else "1,1.5,2 or 1:2:3 (3 values from 1 to 2)"
    )
    return f"Write for example {flag(axis.name)} {example}."


def _number(axis: Axis, text: str, item: str) -> int | float:
    for kind in (int, float):  # int first: it keeps every digit
        try:
            return kind(text)
        except ValueError:
            pass
    raise GridError(f"{flag(axis.name)}: expected {_wanted(axis)}, got {item!r}. {_example(axis)}")


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_whole(value: Any) -> bool:
    return float(value).is_integer() and abs(value) <= _LARGEST_INT


def _value(axis: Axis, value: Any, shown: str) -> Any:
    """The value in the axis's type, or a GridError that shows it as the user wrote it."""
    if axis.type is str:
        if not isinstance(value, str) or (axis.choices and value not in axis.choices):
            hint = f" {nearest(value, axis.choices)}" if isinstance(value, str) else ""
            raise GridError(f"{flag(axis.name)}: expected {_wanted(axis)}, got {shown}.{hint}")
        return value
    if not _is_finite(value) or (axis.type is int and not _is_whole(value)):
        raise GridError(f"{flag(axis.name)}: expected {_wanted(axis)}, got {shown}. {_example(axis)}")
    return axis.type(value)


def _range(axis: Axis, item: str) -> list[Any]:
    parts = item.split(":")
    if len(parts) != 3:
        raise GridError(f"{flag(axis.name)}: a range is start:stop:count, got {item!r}. {_example(axis)}")
    start, stop = (_value(axis, _number(axis, part, item), item) for part in parts[:2])
    try:
        count = int(parts[2])
    except ValueError:
        count = 0
    if not 1 <= count <= _LONGEST_RANGE or (count == 1 and start != stop):
        raise GridError(
            f"{flag(axis.name)}: the third number of a range is how many values there are, both ends included: a "
            "whole number from 2 to "
            f"{_LONGEST_RANGE}, got {item!r}. {_example(axis)}"
        )
    if count == 1:
        return [start]
    # In exact arithmetic on the decimals, so that 1:1.3:4 holds the 1.1 that a user types, and a cell keeps one name.
    first, last = Fraction(repr(start)), Fraction(repr(stop))
    points = [first + (last - first) * i / (count - 1) for i in range(count)]
    if axis.type is int and any(point.denominator != 1 for point in points):
        steps, rest = divmod(abs(stop - start), count)
        hint = f" For steps of {count} write {start}:{stop}:{steps + 1}." if rest == 0 else ""
        raise GridError(
            f"{flag(axis.name)}: {item!r} means {count} evenly spaced values from {start} to {stop}, which are not "
            f"all whole numbers.{hint}"
        )
    return [axis.type(point) for point in points]
