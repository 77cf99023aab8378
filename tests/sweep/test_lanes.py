import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.status import Status
from pruneft.sweep.lanes import Programs, batches, run_batch, stack_inputs
from pruneft.trial import Bucket, Trial, run, wrap_key
from tests.sweep.toy import TOY, resolve
from tests.test_trial import TRIAL as STAGED

BUCKET = Bucket(sizes=(("n", 8),), static=(("mode", "plain"),))
CELLS = [
    resolve({"a": a, "b": b, "gain": gain}) for a, b, gain in ((2, 5, 0.5), (8, 10, 0.3), (4, 20, 1e3), (1, 3, 0.5))
]
TRIALS = [(cell, seed) for cell in CELLS for seed in range(2)]


def _inputs(trials=TRIALS):
    keys = np.stack([TOY.key_data(cell, seed) for cell, seed in trials])
    return keys, stack_inputs([TOY.inputs(cell) for cell, _ in trials], np.float32)


@functools.cache
def _programs(lanes=8, segment_steps=60):
    return Programs(TOY.trial(BUCKET), lanes, segment_steps)


@functools.cache
def _reports():
    return run_batch(_programs(), *_inputs())


def test_reports_of_a_batch_are_those_of_single_runs():
    trial = TOY.trial(BUCKET)
    draw, report = jax.jit(trial.draw), jax.jit(trial.report)
    for (cell, seed), found in zip(TRIALS, _reports()):
        numbers = {name: np.float32(value) for name, value in TOY.inputs(cell).items()}
        problem = draw(wrap_key(TOY.key_data(cell, seed)), numbers)
        alone = {name: value.item() for name, value in report(problem, run(trial, problem)).items()}
        assert {**found, "value": 0} == {**alone, "value": 0}
        np.testing.assert_allclose(found["value"], alone["value"], rtol=1e-5)


def test_the_batch_holds_short_long_and_broken_lanes():
    # Otherwise the comparisons here would compare little.
    assert {report["status"] for report in _reports()} >= {Status.CONVERGED, Status.NOT_FINITE}
    assert len({report["steps"] for report in _reports()}) > 3


@pytest.mark.parametrize(("lanes", "segment_steps"), [(3, 7), (8, 1000)])
def test_neither_lanes_nor_segments_change_a_bit(lanes, segment_steps):
    programs, (keys, inputs) = _programs(lanes, segment_steps), _inputs()
    found = []
    for part in batches(len(TRIALS), lanes):
        found += run_batch(programs, keys[part], {name: values[part] for name, values in inputs.items()})
    assert repr(found) == repr(_reports())  # repr: NaN equals NaN, and every bit of a float counts


def test_a_broken_lane_leaves_the_others_as_they_were():
    good = [trial for trial in TRIALS if trial[0]["gain"] < 1]
    expected = [report for trial, report in zip(TRIALS, _reports()) if trial[0]["gain"] < 1]
    assert run_batch(_programs(), *_inputs(good)) == expected


def test_a_batch_that_is_not_full_is_filled_and_reports_only_its_own():
    assert run_batch(_programs(), *_inputs(TRIALS[:1])) == _reports()[:1]


def test_reports_are_plain_numbers():
    kinds = {name: type(value) for name, value in _reports()[0].items()}
    assert kinds == {"status": int, "steps": int, "value": float, "success": bool}


def test_a_batch_that_never_finishes_is_an_error():
    endless = Trial(**{**TOY.trial(BUCKET).__dict__, "finished": lambda problem, state: state.step < 0})
    with pytest.raises(RuntimeError, match="did not finish in 3 segments of 5 steps: its `finished` never became true"):
        run_batch(Programs(endless, 2, 5), *_inputs(TRIALS[:2]), max_segments=3)


def test_a_program_is_traced_once_for_any_number_of_batches():
    trial = TOY.trial(BUCKET)
    traces = []

    def step(problem, state):
        traces.append(problem)
        return trial.step(problem, state)

    counted = Trial(**{**trial.__dict__, "step": step})
    programs, (keys, inputs) = Programs(counted, 2, 50), _inputs()
    for part in batches(len(TRIALS) - 1, 2):  # the last batch is not full
        run_batch(programs, keys[part], {name: values[part] for name, values in inputs.items()})
    assert len(traces) == 1


def test_lanes_take_turns_and_are_staged_as_they_are_alone():
    # Lanes ask for the stage at the same steps here, but one lane is far ahead of the other from the start.
    trial = Trial(**{**STAGED.__dict__, "draw": lambda key, inputs: inputs["x"]})
    starts = np.array([0.3, 0.31, 0.7])
    late = Trial(
        **{**trial.__dict__, "finished": lambda problem, state: state.step >= jnp.where(problem > 0.5, 17, 45)}
    )
    trial = Trial(**{**late.__dict__, "report": lambda problem, state: {"status": state.turns, **state._asdict()}})
    found = run_batch(Programs(trial, 4, 13), np.zeros((3, 2), np.uint32), {"x": starts})
    for x, lane in zip(starts, found):
        alone = run(trial, jnp.asarray(x))
        assert (lane["step"], lane["turns"], lane["served"]) == (int(alone.step), int(alone.turns), int(alone.served))
        np.testing.assert_allclose(lane["value"], float(alone.value), rtol=1e-6)
    assert [lane["served"] for lane in found] == [244, 244, 2]


def test_memory_bounds_the_number_of_lanes():
    _, inputs = _inputs()
    one_lane = 4 * (8 + 1 + 1) + 4 * 3  # problem: data, length, gain; state: step, left, value
    programs = _programs()
    assert programs.fit_memory(inputs, 8 * one_lane) is programs
    assert programs.fit_memory(inputs, 3 * one_lane + 1).lanes == 3
    assert programs.fit_memory(inputs, 1).lanes == 1


@pytest.mark.parametrize(("count", "lanes"), [(0, 3), (1, 3), (3, 3), (7, 3), (7, 1)])
def test_batches_cover_every_trial_once_in_order(count, lanes):
    parts = list(batches(count, lanes))
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    assert all(1 <= part.stop - part.start <= lanes for part in parts)


def test_inputs_are_stacked_by_name():
    stacked = stack_inputs([{"x": 1, "y": 0.5}, {"x": 2, "y": 0.25}], np.float32)
    assert {name: (values.tolist(), values.dtype.name) for name, values in stacked.items()} == {
        "x": ([1.0, 2.0], "float32"),
        "y": ([0.5, 0.25], "float32"),
    }
