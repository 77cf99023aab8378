"""Completion against its peers on the same instances, and what a step costs.

Run: ``python -m benchmarks.collect entries``. With PRUNEFT_BENCH_BRIEF=1 in the environment a small form, to try it out.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes, load_wine

from benchmarks import completion_peers as peers
from benchmarks.alone import tell
from benchmarks.table import Table, seconds
from pruneft import Problem, recover
from pruneft.random import normals
from pruneft.sensing.completion import complete
from pruneft.sensing.operators.entries import Entries, entries_of
from pruneft.sensing.operators.entries_draw import ENTRIES

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
D, R = 24, 2
RATIOS = (2.0,) if BRIEF else (2.0, 3.0, 4.0)
NOISES = (0.0, 0.1) if BRIEF else (0.0, 0.001, 0.01, 0.1)
INSTANCES = 2 if BRIEF else 12
KERNELS = {"wine": load_wine} if BRIEF else {"wine": load_wine, "diabetes": load_diabetes}
FRACTIONS = (0.25,) if BRIEF else (0.25, 0.4, 0.6)
SAMPLINGS = 2 if BRIEF else 6
POINTS = 48
EIGENVALUE = 1e-2  # share of the largest above which an eigenvalue counts; all of the truth's are equal
_STEPS = 100


class Case(NamedTuple):
    """One instance of low rank: [d, d] values and what of them is seen, the truth, sigma, and the error with the tangent space known."""

    values: np.ndarray
    seen: np.ndarray
    truth: np.ndarray
    sigma: float
    oracle: float


class Run(NamedTuple):
    """What one method did on one instance."""

    error: float
    rank: int
    seconds: float


def draw(ratio: float, noise: float, seed: int) -> Case:
    """An instance; noise is relative to the root mean square entry."""
    n, sigma = round(ratio * ENTRIES.dof(D, R)), noise / D
    made = ENTRIES.make(
        normals(jax.random.key(seed), *ENTRIES.blocks(n, D)), rows=n, d=D, r=R, sigma=sigma, dtype=jnp.float64
    )
    truth, pairs, y = np.asarray(made.truth), made.operator.pairs(), np.asarray(made.y)
    values, seen = np.zeros((D, D)), np.zeros((D, D), bool)
    for i, j in (pairs.T, pairs.T[::-1]):
        values[i, j], seen[i, j] = y, True
    oracle = peers.oracle_error(np.asarray(made.factor)[:, :R], pairs, y - truth[tuple(pairs.T)])
    return Case(values, seen, truth, sigma, oracle / np.linalg.norm(truth))


def judged(solve: Callable[[], np.ndarray], truth: np.ndarray) -> Run:
    """Run and compare; an error of a solver is a failure on this instance."""
    begin = time.perf_counter()
    try:
        found = solve()
    except Exception as error:
        tell(f"entries: gave up: {type(error).__name__}: {error}")
        return Run(float("inf"), 0, time.perf_counter() - begin)
    taken = time.perf_counter() - begin
    values = np.linalg.eigvalsh(found)
    rank = int(np.sum(values > EIGENVALUE * values[-1]))
    return Run(float(np.linalg.norm(found - truth) / np.linalg.norm(truth)), rank, taken)


def low_rank_methods() -> dict[str, Callable[[Case], np.ndarray]]:
    """Name and what it is told -> solver."""
    return {
        "pruneft | nothing": lambda it: recover(Problem(*entries_of(it.values, it.seen))).matrix,
        "soft-impute | best threshold": lambda it: peers.soft_impute(it.values, it.seen, it.truth),
        "trace minimisation | sigma": lambda it: peers.trace_minimisation(
            it.values, it.seen, it.sigma * np.sqrt(np.sum(np.triu(it.seen)))
        ),
    }


def low_rank() -> Table:
    """Low-rank truths, rank and noise unknown to us."""
    rows, wins, cells = [], 0, 0
    for ratio in RATIOS:
        methods = low_rank_methods()
        methods["pruneft | nothing"](draw(ratio, 0.0, 1000))  # compiled before it is timed
        for noise in NOISES:
            tell(f"entries: n/dof {ratio:g}, noise {noise:g}")
            cases = [draw(ratio, noise, seed) for seed in range(INSTANCES)]
            found = {
                name: [judged(lambda it=it, solve=solve: solve(it), it.truth) for it in cases]
                for name, solve in methods.items()
            }
            medians = {name: statistics.median(run.error for run in runs) for name, runs in found.items()}
            cells += 1
            wins += min(medians, key=lambda name: medians[name]).startswith("pruneft")
            rows += [_line(name, runs, cases, ratio, noise) for name, runs in found.items()]
    return Table(
        title=f"d = {D}, r = {R}, a uniform sample of entries, {INSTANCES} instances a cell",
        columns=[
            "n/dof",
            "noise",
            "method",
            "is told",
            "success",
            "exact rank",
            "median error",
            "over tangent space",
            "time",
        ],
        rows=rows,
        says=f"The least median error is ours in {wins} of {cells} cells. Success: error below 1e-3, with noise below three times that "
        "of the tangent space. The noise is relative to the root mean square entry.",
    )


def _line(name: str, runs: list[Run], cases: list[Case], ratio: float, noise: float) -> list[str]:
    method, told = name.split(" | ")
    success = sum(run.error < max(1e-3, 3 * case.oracle) for run, case in zip(runs, cases, strict=True))
    over = statistics.median(run.error / case.oracle if case.oracle else float("nan") for run, case in zip(runs, cases))
    return [
        f"{ratio:g}",
        f"{noise:g}",
        method,
        told,
        f"{success}/{len(runs)}",
        f"{sum(run.rank == R for run in runs)}/{len(runs)}",
        f"{statistics.median(run.error for run in runs):.2g}",
        f"{over:.2f}" if noise else "",
        seconds(statistics.median(run.seconds for run in runs)),
    ]


def kernels() -> Table:
    """Kernel matrices, which are of low rank only approximately."""
    rows, worst = [], 0.0
    for name, load in KERNELS.items():
        truth = peers.kernel_matrix(load().data, POINTS)
        for fraction in FRACTIONS:
            tell(f"entries: {name}, {fraction:g} seen")
            masks = [peers.sample(POINTS, fraction, seed) for seed in range(SAMPLINGS)]
            found: dict[str, list[Run]] = {}
            complete(np.where(masks[0], truth, np.nan))  # compiled before it is timed
            for seed, seen in enumerate(masks):
                solvers = _kernel_methods(truth, seen, np.random.default_rng(seed))
                for method, solve in solvers.items():
                    found.setdefault(method, []).append(judged(solve, truth))
            errors = {method: [run.error for run in runs] for method, runs in found.items()}
            ratio = statistics.median(
                a / b for a, b in zip(errors["complete"], errors["soft-impute, best threshold"], strict=True)
            )
            worst = max(worst, ratio)
            rows += [
                [
                    name,
                    f"{fraction:g}",
                    method,
                    peers.spread(errors[method]),
                    seconds(statistics.median(r.seconds for r in runs)),
                ]
                for method, runs in found.items()
            ]
    return Table(
        title=f"Kernel matrices of {POINTS} points, a uniform sample of entries, {SAMPLINGS} samplings",
        columns=["data", "seen", "method", "error: median (largest)", "time"],
        rows=rows,
        says=f"The median ratio of our error to soft-impute's, whose threshold is chosen by the truth, is at most {worst:.2f}. Nyström "
        "chooses which entries it sees, as many as the others have.",
    )


def _kernel_methods(
    truth: np.ndarray, seen: np.ndarray, rng: np.random.Generator
) -> dict[str, Callable[[], np.ndarray]]:
    entries = int(np.sum(np.triu(seen)))
    return {
        "complete": lambda: complete(np.where(seen, truth, np.nan)).matrix,
        "soft-impute, best threshold": lambda: peers.soft_impute(truth, seen, truth),
        "Nyström, whole columns": lambda: peers.nystrom(truth, entries, rng),
        "trace minimisation": lambda: peers.trace_minimisation(truth, seen),
    }


def step_cost() -> Table:
    """One whitened gradient of one start, against the limits of this machine measured beside it."""
    flops = _flops()
    rows = []
    sizes = [
        (64, 32, 254),
        (64, 32, 1024),
        (128, 32, 510),
        (128, 64, 510),
        (256, 32, 1022),
        (512, 32, 2046),
        (512, 32, 20000),
    ]
    for d, k, n in sizes[:2] if BRIEF else sizes:
        upper = np.random.default_rng(0).permutation(np.stack(np.triu_indices(d), axis=1))[:n]
        operator = Entries.from_pairs(upper, d, dtype="float32")
        work, moved = operator.step_cost(k)
        taken = _step(operator, d, k)
        bandwidth = _bandwidth(moved)
        limit = max(work / flops, moved / bandwidth)
        form = "pairs" if operator.place is None else "matrix"
        bound = "FLOP" if work / flops >= moved / bandwidth else "byte"
        rows.append([f"{d}", f"{k}", f"{n}", form, seconds(taken), seconds(limit), bound, f"{taken / limit:.1f}"])
    return Table(
        title="One gradient step of one start, float32, one thread",
        columns=["d", "k", "n", "products by", "time", "limit", "bound by", "time over limit"],
        rows=rows,
        says=f"The limit is the larger of FLOPs at {flops / 1e9:.0f} GFLOP/s and bytes at the speed of scaling an array of that size, both "
        "measured in this run. By matrix a step grows as d² k and not with n, by pairs as n k.",
    )


def _step(operator: Entries, d: int, k: int) -> float:
    factor = jax.random.normal(jax.random.key(0), (d, k), jnp.float32) / np.sqrt(d)
    y = jnp.ones(operator.n, jnp.float32)

    @jax.jit
    def many(operator: Entries, factor: Any) -> Any:
        def step(_: Any, U: Any) -> Any:
            return U - 1e-6 * operator.pull(operator.whiten(operator.image(U) - y, operator.n, d), U)

        return jax.lax.fori_loop(0, _STEPS, step, factor)

    return _best(lambda: many(operator, factor)) / _STEPS


def _flops() -> float:
    """FLOP/s of a product of two 512 x 512 matrices, float32."""
    a = jnp.ones((512, 512), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    return 2 * 512**3 / _best(lambda: product(a))


def _bandwidth(moved: float) -> float:
    """Bytes/s of scaling an array in place that is as large as what a step moves: the caches that hold one hold the other."""
    long = jnp.ones(max(1024, int(moved / 8)), jnp.float32)
    scale = jax.jit(lambda x: jax.lax.fori_loop(0, _STEPS, lambda _, v: v * 1.0001, x))
    return 2 * long.nbytes * _STEPS / _best(lambda: scale(long))


def _best(call: Callable[[], Any]) -> float:
    jax.block_until_ready(call())
    found = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - begin)
    return min(found)


def measure() -> list[Table]:
    """The tables of this file."""
    return [low_rank(), kernels(), step_cost()]
