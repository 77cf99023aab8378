"""Files that appear whole or not at all, and never in place of something else."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pruneft.sweep._sqlite import LedgerError

# What an earlier export of the format begins with; of a directory, a file in it.
_STARTS = {"parquet": (b"PAR1",), "netcdf": (b"\x89HDF\r\n\x1a\n", b"CDF")}
_CSV_COLUMNS = "seed,status,status_name"
_ZARR_FILE = "zarr.json"


class ExportError(OSError):
    """An export that cannot be written: the message says why, and what to do."""


@contextlib.contextmanager
def replacing(out: str | Path, kind: str, *, force: bool) -> Iterator[Path]:
    """A path beside ``out`` to write to; what is there takes the name ``out`` when the block ends well, else it goes.

    Args:
      out: the target.
      kind: "csv", "parquet" or "netcdf", which are files, or "zarr", a directory.
      force: replace an earlier export of the same kind.

    Raises:
      ExportError: there is something at ``out``, it has no directory, or the disk refuses.
    """
    target = Path(out)
    _check(target, kind, force)
    try:
        hidden = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".part"))
    except OSError as error:
        raise ExportError(
            f"cannot write to {target.parent}: {error.strerror or error}. Check its permissions, or choose another --out."
        ) from error
    part = hidden / (target.name if kind != "zarr" else "zarr")
    try:
        yield part
        _synchronise(part)
        _move(part, target, hidden / "old")
    except (ExportError, LedgerError):
        raise
    except OSError as error:
        raise ExportError(_explanation(target, error)) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _check(target: Path, kind: str, force: bool) -> None:
    if not target.parent.is_dir():
        raise ExportError(f"the directory {target.parent} does not exist: make it, or choose another --out.")
    if target.name in ("", ".", ".."):
        raise ExportError(f"--out names the {'directory' if kind == 'zarr' else 'file'} to write: got {str(target)!r}.")
    if not os.path.lexists(target):
        return
    if not _is_earlier(target, kind):
        raise ExportError(
            f"{target} is there and is no {kind} export, so it is not replaced, with --force neither: choose another "
            "--out, or remove it yourself."
        )
    if not force:
        raise ExportError(f"{target} is there already: pass --force to replace it, or choose another --out.")


def _is_earlier(target: Path, kind: str) -> bool:
    try:
        if kind == "zarr":
            return target.is_dir() and not target.is_symlink() and (target / _ZARR_FILE).is_file()
        if not target.is_file():
            return False
        with open(target, "rb") as file:
            if kind == "csv":
                return _CSV_COLUMNS in file.readline(1 << 20).decode("utf-8", "replace")
            return file.read(8).startswith(_STARTS[kind])
    except OSError:
        return False


def _synchronise(part: Path) -> None:
    """To the disk before the name changes, or a power cut could leave an empty file under the target's name."""
    for path in [part, *part.rglob("*")] if part.is_dir() else [part]:
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _move(part: Path, target: Path, old: Path) -> None:
    if not (part.is_dir() and target.exists()):
        os.replace(part, target)
        return
    os.rename(target, old)  # a directory cannot be replaced in one step
    try:
        os.rename(part, target)
    except OSError:
        os.rename(old, target)
        raise


def _explanation(target: Path, error: OSError) -> str:
    number, text = error.errno, str(error).strip().partition("\n")[0]
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space is left for {target}, and nothing was written. Free some space, or choose another --out."
    return f"cannot write {target}, and nothing was written: {text}. Check the space left, and your permissions there."
