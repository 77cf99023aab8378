import os
import shutil
import signal
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pruneft.cli import _status
from pruneft.sweep import Ledger, LedgerError, Progress, Row, run_path
from pruneft.sweep import ledger as ledger_module
from pruneft.sweep.code import Code
from pruneft.sweep.runs import LEDGER_NAME, hold
from tests.sweep.forker import fork

CODE = Code("0" * 32, {}, "{}")
RUNNING = Progress(40, 10, 8, 3, 2.5, 12.0, 0.91, 4.0, 2, "running")


def _begin(directory, progress, trials=10):
    path = directory / LEDGER_NAME
    directory.mkdir(parents=True, exist_ok=True)
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "mine", {})
        ledger.write([Row({"a": 1}, seed, {"status": 1 + 2 * (seed > 6)}) for seed in range(trials)], progress)
    return path


@pytest.fixture
def directory(tmp_path):
    return run_path(tmp_path / "runs", "first")


def test_a_run_at_work_says_how_far_it_is_and_who_holds_it(command, directory):
    _begin(directory, RUNNING)
    with hold(directory):
        said = command("status", "first")
        values = command("status", "first", "--json").json
    assert (said.code, said.err) == (0, "")
    found = dict(line.split(maxsplit=1) for line in said.out.splitlines() if not line.startswith("held"))
    assert found["state"] == "running"
    assert found["done"] == "10 of 40 (25.0%)"
    assert found["rate"] == "2.5 trials/s"
    assert found["left"] == "about 12 s"
    assert found["utilisation"].startswith("91%")
    assert found["statuses"] == "7 CONVERGED, 3 BUDGET_SPENT"
    assert f"held by      process {os.getpid()} on" in said.out
    assert values["holder"].startswith(f"process {os.getpid()} ")
    assert {name: values[name] for name in Progress._fields} == RUNNING._asdict()
    assert (values["run"], values["experiment"], values["stored"]) == ("first", "mine", 10)
    assert values["statuses"] == {"CONVERGED": 7, "BUDGET_SPENT": 3}


@pytest.mark.parametrize(
    ("told", "state", "says"),
    [
        ("finished", "finished", "finished"),
        ("interrupted", "interrupted", "interrupted: run the same sweep again"),
        ("failed", "failed", "ended by an error"),
        ("running", "died", "died: its process is gone"),
    ],
)
def test_a_run_that_nobody_holds_says_how_it_ended(command, directory, told, state, says):
    _begin(directory, RUNNING._replace(state=told))
    said, values = command("status", "first").out, command("status", "first", "--json").json
    assert f"state        {says}" in said
    assert "left" not in said
    assert (values["state"], values["holder"], values["running"], values["eta"]) == (state, None, 0, None)


def test_a_run_without_progress_says_what_is_stored(command, directory):
    _begin(directory, None)
    said = command("status", "first").out
    assert "nobody works on it" in said
    assert "stored       10 trials" in said
    with hold(directory):
        assert command("status", "first", "--json").json["state"] == "starting"


def test_a_held_run_whose_last_words_are_old_is_starting(command, directory):
    _begin(directory, RUNNING._replace(state="finished"))
    with hold(directory):
        assert "state        starting" in command("status", "first").out


def test_watching_ends_with_the_run(command, directory, monkeypatch):
    path = _begin(directory, RUNNING)
    pauses = []
    with Ledger.open(path) as ledger, hold(directory):

        def sleep(seconds):
            pauses.append(seconds)
            if len(pauses) == 2:
                ledger.report_progress(RUNNING._replace(done=40, state="finished"))
                monkeypatch.setattr(_status, "holder", lambda run_dir: None)

        monkeypatch.setattr(_status.time, "sleep", sleep)
        lines = command("status", "first", "--watch", "0.5").out.splitlines()
    assert pauses == [0.5, 0.5]
    assert all(
        "10/40 done, 8 running, 3 failed, 2.5 trials/s, utilisation 91%, 12 s left" in line for line in lines[:2]
    )
    assert lines[3] == "state        finished"


def test_a_clock_that_goes_backwards_changes_nothing_but_the_time_of_writing(command, directory, monkeypatch):
    path = _begin(directory, RUNNING)

    class Past(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(1999, 1, 1, tzinfo=UTC).astimezone(zone)

    later = RUNNING._replace(done=11, elapsed=5.0)
    with Ledger.open(path) as ledger, hold(directory):
        before = command("status", "first", "--json").json
        monkeypatch.setattr(ledger_module, "datetime", Past)
        monkeypatch.setattr(_status, "datetime", Past)
        ledger.report_progress(later)
        assert ledger.progress[0] == later
        after = command("status", "first", "--json").json
        assert "about 12 s" in command("status", "first").out
    assert after.pop("written").startswith("1999")
    assert before.pop("written") > "2020"
    assert after == {**before, "done": 11, "elapsed": 5.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_run_is_known_for_dead(command, directory, tmp_path):
    _begin(directory, RUNNING)
    body = "import time\nwith hold(directory):\n    print('held', flush=True)\n    time.sleep(60)"
    process = fork(body, tmp_path / "out.txt", directory=str(directory))
    assert process.first_line() == "held"
    assert command("status", "first", "--json").json["holder"].startswith(f"process {process.pid} ")
    process.kill(signal.SIGKILL)
    assert command("status", "first", "--json").json["state"] == "died"


STATUS = """
import pruneft.cli._parser  # now: nobody may read a Python that root has at home
from pruneft.cli import main
if os.geteuid() == 0:  # permissions do not bind root; 65534 is nobody
    os.setgid(65534)
    os.setuid(65534)
main(["status", "first", "--runs-dir", runs])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_run_on_read_only_media_is_looked_at(tmp_path):
    runs = Path(tempfile.mkdtemp())  # not below tmp_path, through which nobody else may pass
    try:
        _begin(runs / "first", RUNNING)
        (runs / "first" / "lock").write_text("")
        runs.chmod(0o555)
        (runs / "first").chmod(0o555)
        lines = fork(STATUS, tmp_path / "out.txt", runs=str(runs)).finish()
        assert lines[1].startswith("state        died")
        assert lines[2].startswith("done         10 of 40")
    finally:
        runs.chmod(0o755)
        (runs / "first").chmod(0o755)
        shutil.rmtree(runs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frist",), "Did you mean 'first'?"),
        (("first", "--watch", "0"), "--watch: expected a positive number of seconds, got 0"),
        (("first", "--watch", "nan"), "--watch: expected a positive number"),
        (("first", "--watch", "soon"), "expected a number, got 'soon'"),
    ],
)
def test_a_status_that_makes_no_sense_is_refused(refused, directory, words, said):
    _begin(directory, RUNNING)
    assert said in refused("status", *words)


def test_a_damaged_ledger_has_no_status(refused, directory):
    path = _begin(directory, RUNNING)
    path.write_bytes(path.read_bytes()[:5000])
    assert "is damaged" in refused("status", "first")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (0.96, "0.96 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
        (200000, "2 days 7 h"),
    ],
)
def test_durations_are_said_in_the_units_that_matter(seconds, text):
    assert _status.duration(seconds) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": "resting"}, "state is one of running, interrupted, finished, failed: got 'resting'"),
        ({"rate": float("nan")}, "rate of a progress must be finite and not negative: got nan"),
        ({"eta": float("inf")}, "eta of a progress must be finite"),
        ({"done": -1}, "done of a progress"),
        ({"rate": None}, "rate of a progress"),
    ],
)
def test_a_progress_that_cannot_be_is_refused_and_the_last_one_stays(directory, change, message):
    path = _begin(directory, RUNNING)
    with Ledger.open(path) as ledger:
        with pytest.raises(ValueError, match=message):
            ledger.report_progress(RUNNING._replace(**change))
        ledger.begin(CODE, "mine", {})
        with pytest.raises(ValueError, match=message):
            ledger.write([Row({"a": 2}, 0, {"status": 1})], RUNNING._replace(**change))
        assert (ledger.progress[0], ledger.count()) == (RUNNING, 10)


def test_progress_goes_with_the_rows_it_speaks_of_or_not_at_all(directory):
    path = _begin(directory, RUNNING)
    unknown = RUNNING._replace(eta=None, utilisation=None, done=11)
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "mine", {})
        ledger._connection.execute("create trigger no before insert on trial begin select raise(abort, 'no'); end")
        with pytest.raises(LedgerError, match="no"):
            ledger.write([Row({"a": 2}, 0, {"status": 1})], unknown)
        assert ledger.progress[0] == RUNNING
        ledger._connection.execute("drop trigger no")
        ledger.write([Row({"a": 2}, 0, {"status": 1})], unknown)
        assert ledger.progress[0] == unknown
        assert abs((ledger.progress[1] - datetime.now(UTC)).total_seconds()) < 60
