import dataclasses
import importlib
import signal
import subprocess
import sys
import time
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from pruneft.status import Status
from pruneft.sweep import Grid, Ledger, LedgerError, cells, keeper, make_grid, run_trials, sweep
from pruneft.sweep.driver import manifest
from pruneft.sweep.local import TrialError
from pruneft.sweep.runs import LEDGER_NAME
from pruneft.trial import Trial
from tests.sweep.toy import TOY, toy

GRID = make_grid(TOY, {"a": (2, 4), "b": 5.0, "mode": ("plain", "squared")}, seeds=3)


def _rows(directory):
    with Ledger.open(directory / LEDGER_NAME, create=False, read_only=True) as ledger:
        return sorted(ledger.rows(), key=repr)


def _progress(directory):
    with Ledger.open(directory / LEDGER_NAME, create=False, read_only=True) as ledger:
        return ledger.progress[0]


def _sweep(directory, grid=GRID, experiment=TOY, **settings):
    return sweep(experiment, grid, directory, dtype="float32", **settings)


def _changed(**functions):
    """The toy with some functions of its trials replaced by a function of them."""

    def trial(bucket):
        plain = TOY.trial(bucket)
        return Trial(**{**plain.__dict__, **{name: make(plain) for name, make in functions.items()}})

    return dataclasses.replace(TOY, trial=trial)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return directory, _sweep(directory)


def test_every_trial_of_the_grid_is_stored_once(swept):
    directory, result = swept
    assert (result.path, result.planned, result.new) == (directory / LEDGER_NAME, 12, 12)
    rows = _rows(directory)
    counts = Counter((row["a"], row["b"], row["mode"], row["seed"]) for row in rows)
    assert counts == {(a, 5.0, mode, seed): 1 for a in (2, 4) for mode in ("plain", "squared") for seed in range(3)}
    assert {row["status"] for row in rows} <= {Status.CONVERGED, Status.BUDGET_SPENT}


def test_methods_meet_the_same_instances_and_seeds_do_not(swept):
    by_mode = {mode: [] for mode in ("plain", "squared")}
    for row in sorted(_rows(swept[0]), key=lambda row: (row["a"], row["seed"])):
        by_mode[row["mode"]].append(row["steps"])  # the number of steps is drawn
    assert by_mode["plain"] == by_mode["squared"]
    assert len(set(by_mode["plain"])) > 2


def test_a_finished_sweep_runs_nothing_again(swept):
    seen = []
    told = []
    result = _sweep(swept[0], on_plan=lambda *given: seen.append((*given[:2], len(given[2]))), on_progress=told.append)
    assert (result.planned, result.new, result.usage.segments) == (12, 0, 0)
    assert seen == [(12, 12, 0)]
    assert [(now.done, now.state, now.eta) for now in told] == [(12, "finished", 0.0)]


def test_lanes_and_padding_change_no_row(swept, tmp_path):
    # One trial at a time, and first the grid without a = 4, so that the smaller trials are not padded either.
    _sweep(tmp_path, make_grid(TOY, {"a": 2, "b": 5.0, "mode": ("plain", "squared")}, seeds=3), lanes=1)
    seen = []
    result = _sweep(tmp_path, lanes=2, on_plan=lambda *given: seen.append((*given[:2], given[2].compilations)))
    assert (result.planned, result.new) == (12, 6)
    assert seen == [(12, 6, 2)]
    assert _rows(tmp_path) == _rows(swept[0])


def test_a_wider_grid_and_more_seeds_extend_a_run(tmp_path):
    small = make_grid(TOY, {"a": 2, "b": 5.0}, seeds=2)
    _sweep(tmp_path, small)
    first = _rows(tmp_path)
    result = _sweep(tmp_path, Grid(axes={**small.axes, "b": (5.0, 6.0)}, seeds=3))
    assert (result.planned, result.new) == (6, 4)
    assert [row for row in _rows(tmp_path) if row in first] == first


@pytest.mark.parametrize(
    ("experiment", "dtype", "words"),
    [
        (toy(name="other"), "float32", "holds trials of experiment 'toy', not of 'other'"),
        (toy(cap=400), "float32", "the code has changed"),
        (TOY, "float64", "the code has changed"),
    ],
)
def test_a_run_of_something_else_is_not_continued(swept, experiment, dtype, words):
    with pytest.raises(LedgerError, match=words):
        sweep(experiment, GRID, swept[0], dtype=dtype)
    assert len(_rows(swept[0])) == 12


def test_an_interrupted_sweep_keeps_what_it_wrote_and_goes_on_later(swept, tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "_FLUSH_SECONDS", 0.0)

    def interrupt(now):
        if now.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _sweep(tmp_path, lanes=2, on_progress=interrupt)
    kept = len(_rows(tmp_path))
    assert 0 < kept <= 6  # of the first of two buckets
    assert _progress(tmp_path).state == "interrupted"
    result = _sweep(tmp_path, lanes=2)
    assert result.new == 12 - kept
    assert _rows(tmp_path) == _rows(swept[0])
    assert _progress(tmp_path)[:2] == (12, 12)


def test_the_first_ctrl_c_lets_the_segment_end_and_keeps_its_rows(swept, tmp_path, monkeypatch):
    monkeypatch.setattr("pruneft.sweep.keeper._FLUSH_SECONDS", 0.0)  # told of every segment, not only of the end
    asked = []

    def interrupt(now):
        if not asked:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _sweep(tmp_path, lanes=2, segment_steps=4, on_progress=interrupt, on_stop=lambda: asked.append("once"))
    assert asked == ["once"]
    assert signal.getsignal(signal.SIGINT) is before
    assert (_progress(tmp_path).state, _progress(tmp_path).running) == ("interrupted", 0)
    assert _progress(tmp_path).done == len(_rows(tmp_path)) < 12
    _sweep(tmp_path)
    assert _rows(tmp_path) == _rows(swept[0])


def test_a_ctrl_c_that_somebody_else_handles_is_left_to_them(tmp_path):
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("theirs"))
    try:
        result = _sweep(tmp_path, on_progress=lambda now: seen or signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (seen, result.new) == (["theirs"], 12)


def test_a_wall_clock_that_goes_backwards_changes_nothing(swept, tmp_path, monkeypatch):
    hours = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    told = []
    assert _sweep(tmp_path, on_progress=told.append).new == 12
    assert _rows(tmp_path) == _rows(swept[0])
    assert [now.elapsed for now in told] == sorted(now.elapsed for now in told)
    assert all(now.rate >= 0 for now in told)


def test_a_ledger_that_refuses_is_told_as_such_and_not_as_a_fault_of_the_trial(tmp_path, monkeypatch):
    def refuse(self, rows, progress=None):
        raise LedgerError("no space is left")

    with monkeypatch.context() as broken:
        broken.setattr(Ledger, "write", refuse)
        with pytest.raises(LedgerError, match="no space is left"):
            _sweep(tmp_path)
    assert _progress(tmp_path).state == "failed"
    assert _sweep(tmp_path).new == 12


def test_cells_that_come_twice_are_run_once(tmp_path):
    grid = make_grid(TOY, {"a": (2, 2), "b": (5.0, 5)}, seeds=2)
    assert _sweep(tmp_path, grid)[1:3] == (2, 2)
    assert [row["seed"] for row in _rows(tmp_path)] == [0, 1]


def test_a_sweep_without_seeds_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make_grid(TOY, {"a": 2}, seeds=0)


def test_the_manifest_says_what_ran_and_where(swept):
    with Ledger.open(swept[0] / LEDGER_NAME, read_only=True) as ledger:
        kept = ledger.manifest
    assert kept["grid"] == GRID.spec()
    assert (kept["dtype"], kept["jax"], kept["devices"]) == ("float32", jax.__version__, jax.device_count())
    assert kept["device"].startswith("cpu")
    assert {"pruneft", "jaxlib", "optax", "python", "machine", "started"} <= kept.keys()


def test_the_manifest_has_the_revision_of_the_experiments_source_or_null(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    importlib.import_module("elsewhere")
    other = dataclasses.replace(TOY, module="elsewhere")
    assert manifest("float32", other)["git"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "elsewhere.py"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    revision = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert manifest("float32", other)["git"] == revision
    (tmp_path / "elsewhere.py").write_text("changed = 1\n")
    assert manifest("float32", other)["git"] == revision + "+"
    sys.modules.pop("elsewhere")
    assert manifest("float32", other)["git"] is None


def test_run_trials_hands_rows_on_as_they_finish_and_keeps_them_nowhere():
    trials = [(cell, seed) for cell in cells(TOY, GRID) for seed in range(3)]
    early = []
    buckets = list(run_trials(TOY, trials, dtype="float32", lanes=2, sizes={"n": 48}, on_rows=early.append))
    assert [len(rows) for rows in buckets] == [6, 6]
    assert [row for rows in early for row in rows] == [row for rows in buckets for row in rows]
    assert len(early) > 2
    (stopped, *_) = run_trials(TOY, trials, dtype="float32", stop=lambda: True)
    assert stopped == []


def test_a_trial_that_cannot_be_drawn_raises_and_leaves_the_run_usable(tmp_path):
    def draw(plain):
        def broken(key, inputs):
            raise ZeroDivisionError("no such instance")

        return broken

    with pytest.raises(TrialError, match=r"trials of toy with n=16, mode=plain fail: .*: no such instance") as caught:
        _sweep(tmp_path, experiment=_changed(draw=draw))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert _rows(tmp_path) == []
    assert _sweep(tmp_path, make_grid(TOY, {"a": 2, "b": 5.0}, seeds=1)).new == 1  # the lock is free again


def test_a_trial_that_ends_in_nan_is_stored_as_not_finite(tmp_path):
    def step(plain):
        def broken(problem, state):
            state = plain.step(problem, state)
            return state._replace(value=jnp.where(state.step >= 3, jnp.nan, state.value))

        return broken

    _sweep(tmp_path, make_grid(TOY, {"a": 2, "b": 5.0}, seeds=2), experiment=_changed(step=step))
    rows = _rows(tmp_path)
    assert [(row["status"], row["steps"], row["success"]) for row in rows] == [(Status.NOT_FINITE, 3, False)] * 2


def test_a_trial_that_never_finishes_is_ended_and_stored_as_unfinished(tmp_path):
    endless = _changed(finished=lambda plain: lambda problem, state: state.step < 0)
    _sweep(tmp_path, make_grid(TOY, {"a": 2, "b": 5.0}, seeds=2), experiment=endless, max_steps=30)
    assert [(row["status"], row["steps"]) for row in _rows(tmp_path)] == [(Status.UNFINISHED, 30)] * 2


def test_each_bucket_is_traced_once_at_most(tmp_path):
    # Two modes, hence two buckets; 12 trials two at a time, hence six batches.
    traces = []

    def step(plain):
        def counted(problem, state):
            traces.append(plain)
            return plain.step(problem, state)

        return counted

    assert _sweep(tmp_path, experiment=_changed(step=step), lanes=2).new == 12
    assert len(traces) == len(set(traces)) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float16"}, "dtype must be float32 or float64: got 'float16'"),
        ({"lanes": 0}, "lanes must be a whole number of at least 1: got 0"),
        ({"lanes": 2.0}, "lanes must be a whole number of at least 1: got 2.0"),
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1: got 0"),
        ({"max_steps": 2**31}, "max_steps must be below"),
        ({"segment_steps": 0}, "segment_steps must be a whole number of at least 1: got 0"),
        ({"processes": 0}, "processes must be a whole number of at least 1: got 0"),
        ({"processes": True}, "processes must be a whole number of at least 1: got True"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_made(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        sweep(TOY, GRID, tmp_path / "run", **{"dtype": "float32", **settings})
    assert not (tmp_path / "run").exists()


def test_float64_without_64_bit_mode_is_refused(tmp_path):
    with jax.enable_x64(False), pytest.raises(ValueError, match="dtype float64 needs JAX's 64-bit mode"):
        sweep(TOY, GRID, tmp_path / "run")
