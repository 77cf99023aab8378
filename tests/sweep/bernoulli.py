"""A real experiment with a known success curve: one draw from the trial's key against P of its cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Experiment, Trial

AXES = (
    Axis(name="dof", default=40, kind="data", type=int, help="steps of the axis in one unit"),
    Axis(name="n", default=None, kind="data", type=int, help="measurements"),
    Axis(name="n_per_dof", default=1.5, kind="derived", type=float, help="measurements per degree of freedom"),
    Axis(name="half", default=1.4, kind="data", type=float, help="n / dof at which success has probability 1/2"),
    Axis(name="width", default=0.04, kind="data", type=float, help="of the logistic curve; negative where it falls"),
)


class Draw(NamedTuple):
    uniform: jax.Array
    chance: jax.Array


def resolve(cell: Any) -> dict[str, Any]:
    full = {axis.name: cell.get(axis.name, axis.default) for axis in AXES}
    if full["n_per_dof"] < 0.1:
        raise ValueError(f"n_per_dof must be at least 0.1: got {full['n_per_dof']}.")
    if full["n"] is None:
        full["n"] = round(full["n_per_dof"] * full["dof"])
    del full["n_per_dof"]
    return full


def _inputs(cell: Any) -> dict[str, float]:
    return {"x": cell["n"] / cell["dof"], "half": cell["half"], "width": cell["width"]}


def _trial(bucket: Bucket) -> Trial:
    def draw(key: jax.Array, inputs: Any) -> Draw:
        z = (inputs["x"] - inputs["half"]) / inputs["width"]
        return Draw(jax.random.uniform(key, (), jnp.float32), jax.nn.sigmoid(jnp.asarray(z, jnp.float32)))

    def report(problem: Draw, state: jax.Array) -> dict[str, jax.Array]:
        return {"status": jnp.asarray(Status.CONVERGED, jnp.int32), "success": problem.uniform < problem.chance}

    return Trial(
        draw=draw,
        init=lambda problem: jnp.zeros((), jnp.int32),
        step=lambda problem, state: state + 1,
        finished=lambda problem, state: state >= 1,
        report=report,
    )


BERNOULLI = Experiment(
    name="bernoulli",
    subject="bernoulli",
    axes=AXES,
    resolve=resolve,
    sizes=lambda cell: {"n": cell["n"]},
    inputs=_inputs,
    trial=_trial,
    module=__name__,
    default_grid={"n_per_dof": (1.0, 2.0)},
    default_seeds=4,
)
