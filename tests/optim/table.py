"""Every transformation of pruneft.optim, and a small noiseless problem to try them on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pruneft import optim

D, R, N = 6, 2, 44
# Largest and smallest eigenvalue of the measurements below on the tangent space are about these.
HIGH, LOW = 2.2, 0.3
_ROOT = (HIGH / LOW) ** 0.5
TABLE: dict[str, Callable[[], optax.GradientTransformation]] = {
    "scaled_gd": lambda: optim.scaled_gd(0.9 / (4 * HIGH)),
    "scaled_gd damped": lambda: optim.scaled_gd(0.9 / (4 * HIGH), damping=0.03),
    "precgd": lambda: optim.precgd(0.9 / (4 * HIGH)),
    "precgd by gradient": lambda: optim.precgd(0.9 / (4 * HIGH), by="gradient", scale=0.25),
    "noisy_precgd": lambda: optim.noisy_precgd(0.9 / (4 * HIGH)),
    "tangent_descent": lambda: optim.tangent_descent(1.8 / (4 * (HIGH + LOW))),
    "tangent_nesterov": lambda: optim.tangent_nesterov(1 / (4 * HIGH), (_ROOT - 1) / (_ROOT + 1)),
    "gauss_newton_cg": optim.gauss_newton_cg,
    "perturbed": lambda: optim.perturbed(optim.scaled_gd(0.9 / (4 * HIGH)), radius=0.1, threshold=1e-30, patience=3),
}


@functools.cache
def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measurements [N, D, D], data, the true factor (condition number 4) and a start some percent off."""
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((N, D, D))
    matrices = (matrices + matrices.transpose(0, 2, 1)) / 2
    factor = np.linalg.qr(rng.standard_normal((D, R)))[0] * [1.0, 0.5]
    y = np.einsum("nij,ij->n", matrices, factor @ factor.T)
    return matrices, y, factor, factor + 0.03 * rng.standard_normal(factor.shape)


def padded(rows: int = 2, columns: int = 2, measurements: int = 3, seed: int = 0):
    """The same with zero rows, columns and measurements appended."""
    matrices, y, factor, start = problem(seed)
    sides = ((0, rows), (0, columns))
    return (
        np.pad(matrices, ((0, measurements), (0, rows), (0, rows))),
        np.pad(y, (0, measurements)),
        np.pad(factor, sides),
        np.pad(start, sides),
    )


def loss(factor, matrices, y):
    """Mean squared error over the N live measurements; its gradient is 4 G U."""
    return jnp.sum(jnp.square(jnp.einsum("nij,ij->n", matrices, factor @ factor.T) - y)) / N


def curvature(factor, direction, matrices):
    """``(2/n) Jᵀ J V``."""
    product = factor @ direction.T
    images = jnp.einsum("nij,ij->n", matrices, product + product.T)
    return 4 * jnp.einsum("n,nij->ij", images, matrices) @ factor / N


def advance(transformation, factor, state, matrices, y):
    """One step with everything that any of the table may ask for."""
    value, gradient = jax.value_and_grad(loss)(factor, matrices, y)
    transformation = optax.with_extra_args_support(transformation)
    updates, state = transformation.update(
        gradient, state, factor, value=value, curvature=lambda u, v: curvature(u, v, matrices)
    )
    return optax.apply_updates(factor, updates), state


def descend(transformation, start, matrices, y, steps):
    """The factor after so many steps, which may be traced, and the state."""
    return jax.lax.fori_loop(
        0, steps, lambda _, carry: advance(transformation, *carry, matrices, y), (start, transformation.init(start))
    )


def relative(found, factor) -> float:
    """Relative error of the product."""
    truth = factor @ factor.T
    found = np.asarray(found, np.float64)
    return float(np.linalg.norm(found @ found.T - truth) / np.linalg.norm(truth))
