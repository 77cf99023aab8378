"""Runs on disk: a directory per run, with its ledger and the lock of whoever works on it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pruneft.sweep.ledger import Ledger, LedgerError

LEDGER_NAME = "ledger.sqlite"
_LOCK_NAME = "lock"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
# A region far behind the text: on Windows a locked region cannot be read, and the text says who holds the lock.
_FAR = 1 << 30
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
# Seconds; asking who holds a run takes microseconds.
_PATIENCE = 0.2

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int, *, shared: bool = False) -> None:  # there are no shared locks
        os.lseek(file, _FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _unlock(file: int) -> None:
        os.lseek(file, _FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: int, *, shared: bool = False) -> None:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class RunInfo(NamedTuple):
    """A line in the list of runs.

    Attributes:
      name: of the run and its directory.
      experiment: whose trials it holds; None before any was begun, or where there is a problem.
      trials: how many are finished; 0 where there is a problem.
      changed: when its ledger was written last, local time; None if there is no ledger.
      problem: why the run cannot be read; None for a sound one.
    """

    name: str
    experiment: str | None
    trials: int
    changed: datetime | None
    problem: str | None


def check_name(name: str) -> str:
    """The name of a run, unchanged, if it is one that every file system takes.

    Raises:
      ValueError: empty, longer than 100 characters, starts with a dot, or has other characters than letters, digits,
        ``.``, ``_``, ``-``.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a run is named with letters, digits, '.', '_' and '-', at most 100 of them and no '.' in front: got "
            f"{name!r}. "
            "Choose another name."
        )
    return name


def run_path(runs_dir: str | Path, name: str) -> Path:
    """The directory of a run, whether it exists or not.

    Raises:
      ValueError: the name is none for a run; see `check_name`.
    """
    return Path(runs_dir) / check_name(name)


def find_ledger(runs_dir: str | Path, name: str) -> Path:
    """The ledger file of an existing run.

    Raises:
      ValueError: there is no such run; the message lists those that there are.
    """
    path = run_path(runs_dir, name) / LEDGER_NAME
    if os.path.isfile(path):  # unlike Path.is_file, no error where a directory may not be entered
        return path
    known = [directory.name for directory in _directories(Path(runs_dir))]
    if not known:
        raise ValueError(
            f"there is no run {name!r}: {runs_dir} holds no runs. Start one, or give another directory of runs."
        )
    if name in known:
        raise ValueError(
            f"the run {name!r} in {runs_dir} has no readable {LEDGER_NAME}: it was never started, or may not be read."
        )
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    shown = ", ".join(known[:20]) + (f", and {len(known) - 20} more" if len(known) > 20 else "")
    raise ValueError(f"there is no run {name!r} in {runs_dir}. {hint}There are: {shown}.")


def list_runs(runs_dir: str | Path) -> list[RunInfo]:
    """What runs there are, by name; one that cannot be read is listed with its problem."""
    return [_info(directory) for directory in _directories(Path(runs_dir))]


@contextlib.contextmanager
def hold(run_dir: str | Path) -> Iterator[Path]:
    """Keep a run to oneself: an exclusive lock in its directory, which is made if need be.

    The lock belongs to the process and goes with it, however it ends; a lock file that is left behind means nothing.

    Args:
      run_dir: from `run_path`.

    Yields:
      The directory.

    Raises:
      LedgerError: another process holds the run (the message says which, where, since when), or the directory may not
        be written.
    """
    directory = Path(run_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise LedgerError(
            f"cannot write in the run's directory {directory}: {error.strerror or error}. "
            "Check its permissions, or choose another directory of runs."
        ) from error
    try:
        try:
            _lock_patiently(file)
        except OSError as error:
            if error.errno not in _HELD:
                raise LedgerError(
                    f"the file system of {directory} cannot lock files ({error.strerror or error}). Keep runs on a "
                    "local disk."
                ) from error
            raise LedgerError(
                f"{directory} is held by {_holder(file)}. Wait for it, end it, or choose another run name."
            ) from error
        try:
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            _sign(file, f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
            yield directory
        finally:
            _sign(file, "")
            _unlock(file)
    finally:
        os.close(file)


def holder(run_dir: str | Path) -> str | None:
    """Who holds a run now, as a text that names process, machine and time; None if nobody does.

    Asks by a shared lock that is let go at once. It is no lock to whoever wants to hold the run, who tries again for
    longer than that, and needs no permission to write.

    Args:
      run_dir: from `run_path`.

    Raises:
      LedgerError: the lock file is there and may not be read.
    """
    try:
        file = os.open(Path(run_dir) / _LOCK_NAME, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LedgerError(
            f"cannot read the lock of the run's directory {run_dir}: {error.strerror or error}. Check its permissions."
        ) from error
    try:
        _lock(file, shared=True)
        _unlock(file)
    except OSError as error:
        # A file system that cannot lock lets nobody hold a run.
        return _holder(file) if error.errno in _HELD else None
    finally:
        os.close(file)
    return None


def _lock_patiently(file: int) -> None:
    """The exclusive lock, tried for a moment: somebody may just be asking who holds it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return _lock(file)
        except OSError as error:
            if error.errno not in _HELD or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _sign(file: int, text: str) -> None:
    # Only for the message to others: a full disk must not keep anybody from going on.
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, text.encode())


def _holder(file: int) -> str:
    try:
        os.lseek(file, 0, os.SEEK_SET)
        return os.read(file, 300).decode(errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def _directories(runs_dir: Path) -> list[Path]:
    try:
        return sorted(path for path in runs_dir.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LedgerError(
            f"cannot read the directory of runs {runs_dir}: {error.strerror or error}. Check its permissions."
        ) from error


def _info(directory: Path) -> RunInfo:
    path = directory / LEDGER_NAME
    changed = None
    try:
        if not path.exists():
            return RunInfo(directory.name, None, 0, None, f"has no {LEDGER_NAME}: it was never started.")
        # The journal may be newer than the ledger; an empty one was left by a reader.
        journal = path.with_name(path.name + "-wal")
        written = [file.stat() for file in (path, journal) if file.exists()]
        changed = datetime.fromtimestamp(max(stat.st_mtime for stat in written if stat.st_size or stat is written[0]))
        with Ledger.open(path, read_only=True) as ledger:
            return RunInfo(directory.name, ledger.experiment, ledger.count(), changed, None)
    except (LedgerError, OSError) as error:
        return RunInfo(directory.name, None, 0, changed, str(error))
