"""A first-order fine-tuning method with its constants, as an optax transformation."""

from __future__ import annotations

import math
from typing import Any

import optax

from pruneft.sensing.theory import tangent_spectrum


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
