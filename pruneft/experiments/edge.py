"""Gradient descent at the edge of stability over step size and seeds: how well its prediction holds, and what it does to columns.

One step of a lane is a whole run: gradient flow to the edge of the step size ``2 / (f peak)``, then gradient descent beside its constrained
trajectory and its prediction. The numbers of a run are correlations, so there is nothing to stop early for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool

from pruneft import dynamics
from pruneft.dynamics import problems
from pruneft.dynamics.predicted import FORMS
from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Cell, Experiment, Trial, filled

PROBLEMS = ("sensing", "quadratic", "digits")
FLOW = 1000  # Euler steps of gradient flow to the peak of the sharpness
# What a prediction has to reach to count: correlations of x, y, sharpness and excess loss, and <x^2> / <delta^2>.
BARS = {"x": 0.99, "y": 0.95, "sharpness": 0.97, "loss": 0.95}
AMPLITUDE = (0.8, 1.25)

_AXES = (
    Axis(name="problem", default="sensing", kind="data", type=str, choices=PROBLEMS, help="what is trained"),
    Axis(name="m", default=25, kind="data", type=int, help="measurements, or samples (digits: 150 if not given)"),
    Axis(name="d", default=10, kind="data", type=int, help="ambient dimension; width of both layers for digits"),
    Axis(name="r", default=2, kind="data", type=int, help="true rank, or neurons of the teacher; classes for digits"),
    Axis(name="f", default=0.97, kind="method", help="2 / eta over the peak of the sharpness along gradient flow"),
    Axis(name="lam", default=0.0, kind="method", help="weight of the penalty on columns (not for digits)"),
    Axis(
        name="kick", default=0.7, kind="method", help="displacement along the unstable direction at the start, in delta"
    ),
    Axis(name="steps", default=120, kind="method", type=int, help="of gradient descent"),
    Axis(name="form", default="generalised", kind="method", type=str, choices=FORMS, help="of the prediction"),
)
_DIGITS = {"m": 150, "d": 12, "r": 3}


class Task(NamedTuple):
    """One instance.

    Attributes:
      problem: data and start.
      f, kick: as the axes.
    """

    problem: problems.Problem
    f: Array
    kick: Array


class State(NamedTuple):
    """Whether the run is done, and what it reports."""

    done: Bool[Array, ""]
    report: dict[str, Array]


def resolve(cell: Cell) -> dict[str, Any]:
    """A cell with every axis filled in.

    Raises:
      ValueError: the cell makes no sense; the message says what was expected, what came and what to do.
    """
    usual = _DIGITS if cell.get("problem") == "digits" else {}
    given = filled(_AXES, cell, usual)
    for name in ("m", "d", "r", "steps"):
        value = given[name]
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}.")
        given[name] = int(value)
    for name in ("f", "lam", "kick"):
        given[name] = float(given[name])
        if not math.isfinite(given[name]) or given[name] < 0:
            raise ValueError(f"{name} must be finite and not negative: got {given[name]}.")
    if not 0 < given["f"] <= 1:
        raise ValueError(f"f must be above 0 and at most 1: got {given['f']}.")
    if given["problem"] == "digits":
        if given["lam"] > 0:
            raise ValueError("the penalty is on the columns of a factor: digits take lam = 0.")
        if not 2 <= given["r"] <= 10:
            raise ValueError(f"r is the number of classes for digits, from 2 to 10: got {given['r']}.")
    elif given["r"] > given["d"]:
        raise ValueError(f"r (true rank) must be at most d (ambient dimension): got r={given['r']}, d={given['d']}.")
    return given


def sizes(cell: Cell) -> dict[str, int]:
    """What sets the shapes of a cell's arrays."""
    return {name: cell[name] for name in ("m", "d", "r", "steps")}


def inputs(cell: Cell) -> dict[str, float]:
    """The numbers that a lane of this cell is given."""
    return {name: float(cell[name]) for name in ("f", "lam", "kick")}


def expected_steps(cell: Cell) -> float:
    """Each trial is one step."""
    return 1.0


def columns(U: Array) -> Array:
    """How many columns share the weight: ``(sum |u_j|^2)^2 / sum |u_j|^4``, from 1 to k without a threshold."""
    squares = jnp.sum(U**2, axis=0)
    return jnp.sum(squares) ** 2 / jnp.sum(squares**2)


def trial(bucket: Bucket, *, flow: int = FLOW) -> Trial:
    """The Trial of a bucket: gradient flow to the edge, then the tracked run."""
    kind, form = bucket.option("problem"), bucket.option("form")
    m, d, r, steps = (bucket[name] for name in ("m", "d", "r", "steps"))

    def draw(key: Array, values: Mapping[str, Any]) -> Task:
        dtype = values["f"].dtype
        if kind == "digits":
            made = problems.digits(key, widths=(d, d), classes=r, samples=m, dtype=dtype)
        else:
            made = problems.sensing(key, m=m, d=d, r=r, lam=values["lam"], rank_one=kind == "quadratic", dtype=dtype)
        return Task(made, values["f"], values["kick"])

    def compute(task: Task) -> dict[str, Array]:
        problem = task.problem
        flat, back = ravel_pytree(problem.params)

        def loss(vector: Array) -> Array:
            return problem.loss(back(vector))

        met = dynamics.onset(loss, flat, task.f, steps=flow)
        seen = dynamics.track(loss, met.theta, met.eta, steps=steps, kick=task.kick, form=form)
        found = dynamics.agreement(seen, steps=steps)
        good = jnp.all(jnp.stack([getattr(found, name) >= bar for name, bar in BARS.items()]))
        good = good & (found.amplitude >= AMPLITUDE[0]) & (found.amplitude <= AMPLITUDE[1])
        status = jnp.where(met.status == Status.NOT_FINITE, met.status, seen.status)
        told = {
            "status": status,
            "success": good,
            "inside": seen.inside,
            "eta": met.eta,
            "peak": met.peak,
            "x": found.x,
            "y": found.y,
            "sharpness": found.sharpness,
            "loss": found.loss,
            "amplitude": found.amplitude,
            "edge": found.edge,
            "miss": found.miss,
            "eps": jnp.max(seen.eps),
            "share": jnp.min(seen.share),
            "second": jnp.max(seen.eta * seen.second),
            "final_loss": seen.loss[-1],
        }
        if kind != "digits":
            # What the same time of gradient flow makes of the same start.
            free = dynamics.central_flow(loss, met.theta, met.eta, steps=steps, k=0)
            told |= {"columns": columns(back(seen.theta)), "columns_flow": columns(back(free.theta))}
        return told

    def init(task: Task) -> State:
        shapes = jax.eval_shape(compute, task)
        empty = {name: jnp.zeros(value.shape, value.dtype) for name, value in shapes.items()}
        return State(jnp.zeros((), jnp.bool_), empty)

    def step(task: Task, state: State) -> State:
        return State(jnp.ones((), jnp.bool_), compute(task))

    def finished(task: Task, state: State) -> Array:
        return state.done

    def report(task: Task, state: State) -> dict[str, Array]:
        return state.report

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report)


EDGE = Experiment(
    name="edge",
    subject="edge",
    axes=_AXES,
    resolve=resolve,
    sizes=sizes,
    inputs=inputs,
    trial=trial,
    module=__name__,
    default_grid={"f": (0.9, 0.93, 0.95, 0.97, 0.98)},
    default_seeds=8,
    padded=(),
    settings=f"{FLOW} {BARS} {AMPLITUDE} {dynamics.Domain()!r}",
    expected_steps=expected_steps,
    figure="pruneft.experiments.edge_figure:draw",
)
