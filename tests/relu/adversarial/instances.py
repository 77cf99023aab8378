"""Small robust programs, and their optima by an independent solver."""

import dataclasses

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

from pruneft.relu import Program
from pruneft.relu.adversarial import RobustProgram, robust_patterns

_DUAL_ORDER = {"inf": 1, "2": 2, "1": "inf"}


def teacher(n, d, seed):
    """Gaussian samples and the output of four random neurons."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, np.maximum(X @ rng.standard_normal((d, 4)), 0) @ rng.standard_normal(4)


def labelled(loss, f):
    return f if loss == "squared" else np.where(f > np.median(f), 1.0, -1.0)


def instance(loss, *, n=14, d=3, P=8, eps=0.1, norm="inf", bias=False, seed=0):
    """A program whose D has P columns, some of them zero where fewer patterns have a robust cone."""
    X, f = teacher(n, d, seed)
    if bias:
        X = np.c_[X, np.ones(n)]
    mask = np.r_[np.ones(d), np.zeros(int(bias))]
    found = robust_patterns(jax.random.key(seed), X, P, eps=eps, mask=mask, norm=norm)
    missing = ((0, 0), (0, P - found.D.shape[1]))
    plain = Program(
        X=jnp.asarray(X),
        y=jnp.asarray(labelled(loss, f)),
        D=jnp.asarray(np.pad(found.D, missing)),
        H=jnp.asarray(np.pad(found.H, missing)),
        lam=jnp.asarray({"hinge": 0.02, "bce": 0.5, "squared": 1.0}[loss], jnp.float64),
        weights=jnp.asarray(np.full(n, 1 / n) if loss == "hinge" else np.linspace(0.5, 1.5, n)),
        loss=loss,
    )
    return RobustProgram(plain=plain, radius=jnp.asarray(np.full(n, float(eps))), mask=jnp.asarray(mask), norm=norm)


def padded(program, *, rows=2, columns=1, patterns=1):
    """The same program in larger arrays."""
    plain = program.plain

    def pad(array, *more):
        return jnp.pad(array, [(0, extra) for extra in more])

    larger = dataclasses.replace(
        plain,
        X=pad(plain.X, rows, columns),
        y=pad(plain.y, rows),
        D=pad(plain.D, rows, patterns),
        H=pad(plain.H, columns, patterns),
        weights=pad(plain.weights, rows),
    )
    return dataclasses.replace(program, plain=larger, radius=pad(program.radius, rows), mask=pad(program.mask, columns))


def conic_optimum(program):
    """The optimum by Clarabel."""
    plain = program.plain
    X, y, D, weights, radius = (np.asarray(part) for part in (plain.X, plain.y, plain.D, plain.weights, program.radius))
    attacked, order = np.asarray(program.mask) > 0, _DUAL_ORDER[program.norm]
    V, W = (cp.Variable((X.shape[1], D.shape[1])) for _ in range(2))
    C = D @ (V - W).T
    f, reach = cp.sum(cp.multiply(X, C), axis=1), cp.multiply(radius, cp.norm(C[:, attacked], order, axis=1))
    if plain.loss == "squared":
        losses = cp.square(cp.abs(f - y) + reach) / 2
    elif plain.loss == "hinge":
        losses = cp.pos(1 - cp.multiply(y, f) + reach)
    else:
        losses = cp.logistic(2 * (reach - cp.multiply(y, f)))
    cones = [
        cp.multiply(2 * column - 1, X @ block[:, i]) >= radius * cp.norm(block[attacked, i], order)
        for i, column in enumerate(D.T)
        for block in (V, W)
    ]
    lengths = cp.sum(cp.norm(V, 2, axis=0)) + cp.sum(cp.norm(W, 2, axis=0))
    problem = cp.Problem(cp.Minimize(weights @ losses + float(plain.lam) * lengths), cones)
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value)
