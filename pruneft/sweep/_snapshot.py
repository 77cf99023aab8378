"""A ledger as it stood at one moment, for whoever reads much of it while others write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from pruneft.sweep._columns import Column
from pruneft.sweep._sqlite import connect_read_only, explained

_CHUNK = 4096


class Tally(NamedTuple):
    """How many trials of a cell ended with one status, and how many of those succeeded."""

    cell: int
    status: int
    trials: int
    successes: int


class Snapshot:
    """One read transaction on a connection of its own; a context manager. Blocks no writer and sees none.

    Attributes:
      path: the ledger, which `Ledger.open` has found to be one.
      cells: number of a cell -> its axes, in the order of their canonical text.
      columns: of the reported scalars, in the order in which they first appeared.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            self._connection = connect_read_only(path)
        try:
            with explained(path):
                self._connection.execute("pragma temp_store = memory")
                self._connection.execute("begin")
                cells = self._connection.execute("select id, spec from cell order by spec")
                self.cells: dict[int, dict[str, Any]] = {number: json.loads(spec) for number, spec in cells}
                self.columns = read_columns(self._connection)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the transaction."""
        self._connection.close()

    @property
    def axes(self) -> list[str]:
        """Names of the axes of all cells, sorted."""
        return sorted({name for cell in self.cells.values() for name in cell})

    @property
    def reported(self) -> dict[str, list[Column]]:
        """Reported name -> its columns, one per kind of value."""
        found: dict[str, list[Column]] = {}
        for column in self.columns:
            found.setdefault(column.name, []).append(column)
        return found

    def trials(self, expressions: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """(cell number, seed, status, *expressions) of every trial, by cell and seed; holds few of them at a time."""
        # A cross join is SQLite's way to say which table leads: rows then come sorted without being sorted.
        yield from self._read(
            f"select {', '.join(['cell, seed, status', *expressions])} from cell cross join trial on trial.cell = cell.id"
            " order by spec, seed"
        )

    def numbers(self, cell: int, expressions: Sequence[str]) -> np.ndarray:
        """Numbers of the trials of one cell, float64 [trials, expressions]; NULL is NaN."""
        chunks = [np.empty((0, len(expressions)))]
        with explained(self.path):
            found = self._connection.execute(f"select {', '.join(expressions)} from trial where cell = ?", (cell,))
            while chunk := found.fetchmany(_CHUNK):
                chunks.append(np.array(chunk, dtype=np.float64))
        return np.concatenate(chunks)

    def tally(self, success: Sequence[Column]) -> Iterator[Tally]:
        """Counts by cell and status, from the index alone if ``success`` is the run's own."""
        holds = " or ".join(column.holds for column in success) or "0"
        yield from map(
            Tally._make,
            self._read(f"select cell, status, count(*), sum({holds}) from trial group by cell, status"),
        )

    def count(self) -> int:
        """How many trials there are."""
        return int(next(self._read("select count(*) from trial"))[0])

    def _read(self, query: str) -> Iterator[tuple[Any, ...]]:
        with explained(self.path):
            found = self._connection.execute(query)
            while chunk := found.fetchmany(_CHUNK):
                yield from chunk


def read_columns(connection: sqlite3.Connection) -> tuple[Column, ...]:
    """The columns of the reported scalars, in the order in which they first appeared."""
    return tuple(map(Column._make, connection.execute("select id, name, kind from reported order by id")))
