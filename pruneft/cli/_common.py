"""What the commands share: exit codes, output, precision, progress."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OK, NOT_OK, USAGE = 0, 1, 2
DTYPES = ("float64", "float32")


class CommandError(Exception):
    """Something the user can put right; its text is the one line they see."""


def say(text: str) -> None:
    """A line on stderr: progress and remarks, never results."""
    print(text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """A line of results on stdout."""
    print(text, flush=True)


def show_json(value: Any) -> None:
    """One JSON object on stdout; numbers that are not finite become null."""
    print(json.dumps(_plain(value), allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def set_precision(dtype: str) -> None:
    """Switch JAX to 64 bits where they are asked for; the library itself never touches that flag."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    _keep_compiled(jax)


def _keep_compiled(jax: Any) -> None:
    """Let JAX keep compiled programs on disk, so that only the first command of a kind pays for compilation (5 to 60 s)."""
    if jax.config.jax_compilation_cache_dir is not None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # the user has decided
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base) / "pruneft" / "compiled"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, RuntimeError):
        return  # nowhere to keep them: slower, and nothing else
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def need_figures() -> None:
    """Raise a CommandError now, and not after minutes of work, if figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise CommandError("figures need matplotlib: python -m pip install 'pruneft[cli]'") from error


def check_target(path: str | Path) -> Path:
    """A file that can be written there; asked before the work, so that minutes of it are not lost at the end.

    Raises:
      CommandError: the directory does not exist, or cannot be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise CommandError(f"{target} is a directory: --out names a file.")
    if not target.parent.is_dir():
        raise CommandError(f"the directory {target.parent} does not exist: make it, or choose another --out.")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise CommandError(
            f"cannot write to {target.parent}: {error.strerror or error}. Choose another --out."
        ) from error
    return target


@contextlib.contextmanager
def progress(title: str, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; yields a function that takes ``completed``, ``total`` and ``note``."""
    if quiet:
        yield lambda **_: None
        return
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
    except ImportError as error:
        raise CommandError("progress bars need rich: python -m pip install 'pruneft[cli]', or pass --quiet") from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda **fields: bar.update(task, **fields)
