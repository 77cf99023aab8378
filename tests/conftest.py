"""Strict set-up: float64 on, silent promotion off, figures without a screen. Warnings are errors (pyproject.toml)."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Every worker with a thread pool as wide as the machine: half of the time went into their quarrels.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# Shapes and types in the signatures are checked while the tests run; must come before pruneft is imported.
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook looks it up by name

_HOOK = install_import_hook(
    [f"pruneft.{room}" for room in ("penalty", "prune", "optim", "trial", "pipeline", "sensing")],
    "tests.typecheck.checked",
)

import jax  # noqa: E402
import pytest  # noqa: E402

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


def pytest_configure(config: pytest.Config) -> None:
    """The fast tests compile much and compute little; the claims are the other way round."""
    if "not claims" in config.option.markexpr:
        jax.config.update("jax_disable_most_optimizations", True)
