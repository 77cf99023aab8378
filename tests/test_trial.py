import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Experiment, Stage, Trial, canonical_json, data_key, run, wrap_key
from tests.sweep.toy import TOY, resolve


class State(NamedTuple):
    step: jax.Array
    value: jax.Array
    turns: jax.Array
    served: jax.Array  # sizes that the stage was run at, as digits


def _trial(asks=(1, 3, 4), ladder=(2, 4)):
    """Steps a chaotic recursion; every 7 steps a turn, every 10 a visit to the stage that asks for the next size."""
    sizes = jnp.asarray((*asks, 0), jnp.int32)

    def visits(state):
        return jnp.sum(state.served > jnp.asarray([0, 9, 99, 999], jnp.int32), dtype=jnp.int32)

    def ready(problem, state):
        return (state.step >= 10 * (visits(state) + 1)) & (visits(state) < len(asks))

    def serve(size):
        return lambda problem, state: state._replace(served=state.served * 10 + size, value=state.value / 2)

    return Trial(
        draw=lambda key, inputs: jax.random.uniform(key),
        init=lambda problem: State(
            jnp.zeros((), jnp.int32), problem, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        ),
        step=lambda problem, state: state._replace(step=state.step + 1, value=3.9 * state.value * (1 - state.value)),
        finished=lambda problem, state: state.step >= 45,
        report=lambda problem, state: {"status": jnp.asarray(Status.CONVERGED, jnp.int32), "value": state.value},
        at_turn=lambda problem, state: state.step >= 7 * (state.turns + 1),
        turn=lambda problem, state: state._replace(turns=state.turns + 1, value=state.value * 0.9),
        stage=Stage(
            ready=ready,
            size=lambda problem, state: sizes[jnp.minimum(visits(state), len(asks))],
            ladder=ladder,
            run=serve,
        ),
    )


TRIAL, PROBLEM = _trial(), jnp.asarray(0.3)


def _by_hand():
    """The same trial in plain Python: a turn before the step that needs it, the stage before either."""
    value, step, turns, visits = 0.3, 0, 0, 0
    while step < 45:
        if step >= 10 * (visits + 1) and visits < 3:
            value, visits = value / 2, visits + 1
        elif step >= 7 * (turns + 1):
            value, turns = value * 0.9, turns + 1
        else:
            value, step = 3.9 * value * (1 - value), step + 1
    return value, turns


@functools.cache
def _whole():
    return run(TRIAL, PROBLEM)


def test_run_steps_turns_and_serves_in_the_order_of_the_contract():
    value, turns = _by_hand()
    state = _whole()
    np.testing.assert_allclose(state.value, value, rtol=1e-8)
    assert (int(state.step), int(state.turns)) == (45, turns)


def test_the_stage_is_called_with_the_smallest_rung_that_holds_what_is_asked():
    assert int(_whole().served) == 244  # asks 1, 3, 4 on the ladder 2, 4


@pytest.mark.parametrize("segment_steps", [1, 7, 13])
def test_results_do_not_depend_on_the_length_of_segments(segment_steps):
    chex.assert_trees_all_equal(run(TRIAL, PROBLEM, segment_steps=segment_steps), _whole())


def test_a_run_goes_on_from_a_state_and_records_every_segment():
    seen = []
    run(TRIAL, PROBLEM, segment_steps=13, record=lambda problem, state: seen.append(state))
    assert [int(state.step) for state in seen] == sorted(int(state.step) for state in seen)
    middle = seen[len(seen) // 2]
    assert 0 < int(middle.step) < 45
    chex.assert_trees_all_equal(run(TRIAL, PROBLEM, state=middle, segment_steps=13), _whole())
    chex.assert_trees_all_equal(seen[-1], _whole())


def test_a_finished_state_is_returned_as_it_is():
    assert run(TRIAL, PROBLEM, state=_whole()) is _whole()


def test_a_trial_that_never_finishes_is_an_error_and_not_a_hang():
    endless = Trial(**{**TRIAL.__dict__, "finished": lambda problem, state: jnp.zeros((), jnp.bool_)})
    with pytest.raises(
        RuntimeError, match="did not finish in 3 segments of 50 steps: its `finished` never became true"
    ):
        run(endless, PROBLEM, segment_steps=50, max_segments=3)


def test_a_size_beyond_the_ladder_is_an_error():
    stage = TRIAL.stage
    assert [stage.rung(size) for size in (0, 1, 2, 3, 4)] == [2, 2, 2, 4, 4]
    with pytest.raises(ValueError, match="asks for size 5, but its ladder ends at 4"):
        stage.rung(5)


def test_a_lane_that_has_finished_neither_waits_nor_works():
    done = _whole()._replace(served=jnp.zeros((), jnp.int32))
    assert bool(TRIAL.stage.ready(PROBLEM, done))
    assert not bool(TRIAL.waiting(PROBLEM, done))
    assert not bool(TRIAL.active(PROBLEM, done))


def test_a_trial_is_compiled_once_however_often_it_is_run():
    traces = []

    def step(problem, state):
        traces.append(problem)
        return TRIAL.step(problem, state)

    trial = Trial(**{**TRIAL.__dict__, "step": step})
    for start in (0.3, 0.31, 0.32):
        run(trial, jnp.asarray(start))
    assert len(traces) == 1


def test_key_does_not_depend_on_the_order_of_axes_nor_on_the_kind_of_number():
    key = data_key("s", {"d": 16, "kappa": 1.0}, 3)
    assert (key.shape, key.dtype) == ((2,), np.uint32)
    for same in ({"kappa": 1, "d": 16}, {"d": 16.0, "kappa": np.float32(1)}, {"d": np.int64(16), "kappa": True + 0}):
        np.testing.assert_array_equal(data_key("s", same, 3), key)


def test_key_of_a_known_trial_never_changes():
    # Stored runs meet their instances again only while this stays as it is; computed once from the definition:
    # the first 8 bytes of blake2b over the canonical JSON, as two big-endian words.
    import hashlib

    text = b'{"cell":{"d":16,"sigma":0.1},"seed":3,"subject":"s"}'
    expected = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    high, low = (int(word) for word in data_key("s", {"sigma": 0.1, "d": 16.0}, 3))
    assert (high << 32) + low == expected


CELLS = st.fixed_dictionaries(
    {"d": st.integers(1, 40), "sigma": st.sampled_from([0, 0.1, 0.5, 1e-9]), "m": st.text(max_size=2)}
)


@given(st.lists(st.tuples(st.sampled_from(["s", "t"]), CELLS, st.integers(0, 50)), min_size=2, max_size=30))
@settings(max_examples=30, deadline=None)
def test_keys_of_different_trials_differ(trials):
    distinct = {(subject, tuple(sorted(cell.items())), seed) for subject, cell, seed in trials}
    assert len({tuple(data_key(subject, dict(cell), seed)) for subject, cell, seed in distinct}) == len(distinct)


def test_neighbouring_numbers_and_a_number_and_its_text_have_different_keys():
    values = [0.1, np.nextafter(0.1, 1), "0.1", 1, "1", 2, None, 2**53 - 1]
    assert len({tuple(data_key("s", {"x": value}, 0)) for value in values}) == len(values)


def test_method_axes_do_not_change_the_key_and_data_axes_do():
    plain = resolve({})
    key = TOY.key_data(plain, 0)
    np.testing.assert_array_equal(TOY.key_data({**plain, "gain": 0.9, "mode": "squared"}, 0), key)
    for other in ({"a": 5}, {"b": 11.0}):
        assert not np.array_equal(TOY.key_data({**plain, **other}, 0), key)
    assert not np.array_equal(TOY.key_data(plain, 1), key)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, [1.0, float("nan")], np.float32("nan")])
def test_numbers_that_are_not_finite_have_no_key(value):
    with pytest.raises(ValueError, match="a cell holds only finite numbers"):
        data_key("s", {"x": value}, 0)


def test_canonical_json_sorts_names_at_every_depth():
    assert (
        canonical_json({"b": [1.0, {"z": 2.5, "a": np.bool_(True)}], "a": None})
        == '{"a":null,"b":[1,{"a":true,"z":2.5}]}'
    )


def test_key_words_make_the_same_draws_whatever_the_default_generator():
    words = data_key("s", {}, 0)
    draw = jax.random.normal(wrap_key(words), (3,))
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(jax.random.normal(wrap_key(words), (3,)), draw)


def test_a_bucket_finds_its_sizes_and_options_by_name():
    bucket = Bucket(sizes=(("n", 4), ("d", 3)), static=(("method", "path"),))
    assert (bucket["n"], bucket["d"], bucket.option("method")) == (4, 3, "path")
    assert bucket == Bucket(sizes=(("n", 4), ("d", 3)), static=(("method", "path"),))


def test_only_data_axes_are_part_of_the_data_cell():
    axes = tuple(Axis(name=kind, default=1, kind=kind) for kind in ("data", "method"))
    experiment = Experiment(
        name="e",
        subject="s",
        axes=axes,
        resolve=dict,
        sizes=dict,
        inputs=dict,
        trial=lambda bucket: TRIAL,
        module=__name__,
    )
    assert experiment.data_cell({"data": 1, "method": 2}) == {"data": 1}
