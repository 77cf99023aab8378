"""Convex two-layer ReLU networks on data of a teacher: objective, certified gap, neurons and accuracy over any axis.

X is Gaussian, the teacher ``f(x) = m^(-1/2) sum_j s_j (x u_j)_+`` has unit neurons and signs of either kind in turn; labels are its values
with noise, or their signs. One step of a lane is a round of ADMM with its certificate, so a lane that has finished is one whose gap is
proven, and a slow one is never taken for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.random import Block, normals
from pruneft.relu import admm, gap, neurons
from pruneft.relu.admm import ADMM
from pruneft.relu.loss import LOSSES
from pruneft.relu.patterns import first_of_each
from pruneft.relu.program import FORMS, Program
from pruneft.relu.solution import finish
from pruneft.trial import Axis, Bucket, Cell, Experiment, Trial, filled

FRESH = 512  # samples that nothing was trained on
BUDGET = 20_000
_DATA, _TEACHER, _FRESH, _DIRECTIONS = 0, 1, 2, 3  # streams

_AXES = (
    Axis(name="n", default=60, kind="data", type=int, help="samples"),
    Axis(name="d", default=10, kind="data", type=int, help="features"),
    Axis(name="teacher", default=5, kind="data", type=int, help="neurons of the teacher"),
    Axis(
        name="sigma", default=0.0, kind="data", help="noise of the labels, in units of the teacher's root mean square"
    ),
    Axis(name="P", default=50, kind="method", type=int, help="activation patterns sampled"),
    Axis(
        name="lam_share",
        default=0.05,
        kind="method",
        help="penalty weight, as a share of that from which on all is zero",
    ),
    Axis(name="tol", default=1e-4, kind="method", help="certified relative gap to reach"),
    Axis(name="loss", default="squared", kind="method", type=str, choices=tuple(LOSSES), help="of the predictions"),
    Axis(
        name="form", default="exact", kind="method", type=str, choices=FORMS, help="with the cones of ReLU, or without"
    ),
)


class Task(NamedTuple):
    """One instance.

    Attributes:
      program: to be solved; ``system``: its factors.
      fresh_X: [m, d], fresh_y: [m], fresh samples of the same teacher, without noise.
      tol: to stop at.
    """

    program: Program
    system: admm.System
    fresh_X: Float[Array, "m d"]
    fresh_y: Float[Array, " m"]
    tol: Float[Array, ""]


def resolve(cell: Cell) -> dict[str, Any]:
    """A cell with every axis filled in.

    Raises:
      ValueError: the cell makes no sense; the message says what was expected, what came and what to do.
    """
    given = filled(_AXES, cell)
    for name in ("n", "d", "teacher", "P"):
        value = given[name]
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}.")
        given[name] = int(value)
    for name, least in (("sigma", -math.inf), ("lam_share", 0.0), ("tol", 1e-12)):
        value = float(given[name])
        if not math.isfinite(value) or not value > least or value < 0:
            raise ValueError(
                f"{name} must be finite and {'not negative' if name == 'sigma' else 'positive'}: got {value}."
            )
    return given


def sizes(cell: Cell) -> dict[str, int]:
    """What sets the shapes of a cell's arrays."""
    return {name: cell[name] for name in ("n", "d", "P", "teacher")}


def inputs(cell: Cell) -> dict[str, float]:
    """The numbers that a lane of this cell is given."""
    return {name: float(cell[name]) for name in ("n", "d", "P", "teacher", "sigma", "lam_share", "tol")}


def expected_steps(cell: Cell) -> float:
    """A guess at the rounds of ADMM of a cell's trials, from n = 60 and 150: the hinge needs two to three times as many."""
    iterations = 60.0 if cell["form"] == "relaxed" else 400.0 * (cell["n"] / 60) ** 0.6
    return 1 + iterations * (2.5 if cell["loss"] == "hinge" else 1.0) * (-math.log10(cell["tol"]) / 4) / 20


def trial(bucket: Bucket, *, constants: ADMM = ADMM()) -> Trial:
    """The Trial of a bucket: draws a teacher and data, and trains to the certified gap."""
    n, d, P, m = (bucket[name] for name in ("n", "d", "P", "teacher"))
    loss, form = bucket.option("loss"), bucket.option("form")
    signs = LOSSES[loss].labels == "sign"
    rounds = -(-BUDGET // constants.check_every)

    def draw(key: Array, values: Mapping[str, Any]) -> Task:
        dtype = values["n"].dtype
        X, teacher, fresh, H = (
            part.astype(dtype)
            for part in normals(
                key,
                Block(_DATA, n, d + 1),
                Block(_TEACHER, m, d),
                Block(_FRESH, FRESH, d),
                Block(_DIRECTIONS, P, d),
            )
        )
        live = {
            name: (jnp.arange(size, dtype=dtype) < values[name]).astype(dtype)
            for name, size in (("n", n), ("d", d), ("P", P), ("teacher", m))
        }
        noise, X = X[:, 0], X[:, 1:] * live["n"][:, None] * live["d"]
        fresh, H = fresh * live["d"], (H * live["d"] * live["P"][:, None]).T
        teacher = teacher * live["d"] * live["teacher"][:, None]
        length = jnp.linalg.norm(teacher, axis=1, keepdims=True)
        teacher = (teacher / jnp.where(length > 0, length, 1)).T
        second = jnp.where(jnp.arange(m) % 2 == 0, 1, -1).astype(dtype) * live["teacher"] / jnp.sqrt(values["teacher"])

        def label(samples: Array, noise: Array | float) -> Array:
            values_of = jax.nn.relu(samples @ teacher) @ second + noise
            return jnp.where(values_of >= 0, 1, -1).astype(dtype) if signs else values_of

        clean = jax.nn.relu(X @ teacher) @ second
        unit = jnp.sqrt(jnp.sum(clean**2) / values["n"])
        rows = live["n"]
        D = (X @ H >= 0).astype(dtype) * rows[:, None] * live["P"]
        D = D * first_of_each(D + (1 - rows[:, None])).astype(dtype)
        weights = rows / values["n"] if loss == "hinge" else rows
        program = Program(
            X=X,
            y=label(X, values["sigma"] * unit * noise) * rows,
            D=D,
            H=H,
            lam=jnp.ones((), dtype),
            weights=weights,
            loss=loss,
            form=form,
        )
        program = dataclasses.replace(program, lam=values["lam_share"] * gap.lam_max(program))
        return Task(program, admm.system(program, constants), fresh, label(fresh, 0.0), values["tol"])

    def init(task: Task) -> admm.State:
        return admm.init(task.program, constants=constants)

    def step(task: Task, state: admm.State) -> admm.State:
        return admm.advance(task.program, task.system, state, constants)

    def finished(task: Task, state: admm.State) -> Array:
        return (state.best.gap <= task.tol) | (state.iteration >= rounds * constants.check_every) | state.broken

    def report(task: Task, state: admm.State) -> dict[str, Array]:
        program = task.program
        found = finish(state.best, state.iteration, task.tol, state.broken)
        scores = neurons.predict(program, found.U, task.fresh_X)
        wrong = jnp.mean((scores > 0) != (task.fresh_y > 0))
        miss = jnp.sqrt(jnp.sum((scores - task.fresh_y) ** 2) / jnp.sum(task.fresh_y**2))
        return {
            "status": found.status,
            "success": found.gap <= task.tol,
            "objective": found.objective,
            "dual": found.dual,
            "gap": found.gap,
            "iterations": found.iterations,
            "neurons": jnp.sum(jnp.any(found.U != 0, axis=0)).astype(jnp.int32),
            "patterns": jnp.sum(jnp.any(program.D != 0, axis=0)).astype(jnp.int32),
            "lam": program.lam,
            "error": wrong if signs else miss,
        }

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report)


RELU = Experiment(
    name="relu",
    subject="relu-teacher",
    axes=_AXES,
    resolve=resolve,
    sizes=sizes,
    inputs=inputs,
    trial=trial,
    module=__name__,
    default_grid={"loss": ("squared", "hinge", "bce"), "lam_share": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)},
    default_seeds=8,
    padded=("n",),
    settings=f"{ADMM()!r} {BUDGET} {FRESH}",
    expected_steps=expected_steps,
    figure="pruneft.experiments.relu_figure:draw",
)
