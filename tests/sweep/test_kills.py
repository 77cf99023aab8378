"""Callers and workers killed at random moments: whatever stands in the ledger stays there, and nothing is there twice."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from pruneft.sweep import Ledger, LedgerError, sweep
from pruneft.sweep.runs import LEDGER_NAME
from tests.sweep.caller import grid
from tests.sweep.gang import is_alive, wait_until, workers_below
from tests.sweep.troubles import TROUBLES

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")


def _rows(directory):
    try:
        with Ledger.open(directory / LEDGER_NAME, create=False, read_only=True) as ledger:
            return ledger.rows()
    except LedgerError:
        return []  # not there yet


def _named(directory):
    """(gain, seed) -> what was reported; fails where a trial is there twice."""
    rows = _rows(directory)
    found = {(row["gain"], row["seed"]): {name: row[name] for name in ("status", "steps", "value")} for row in rows}
    assert len(found) == len(rows)
    return found


def _check(directory):
    with contextlib.closing(sqlite3.connect(directory / LEDGER_NAME)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def _undisturbed(directory, seeds):
    sweep(TROUBLES, grid(seeds), directory, dtype="float32", lanes=4, segment_steps=100, processes=1)
    return _named(directory)


def _compare(found, expected):
    assert found.keys() == expected.keys()
    for trial, report in found.items():
        assert report == pytest.approx(expected[trial], rel=1e-5, abs=1e-6), trial


def _caller(directory, seeds):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sweep.caller", str(directory), str(seeds)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # As the command keeps one; a process that is killed while it writes there must do no harm either.
            "JAX_COMPILATION_CACHE_DIR": str(directory.parent / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        },
        stderr=subprocess.PIPE,
    )


def _kill_callers(directory, kills, seeds):
    chance = random.Random(7)
    for _ in range(kills):
        before = _named(directory)
        caller = _caller(directory, seeds)
        more = chance.randint(1, 10)
        wait_until(
            lambda b=before, m=more, c=caller: len(_rows(directory)) >= len(b) + m or c.poll() is not None, 120, "a row"
        )
        time.sleep(chance.uniform(0, 0.3))
        workers = workers_below(caller.pid)
        acknowledged = _named(directory)
        caller.kill()
        message = caller.communicate()[1].decode()
        after = _named(directory)
        assert before.items() <= acknowledged.items() <= after.items()
        assert "Traceback" not in message
        _check(directory)
        wait_until(
            lambda w=workers: not any(map(is_alive, w)), 20, "the end of the workers of a caller that was killed"
        )
    last = _caller(directory, seeds)
    assert last.wait(300) == 0, last.stderr.read().decode()
    last.stderr.close()


def _kill_workers(directory, kills, seeds):
    chance = random.Random(8)
    caller = _caller(directory, seeds)
    killed = 0
    for done in range(kills):
        # Never so soon that one trial is under way at many deaths.
        at = (done + 1) * 2 * seeds // (kills + 2) - chance.randint(0, 2)

        def ready(at=at):
            return caller.poll() is not None or (len(_rows(directory)) >= at and workers_below(caller.pid))

        wait_until(ready, 120, "a row")
        time.sleep(chance.uniform(0, 0.2))
        acknowledged = _named(directory)
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(chance.choice(sorted(workers_below(caller.pid))), signal.SIGKILL)
            killed += 1
        assert acknowledged.items() <= _named(directory).items()
    assert killed >= kills // 2  # the last ones may come after the end
    assert caller.wait(300) == 0, caller.stderr.read().decode()
    caller.stderr.close()
    _check(directory)


@pytest.mark.claims
@pytest.mark.parametrize("victims", [_kill_callers, _kill_workers])
def test_a_few_kills_cost_no_stored_row(tmp_path, victims):
    victims(tmp_path / "run", 2, 60)
    _compare(_named(tmp_path / "run"), _undisturbed(tmp_path / "whole", 60))


@pytest.mark.claims
@pytest.mark.parametrize(("victims", "seeds"), [(_kill_callers, 300), (_kill_workers, 1500)])
def test_twenty_kills_cost_no_stored_row(tmp_path, victims, seeds):
    victims(tmp_path / "run", 20, seeds)
    _compare(_named(tmp_path / "run"), _undisturbed(tmp_path / "whole", seeds))
