"""A trial whose steps cost almost nothing, so that what the engine itself costs can be seen.

A state of 32 floats; the number of steps is Pareto distributed with exponent 1.2, its mean near 390, at most 20 000. The
grid of 1024 trials takes 0.4 million steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Experiment, Trial

SIZE = 32
LONGEST = 20_000
SHORTEST = 90.0
EXPONENT = 1.2


class _State(NamedTuple):
    left: jax.Array
    value: jax.Array


def _resolve(cell: Any) -> dict[str, Any]:
    return {"group": int(cell.get("group", 0))}


def _trial(bucket: Bucket) -> Trial:
    def draw(key: jax.Array, inputs: Any) -> jax.Array:
        return jax.random.uniform(key, (1 + SIZE,), jnp.float32, minval=1e-6)

    def init(problem: jax.Array) -> _State:
        length = jnp.minimum(SHORTEST * problem[0] ** jnp.float32(-1 / EXPONENT), LONGEST)
        return _State(length.astype(jnp.int32), problem[1:])

    def step(problem: jax.Array, state: _State) -> _State:
        return _State(state.left - 1, jnp.float32(0.5) * state.value + problem[1:])

    def finished(problem: jax.Array, state: _State) -> jax.Array:
        return state.left <= 0

    def report(problem: jax.Array, state: _State) -> dict[str, jax.Array]:
        status = jnp.where(finished(problem, state), Status.CONVERGED, Status.RUNNING).astype(jnp.int32)
        return {"status": status, "value": jnp.sum(state.value), "success": status == Status.CONVERGED}

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report)


TOY = Experiment(
    name="toy",
    subject="benchmark/toy",
    axes=(Axis(name="group", default=0, kind="data", type=int, help="only for the key"),),
    resolve=_resolve,
    sizes=lambda cell: {"size": SIZE},
    inputs=lambda cell: {"group": float(cell["group"])},
    trial=_trial,
    module=__name__,
    default_grid={"group": (0,)},
    default_seeds=1024,
    padded=(),
)
