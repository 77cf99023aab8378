"""Expectations of Pauli observables: of a state, drawn with shots, and checked when they are somebody's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pruneft.sensing.operators import pauli_code
from pruneft.sensing.operators.pauli import masks_of, string_of
from pruneft.sensing.tomography.states import check_state

_ROUNDING = 1e-6


class Measured(NamedTuple):
    """Observables and what was found of them.

    Attributes:
      x, z: [n] masks (`pruneft.sensing.operators.pauli.Pauli`).
      values: [n] mean outcomes.
      shots: [n], of each; None where the values are exact.
      qubits: q.
    """

    x: Int[np.ndarray, "n"]
    z: Int[np.ndarray, "n"]
    values: Float[np.ndarray, "n"]
    shots: Float[np.ndarray, "n"] | None
    qubits: int

    @property
    def d(self) -> int:
        """2^q."""
        return 1 << self.qubits

    @property
    def identity(self) -> np.ndarray:
        """[n], where the identity stands."""
        return (self.x == 0) & (self.z == 0)

    def kept(self, where: Any) -> Measured:
        """Some of them."""
        shots = None if self.shots is None else self.shots[where]
        return Measured(self.x[where], self.z[where], self.values[where], shots, self.qubits)


def measured(strings: Sequence[str], expectations: Any, shots: Any = None) -> Measured:
    """Check what somebody measured.

    Args:
      strings: distinct Pauli strings, one letter (I, X, Y, Z) for each qubit.
      expectations: [n] mean outcomes, between -1 and 1; of the identity 1.
      shots: how many outcomes each is the mean of: one number, or [n]; None where they are exact.

    Raises:
      ValueError: a string, value or number of shots that cannot be; the message says which.
    """
    x, z, qubits = masks_of(strings)
    values = np.asarray(expectations, np.float64)
    if values.shape != x.shape:
        raise ValueError(f"expectations must have one entry for each of {len(x)} strings: got shape {values.shape}.")
    far = ~(np.abs(values) <= 1 + _ROUNDING)  # NaN too
    if np.any(far):
        place = int(np.argmax(far))
        raise ValueError(
            f"an expectation lies between -1 and 1: got {values[place]:g} for {strings[place]}. Pass mean outcomes (+1 or -1 each), not "
            "counts or sums."
        )
    identity = (x == 0) & (z == 0)
    if np.any(np.abs(values[identity] - 1) > _ROUNDING):
        raise ValueError(f"the identity has expectation 1: got {values[identity][0]:g}. Leave it out, or pass 1.")
    if len(set(strings)) < len(strings):
        twice = next(one for place, one in enumerate(strings) if one in strings[:place])
        raise ValueError(
            f"{twice} is repeated: pass each observable once, with the mean of its values and the sum of its shots."
        )
    return Measured(x, z, np.clip(values, -1, 1), _counts(shots, x.shape), qubits)


def all_strings(qubits: int) -> list[str]:
    """All 4^q Pauli strings, the identity first."""
    d = 1 << qubits
    return [string_of(place // d, place % d, qubits) for place in range(d * d)]


def random_strings(qubits: int, n: int, seed: int | np.random.Generator = 0) -> list[str]:
    """The identity and n - 1 others, a uniform sample without replacement.

    Raises:
      ValueError: n does not lie between 1 and 4^q.
    """
    d = 1 << qubits
    if not 1 <= n <= d * d:
        raise ValueError(f"there are 4^q = {d * d} observables of {qubits} qubits: got n={n}.")
    chosen = np.random.default_rng(seed).permutation(d * d - 1)[: n - 1] + 1
    return [string_of(int(place) // d, int(place) % d, qubits) for place in [0, *chosen.tolist()]]


def expectations_of(state: Any, strings: Sequence[str]) -> Float[np.ndarray, "n"]:
    """``tr(P rho)`` for each string.

    Raises:
      ValueError: the matrix is no state, or the strings have another number of qubits.
    """
    matrix = check_state(state)
    x, z, qubits = masks_of(strings)
    if 1 << qubits != len(matrix):
        raise ValueError(
            f"the strings have {qubits} letters, but the state has {len(matrix).bit_length() - 1} qubits: pass one letter for each qubit."
        )
    return np.clip(pauli_code.values(pauli_code.code(matrix))[x, z], -1, 1)


def draw_shots(
    state: Any, strings: Sequence[str], shots: Any, seed: int | np.random.Generator = 0
) -> Float[np.ndarray, "n"]:
    """Mean outcomes of ``shots`` independent measurements of each observable, each +1 or -1.

    Every observable is measured by itself; what settings share when a device measures qubit by qubit is not imitated.

    Args:
      state: [d, d].
      strings: the observables.
      shots: one number, or [n].
      seed: of the draws, or a generator.

    Raises:
      ValueError: shots are not whole numbers of at least 1.
    """
    exact = expectations_of(state, strings)
    counts = _counts(shots, exact.shape)
    if counts is None:
        raise ValueError("shots must be whole numbers of at least 1: got None.")
    up = np.random.default_rng(seed).binomial(counts.astype(np.int64), np.clip((1 + exact) / 2, 0, 1))
    return np.asarray(2 * up / counts - 1)


def combined(found: Measured, weights: Float[np.ndarray, "n"]) -> np.ndarray:
    """``sum_i w_i P_i``, [d, d]."""
    table = np.zeros((found.d, found.d))
    table[found.x, found.z] = weights
    return np.asarray(pauli_code.decode(pauli_code.combination(table)))


def values_of(found: Measured, matrix: np.ndarray) -> np.ndarray:
    """``tr(P_i X)`` for the observables measured, X Hermitian."""
    return np.asarray(pauli_code.values(pauli_code.code(matrix))[found.x, found.z])


def _counts(shots: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if shots is None:
        return None
    counts = np.asarray(shots, np.float64)
    if counts.ndim and counts.shape != shape:
        raise ValueError(f"shots must be one number, or one for each of {shape[0]} strings: got shape {counts.shape}.")
    bad = ~((counts >= 1) & (counts == np.floor(counts)) & np.isfinite(counts))
    if np.any(bad):
        raise ValueError(
            f"shots must be whole numbers of at least 1: got {np.ravel(counts)[np.argmax(np.ravel(bad))]:g}. Leave out observables that "
            "were not measured; for exact values pass shots=None."
        )
    return np.broadcast_to(counts, shape).copy()
