"""First-order and Gauss-Newton fine-tuning with their constants for matrix sensing, as optax transformations, and the choice between them.

All are for the normalised problem and the gradient 4 G U of its mean squared error. Steps come from the spectrum of
Gaussian measurements on the tangent space, `pruneft.sensing.theory.tangent_spectrum`: b and a its ends.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pruneft import optim
from pruneft.pipeline import FirstOrder
from pruneft.sensing import theory
from pruneft.sensing.theory import tangent_spectrum

# Up to so many unknowns, and at less than so many measurements per degree of freedom, Levenberg-Marquardt is the better tool.
DENSE_UNKNOWNS = 256
DENSE_RATIO = 2.0
# dof/n is taken no nearer to 1 than this where it is found from the factor: with more degrees of freedom than measurements
# there is no least eigenvalue, and the step has to stay finite while training still has all of its columns.
_DENSEST = 0.95


def nesterov(n: int, dof: int, largest: Any, kappa: float = 1.0) -> optax.GradientTransformation:
    """Nesterov's accelerated gradient for fine-tuning a factor of the right rank.

    Step ``1 / (8 l_1 a)``, the inverse of the largest curvature of the mean squared error, and the momentum that
    belongs to its condition number ``2 kappa a / b``, a and b from `pruneft.sensing.theory.tangent_spectrum`. Near the
    transition (n below about 1.5 dof) a/b is in the hundreds and Levenberg-Marquardt is the better tool.

    Args:
      n: measurements.
      dof: degrees of freedom at the rank.
      largest: l_1, largest eigenvalue of M in the units of the problem whose gradient is used; for the normalised
        problem at most 1. May be traced.
      kappa: condition number of M, or a bound on it.

    Raises:
      ValueError: n <= dof, or an argument is not positive.

    Source: Nesterov (1983); step and momentum by a spectral argument of ours.
    """
    sensible = kappa >= 1 and (not isinstance(largest, int | float) or largest > 0)  # a traced value cannot be asked
    if not sensible:
        raise ValueError(f"largest must be positive and kappa at least 1: got largest={largest}, kappa={kappa}.")
    low, high = tangent_spectrum(n, dof)
    root = math.sqrt(2 * kappa * high / low)
    return optax.sgd(1 / (8 * largest * high), momentum=(root - 1) / (root + 1), nesterov=True)


def scaled_gd(n: int, dof: int, smallest: Any = 0.0) -> optax.GradientTransformation:
    """`pruneft.optim.scaled_gd` with step ``0.9 / (4 a)`` and damping ``0.1 * smallest``.

    Args:
      n, dof: measurements, and degrees of freedom at the rank.
      smallest: l_r, smallest nonzero eigenvalue of the normalised M, for ScaledGD(lambda); 0 for ScaledGD.
    """
    return optim.scaled_gd(_scaled_step(n, dof), 0.1 * smallest)


def precgd(n: int, dof: int) -> optax.GradientTransformationExtraArgs:
    """`pruneft.optim.precgd` with step ``0.9 / (4 a)``, damped by the root of the loss (which the pipeline hands over)."""
    return optim.precgd(_scaled_step(n, dof))


def noisy_precgd(n: int, dof: int) -> optax.GradientTransformation:
    """`pruneft.optim.noisy_precgd` with step ``0.9 / (4 a)``; damping from l_1 down to 1e-8 l_1 by 0.9 a step."""
    return optim.noisy_precgd(_scaled_step(n, dof))


def tangent_descent(n: int, dof: int) -> optax.GradientTransformation:
    """`pruneft.optim.tangent_descent` with step ``1.8 / (4 (a + b))``."""
    low, high = tangent_spectrum(n, dof)
    return optim.tangent_descent(1.8 / (4 * (low + high)))


def tangent_nesterov(n: int, dof: int | None = None) -> optax.GradientTransformation:
    """`pruneft.optim.tangent_nesterov` with step ``1 / (4 a)`` and the momentum of condition number a / b.

    That momentum, ``(c - 1)/(c + 1)`` with ``c = sqrt(a/b)``, is ``sqrt(dof/n)``.

    Args:
      n: measurements.
      dof: degrees of freedom at the rank; if not given they are counted when fine-tuning begins, for every start on its
        own, from the nonzero columns (r) and rows (d) of the factor: ``r d - r(r-1)/2``, taken as at most 0.95 n.

    Raises:
      ValueError: n is not above dof, or not positive.
    """
    if dof is not None:
        high = tangent_spectrum(n, dof)[1]
        return optim.tangent_nesterov(1 / (4 * high), math.sqrt(dof / n))
    if n < 1:
        raise ValueError(f"n (measurements) must be at least 1: got {n}.")

    def momentum(factor: Array) -> Float[Array, "..."]:
        alive = factor != 0
        r, d = (jnp.sum(jnp.any(alive, axis=axis), axis=-1, dtype=factor.dtype) for axis in (-2, -1))
        return jnp.sqrt(jnp.minimum((r * d - r * (r - 1) / 2) / n, _DENSEST))

    return optim.tangent_nesterov(lambda factor: 1 / (4 * jnp.square(1 + momentum(factor))), momentum)


def gauss_newton() -> optax.GradientTransformationExtraArgs:
    """`pruneft.optim.gauss_newton_cg` as it is: it has no constant that depends on the problem."""
    return optim.gauss_newton_cg()


@functools.lru_cache(maxsize=64)
def choose(n: int, d: int, rank: int | None = None, dof: int | None = None) -> FirstOrder | None:
    """What to fine-tune with: None for Levenberg-Marquardt, else a `pruneft.FirstOrder`.

    Levenberg-Marquardt up to 256 unknowns d r, or where n is below twice the degrees of freedom, because there it takes 3 to
    6 iterations and first-order steps are many; tangent steps with momentum else, `tangent_nesterov`. (At n of twice the
    degrees of freedom and more those are quicker from about 128 unknowns, 1.1 to 4 times; up to 256 it is a matter of some
    hundred milliseconds, and Levenberg-Marquardt works in the precision of the data and does not depend on the design being
    Gaussian.) With the rank unknown it is Levenberg-Marquardt unless even rank 1 would be too large for it: at that size no
    other choice is left. Equal calls give the same object, so that compiled programs are found again.

    Args:
      n, d: measurements, and side of M.
      rank: of the factor to be tuned, if it is known.
      dof: degrees of freedom at that rank, where the design does not have the usual ``r d - r(r-1)/2``.

    Source: measured (ours) at d = 16 to 64 on one CPU core, `benchmarks/bench_finetune.py`.
    """
    r = 1 if rank is None else rank
    p = theory.dof(d, r) if dof is None else dof
    if d * r <= DENSE_UNKNOWNS or n < DENSE_RATIO * p:
        return None
    # The momentum mu is also what is left of the error after a step, nearly: 1 - sqrt(b/a) = 2 mu / (1 + mu).
    momentum = math.sqrt(1 / DENSE_RATIO if rank is None else p / n)
    rate = -math.log(2 * momentum / (1 + momentum))
    # From any start to eight digits, and half as much again; unknown ranks get the steps of the largest that fits.
    steps = math.ceil(1.5 * math.log(1e8) / rate)
    return FirstOrder(optimizer=tangent_nesterov(n, None if rank is None else p), steps=steps)


def _scaled_step(n: int, dof: int) -> float:
    return 0.9 / (4 * tangent_spectrum(n, dof)[1])
