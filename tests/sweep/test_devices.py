"""Lanes over several devices, in a process of their own: the number of devices is fixed when JAX begins."""

import json
import os
import subprocess
import sys

import pytest

from tests.sweep.running import assert_close

# Four devices in a process of their own: a minute of compilation.
pytestmark = pytest.mark.claims


@pytest.fixture(scope="module")
def found():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_cpu_multi_thread_eigen=false",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweep.on_devices"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["toy", "staged", "few"])
def test_four_devices_report_what_one_does_bit_for_bit(found, kind):
    one, four = (found[f"{kind} {count}"]["reports"] for count in (1, 4))
    assert len(one) == {"toy": 40, "staged": 30, "few": 3}[kind]
    assert one == four


def test_recovery_on_four_devices_meets_the_same_draws_and_verdicts(found):
    one, four = (found[f"recovery {count}"]["reports"] for count in (1, 4))
    assert [row[:2] for row in one] == [row[:2] for row in four]
    assert len(one) == 16
    exact = ("rows", "starts", "status", "rank", "success")
    assert [[row[2][name] for name in exact] for row in one] == [[row[2][name] for name in exact] for row in four]
    assert_close([{"y": row[2]["y"]} for row in one], [{"y": row[2]["y"]} for row in four], rtol=1e-6)
    assert len({row[2]["rows"] for row in one}) == 16
    assert {row[2]["success"] for row in one} == {True, False}


@pytest.mark.parametrize("kind", ["toy", "staged", "recovery"])
def test_every_device_has_work(found, kind):
    (alone,), shares = found[f"{kind} 1"]["work"], found[f"{kind} 4"]["work"]
    assert len(shares) == 4
    assert sum(shares) == alone
    assert min(shares) > alone / 12


@pytest.mark.parametrize(("kind", "programs"), [("toy", 1), ("staged", 4), ("recovery", 5)])
def test_several_devices_need_no_more_programs(found, kind, programs):
    # A segment; with a stage its draw and the ladder: 2 and 4, and 2, 4 and 5 for recovery, whose last may be spared.
    assert found[f"{kind} 1"]["programs"] <= programs
    assert found[f"{kind} 4"]["programs"] <= programs
