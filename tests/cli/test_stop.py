"""Sweeps in a process of their own that are stopped, starved or looked at while they run."""

import json
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from pruneft.sweep import Ledger, LedgerError

# The toy, whose every step takes PAUSE seconds; without it no time at all. The code is the same.
_SLOW = """
import dataclasses, os, time
import jax
from tests.sweep.toy import TOY

def trial(bucket):
    plain = TOY.trial(bucket)
    pause = float(os.environ.get("PAUSE", "0"))

    def step(problem, state):
        if pause:
            jax.debug.callback(lambda: time.sleep(pause))
        return plain.step(problem, state)

    return dataclasses.replace(plain, step=step)

SLOW = dataclasses.replace(TOY, name="slow", trial=trial, module=__name__)
"""
PLACE = "slow_toy:SLOW"
WORDS = ("sweep", PLACE, "--a", "2,40", "--b", 5, "--seeds", 40, "--dtype", "float32", "--lanes", 4)
STOPPED = "pruneft: interrupted; what was finished is kept, and the same command goes on from there.\n"
PAUSE = {"PAUSE": "0.02"}


@pytest.fixture(autouse=True)
def _slow(tmp_path, monkeypatch):
    (tmp_path / "slow_toy.py").write_text(_SLOW)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("slow_toy", None)


def _rows(run="slow"):
    with Ledger.open(Path("runs") / run / "ledger.sqlite", read_only=True) as ledger:
        return sorted(ledger.rows(), key=lambda row: (row["a"], row["seed"]))


def _wait_for_rows(running, count=1):
    """How many trials are stored once there are so many; somebody may be making the ledger just now."""
    deadline = time.monotonic() + 120
    while True:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        try:
            if Path("runs/slow/ledger.sqlite").exists() and len(_rows()) >= count:
                return
        except (LedgerError, sqlite3.Error):
            pass
        time.sleep(0.02)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.claims)])
def test_ctrl_c_keeps_what_is_finished_and_the_same_command_ends_as_if_undisturbed(
    command, refused, process, processes
):
    words = (*WORDS, "--processes", processes, "--quiet")
    running = process(*words, env=PAUSE)
    _wait_for_rows(running, 2)
    now = command("status", "slow", "--json").json
    assert (now["state"], now["planned"]) == ("running", 80)
    assert 0 < now["done"] < 80
    assert now["running"] > 0
    assert now["rate"] > 0
    assert now["workers"] == processes
    assert now["holder"].startswith(f"process {running.pid} on ")
    assert f"is held by process {running.pid} on " in refused(*words)
    begun = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert time.monotonic() - begun < 20  # a second or two on a machine that does nothing else
    assert (running.returncode, out, err) == (130, "", STOPPED)
    kept = _rows()
    assert 0 < len(kept) < 80
    after = command("status", "slow", "--json").json
    assert (after["state"], after["holder"], after["done"]) == ("interrupted", None, len(kept))
    assert command(*words, "--json", "--processes", 1).json["new"] == 80 - len(kept)
    assert command(*words, "--json", "--processes", 1, "--run", "undisturbed").json["new"] == 80
    assert _rows() == _rows("undisturbed")
    assert command("status", "slow", "--json").json["state"] == "finished"


def test_a_second_ctrl_c_does_not_wait(command, process):
    # Steps of half a second: the segment under way would take minutes.
    running = process(*WORDS, "--processes", 2, "--quiet", env={"PAUSE": "0.5"})
    _wait_for_rows(running, 0)
    while command("status", "slow", "--json").json["state"] != "running":
        time.sleep(0.1)
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    begun = time.monotonic()
    out, err = running.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert (running.returncode, out, err) == (130, "", STOPPED)


def test_a_full_disk_keeps_what_was_finished_and_a_rerun_completes_it(command, process):
    words = ("sweep", PLACE, "--a", 2, "--b", "5:20:16", "--seeds", 25, "--dtype", "float32", "--quiet", "--json")
    # Above what the ledger needs for its tables and its journal at the start, below what 400 rows need.
    limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, 2 * ({LIMIT},))"
    patched = "import pruneft.sweep.keeper as keeper; keeper._FLUSH_SECONDS = 0.0; keeper._FLUSH_ROWS = 1"
    program = ("-c", f"{limited}; {patched}; from pruneft.cli import main; sys.exit(main())")
    full = process(*words, program=program, env={"JAX_ENABLE_COMPILATION_CACHE": "false"})
    out, err = full.communicate(timeout=120)
    assert (full.returncode, out) == (2, ""), err
    assert err.startswith("pruneft: error: ")
    assert "finished trials are kept in" in err
    assert "run the same command again to go on" in err
    assert err.count("\n") == 1
    kept = len(_rows())
    assert 0 < kept < 400
    assert command(*words).json["new"] == 400 - kept


LIMIT = 200_000

READ_ONLY = """
import os, sys
import pruneft.cli._parser, pruneft.sweep.driver
from pruneft.cli import main
if os.geteuid() == 0:  # permissions do not bind root; 65534 is nobody
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main())
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system has no users to become")
def test_a_run_in_a_directory_that_may_not_be_written_is_one_line(process, tmp_path):
    for part in (tmp_path, tmp_path.parent):
        part.chmod(0o755)
    (tmp_path / "runs").mkdir(mode=0o555)
    started = process("sweep", "tests.sweep.toy:TOY", "--dtype", "float32", "--quiet", program=("-c", READ_ONLY))
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (2, "")
    assert err.startswith("pruneft: error: cannot write in the run's directory runs/toy: Permission denied.")
    assert err.count("\n") == 1


@pytest.mark.claims
def test_a_command_that_computes_keeps_to_one_thread_and_a_users_settings_stay(process):
    shown = (
        "import os, json, sys; from pruneft.cli import main; code = main();"
        "print(json.dumps([code, os.environ.get('OPENBLAS_NUM_THREADS'), os.environ.get('XLA_FLAGS')]))"
    )
    plain = {"XLA_FLAGS": "", "OPENBLAS_NUM_THREADS": ""}
    cases = (
        (("explain", "none:X"), plain, ["", "--xla_cpu_multi_thread_eigen=false"]),
        (("runs",), plain, ["", ""]),
        (
            ("sweep", "none:X"),
            {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true", "OPENBLAS_NUM_THREADS": "2"},
            ["2", "--xla_cpu_multi_thread_eigen=true"],
        ),
    )
    for words, env, expected in cases:
        out, _ = process(*words, program=("-c", shown), env=env).communicate(timeout=60)
        assert json.loads(out.splitlines()[-1])[1:] == expected
