import dataclasses

import jax
import jax.numpy as jnp
import pytest

from pruneft.sweep import LedgerError, cells, make_grid, sweep
from pruneft.sweep import explain as explaining
from pruneft.sweep.calibrate import Timing, calibrate
from pruneft.sweep.device import Device
from pruneft.sweep.explain import explain, missing_trials
from pruneft.sweep.local import Settings
from pruneft.sweep.plan import plan
from pruneft.sweep.runs import LEDGER_NAME
from pruneft.trial import Stage, Trial
from tests.sweep.toy import TOY, toy

GRID = make_grid(TOY, {"a": (2, 40), "b": (5.0, 10.0), "mode": ("plain", "squared")}, seeds=3)
CELLS = cells(TOY, GRID)


def test_an_explanation_counts_cells_trials_and_buckets_and_runs_no_trial():
    ran = []

    def trial(bucket):
        plain = TOY.trial(bucket)
        return Trial(**{**plain.__dict__, "report": lambda problem, state: ran.append(1)})

    found = explain(dataclasses.replace(TOY, trial=trial), CELLS, 3, dtype="float32", measure=False)
    assert (found.cells, found.trials, found.stored, found.plan.compilations) == (8, 24, 0, 2)
    assert [(bucket.cells, len(bucket.task.trials)) for bucket in found.buckets] == [(4, 12), (4, 12)]
    assert [bucket.cost.bytes for bucket in found.buckets] == [4 * 48 + 20] * 2
    assert found.memory == found.buckets[0].lanes * (4 * 48 + 20)
    assert not ran
    assert not found.calibrated
    assert all(bucket.timing is None for bucket in found.buckets)


def test_the_estimate_is_compilation_draws_and_steps_over_processes():
    one = explain(TOY, CELLS, 3, dtype="float32", measure=False, lanes=2)
    two = explain(TOY, CELLS, 3, dtype="float32", measure=False, lanes=1, processes=2)
    assert one.seconds["compile"] == 12.0
    assert one.seconds["total"] == pytest.approx(one.seconds["compile"] + one.seconds["steps"])
    assert one.seconds["steps"] == pytest.approx(24 * 1000 * 2.7e-6 / 0.85, rel=0.05)  # lane-steps of the toy's 1000
    assert two.seconds["steps"] == pytest.approx(one.seconds["steps"] / 2)
    assert two.memory == one.memory


def test_a_calibration_times_the_real_step_and_leaves_the_cache_alone(tmp_path):
    def slow(bucket):
        plain = TOY.trial(bucket)

        def step(problem, state):
            work = jax.lax.fori_loop(0, 2000, lambda _, x: x * 0.5 + 1.0, state.value)
            return plain.step(problem, state)._replace(value=work)

        return Trial(**{**plain.__dict__, "step": step})

    task = plan(TOY, [(cell, 0) for cell in CELLS])[0]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        fast = calibrate(TOY, task, 4, "float32")
        dear = calibrate(dataclasses.replace(TOY, trial=slow), task, 4, "float32")
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.0
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    assert 0 < 3 * fast.step_seconds < dear.step_seconds
    assert min(fast.compile_seconds, fast.draw_seconds) > 0
    assert not list(tmp_path.iterdir())


def test_what_is_measured_at_three_buckets_corrects_the_others(monkeypatch):
    experiment = dataclasses.replace(TOY, padded=())
    many = cells(experiment, make_grid(experiment, {"a": (100, 200, 300, 400, 500), "b": 5.0}, seeds=4))
    # This machine is ten times slower than the constants at every size.
    asked = []

    def measured(experiment, task, lanes, dtype):
        asked.append(task.bucket["n"])
        cost = explaining.lane_cost(experiment, task.bucket, task.trials[0][0], dtype)
        return Timing(2.0, 0.5, 10 * cost.seconds())

    monkeypatch.setattr(explaining, "calibrate", measured)
    found = explain(experiment, many, 4, dtype="float32")
    assert asked == [100, 300, 500]
    assert [bucket.timing is None for bucket in found.buckets] == [False, True, False, True, False]
    for bucket in found.buckets:
        assert bucket.step_seconds == pytest.approx(10 * bucket.cost.seconds())
    assert found.seconds["compile"] == 5 * 2.0
    assert found.seconds["draw"] == 20 * 0.5


def test_buckets_that_would_fill_the_memory_are_not_calibrated():
    found = explain(TOY, CELLS, 3, dtype="float32", device=Device("cpu", 500.0))
    assert [bucket.lanes for bucket in found.buckets] == [1, 1]
    assert explain(TOY, CELLS, 3, dtype="float32", lanes=8, device=Device("cpu", 500.0)).calibrated is False


@pytest.mark.parametrize("wrong", [{"lanes": 0}, {"processes": 0}])
def test_numbers_that_count_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1: got 0"):
        explain(TOY, CELLS, 3, measure=False, **wrong)


def test_what_a_run_holds_is_left_out_and_other_code_is_refused(tmp_path):
    ledger = tmp_path / LEDGER_NAME
    assert missing_trials(TOY, CELLS, 3, ledger, Settings("float32")) is None
    sweep(TOY, make_grid(TOY, {"a": 2, "b": (5.0, 10.0)}, seeds=2), tmp_path, dtype="float32")
    left = missing_trials(TOY, CELLS, 3, ledger, Settings("float32"))
    assert len(left) == 24 - 4
    found = explain(TOY, CELLS, 3, todo=left, dtype="float32", measure=False)
    assert (found.trials, found.stored, found.plan.trials) == (24, 4, 20)
    nothing = explain(TOY, CELLS, 3, todo=[], dtype="float32")
    assert (nothing.stored, nothing.plan.compilations, nothing.seconds["total"]) == (24, 0, 0.0)
    with pytest.raises(LedgerError, match="settings were"):
        missing_trials(toy(cap=7), CELLS, 3, ledger, Settings("float32"))


def test_the_compilation_of_a_stage_is_counted_and_its_work_is_not():
    served = []

    def run(size):
        def stage(problem, state):
            served.append(size)
            jax.debug.callback(lambda: served.append("ran"))
            return state

        return stage

    def trial(bucket):
        stage = Stage(ready=lambda *_: jnp.bool_(False), size=lambda *_: jnp.int32(2), ladder=(2, 8), run=run)
        return Trial(**{**TOY.trial(bucket).__dict__, "stage": stage})

    task = plan(TOY, [(cell, 0) for cell in CELLS])[0]
    assert calibrate(dataclasses.replace(TOY, trial=trial), task, 2, "float32").compile_seconds > 0
    assert served == [2]


@pytest.mark.claims  # a quarter of a minute
def test_a_grid_of_a_million_cells_is_explained():
    grid = make_grid(TOY, {"a": range(1, 101), "b": [10.0 + step for step in range(10_000)]}, seeds=1)
    found = explain(TOY, cells(TOY, grid), 1, dtype="float32", measure=False)
    assert (found.cells, found.trials) == (10**6, 10**6)
    assert sum(bucket.cells for bucket in found.buckets) == 10**6
    assert found.plan.compilations == len(found.buckets) <= 100
