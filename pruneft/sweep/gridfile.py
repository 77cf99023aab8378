"""Grid files: a grid in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneft.sweep.values import GridError, check_seeds, nearest

_KEYS = ("experiment", "run", "seeds", "grid", "zip", "cells")


@dataclass(frozen=True, kw_only=True)
class GridFile:
    """What a grid file says; None or empty where it says nothing. `make_grid` checks it against the experiment.

    Attributes:
      experiment: name of the experiment.
      run: name of the run.
      seeds: trials per cell.
      axes: axis name -> scalar or list, of ``[grid]`` and of ``[zip]``.
      zipped: the axes of each ``[zip]``.
      listed: the cells of ``[[cells]]``; None if there are none.
    """

    experiment: str | None = None
    run: str | None = None
    seeds: int | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)
    zipped: tuple[tuple[str, ...], ...] = ()
    listed: tuple[Mapping[str, Any], ...] | None = None


def load_toml(path: str | Path, experiment_names: Sequence[str] = ()) -> GridFile:
    """Read a grid file.

    ``experiment``, ``run`` and ``seeds``; a table ``[grid]`` of axis = scalar or list, whose product is taken; tables
    ``[[zip]]`` (or one ``[zip]``) of equally long lists that move together; tables ``[[cells]]``, one cell each, that
    are added. A number may be a formula of the other axes, ``n = "=1.2*r*d"``.

    Args:
      path: the file.
      experiment_names: the names ``experiment`` may have; any, if empty.

    Raises:
      GridError: the file cannot be read, is not TOML, or holds an unknown key or a value of the wrong kind.
    """
    table = _read(path)
    for key in table:
        if key not in _KEYS:
            raise GridError(f"{path}: unknown key {key!r}. {nearest(key, _KEYS)} Axes belong into the table [grid].")
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
    _check_axes(path, "[grid]", axes, lists=True)
    axes = dict(axes)
    zipped = []
    for group in _tables(path, table, "zip", "axis = list"):
        _check_axes(path, "[zip]", group, lists=True)
        for axis, values in group.items():
            if axis in axes:
                raise GridError(f"{path}: {axis} is given twice, in [zip] and before. Give it once.")
            axes[axis] = values
        zipped.append(tuple(group))
    listed = _tables(path, table, "cells", "axis = value")
    for cell in listed:
        _check_axes(path, "[[cells]]", cell, lists=False)
    seeds = None if "seeds" not in table else check_seeds(table["seeds"])
    return GridFile(
        experiment=name,
        run=table.get("run"),
        seeds=seeds,
        axes=axes,
        zipped=tuple(zipped),
        listed=tuple(listed) if "cells" in table else None,
    )


def _read(path: str | Path) -> dict[str, Any]:
    try:
        # utf-8-sig: some editors put a byte order mark in front, which TOML does not know.
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise GridError(
            f"cannot read the grid file {path}: {error.strerror or error}. Check the path and its permissions."
        ) from error
    except RecursionError as error:
        raise GridError(f"{path} is not a grid file: it is nested too deeply.") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise GridError(f"{path} is not a TOML file: {error}.") from error


def _tables(path: str | Path, table: Mapping[str, Any], key: str, content: str) -> list[dict[str, Any]]:
    """The tables under a key that may stand several times."""
    found = table.get(key, [])
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise GridError(f"{path}: {key} must be tables, got {found!r}. Write [[{key}]] on a line, then {content}.")
    return found


def _check_axes(path: str | Path, place: str, axes: Mapping[str, Any], *, lists: bool) -> None:
    for axis, values in axes.items():
        for value in values if lists and isinstance(values, list) else [values]:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                wanted = "a number, a string, or a list of them" if lists else "a number or a string"
                raise GridError(f"{path}: {axis} in {place} must be {wanted}, got {value!r}.")
