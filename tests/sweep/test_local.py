import functools
import itertools
import logging

import jax
import jax.numpy as jnp
import pytest

from pruneft.status import Status
from pruneft.sweep.local import Settings, TrialError, cores, run_bucket, run_tasks, taker
from pruneft.sweep.plan import Task
from pruneft.sweep.programs import Programs
from pruneft.trial import Bucket
from tests.sweep.running import BUCKET, around, changed, many
from tests.sweep.toy import LIGHT, resolve

CELL = resolve({"a": 3, "b": 5.0})
PLAIN = LIGHT.trial(BUCKET)
OTHER = Bucket(sizes=(("n", 4),), static=BUCKET.static)


def _like_toy(make, **functions):
    return around(
        make, **{"inputs": LIGHT.inputs, "resolve": resolve, "axes": LIGHT.axes, "subject": "toy", **functions}
    )


def _tasks(*buckets, count=6):
    return [Task(bucket=bucket, trials=tuple(many(count, **CELL))) for bucket in buckets]


def _swept(experiment, tasks, rows=None, settings=Settings("float32", 4), stop=lambda: False):
    rows = [] if rows is None else rows
    seen = []

    def put(new, usage):
        rows.extend(new)
        seen.append(usage)

    total = run_tasks(experiment, tasks, settings, put, stop)
    return rows, total, seen


@functools.cache
def _expected():
    return {row.seed: repr(dict(row.report)) for row in _swept(_toy(), _tasks(BUCKET))[0]}


@functools.cache
def _toy():
    return _like_toy(PLAIN)


def _broken(where, **functions):
    """The toy whose trials have other functions in one bucket."""

    def make(bucket):
        return changed(LIGHT.trial(bucket), **functions) if bucket == where else LIGHT.trial(bucket)

    return _like_toy(make)


def _raises(problem, state):
    raise ZeroDivisionError("the step of this bucket cannot be")


def test_a_trial_that_raises_is_an_error_that_says_where_and_keeps_the_rows_before_it():
    rows = []
    with pytest.raises(
        TrialError, match=r"trials of one with n=8, mode=plain fail: ZeroDivisionError: the step of this bucket"
    ) as caught:
        _swept(_broken(BUCKET, step=_raises), _tasks(OTHER, BUCKET), rows)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert sorted(row.seed for row in rows) == list(range(6))


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ({"report": lambda problem, state: {"steps": state.step}}, "must be a dict with a `status`"),
        ({"report": lambda problem, state: {"status": problem.data}}, "holds scalars only"),
        ({"step": lambda problem, state: state._replace(step=state.step * 1.5)}, "fail: "),
    ],
)
def test_a_trial_that_breaks_its_contract_is_an_error(functions, words):
    with pytest.raises(TrialError, match=words):
        _swept(_broken(BUCKET, **functions), _tasks(BUCKET))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (lambda cell: {**LIGHT.inputs(cell), "b": "5"}, "an input of a trial must be a number: 'b' is '5'"),
        (lambda cell: {"a": 1} if cell["b"] > 5 else LIGHT.inputs(cell), "expected a, b, gain, got a"),
    ],
)
def test_inputs_that_are_no_numbers_or_have_other_names_are_an_error(inputs, words):
    experiment = _like_toy(PLAIN, inputs=inputs)
    trials = (*many(2, **CELL), *many(2, **{**CELL, "b": 6.0}))
    with pytest.raises(TrialError, match=words):
        _swept(experiment, [Task(bucket=BUCKET, trials=trials)])


def test_whole_numbers_among_the_inputs_are_numbers():
    rows, _, _ = _swept(
        _like_toy(PLAIN, inputs=lambda cell: {**LIGHT.inputs(cell), "b": int(cell["b"])}), _tasks(BUCKET)
    )
    assert {row.seed: repr(dict(row.report)) for row in rows} == _expected()


def test_buckets_may_report_different_names():
    def report(problem, state):
        return {**PLAIN.report(problem, state), "extra": state.left}

    rows, _, _ = _swept(_broken(BUCKET, report=report), _tasks(OTHER, BUCKET))
    assert [set(row.report) for row in rows] == [{"status", "steps", "value", "success"}] * 6 + [
        {"status", "steps", "value", "success", "extra"}
    ] * 6


def test_a_trial_that_never_finishes_ends_at_the_limit():
    endless = _broken(BUCKET, finished=lambda problem, state: state.step < 0)
    rows, _, _ = _swept(endless, _tasks(BUCKET), settings=Settings("float32", 4, max_steps=50))
    assert {(row.report["status"], row.report["steps"]) for row in rows} == {(Status.UNFINISHED, 50)}


def _limited(monkeypatch, most, after=0):
    """A device on which segments of more lanes run out of memory, once so many have passed."""
    segment, sizes = Programs.segment, []

    def limited(self, *arguments):
        sizes.append(self.layout.lanes)
        if self.layout.lanes > most and len(sizes) > after:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
        return segment(self, *arguments)

    monkeypatch.setattr(Programs, "segment", limited)
    return sizes


def test_lanes_are_halved_until_they_fit_and_every_trial_is_run_once(monkeypatch, caplog):
    sizes = _limited(monkeypatch, most=2)
    with caplog.at_level(logging.WARNING, "pruneft.sweep"):
        rows, total, _ = _swept(_toy(), _tasks(BUCKET), settings=Settings("float32", 8))
    assert list(dict.fromkeys(sizes)) == [8, 4, 2]
    assert sorted(row.seed for row in rows) == list(range(6))
    assert total.used == sum(row.report["steps"] for row in rows)
    assert [record.getMessage() for record in caplog.records] == [
        "n=8, mode=plain: out of memory with 8 lanes; trying 4.",
        "n=8, mode=plain: out of memory with 4 lanes; trying 2.",
    ]


def test_out_of_memory_in_the_middle_loses_no_row_and_repeats_none(monkeypatch):
    _limited(monkeypatch, most=2, after=6)
    tasks = _tasks(BUCKET, count=30)
    rows, total, seen = _swept(_toy(), tasks, settings=Settings("float32", 4, segment_steps=10))
    assert sorted(row.seed for row in rows) == list(range(30))
    expected = _expected()
    assert all(repr(dict(row.report)) == expected[row.seed] for row in rows if row.seed in expected)
    assert total.used > sum(row.report["steps"] for row in rows)  # what was under way was begun again
    assert all(now.used <= later.used for now, later in itertools.pairwise(seen))


def test_one_lane_that_does_not_fit_is_a_memory_error(monkeypatch):
    _limited(monkeypatch, most=0)
    with pytest.raises(MemoryError, match=r"one trial of n=8, mode=plain does not fit the device: RESOURCE_EXHAUSTED"):
        _swept(_toy(), _tasks(BUCKET), settings=Settings("float32", 2))


@pytest.mark.parametrize("error", [OSError("disk full"), MemoryError("the caller's own")])
@pytest.mark.parametrize("which", ["take", "put", "stop"])
def test_what_the_callers_functions_raise_is_not_taken_for_the_trials(which, error):
    def fail(*arguments):
        raise error

    functions = {"take": taker(iter(many(6, **CELL))), "put": lambda rows, usage: None, "stop": lambda: False}
    count = iter(range(10))
    take = functions["take"]
    functions[which] = fail if which != "take" else lambda most: fail() if next(count) else take(1)
    with pytest.raises(type(error), match=str(error)) as caught:
        run_bucket(_toy(), BUCKET, 6, Settings("float32", 4), **functions)
    assert caught.value is error


def test_tasks_add_up_and_a_stop_leaves_the_rest():
    rows, total, seen = _swept(_toy(), _tasks(BUCKET, BUCKET))
    assert len(rows) == 12
    assert total.used == sum(row.report["steps"] for row in rows)
    assert total == seen[-1]
    assert all(now.used <= later.used for now, later in itertools.pairwise(seen))
    rows, total, _ = _swept(_toy(), _tasks(BUCKET), stop=lambda: True)
    assert (rows, total.segments) == ([], 0)


def test_nothing_to_run_is_nothing():
    assert _swept(_toy(), [])[0] == []
    assert _swept(_toy(), _tasks(BUCKET, count=0))[0] == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings("float16"), "dtype must be float32 or float64: got 'float16'"),
        (Settings(lanes=0), "lanes must be a whole number of at least 1: got 0"),
        (Settings(lanes=True), "lanes must be a whole number"),
        (Settings(segment_steps=2.5), "segment_steps must be a whole number of at least 1: got 2.5"),
        (Settings(segment_steps=2**31), "segment_steps must be below"),
        (Settings(max_steps=2**31), "max_steps must be below"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        settings.check()


def test_float64_needs_64_bit_mode():
    Settings("float64").check()
    with jax.enable_x64(False), pytest.raises(ValueError, match="dtype float64 needs JAX's 64-bit mode"):
        Settings("float64").check()


def test_the_process_has_cores():
    assert cores() >= 1
    assert jnp.zeros(()).devices() <= set(jax.local_devices())
