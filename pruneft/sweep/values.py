"""The values of an axis: from a command line argument, from Python or TOML, each checked in the axis's type."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from numbers import Real
from typing import Any

from pruneft.sweep.formula import Formula, function_formula, parse_formula
from pruneft.trial import Axis

# Beyond this, whole numbers are not exact in a cell's canonical form, and neighbours would pass for one another.
_LARGEST_INT = 2**53
_LONGEST_RANGE = 100_000


class GridError(ValueError):
    """A grid that cannot be swept: the message says what was expected, what came, and what to do."""


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
    step). ``1:2:3,5`` is 1, 1.5, 2, 5. An item that begins with ``=`` is a formula of the other axes, ``=1.2*r*d``.

    Args:
      axis: whose values they are.
      text: the argument.

    Returns:
      The values, of the axis's type, in the order given.

    Raises:
      GridError: nothing was given, or an item is not a value of this axis.
    """
    items = [item.strip() for item in (text.split(",") if axis.type is str else _split(text))]
    if not any(items):
        raise GridError(f"{flag(axis.name)}: expected {_wanted(axis)}, got nothing. {_example(axis)}")
    if not all(items):
        raise GridError(f"{flag(axis.name)}: an empty item between commas in {text!r}. {_example(axis)}")
    values: list[Any] = []
    for item in items:
        if axis.type is str:
            values.append(_value(axis, item, item))
        elif item.startswith("="):
            values.append(_formula(axis, item))
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
        In place of a scalar there may be a function of the cell (any axis), or a text ``"=1.2*r*d"`` (number axes).

    Returns:
      The values, of the axis's type, in the order given, or a `Formula` where there was a function or such a text; may
      be empty.

    Raises:
      GridError: a value is not of the axis's type, not finite, or not among its choices.
    """
    if hasattr(values, "tolist"):  # NumPy and JAX arrays and scalars: to plain Python numbers, exactly
        values = values.tolist()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        values = [values]
    return tuple(_checked(axis, value) for value in values)


def computed_value(axis: Axis, number: Any) -> Any:
    """What a formula gave, in the axis's type: rounded to the nearest on an axis of whole numbers, as n = 1.2 r d asks.

    Raises:
      GridError: it is not finite, or no value of the axis.
    """
    number = number.tolist() if hasattr(number, "tolist") else number
    if axis.type is int and _is_finite(number):
        number = round(number)
    return _value(axis, number, f"{number!r} from its formula")


def _checked(axis: Axis, value: Any) -> Any:
    if isinstance(value, Formula):
        return value
    if callable(value):
        return function_formula(value)
    if isinstance(value, str) and value.lstrip().startswith("=") and axis.type is not str:
        return _formula(axis, value)
    return _value(axis, value.tolist() if hasattr(value, "tolist") else value, repr(value))


def _formula(axis: Axis, text: str) -> Formula:
    try:
        return parse_formula(text)
    except ValueError as error:
        raise GridError(f"{flag(axis.name)}: {error}") from error


def _split(text: str) -> list[str]:
    """The text between commas that are not inside parentheses, so that =min(r,d) is one item."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += letter
    return items


def check_seeds(seeds: Any) -> int:
    """The number of trials per cell, or a `GridError`."""
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
