"""SQLite below the ledger: how the file is opened, and its errors in sentences that say what to do."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

# How long to wait for another process's transaction.
BUSY_SECONDS = 30.0


class LedgerError(RuntimeError):
    """A ledger that cannot be opened, read or written: the message says why, what is kept, and what to do."""


def connect(path: Path, mode: str, extra: str = "") -> sqlite3.Connection:
    """An open connection, transactions left to the caller; ``mode`` and ``extra`` are those of SQLite's URIs."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}{extra}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        cached_statements=256,
    )
    try:
        connection.execute("select count(*) from sqlite_master").fetchone()  # connecting alone reads nothing
    except BaseException:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection for reading alone, on read-only media too."""
    try:
        return connect(path, "ro")
    except sqlite3.OperationalError as error:
        # On read-only media SQLite cannot make the files that readers and writers share. Without a journal that holds
        # rows the file itself is complete, and nobody can be writing it, so it may be read as it stands.
        journal = path.with_name(path.name + "-wal")
        if "locked" in str(error):
            raise
        if journal.exists() and journal.stat().st_size:
            raise LedgerError(
                f"{path} holds trials in its journal {journal.name}, which cannot be read on read-only media. "
                "Copy the run's directory to a place where you may write, and read it there."
            ) from error
        return connect(path, "ro", "&immutable=1")


@contextlib.contextmanager
def explained(path: Path, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn SQLite's errors into a `LedgerError` that says what to do."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a closed ledger, a foreign thread: the caller's mistake
    except (sqlite3.Error, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LedgerError(f"{_explanation(path, error)}{kept()}") from error


def _explanation(path: Path, error: Exception) -> str:
    text = str(error)
    if "not a database" in text:
        return f"{path} is not a ledger: it is not an SQLite database. Choose another path; it was left as it is."
    if "malformed" in text or isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        advice = f"Try `sqlite3 {path.name} .recover` on a copy, or remove the run and compute it again."
        return f"{path} is damaged ({text}). {advice}"
    if "is full" in text:
        return f"no space is left for {path}. Free some space."
    if "disk I/O" in text:
        return f"the disk refused to read or write {path} ({text}). Check the space left, the quota, and the disk."
    if "locked" in text or "busy" in text:
        return f"another process has kept {path} locked for {BUSY_SECONDS:g} s. Wait for it, or end it."
    if "readonly" in text or "read-only" in text:
        return f"{path} may not be written. Check the permissions of the file and its directory."
    if "unable to open" in text:
        return f"cannot open {path}. Check that its directory exists and that you may read and write there."
    return f"{path}: {text}."
