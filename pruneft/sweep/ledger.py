"""The ledger of a run: one SQLite file, one row per finished trial, and the only truth on disk.

A trial is known by (cell, seed, code) and written insert-or-ignore, one transaction per `Ledger.write`, synchronised to
the disk before the call returns: a run killed at any moment loses no acknowledged trial, and none is stored twice. A
ledger holds the trials of one experiment and one code. Summaries and figures are made from it alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pruneft.sweep import _schema
from pruneft.sweep._columns import MOST_COLUMNS, Column, Kind, check_axes, decode_report, encode
from pruneft.sweep._schema import SCHEMA_VERSION as SCHEMA_VERSION
from pruneft.sweep._snapshot import Snapshot, read_columns
from pruneft.sweep._sqlite import LedgerError, connect, connect_read_only, explained
from pruneft.sweep.code import Code
from pruneft.sweep.progress import Progress, stored
from pruneft.trial import canonical_json


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


class _Begun(NamedTuple):
    """What this process runs, and its rows in the tables of codes and manifests."""

    code: Code
    name: str
    success: str
    number: int
    manifest: int


class Ledger:
    """An open ledger; a context manager. Use from the thread that opened it.

    Attributes:
      path: the file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """For `Ledger.open`."""
        self.path = path
        self._connection = connection
        self._begun: _Begun | None = None
        self._owned = False  # no other code can have trials here any more
        self._cells: dict[str, int] = {}
        self._columns: dict[tuple[str, Kind], Column] = {}

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
                _schema.prepare(connection, path, create=create, read_only=read_only)
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

    def begin(self, code: Code, experiment_name: str, manifest: Mapping[str, Any], *, success: str = "success") -> None:
        """Say what is going to be run, before `missing` and `write`.

        Args:
          code: of the experiment, from `code_of`.
          experiment_name: its name.
          manifest: where it runs: versions, platform, device, dtype; anything that JSON can hold. Does not make trials
            different.
          success: the reported scalar that counts as success. A summary may ask for another one, and then takes longer.

        Raises:
          LedgerError: the ledger holds trials of another experiment or code, or cannot be written.
          ValueError: the manifest does not go into JSON.
        """
        try:
            shown = json.dumps(manifest, sort_keys=True)
        except TypeError as error:
            raise ValueError(f"manifest must hold what JSON can hold, got {manifest!r}: {error}.") from error
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._transaction() as run:
            self.check_owner(code, experiment_name)
            run(
                "insert or ignore into code (hash, experiment, modules, settings) values (?, ?, ?, ?)",
                (code.hash, experiment_name, json.dumps(dict(code.modules)), code.settings),
            )
            (number,) = run("select id from code where hash = ?", (code.hash,)).fetchone()
            found = (number, shown, success)
            run("insert or ignore into manifest (code, manifest, success, created) values (?, ?, ?, ?)", (*found, now))
            (where,) = run("select id from manifest where code = ? and manifest = ? and success = ?", found).fetchone()
            _schema.index_success(self._connection, [c for c in read_columns(self._connection) if c.name == success])
        self._begun = _Begun(code, experiment_name, success, number, where)
        self._owned = False

    def missing(self, cells: Sequence[Mapping[str, Any]], seeds: int) -> list[tuple[dict[str, Any], int]]:
        """The planned trials (cell, seed), seed = 0 .. seeds - 1, that are not stored yet, cell by cell.

        Looks up only the planned cells, so that a few trials more are found quickly in a run of millions.

        Args:
          cells: resolved cells.
          seeds: trials per cell.

        Returns:
          Pairs; those of one cell share its dict.
        """
        todo: list[tuple[dict[str, Any], int]] = []
        with explained(self.path):
            run = self._connection.execute
            empty = run("select 1 from trial limit 1").fetchone() is None
            run("create temporary table if not exists planned (place integer primary key, spec text)")
            try:
                if not empty:
                    run("begin")  # of this connection's temporary table alone: nobody is locked out
                    specs = ((place, canonical_json(cell)) for place, cell in enumerate(cells))
                    self._connection.executemany("insert into planned values (?, ?)", specs)
                    run("commit")
                found = run(
                    "select place, seed from planned cross join cell using (spec) cross join trial on trial.cell = cell.id"
                    " where seed >= 0 and seed < ? order by place",
                    (seeds,),
                )
                stored_seeds = itertools.groupby(found, key=lambda row: row[0])
                place, group = next(stored_seeds, (-1, iter(())))
                for here, cell in enumerate(cells):
                    shared, there = dict(cell), set()
                    if place == here:
                        there = {seed for _, seed in group}
                        place, group = next(stored_seeds, (-1, iter(())))
                    todo.extend((shared, seed) for seed in range(seeds) if seed not in there)
            finally:
                if self._connection.in_transaction:
                    run("rollback")
                run("drop table planned")
        return todo

    def write(self, rows: Sequence[Row], progress: Progress | None = None) -> int:
        """Store finished trials in one transaction, on disk when the call returns; what is there already stays.

        Args:
          rows: finished trials.
          progress: how far the run is with them; stored in the same transaction.

        Returns:
          How many of them are new.

        Raises:
          LedgerError: nothing was begun, another code wrote first, or the disk refuses; then none of these rows is
            stored.
          ValueError: a report lacks ``status``, holds something other than scalars, or a name that is also an axis.
        """
        if self._begun is None:
            raise LedgerError("nothing was begun: call begin(code, experiment_name, manifest) before write.")
        # Rows of one cell often share its dict, and its canonical form is half of the work.
        specs = {key: canonical_json(cell) for key, cell in {id(row.cell): row.cell for row in rows}.items()}
        encoded = [(specs[id(row.cell)], encode(*row)) for row in rows]
        unknown = {spec: row.cell for row in rows if (spec := specs[id(row.cell)]) not in self._cells}
        for cell in unknown.values():
            check_axes(cell)
        told = None if progress is None else stored(progress)
        with self._transaction() as run:
            if not self._owned:
                # Another process may have begun with other code since; whoever writes first has the ledger.
                self.check_owner(self._begun.code, self._begun.name)
            fresh: dict[str, int] = {}
            for spec in unknown:
                run("insert or ignore into cell (spec) values (?)", (spec,))
                (fresh[spec],) = run("select id from cell where spec = ?", (spec,)).fetchone()
            numbers = {**self._cells, **fresh}
            columns = self._with_columns(dict.fromkeys(key for _, row in encoded for key in row.signature))
            before = self._connection.total_changes
            # Neighbours of one signature together, and in the order given: of two rows of a trial the first one stays.
            for signature, group in itertools.groupby(encoded, key=lambda pair: pair[1].signature):
                names = ["cell", "seed", "code", "manifest", "status", *(columns[key].sql for key in signature)]
                self._connection.executemany(
                    f"insert or ignore into trial ({', '.join(names)}) values ({', '.join('?' * len(names))})",
                    [
                        (numbers[spec], row.seed, self._begun.number, self._begun.manifest, row.status, *row.values)
                        for spec, row in group
                    ],
                )
            new = self._connection.total_changes - before
            if told is not None:
                self._tell(told)
        # Only now: what a rolled-back transaction numbered does not exist.
        self._cells.update(fresh)
        self._columns = columns
        self._owned = self._owned or bool(encoded)
        return new

    def report_progress(self, progress: Progress) -> None:
        """Store how far the run is, in place of what was said before.

        Raises:
          LedgerError: the ledger cannot be written.
          ValueError: a number is not finite or negative, or the state is unknown.
        """
        told = stored(progress)
        with self._transaction():
            self._tell(told)

    @property
    def progress(self) -> tuple[Progress, datetime] | None:
        """How far the run was when its driver last said so, and the wall clock then (UTC); None if it never did."""
        with explained(self.path):
            row = self._connection.execute(f"select {', '.join(Progress._fields)}, written from progress").fetchone()
            return None if row is None else (Progress._make(row[:-1]), datetime.fromisoformat(row[-1]))

    def rows(self) -> list[dict[str, Any]]:
        """Every trial as a flat dict: the cell's axes, ``seed``, ``status`` and the reported scalars, by cell and seed.

        Numbers of a cell come back as in its canonical form, in which 2.0 is 2; reported ones with the type they had.
        """
        return list(self.iter_rows())

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """The same as `rows`, of the moment of the call's first row, without holding more than a few at a time."""
        with self.snapshot() as snapshot:
            columns = snapshot.columns
            for number, seed, status, *values in snapshot.trials([column.sql for column in columns]):
                yield {**snapshot.cells[number], "seed": seed, "status": status, **decode_report(columns, values)}

    def snapshot(self) -> Snapshot:
        """The ledger as it stands now, on a connection of its own; close it."""
        return Snapshot(self.path)

    def count(self) -> int:
        """How many trials are stored."""
        with explained(self.path):
            return int(self._connection.execute("select count(*) from trial").fetchone()[0])

    def statuses(self) -> dict[int, int]:
        """Status -> how many trials ended with it, by falling count."""
        by_cell = "select status, count(*) as number from trial group by cell, status"  # as the index is sorted
        query = f"select status, sum(number) as all_of from ({by_cell}) group by status order by all_of desc, status"
        with explained(self.path):
            return dict(self._connection.execute(query))

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

    @property
    def success(self) -> str:
        """The reported scalar that counts as success."""
        row = self._latest()
        return "success" if row is None else str(row[2])

    def _latest(self) -> tuple[str, str, str] | None:
        # A code that was begun and wrote nothing does not count once another one did.
        query = """select experiment, manifest, success from manifest join code on code.id = manifest.code
                   where code.id = coalesce((select code from trial limit 1), code.id)
                   order by manifest.id = ? desc, manifest.id desc limit 1"""
        own = None if self._begun is None else self._begun.manifest
        with explained(self.path):
            row: tuple[str, str, str] | None = self._connection.execute(query, (own,)).fetchone()
        return row

    def _with_columns(self, wanted: Mapping[tuple[str, Kind], Any]) -> dict[tuple[str, Kind], Column]:
        """The columns of what is going to be written, made where there are none; inside the transaction."""
        if wanted.keys() <= self._columns.keys():
            return self._columns
        assert self._begun is not None
        known = {(column.name, column.kind): column for column in read_columns(self._connection)}
        new = [key for key in wanted if key not in known]
        if len(known) + len(new) > MOST_COLUMNS:
            raise ValueError(
                f"a ledger holds at most {MOST_COLUMNS} different reported names, these trials would make it "
                f"{len(known) + len(new)}. Report fewer."
            )
        for name, kind in new:
            added = self._connection.execute("insert into reported (name, kind) values (?, ?)", (name, kind))
            column = known[name, kind] = Column(int(added.lastrowid or 0), name, kind)
            self._connection.execute(f"alter table trial add column {column.declaration}")
        if any(name == self._begun.success for name, _ in new):
            success = [column for (name, _), column in known.items() if name == self._begun.success]
            _schema.index_success(self._connection, success)
        return known

    def _tell(self, told: tuple[Any, ...]) -> None:
        names = ("id", *Progress._fields, "written")
        self._connection.execute(
            f"insert or replace into progress ({', '.join(names)}) values ({', '.join('?' * len(names))})",
            (1, *told, datetime.now(UTC).isoformat(timespec="seconds")),
        )

    def check_owner(self, code: Code, experiment: str) -> None:
        """Nothing, if trials of this code may be added.

        Raises:
          LedgerError: the ledger holds trials of another experiment or code; the message says what differs.
        """
        # All trials here are of one code, so the first one tells which.
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
