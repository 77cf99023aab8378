"""Networks trained by AdamW on planted data, pruned and fine-tuned: practice beside the convex programs, on the same instances.

A lane trains one network, ``chunk`` optimiser steps at a time. Nothing is certified: a network "recovers" when, after pruning and
fine-tuning, the planted weights are found to one percent, where a convex program is held to 1e-4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pruneft.experiments import planted as convex
from pruneft.relu.planted import models, networks
from pruneft.relu.planted.networks import Training
from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Cell, Experiment, Trial, filled

NEAR = 0.01  # distance to the planted weights over their norm, after fine-tuning
_SHARED = ("d", "n", "n_per_d", "planted", "weights", "data", "signs", "sigma", "model")
_AXES = (
    *(axis for axis in convex.PLANTED.axes if axis.name in _SHARED),
    Axis(name="neurons", default=Training().neurons, kind="method", type=int, help="width at the start"),
    Axis(name="decay", default=Training().decay, kind="method", help="decoupled weight decay of AdamW"),
    Axis(name="lam", default=Training().lam, kind="method", help="weight of half the squared parameters in the loss"),
    Axis(name="steps", default=Training().steps, kind="method", type=int, help="of AdamW; half as many to fine-tune"),
)


class Task(NamedTuple):
    """One instance, and the state from which its network begins."""

    planted: models.Planted
    start: networks.State
    decay: Array
    lam: Array


def resolve(cell: Cell) -> dict[str, Any]:
    """A cell with every axis filled in, n from n_per_d where it is not given.

    Raises:
      ValueError: the cell makes no sense; the message says what was expected, what came and what to do.
    """
    every = filled(_AXES, cell)
    shared = convex.resolve({name: value for name, value in cell.items() if name in _SHARED})
    given = {name: shared[name] for name in _SHARED if name in shared}
    for name in ("neurons", "decay", "lam", "steps"):
        given[name] = every[name]
    for name, unit in (("neurons", 1), ("steps", 2 * Training().chunk)):
        value = given[name]
        if isinstance(value, bool) or int(value) != value or value < unit or value % unit:
            raise ValueError(f"{name} must be a positive multiple of {unit}: got {value!r}.")
        given[name] = int(value)
    for name in ("decay", "lam"):
        if not (math.isfinite(given[name]) and given[name] >= 0):
            raise ValueError(f"{name} must be finite and not negative: got {given[name]}.")
    return given


def sizes(cell: Cell) -> dict[str, int]:
    """What sets the shapes of a cell's arrays, and the length of its loops."""
    return {name: cell[name] for name in ("n", "d", "neurons", "steps")}


def inputs(cell: Cell) -> dict[str, float]:
    """The numbers that a lane of this cell is given."""
    return {name: float(cell[name]) for name in ("n", "d", "sigma", "decay", "lam")}


def expected_steps(cell: Cell) -> float:
    """Chunks of a trial; exact."""
    return 1.5 * cell["steps"] / Training().chunk


def trial(bucket: Bucket) -> Trial:
    """The Trial of a bucket: plants neurons and trains a network on their data."""
    n, d = bucket["n"], bucket["d"]
    option: dict[str, Any] = {name: bucket.option(name) for name in ("model", "planted", "weights", "data", "signs")}
    model, linear = option["model"], option["planted"] == "linear"
    steps = bucket["steps"]
    constants = dataclasses.replace(Training(), neurons=bucket["neurons"], steps=steps, fine=steps // 2)

    def draw(key: Array, values: Mapping[str, Any]) -> Task:
        dtype = values["n"].dtype
        live: dict[str, Any] = {f"live_{name}": jnp.round(values[name]).astype(jnp.int32) for name in ("n", "d")}
        planted = models.plant(key, n=n, d=d, P=1, sigma=values["sigma"], dtype=dtype, **option, **live)
        start = networks.init(jax.random.fold_in(key, 1), d, model, constants, dtype.name)
        return Task(planted, start, values["decay"], values["lam"])

    def init(task: Task) -> networks.State:
        return task.start

    def step(task: Task, state: networks.State) -> networks.State:
        return networks.advance(task.planted, state, model, constants, task.decay, task.lam)

    def finished(task: Task, state: networks.State) -> Array:
        return networks.over(state, constants)

    def report(task: Task, state: networks.State) -> dict[str, Array]:
        before, after = networks.finish(task.planted, state, model=model, linear=linear, constants=constants)
        size = jnp.linalg.norm(task.planted.theta)
        broken = ~jnp.isfinite(after.distance)
        return {
            "status": jnp.where(broken, Status.NOT_FINITE, Status.CONVERGED).astype(jnp.int32),
            "success": after.distance < NEAR * size,
            "distance": after.distance,
            "distance_before": before.distance,
            "error": after.error,
            "error_before": before.error,
            "neurons_left": after.neurons,
            "neurons_before": before.neurons,
            "misfit": after.misfit,
        }

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report)


PLANTED_NETWORKS = Experiment(
    name="planted-networks",
    subject=convex.PLANTED.subject,  # the same instances
    axes=_AXES,
    resolve=resolve,
    sizes=sizes,
    inputs=inputs,
    trial=trial,
    module=__name__,
    default_grid={"n_per_d": (1.5, 2.0, 2.5, 3.0, 4.0)},
    default_seeds=8,
    padded=("n",),
    settings=f"{Training()!r} {NEAR} {models.FRESH}",
    expected_steps=expected_steps,
    figure="pruneft.experiments.planted_figure:networks",
)
