import contextlib
import dataclasses

import pytest

from pruneft.status import Status
from pruneft.sweep import Ledger, LedgerError, Row
from pruneft.sweep.code import code_of
from pruneft.sweep.keeper import Keeper
from pruneft.sweep.loop import Usage
from tests.sweep.toy import TOY

CELL = TOY.resolve({"a": 2, "b": 5.0})
STEPS = TOY.expected_steps(CELL)
USAGE = Usage(used=30, spent=40, segments=3, running=2)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.begin(code_of(TOY, {"dtype": "float32"}), "toy", {})
        yield ledger


def _row(seed, **report):
    return Row(CELL, seed, {"status": int(Status.CONVERGED), "success": True, **report})


def _keeper(ledger, clock, told=None, planned=10, todo=10, **settings):
    tell = None if told is None else told.append
    return Keeper(ledger, TOY, planned, todo, todo * STEPS, clock=clock, on_progress=tell, **settings)


def _put_and_fail(keeper):
    keeper.put([_row(0)], USAGE)
    raise ZeroDivisionError


def _state(ledger):
    return ledger.progress[0].state


def test_rows_are_stored_together_after_a_part_of_a_second(ledger, clock):
    with _keeper(ledger, clock) as keeper:
        keeper.put([_row(0)], USAGE)
        clock.now += 0.3
        keeper.put([_row(1)], USAGE)
        assert (ledger.count(), keeper.new) == (0, 0)
        clock.now += 0.2
        keeper.put([_row(2)], USAGE)
        assert (ledger.count(), keeper.new) == (3, 3)
        keeper.put([_row(3)], USAGE)
        assert ledger.count() == 3
    assert (ledger.count(), keeper.new) == (4, 4)


def test_many_rows_are_stored_without_waiting(ledger, clock):
    with _keeper(ledger, clock, planned=1000, todo=1000) as keeper:
        keeper.put([_row(seed) for seed in range(511)], USAGE)
        assert ledger.count() == 0
        keeper.put([_row(511)], USAGE)
        assert ledger.count() == 512


def test_progress_is_told_without_rows_too(ledger, clock):
    told = []
    with _keeper(ledger, clock, told, workers=2) as keeper:
        clock.now += 1
        keeper.put([], USAGE)
    first, last = told
    assert (first.done, first.running, first.rate, first.eta, first.workers) == (0, 2, 0.0, None, 2)
    assert (first.utilisation, first.elapsed, first.state) == (0.75, 1.0, "running")
    assert (last.running, last.state) == (0, "finished")


def test_time_left_follows_expected_steps_and_not_trials(ledger, clock):
    longer = TOY.resolve({"a": 2, "b": 6.0})
    experiment = dataclasses.replace(TOY, expected_steps=lambda cell: 1000.0 if cell["b"] == 6 else 100.0)
    told = []
    keeper = Keeper(ledger, experiment, 12, 11, 1 * 1000.0 + 10 * 100.0, clock=clock, on_progress=told.append)
    with keeper:
        clock.now += 4
        keeper.put([Row(longer, 0, {"status": 1, "success": False})], USAGE)
    now = told[0]
    # One trial of eleven, but half of the work, in 4 seconds.
    assert (now.planned, now.done, now.failed, now.rate, now.eta) == (12, 2, 1, 0.25, 4.0)


def test_the_rate_is_of_the_last_twenty_seconds(ledger, clock):
    told = []
    with _keeper(ledger, clock, told, planned=200, todo=200) as keeper:
        for second in range(100):
            clock.now += 1
            keeper.put([_row(second)] if second < 50 else [_row(100 + second), _row(200 + second)], USAGE)
    assert told[40].rate == pytest.approx(1)
    assert told[99].rate == pytest.approx(2)


def test_a_clock_that_stands_still_gives_no_rate_and_no_time_left(ledger, clock):
    told = []
    with _keeper(ledger, clock, told, planned=2000, todo=2000) as keeper:
        keeper.put([_row(seed) for seed in range(600)], USAGE)
    assert [(now.done, now.rate, now.eta) for now in told] == [(600, 0.0, None)] * 2


def test_a_finished_plan_has_no_time_left(ledger, clock):
    told = []
    with _keeper(ledger, clock, told, planned=1, todo=1) as keeper:
        keeper.put([_row(0)], USAGE)
    assert [(now.done, now.eta, now.state) for now in told] == [(1, 0.0, "finished")]


def test_a_plan_that_grows_has_no_time_left_and_hands_on_what_was_stored(ledger, clock):
    told, stored = [], []
    with _keeper(ledger, clock, told, planned=0, todo=0, open_end=True, on_stored=stored.append) as keeper:
        keeper.extend(2, 2 * STEPS)
        clock.now += 1
        keeper.put([_row(0)], USAGE)
        keeper.put([_row(1)], USAGE)
        keeper.flush()
        keeper.extend(1, STEPS)
        keeper.put([_row(2)], USAGE)
    assert [(now.done, now.planned, now.eta) for now in told] == [(1, 2, None), (2, 2, None), (3, 3, None)]
    assert [[row.seed for row in rows] for rows in stored] == [[0], [1], [2]]


def test_trials_without_success_are_counted_with_those_that_were_lost(ledger, clock):
    told = []
    lost = Row(CELL, 3, {"status": int(Status.WORKER_LOST)})
    with _keeper(ledger, clock, told) as keeper:
        keeper.put([_row(0), _row(1, success=False), _row(2, success=float("nan")), lost], USAGE)
    assert told[-1].failed == 3


def test_a_run_is_running_until_its_end_is_told(ledger, clock):
    with _keeper(ledger, clock):
        assert _state(ledger) == "running"
    assert _state(ledger) == "finished"
    with _keeper(ledger, clock) as keeper:
        keeper.interrupted = True
    assert _state(ledger) == "interrupted"
    with pytest.raises(KeyboardInterrupt), _keeper(ledger, clock):
        raise KeyboardInterrupt
    assert _state(ledger) == "interrupted"
    with pytest.raises(ZeroDivisionError), _keeper(ledger, clock) as keeper:
        _put_and_fail(keeper)
    assert (_state(ledger), ledger.count()) == ("failed", 1)


def test_an_error_while_the_ledger_is_full_is_the_one_that_is_told(ledger, clock, monkeypatch):
    def full(*_):
        raise LedgerError("no space is left")

    keeper = _keeper(ledger, clock)
    keeper.__enter__()
    monkeypatch.setattr(ledger, "write", full)
    monkeypatch.setattr(ledger, "report_progress", full)
    stack = contextlib.ExitStack()
    stack.push(keeper)
    with pytest.raises(ZeroDivisionError), stack:
        _put_and_fail(keeper)
    assert keeper.new == ledger.count() == 0


def test_a_ledger_that_is_full_at_the_end_is_an_error_and_the_run_has_failed(ledger, clock, monkeypatch):
    def full(*_):
        raise LedgerError("no space is left")

    monkeypatch.setattr(ledger, "write", full)
    with pytest.raises(LedgerError, match="no space is left"), _keeper(ledger, clock) as keeper:
        keeper.put([_row(0)], USAGE)
    assert _state(ledger) == "failed"
