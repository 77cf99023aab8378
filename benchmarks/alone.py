"""Functions called in a process of their own, all of them in the same environment.

A contestant that is timed "cold" has a fresh interpreter and an empty compilation cache; with the folder of an earlier
call it has a warm one. OpenBLAS and XLA get one thread each (``SAYS``), for all contestants alike: on two cores their threads
wait for one another longer than they work.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.timing import CompileClock

SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
SAYS = "Every contestant in processes of its own with OPENBLAS_NUM_THREADS=1 and XLA_FLAGS=--xla_cpu_multi_thread_eigen=false."
_ANSWER = "answer: "


class Call(NamedTuple):
    """One of several calls of a function in one process.

    Attributes:
      seconds: of this call.
      since_start: seconds from the start of the process to the end of this call: interpreter, imports and all.
      compiler: of these seconds, those of XLA's compiler in this process; nothing where a cache or memory had the programs.
      value: what was returned.
    """

    seconds: float
    since_start: float
    compiler: float
    value: Any


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for one compilation cache."""
    return tempfile.TemporaryDirectory(prefix="pruneft-bench-")


def call(function: Callable[..., Any], cache: str | Path, *, calls: int = 1, **arguments: Any) -> list[Call]:
    """The function called so many times in one fresh process.

    Args:
      function: of a module that can be imported; what it takes and returns can be written as JSON.
      cache: folder of the compilation cache.
      calls: how often, one after the other.
      arguments: the same each time.

    Raises:
      RuntimeError: it failed; the message has its last words.
    """
    place = f"{function.__module__}:{function.__qualname__}"
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, **SETTINGS, "JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": path}
    task = json.dumps([place, calls, arguments, time.monotonic()])
    words = [sys.executable, "-m", "benchmarks.alone", task]
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=root, check=False)
    answers = [line.removeprefix(_ANSWER) for line in said.stdout.splitlines() if line.startswith(_ANSWER)]
    if said.returncode != 0 or len(answers) != 1:
        raise RuntimeError(f"{place} failed with exit code {said.returncode}: {said.stdout[-500:]!r}.")
    return [Call(*found) for found in json.loads(answers[0])]


def tell(text: str) -> None:
    """How far a benchmark is, for whoever waits."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main(task: str) -> None:
    """The other side of `call`."""
    place, calls, arguments, started = json.loads(task)
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    found = []
    for _ in range(calls):
        begin = time.monotonic()
        with CompileClock() as clock:
            value = function(**arguments)
        end = time.monotonic()
        found.append(Call(end - begin, end - started, clock.seconds, value))
    print(_ANSWER + json.dumps(found))


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    main(sys.argv[1])
