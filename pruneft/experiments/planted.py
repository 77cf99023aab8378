"""Planted neurons: whether the minimum-norm program of a ReLU network finds the neurons that made its data.

One step of a lane is an interior-point iteration with its certificate. A trial ends when it is decided, and only then counts:

* recovered: the certified gap is at most ``tol``, and every planted weight is found to 1e-4;
* not recovered: some interpolant is so much cheaper than the planted one that no optimum can be near it; or the weights are others, at
  a gap of ``tol`` if the planted ones cost more than those by over ``2 tol``, or a linear neuron is planted and the pattern of ones
  exists, else of a hundredth of it;
* undecided: the budget is spent before either. Never counted as a failure.

Beside it stand the isometry condition over the same patterns (it implies recovery) and whether the pattern of ones exists (it excludes
the recovery of a linear neuron).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.relu.planted import interior, min_norm, models
from pruneft.relu.planted.blocks import MODELS, Blocks, make_blocks
from pruneft.relu.planted.interior import Interior
from pruneft.relu.planted.isometry import isometry
from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Cell, Experiment, Trial, filled

NEAR = 1e-4  # every entry of every planted weight, for recovery
STRICT = 0.01  # of tol: the gap at which other weights count as an answer
BUDGET = 60  # iterations; 9 to 15 decide

_N_PER_D = 2.0
_AXES = (
    Axis(name="d", default=20, kind="data", type=int, help="features"),
    Axis(name="n", default=None, kind="data", type=int, help="samples (or give n_per_d)"),
    Axis(name="n_per_d", default=_N_PER_D, kind="derived", help="samples per feature"),
    Axis(
        name="planted",
        default="linear",
        kind="data",
        type=str,
        choices=tuple(models.NEURONS),
        help="what made the labels",
    ),
    Axis(
        name="weights", default="gaussian", kind="data", type=str, choices=models.WEIGHTS, help="of the planted neurons"
    ),
    Axis(name="data", default="gaussian", kind="data", type=str, choices=models.DATA, help="law of the samples"),
    Axis(
        name="signs",
        default="same",
        kind="data",
        type=str,
        choices=models.SIGNS,
        help="second layer of the planted neurons",
    ),
    Axis(name="sigma", default=0.0, kind="data", help="noise: every label has standard deviation sigma / sqrt(n)"),
    Axis(name="model", default="skip", kind="method", type=str, choices=MODELS, help="the network that is trained"),
    Axis(name="P", default=None, kind="method", type=int, help="random directions; n, and at least 50, if not given"),
    Axis(
        name="lam", default=0.0, kind="method", help="weight of the norms beside half the squared misfit; 0: no misfit"
    ),
    Axis(name="tol", default=1e-8, kind="method", help="certified relative gap at which a recovery counts"),
)


class Task(NamedTuple):
    """One instance.

    Attributes:
      planted: data, patterns, truth.
      blocks, system: its program and what the iterations need of it.
      truth: [d, K] what the planted blocks should be, in the coordinates of ``blocks``.
      cost: of the planted interpolant; infinite with noise or misfit, where it is none.
      least: no optimum whose planted blocks are within `NEAR` of the truth costs less than this; minus infinity with noise or misfit.
      lam, tol: as the axes.
    """

    planted: models.Planted
    blocks: Blocks
    system: min_norm.System
    truth: Float[Array, "d K"]
    cost: Float[Array, ""]
    least: Float[Array, ""]
    lam: Float[Array, ""]
    tol: Float[Array, ""]


def resolve(cell: Cell) -> dict[str, Any]:
    """A cell with every axis filled in, n from n_per_d and P from n where they are not given.

    Raises:
      ValueError: the cell makes no sense; the message says what was expected, what came and what to do.
    """
    given = filled(_AXES, cell)
    if cell.get("n") is not None and cell.get("n_per_d") is not None:
        raise ValueError(f"give n or n_per_d, not both: got n={cell['n']}, n_per_d={cell['n_per_d']}.")
    for name in ("d", "n", "P"):
        if isinstance(given[name], np.integer):
            given[name] = int(given[name])
    ratio = given.pop("n_per_d")
    if given["n"] is None:
        ratio = _N_PER_D if ratio is None else float(ratio)
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(f"n_per_d (samples per feature) must be positive: got {ratio}.")
        if isinstance(given["d"], int):
            given["n"] = max(1, round(ratio * given["d"]))
    models.check(**{name: given[name] for name in ("n", "d", "model", "planted", "weights", "data", "signs")})
    if given["P"] is None:
        given["P"] = models.directions(given["n"])
    if isinstance(given["P"], bool) or not isinstance(given["P"], int) or given["P"] < 1:
        raise ValueError(
            f"P (random directions) must be a whole number of at least 1, or there is no pattern: got {given['P']!r}."
        )
    for name in ("sigma", "lam"):
        if not (math.isfinite(given[name]) and given[name] >= 0):
            raise ValueError(f"{name} must be finite and not negative: got {given[name]}.")
    if not 1e-12 <= given["tol"] < 1:
        raise ValueError(f"tol (certified relative gap) must be from 1e-12 to 1: got {given['tol']}.")
    return given


def sizes(cell: Cell) -> dict[str, int]:
    """What sets the shapes of a cell's arrays."""
    return {name: cell[name] for name in ("n", "d", "P")}


def inputs(cell: Cell) -> dict[str, float]:
    """The numbers that a lane of this cell is given."""
    return {name: float(cell[name]) for name in ("n", "d", "P", "sigma", "lam", "tol")}


def expected_steps(cell: Cell) -> float:
    """A guess at the iterations of a cell's trials."""
    return 12.0


def trial(bucket: Bucket, *, constants: Interior = Interior()) -> Trial:
    """The Trial of a bucket: plants neurons and looks for them until it is decided whether they are found."""
    n, d, P = (bucket[name] for name in ("n", "d", "P"))
    option: dict[str, Any] = {name: bucket.option(name) for name in ("model", "planted", "weights", "data", "signs")}
    model, k = option["model"], models.NEURONS[option["planted"]]
    columns = np.arange(k) + (model == "skip") if k else np.zeros(1, int)

    def draw(key: Array, values: Mapping[str, Any]) -> Task:
        dtype = values["n"].dtype
        live: dict[str, Any] = {f"live_{name}": jnp.round(values[name]).astype(jnp.int32) for name in ("n", "d", "P")}
        planted = models.plant(key, n=n, d=d, P=P, sigma=values["sigma"], dtype=dtype, **option, **live)
        blocks = make_blocks(planted.X, planted.D, model)
        truth = planted.theta
        if model == "normalised":
            said = planted.D[:, :k] * (planted.X @ planted.theta)
            truth = jnp.einsum("ndk,nk->dk", blocks.U[:, :, :k], said)
        cost = jnp.sum(jnp.linalg.norm(truth, axis=0))
        exact = (values["sigma"] == 0) & (values["lam"] == 0)
        slack = truth.shape[1] * NEAR * jnp.sqrt(values["d"]) * (1 + 1e-6)
        least = jnp.where(exact, cost - slack, -jnp.inf)
        cost = jnp.where(exact, cost, jnp.inf)
        return Task(planted, blocks, interior.system(blocks), truth, cost, least, values["lam"], values["tol"])

    def init(task: Task) -> interior.State:
        return interior.init(task.blocks, task.system, task.planted.y, constants, task.lam)

    def step(task: Task, state: interior.State) -> interior.State:
        return interior.advance(task.blocks, task.system, state, constants)

    def verdict(task: Task, state: interior.State) -> tuple[Array, Array]:
        """Whether the trial is decided, and whether the neurons are found."""
        best = state.best
        near = jnp.max(jnp.abs(best.W[:, columns] - task.truth)) < NEAR
        found = near & (best.gap <= task.tol) & task.planted.there
        # Where the planted weights may be an optimum among others, the iterates may still be on their way.
        share = jnp.where(best.objective < task.cost * (1 - 2 * task.tol), 1, STRICT)
        # A ReLU neuron that is on everywhere says what a linear one does: with the pattern of ones the optimum is no single point.
        share = jnp.where((k == 0) & (task.planted.ones.verdict == 1), 1, share)
        other = ~near & (best.gap <= share * task.tol)
        return found | other | (best.objective < task.least) | ~task.planted.there, found

    def finished(task: Task, state: interior.State) -> Array:
        return verdict(task, state)[0] | state.best.over(BUDGET)

    def report(task: Task, state: interior.State) -> dict[str, Array]:
        planted, blocks, best = task.planted, task.blocks, state.best
        decided, found = verdict(task, state)
        theta = jnp.einsum("edp,dp->ep", blocks.back, best.W) if model == "normalised" else best.W
        gates = (planted.fresh @ planted.H >= 0).astype(theta.dtype)
        said = jnp.sum(gates * (planted.fresh @ theta[:, blocks.first :]), axis=1)
        if blocks.first:
            said = said + planted.fresh @ theta[:, 0]
        condition = isometry(blocks, jnp.asarray(columns, jnp.int32), task.truth)
        broken = jnp.where(best.broken, Status.NOT_FINITE, Status.BUDGET_SPENT)
        status = jnp.where(decided, Status.CONVERGED, jnp.where(best.infeasible, Status.INFEASIBLE, broken))
        status = jnp.where(planted.there, status, Status.NOT_IDENTIFIABLE)
        size = jnp.linalg.norm(planted.target)
        return {
            "status": status.astype(jnp.int32),
            "success": found,
            "undecided": ~decided,
            "nic": condition.holds & planted.there,
            "isometry": condition.worst,
            "all_ones": planted.ones.verdict,
            "distance": jnp.linalg.norm(best.W[:, columns] - task.truth),
            "error": jnp.linalg.norm(said - planted.target) / jnp.where(size > 0, size, 1),
            "gap": best.gap,
            "objective": best.objective,
            "dual": best.dual,
            "iterations": best.iteration,
            "patterns": jnp.sum(jnp.any(planted.D != 0, axis=0)).astype(jnp.int32),
        }

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report)


PLANTED = Experiment(
    name="planted",
    subject="relu-planted",
    axes=_AXES,
    resolve=resolve,
    sizes=sizes,
    inputs=inputs,
    trial=trial,
    module=__name__,
    default_grid={"n_per_d": (1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0)},
    default_seeds=20,
    padded=("n", "P"),
    settings=f"{Interior()!r} {BUDGET} {NEAR} {STRICT} {models.FRESH}",
    expected_steps=expected_steps,
    figure="pruneft.experiments.planted_figure:draw",
)
