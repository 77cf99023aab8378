"""Reported scalars as columns of the table of trials, and rows of it back as they were reported.

A column holds one name and one kind of value, so a value comes back with the type it had: what is reported as a truth
value in one cell and as a number in another has two columns. Native columns, because a JSON text per trial is slow to
write, to search and to read at ten million of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["bool", "int", "float", "str", "none"]
Value = bool | int | float | str | None

# Names of a flat row that are no report's and no axis's.
RESERVED = ("seed", "status", "status_name")
# SQLite takes NaN for NULL, which here means that nothing was reported.
NAN = b"nan"
# SQLite's own limit is 2000 columns.
MOST_COLUMNS = 1500
# No type for float: SQLite would store 2.0 and -0.0 as the integers 2 and 0.
_DECLARED: dict[Kind, str] = {"bool": "integer", "int": "integer", "float": "", "str": "text", "none": "integer"}
_KINDS: dict[type, Kind] = {bool: "bool", int: "int", float: "float", str: "str", type(None): "none"}


class Column(NamedTuple):
    """A column of the table of trials.

    Attributes:
      number: in the table that remembers columns; the column is called ``v`` and this number.
      name: what was reported.
      kind: the type it was reported with.
    """

    number: int
    name: str
    kind: Kind

    @property
    def sql(self) -> str:
        """The column's name in SQL."""
        return f"v{self.number}"

    @property
    def declaration(self) -> str:
        """For ``alter table trial add column``."""
        return f"{self.sql} {_DECLARED[self.kind]}".rstrip()

    @property
    def holds(self) -> str:
        """SQL for: something is stored here, and it is true, and not NaN."""
        if self.kind == "none":
            return "0"
        if self.kind == "str":
            return f"coalesce({self.sql} <> '', 0)"
        if self.kind == "float":  # a blob is larger than every number, so NaN would be true
            return f"coalesce({self.sql} <> 0 and typeof({self.sql}) <> 'blob', 0)"
        return f"coalesce({self.sql}, 0) <> 0"

    def decode(self, value: Any) -> Value:
        """What was reported, from what is stored; not for NULL, which says that nothing was."""
        if self.kind == "float":
            return float("nan") if type(value) is bytes else float(value)
        if self.kind == "bool":
            return bool(value)
        return None if self.kind == "none" else value


class Encoded(NamedTuple):
    """A row as it is stored.

    Attributes:
      seed: the trial's.
      status: the trial's.
      signature: name and kind of every reported scalar but ``status``.
      values: theirs, as SQLite keeps them.
    """

    seed: int
    status: int
    signature: tuple[tuple[str, Kind], ...]
    values: tuple[Any, ...]


def encode(cell: Mapping[str, Any], seed: int, report: Mapping[str, Any]) -> Encoded:
    """A trial as it is stored.

    Raises:
      ValueError: no integer ``status``, something else than a scalar, a whole number beyond 64 bits, or a name that is
        also an axis or means something else in a flat row.
    """
    status: Any = None
    signature: list[tuple[str, Kind]] = []
    values: list[Any] = []
    for name, value in report.items():
        kind = _KINDS.get(type(value))
        if kind is None:
            value, kind = _plain(name, value)
        if name == "status":
            status = value
            continue
        if name in cell or name in RESERVED or not isinstance(name, str):
            clash = [str(n) for n in report if n != "status" and (n in cell or n in RESERVED or not isinstance(n, str))]
            raise ValueError(
                f"reported names are text and must differ from the axes and from {_listed()}, got {', '.join(clash)}. "
                "Rename them in the report."
            )
        if kind == "float":
            value = value if value == value else NAN
        elif kind == "int" and not -(2**63) <= value < 2**63:
            raise ValueError(f"a whole number in a report must fit into 64 bits, got {value} for {name!r}.")
        elif kind == "none":
            value = 1
        signature.append((name, kind))
        values.append(value)
    if type(status) is not int:
        raise ValueError(
            f"a report must hold an integer `status`, got {status!r} in a report of {', '.join(map(str, report))}."
        )
    return Encoded(int(seed), status, tuple(signature), tuple(values))


def check_axes(cell: Mapping[str, Any]) -> None:
    """Refuse a cell whose axes could not be told from the rest of a flat row.

    Raises:
      ValueError: an axis is called ``seed``, ``status`` or ``status_name``.
    """
    if clash := [name for name in RESERVED if name in cell]:
        raise ValueError(f"an axis must not be called {_listed()}, got {', '.join(clash)}. Rename it.")


def decode_report(columns: Sequence[Column], values: Sequence[Any]) -> dict[str, Value]:
    """What a trial reported, from its stored values in the order of the columns."""
    return {
        column.name: column.decode(value) for column, value in zip(columns, values, strict=True) if value is not None
    }


def _listed() -> str:
    return ", ".join(map(repr, RESERVED))


def _plain(name: str, value: Any) -> tuple[Value, Kind]:
    """NumPy and JAX scalars, and subclasses such as an IntEnum, as Python's own."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value), _KINDS[kind]
    if value is None:
        return None, "none"
    raise ValueError(f"a report holds scalars only, got {value!r} for {name!r}. Reduce it to a number in `report`.")
