import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.status import Status
from pruneft.sweep.local import taker
from pruneft.sweep.loop import OutOfMemory, Usage, _Line, run_lanes
from pruneft.trial import Stage
from tests.sweep.running import BUCKET, around, changed, many, programs_of, reports
from tests.sweep.staged import BETWEEN
from tests.sweep.toy import LIGHT, resolve

TRIALS = many(20, **resolve({"a": 3, "b": 5.0}))
PLAIN = LIGHT.trial(BUCKET)


@functools.cache
def _programs():
    return programs_of(LIGHT, TRIALS)


@functools.cache
def _expected():
    return reports(_programs(), LIGHT, TRIALS)[0]


def _odd(problem):
    """Every third trial or so, by its data."""
    return problem.length % 3 == 0


def _swept(trial, **options):
    """Reports of `TRIALS` by a changed toy, and which of them are odd; the others must be as ever."""
    experiment = around(trial, **{name: getattr(LIGHT, name) for name in ("subject", "axes", "resolve", "inputs")})
    programs = programs_of(experiment, TRIALS, max_steps=options.pop("max_steps", 300))
    found, usage = reports(programs, experiment, TRIALS, **options)
    return found, usage


def _check_the_others(found, broken):
    assert 0 < len(broken) < len(found)
    for place, report in enumerate(found):
        if place not in broken:
            assert repr(report) == repr(_expected()[place])


def _ended(found):
    return {place for place, report in enumerate(found) if report["status"] == Status.UNFINISHED}


def _lengths():
    return [report["steps"] for report in _expected()]


def test_a_trial_that_never_finishes_is_ended_as_unfinished_and_no_other_notices():
    # The numbers are those of the step at which it was ended.
    found, usage = _swept(
        changed(PLAIN, finished=lambda problem, state: PLAIN.finished(problem, state) & ~_odd(problem))
    )
    broken = {place for place, length in enumerate(_lengths()) if length % 3 == 0 or length > 300}
    assert _ended(found) == broken
    assert {found[place]["steps"] for place in broken} == {300}
    _check_the_others(found, broken)
    assert usage.used == sum(report["steps"] for report in found)


def test_a_turn_that_does_nothing_ends_its_trial_as_unfinished():
    found, _ = _swept(changed(PLAIN, at_turn=lambda problem, state: _odd(problem) & (state.step >= 2)))
    broken = {place for place, length in enumerate(_lengths()) if length % 3 == 0}
    assert _ended(found) == broken
    assert {found[place]["steps"] for place in broken} == {2}
    _check_the_others(found, broken)


def _with_stage(run, ready, ladder=(1, 2), size=lambda problem, state: jnp.ones((), jnp.int32), **functions):
    return changed(PLAIN, stage=Stage(ready=ready, size=size, ladder=ladder, run=run), **functions)


def test_a_stage_that_does_nothing_ends_its_trial_as_unfinished():
    found, usage = _swept(
        _with_stage(lambda size: lambda problem, state: state, lambda problem, state: _odd(problem) & (state.step >= 2))
    )
    broken = {place for place, length in enumerate(_lengths()) if length % 3 == 0}
    assert _ended(found) == broken
    assert {found[place]["steps"] for place in broken} == {2}
    _check_the_others(found, broken)
    assert usage.stage_calls <= 32 * len(broken)


def test_a_trial_that_goes_from_rung_to_rung_and_back_is_ended_as_unfinished():
    trial = _with_stage(
        lambda size: lambda problem, state: state._replace(left=-state.left),
        lambda problem, state: _odd(problem) & (state.step >= 2),
        size=lambda problem, state: jnp.where(state.left > 0, 1, 2).astype(jnp.int32),
        finished=lambda problem, state: PLAIN.finished(problem, state) & ~(_odd(problem) & (state.step >= 2)),
    )
    found, _ = _swept(trial)
    broken = {place for place, length in enumerate(_lengths()) if length % 3 == 0}
    assert _ended(found) == broken
    _check_the_others(found, broken)


def test_a_trial_that_goes_between_turn_and_stage_without_a_step_is_ended_as_unfinished():
    # The turn sends it to the stage, the stage back to its turn: no limit of steps would ever end that. A negative gain
    # is what the turn leaves.
    trial = _with_stage(
        lambda size: lambda problem, state: state._replace(value=jnp.abs(state.value)),
        lambda problem, state: _odd(problem) & (state.step == 2) & (state.value < 0),
        at_turn=lambda problem, state: _odd(problem) & (state.step == 2) & (state.value >= 0),
        turn=lambda problem, state: state._replace(value=-jnp.abs(state.value) - 1),
    )
    found, usage = _swept(trial)
    broken = {place for place, length in enumerate(_lengths()) if length % 3 == 0}
    assert _ended(found) == broken
    _check_the_others(found, broken)
    assert usage.stage_calls <= 32 * len(broken)


def test_serves_are_unlimited_for_a_trial_that_steps_between():
    # 50 visits, more than a trial without steps between is allowed.
    trial = changed(
        BETWEEN,
        draw=lambda key, inputs: (jnp.full((), 55, jnp.int32), key),
        at_turn=lambda problem, state: state.step < 0,
        stage=Stage(
            ready=lambda problem, state: (state.step > state.visits) & (state.visits < 50),
            size=lambda problem, state: jnp.zeros((), jnp.int32) - 5,
            ladder=(1,),
            run=lambda size: lambda problem, state: state._replace(visits=state.visits + 1),
        ),
    )
    experiment, trials = around(trial), many(3)
    found, _ = reports(programs_of(experiment, trials), experiment, trials)
    assert [(report["visits"], report["step"], report["status"]) for report in found] == [(50, 55, 1)] * 3


def test_a_trial_that_is_finished_or_waits_from_the_start_is_reported():
    trial = _with_stage(
        lambda size: lambda problem, state: state._replace(left=jnp.zeros((), jnp.int32)),
        lambda problem, state: ~_odd(problem) & (state.left > 0),
        init=lambda problem: PLAIN.init(problem)._replace(
            left=jnp.where(_odd(problem), jnp.zeros((), jnp.int32), problem.length)
        ),
    )
    found, usage = _swept(trial)
    assert {(report["status"], report["steps"]) for report in found} == {(Status.CONVERGED, 0)}
    assert usage.used == 0
    assert 1 <= usage.stage_calls <= 20


def test_nan_is_reported_as_it_is():
    found, _ = _swept(
        changed(
            PLAIN,
            report=lambda problem, state: {
                **PLAIN.report(problem, state),
                "value": jnp.where(_odd(problem), jnp.nan, state.value),
            },
        )
    )
    broken = {place for place, length in enumerate(_lengths()) if length % 3 == 0}
    assert {place for place, report in enumerate(found) if np.isnan(report["value"])} == broken
    _check_the_others(found, broken)


def test_a_size_beyond_the_ladder_is_an_error_and_what_has_finished_is_kept():
    trial = _with_stage(
        lambda size: lambda problem, state: state._replace(left=jnp.zeros((), jnp.int32)),
        lambda problem, state: ~_odd(problem) & (state.step == 5),
        size=lambda problem, state: jnp.full((), 3, jnp.int32),
        finished=lambda problem, state: _odd(problem) & (state.step == 5),
    )
    experiment = around(trial, inputs=LIGHT.inputs, subject=LIGHT.subject, axes=LIGHT.axes)
    rows = []
    with pytest.raises(ValueError, match="asks for size 3, but its ladder ends at 2"):
        run_lanes(
            programs_of(experiment, TRIALS, 16),
            experiment,
            taker(iter(TRIALS)),
            lambda new, usage: rows.extend(new),
            segment_steps=20,
        )
    assert rows  # of the very segment after which the size was asked for
    assert {row.report["steps"] for row in rows} == {5}


def test_no_trials_are_no_rows_and_nothing_is_compiled():
    programs = programs_of(LIGHT, TRIALS)
    assert reports(programs, LIGHT, [])[1] == Usage()
    assert programs.compiled == 0


def test_usage_counts_steps_segments_and_what_is_running():
    seen = []
    usage = run_lanes(
        _programs(), LIGHT, taker(iter(TRIALS)), lambda rows, usage: seen.append((len(rows), usage)), segment_steps=10
    )
    done = list(itertools.accumulate(count for count, _ in seen))
    assert seen[-1][1] == usage
    assert usage.used == sum(_lengths()) <= usage.spent == 4 * (usage.spent // 4)
    assert usage.utilisation == usage.used / usage.spent
    assert (usage.running, usage.stage_calls, usage.programs) == (0, 0, 1)
    assert usage.segments == len(seen) - 1  # put is called after every segment, and at the end
    for so_far, (_, now) in zip(done, seen):
        assert 0 <= now.running <= min(4, len(TRIALS) - so_far)  # never more than there are lanes
    assert max(now.running for _, now in seen) == 4
    assert all(now.used <= later.used and now.spent <= later.spent for (_, now), (_, later) in itertools.pairwise(seen))


def test_a_run_is_stopped_after_a_segment_and_keeps_what_has_finished():
    rows, asked = [], iter(range(100))
    usage = run_lanes(
        _programs(),
        LIGHT,
        taker(iter(TRIALS)),
        lambda new, usage: rows.extend(new),
        stop=lambda: next(asked) >= 11,
        segment_steps=10,
    )
    assert usage.segments == 12
    assert 0 < len(rows) < len(TRIALS)
    expected = {seed: report for (_, seed), report in zip(TRIALS, _expected(), strict=True)}
    assert all(repr(dict(row.report)) == repr(expected[row.seed]) for row in rows)


def test_trials_may_come_one_by_one():
    found = []
    run_lanes(
        _programs(),
        LIGHT,
        lambda count, trials=iter(TRIALS): list(itertools.islice(trials, 1)),
        lambda rows, usage: found.extend(rows),
        segment_steps=30,
    )
    assert {row.seed: repr(dict(row.report)) for row in found} == dict(enumerate(map(repr, _expected())))


def test_a_slow_caller_does_not_shorten_the_segments(monkeypatch):
    # The caller's clock runs on while it stores rows; only time on the device may count.
    clock = [0.0]
    monkeypatch.setattr("pruneft.sweep.loop.time.monotonic", lambda: clock[0])
    steps = []
    segment = _programs().segment

    def spy(carry, queue, returned, count, blocked):
        steps.append(count)
        return segment(carry, queue, returned, count, blocked)

    monkeypatch.setattr(_programs(), "segment", spy)

    def put(rows, usage):
        clock[0] += 1.0

    run_lanes(_programs(), LIGHT, taker(iter(TRIALS)), put)
    assert min(steps) >= 64


def test_segments_grow_and_shrink_towards_the_wanted_time(monkeypatch):
    clock, steps = [0.0], []
    monkeypatch.setattr("pruneft.sweep.loop.time.monotonic", lambda: clock[0])
    endless = changed(PLAIN, finished=lambda problem, state: state.step < 0)
    experiment = around(endless, inputs=LIGHT.inputs, subject=LIGHT.subject, axes=LIGHT.axes)
    programs = programs_of(experiment, TRIALS, 1, max_steps=20_000)
    segment = programs.segment

    def spy(carry, queue, returned, count, blocked):
        steps.append(count)
        clock[0] += count * 1e-4
        return segment(carry, queue, returned, count, blocked)

    monkeypatch.setattr(programs, "segment", spy)
    run_lanes(programs, experiment, taker(iter(TRIALS[:1])), lambda rows, usage: None, segment_seconds=0.05)
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (64, 256)  # 0.0256 seconds, more than half of what is wanted
    steps.clear()
    run_lanes(programs, experiment, taker(iter(TRIALS[:1])), lambda rows, usage: None, segment_seconds=0.002)
    assert steps == sorted(steps, reverse=True)
    assert (steps[0], steps[-1]) == (64, 32)  # 0.0032 seconds, less than twice that


@pytest.mark.parametrize(
    "error",
    [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes."), MemoryError("no room")],
)
def test_out_of_memory_says_which_trials_are_not_reported(monkeypatch, error):
    programs, calls, rows = _programs(), iter(range(100)), []
    segment = programs.segment

    def fail(*arguments):
        if next(calls) == 11:
            raise error
        return segment(*arguments)

    monkeypatch.setattr(programs, "segment", fail)
    left = iter(TRIALS)
    with pytest.raises(OutOfMemory) as caught:
        run_lanes(programs, LIGHT, taker(left), lambda new, usage: rows.extend(new), segment_steps=10)
    assert rows
    unfinished = [seed for _, seed in caught.value.unfinished]
    assert unfinished
    assert sorted([row.seed for row in rows] + unfinished + [seed for _, seed in left]) == list(range(20))


def test_an_error_that_is_not_about_memory_is_not_taken_for_one(monkeypatch):
    programs = _programs()
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    monkeypatch.setattr(programs, "segment", lambda *arguments: (_ for _ in ()).throw(error))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        reports(programs, LIGHT, TRIALS)


@given(
    slots=st.integers(1, 9),
    events=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.booleans()), max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_a_window_is_never_behind_the_device_and_shows_what_it_may_take_next(slots, events):
    # The device may have taken more than the host knows, but never more than the window it was given.
    line, taken, device, window, count = _Line(), [], 0, [], 0
    for new, takes, told in events:
        line.entries.extend(range(count, count + new))
        count += new
        if line.low(slots):
            window = line.first(slots)
            line.end = line.base + len(window)
            base = line.base
        for _ in range(takes):
            if window and device < line.end:
                assert base <= device < base + len(window)
                taken.append(window[device - base])
                device += 1
        if told:
            line.advance(device)
        assert device <= line.end <= count
        if line.entries and line.base == device == line.end:
            assert line.low(slots)  # nothing is left in the window, so a new one will be written
    assert taken == list(range(device))
