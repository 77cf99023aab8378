"""States of q qubits as density matrices [2^q, 2^q], and how close two are. NumPy, double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Inexact

_TOLERANCE = 1e-8


def ghz(qubits: int) -> Complex[np.ndarray, "d d"]:
    """``(|0...0> + |1...1>)/sqrt 2`` of Greenberger, Horne and Zeilinger: pure, and only d of its d² Pauli expectations are not zero."""
    vector = np.zeros(_side(qubits), complex)
    vector[[0, -1]] = np.sqrt(0.5)
    return np.outer(vector, vector.conj())


def w_state(qubits: int) -> Complex[np.ndarray, "d d"]:
    """The even superposition of the q states with a single one."""
    vector = np.zeros(_side(qubits), complex)
    vector[1 << np.arange(qubits)] = 1 / np.sqrt(qubits)
    return np.outer(vector, vector.conj())


def random_state(qubits: int, rank: int, seed: int | np.random.Generator = 0) -> Complex[np.ndarray, "d d"]:
    """A state with ``rank`` equal eigenvalues and uniform eigenvectors.

    Raises:
      ValueError: the rank does not lie between 1 and d.
    """
    d = _side(qubits)
    if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or not 1 <= rank <= d:
        raise ValueError(f"rank of a state of {qubits} qubits lies between 1 and {d}: got {rank!r}.")
    draw = np.random.default_rng(seed).standard_normal((2, d, int(rank)))
    basis = np.linalg.qr(draw[0] + 1j * draw[1])[0]
    return basis @ basis.conj().T / rank


def depolarised(state: Inexact[np.ndarray, "d d"], share: float) -> Complex[np.ndarray, "d d"]:
    """``(1 - share) rho + share I/d``: white noise mixed in.

    Raises:
      ValueError: the share does not lie between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the depolarised share lies between 0 and 1: got {share}.")
    d = len(state)
    return (1 - share) * state.astype(complex) + share * np.eye(d) / d


def fidelity(first: Any, second: Any) -> float:
    """``(tr sqrt(sqrt(rho) sigma sqrt(rho)))²``, 1 for equal states; for a pure one ``<psi| sigma |psi>``.

    Raises:
      ValueError: a matrix is no state (Hermitian, no negative eigenvalue, unit trace). Estimates by linear inversion seldom are:
        `pruneft.sensing.tomography.nearest_state` makes them one.

    Source: Uhlmann (1976), Jozsa (1994), in the form without a square root taken of the whole.
    """
    roots = [_root(np.asarray(one)) for one in (first, second)]
    if roots[0].shape != roots[1].shape:
        raise ValueError(f"both states must have as many qubits: got {roots[0].shape} and {roots[1].shape}.")
    return float(np.sum(np.linalg.svd(roots[0] @ roots[1], compute_uv=False)) ** 2)


def _root(state: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(check_state(state))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.conj().T


def check_state(state: Any) -> np.ndarray:
    """The state itself as a complex array.

    Raises:
      ValueError: it is none.
    """
    matrix = np.asarray(state)
    d = len(matrix) if matrix.ndim == 2 else 0
    if matrix.shape != (d, d) or d < 2 or d & (d - 1):
        raise ValueError(f"a state of q qubits is a square matrix of side 2^q: got shape {matrix.shape}.")
    if not np.all(np.isfinite(matrix)):
        raise ValueError("a state must be finite.")
    least = float(np.linalg.eigvalsh((matrix + matrix.conj().T) / 2)[0])
    trace = complex(np.trace(matrix))
    skew = float(np.abs(matrix - matrix.conj().T).max())
    if skew > _TOLERANCE or least < -_TOLERANCE or abs(trace - 1) > _TOLERANCE:
        raise ValueError(
            f"a state is Hermitian, has no negative eigenvalue and trace 1: got asymmetry {skew:.2g}, least eigenvalue {least:.2g}, "
            f"trace {trace.real:.6g}. Use nearest_state to make one of an estimate."
        )
    return matrix.astype(complex)


def eigenvalues(state: Inexact[np.ndarray, "d d"]) -> Float[np.ndarray, "d"]:
    """Of a Hermitian matrix, falling."""
    return np.asarray(np.linalg.eigvalsh(state)[::-1])


def _side(qubits: int) -> int:
    if isinstance(qubits, bool) or not isinstance(qubits, int | np.integer) or not 1 <= qubits <= 12:
        raise ValueError(f"qubits must be a whole number from 1 to 12: got {qubits!r}.")
    return 1 << int(qubits)
