"""Minimum-norm programs of planted neurons: interior points and splitting in lanes against CVXPY with Clarabel, one by one; growth.

Also the grid of the publication by the sweep engine, every cell and trial of it. Run: ``python -m benchmarks.collect planted``; about
half an hour. PRUNEFT_BENCH_GRIDS=0,1,2,3 takes all four settings of the heat maps (hours), PRUNEFT_BENCH_BRIEF=1
small sizes (a minute or two).
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import alone
from benchmarks.alone import tell
from benchmarks.table import Table, seconds, times
from pruneft.experiments.planted import PLANTED
from pruneft.experiments.planted_recipes import RECIPES, cells
from pruneft.relu.planted import Blocks, Interpolant, interior, make_blocks, min_norm
from pruneft.sweep import Ledger, make_grid, sweep

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
SIZE = (40, 20, 40) if BRIEF else (100, 50, 100)  # n, d, P
LANES = 8 if BRIEF else 32
PEERS = 2 if BRIEF else 5  # instances that the peer solves
TOL = 1e-8
REPEATS = 3
GRID_FROM = (50, 20, 50) if BRIEF else (100, 25, 100)  # multiplied by these factors, one size after the other
FACTORS = (1, 2) if BRIEF else (1, 2, 4)
SEEDS = 2 if BRIEF else 5  # of a cell of the published grid
GRIDS = [int(place) for place in os.environ.get("PRUNEFT_BENCH_GRIDS", "0").split(",")]  # settings of the heat maps


class Instances(NamedTuple):
    """A batch: blocks and targets with a leading axis, and the planted linear neurons [lanes, d]."""

    blocks: Blocks
    y: jax.Array
    w: np.ndarray


def planted(n: int, d: int, P: int, lanes: int) -> Instances:
    """A linear neuron in a network with a skip connection; Gaussian data over sqrt(n) and Gaussian directions."""
    made, targets, neurons = [], [], []
    for seed in range(lanes):
        rng = np.random.default_rng(seed)
        X, w = rng.standard_normal((n, d)) / math.sqrt(n), rng.standard_normal(d)
        w /= np.linalg.norm(w)
        D = np.asarray(X @ rng.standard_normal((d, P)) >= 0, float)
        made.append(make_blocks(jnp.asarray(X), jnp.asarray(D), "skip"))
        targets.append(X @ w)
        neurons.append(w)
    blocks = jax.tree.map(lambda *parts: jnp.stack(parts), *made)
    return Instances(blocks, jnp.asarray(np.stack(targets)), np.stack(neurons))


def lanes_of(solve: Callable[..., Interpolant], instances: Instances) -> tuple[Callable[[], Interpolant], float]:
    """A compiled call that solves all of them side by side, and the bytes it needs beside its input."""
    run = jax.jit(jax.vmap(lambda blocks, y: solve(blocks, y, tol=TOL)))
    compiled = run.lower(instances.blocks, instances.y).compile()
    room = float(compiled.memory_analysis().temp_size_in_bytes)
    return lambda: jax.block_until_ready(compiled(instances.blocks, instances.y)), room


def taken_by(run: Callable[[], Any]) -> float:
    """Median seconds of a call after the first."""
    run()
    taken = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def peer(X: np.ndarray, D: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The linear block by CVXPY and Clarabel at the same tolerance; seconds of the whole call, and the solver's own."""
    S = np.concatenate([np.ones((len(X), 1)), D], axis=1)
    W = cp.Variable((X.shape[1], S.shape[1]))
    fits = cp.sum(cp.multiply(S, X @ W), axis=1) == y
    problem = cp.Problem(cp.Minimize(cp.sum(cp.norm(W, axis=0))), [fits])
    begin = time.perf_counter()
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=TOL, tol_gap_rel=TOL, tol_feas=TOL)
    return np.asarray(W.value[:, 0]), time.perf_counter() - begin, float(problem.solver_stats.solve_time or 0.0)


def compare() -> Table:
    """Lanes per second, and the error of the planted neuron."""
    instances = planted(*SIZE, LANES)
    rows, rates = [], {}
    for name, solve in (("interior points", interior.solve), ("Douglas-Rachford", min_norm.solve)):
        for lanes in (1, LANES):
            tell(f"planted: {name}, {lanes} lanes")
            part = Instances(*jax.tree.map(lambda a, lanes=lanes: a[:lanes], tuple(instances)))
            run, room = lanes_of(solve, part)
            found, taken = run(), taken_by(run)
            rates[name, lanes] = lanes / taken
            rows.append(
                [
                    f"{name}, {lanes} lanes",
                    seconds(taken / lanes),
                    f"{lanes / taken:.3g}",
                    f"{int(jnp.min(found.iterations))} to {int(jnp.max(found.iterations))}",
                    f"{float(np.max(np.abs(np.asarray(found.W[:, :, 0]) - part.w))):.1e}",
                    f"{float(jnp.max(found.gap)):.1e}",
                    f"{room / lanes / 2**20:.1f} MiB",
                ]
            )
    tell("planted: CVXPY with Clarabel")
    answers = [
        peer(*(np.asarray(part[k]) for part in (instances.blocks.X, instances.blocks.D, instances.y)))
        for k in range(PEERS)
    ]
    error = max(np.max(np.abs(w - instances.w[k])) for k, (w, _, _) in enumerate(answers))
    for name, place in (("CVXPY and Clarabel, one by one", 1), ("Clarabel's own time of it", 2)):
        middle = statistics.median(answer[place] for answer in answers)
        rates[name, 1] = 1 / middle
        rows.append([name, seconds(middle), f"{1 / middle:.3g}", "", f"{error:.1e}", "", ""])
    best, base = rates["interior points", LANES], rates["CVXPY and Clarabel, one by one", 1]
    return Table(
        title=f"A planted linear neuron, skip connection without cones, (n, d, P) = {SIZE}, gap {TOL:g}, float64",
        columns=["method", "time of one", "lanes per second", "iterations", "error", "worst gap", "memory of one"],
        rows=rows,
        says=f"Interior points solve {times(best / base)} as many a second as CVXPY, Douglas-Rachford "
        f"{times(rates['Douglas-Rachford', LANES] / base)}.",
    )


def growth() -> Table:
    """Time and memory of one lane of interior points over n, d and P, and the fitted exponents."""
    rows, exponents, lanes = [], [], 4
    for place, name in enumerate(("n", "d", "P")):
        logs = []
        for factor in FACTORS:
            n, d, P = (value * factor if k == place else value for k, value in enumerate(GRID_FROM))
            tell(f"planted: {n}, {d}, {P}")
            run, room = lanes_of(interior.solve, planted(n, d, P, lanes))
            found, one = run(), taken_by(run) / lanes
            logs.append((math.log(factor), math.log(one), math.log(room)))
            rows.append(
                [f"{n}, {d}, {P}", seconds(one), str(int(jnp.max(found.iterations))), f"{room / lanes / 2**20:.1f} MiB"]
            )
        along = np.array([log[0] for log in logs])
        slopes = [np.polyfit(along, [log[column] for log in logs], 1)[0] for column in (1, 2)]
        exponents.append(f"{name}^{slopes[0]:.1f} (memory {name}^{slopes[1]:.1f})")
    return Table(
        title="One lane of interior points, skip connection without cones",
        columns=["n, d, P", "time of one", "iterations", "memory of one"],
        rows=rows,
        says=f"Fitted exponents: time grows like {', '.join(exponents)}; the matrix of the steps is n^2 P.",
    )


def swept(setting: int) -> dict[str, Any]:
    """One setting of the heat maps on the grid of the publication, in one process; what was done, as plain numbers."""
    recipe = RECIPES["planted-recovery"]
    own = cells(recipe._replace(settings=(recipe.settings[setting],)), full=not BRIEF)
    with tempfile.TemporaryDirectory() as directory:
        begin = time.perf_counter()
        done = sweep(PLANTED, make_grid(PLANTED, seeds=SEEDS, listed=own), Path(directory) / "run", processes=1)
        taken = time.perf_counter() - begin
        with Ledger.open(done.path, read_only=True) as ledger:
            rows = list(ledger.rows())
    return {
        "trials": done.new,
        "cells": len(own),
        "seconds": taken,
        "found": sum(bool(row["success"]) for row in rows),
        "undecided": sum(bool(row["undecided"]) for row in rows),
        "iterations": max(row["iterations"] for row in rows),
        "utilisation": done.usage.utilisation,
        "programs": done.usage.programs,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def grid() -> Table:
    """The published grid of the heat maps, one process for each setting that is asked for."""
    rows = []
    for place in GRIDS:
        setting = RECIPES["planted-recovery"].settings[place]
        said = ", ".join(str(value) for value in setting.values())
        tell(f"planted: the grid, {said}")
        with alone.scratch() as cache:
            call = alone.call(swept, cache, setting=place)[0]
        did = call.value
        rows.append(
            [
                said,
                f"{did['cells']}, {did['trials']}",
                seconds(did["seconds"]),
                seconds(call.compiler),
                f"{did['trials'] / did['seconds']:.3g}",
                f"{100 * did['utilisation']:.0f}%",
                str(did["programs"]),
                f"{did['peak'] / 2**20:.0f} MiB",
                f"{did['found']}, {did['undecided']}",
                str(did["iterations"]),
            ]
        )
    return Table(
        title=f"Recovery over n = 10..400 and d = 10..100 in steps of 10, {SEEDS} trials a cell, one process on one core",
        columns=[
            "setting",
            "cells, trials",
            "time",
            "of it compiling",
            "trials a second",
            "lanes at work",
            "programs",
            "peak memory",
            "found, undecided",
            "most iterations",
        ],
        rows=rows,
        says="The whole sweep from an empty folder, drawing, pattern of ones, isometry condition, ledger and compiling included.",
    )


def measure() -> list[Table]:
    """The tables of this file."""
    return [compare(), growth(), grid()]


def main() -> None:
    """Print the tables."""
    jax.config.update("jax_enable_x64", True)
    for table in measure():
        print(table.markdown(), end="\n\n")


if __name__ == "__main__":
    main()
