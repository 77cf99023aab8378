"""Phase retrieval, ``y_i = |x_iᴴ u|²``: what is left undetermined, and errors up to it."""

from __future__ import annotations

import numpy as np


def align_phase(estimate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The estimate times the phase (real: the sign) that brings it nearest to the reference: data show neither.

    Args:
      estimate, reference: [d], real or complex; the estimate may also be [d, 1], as `Recovery.U` is at rank 1.

    Returns:
      [d], of the estimate's units.

    Raises:
      ValueError: the shapes do not match, or one is not finite.
    """
    target = np.asarray(reference)
    signal = np.asarray(estimate)
    signal = signal[:, 0] if signal.ndim == 2 and signal.shape[1] == 1 else signal
    if signal.ndim != 1 or signal.shape != target.shape:
        raise ValueError(
            f"estimate and reference must be vectors of one length: got shapes {np.shape(estimate)} and {target.shape}. "
            "An estimate with several columns is not of rank 1: pass rank=1 to recover, or take one eigenvector."
        )
    if not (np.all(np.isfinite(signal)) and np.all(np.isfinite(target))):
        raise ValueError("estimate and reference must be finite.")
    overlap = np.vdot(signal, target)
    size = abs(overlap)
    return signal * (overlap / size) if size > 0 else signal


def phase_error(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Distance of two signals over the length of the reference, up to a global phase. Arguments and errors as `align_phase`."""
    target = np.asarray(reference)
    length = float(np.linalg.norm(target))
    if length == 0:
        raise ValueError("reference must not be zero.")
    return float(np.linalg.norm(align_phase(estimate, target) - target)) / length
