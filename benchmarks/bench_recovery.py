"""One recovery from noiseless data, on the same instances in one run: pruneft against its peers.

Run: ``pytest benchmarks/bench_recovery.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import peers
from benchmarks.table import Table, seconds, times
from benchmarks.timing import LEVEL, Case, CompileClock
from pruneft import Problem, recover
from pruneft.sensing import PackedOperator, smat
from pruneft.sensing.draw import draw_instance

D, R, N = 16, 2, 46
INSTANCES = 16
EXACT_ERROR = 1e-3  # relative, Frobenius
EXACT_EIGENVALUE = 1e-3  # of the largest
PRUNEFT = ("pruneft, path", "pruneft, prune")


class Instance(NamedTuple):
    """One drawn problem, float64, as pruneft takes it and as the peers do."""

    rows: jax.Array
    matrices: np.ndarray
    y: np.ndarray
    truth: np.ndarray


def draw(seed: int) -> Instance:
    """An instance; the seeds of the benchmark begin at 0."""
    drawn = draw_instance(jax.random.key(seed), n=N, d=D, r=R, dtype=jnp.float64)
    rows = drawn.operator.rows.astype(jnp.float64)
    return Instance(rows, np.asarray(smat(rows)), np.asarray(drawn.y), np.asarray(drawn.truth))


def by_pruneft(method: str, sigma: float | None) -> Callable[[Instance], np.ndarray]:
    """``pruneft.recover``, from arrays to the estimate."""

    def solve(instance: Instance) -> np.ndarray:
        return recover(Problem(PackedOperator(instance.rows), instance.y), method=method, sigma=sigma).matrix

    return solve


def methods() -> dict[str, Callable[[Instance], np.ndarray]]:
    """Name -> solver; the random starts of the peers are the same in every run."""
    trace = peers.TraceMinimisation(N, D)
    rng = np.random.default_rng(0)
    return {
        PRUNEFT[0]: by_pruneft("path", None),
        PRUNEFT[1]: by_pruneft("prune", 0.0),
        "trace minimisation (CVXPY, Clarabel)": lambda it: trace(it.matrices, it.y),
        "log-det IRLS (NumPy)": lambda it: peers.log_det_irls(it.matrices, it.y),
        "descent from a small start (NumPy)": lambda it: peers.small_init_descent(it.matrices, it.y, rng),
        "descent, spectral start, rank known (NumPy)": lambda it: peers.spectral_descent(it.matrices, it.y, R),
        "Levenberg-Marquardt with restarts, rank known (SciPy)": lambda it: peers.restarted_least_squares(
            it.matrices, it.y, R, rng
        ),
    }


@pytest.mark.parametrize("name", list(methods()))
def bench_recovery(name: str, measure_case: Any) -> None:
    instances = [draw(seed) for seed in range(INSTANCES)]
    solve = methods()[name]
    measure_case(f"recovery d={D} r={R} n={N}", Case(lambda: [solve(it) for it in instances], units=INSTANCES))


def measure() -> list[Table]:
    """The tables of this file."""
    instances = [draw(seed) for seed in range(INSTANCES)]
    solvers = methods()
    first = _first_calls(solvers, draw(1000))
    taken: dict[str, list[float]] = {name: [] for name in solvers}
    success: dict[str, int] = dict.fromkeys(solvers, 0)
    exact_rank: dict[str, int] = dict.fromkeys(solvers, 0)
    for instance in instances:
        for name, solve in solvers.items():
            begin = time.perf_counter()
            estimate = solve(instance)
            taken[name].append(time.perf_counter() - begin)
            error = np.linalg.norm(estimate - instance.truth) / np.linalg.norm(instance.truth)
            eigenvalues = np.abs(np.linalg.eigvalsh(estimate))
            success[name] += bool(error < EXACT_ERROR)
            exact_rank[name] += int(np.sum(eigenvalues > EXACT_EIGENVALUE * eigenvalues.max())) == R

    def against(name: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(taken[name], taken[to], strict=True))

    rows = [
        [
            name,
            seconds(statistics.median(taken[name])),
            f"{success[name]}/{INSTANCES}",
            f"{exact_rank[name]}/{INSTANCES}",
            times(against(name, PRUNEFT[0])),
            times(against(name, PRUNEFT[1])),
        ]
        for name in solvers
    ]
    return [
        Table(
            title=f"d = {D}, r = {R}, n = {N}, noiseless, {INSTANCES} instances, programs compiled",
            columns=["method", "median", "success", "rank exact", "time / path", "time / prune"],
            rows=rows,
            says=_verdict(success, against),
        ),
        first,
    ]


def _verdict(success: dict[str, int], against: Callable[[str, str], float]) -> str:
    path = PRUNEFT[0]
    level, quick, win = [], [], []
    for name in (name for name in success if name not in PRUNEFT):
        share = against(name, path)
        if success[name] < success[path]:
            if share < 1 - LEVEL:
                quick.append(f"{name} ({success[name]}/{INSTANCES})")
        elif share < 1 - LEVEL:
            win.append(f"{name} ({times(1 / share)} times faster)")
        elif share <= 1 + LEVEL:
            level.append(name)
    parts = [
        f"**Peers that win** over `path`, faster at no lower success: {', '.join(win)}"
        if win
        else "No peer is both faster than `path` and as successful"
    ]
    if level:
        parts.append(f"level with it (to {LEVEL:.0%}): {', '.join(level)}")
    if quick:
        parts.append(f"faster but less successful: {', '.join(quick)}")
    return "; ".join(parts) + "."


def _first_calls(solvers: dict[str, Callable[[Instance], np.ndarray]], instance: Instance) -> Table:
    """The first call of each, on an instance that is not timed later; import time is not in it."""
    rows, shares = [], []
    slowest_peer, quickest_own = 0.0, float("inf")
    for name, solve in solvers.items():
        if name in PRUNEFT:
            jax.clear_caches()  # or the second method would find programs of the first
        with CompileClock() as clock:
            begin = time.perf_counter()
            solve(instance)
            whole = time.perf_counter() - begin
        begin = time.perf_counter()
        solve(instance)
        again = time.perf_counter() - begin
        if name not in PRUNEFT:
            slowest_peer = max(slowest_peer, whole)
        else:
            quickest_own = min(quickest_own, whole)
            shares.append(
                f"{name.removeprefix('pruneft, ')} {seconds(whole)}, of which compiler {clock.seconds / whole:.0%}"
            )
        rows.append(
            [
                name,
                seconds(whole),
                seconds(clock.seconds) if clock.programs else "none",
                str(clock.programs),
                seconds(again),
            ]
        )
    # `path` was compiled before the caches were emptied for `prune`.
    for name in PRUNEFT:
        solvers[name](instance)
    return Table(
        title="The first call of a process, and the second on the same data",
        columns=["method", "first call", "of it XLA's compiler", "programs", "second call"],
        rows=rows,
        says=(
            f"What a single recovery costs is compilation: {'; '.join(shares)}. From a cold start "
            + (
                f"every peer wins, by a factor of {times(quickest_own / slowest_peer)} or more."
                if slowest_peer < quickest_own
                else "not every peer is quicker."
            )
        ),
    )
