"""A real experiment that costs nothing: trials count down a heavy-tailed number of steps drawn from their key.

Lengths are Pareto (exponent 1.2) from ``b`` upwards, so a batch without refill idles; ``value`` is a recursion over
the data whose result tells whether a trial met its own draws, and a large gain makes it overflow.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Experiment, Trial

AXES = (
    Axis(name="a", default=4, kind="data", type=int, help="length of the data"),
    Axis(name="b", default=10.0, kind="data", type=float, help="shortest trial, in steps"),
    Axis(name="gain", default=0.5, kind="method", type=float, help="factor on the value in every step"),
    Axis(name="mode", default="plain", kind="method", type=str, choices=("plain", "squared"), help="what is added"),
)


class ToyProblem(NamedTuple):
    data: jax.Array  # [n] float32, zero in padded rows
    length: jax.Array  # steps this trial takes to converge
    gain: jax.Array


class ToyState(NamedTuple):
    step: jax.Array
    left: jax.Array
    value: jax.Array


def resolve(cell: Any) -> dict[str, Any]:
    unknown = set(cell) - {axis.name for axis in AXES}
    if unknown:
        raise ValueError(f"unknown axes {sorted(unknown)}.")
    full = {axis.name: axis.type(cell.get(axis.name, axis.default)) for axis in AXES}
    if full["a"] < 1:
        raise ValueError(f"a (length of the data) must be at least 1, got {full['a']}.")
    if not 0 < full["b"] < math.inf:
        raise ValueError(f"b (shortest trial) must be positive, got {full['b']}.")
    return full


def _trial(bucket: Bucket, cap: int) -> Trial:
    size, squared = bucket["n"], bucket.option("mode") == "squared"

    def draw(key: jax.Array, inputs: Any) -> ToyProblem:
        rows = jnp.arange(size, dtype=jnp.int32)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row + 1))(rows)
        data = jax.vmap(lambda row: jax.random.normal(row, (), jnp.float32))(keys)
        uniform = jax.random.uniform(jax.random.fold_in(key, 0), (), jnp.float32, minval=1e-6)
        shortest = jnp.asarray(inputs["b"], jnp.float32)
        length = jnp.minimum(shortest * uniform ** jnp.float32(-1 / 1.2), jnp.float32(1e6)).astype(jnp.int32)
        inside = rows < jnp.asarray(inputs["a"], jnp.int32)
        return ToyProblem(jnp.where(inside, data, jnp.float32(0)), length, jnp.asarray(inputs["gain"], jnp.float32))

    def init(problem: ToyProblem) -> ToyState:
        return ToyState(jnp.zeros((), jnp.int32), problem.length, jnp.zeros((), jnp.float32))

    def step(problem: ToyProblem, state: ToyState) -> ToyState:
        data = problem.data**2 if squared else problem.data
        return ToyState(state.step + 1, state.left - 1, problem.gain * state.value + jnp.sum(data))

    def finished(problem: ToyProblem, state: ToyState) -> jax.Array:
        return (state.left <= 0) | (state.step >= cap) | ~jnp.isfinite(state.value)

    def report(problem: ToyProblem, state: ToyState) -> dict[str, jax.Array]:
        status = jnp.where(state.left <= 0, Status.CONVERGED, Status.BUDGET_SPENT)
        status = jnp.where(finished(problem, state), status, Status.RUNNING)
        status = jnp.where(jnp.isfinite(state.value), status, Status.NOT_FINITE).astype(jnp.int32)
        return {"status": status, "steps": state.step, "value": state.value, "success": status == Status.CONVERGED}

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report)


def toy(cap: int = 500, name: str = "toy") -> Experiment:
    """The experiment, its trials cut off after ``cap`` steps."""
    return Experiment(
        name=name,
        subject="toy",
        axes=AXES,
        resolve=resolve,
        sizes=lambda cell: {"n": cell["a"]},
        inputs=lambda cell: {"a": cell["a"], "b": cell["b"], "gain": cell["gain"]},
        trial=lambda bucket: _trial(bucket, cap),
        module=__name__,
        default_grid={"a": (2, 4, 8), "b": (5.0, 10.0)},
        default_seeds=4,
        settings=f"cap={cap}",
    )


TOY = toy()


def _light(bucket: Bucket) -> Trial:
    size = bucket["n"]

    def draw(key: jax.Array, inputs: Any) -> ToyProblem:
        words = jax.random.key_data(key)
        data = (words[0] >> jnp.arange(size, dtype=jnp.uint32)).astype(jnp.float32) / 2**32
        length = 5 + (words[1] % jnp.uint32(60)).astype(jnp.int32)
        return ToyProblem(data, length, jnp.asarray(inputs["gain"], jnp.float32))

    return Trial(**{**_trial(bucket, 500).__dict__, "draw": draw})


# The same without a random generator, which takes most of the time to compile: 5 to 64 steps.
LIGHT = Experiment(**{**TOY.__dict__, "name": "light", "trial": _light})
