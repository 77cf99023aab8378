"""Strict set-up: float64 on, silent promotion off, figures without a screen. Warnings are errors (pyproject.toml)."""

from __future__ import annotations

import gc
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Every worker with a thread pool as wide as the machine: half of the time went into their quarrels.
    if "multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# Shapes and types in the signatures are checked while the tests run; must come before pruneft is imported.
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook looks it up by name

_ROOMS = ("penalty", "prune", "optim", "trial", "pipeline", "sensing", "relu", "dynamics", "network")
_HOOK = install_import_hook(
    [f"pruneft.{room}" for room in _ROOMS],
    "tests.typecheck.checked",
)

import jax  # noqa: E402
import jaxlib  # noqa: E402
import pytest  # noqa: E402

from pruneft.kept import drop, short_of_maps  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "allow")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Both precisions that the library works in."""
    return str(request.param)


@pytest.fixture
def tolerance(dtype: str) -> float:
    """What rounding allows, relative."""
    return {"float32": 2e-5, "float64": 1e-11}[dtype]


@pytest.fixture(scope="module", autouse=True)
def _programs_are_dropped() -> Iterator[None]:
    """Between modules, once there are many: one adds up to 15 000 of the 65 530 maps of Linux, and a process that has none left dies."""
    yield
    if short_of_maps(0.25):
        drop()
        jax.clear_caches()
        gc.collect()


# Fusions by the older emitters and each program in one piece: a third of the time to compile.
COMPILE_SOON = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}


def _is_known(flag: str) -> bool:
    """Whether XLA has such a flag; it ends the process over one that it does not know."""
    for library in Path(jaxlib.__file__).parent.glob("*.so"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(flag.encode()) >= 0:
                return True
    return False


def pytest_configure(config: pytest.Config) -> None:
    """The fast tests compile much and compute little; the claims are the other way round."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a job in the background: Ctrl-C is tested, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "not claims" not in config.option.markexpr:
        return
    jax.config.update("jax_disable_most_optimizations", True)
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have the environment of who starts them
        flags = [f"--{flag}={value}" for flag, value in COMPILE_SOON.items() if _is_known(flag)]
        os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
