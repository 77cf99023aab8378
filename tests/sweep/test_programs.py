import contextlib
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import programs as module
from pruneft.sweep.grid import cells, make_grid
from pruneft.sweep.lanes import Layout
from pruneft.sweep.local import Settings, run_bucket, taker
from pruneft.sweep.plan import plan
from pruneft.sweep.programs import Programs, pack
from pruneft.trial import Stage
from tests.sweep.running import BUCKET, around, changed, many, programs_of, reports
from tests.sweep.staged import BETWEEN
from tests.sweep.toy import TOY, resolve


def _once(monkeypatch):
    """What is compiled from now on may be traced once each; the list grows by a name for each."""
    jit, names, kept = jax.jit, [], []
    chex.clear_trace_counter()  # it knows functions by their address

    def counted(function, **options):
        names.append(function.__name__)
        kept.append(function)
        return jit(chex.assert_max_traces(function, n=1), **options)

    monkeypatch.setattr(module.jax, "jit", counted)
    return names


def test_every_program_is_traced_once_however_often_lanes_are_refilled(monkeypatch):
    names = _once(monkeypatch)
    experiment, trials = around(BETWEEN), many(40)
    programs = programs_of(experiment, trials)
    _, usage = reports(programs, experiment, trials, segment_steps=5)
    assert usage.segments > 50
    assert usage.stage_calls > 10
    assert sorted(names) == ["draw", "segment", "serve", "serve"]  # the rungs are 2 and 4
    assert usage.programs == programs.compiled == 4


def test_a_trials_functions_are_traced_once_for_each_program_that_holds_them():
    # Draws: for the shapes, in the refill, and for the stage; steps only in the segment.
    trial = changed(
        BETWEEN,
        step=chex.assert_max_traces(BETWEEN.step, n=1),
        turn=chex.assert_max_traces(BETWEEN.turn, n=1),
        draw=chex.assert_max_traces(BETWEEN.draw, n=3),
    )
    experiment, trials = around(trial), many(12)
    found, _ = reports(programs_of(experiment, trials), experiment, trials, segment_steps=5)
    assert len(found) == 12


def _run(experiment, trials, lanes=4):
    rows = []
    usage = run_bucket(
        experiment,
        BUCKET,
        len(trials),
        Settings("float32", lanes),
        taker(iter(trials)),
        lambda new, usage: rows.extend(new),
        lambda: False,
    )
    assert len(rows) == len(trials)
    return usage


def test_a_second_run_in_the_process_compiles_nothing(monkeypatch):
    experiment = around(BETWEEN, name="second")
    _run(experiment, many(12))
    names, compiled = _once(monkeypatch), []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        _run(experiment, many(30)[::-1])
        assert (names, compiled) == ([], [])
        _run(experiment, many(3), lanes=2)  # other shapes: what this test counts is counted
        assert names
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_the_first_recovery_grid_needs_at_most_sixteen_programs():
    grid = {"d": 16, "r": (1, 2, 3, 4, 6, 8), "n_per_dof": (1.05, 1.1, 1.2, 1.3, 1.5, 2, 2.5, 3)}
    trials = [(cell, seed) for cell in cells(RECOVERY, make_grid(RECOVERY, grid, 16)) for seed in range(16)]
    assert len(trials) == 6 * 8 * 16
    with jax.numpy_dtype_promotion("standard"):
        made = plan(RECOVERY, trials, dtype="float32")
        # A segment, the draw of the stage, and a program for each of its sizes.
        programs = [2 + len(RECOVERY.trial(task.bucket).stage.ladder) for task in made]
    assert 1 <= len(made) <= 4
    assert sum(programs) <= 16


def test_programs_that_are_compiled_ahead_see_the_settings_of_the_caller():
    # JAX's settings belong to a thread: compiled ahead without them, a stage would meet other dtypes.
    ladder, seen = (1, 2, 4), []

    def run(size):
        seen.append((threading.current_thread().name, jax.config.jax_numpy_dtype_promotion, jax.config.jax_enable_x64))
        return lambda problem, state: state._replace(visits=state.visits + 1)

    trial = changed(BETWEEN, stage=Stage(ready=BETWEEN.stage.ready, size=BETWEEN.stage.size, ladder=ladder, run=run))
    with jax.numpy_dtype_promotion("standard"):
        programs = Programs(trial, ("x",), "float32", Layout.of(2))
        programs.prepare()
        with contextlib.suppress(AttributeError):  # it may have ended
            programs._ahead.join()
    assert programs.compiled == 4  # segment, draw, and all rungs but the last
    assert seen == [("pruneft-compile", "standard", True)] * 2
    programs.rest()


def test_a_program_that_failed_in_one_thread_is_tried_again_by_who_waits_for_it(monkeypatch):
    programs = programs_of(around(BETWEEN), many(1))
    began, go_on, calls = threading.Event(), threading.Event(), []

    def compile_(name):
        calls.append(name)
        if len(calls) == 1:
            began.set()
            go_on.wait(10)
            raise RuntimeError("in the first thread")
        return lambda words, inputs: "drawn"

    monkeypatch.setattr(programs, "_compile", compile_)

    def first():
        with pytest.raises(RuntimeError, match="in the first thread"):
            programs.draw(None, None)

    thread = threading.Thread(target=first)
    thread.start()
    began.wait(10)
    threading.Timer(0.05, go_on.set).start()
    assert programs.draw(None, None) == "drawn"
    thread.join()
    assert calls == ["draw", "draw"]


def test_a_program_that_cannot_be_compiled_says_why_every_time(monkeypatch):
    programs = programs_of(around(BETWEEN), many(1))

    def compile_(name):
        raise RuntimeError(f"no {name}")

    monkeypatch.setattr(programs, "_compile", compile_)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no draw"):
            programs.draw(None, None)
    assert programs.compiled == 0


def test_inputs_are_packed_by_name_and_must_be_numbers():
    assert pack({"y": 0.5, "x": 1}, ("x", "y")) == [1, 0.5]
    assert pack({"x": np.float32(2), "y": True}, ("x", "y")) == [2, True]
    with pytest.raises(ValueError, match="the same names: expected x, y, got x, z"):
        pack({"x": 1, "z": 2}, ("x", "y"))
    with pytest.raises(ValueError, match="the same names: expected x, got x, y"):
        pack({"x": 1, "y": 2}, ("x",))
    for bad in ("3", None, [1.0]):
        with pytest.raises(ValueError, match="an input of a trial must be a number: 'x' is"):
            pack({"x": bad}, ("x",))


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (lambda problem, state: {"steps": state.step}, "must be a dict with a `status`"),
        (lambda problem, state: state.step, "must be a dict with a `status`"),
        (lambda problem, state: {"status": state.step, "data": problem.data}, "holds scalars only, got .* for 'data'"),
    ],
)
def test_a_report_that_cannot_be_stored_is_refused_before_anything_is_compiled(report, words):
    trial = changed(TOY.trial(BUCKET), report=report)
    with pytest.raises(ValueError, match=words):
        Programs(trial, tuple(TOY.inputs(resolve({}))), "float32", Layout.of(2))


def test_typed_keys_are_stored_as_words_and_come_back():
    programs = programs_of(around(BETWEEN), many(1), 3)
    assert programs.no_returned().state.key.shape == (32, 2)
    carry = programs.empty()
    assert jnp.issubdtype(carry.state.key.dtype, jax.dtypes.prng_key)
    assert carry.row.tolist() == [-1, -1, -1]
