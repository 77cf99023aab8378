"""Deep linear networks with decay on matrix completion: a fit of high rank, then more decay, then little again; SGD and its control.

Every trial has three phases. Gradient descent with little decay fits the observed entries at full rank. Then the method that the trial is
about goes on with the decay ``lam``, and then with the little decay again: does the rank fall, and does it stay? ``sgd`` takes one entry
a step, ``gd`` all of them. A step of a lane is a chunk of steps of the optimiser.

Source: Wang and Jacot (2024), arXiv:2305.16038; the setting is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pruneft.dynamics import deep_linear
from pruneft.dynamics.deep_linear import Completion, Ranks, Weights
from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Cell, Experiment, Trial, filled

CHUNK = 1000  # steps of the optimiser in a step of a lane
METHODS = ("sgd", "gd")

_AXES = (
    Axis(name="d", default=10, kind="data", type=int, help="rows and columns of the matrix"),
    Axis(name="r", default=1, kind="data", type=int, help="its rank"),
    Axis(name="observed", default=50, kind="data", type=int, help="entries seen"),
    Axis(name="norm", default=10.0, kind="data", help="Frobenius norm of the matrix"),
    Axis(name="layers", default=3, kind="data", type=int, help="of the network"),
    Axis(name="width", default=20, kind="data", type=int, help="of its layers"),
    Axis(name="scale", default=2.5, kind="data", help="of the initial weights, times one over root fan-in"),
    Axis(name="method", default="sgd", kind="method", type=str, choices=METHODS, help="after the first phase"),
    Axis(name="lam", default=3e-3, kind="method", help="decay of the second phase"),
    Axis(name="lam_little", default=1e-4, kind="method", help="decay of the first and the third phase"),
    Axis(name="eta", default=0.02, kind="method", help="step size"),
    Axis(name="first", default=40_000, kind="method", type=int, help=f"steps of the first phase, of {CHUNK}s"),
    Axis(name="steps", default=100_000, kind="method", type=int, help=f"of the second and third phase, of {CHUNK}s"),
)
_SIZES = ("d", "r", "observed", "layers", "width")
_NUMBERS = ("norm", "scale", "lam", "lam_little", "eta", "first", "steps")


class Task(NamedTuple):
    """One instance, and how it is trained."""

    problem: Completion
    lam: Float[Array, ""]
    lam_little: Float[Array, ""]
    eta: Float[Array, ""]
    first: Int[Array, ""]
    steps: Int[Array, ""]


class State(NamedTuple):
    """What is carried: weights, chunks after the first phase (-1 before it), and the product at the end of the first two phases."""

    weights: Weights
    chunks: Int[Array, ""]
    fitted: Ranks
    decayed: Ranks


def resolve(cell: Cell) -> dict[str, Any]:
    """A cell with every axis filled in.

    Raises:
      ValueError: the cell makes no sense; the message says what was expected, what came and what to do.
    """
    given = filled(_AXES, cell)
    for name in (*_SIZES, "first", "steps"):
        unit = CHUNK if name in ("first", "steps") else 1
        value = given[name]
        if isinstance(value, bool) or int(value) != value or value < unit or value % unit:
            raise ValueError(f"{name} must be a positive multiple of {unit}: got {value!r}.")
        given[name] = int(value)
    deep_linear.check(rank=given["r"], **{name: given[name] for name in _SIZES if name != "r"})
    for name in ("norm", "scale", "eta"):
        if not (math.isfinite(given[name]) and given[name] > 0):
            raise ValueError(f"{name} must be positive: got {given[name]}.")
    for name in ("lam", "lam_little"):
        if not (math.isfinite(given[name]) and 0 <= given[name] < 0.5 / given["eta"]):
            raise ValueError(f"{name} must be at least 0 and below 1 / (2 eta): got {given[name]}.")
    return given


def sizes(cell: Cell) -> dict[str, int]:
    """What sets the shapes of a cell's arrays."""
    return {name: cell[name] for name in _SIZES}


def inputs(cell: Cell) -> dict[str, float]:
    """The numbers that a lane of this cell is given."""
    return {name: float(cell[name]) for name in _NUMBERS}


def expected_steps(cell: Cell) -> float:
    """Chunks of a trial, after the first phase; exact."""
    return 2 * cell["steps"] / CHUNK


def trial(bucket: Bucket) -> Trial:
    """The Trial of a bucket: fits with little decay, decays, and goes on with little decay."""
    noisy, r = bucket.option("method") == "sgd", bucket["r"]
    shape = {name: bucket[name] for name in ("d", "observed", "layers", "width")}

    def draw(key: Array, values: Mapping[str, Any]) -> Task:
        dtype = values["eta"].dtype
        problem = deep_linear.draw(key, rank=r, norm=values["norm"], scale=values["scale"], dtype=dtype, **shape)
        chunks = {name: jnp.round(values[name] / CHUNK).astype(jnp.int32) for name in ("first", "steps")}
        return Task(problem, values["lam"], values["lam_little"], values["eta"], **chunks)

    def look(task: Task, weights: Weights) -> Ranks:
        return deep_linear.ranks(weights, task.problem, r)

    def init(task: Task) -> State:
        begun = look(task, task.problem.start)
        return State(task.problem.start, jnp.full((), -1, jnp.int32), begun, begun)

    def at_turn(task: Task, state: State) -> Array:
        return state.chunks < 0

    def turn(task: Task, state: State) -> State:
        """The whole first phase, which is the same for both methods and would be a branch in every step."""
        steps = task.first * CHUNK
        weights = deep_linear.descend(
            state.weights, task.problem, eta=task.eta, lam=task.lam_little, steps=steps, noisy=False
        )
        now = look(task, weights)
        return State(weights, jnp.zeros((), jnp.int32), now, now)

    def step(task: Task, state: State) -> State:
        lam = jnp.where(state.chunks < task.steps, task.lam, task.lam_little)
        begin = state.chunks * CHUNK
        weights = deep_linear.descend(
            state.weights, task.problem, eta=task.eta, lam=lam, steps=CHUNK, begin=begin, noisy=noisy
        )
        chunks, now = state.chunks + 1, look(task, weights)
        decayed = jax.tree.map(lambda new, old: jnp.where(chunks == task.steps, new, old), now, state.decayed)
        return State(weights, chunks, state.fitted, decayed)

    def finished(task: Task, state: State) -> Array:
        return state.chunks >= 2 * task.steps

    def report(task: Task, state: State) -> dict[str, Array]:
        final = look(task, state.weights)
        said: dict[str, Array] = {}
        for name, at in (("fitted", state.fitted), ("decayed", state.decayed), ("final", final)):
            said |= {f"{key}_{name}": value for key, value in at._asdict().items()}
        broken = final.rank < 0
        return {
            "status": jnp.where(broken, Status.NOT_FINITE, Status.CONVERGED).astype(jnp.int32),
            "success": (state.fitted.rank > r) & (state.decayed.rank == r) & (final.rank == r),
            **said,
        }

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report, at_turn=at_turn, turn=turn)


RANK_JUMPS = Experiment(
    name="rank-jumps",
    subject="deep-linear",
    axes=_AXES,
    resolve=resolve,
    sizes=sizes,
    inputs=inputs,
    trial=trial,
    module=__name__,
    default_grid={"method": METHODS, "lam": (1e-3, 3e-3, 1e-2)},
    default_seeds=3,
    padded=(),
    settings=f"{CHUNK} {deep_linear.SINGULAR}",
    expected_steps=expected_steps,
    figure="pruneft.experiments.rank_jumps_figure:draw",
)
