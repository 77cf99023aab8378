"""Estimates of a state that know no rank: linear inversion, the nearest state, and maximum likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Inexact

from pruneft.sensing.tomography.measured import Measured, combined, measured, values_of

_WHITE = 1e-3  # share of white noise in the state that the iterations begin from
_FLOOR = 1e-12  # least probability that a likelihood divides by


class Likelihood(NamedTuple):
    """What `maximum_likelihood` found.

    Attributes:
      state: [d, d].
      log_likelihood: of the data, natural, without the binomial coefficients.
      gap: how much larger the largest log-likelihood can be at most.
      iterations: steps made.
    """

    state: Complex[np.ndarray, "d d"]
    log_likelihood: float
    gap: float
    iterations: int


def linear_inversion(strings: Sequence[str], expectations: Any) -> Complex[np.ndarray, "d d"]:
    """``(1/d) sum_i <P_i> P_i`` with trace 1, observables that were not measured taken as zero; not a state in general.

    Raises:
      ValueError: what `pruneft.sensing.tomography.measured` raises.
    """
    found = measured(strings, expectations)
    values = np.where(found.identity, 0, found.values)
    return (combined(found, values) + np.eye(found.d)) / found.d


def nearest_state(matrix: Inexact[np.ndarray, "d d"]) -> Complex[np.ndarray, "d d"]:
    """The state nearest to a Hermitian matrix in Frobenius norm: its eigenvalues projected on the simplex.

    For the inversion of all observables with equal white noise this is maximum likelihood (Smolin, Gambetta, Smith 2012, arXiv:1106.5458).
    """
    values, vectors = np.linalg.eigh((matrix + matrix.conj().T) / 2)
    return np.asarray((vectors * project_simplex(values)) @ vectors.conj().T).astype(complex)


def project_simplex(values: Float[np.ndarray, "d"]) -> Float[np.ndarray, "d"]:
    """The nearest non-negative vector of sum 1. Source: Held, Wolfe, Crowder (1974)."""
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    # The last place where the entry still exceeds what would be taken from it; the first always does.
    last = np.flatnonzero(falling > excess)[-1]
    return np.maximum(values - excess[last], 0)


def maximum_likelihood(
    strings: Sequence[str],
    expectations: Any,
    shots: Any,
    *,
    tolerance: float = 0.1,
    most: int = 5_000,
) -> Likelihood:
    """The state under which the counts are likeliest, by diluted R rho R iterations.

    Every observable has two outcomes, of probabilities ``(1 ± tr(P rho))/2``. With frequencies f and probabilities p of all
    outcomes and their projections E, ``R = sum (f/p) E``, and ``rho -> G rho G`` over its trace with ``G = I + e R``. The step e is
    halved while the likelihood falls and doubled after it rose. As the log-likelihood is concave, the largest exceeds that of
    rho by at most N (largest eigenvalue of R, less 1), N shots in all.

    Args:
      strings, expectations, shots: as in `pruneft.sensing.tomography.measured`; shots must be given.
      tolerance: ends when that bound, in units of the log-likelihood, is below it. Deviations of 1/2 are those that noise makes.
      most: iterations at most; then the gap says how far it came.

    Raises:
      ValueError: the data make no sense, or shots are not given.

    Source: Hradil (1997), arXiv:quant-ph/9609012; Řeháček, Hradil, Knill, Lvovsky (2007), arXiv:quant-ph/0611244.
    """
    found = measured(strings, expectations, shots)
    if found.shots is None:
        raise ValueError("maximum likelihood needs shots: of exact values every likelihood is infinite or zero.")
    found = found.kept(~found.identity)
    white = np.eye(found.d, dtype=complex) / found.d
    if not len(found.x):
        return Likelihood(white, 0.0, 0.0, 0)
    # Eigenvalues that end at zero fall like one over the iterations, so they begin small; zero ones could not grow.
    state = (1 - _WHITE) * nearest_state(combined(found, found.values) / found.d + white) + _WHITE * white
    total = float(np.sum(_counted(found)))
    probabilities = values_of(found, state)
    here, step, iterations, gap = _log_likelihood(found, probabilities), 1e3, 0, np.inf
    while iterations < most:
        ratio = _ratio(found, probabilities) / total
        gap = total * max(float(np.linalg.eigvalsh(ratio)[-1]) - 1, 0.0)
        if gap <= tolerance:
            break
        iterations += 1
        better = False
        while not better and step > 1e-9:
            turn = (np.eye(found.d) + step * ratio) / (1 + step)
            moved = turn @ state @ turn
            moved = (moved + moved.conj().T) / (2 * np.trace(moved).real)
            there_values = values_of(found, moved)
            there = _log_likelihood(found, there_values)
            better = there > here
            step = min(2 * step, 1e3) if better else step / 2
        if not better:
            break
        state, here, probabilities = moved, there, there_values
    return Likelihood(state, here, gap, iterations)


def _counted(found: Measured) -> np.ndarray:
    if found.shots is None:
        raise ValueError("shots must be given.")
    return found.shots


def _log_likelihood(found: Measured, values: np.ndarray) -> float:
    shots = _counted(found)
    up, down = (1 + found.values) / 2, (1 - found.values) / 2
    chance_up, chance_down = (np.maximum((1 + sign * values) / 2, _FLOOR) for sign in (1, -1))
    return float(np.sum(shots * (up * np.log(chance_up) + down * np.log(chance_down))))


def _ratio(found: Measured, values: np.ndarray) -> np.ndarray:
    """``sum (counts/p) E`` over both outcomes of every observable, E = (I ± P)/2."""
    shots = _counted(found)
    up = (1 + found.values) / 2 / np.maximum((1 + values) / 2, _FLOOR)
    down = (1 - found.values) / 2 / np.maximum((1 - values) / 2, _FLOOR)
    return combined(found, shots * (up - down) / 2) + np.sum(shots * (up + down) / 2) * np.eye(found.d)
