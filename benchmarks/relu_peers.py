"""The convex programs of ReLU networks by CVXPY, with Clarabel and SCS, and by AdamW on the network itself."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

from pruneft.relu import Program, gap
from pruneft.relu.adversarial import train_plain
from pruneft.relu.neurons import network_objective

CAP = 600.0  # seconds for one peer on one program


class Answer(NamedTuple):
    """What a peer returned: blocks [d, p] or None, the solver's own seconds, those of CVXPY's call with it, and iterations."""

    U: np.ndarray | None
    solver: float
    total: float
    iterations: int


def conic(program: Program, solver: str, tol: float, cap: float = CAP) -> Answer:
    """The program by a conic solver at its own tolerance ``tol``; None where the cap or an error ended it."""
    X, y, S, c = (np.asarray(part, np.float64) for part in (program.X, program.y, program.S, program.weights))
    U = cp.Variable((program.d, S.shape[1]))
    values = X @ U
    f = cp.sum(cp.multiply(S, values), axis=1)
    margin = cp.multiply(y, f)
    fit = {
        "squared": lambda: cp.sum(cp.multiply(c, cp.square(f - y))) / 2,
        "hinge": lambda: cp.sum(cp.multiply(c, cp.pos(1 - margin))),
        "bce": lambda: cp.sum(cp.multiply(c, cp.logistic(-2 * margin))),
    }[program.loss]()
    rows = [cp.multiply(2 * np.abs(S) - 1, values) >= 0] if program.form == "exact" else []
    problem = cp.Problem(cp.Minimize(fit + float(program.lam) * cp.sum(cp.norm(U, axis=0))), rows)
    options: dict[str, Any] = {
        "CLARABEL": {"tol_gap_abs": tol, "tol_gap_rel": tol, "tol_feas": tol, "time_limit": cap},
        "SCS": {"eps_abs": tol, "eps_rel": tol, "max_iters": 10_000_000, "time_limit_secs": cap},
    }[solver]
    begin = time.perf_counter()
    try:
        problem.solve(solver=solver, **options)
    except cp.error.SolverError:
        return Answer(None, cap, time.perf_counter() - begin, 0)
    stats = problem.solver_stats
    there = U.value is not None and problem.status == cp.OPTIMAL
    taken = stats.solve_time or 0.0
    return Answer(np.asarray(U.value) if there else None, taken, time.perf_counter() - begin, stats.num_iters or 0)


def excess(program: Program, U: np.ndarray, dual: float) -> float:
    """Relative distance from a certified lower bound to the objective of a peer's blocks, repaired to feasibility as ADMM's are."""
    value = float(program.objective(gap.repair(program, jnp.asarray(U))))
    return (value - dual) / abs(value)


def adamw(program: Program, neurons: int, steps: int, rate: float, seeds: int) -> tuple[list[float], float]:
    """Objectives of networks trained by AdamW on loss and penalty, and the seconds of one of them (all seeds run side by side)."""
    arguments = {"loss": program.loss, "lam": float(program.lam), "neurons": neurons, "steps": steps, "rate": rate}
    X, y = np.asarray(program.X), np.asarray(program.y)
    jax.block_until_ready(train_plain(X, y, seeds=range(1), **arguments))  # compiled
    begin = time.perf_counter()
    jax.block_until_ready(train_plain(X, y, seeds=range(1), **arguments))
    taken = time.perf_counter() - begin
    found = train_plain(X, y, seeds=range(seeds), **arguments)
    each = [jax.tree.map(lambda part, k=k: part[k], found) for k in range(seeds)]
    return [float(network_objective([program], network)) for network in each], taken
