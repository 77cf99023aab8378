"""What the commands share: exit codes, output, precision, progress."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
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
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return str(value) if isinstance(value, Path) else value


def duration(seconds: float) -> str:
    """A time in days, hours, minutes and seconds, without the parts that do not matter."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours >= 48:
        return f"{hours // 24} days {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def whole(text: str) -> int:
    """A whole number from the command line."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def number(text: str) -> float:
    """A number from the command line."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Refuse flags that count something and are given as less than one.

    Raises:
      CommandError: names the flag.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise CommandError(f"--{flag}: expected a whole number of at least 1, got {value}.")


def random_seed(text: str) -> int:
    """A seed that JAX takes in either precision."""
    value = whole(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**31 - 1}, got {text}")
    return value


def set_precision(dtype: str) -> None:
    """Switch JAX to 64 bits where they are asked for; the library itself never touches that flag."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    _keep_compiled(jax)


def _keep_compiled(jax: Any) -> None:
    """Let JAX keep compiled programs on disk, so that only the first command of a kind pays for compilation (5 to 60 s)."""
    if jax.config.jax_compilation_cache_dir is not None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # the user has decided
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # a user without a home: RuntimeError
        directory = Path(base) / "pruneft" / "compiled"
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


def check_target(path: str | Path, flag: str = "--out") -> Path:
    """A file that can be written there; asked before the work, so that minutes of it are not lost at the end.

    Raises:
      CommandError: the directory does not exist, or cannot be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise CommandError(f"{target} is a directory: {flag} names a file.")
    if not target.parent.is_dir():
        raise CommandError(f"the directory {target.parent} does not exist: make it, or choose another {flag}.")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise CommandError(
            f"cannot write to {target.parent}: {error.strerror or error}. Choose another {flag}."
        ) from error
    return target


def check_figure(path: str | Path, flag: str = "--out") -> Path:
    """`check_target` for a figure, which is a .png or .pdf file."""
    if Path(path).suffix not in (".png", ".pdf"):
        raise CommandError(f"{flag} must end in .png or .pdf: got {str(path)!r}.")
    return check_target(path, flag)


def check_archive(file: str, expected: str) -> int:
    """The size in bytes of what an .npz file holds, asked before any of it is read.

    Raises:
      CommandError: there is no such file, it cannot be read, or is something else; ``expected`` says what would do.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(info.file_size for info in archive.infolist())
    except FileNotFoundError:
        raise CommandError(f"there is no file {file}.") from None
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, ValueError):
        raise CommandError(f"{file} is not an .npz file: expected {expected}.") from None


def check_memory(need: float, what: str) -> None:
    """Refuse what cannot fit, because an allocation that fails inside XLA may end the process without a word.

    Args:
      need: bytes, a lower bound.
      what: whose they are, and their sizes.

    Raises:
      CommandError: the device, or the machine where it computes on the CPU, has less.
    """
    there = _memory()
    if there is not None and need > there:
        raise CommandError(
            f"{what} needs at least {need / 1e9:.3g} GB of memory, and there are {there / 1e9:.3g} GB: choose smaller sizes."
        )


def sensing_bytes(n: int, d: int, k: int, dtype: str) -> float:
    """A lower bound on the memory of one recovery.

    Per packed entry of the measurements: float32 rows, the rows for fine-tuning, and twice as much again where its
    Jacobian unpacks them; and the factor, its gradient and two moments. Measured at n = 2500, d = 128 in float64: 49
    bytes per entry.
    """
    entry = 28.0 if dtype == "float64" else 16.0
    return entry * n * d * (d + 1) / 2 + 16.0 * d * k


def _memory() -> float | None:
    """Bytes of the device's memory, or of the machine's on a CPU."""
    from pruneft.sweep.device import device_memory

    return device_memory()


@contextlib.contextmanager
def progress(title: str, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, and a line below it; yields a function that takes ``completed``, ``total`` and ``note``."""
    if quiet:
        yield lambda **_: None
        return
    try:
        from rich.console import Console, RenderableType
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.text import Text
    except ImportError as error:
        raise CommandError("progress bars need rich: python -m pip install 'pruneft[cli]', or pass --quiet") from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )

    class Bar(Progress):
        """The remark gets a line of its own: beside the bar it would leave no room for it at 80 columns."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            yield from (
                Text(task.fields["note"], no_wrap=True, overflow="ellipsis")
                for task in self.tasks
                if task.fields["note"]
            )

    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda **fields: bar.update(task, **fields)
