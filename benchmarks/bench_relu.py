"""The convex programs of ReLU networks: interior points and ADMM against CVXPY with Clarabel and SCS, and AdamW.

Run: ``python -m benchmarks.collect relu``; up to ten minutes for each of two peers on nine programs, or PRUNEFT_BENCH_CAP seconds. A peer
that misses the wide gap is not asked for the narrow one, and the same cap ends ADMM. PRUNEFT_BENCH_SIZES=150,400 takes the programs
with so many samples only. With PRUNEFT_BENCH_BRIEF=1 in the environment one small program, a minute or two.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import relu_peers as peers
from benchmarks.alone import tell
from benchmarks.table import Table, seconds, times
from benchmarks.timing import Case, interleave, median
from pruneft.relu import LOSSES, Program, Solution, admm, centred, gap, sample_patterns
from pruneft.relu.interior import Interior, _solve, interior_point, step
from pruneft.relu.interior_blocks import frame
from pruneft.relu.interior_start import begin

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
SIZES = ((60, 10, 50),) if BRIEF else ((150, 20, 100), (400, 30, 200), (1000, 50, 100))  # n, d, P
ASKED = os.environ.get("PRUNEFT_BENCH_SIZES", "")
SIZES = tuple(size for size in SIZES if not ASKED or str(size[0]) in ASKED.split(","))
KINDS = ("squared",) if BRIEF else tuple(LOSSES)
GAPS = (1e-4, 1e-6)
CAP = float(os.environ.get("PRUNEFT_BENCH_CAP", 20.0 if BRIEF else peers.CAP))
REPEATS = 3
GRID_FROM = (100, 10, 20) if BRIEF else (200, 20, 50)  # multiplied by these factors, one size after the other
FACTORS = (1, 2) if BRIEF else (1, 2, 4)
STEPS = (500,) if BRIEF else (500, 2000, 8000, 32_000)
SEEDS = 2 if BRIEF else 5


class Run(NamedTuple):
    """One method on one program: seconds (nan: not reached), iterations, relative distance to the lower bound, remark."""

    seconds: float
    iterations: int
    excess: float
    remark: str = ""


def teacher(n: int, d: int, P: int, loss: str, seed: int = 0) -> Program:
    """Gaussian X, a teacher of five ReLU neurons, and lam a twentieth of the weight at which all is zero; centred directions."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    f = np.maximum(X @ rng.standard_normal((d, 5)), 0) @ rng.choice([-1.0, 1.0], 5)
    y = f / np.std(f) if loss == "squared" else np.where(f >= np.median(f), 1.0, -1.0)
    chosen = sample_patterns(jax.random.key(seed), X, P)
    program = Program(
        X=jnp.asarray(X),
        y=jnp.asarray(y),
        D=jnp.asarray(chosen.D),
        H=jnp.asarray(centred(X, chosen.D, chosen.H)),
        lam=jnp.ones(()),
        weights=jnp.full(n, 1 / n if loss == "hinge" else 1.0),
        loss=loss,
    )
    return dataclasses.replace(program, lam=0.05 * gap.lam_max(program))


def timed(solve: Callable[[], Solution], compiled: bool = False) -> tuple[Solution, float]:
    """The solution, and the median seconds of calls once compiled; one call where it takes more than a minute."""
    if not compiled:
        jax.block_until_ready(solve())
    taken: list[float] = []
    while len(taken) < REPEATS and sum(taken) < 60:
        start = time.perf_counter()
        found = jax.block_until_ready(solve())
        taken.append(time.perf_counter() - start)
    return found, statistics.median(taken)


def iterations_within(program: Program, cap: float, most: int = 20_000, probe: int = 100) -> int:
    """How many iterations of ADMM take so long, by those of a short run; at most ``most``. What it runs is compiled then."""
    _, taken = timed(lambda: admm.solve(program, tol=1e-12, max_iterations=probe))
    return min(most, max(probe, int(cap / taken * probe)))


def compare(n: int, d: int, P: int, loss: str) -> list[Table]:
    """Every method on one program, one table for each gap."""
    tell(f"relu: {loss} at n, d, P = {n}, {d}, {P}")
    program = teacher(n, d, P, loss)
    best = interior_point(program, tol=1e-9)
    budget = iterations_within(program, CAP)
    dual = float(best.dual)
    tables, missed = [], set()
    for tol in GAPS:
        runs = {
            "pruneft, interior points": _own(lambda tol=tol: interior_point(program, tol=tol)),
            "pruneft, ADMM": _own(lambda tol=tol: admm.solve(program, tol=tol, max_iterations=budget), compiled=True),
        }
        for name in ("CLARABEL", "SCS"):
            tell(f"relu: {name} to {tol:g}")
            run = _not_asked() if name in missed else _peer(program, name, tol, dual)
            if math.isnan(run.seconds):
                missed.add(name)
            runs[f"CVXPY, {'Clarabel' if name == 'CLARABEL' else name}"] = run
        tables.append(_table(f"{loss}, (n, d, P) = ({n}, {d}, {P}), gap {tol:g}", runs))
    neurons = int(np.count_nonzero(np.linalg.norm(best.U, axis=0)))
    return [*tables, descent(program, float(best.objective), neurons, f"{loss}, (n, d, P) = ({n}, {d}, {P})")]


def _own(solve: Callable[[], Solution], compiled: bool = False) -> Run:
    found, taken = timed(solve, compiled)
    reached = int(found.status) == 1
    return Run(
        taken if reached else math.nan,
        int(found.iterations),
        float(found.gap),
        "" if reached else f"in {seconds(taken)}",
    )


def _peer(program: Program, solver: str, tol: float, dual: float) -> Run:
    """The first of three tolerances of the solver's own at which its answer, repaired, lies within ``tol`` of the optimum.

    Its seconds are the solver's own, without those of CVXPY and of the tolerances that did not do.
    """
    left, last = CAP, Run(math.nan, 0, math.inf)
    for share in (1, 0.1, 0.01):
        answer = peers.conic(program, solver, tol * share, left)
        left -= answer.total
        if answer.U is None:
            return Run(math.nan, answer.iterations, last.excess, f"ended by the cap of {CAP:g} s or an error")
        last = Run(
            answer.solver, answer.iterations, peers.excess(program, answer.U, dual), f"its tolerance {tol * share:g}"
        )
        if last.excess <= tol or left <= 0:
            break
    return (
        last
        if last.excess <= tol
        else last._replace(seconds=math.nan, remark=f"{last.remark}; {seconds(last.seconds)}")
    )


def _not_asked() -> Run:
    return Run(math.nan, 0, math.nan, f"not asked: missed {GAPS[0]:g}")


def _table(title: str, runs: dict[str, Run]) -> Table:
    base = runs["pruneft, interior points"].seconds
    rows = [
        [
            name,
            "not reached" if math.isnan(run.seconds) else seconds(run.seconds),
            "" if math.isnan(run.seconds) else times(run.seconds / base),
            str(run.iterations),
            "" if math.isnan(run.excess) else f"{run.excess:.1e}",
            run.remark,
        ]
        for name, run in runs.items()
    ]
    reached = {name: run.seconds for name, run in runs.items() if not math.isnan(run.seconds)}
    says = f"Fastest to this gap: {min(reached, key=reached.__getitem__)}." if reached else "None came to this gap."
    clarabel = runs["CVXPY, Clarabel"].seconds
    own = min(
        (run.seconds for name, run in runs.items() if name.startswith("pruneft") and run.seconds > 0), default=math.nan
    )
    if clarabel / own > 0:
        says += f" The quicker of ours takes 1/{times(clarabel / own)} of Clarabel's own time."
    return Table(
        title=title,
        columns=["method", "time", "/ interior points", "iterations", "gap", "remark"],
        rows=rows,
        says=says,
    )


def descent(program: Program, optimum: float, neurons: int, title: str) -> Table:
    """How near AdamW on the network comes to the optimum of the convex program, which it may pass: it is free in its patterns."""
    tell(f"relu: AdamW, {neurons} neurons")
    rows, reached = [], {1e-2: False, 1e-3: False}
    for rate in (1e-2, 1e-3):
        for steps in STEPS[: 2 if program.n > 500 else None]:
            found, taken = peers.adamw(program, neurons, steps, rate, SEEDS)
            above = [value / optimum - 1 for value in found]
            hits = {bar: sum(value <= bar for value in above) for bar in reached}
            reached = {bar: was or hits[bar] > 0 for bar, was in reached.items()}
            shown = [f"{hits[bar]}/{SEEDS}" for bar in reached]
            rows.append(
                [
                    f"{rate:g}",
                    str(steps),
                    seconds(taken),
                    f"{min(above):+.1e}",
                    f"{statistics.median(above):+.1e}",
                    *shown,
                ]
            )
    verdict = ", ".join(f"{bar:g}: {'some start does' if was else 'no start does'}" for bar, was in reached.items())
    return Table(
        title=f"AdamW on {neurons} neurons, {title}: objective over that of the convex program",
        columns=["rate", "steps", "time of one", "best - 1", "median - 1", "within 1e-2", "within 1e-3"],
        rows=rows,
        says=f"Comes within {verdict}. A negative number is a network better than any over the sampled patterns.",
    )


def iteration(program: Program) -> tuple[Callable[[], Any], float]:
    """One compiled iteration of the interior-point method, and the bytes that the whole solver needs beside its input."""

    def once(program: Program, point: Any) -> Any:
        return step(program, frame(program), point)

    point = jax.jit(lambda program: begin(program, frame(program), jnp.asarray(0.1), Interior().centring))(program)
    compiled = jax.jit(once).lower(program, point).compile()
    memory = _solve.lower(program, jnp.asarray(1e-6), 100, Interior()).compile().memory_analysis()
    return lambda: jax.block_until_ready(compiled(program, point)), float(memory.temp_size_in_bytes)


@functools.lru_cache
def _iteration_cost(n: int, d: int, P: int) -> tuple[float, float]:
    """Median seconds of an iteration, and bytes."""
    run, room = iteration(teacher(n, d, P, "squared"))
    times_taken = interleave({"one": Case(run)}, rounds=7)
    return median(times_taken, "one"), room


def growth() -> Table:
    """Time of an iteration and memory over n, d and P, and the exponents between the first size and the last."""
    rows, exponents = [], []
    for place, name in enumerate(("n", "d", "P")):
        logs = []
        for factor in FACTORS:
            size = [value * factor if k == place else value for k, value in enumerate(GRID_FROM)]
            tell(f"relu: an iteration at {size}")
            n, d, P = size
            middle, room = _iteration_cost(n, d, P)
            flops = 2 * (n**2 * d * P + 2 * P * n * d * (d + 1) / 2 + P * n * d**2 + n**3 / 3)
            logs.append((math.log(factor), math.log(middle), math.log(room)))
            rows.append(
                [
                    f"{n}, {d}, {P}",
                    seconds(middle),
                    f"{flops / 1e9:.2g} G",
                    f"{flops / middle / 1e9:.3g} GFLOP/s",
                    f"{room / 2**20:.0f} MiB",
                ]
            )
        along = np.array([log[0] for log in logs])
        slopes = [np.polyfit(along, [log[column] for log in logs], 1)[0] for column in (1, 2)]
        exponents.append(f"{name}^{slopes[0]:.1f} (memory {name}^{slopes[1]:.1f})")
    return Table(
        title="An iteration of the interior-point method, exact form, squared loss",
        columns=["n, d, P", "time", "FLOPs", "rate", "memory of the solver"],
        rows=rows,
        says=f"Fitted exponents: time grows like {', '.join(exponents)}; the product of the n x n matrix is n^2 d P.",
    )


def measure() -> list[Table]:
    """The tables of this file."""
    tables = []
    for size in SIZES:
        for loss in KINDS:
            tables += compare(*size, loss)
            tell(tables[-3].markdown())
    return [*tables, growth()]


def bench_iteration(measure_case: Callable[[str, Case], Any]) -> None:
    """One iteration at (n, d, P) = (150, 20, 100)."""
    measure_case("relu, one iteration of interior points", Case(iteration(teacher(150, 20, 100, "squared"))[0]))


def main() -> None:
    """Print the tables."""
    jax.config.update("jax_enable_x64", True)
    for table in measure():
        print(table.markdown(), end="\n\n")


if __name__ == "__main__":
    main()
