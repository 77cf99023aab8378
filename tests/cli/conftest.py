"""A command line in this process, so that its compiled programs are shared, and one in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from pruneft.cli import main


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One place for compiled programs: of this process and of the commands in processes of their own."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture
def command(capfd, monkeypatch, cache, tmp_path):
    """Run a command line in this process, in an empty directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    # Set by commands that compute, for their own process: not to be left behind in this one.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", os.environ.get("OPENBLAS_NUM_THREADS", "1"))
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    before = jax.config.jax_enable_x64

    def run(*words: Any) -> Said:
        capfd.readouterr()
        # As in a process of its own: warnings are remarks, and optax promotes an integer count to a float.
        with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"):
            warnings.simplefilter("default")
            code = main([str(word) for word in words])
        return Said(code, *capfd.readouterr())

    yield run
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def refused(command):
    """Run a command line that is an error, and return its one line."""

    def run(*words: Any) -> str:
        said = command(*words)
        assert (said.code, said.out) == (2, ""), said
        assert said.err.startswith("pruneft: error: "), said.err
        assert said.err.count("\n") == 1, said.err
        return said.err

    return run


@pytest.fixture
def process(cache, tmp_path):
    """Start a command line in a process of its own."""
    root = str(Path(__file__).parents[2])

    def start(*words: Any, program: tuple[str, ...] = ("-m", "pruneft"), **settings: Any) -> subprocess.Popen[str]:
        env = {
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": str(
                int(jax.config.read("jax_disable_most_optimizations"))
            ),  # the same numbers
            "PYTHONPATH": root,
            **settings.pop("env", {}),
        }
        return subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=env,
            **settings,
        )

    return start
