"""Fine-tuning methods from 10 percent error to 1e-6: steps over condition number and measurements, and time.

Run: ``pytest benchmarks/bench_finetune.py``. Noiseless, float64, rank known, the gradient from packed measurements.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.table import Table, seconds, times
from benchmarks.timing import Case, interleave, median, ratio
from pruneft import optim
from pruneft.optim import LMConfig
from pruneft.pipeline import Penalty
from pruneft.sensing import finetune, theory
from pruneft.sensing import lane as lanes
from pruneft.sensing.draw import draw_instance
from pruneft.sensing.operator import cast

GOAL = 1e-6  # relative, Frobenius
INSTANCES = 3
KAPPAS = (1, 10, 100)
RATIOS = (1.3, 2.0, 3.0, 5.0)
TIMED = ((16, 2), (64, 4))  # d, r
LIMIT, TIMED_LIMIT = 3000, 500
LM = "Levenberg-Marquardt, dense (iterations)"
CG = "Gauss-Newton by conjugate gradients (products)"
TANGENT = "tangent step, accelerated"


class Near(NamedTuple):
    """A problem and a factor near its truth, normalised."""

    lane: lanes.Lane
    start: jax.Array
    truth: jax.Array
    n: int
    dof: int
    largest: float
    smallest: float
    kappa: float


class Facts(NamedTuple):
    """What constants are made of: sizes are static, eigenvalues traced, so that instances share a program."""

    n: int
    dof: int
    kappa: float
    largest: Any
    smallest: Any

    @property
    def high(self) -> float:
        """Largest eigenvalue of the measurements on the tangent space."""
        return theory.tangent_spectrum(self.n, self.dof)[1]


PLAIN, KNOWING = "gradient descent", "Nesterov, condition number known"
METHODS: dict[str, Callable[[Facts], optax.GradientTransformation]] = {
    PLAIN: lambda it: optax.sgd(0.2 / (it.largest * it.high)),
    KNOWING: lambda it: finetune.nesterov(it.n, it.dof, it.largest, it.kappa),
    "ScaledGD": lambda it: finetune.scaled_gd(it.n, it.dof),
    "ScaledGD(lambda)": lambda it: finetune.scaled_gd(it.n, it.dof, it.smallest),
    "PrecGD": lambda it: finetune.precgd(it.n, it.dof),
    "PrecGD, damped by the gradient": lambda it: optim.precgd(0.9 / (4 * it.high), by="gradient", scale=0.25),
    "noisy PrecGD": lambda it: finetune.noisy_precgd(it.n, it.dof),
    "tangent step": lambda it: finetune.tangent_descent(it.n, it.dof),
    TANGENT: lambda it: finetune.tangent_nesterov(it.n, it.dof),
    CG: lambda it: finetune.gauss_newton(),
}
SURPLUS = tuple(name for name in METHODS if name not in (PLAIN, KNOWING))


@functools.partial(jax.jit, static_argnames=("n", "d", "r"))
def _draw(key: Any, kappa: Any, *, n: int, d: int, r: int) -> tuple[lanes.Lane, jax.Array]:
    drawn = draw_instance(key, n=n, d=d, r=r, kappa=kappa, dtype=jnp.float64)
    none = jnp.zeros((1, 1, 1))
    lane = lanes.make_lane(drawn.operator, drawn.y, jnp.zeros((1, 1, d, r)), Penalty(none, none, none, none))
    # Rows and not the Gram form, which depends on n, so that the methods are compared on equal gradients.
    return lane._replace(fast=cast(drawn.operator, jnp.float64)), drawn.factor[:, :r] / jnp.sqrt(lane.scale)


def near(seed: int, d: int, r: int, per_dof: float, kappa: float, surplus: int = 0) -> Near:
    """A drawn instance and a start whose matrix is 10 percent off; with so many columns more than its rank."""
    n = round(per_dof * theory.dof(d, r))
    lane, found = _draw(jax.random.key(seed), float(kappa), n=n, d=d, r=r)
    factor = np.asarray(found)
    truth, wide = factor @ factor.T, np.pad(factor, ((0, 0), (0, surplus)))
    noise, size = np.random.default_rng(seed).standard_normal(wide.shape), 0.1
    for _ in range(30):
        moved = wide + size * noise
        size *= math.sqrt(0.1 / (np.linalg.norm(moved @ moved.T - truth) / np.linalg.norm(truth)))
    sizes = np.sum(np.square(factor), axis=0)
    dof = theory.dof(d, r + surplus)
    return Near(lane, jnp.asarray(moved), jnp.asarray(truth), n, dof, sizes.max(), sizes.min(), kappa)


@functools.partial(jax.jit, static_argnames=("name", "n", "dof", "kappa", "limit"))
def _descend(
    lane: lanes.Lane,
    start: jax.Array,
    truth: jax.Array,
    ends: Any,
    *,
    name: str,
    n: int,
    dof: int,
    kappa: float,
    limit: int,
) -> tuple[jax.Array, jax.Array]:
    optimizer = optax.with_extra_args_support(METHODS[name](Facts(n, dof, kappa, *ends)))

    def step(carry: Any) -> Any:
        factor, state, count = carry
        extra = lanes.tuning(lane, factor)
        updates, state = optimizer.update(lanes.gradient(lane, factor), state, factor, **extra)
        return factor + updates, state, count + 1

    def go_on(carry: Any) -> jax.Array:
        return (carry[2] < limit) & (_error(carry[0][0], truth) >= GOAL)

    factor, state, count = jax.lax.while_loop(go_on, step, (start, optimizer.init(start), jnp.zeros((), jnp.int32)))
    return state.products[0] if name == CG else count, _error(factor[0], truth)


@functools.partial(jax.jit, static_argnames="config")
def _refine(lane: lanes.Lane, start: jax.Array, truth: jax.Array, *, config: LMConfig) -> tuple[jax.Array, jax.Array]:
    result = lanes.fit(lane, start, config)
    return result.steps[0], _error(result.x[0].reshape(start.shape[1:]), truth)


def _error(factor: jax.Array, truth: jax.Array) -> jax.Array:
    return jnp.linalg.norm(factor @ factor.T - truth) / jnp.linalg.norm(truth)


def runner(name: str, it: Near, limit: int = LIMIT) -> Callable[[], tuple[jax.Array, jax.Array]]:
    """One method on one problem until the error is below the goal: steps, iterations or products taken, and the error."""
    arrays = it.lane, it.start[None], it.truth
    if name == LM:
        # The residual is at least the root of the least eigenvalue times the error.
        target = GOAL**2 * theory.tangent_spectrum(it.n, it.dof)[0]
        run = functools.partial(_refine, *arrays, config=LMConfig(target=target))
    else:
        kappa = float(it.kappa) if name == KNOWING else 1.0  # static: for all others one program serves
        ends = it.largest, it.smallest
        run = functools.partial(_descend, *arrays, ends, name=name, n=it.n, dof=it.dof, kappa=kappa, limit=limit)
    return lambda: jax.block_until_ready(run())


def _steps(name: str, d: int, r: int, per_dof: float, kappa: float, surplus: int = 0) -> str:
    """Median over the instances; a dash where the median instance does not arrive."""
    found = []
    for seed in range(INSTANCES):
        count, error = runner(name, near(seed, d, r, per_dof, kappa, surplus))()
        found.append(float(count) if float(error) < GOAL else math.inf)
    middle = statistics.median(found)
    return f"{middle:.0f}" if math.isfinite(middle) else "-"


def _steps_table() -> Table:
    d, r = 16, 2
    rows = [
        [name, *(" / ".join(_steps(name, d, r, per_dof, kappa) for kappa in KAPPAS) for per_dof in RATIOS)]
        for name in (*METHODS, LM)
    ]
    return Table(
        title=f"Steps to {GOAL:g}, d = {d}, r = {r}, median of {INSTANCES}; in a cell condition number 1 / 10 / 100",
        columns=["method", *(f"n = {per_dof:g} dof" for per_dof in RATIOS)],
        rows=rows,
        says=f"A dash: not within {LIMIT} steps. Conjugate gradients are counted in products with the curvature.",
    )


def _surplus_table() -> Table:
    d, r, kappa, more = 16, 2, 10.0, 2
    rows = [[name, *(_steps(name, d, r, per_dof, kappa, more) for per_dof in (2.0, 5.0))] for name in (*SURPLUS, LM)]
    return Table(
        title=f"The same with {more} columns more than the rank, condition number {kappa:g}",
        columns=["method", "n = 2 dof", "n = 5 dof"],
        rows=rows,
        says="Steps and momentum are those of the degrees of freedom of all columns.",
    )


def _time_table() -> Table:
    rows, worse = [], []
    contestants = (LM, TANGENT, CG, "ScaledGD")
    for d, r in TIMED:
        for per_dof in (1.3, 2.0, 5.0):
            it = near(0, d, r, per_dof, 10.0)
            cases = {name: Case(runner(name, it, TIMED_LIMIT)) for name in contestants}
            done = {name: float(case.run()[1]) < GOAL for name, case in cases.items()}
            taken = interleave(cases, rounds=3, sample_seconds=0.0)
            cells = [
                f"{times(ratio(taken, name, LM))}" if done[name] else f"> {times(ratio(taken, name, LM))}"
                for name in contestants[1:]
            ]
            rows.append([f"{d}, {r}, {per_dof:g}", seconds(median(taken, LM)), *cells])
            if done[TANGENT] and ratio(taken, TANGENT, LM) < 1:
                worse.append(f"d = {d}, n = {per_dof:g} dof")
    return Table(
        title="Time to the same error over that of Levenberg-Marquardt, condition number 10, programs compiled",
        columns=["d, r, n/dof", LM.split(" (")[0], *(f"{name.split(' (')[0]} / LM" for name in contestants[1:])],
        rows=rows,
        says="Accelerated tangent steps are faster than Levenberg-Marquardt at "
        + ("; ".join(worse) or "none of these")
        + ".",
    )


@pytest.mark.parametrize("name", [LM, TANGENT, CG])
def bench_finetune(name: str, measure_case: Any) -> None:
    run = runner(name, near(0, 16, 2, 2.0, 10.0))
    measure_case("fine-tuning d=16 r=2 n=2 dof", Case(run))


def measure() -> list[Table]:
    """The tables of this file."""
    return [_steps_table(), _surplus_table(), _time_table()]
