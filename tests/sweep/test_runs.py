import os
import re
import shutil
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.sweep.code import code_of
from pruneft.sweep.ledger import Ledger, LedgerError, Row
from pruneft.sweep.runs import LEDGER_NAME, check_name, find_ledger, hold, holder, list_runs, run_path
from tests.sweep.forker import fork
from tests.sweep.toy import TOY, resolve


def _run(runs_dir, name, trials=2):
    directory = run_path(runs_dir, name)
    with hold(directory), Ledger.open(directory / LEDGER_NAME) as ledger:
        ledger.begin(code_of(TOY), "toy", {})
        ledger.write([Row(resolve({}), seed, {"status": 1}) for seed in range(trials)])
    return directory


@pytest.mark.parametrize("name", ["a", "2026-01-02", "first_run.v2", "-", "x" * 100, "A.b"])
def test_a_good_name_is_taken_as_it_is(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ä", "x" * 101, "a\n", "a\0", "*"])
def test_a_name_that_is_no_good_in_some_file_system_is_refused(name):
    with pytest.raises(ValueError, match="a run is named with letters"):
        check_name(name)


@given(st.text(max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_name_leaves_the_directory_of_runs(name):
    try:
        path = run_path("runs", name)
    except ValueError:
        return
    assert os.path.dirname(os.path.normpath(path)) == "runs"


def test_a_run_is_found_by_its_name(tmp_path):
    directory = _run(tmp_path, "first")
    assert find_ledger(tmp_path, "first") == directory / LEDGER_NAME


def test_a_missing_run_is_answered_with_those_that_there_are(tmp_path):
    with pytest.raises(ValueError, match="holds no runs"):
        find_ledger(tmp_path / "none", "first")
    _run(tmp_path, "first")
    _run(tmp_path, "other")
    with pytest.raises(ValueError, match=r"Did you mean 'first'. There are: first, other"):
        find_ledger(tmp_path, "frist")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no readable ledger\.sqlite"):
        find_ledger(tmp_path, "empty")


def test_runs_are_listed_by_name_and_broken_ones_with_their_problem(tmp_path):
    for name in ("b", "a", "broken", "foreign"):
        _run(tmp_path, name)
    (tmp_path / "broken" / LEDGER_NAME).write_bytes((tmp_path / "broken" / LEDGER_NAME).read_bytes()[:5000])
    (tmp_path / "foreign" / LEDGER_NAME).write_text("something else")
    (tmp_path / "empty").mkdir()
    (tmp_path / "weird" / LEDGER_NAME).mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("")
    found = {run.name: run for run in list_runs(tmp_path)}
    assert list(found) == ["a", "b", "broken", "empty", "foreign", "weird"]
    assert found["a"][:3] == ("a", "toy", 2)
    assert found["a"].problem is None
    assert abs(found["a"].changed.timestamp() - os.stat(tmp_path / "a" / LEDGER_NAME).st_mtime) < 1e-3
    for name, problem in [
        ("broken", "is damaged"),
        ("foreign", "not an SQLite database"),
        ("empty", "never started"),
        ("weird", "there is no ledger"),
    ]:
        assert problem in found[name].problem
        assert found[name].trials == 0


def test_no_directory_of_runs_is_an_empty_list(tmp_path):
    assert list_runs(tmp_path / "none") == []


def test_a_run_is_listed_while_it_is_being_written(tmp_path):
    with hold(run_path(tmp_path, "live")) as directory, Ledger.open(directory / LEDGER_NAME) as ledger:
        ledger.begin(code_of(TOY), "toy", {})
        ledger.write([Row(resolve({}), 0, {"status": 1})])
        assert list_runs(tmp_path)[0][:3] == ("live", "toy", 1)


def test_a_held_run_is_refused_to_others_with_who_holds_it(tmp_path):
    here = rf"held by process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with hold(tmp_path / "run"), pytest.raises(LedgerError, match=here), hold(tmp_path / "run"):
        pass
    with hold(tmp_path / "run"), hold(tmp_path / "other"):
        pass


def test_a_run_is_let_go_when_the_work_on_it_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "run"):
        1 / 0  # noqa: B018
    with hold(tmp_path / "run"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_process_holds_nothing(tmp_path):
    body = "import time\nwith hold(directory):\n    print('held', flush=True)\n    time.sleep(60)"
    process = fork(body, tmp_path / "out.txt", directory=str(tmp_path / "run"))
    assert process.first_line() == "held"
    with pytest.raises(LedgerError, match=f"held by process {process.pid} on "), hold(tmp_path / "run"):
        pass
    process.kill(signal.SIGKILL)
    with hold(tmp_path / "run"):
        assert re.match(f"process {os.getpid()} ", (tmp_path / "run" / "lock").read_text())


def test_who_holds_a_run_is_told_without_disturbing_anybody(tmp_path):
    assert holder(tmp_path / "none") is None
    with hold(tmp_path / "run"):
        assert holder(tmp_path / "run").startswith(f"process {os.getpid()} on ")
        assert holder(tmp_path / "run").startswith(f"process {os.getpid()} on ")  # asking did not let it go
    assert holder(tmp_path / "run") is None
    (tmp_path / "run" / "lock").write_text("process 1 on elsewhere")  # left behind: means nothing
    assert holder(tmp_path / "run") is None


def test_a_run_can_be_held_while_others_ask_who_holds_it(tmp_path):
    with hold(tmp_path / "run"):
        pass
    done = threading.Event()

    def ask():
        while not done.is_set():
            holder(tmp_path / "run")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with hold(tmp_path / "run"):
                pass
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert holder(tmp_path / "run") is None


def test_a_lock_that_cannot_be_read_is_reported(tmp_path, monkeypatch):
    with hold(tmp_path / "run"):
        pass

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LedgerError, match=r"cannot read the lock .*Permission denied"):
        holder(tmp_path / "run")


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LedgerError, match=r"cannot write in the run's directory.*another directory of runs"),
        hold(tmp_path / "file" / "run"),
    ):
        pass
    (tmp_path / "run" / "lock").mkdir(parents=True)
    with pytest.raises(LedgerError, match="cannot write in the run's directory"), hold(tmp_path / "run"):
        pass


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="permissions do not bind root")
def test_a_directory_without_permission_is_refused(tmp_path):
    _run(tmp_path / "runs", "first")
    (tmp_path / "runs").chmod(0o500)
    try:
        with pytest.raises(LedgerError, match="Permission denied"), hold(run_path(tmp_path / "runs", "new")):
            pass
        (tmp_path / "runs").chmod(0)
        with pytest.raises(LedgerError, match="cannot read the directory of runs"):
            list_runs(tmp_path / "runs")
    finally:
        (tmp_path / "runs").chmod(0o700)


def test_a_removed_run_is_gone(tmp_path):
    shutil.rmtree(_run(tmp_path, "first"))
    assert list_runs(tmp_path) == []
