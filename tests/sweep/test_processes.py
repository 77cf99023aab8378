import os
import signal
import sys
import threading
import time

import pytest

from pruneft.status import Status
from pruneft.sweep import pool
from pruneft.sweep import processes as machinery
from pruneft.sweep.local import TrialError
from pruneft.sweep.processes import WorkersFailed, run_in_processes
from tests.sweep.gang import (
    SETTINGS,
    TOY_PLACE,
    TROUBLES_PLACE,
    Kept,
    agree,
    alone,
    children,
    never,
    tasks_of,
    trials_of,
    workers_below,
)
from tests.sweep.toy import TOY
from tests.sweep.troubles import ENDLESS, EXITS, GOOD, KILLS, KILLS_ONCE, RAISES, SLOW, WHERE

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")


@pytest.fixture(autouse=True)
def nothing_left():
    """No run may leave a process, a zombie or a thread of its own behind."""
    pool.close_workers()  # which another test's sweep may have kept for the next one
    before = set(children())
    yield
    left = {number: state for number, state in children().items() if number not in before}
    assert left == {}
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("pruneft")]
    assert threads == []


@pytest.fixture
def broken_start(monkeypatch):
    """Workers that do something else than work."""

    def start(code):
        real = pool.subprocess.Popen

        def popen(command, **settings):
            return real([sys.executable, "-c", code], **settings)

        monkeypatch.setattr(pool.subprocess, "Popen", popen)

    return start


def _run(trials, place=TROUBLES_PLACE, processes=2, put=None, stop=never):
    kept = Kept() if put is None else put
    experiment = TOY if place == TOY_PLACE else machinery_experiment()
    usage = run_in_processes(place, tasks_of(trials, experiment), SETTINGS, processes, kept, stop)
    return kept, usage


def machinery_experiment():
    from tests.sweep.troubles import TROUBLES

    return TROUBLES


def test_rows_are_those_of_one_process():
    trials = trials_of((GOOD, 0.3, 1e3), seeds=6, a=(2, 4, 8))
    kept, usage = _run(trials, TOY_PLACE)
    assert agree(kept.reports(), alone(trials))
    assert {report["status"] for report in kept.reports().values()} >= {Status.CONVERGED, Status.NOT_FINITE}
    # Of every bucket that a worker has done, and not of its last one alone.
    assert usage.used == sum(report["steps"] for report in kept.reports().values())
    assert usage.running == 0


def test_a_worker_killed_in_mid_run_costs_no_row_and_doubles_none():
    trials = trials_of((GOOD, SLOW), seeds=40)
    killed = []

    def kill(kept):
        if len(kept.rows) in (5, 25):
            victim = min(workers_below(os.getpid()) - set(killed))
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)

    kept, _ = _run(trials, put=Kept(kill))
    assert len(killed) == 2
    assert agree(kept.reports(), alone(trials))


@pytest.mark.claims
def test_a_worker_that_dies_of_a_trial_once_is_followed_by_one_that_does_it(tmp_path, monkeypatch):
    monkeypatch.setenv(WHERE, str(tmp_path))
    trials = trials_of((GOOD,), seeds=5) + trials_of((KILLS_ONCE,), seeds=1)
    kept, _ = _run(trials, processes=1)
    assert (tmp_path / "killed").exists()
    assert agree(kept.reports(), alone(trials))


@pytest.mark.claims
@pytest.mark.parametrize("deadly", [KILLS, EXITS])
def test_a_trial_that_kills_every_worker_is_lost_and_all_others_are_there(deadly):
    good = trials_of((GOOD,), seeds=12)
    kept, _ = _run(good + trials_of((deadly,), seeds=1), processes=2)
    reports = kept.reports()
    assert reports.pop((deadly, 4, 0)) == {"status": Status.WORKER_LOST}
    assert agree(reports, alone(good))


@pytest.mark.claims  # a minute
def test_several_trials_that_all_kill_before_any_is_finished_point_to_the_set_up():
    kept = Kept()
    with pytest.raises(WorkersFailed, match=r"3 different trials killed their worker .* with one process"):
        _run(trials_of((KILLS,), seeds=4), put=kept)
    assert kept.rows == []  # none is given up for good


def test_an_error_of_a_trial_reaches_the_caller_with_its_text_and_rows_are_kept():
    good = trials_of((GOOD,), seeds=8, a=(8,))  # a bucket of its own
    kept = Kept()
    with pytest.raises(TrialError, match=r"(?s)trials of troubles with n=.* fail.*this trial is of no use"):
        _run(good + trials_of((SLOW,), seeds=20) + trials_of((RAISES,), seeds=1), processes=2, put=kept)
    assert agree(kept.reports(), alone(good + trials_of((SLOW,), seeds=20)), part=True)


def test_an_experiment_that_workers_cannot_import_is_a_plain_error():
    with pytest.raises(ValueError, match=r"a worker cannot import 'tests.sweep.toy:NOTHING'"):
        run_in_processes("tests.sweep.toy:NOTHING", tasks_of(trials_of((GOOD,), 2)), SETTINGS, 1, Kept(), never)


@pytest.mark.parametrize("code", ["raise SystemExit(5)", "pass"])
def test_workers_that_end_before_they_begin_are_an_error_soon(broken_start, code):
    broken_start(code)
    begin = time.monotonic()
    with pytest.raises(WorkersFailed, match="before they have done anything"):
        _run(trials_of((GOOD,), seeds=4))
    assert time.monotonic() - begin < 20


def test_workers_that_never_say_anything_are_an_error_too(broken_start, monkeypatch):
    broken_start("import time; time.sleep(1000)")
    monkeypatch.setattr(machinery, "_START_SECONDS", 0.5)
    with pytest.raises(WorkersFailed, match="before they have done anything"):
        _run(trials_of((GOOD,), seeds=4))


def test_a_worker_that_dies_while_it_connects_does_not_keep_the_others_out(broken_start, monkeypatch, tmp_path):
    # The first one connects and goes, in the middle of the handshake; those after it are real.
    mark = tmp_path / "first"
    code = f"""
import os, pathlib, socket
mark = pathlib.Path({str(mark)!r})
if not mark.exists():
    mark.touch()
    place = socket.socket(socket.AF_UNIX)
    place.connect(os.environ["PRUNEFT_WORKER_ADDRESS"])
    place.close()
    raise SystemExit(1)
from pruneft.sweep.worker import main
raise SystemExit(main())
"""
    broken_start(code)
    trials = trials_of((GOOD,), seeds=4)
    kept, _ = _run(trials, TOY_PLACE, processes=1)
    assert mark.exists()
    assert agree(kept.reports(), alone(trials))


def test_a_stop_ends_soon_and_keeps_what_was_reported():
    trials = trials_of((SLOW,), seeds=400)
    stopped = []
    kept = Kept(lambda kept: stopped.append(time.monotonic()) if len(kept.rows) == 10 else None)
    _run(trials, put=kept, stop=lambda: bool(stopped))
    assert time.monotonic() - stopped[0] < 8
    assert 10 <= len(kept.rows) < 400
    assert agree(kept.reports(), alone(trials), part=True)


@pytest.mark.claims
def test_a_stop_does_not_wait_for_a_trial_that_never_returns(monkeypatch):
    monkeypatch.setattr(machinery, "_STOP_SECONDS", 0.5)
    begin = time.monotonic()
    _run(trials_of((ENDLESS,), seeds=1), processes=1, stop=lambda: time.monotonic() - begin > 6)
    assert time.monotonic() - begin < 12


def test_an_error_of_the_caller_ends_the_workers():
    def full(rows, usage):
        if rows:
            raise OSError("no space is left")

    with pytest.raises(OSError, match="no space is left"):
        _run(trials_of((GOOD, SLOW), seeds=20), put=full)


def _kept_run(trials, code):
    kept = Kept()
    run_in_processes(TOY_PLACE, tasks_of(trials, TOY), SETTINGS, 1, kept, never, code)
    return kept.reports(), workers_below(os.getpid())


@pytest.fixture
def no_test_name(monkeypatch):
    """Of one environment: pytest writes the phase of a test into it."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    yield
    pool.close_workers()


def test_a_worker_is_kept_for_the_next_run_of_the_same_code_alone(no_test_name):
    trials = trials_of((GOOD,), seeds=6)
    first, waiting = _kept_run(trials, "one")
    again, still = _kept_run(trials, "one")
    assert len(waiting) == 1
    assert still == waiting
    assert agree(again, first)
    os.kill(min(waiting), signal.SIGKILL)
    after, fresh = _kept_run(trials, "one")
    assert agree(after, first)
    assert not fresh & waiting
    pool.close_workers()
    assert not workers_below(os.getpid())


def test_workers_are_kept_for_the_same_source_in_the_same_environment_only(no_test_name, monkeypatch):
    kept = pool.take_pool("this source")
    pool.leave_pool(kept, "this source")
    assert pool.take_pool("this source") is kept
    pool.leave_pool(kept, "this source")
    other = pool.take_pool("changed source")
    assert other is not kept
    pool.leave_pool(other, "changed source")
    monkeypatch.setenv("PRUNEFT_TEST_OF_ENVIRONMENT", "1")
    last = pool.take_pool("changed source")
    assert last is not other
    pool.leave_pool(last, None)


def test_two_runs_at_once_share_no_worker(no_test_name):
    one, two = pool.take_pool("this source"), pool.take_pool("this source")
    assert one is not two
    pool.leave_pool(one, "this source")
    pool.leave_pool(two, "this source")  # closed: one pool is enough to wait
    assert pool.take_pool("this source") is one
    pool.leave_pool(one, None)
