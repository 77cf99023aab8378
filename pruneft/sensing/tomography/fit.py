"""Quantum state tomography by low-rank recovery: from Pauli expectations to a state, its rank and what can be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pruneft.sensing.operators import pauli_code
from pruneft.sensing.operators.pauli import Pauli
from pruneft.sensing.problem import Problem
from pruneft.sensing.recover import recover
from pruneft.sensing.result import Recovery
from pruneft.sensing.tomography.estimates import nearest_state
from pruneft.sensing.tomography.measured import Measured, measured
from pruneft.sensing.tomography.refit import jacobian_rank, reweighed
from pruneft.sensing.tomography.stabiliser import complete

_COLUMNS = 8


@dataclass(frozen=True, kw_only=True)
class Tomography:
    """A recovered state.

    Attributes:
      state: [d, d], Hermitian, no negative eigenvalue, trace 1.
      rank: of the low-rank part.
      white: the share of white noise, ``1 - ||U||_F²``, as it was fitted (below 0 by noise too); 0 where the trace was among the data.
      recovery: of the low-rank part U Uᴴ, in units of the state: its status, residual, predicted error and histories.
      jacobian_rank, dof: how many of the degrees of freedom of U Uᴴ the observables see to first order.
      generators: independent observables of exact value ±1, other than the identity; 0 with shots.
      used: observables whose values were fitted, measured ones and those that follow from exact values of ±1.
      turnable: the answer is a stabiliser state of which not all generators are known: with the sign of another one turned it has
        the same values.
      remarks: what a user should know.
    """

    state: np.ndarray = field(repr=False)
    rank: int
    white: float
    recovery: Recovery = field(repr=False)
    jacobian_rank: int
    dof: int
    generators: int
    used: int
    turnable: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the state may be used: the status of its recovery."""
        return self.recovery.ok

    @property
    def certified(self) -> bool:
        """Whether the observables determine the state near the answer, to first order, and no other stabiliser state has their values."""
        return self.ok and self.jacobian_rank >= self.dof and not self.turnable

    @property
    def message(self) -> str:
        """The status in words, and the remarks."""
        return " ".join([self.recovery.message, *self.remarks])

    @property
    def eigenvalues(self) -> np.ndarray:
        """[d] of the state, falling."""
        return np.asarray(np.linalg.eigvalsh(self.state)[::-1])


def tomography(
    strings: Sequence[str],
    expectations: Any,
    *,
    shots: Any = None,
    k: int | None = None,
    rank: int | None = None,
    white: bool | None = None,
    reweigh: bool = True,
    method: Literal["path", "prune"] = "path",
    seed: int = 0,
) -> Tomography:
    """The state of q qubits from expectations of Pauli observables; neither rank nor noise level has to be known.

    With exact values the identity joins the data, because its value is 1, and so do the values that follow from exact ones of ±1
    (`pruneft.sensing.tomography.complete`). With shots the identity is left out: the others do not see white noise, so a low-rank state in
    white noise is still fitted at its rank, and ``rho = U Uᴴ + (1 - ||U||_F²) I/d``. Where noise makes that indefinite, the nearest
    state is returned.

    Args:
      strings: distinct Pauli strings, one letter (I, X, Y, Z) for each qubit.
      expectations: [n] mean outcomes, between -1 and 1.
      shots: how many outcomes each is the mean of, one number or [n]; None where they are exact.
      k: columns trained, so the largest rank that can be found; the smaller of d and 8 if not given.
      rank: of the state (without white noise), if it is known.
      white: whether white noise is allowed for; with shots if not given.
      reweigh: with shots, fit once more at the rank found with the weights that they imply, `pruneft.sensing.tomography.refit.reweighed`.
      method, seed: as in `pruneft.recover`.

    Returns:
      A `Tomography`.

    Raises:
      ValueError: a string, value or number of shots that cannot be, exact values of ±1 that contradict each other, or an argument of
        `pruneft.recover`; the message says which.

    Example:
      >>> from pruneft.sensing.tomography import all_strings, expectations_of, ghz, tomography
      >>> strings = all_strings(2)
      >>> found = tomography(strings, expectations_of(ghz(2), strings))
      >>> found.rank, found.ok
      (1, True)

    Source: low-rank tomography from few Pauli observables after Gross, Liu, Flammia, Becker, Eisert (2010), arXiv:0909.3304; the
    method, the white part and the completion are ours.
    """
    found = measured(strings, expectations, shots)
    white = shots is not None if white is None else white
    generators = 0
    if found.shots is None:
        filled = complete(strings, found.values)
        found, generators = measured(filled.strings, filled.expectations), filled.generators
    found = found.kept(~found.identity)
    if not len(found.x):
        raise ValueError("there must be at least one observable other than the identity: got none.")
    if not white:
        found = _with_identity(found)
    operator = Pauli.from_masks(found.x, found.z, found.qubits)
    y = np.sqrt(found.d) * found.values
    if not np.any(y):
        raise ValueError(
            "all expectations are zero: the state is white noise as far as these observables see, and has no low-rank part to be found."
        )
    problem = Problem(operator, y)
    counts = None if found.shots is None else found.shots / np.mean(found.shots)
    unequal = counts is not None and not np.all(counts == 1)
    recovery = recover(
        problem,
        k=min(found.d, max(_COLUMNS, rank or 1)) if k is None else k,
        rank=rank,
        weights=counts if unequal else None,
        method=method,
        seed=seed,
    )
    factor = recovery.U.astype(complex)
    if counts is not None and reweigh:
        factor = reweighed(found, factor)
    low = factor @ factor.conj().T
    share = 1 - float(np.sum(np.abs(factor) ** 2)) if white else 0.0
    state = nearest_state(low + share * np.eye(found.d) / found.d if white else low)
    seen, dof = jacobian_rank(found, factor), round(operator.dof(recovery.rank))
    turnable = recovery.rank == 1 and 0 < generators < found.qubits and _is_stabiliser_state(state)
    remarks = tuple(_remarks(seen, dof, generators, found.qubits, turnable))
    return Tomography(
        state=state,
        rank=recovery.rank,
        white=share,
        recovery=recovery,
        jacobian_rank=seen,
        dof=dof,
        generators=generators,
        used=len(found.x),
        turnable=turnable,
        remarks=remarks,
    )


def _with_identity(found: Measured) -> Measured:
    """The identity before the others: known exactly, it counts like the best of them."""
    first = np.zeros(1, found.x.dtype)
    shots = None if found.shots is None else np.append(np.max(found.shots, initial=1), found.shots)
    x, z, values = np.append(first, found.x), np.append(first, found.z), np.append(1.0, found.values)
    return Measured(x, z, values, shots, found.qubits)


def _is_stabiliser_state(state: np.ndarray) -> bool:
    """Whether 2^q observables have values of +1 or -1."""
    values = np.asarray(pauli_code.values(pauli_code.code(state)))
    return int(np.sum(np.abs(values) > 1 - 1e-6)) == len(state)


def _remarks(seen: int, dof: int, generators: int, qubits: int, turnable: bool) -> list[str]:
    remarks = []
    if turnable:
        remarks.append(
            "Not certified: the answer is a stabiliser state of which not all generators were measured; turning the sign of one that "
            "was not gives another state with the same values."
        )
    if seen < dof:
        remarks.append(
            f"Not certified: to first order the observables see {seen} of the {dof} degrees of freedom of a state of this rank. "
            "For a stabiliser state (GHZ, say) they may determine it all the same, because values of +1 and -1 are extreme; "
            "compare another seed, or measure more observables."
        )
    if 0 < generators < qubits:
        remarks.append(
            f"{generators} independent observables have values of +1 or -1; with {qubits} the state would be known from them alone."
        )
    return remarks
