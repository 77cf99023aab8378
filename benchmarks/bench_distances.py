"""Positions from squared distances: pruneft against its peers on the same instances, and what a step of training costs.

Run: ``python -m benchmarks.collect distances``. With PRUNEFT_BENCH_BRIEF=1 in the environment six instances of four cells.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import distance_peers as peers
from benchmarks.alone import tell
from benchmarks.bench_gradient import loop
from benchmarks.table import Table, seconds, times
from benchmarks.timing import Case, interleave, median, ratio
from pruneft import Problem, recover
from pruneft.pipeline import Penalty
from pruneft.random import normals
from pruneft.sensing import PackedOperator
from pruneft.sensing import lane as lanes
from pruneft.sensing.family import Family
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.distances import Distances
from pruneft.sensing.operators.distances_draw import DISTANCES, DISTANCES_NEAREST, degrees

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
INSTANCES = 6 if BRIEF else 12
# Family, N, r, n/dof, noise as a share of the root mean square of all squared distances; those of one N and n/dof share their programs.
_BRIEF_CELLS = (
    (DISTANCES, 16, 2, 2.0, 0.0),
    (DISTANCES, 16, 2, 3.0, 0.05),
    (DISTANCES_NEAREST, 16, 2, 2.0, 0.0),
    (DISTANCES_NEAREST, 16, 2, 3.0, 0.05),
)
_OTHER_CELLS = (
    (DISTANCES, 16, 2, 1.5, 0.0),
    (DISTANCES, 16, 2, 3.0, 0.01),
    (DISTANCES, 24, 3, 2.0, 0.0),
    (DISTANCES_NEAREST, 16, 2, 3.0, 0.0),
    (DISTANCES_NEAREST, 24, 2, 2.0, 0.0),
)
CELLS = _BRIEF_CELLS if BRIEF else (*_BRIEF_CELLS, *_OTHER_CELLS)
EXACT, ORACLE = 1e-3, 3.0  # relative error of a success without noise; with noise, so many times the oracle's
EIGENVALUE = 1e-2  # share of the largest above which an eigenvalue counts
OWN = "pruneft, path"
KNOWS = {
    OWN: "nothing",
    "least trace (CVXPY)": "noise",
    "largest trace (CVXPY)": "noise",
    "shortest paths + MDS": "dimension",
    "SMACOF (scikit-learn)": "dimension",
    "weighted SMACOF": "dimension",
    "shortest paths + LM": "dimension",
    "LM, 20 restarts": "dimension",
}
STEPS = ((16, 16, 72), (24, 24, 180), (64, 32, 500), (256, 32, 2000))  # N, k, n
_COUNT = 200


class Instance(NamedTuple):
    """One drawn problem, and the relative error of least squares from the truth."""

    operator: Distances
    pairs: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    sigma: float
    oracle: float


def draw(family: Family, N: int, r: int, share: float, noise: float, seed: int) -> Instance:
    """An instance of a cell."""
    n = round(share * degrees(N, r))
    sigma = noise * 2 * math.sqrt(r) / (N - 1) * math.sqrt(1 + 2 / r)
    drawn = family.make(
        normals(jax.random.key(seed), *family.blocks(n, N)), rows=n, d=N, r=r, sigma=sigma, dtype=jnp.float64
    )
    operator = cast(drawn.operator, jnp.float64)
    pairs, y, truth = operator.pairs(), np.asarray(drawn.y), np.asarray(drawn.truth)
    oracle = 0.0
    if noise:
        oracle = relative(gram(peers.least_squares_from(pairs, y, np.asarray(drawn.factor)[:, :r])[0]), truth)
    return Instance(operator, pairs, y, truth, sigma, oracle)


def gram(positions: np.ndarray) -> np.ndarray:
    """Gram matrix of centred positions."""
    centred = positions - positions.mean(axis=0)
    return np.asarray(centred @ centred.T)


def relative(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Relative error in Frobenius norm; infinite where the estimate is not finite."""
    error = float(np.linalg.norm(estimate - truth) / np.linalg.norm(truth))
    return error if math.isfinite(error) else math.inf


def methods(N: int, r: int) -> dict[str, Callable[[Instance], np.ndarray]]:
    """Name -> solver, each to a Gram matrix [N, N]."""

    def placed(solve: Callable[..., np.ndarray]) -> Callable[[Instance], np.ndarray]:
        return lambda it: gram(solve(it.pairs, it.y, N, r))

    return {
        OWN: lambda it: recover(Problem(it.operator, it.y)).matrix,
        "least trace (CVXPY)": lambda it: peers.semidefinite(it.pairs, it.y, N, sigma=it.sigma),
        "largest trace (CVXPY)": lambda it: peers.semidefinite(it.pairs, it.y, N, sigma=it.sigma, unfold=True),
        "shortest paths + MDS": placed(peers.shortest_path_scaling),
        "SMACOF (scikit-learn)": placed(peers.smacof),
        "weighted SMACOF": placed(peers.weighted_smacof),
        "shortest paths + LM": placed(peers.scaled_then_fitted),
        "LM, 20 restarts": placed(peers.restarted),
    }


def measure() -> list[Table]:
    """The tables of this file."""
    return [*(compare(*cell) for cell in CELLS), step_table()]


def compare(family: Family, N: int, r: int, share: float, noise: float) -> Table:
    """Every method on the instances of one cell."""
    tell(f"distances: {family.name}, N = {N}, r = {r}, n/dof {share:g}, noise {noise:g}")
    instances = [draw(family, N, r, share, noise, seed) for seed in range(INSTANCES)]
    solvers = methods(N, r)
    for name in (OWN, "least trace (CVXPY)", "largest trace (CVXPY)"):
        try_to(solvers[name], draw(family, N, r, share, noise, 1000), name)  # compiled before it is timed
    rows, success = [], {}
    for name, solve in solvers.items():
        errors, taken, ranks, wins = [], [], 0, 0
        for instance in instances:
            begin = time.perf_counter()
            estimate = try_to(solve, instance, name)
            taken.append(time.perf_counter() - begin)
            if estimate is None:
                errors.append(math.inf)
                continue
            errors.append(relative(estimate, instance.truth))
            values = np.linalg.eigvalsh(estimate)
            ranks += int(np.sum(values > EIGENVALUE * values[-1])) == r
            wins += errors[-1] < max(EXACT, ORACLE * instance.oracle)
        success[name] = wins
        told = KNOWS[name]
        shown = statistics.median(errors)
        by = [error / it.oracle for error, it in zip(errors, instances, strict=True) if it.oracle]
        rows.append(
            [
                name,
                told,
                f"{wins}/{INSTANCES}",
                "told" if told == "dimension" else f"{ranks}/{INSTANCES}",
                f"{shown:.1e}",
                f"{statistics.median(by):.2f}" if by else "",
                seconds(statistics.median(taken)),
            ]
        )
    ahead = [f"{name} ({wins}, told the {KNOWS[name]})" for name, wins in success.items() if wins > success[OWN]]
    return Table(
        title=f"{family.name}, N = {N}, r = {r}, n/dof {share:g}, noise {noise:g}: {INSTANCES} instances",
        columns=["method", "is told", "success", "dimension", "median error", "error / oracle's", "median time"],
        rows=rows,
        says=f"**More successes than `path` ({success[OWN]}):** {', '.join(ahead)}."
        if ahead
        else f"No peer has more successes than `path` ({success[OWN]} of {INSTANCES}).",
    )


def try_to(solve: Callable[[Instance], np.ndarray], instance: Instance, name: str) -> np.ndarray | None:
    """The estimate; None where a solver gives up: it has failed on this instance, and no other."""
    try:
        estimate = solve(instance)
    except Exception as error:  # whatever a peer raises is its failure
        tell(f"distances: {name} gave up: {type(error).__name__}: {error}")
        return None
    return estimate if np.isfinite(estimate).all() else None


def step_cases(N: int, k: int, n: int) -> dict[str, Case]:
    """A step on distances, its products alone, and a step on the same measurements as dense packed rows."""
    drawn = DISTANCES.make(normals(jax.random.key(0), *DISTANCES.blocks(n, N)), rows=n, d=N, r=2, dtype=jnp.float32)
    begin = lanes.draw_starts(jax.random.key(1), 1, 1, N, k, live_d=N, live_k=k, norm=2.0, dtype=jnp.float32)
    penalty = Penalty(*(jnp.full((1, 1, 1), 1e-3, jnp.float32) for _ in Penalty._fields))
    lane = lanes.make_lane(drawn.operator, drawn.y, begin, penalty)
    factor = begin[0]
    count = max(3, _COUNT * 64 * 64 // (N * N + n))
    cases = {
        "step": loop(lanes.gradient, lane, factor, count),
        "products": loop(_products, jnp.eye(N, dtype=jnp.float32), factor, count),
    }
    if N <= 64:  # n x N(N+1)/2 numbers
        first, second = (
            jax.nn.one_hot(node, N, dtype=jnp.float32) for node in (drawn.operator.first, drawn.operator.second)
        )
        ends = first - second
        rows = PackedOperator.from_matrices(ends[:, :, None] * ends[:, None, :])
        dense = lanes.make_lane(rows, drawn.y, begin, penalty)._replace(fast=None)
        cases["dense"] = loop(lanes.gradient, dense, factor, count)
    return cases


def _products(square: jax.Array, factor: jax.Array) -> jax.Array:
    """``(U Uᵀ + I) U``: the two products of an N x N matrix that a step cannot do without."""
    return (factor @ factor.mT + square) @ factor


def _some(N: int, n: int) -> Distances:
    return Distances.from_pairs(np.stack(np.triu_indices(N, 1), axis=1)[:n], N, dtype=jnp.float32)


def step_table() -> Table:
    """Time of a step against its bounds, and its growth."""
    rows, over = [], []
    for N, k, n in STEPS:
        tell(f"distances: a step at N = {N}")
        found = interleave(step_cases(N, k, n), rounds=7)
        flops, moved = _some(N, n).step_cost(k)
        step = median(found, "step")
        over.append(ratio(found, "step", "products"))
        rows.append(
            [
                f"{N}, {k}, {n}",
                seconds(step),
                f"{flops / 1e6:.3g} M",
                f"{flops / step / 1e9:.3g} GFLOP/s",
                f"{moved / 1e6:.3g} MB",
                f"{moved / step / 1e9:.3g} GB/s",
                times(over[-1]),
                times(ratio(found, "dense", "step")) if "dense" in found else "not run",
            ]
        )
    return Table(
        title="A step of training on distances, one start",
        columns=["N, k, n", "step", "FLOPs", "rate", "bytes", "rate", "step / two products alone", "dense rows / step"],
        rows=rows,
        says=(
            f"A step takes {times(min(over))} to {times(max(over))} times as long as the two products of N x N by N x k that it cannot do "
            "without; the rest goes mostly into gathering N² numbers by index."
        ),
    )


def main() -> None:
    """Print the tables."""
    jax.config.update("jax_enable_x64", True)
    for table in measure():
        print(table.markdown(), end="\n\n")


if __name__ == "__main__":
    main()
