import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from pruneft.status import Status
from pruneft.sweep import Grid, Ledger, LedgerError, make_grid, sweep
from pruneft.sweep.runs import LEDGER_NAME
from pruneft.trial import Trial
from tests.sweep.toy import TOY, toy

GRID = make_grid(TOY, {"a": (2, 4), "b": 5.0, "mode": ("plain", "squared")}, seeds=3)


def _rows(directory):
    with Ledger.open(directory / LEDGER_NAME, create=False, read_only=True) as ledger:
        return sorted(ledger.rows(), key=repr)


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
    result = _sweep(swept[0], on_plan=lambda *numbers: seen.append(numbers), on_rows=seen.append)
    assert (result.planned, result.new) == (12, 0)
    assert seen == [(12, 12, 0)]


def test_lanes_and_padding_change_no_row(swept, tmp_path):
    # One trial at a time, and first the grid without a = 4, so that the smaller trials are not padded either.
    _sweep(tmp_path, make_grid(TOY, {"a": 2, "b": 5.0, "mode": ("plain", "squared")}, seeds=3), lanes=1)
    seen = []
    result = _sweep(tmp_path, lanes=2, on_plan=lambda *numbers: seen.append(numbers))
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


def test_an_interrupted_sweep_keeps_what_it_wrote_and_goes_on_later(swept, tmp_path):
    def interrupt(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _sweep(tmp_path, lanes=2, on_rows=interrupt)
    assert len(_rows(tmp_path)) == 2
    result = _sweep(tmp_path, lanes=2)
    assert result.new == 10
    assert _rows(tmp_path) == _rows(swept[0])


def test_a_trial_that_cannot_be_drawn_raises_and_leaves_the_run_usable(tmp_path):
    def draw(plain):
        def broken(key, inputs):
            raise ZeroDivisionError("no such instance")

        return broken

    with pytest.raises(ZeroDivisionError, match="no such instance"):
        _sweep(tmp_path, experiment=_changed(draw=draw))
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


def test_a_trial_that_never_finishes_is_an_error(tmp_path, monkeypatch):
    endless = _changed(finished=lambda plain: lambda problem, state: state.step < 0)
    monkeypatch.setattr("pruneft.sweep.lanes.run_batch.__kwdefaults__", {"max_segments": 2})
    with pytest.raises(RuntimeError, match="did not finish in 2 segments"):
        _sweep(tmp_path, make_grid(TOY, {"a": 2}, seeds=1), experiment=endless)
    assert _rows(tmp_path) == []


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
        ({"lanes": 0}, "lanes must be at least 1: got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_made(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        sweep(TOY, GRID, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_float64_without_64_bit_mode_is_refused(tmp_path):
    with jax.enable_x64(False), pytest.raises(ValueError, match="dtype float64 needs JAX's 64-bit mode"):
        sweep(TOY, GRID, tmp_path / "run")
