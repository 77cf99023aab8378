import functools

import jax
import numpy as np
import pytest

from pruneft.status import Status
from pruneft.sweep.lanes import Layout
from tests.sweep.running import BUCKET, alone, around, assert_close, changed, many, programs_of, reports
from tests.sweep.staged import AT_ONCE, BETWEEN
from tests.sweep.toy import TOY, resolve, toy
from tests.test_trial import TRIAL

CELLS = [
    resolve({"a": a, "b": b, "gain": gain}) for a, b, gain in ((2, 5, 0.5), (8, 10, 0.3), (4, 20, 1e3), (1, 300, 0.5))
]
TRIALS = [(cell, seed) for cell in CELLS for seed in range(15)]


@functools.cache
def _programs(lanes=4, queue=None):
    return programs_of(TOY, TRIALS, lanes, queue=queue)


@functools.cache
def _reports():
    return reports(_programs(), TOY, TRIALS)[0]


def test_trials_report_in_lanes_what_they_report_alone():
    assert_close(_reports(), alone(TOY, TRIALS))


def test_lanes_meet_short_long_and_broken_trials():
    # Otherwise the comparisons here would compare little.
    assert {report["status"] for report in _reports()} == {Status.CONVERGED, Status.BUDGET_SPENT, Status.NOT_FINITE}
    assert len({report["steps"] for report in _reports()}) > 10


def test_reports_are_plain_numbers():
    kinds = {name: type(value) for name, value in _reports()[0].items()}
    assert kinds == {"status": int, "steps": int, "value": float, "success": bool}


@pytest.mark.parametrize("lookahead", [True, False])
@pytest.mark.parametrize("segment_steps", [1, 10, 100, 1000, None])
def test_neither_segments_nor_lookahead_change_a_bit(segment_steps, lookahead):
    found, _ = reports(_programs(), TOY, TRIALS, segment_steps=segment_steps, lookahead=lookahead)
    assert repr(found) == repr(_reports())  # repr: NaN equals NaN, and every bit of a float counts


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_the_order_of_the_queue_changes_no_bit(order):
    places = np.arange(len(TRIALS))[::-1] if order == "reversed" else np.random.default_rng(0).permutation(len(TRIALS))
    found, _ = reports(_programs(), TOY, [TRIALS[place] for place in places])
    assert repr([found[place] for place in np.argsort(places)]) == repr(_reports())


@pytest.mark.parametrize("queue", [1, 2, 5])
def test_windows_of_any_length_give_the_same_bits(queue):
    # Shorter than the lanes they refill, so that every segment empties them.
    for lookahead in (True, False):
        found, _ = reports(_programs(queue=queue), TOY, TRIALS, lookahead=lookahead)
        assert repr(found) == repr(_reports())


@pytest.mark.parametrize("lanes", [1, 3, 16])
def test_other_lane_counts_give_the_same_whole_numbers_and_floats_up_to_rounding(lanes):
    assert_close(reports(_programs(lanes), TOY, TRIALS)[0], _reports())


def test_a_broken_lane_leaves_the_others_as_they_were():
    good = [trial for trial in TRIALS if trial[0]["gain"] < 1]
    expected = [report for trial, report in zip(TRIALS, _reports(), strict=True) if trial[0]["gain"] < 1]
    assert repr(reports(_programs(), TOY, good)[0]) == repr(expected)


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_fewer_trials_than_lanes_or_hardly_more_are_all_reported(count):
    assert repr(reports(_programs(), TOY, TRIALS[:count])[0]) == repr(_reports()[:count])


STAGED = {"between": BETWEEN, "at once": AT_ONCE}


@pytest.mark.parametrize(("kind", "lanes"), [("between", 4), ("at once", 3)])
def test_lanes_take_turns_and_are_staged_as_they_are_alone(kind, lanes):
    experiment, trials = around(STAGED[kind], kind), many(22)
    programs = programs_of(experiment, trials, lanes)
    found, usage = reports(programs, experiment, trials, segment_steps=13)
    assert_close(found, alone(experiment, trials))
    served = {report["served"] for report in found}
    assert served == ({2, 22, 24, 244} & served if kind == "between" else {224, 2244})
    assert len(served) > 1
    assert max(report["turns"] for report in found) == 8
    assert usage.stage_calls > 0
    for options in ({"segment_steps": 1}, {"segment_steps": 1000, "lookahead": False}, {"segment_steps": None}):
        assert repr(reports(programs, experiment, trials, **options)[0]) == repr(found)


def test_the_staged_trial_of_the_contract_runs_in_lanes_as_alone():
    # 45 steps of a chaotic recursion, in float64: a step too many, or in the wrong order, changes every digit.
    def report(problem, state):
        return {**TRIAL.report(problem, state), "turns": state.turns, "served": state.served}

    experiment, trials = around(changed(TRIAL, report=report)), many(9)
    found, _ = reports(programs_of(experiment, trials), experiment, trials, segment_steps=13)
    assert_close(found, alone(experiment, trials), rtol=1e-7)
    assert {(lane["turns"], lane["served"]) for lane in found} == {(6, 244)}


def test_lanes_are_kept_busy_where_lengths_have_a_heavy_tail():
    # 1024 trials of 390 steps in the mean and 20000 at most, in the order of their seeds: what is lost is the tail.
    experiment = toy(cap=20_000)
    trials = many(1024, **resolve({"a": 1, "b": 91.0}))
    found, usage = reports(programs_of(experiment, trials, 16), experiment, trials, segment_steps=100)
    lengths = np.array([report["steps"] for report in found])
    assert usage.used == lengths.sum()
    assert 350 < lengths.mean() < 450
    assert lengths.max() == 20_000
    assert usage.utilisation >= 0.6
    batches = lengths.reshape(-1, 16)
    assert (
        lengths.sum() / (16 * batches.max(axis=1).sum()) < 0.5 * usage.utilisation
    )  # each batch waits for its longest


def test_a_state_without_arrays_is_finished_at_once():
    experiment = around(
        changed(
            TOY.trial(BUCKET),
            draw=lambda key, inputs: jax.random.uniform(key, (), jax.numpy.float32),
            init=lambda problem: (),
            step=lambda problem, state: state,
            finished=lambda problem, state: problem >= 0,
            report=lambda problem, state: {"status": jax.numpy.ones((), "int32"), "value": problem},
        )
    )
    trials = many(9)
    found, usage = reports(programs_of(experiment, trials), experiment, trials)
    assert_close(found, alone(experiment, trials))
    assert len({report["value"] for report in found}) == 9
    assert (usage.used, usage.utilisation) == (0, None)


def test_what_is_drawn_or_turned_beside_is_a_real_trial():
    # A draw and a turn that never end on numbers that no trial has: a refill or a turn that is not full must not
    # meet them.
    def draw(key, inputs):
        x = jax.lax.while_loop(lambda x: x == 0, lambda x: x * 2, inputs["x"])
        return x.astype("int32"), jax.random.key_data(key)[0]

    def turn(problem, state):
        return state._replace(turns=jax.lax.while_loop(lambda n: n % 7 != 0, lambda n: n + 0, state.step) // 7)

    def init(problem):
        return BETWEEN.init((problem[0], jax.random.key(0)))

    trial = changed(
        BETWEEN, draw=draw, init=init, turn=turn, stage=None, finished=lambda problem, state: state.step >= problem[0]
    )
    experiment = around(trial)
    trials = [({"x": float(x)}, 0) for x in (30, 9, 12, 50, 41)]
    found, _ = reports(programs_of(experiment, trials, 8), experiment, trials)
    assert [report["step"] for report in found] == [30, 9, 12, 50, 41]
    assert [report["turns"] for report in found] == [4, 1, 1, 7, 5]


def test_a_layout_follows_the_lanes():
    assert Layout.of(8) == Layout(lanes=8, chunk=4, queue=32, batch=2)
    assert Layout.of(1) == Layout(lanes=1, chunk=1, queue=32, batch=1)
    assert (Layout.of(16).batch, Layout.of(64).batch, Layout.of(1024).batch) == (2, 16, 64)
    assert Layout.of(64).queue == 256  # at most half is taken before the host has written the next
    assert Layout.of(4, ["a"]).shards == 1
    assert Layout.of(4, ["a", "b"]).shards == 2
