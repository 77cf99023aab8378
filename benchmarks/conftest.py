"""Set-up of the benchmarks: float64 on, CPU, and a fixture that times one case in the group it is compared with."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Callable
from typing import Any

import jax
import pytest

from benchmarks.timing import Case

jax.config.update("jax_enable_x64", True)


@pytest.fixture
def measure_case(benchmark: Any) -> Callable[[str, Case], Any]:
    """``measure_case(group, case)``: time a case; pytest-benchmark prints a group's ratios beside its times."""

    def measure(group: str, case: Case) -> Any:
        benchmark.group = group
        benchmark.extra_info["units_per_call"] = case.units
        return benchmark(case.run)

    return measure
