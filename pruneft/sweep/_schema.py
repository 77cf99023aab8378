"""The tables of a ledger: how they are made, and how a file is known for one."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from pruneft.sweep import _sqlite
from pruneft.sweep._columns import Column
from pruneft.sweep._sqlite import LedgerError
from pruneft.sweep.progress import Progress

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x50724654  # "PrFT", in the header of every ledger

_SCHEMA = (
    """create table code (
         id integer primary key, hash text not null unique, experiment text not null, modules text not null,
         settings text not null)""",
    # A new row for every manifest, so that each trial says on which machine and versions it was computed.
    """create table manifest (
         id integer primary key, code integer not null references code (id), manifest text not null,
         success text not null, created text not null, unique (code, manifest, success))""",
    "create table cell (id integer primary key, spec text not null unique)",
    # Which reported scalar column v<id> of the table trial holds.
    "create table reported (id integer primary key, name text not null, kind text not null, unique (name, kind))",
    # The key is the identity itself, (cell, seed, code), and the order of the rows: trials that finish together are
    # near one another in the file, a cell is read in one piece, and a sorted export needs no sorting. A hash as the
    # key would scatter every batch over the whole file. Each reported scalar adds a column.
    """create table trial (
         cell integer not null references cell (id), seed integer not null,
         code integer not null references code (id), manifest integer not null references manifest (id),
         status integer not null, primary key (cell, seed, code)) without rowid""",
    f"create table progress (id integer primary key check (id = 1), {', '.join(Progress._fields)}, written text)",
)
_SUMMARY_INDEX = "trial_summary"


def prepare(connection: sqlite3.Connection, path: Path, *, create: bool, read_only: bool) -> None:
    """Check that the file is a ledger of this version before anything in it is changed; make a new one's tables.

    Raises:
      LedgerError: it is something else, or of another version.
    """
    if create and _is_blank(connection):
        connection.execute("begin immediate")
        try:
            if _is_blank(connection):  # another process may have been faster
                _make(connection)
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
    application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if application != _APPLICATION_ID:
        raise LedgerError(
            f"{path} is an SQLite database, but not a ledger of pruneft. Choose another path; it was left as it is."
        )
    if version != SCHEMA_VERSION:
        advice = "Update pruneft." if version > SCHEMA_VERSION else "Read it with the version of pruneft that wrote it."
        raise LedgerError(
            f"{path} has schema version {version}, this version of pruneft reads {SCHEMA_VERSION}. {advice} "
            "It was left as it is."
        )
    connection.execute("pragma temp_store = memory")  # read-only media have no place for temporary tables
    if not read_only:
        _use_wal(connection)
        connection.execute("pragma synchronous = full")
        connection.execute("pragma foreign_keys = on")
        connection.execute("pragma cache_size = -65536")  # kB: inserts into a large ledger come back to the same pages


def index_success(connection: sqlite3.Connection, columns: list[Column]) -> None:
    """Keep what a phase diagram is made from in an index of its own: cell, status and success.

    From it ten million trials are counted in seconds; the rows themselves are many times as long.

    Args:
      connection: inside a transaction.
      columns: where the scalar that counts as success is stored; none before it was first reported.
    """
    wanted = f"create index {_SUMMARY_INDEX} on trial ({', '.join(['cell', 'status', *(c.sql for c in columns)])})"
    there = connection.execute("select sql from sqlite_master where name = ?", (_SUMMARY_INDEX,)).fetchone()
    if there is None or there[0].lower() != wanted:
        connection.execute(f"drop index if exists {_SUMMARY_INDEX}")
        connection.execute(wanted)


def _make(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    index_success(connection, [])
    connection.execute(f"pragma application_id = {_APPLICATION_ID}")
    connection.execute(f"pragma user_version = {SCHEMA_VERSION}")


def _is_blank(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
    return not tables and not _pragma(connection, "application_id") and not _pragma(connection, "user_version")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"pragma {name}").fetchone()[0])


def _use_wal(connection: sqlite3.Connection) -> None:
    """Set the journal; SQLite does not wait here of itself when another process is opening the same file."""
    deadline = time.monotonic() + _sqlite.BUSY_SECONDS
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
