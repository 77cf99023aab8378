"""Worker processes on this machine: started, greeted, and kept a while for the next sweep.

A worker that has done its part of a run waits for another run with its programs compiled, so that the second sweep of a
notebook starts at once. It is reused only where a fresh one would compute the same: same experiment, same source files, same
environment.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import secrets
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from pruneft.sweep.worker import ADDRESS, KEY, NUMBER

_ACCEPT_SECONDS = 2.0
_END_SECONDS = 2.0


class WorkersFailed(RuntimeError):
    """Worker processes cannot be started, or die before they finish anything."""


class Worker:
    """A process and, once it has said hello, the connection to it.

    Attributes:
      process: of the worker.
      begun: when it was started, by the monotonic clock.
      greeted: set once ``connection`` is there.
      connection: takes jobs, see `pruneft.sweep.worker.serve`.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.begun = time.monotonic()
        self.greeted = threading.Event()
        self.connection: Connection | None = None

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return self.process.poll() is None

    def end(self, seconds: float = 0.0) -> None:
        """Wait so many seconds for its end, then kill it."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.connection is not None:
            self.connection.close()

    def dismiss(self) -> None:
        """Tell an idle one that no job will come; it ends by itself."""
        if self.connection is not None:
            self.connection.close()


class Pool:
    """Workers of one environment; one thread at a time uses it.

    Attributes:
      settings: the environment.
    """

    def __init__(self, settings: dict[str, str]) -> None:
        """No worker is started yet.

        Args:
          settings: the environment of the workers, from `environment`.
        """
        self.settings = settings
        self._key = secrets.token_bytes(16)
        self._numbers = itertools.count()
        self._starting = threading.Lock()
        self._expected: dict[int, Worker] = {}  # started, not greeted yet
        self._idle: list[Worker] = []
        self._closed = threading.Event()
        # The backlog holds all workers, which connect at about the same time.
        self._listener = Listener(None, backlog=64, authkey=self._key)
        self._accepting = threading.Thread(target=self._accept, name="pruneft-accept", daemon=True)
        self._accepting.start()

    def get(self) -> Worker:
        """An idle worker, or a new one.

        Raises:
          WorkersFailed: no process can be started.
        """
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            worker.end()
        with self._starting:
            return self._start()

    def _start(self) -> Worker:
        number = next(self._numbers)
        try:
            process = subprocess.Popen(
                # -P: the caller's path and no more; a file in the current directory must not hide a module.
                [sys.executable, "-P", "-c", "from pruneft.sweep.worker import main; raise SystemExit(main())"],
                env={
                    **self.settings,
                    ADDRESS: str(self._listener.address),
                    KEY: self._key.hex(),
                    NUMBER: str(number),
                },
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller, who tells the workers
            )
        except OSError as error:
            raise WorkersFailed(f"a worker process cannot be started: {error}") from error
        worker = self._expected[number] = Worker(process)
        return worker

    def put_back(self, worker: Worker) -> None:
        """A worker that waits for its next job."""
        self._idle.append(worker)

    def close(self) -> None:
        """End the idle workers and greet no more."""
        self._closed.set()
        for worker in self._idle:
            worker.dismiss()
        for worker in self._idle:
            worker.end(_END_SECONDS)
        self._idle.clear()
        # Closing does not wake a thread that waits in accept; a visitor does.
        with contextlib.suppress(Exception):
            Client(self._listener.address).close()
        self._accepting.join(_ACCEPT_SECONDS)
        with contextlib.suppress(OSError):
            self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection = self._listener.accept()
                kind, number = connection.recv()
            except Exception:
                # Somebody without the key, or a worker that died while it connected; the others still want to.
                time.sleep(0.01)
                continue
            with self._starting:
                worker = self._expected.pop(number, None) if kind == "hello" else None
            if worker is None:
                connection.close()
                continue
            worker.connection = connection
            worker.greeted.set()


_lock = threading.Lock()
_kept: dict[str, Pool] = {}  # by what its workers are; never more than one


def take_pool(same: str | None) -> Pool:
    """The pool that an earlier run has left for one like this, or a new one.

    Args:
      same: names everything outside the environment that workers must have in common, None for a pool of one's own.

    Returns:
      A pool that nobody else uses, to be given to `leave_pool` in the end.
    """
    settings = environment()
    if same is not None:
        with _lock:
            pool = _kept.pop(_name(same, settings), None)
        if pool is not None:
            return pool
        close_workers()  # others would only wait
    return Pool(settings)


def leave_pool(pool: Pool, same: str | None) -> None:
    """Keep a pool for the next run like this one; close it if ``same`` is None or another one is kept."""
    with _lock:
        kept = same is not None and not _kept
        if kept:
            _kept[_name(same or "", pool.settings)] = pool
    if not kept:
        pool.close()


def close_workers() -> None:
    """End the worker processes that earlier sweeps of this process have left waiting for the next one.

    They end by themselves when this process does, and after five minutes without work.
    """
    with _lock:
        pools = list(_kept.values())
        _kept.clear()
    for pool in pools:
        pool.close()


atexit.register(close_workers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kept.clear)  # they are the parent's


def _name(same: str, settings: dict[str, str]) -> str:
    return repr((same, sorted(settings.items())))


def environment() -> dict[str, str]:
    """The caller's path and settings of JAX, which change numbers; and one core each.

    Threads of several processes on the same cores slow one another down many times.
    """
    import jax

    settings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "multi_thread_eigen" not in flag]
    settings["XLA_FLAGS"] = " ".join([*flags, "--xla_cpu_multi_thread_eigen=false"])
    config: Any = jax.config
    if config.jax_compilation_cache_dir:
        settings["JAX_COMPILATION_CACHE_DIR"] = str(config.jax_compilation_cache_dir)
        settings["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    for name in (
        "jax_enable_x64",
        "jax_platforms",
        "jax_numpy_dtype_promotion",
        "jax_default_matmul_precision",
        "jax_threefry_partitionable",
        "jax_disable_most_optimizations",
    ):
        value = getattr(config, name) if hasattr(config, name) else config.read(name)  # some have no attribute
        if value is not None:
            settings[name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
    return settings
