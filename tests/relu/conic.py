"""The same programs by CVXPY and Clarabel, and small instances of them."""

from __future__ import annotations

import dataclasses
import warnings

import cvxpy as cp
import jax.numpy as jnp
import numpy as np

from pruneft.relu import Program, sample_patterns
from pruneft.relu.gap import lam_max


def teacher(n, d, count, loss, *, seed=0, dtype="float64", lam=0.05, **options):
    """A program on Gaussian data with a teacher of five neurons; ``lam`` is a share of where every weight is zero."""
    import jax

    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    f = np.maximum(X @ rng.standard_normal((d, 5)), 0) @ rng.standard_normal(5)
    y = f / np.std(f) + 0.1 * rng.standard_normal(n) if loss == "squared" else np.where(f >= np.median(f), 1.0, -1.0)
    chosen = sample_patterns(jax.random.key(seed), X, count)
    return program(X, y, chosen.D, chosen.H, loss, lam=lam, dtype=dtype, **options)


def program(X, y, D, H, loss, *, lam=0.05, dtype="float64", weights=None, **options):
    """A program with the mean for hinge and the sum otherwise."""
    if weights is None:
        weights = np.full(len(X), 1 / len(X) if loss == "hinge" else 1.0)
    arrays = {
        name: jnp.asarray(value, dtype) for name, value in {"X": X, "y": y, "D": D, "H": H, "weights": weights}.items()
    }
    made = Program(**arrays, lam=jnp.ones((), dtype), loss=loss, **options)
    return dataclasses.replace(made, lam=jnp.asarray(lam * lam_max(made), dtype))


def optimum(program):
    """The optimal value, by Clarabel at 1e-10."""
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
    E = 2 * np.abs(S) - 1
    rows = [cp.multiply(E[:, program.coned], values[:, program.coned]) >= 0] if program.coned.any() else []
    problem = cp.Problem(cp.Minimize(fit + float(program.lam) * cp.sum(cp.norm(U, axis=0))), rows)
    tight = {f"tol_{name}": 1e-10 for name in ("gap_abs", "gap_rel", "feas")}
    with warnings.catch_warnings():
        # Where it stops short of so tight a tolerance; its value then is as good as rounding lets it be.
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        return float(problem.solve(solver=cp.CLARABEL, **tight))
