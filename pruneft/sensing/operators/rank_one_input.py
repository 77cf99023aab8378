"""What is asked of vectors and data before they are taken as rank-one measurements."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

_POWER_STEPS = 8  # of the power method that looks for correlated vectors


class SuspiciousVectors(UserWarning):
    """The vectors do not look like independent draws of mean zero and unit covariance, which the whitening takes for granted."""


class SuspiciousData(UserWarning):
    """Data that no positive semidefinite matrix gives without strong noise."""


def checked(vectors: Any) -> np.ndarray:
    """The vectors as a floating array [n, d].

    Raises:
      ValueError: wrong shape, no numbers, not finite, or all zero.
    """
    array = np.asarray(vectors)
    if not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"vectors must hold numbers: got dtype {array.dtype}.")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"vectors must have shape [n, d], row i being x_i, both at least 1: got shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.inexact):
        array = array.astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"vectors must be finite: {int(bad.sum())} of {array.size} entries are not, the first at index {first}. "
            "Drop those measurements."
        )
    if not np.any(array):
        raise ValueError(
            "vectors are all zero: the measurements say nothing about M. Check that the right array was passed."
        )
    return array


def inverse_root(covariance: Any, vectors: np.ndarray) -> np.ndarray:
    """``C^{-1/2}``, Hermitian; complex only where the vectors are.

    Raises:
      ValueError: another shape than [d, d], not Hermitian, complex beside real vectors, or not positive definite.
    """
    given = np.asarray(covariance)
    d = vectors.shape[1]
    if given.shape != (d, d):
        raise ValueError(f"covariance must have shape [d, d] = [{d}, {d}]: got {given.shape}.")
    if np.iscomplexobj(given) and not np.iscomplexobj(vectors):
        raise ValueError("covariance must be real where the vectors are: got complex numbers.")
    if not np.all(np.isfinite(given)) or np.max(np.abs(given - given.conj().T)) > 1e-6 * np.max(np.abs(given)):
        raise ValueError("covariance must be finite and Hermitian (symmetric where real): E x xᴴ is.")
    values, basis = np.linalg.eigh(given.astype(np.complex128 if np.iscomplexobj(given) else np.float64))
    if values[0] <= d * np.finfo(np.float64).eps * values[-1]:
        raise ValueError(
            f"covariance must be positive definite: its eigenvalues reach from {values[0]:.3g} to {values[-1]:.3g}. Directions "
            "that no vector has cannot be seen: leave them out of the coordinates."
        )
    root = (basis / np.sqrt(values)) @ basis.conj().T
    return np.asarray(root.astype(vectors.dtype))


def check_data(y: np.ndarray, places: np.ndarray) -> None:
    """Raise or warn where no positive semidefinite matrix gives such data; see `RankOne.check_data`.

    Args:
      y: [m], two or more measurements, over their level: each estimates the trace of M.
      places: [m], where they stand among those given.
    """
    mean, deviation, least = y.mean(), y.std(), y.min()
    if mean < -3 * deviation / math.sqrt(len(y)):
        raise ValueError(
            "y must be about x_iᴴ M x_i with M positive semidefinite, so its mean estimates the trace of M and is not negative: "
            f"it is {mean:.3g}, with {deviation:.3g} the deviation of one. Check the sign; if a mean was subtracted, add it back."
        )
    if least < -(3 + math.sqrt(2 * math.log(len(y)))) * deviation:
        raise ValueError(
            f"y must not be negative beyond noise, x_iᴴ M x_i never is: its least value is {least:.3g}, {-least / deviation:.1f} "
            f"deviations of all of y below zero (measurement {int(places[np.argmin(y)])}). Drop gross errors."
        )
    if least < -max(mean, 0.0):
        warnings.warn(
            f"y has values down to {least:.3g} although x_iᴴ M x_i is never negative, and its mean, which estimates the trace of M, "
            f"is only {mean:.3g}: the noise is as strong as the signal, or a mean was subtracted. If so, add it back.",
            SuspiciousData,
            stacklevel=3,
        )


def check_vectors(vectors: np.ndarray) -> None:
    """Warn where the vectors [m, d], none of them padding, are not centred, or correlated."""
    count, d = vectors.shape
    energy = float(np.mean(np.sum(np.square(np.abs(vectors)), axis=1, dtype=np.float64)))
    share = float(np.sum(np.square(np.abs(vectors.mean(axis=0))))) / energy
    if share > 0.05 + (1 + 5 * math.sqrt(2 / d)) / count:
        warnings.warn(
            f"the mean of the vectors x_i is not zero: it holds {share:.0%} of their squared length. The whitening is made for mean "
            "zero, and recovery may need more measurements. Measure with centred vectors if that is possible.",
            SuspiciousVectors,
            stacklevel=3,
        )
        return
    largest = _largest_eigenvalue(vectors) / (energy / d)
    # That of the sample covariance of white vectors (Marchenko and Pastur 1967), and room for chance.
    white = (1 + math.sqrt(d / count)) ** 2
    if largest > 1.5 * white:
        warnings.warn(
            f"the vectors x_i are correlated: the largest eigenvalue of their covariance is {largest:.2g} times the mean one, where "
            f"white vectors have {white:.2g}. Pass their covariance: RankOne.from_vectors(X, covariance=C).",
            SuspiciousVectors,
            stacklevel=3,
        )


def _largest_eigenvalue(vectors: np.ndarray) -> float:
    """Of ``(1/m) sum x_i x_iᴴ``, from below, by a few steps of the power method."""
    direction = np.asarray(np.random.default_rng(0).standard_normal(vectors.shape[1]), vectors.real.dtype)
    value = 0.0
    for _ in range(_POWER_STEPS):
        direction /= np.linalg.norm(direction) or 1.0
        direction = vectors.T @ (vectors.conj() @ direction) / len(vectors)
        value = float(np.linalg.norm(direction))
    return value
