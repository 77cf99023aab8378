"""Trials that take turns and wait for a stage in different ways; their states hold a typed key."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruneft.status import Status
from pruneft.trial import Stage, Trial


class State(NamedTuple):
    step: jax.Array
    value: jax.Array
    key: jax.Array  # typed
    turns: jax.Array
    visits: jax.Array
    served: jax.Array  # sizes that the stage ran at, as digits


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _moved(state: State) -> State:
    """One draw of the state's own key, added to a value that forgets."""
    key, use = jax.random.split(state.key)
    return state._replace(key=key, value=0.5 * state.value + jax.random.uniform(use, (), jnp.float32))


def staged(
    at: tuple[int, ...] = (10, 20, 30), asks: tuple[int, ...] = (1, 3, 4), ladder: tuple[int, ...] = (2, 4)
) -> Trial:
    """A trial of 17 to 60 steps with a turn every 7, that waits for the stage at the steps ``at`` and asks for ``asks``.

    Equal steps one after another ask again without a step between.
    """
    when, sizes = jnp.asarray((*at, 10**6), jnp.int32), jnp.asarray((*asks, 0), jnp.int32)

    def draw(key: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        return jax.random.randint(key, (), 17, 60, jnp.int32), jax.random.fold_in(key, 1)

    def serve(size: int) -> Any:
        def run(problem: Any, state: State) -> State:
            return _moved(state)._replace(visits=state.visits + 1, served=state.served * 10 + size)

        return run

    return Trial(
        draw=draw,
        init=lambda problem: State(_zero(), jnp.zeros((), jnp.float32), problem[1], _zero(), _zero(), _zero()),
        step=lambda problem, state: _moved(state)._replace(step=state.step + 1),
        finished=lambda problem, state: state.step >= problem[0],
        report=lambda problem, state: {
            "status": jnp.asarray(Status.CONVERGED, jnp.int32),
            **{name: value for name, value in state._asdict().items() if name != "key"},
            "word": jax.random.key_data(state.key)[0],
        },
        at_turn=lambda problem, state: state.step >= 7 * (state.turns + 1),
        turn=lambda problem, state: _moved(state)._replace(turns=state.turns + 1),
        stage=Stage(
            ready=lambda problem, state: state.step >= when[state.visits],
            size=lambda problem, state: sizes[state.visits],
            ladder=ladder,
            run=serve,
        ),
    )


# Comes back to the lanes between, and waits again for another program.
BETWEEN = staged()
# Asks for two sizes of one rung and then for another rung, all at one step; and waits from the start.
AT_ONCE = staged(at=(0, 0, 0, 25), asks=(1, 2, 4, 3))
