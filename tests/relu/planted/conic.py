"""The same programs by CVXPY and Clarabel, and small instances of them."""

from __future__ import annotations

import warnings

import cvxpy as cp
import jax.numpy as jnp
import numpy as np

from pruneft.relu.planted import make_blocks


def instance(model, n=16, d=4, P=12, *, seed=0, neurons=2, noise=0.1, dtype="float64"):
    """Blocks of Gaussian data and directions, targets of planted neurons with noise, and their weights [d, neurons]; columns 0, 1, ... of
    D are the planted patterns."""
    rng = np.random.default_rng(seed)
    X, H = rng.standard_normal((n, d)) / np.sqrt(n), rng.standard_normal((d, P))
    w = H[:, :neurons]
    f = np.maximum(X @ w, 0)
    f = f / np.linalg.norm(f, axis=0) if model == "normalised" else f
    y = f.sum(axis=1) + noise * rng.standard_normal(n) / np.sqrt(n)
    D = np.asarray(X @ H >= 0, dtype)
    return make_blocks(jnp.asarray(X, dtype), jnp.asarray(D), model), jnp.asarray(y, dtype), w


def optimum(blocks, y, *, lam=0.0, cones=False):
    """The optimal value, by Clarabel at 1e-10."""
    X, D, y = (np.asarray(part, np.float64) for part in (blocks.X, blocks.D, y))
    maps, rows = [X] * blocks.first, []
    for j in range(blocks.P):
        maps.append(D[:, [j]] * X if blocks.U is None else np.asarray(blocks.U[:, :, j]))
        rows.append((2 * D[:, [j]] - 1) * (X if blocks.back is None else X @ np.asarray(blocks.back[:, :, j])))
    W = cp.Variable((blocks.d, blocks.g))
    f = sum(A @ W[:, k] for k, A in enumerate(maps))
    size, limits = cp.sum(cp.norm(W, axis=0)), []
    if cones:
        others = cp.Variable((blocks.d, blocks.P))
        f = f - sum(A @ others[:, k] for k, A in enumerate(maps[blocks.first :]))
        size = size + cp.sum(cp.norm(others, axis=0))
        limits = [C @ part >= 0 for k, C in enumerate(rows) for part in (W[:, blocks.first + k], others[:, k])]
    problem = (
        cp.Problem(cp.Minimize(size + cp.sum_squares(f - y) / (2 * lam)), limits)
        if lam
        else cp.Problem(cp.Minimize(size), [f == y, *limits])
    )
    tight = {f"tol_{name}": 1e-10 for name in ("gap_abs", "gap_rel", "feas")}
    with warnings.catch_warnings():
        # Where it stops short of so tight a tolerance; its value then is as good as rounding lets it be.
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        return float(problem.solve(solver=cp.CLARABEL, **tight))
