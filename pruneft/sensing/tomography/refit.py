"""A fit once more with the weights that shots imply, and what the observables see of a state. NumPy, no array of size n d²."""

from __future__ import annotations

import numpy as np
from jaxtyping import Complex, Float

from pruneft.sensing.operators.pauli_code import parity_signs
from pruneft.sensing.tomography.measured import Measured, values_of

_SEEN = 1e-7  # singular values of the Jacobian above this share of the largest count
_STEPS = 20
_SETTLED = 1e-10  # relative step that ends the iterations


def jacobian(found: Measured, factor: Complex[np.ndarray, "d r"]) -> Float[np.ndarray, "n columns"]:
    """Derivative of ``tr(P_i U Uᴴ)`` by real and imaginary parts of U, [n, 2 d r]."""
    row = np.arange(found.d)
    source = row ^ found.x[:, None]
    turns = 1j ** (np.bitwise_count(found.x & found.z) & 3)
    moved = factor[source] * (turns[:, None] * parity_signs(found.z[:, None] & source))[..., None]
    flat = 2 * moved.reshape(len(found.x), -1)
    return np.concatenate([flat.real, flat.imag], axis=1)


def jacobian_rank(found: Measured, factor: Complex[np.ndarray, "d r"]) -> int:
    """How many degrees of freedom of ``U Uᴴ`` the observables see to first order."""
    if not factor.size or not np.any(factor):
        return 0
    values = np.linalg.svd(jacobian(found, factor), compute_uv=False)
    return int(np.sum(values > _SEEN * values[0]))


def reweighed(found: Measured, factor: Complex[np.ndarray, "d r"]) -> Complex[np.ndarray, "d r"]:
    """The factor after Gauss-Newton with weights of one over the variance of each mean, ``(1 - <P>²)/shots``.

    The <P> are those of the factor that is given, and one over the shots is added to ``1 - <P>²``, because no mean is known
    better than that. On random states this lowers the error by up to 2 percent, on GHZ and W states by 0 to 6 (q = 3 and 4, all
    observables, 100 and 1000 shots, medians of 8): weights matter where expectations are near ±1.
    """
    if found.shots is None or not factor.size:
        return factor
    values = np.clip(values_of(found, factor @ factor.conj().T), -1, 1)
    values[found.identity] = 0  # known exactly, but weighed so it would stop every step that turns the factor
    root = np.sqrt(found.shots / (1 - values**2 + 1 / found.shots))
    here = _misfit(found, factor, root)
    for _ in range(_STEPS):
        slopes = root[:, None] * jacobian(found, factor)
        residual = root * (values_of(found, factor @ factor.conj().T) - found.values)
        # The least of all solutions: rotations of the factor change nothing and stay out.
        flat = np.linalg.lstsq(slopes, -residual, rcond=1e-9)[0]
        step = (flat[: factor.size] + 1j * flat[factor.size :]).reshape(factor.shape)
        size, there = 1.0, here
        while size > 1e-3:
            there = _misfit(found, factor + size * step, root)
            if there <= here:
                break
            size /= 2
        if not there <= here:
            break
        factor, here = factor + size * step, there
        if np.linalg.norm(step) <= _SETTLED * np.linalg.norm(factor):
            break
    return factor


def _misfit(found: Measured, factor: np.ndarray, root: np.ndarray) -> float:
    return float(np.sum(np.square(root * (values_of(found, factor @ factor.conj().T) - found.values))))
