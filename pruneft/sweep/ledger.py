"""The ledger of a run: one SQLite file, one row per finished trial, and the only truth on disk.

Rows are keyed by (cell, seed, code) and written insert-or-ignore, one transaction per `Ledger.write`, synchronised to
the disk before the call returns: a run killed at any moment loses no acknowledged trial, and none is stored twice. A
ledger holds the trials of one experiment and one code. Summaries and figures are made from it alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pruneft.sweep import _sqlite
from pruneft.sweep._sqlite import LedgerError, connect, connect_read_only, explained
from pruneft.sweep.code import Code
from pruneft.trial import canonical_json

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x50724654  # "PrFT", in the header of every ledger

_SCHEMA = (
    # A new row for every manifest, so that each trial says on which machine and versions it was computed.
    """create table code (
         id integer primary key, hash text not null, experiment text not null, modules text not null,
         settings text not null, manifest text not null, created text not null, unique (hash, manifest))""",
    "create table cell (id integer primary key, spec text not null unique)",
    # Rows stay in the order of arrival, because random keys as the row order make inserts slow in a large file.
    """create table trial (
         id blob primary key, code integer not null references code (id), cell integer not null references cell (id),
         seed integer not null, status integer not null, report text not null)""",
)


class Row(NamedTuple):
    """One finished trial.

    Attributes:
      cell: the resolved cell.
      seed: its seed.
      report: what the trial reported, ``status`` among it; scalars, NaN and infinities included.
    """

    cell: Mapping[str, Any]
    seed: int
    report: Mapping[str, Any]


class Ledger:
    """An open ledger; a context manager. Use from the thread that opened it.

    Attributes:
      path: the file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """For `Ledger.open`."""
        self.path = path
        self._connection = connection
        self._code: int | None = None  # row in table code of what this process runs
        self._begun: Code | None = None
        self._begun_name = ""
        self._owned = False  # no other code can have trials here any more
        self._cells: dict[str, int] = {}

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True, read_only: bool = False) -> Self:
        """Open a ledger, or make one.

        Args:
          path: the SQLite file.
          create: make a new ledger where there is none.
          read_only: for reading alone; works on read-only media too, and never creates.

        Raises:
          LedgerError: there is no ledger, the file is something else, of another schema version or damaged, or may not
            be read or written.
        """
        path = Path(path).resolve()
        create = create and not read_only
        try:
            there = path.is_file()
        except OSError as error:
            raise LedgerError(
                f"cannot open {path}: {error.strerror}. Check the permissions of its directory."
            ) from error
        if not there and not create:
            raise LedgerError(f"there is no ledger at {path}. Check the name of the run.")
        with explained(path):
            if read_only:
                connection = connect_read_only(path)
            else:
                connection = connect(path, "rwc" if create else "rw")
        ledger = cls(path, connection)
        try:
            with explained(path):
                ledger._prepare(create=create, read_only=read_only)
        except BaseException:
            connection.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; everything acknowledged is on disk already."""
        self._connection.close()

    def begin(self, code: Code, experiment_name: str, manifest: Mapping[str, Any]) -> None:
        """Say what is going to be run, before `missing` and `write`.

        Args:
          code: of the experiment, from `code_of`.
          experiment_name: its name.
          manifest: where it runs: versions, platform, device, dtype; anything that JSON can hold. Does not make trials
            different.

        Raises:
          LedgerError: the ledger holds trials of another experiment or code, or cannot be written.
          ValueError: the manifest does not go into JSON.
        """
        try:
            shown = json.dumps(manifest, sort_keys=True)
        except TypeError as error:
            raise ValueError(f"manifest must hold what JSON can hold, got {manifest!r}: {error}.") from error
        with self._transaction() as run:
            self._check_owner(code, experiment_name)
            run(
                "insert or ignore into code (hash, experiment, modules, settings, manifest, created)"
                " values (?, ?, ?, ?, ?, ?)",
                (
                    code.hash,
                    experiment_name,
                    json.dumps(dict(code.modules)),
                    code.settings,
                    shown,
                    datetime.now(UTC).isoformat(timespec="seconds"),
                ),
            )
            (number,) = run("select id from code where hash = ? and manifest = ?", (code.hash, shown)).fetchone()
        self._code, self._begun, self._begun_name, self._owned = number, code, experiment_name, False

    def missing(self, cells: Sequence[Mapping[str, Any]], seeds: int) -> list[tuple[dict[str, Any], int]]:
        """The planned trials (cell, seed), seed = 0 .. seeds - 1, that are not stored yet, cell by cell.

        Args:
          cells: resolved cells.
          seeds: trials per cell.
        """
        with explained(self.path):
            numbers = dict(self._connection.execute("select spec, id from cell"))
            stored = set(self._connection.execute("select cell, seed from trial"))
        todo: list[tuple[dict[str, Any], int]] = []
        for cell in cells:
            number = numbers.get(canonical_json(cell))
            todo.extend((dict(cell), seed) for seed in range(seeds) if (number, seed) not in stored)
        return todo

    def write(self, rows: Sequence[Row]) -> int:
        """Store finished trials in one transaction, on disk when the call returns; what is there already stays.

        Returns:
          How many of them are new.

        Raises:
          LedgerError: nothing was begun, another code wrote first, or the disk refuses; then none of these rows is
            stored.
          ValueError: a report lacks ``status``, holds something other than scalars, or a name that is also an axis.
        """
        if self._code is None or self._begun is None:
            raise LedgerError("nothing was begun: call begin(code, experiment_name, manifest) before write.")
        # Rows of one cell often share its dict, and its canonical form is half of the work.
        texts = {key: canonical_json(cell) for key, cell in {id(row.cell): row.cell for row in rows}.items()}
        encoded = [_encode(row, texts[id(row.cell)], self._begun.hash) for row in rows]
        fresh: dict[str, int] = {}
        with self._transaction() as run:
            if not self._owned:
                # Another process may have begun with other code since; whoever writes first has the ledger.
                self._check_owner(self._begun, self._begun_name)
            for spec in dict.fromkeys(spec for _, spec, *_ in encoded if spec not in self._cells):
                run("insert or ignore into cell (spec) values (?)", (spec,))
                (fresh[spec],) = run("select id from cell where spec = ?", (spec,)).fetchone()
            numbers = {**self._cells, **fresh}
            before = self._connection.total_changes
            self._connection.executemany(
                "insert or ignore into trial (id, code, cell, seed, status, report) values (?, ?, ?, ?, ?, ?)",
                [(key, self._code, numbers[spec], seed, status, report) for key, spec, seed, status, report in encoded],
            )
            new = self._connection.total_changes - before
        # Only now: what a rolled-back transaction numbered does not exist.
        self._cells.update(fresh)
        self._owned = self._owned or bool(encoded)
        return new

    def rows(self) -> list[dict[str, Any]]:
        """Every trial as a flat dict: the cell's axes, ``seed``, ``status`` and the reported scalars, by cell and seed.

        Numbers of a cell come back as in its canonical form, in which 2.0 is 2.
        """
        with explained(self.path):
            cells = {number: json.loads(spec) for number, spec in self._connection.execute("select id, spec from cell")}
            found = self._connection.execute(
                "select cell, seed, status, report from trial join cell on cell.id = trial.cell order by spec, seed"
            )
            return [
                {**cells[number], "seed": seed, "status": status, **json.loads(report)}
                for number, seed, status, report in found
            ]

    def count(self) -> int:
        """How many trials are stored."""
        with explained(self.path):
            return int(self._connection.execute("select count(*) from trial").fetchone()[0])

    @property
    def experiment(self) -> str | None:
        """Name of the experiment whose trials these are; None before anything was begun."""
        row = self._latest()
        return None if row is None else str(row[0])

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest begun with last; empty before anything was begun."""
        row = self._latest()
        with explained(self.path):
            return {} if row is None else dict(json.loads(row[1]))

    def _latest(self) -> tuple[str, str] | None:
        # A code that was begun and wrote nothing does not count once another one did.
        query = """select experiment, manifest from code
                   where hash = coalesce((select hash from trial join code on code.id = trial.code limit 1), hash)
                   order by id = ? desc, id desc limit 1"""
        with explained(self.path):
            row: tuple[str, str] | None = self._connection.execute(query, (self._code,)).fetchone()
        return row

    def _check_owner(self, code: Code, experiment: str) -> None:
        """All trials here are of one code, so the first one tells which."""
        row = self._connection.execute(
            "select hash, experiment, modules, settings from trial join code on code.id = trial.code limit 1"
        ).fetchone()
        if row is None or row[0] == code.hash:
            return
        kept = f"{self.count()} finished trials are kept in {self.path}"
        advice = "Choose another run name with --run, or remove this run if its trials are no longer wanted."
        if row[1] != experiment:
            raise LedgerError(
                f"this run holds trials of experiment {row[1]!r}, not of {experiment!r} ({kept}). {advice}"
            )
        differences = Code(row[0], json.loads(row[2]), row[3]).differences(code)
        reasons = "; ".join(differences[:10]) + ("; …" if len(differences) > 10 else "")
        raise LedgerError(f"the code has changed since this run's trials were computed: {reasons} ({kept}). {advice}")

    def _prepare(self, *, create: bool, read_only: bool) -> None:
        """Check that the file is a ledger of this version before anything in it is changed; make a new one's tables."""
        if self._is_blank() and create:
            with self._transaction() as run:
                if self._is_blank():  # another process may have been faster
                    for statement in _SCHEMA:
                        run(statement)
                    run(f"pragma application_id = {_APPLICATION_ID}")
                    run(f"pragma user_version = {SCHEMA_VERSION}")
        application, version = self._pragma("application_id"), self._pragma("user_version")
        if application != _APPLICATION_ID:
            raise LedgerError(
                f"{self.path} is an SQLite database, but not a ledger of pruneft. Choose another path; it was left as "
                "it is."
            )
        if version != SCHEMA_VERSION:
            advice = (
                "Update pruneft." if version > SCHEMA_VERSION else "Read it with the version of pruneft that wrote it."
            )
            raise LedgerError(
                f"{self.path} has schema version {version}, this version of pruneft reads {SCHEMA_VERSION}. {advice} "
                "It was left as it is."
            )
        if not read_only:
            self._use_wal()
            self._connection.execute("pragma synchronous = full")
            self._connection.execute("pragma foreign_keys = on")

    def _is_blank(self) -> bool:
        tables = self._connection.execute("select count(*) from sqlite_master").fetchone()[0]
        return not tables and not self._pragma("application_id") and not self._pragma("user_version")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"pragma {name}").fetchone()[0])

    def _use_wal(self) -> None:
        """Set the journal; SQLite does not wait here of itself when another process is opening the same file."""
        deadline = time.monotonic() + _sqlite.BUSY_SECONDS
        while True:
            try:
                self._connection.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        with explained(self.path, self._kept):
            self._connection.execute("begin immediate")
            try:
                yield self._connection.execute
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:  # a full disk rolls back of itself
                    self._connection.execute("rollback")
                raise

    def _kept(self) -> str:
        try:
            number = self._connection.execute("select count(*) from trial").fetchone()[0]
        except sqlite3.Error:
            return ""
        return f" {number} finished trials are kept in {self.path}; run the same command again to go on."


def _encode(row: Row, spec: str, code_hash: str) -> tuple[bytes, str, int, int, str]:
    """(id, cell, seed, status, report) as they are stored."""
    report = {name: _scalar(name, value) for name, value in row.report.items()}
    status, seed = report.pop("status", None), int(row.seed)
    if isinstance(status, bool) or not isinstance(status, int):
        raise ValueError(
            f"a report must hold an integer `status`, got {status!r} in a report of {', '.join(map(str, row.report))}."
        )
    if clash := [name for name in report if name in row.cell or name == "seed"]:
        raise ValueError(
            f"reported names must differ from the axes and from 'seed', got {', '.join(clash)}. Rename them in the "
            "report."
        )
    text = f'{{"cell":{spec},"code":"{code_hash}","seed":{seed}}}'  # canonical as well, without a second pass
    return hashlib.blake2b(text.encode(), digest_size=16).digest(), spec, seed, status, json.dumps(report)


def _scalar(name: str, value: Any) -> int | float | bool | str | None:
    plain = (
        value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    )  # NumPy and JAX scalars
    if plain is None or isinstance(plain, bool | int | float | str):
        return plain
    raise ValueError(f"a report holds scalars only, got {value!r} for {name!r}. Reduce it to a number in `report`.")
