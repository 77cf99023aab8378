"""How fast this machine is: a few segments of an experiment's real step, timed after compiling it."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from pruneft.sweep.plan import Task
from pruneft.trial import Experiment, Trial, wrap_key

_SEGMENT_SECONDS = 0.1  # long beside the clock and the call, short for who waits
_SEGMENTS = 3
_MOST_STEPS = 200_000


class Timing(NamedTuple):
    """What was measured on one bucket.

    Attributes:
      compile_seconds: of its draw, its step and its stage's smallest program, as if none were in the compilation cache.
      draw_seconds: to draw one trial and make its first state.
      step_seconds: of one lane-step.
    """

    compile_seconds: float
    draw_seconds: float
    step_seconds: float


def calibrate(experiment: Experiment, task: Task, lanes: int, dtype: Any) -> Timing:
    """Draw, compile and time as many of a bucket's trials as there are lanes; nothing is stored, the cache included.

    Reports and refills are not timed, and of a stage its compilation alone: how long it takes depends on how the
    steps before it ended.

    Args:
      experiment: whose trials they are.
      task: a bucket and its trials, at least one.
      lanes: trials side by side.
      dtype: of the inputs.

    Raises:
      Whatever the trial raises.
    """
    chosen = [task.trials[place % len(task.trials)] for place in range(lanes)]
    words = np.stack([experiment.key_data(cell, seed) for cell, seed in chosen])
    every = [experiment.inputs(cell) for cell, _ in chosen]
    inputs = {name: np.array([one[name] for one in every], dtype) for name in every[0]}
    trial = experiment.trial(task.bucket)
    # A constant that no earlier program held, or a program in the cache would be taken for one that is fast to compile.
    never_seen = time.time_ns() % 2**31

    def begin(word: Array, values: dict[str, Array]) -> tuple[PyTree, PyTree, Array]:
        problem = trial.draw(wrap_key(word), values)
        return problem, trial.init(problem), jnp.asarray(never_seen, jnp.int32)

    with _cache_left_alone():
        started = time.perf_counter()
        drawing = jax.jit(jax.vmap(begin)).lower(words, inputs).compile()
        problems, states, _ = drawing(words, inputs)
        segment = (
            jax.jit(lambda problems, states, steps: _segment(trial, problems, states, steps, never_seen))
            .lower(problems, states, np.int32(1))
            .compile()
        )
        jax.block_until_ready(problems)
        if trial.stage is not None:
            serve = jax.vmap(trial.stage.run(trial.stage.ladder[0]))
            jax.jit(lambda *lane: (serve(*lane), jnp.asarray(never_seen, jnp.int32))).lower(problems, states).compile()
        compiled = time.perf_counter() - started

    def spent(steps: int) -> float:
        begun = time.perf_counter()
        jax.block_until_ready(segment(problems, states, np.int32(steps)))
        return time.perf_counter() - begun

    steps, seconds = 1, spent(1)
    while seconds < _SEGMENT_SECONDS and steps < _MOST_STEPS:
        steps = min(_MOST_STEPS, steps * max(2, min(100, int(_SEGMENT_SECONDS / max(seconds, 1e-6)))))
        seconds = spent(steps)
    seconds = statistics.median(seconds if place == 0 else spent(steps) for place in range(_SEGMENTS))
    begun = time.perf_counter()
    jax.block_until_ready(drawing(words, inputs))
    return Timing(compiled, (time.perf_counter() - begun) / lanes, seconds / (steps * lanes))


def _segment(trial: Trial, problems: PyTree, states: PyTree, steps: Array, salt: int) -> tuple[PyTree, Array]:
    """That many steps of all lanes, which freeze where they finish as they do in a sweep, but are paid for to the end."""
    active, at_turn = jax.vmap(trial.active), jax.vmap(trial.at_turn)
    step, turn = jax.vmap(trial.step), jax.vmap(trial.turn)

    def where(mask: Array, new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), new, old)

    def advance(_: Array, states: PyTree) -> PyTree:
        running = active(problems, states)
        turning = running & at_turn(problems, states)
        states = jax.lax.cond(
            jnp.any(turning), lambda old: where(turning, turn(problems, old), old), lambda old: old, states
        )
        return where(running & ~turning, step(problems, states), states)

    return jax.lax.fori_loop(jnp.int32(0), steps, advance, states), jnp.asarray(salt, jnp.int32)


@contextlib.contextmanager
def _cache_left_alone() -> Iterator[None]:
    """No program compiled in here goes into the compilation cache: it would never be asked for again."""
    least = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))
    try:
        yield
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
