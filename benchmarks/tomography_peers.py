"""Other ways from Pauli expectations to a state, each as its source has it. Plain NumPy and CVXPY, dense n x d x d observables.

``matrices`` [n, d, d] are the observables (not the identity), ``values`` [n] their mean outcomes. Every function returns a d x d estimate.
"""

from __future__ import annotations

import functools
from importlib import util

import numpy as np

_LETTERS = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1.0, -1.0]),
}
QISKIT = util.find_spec("qiskit_experiments") is not None


def dense(strings: list[str]) -> np.ndarray:
    """The observables as matrices, [n, d, d]."""
    return np.stack([functools.reduce(np.kron, [_LETTERS[letter] for letter in one]) for one in strings])


class TraceMinimisation:
    """``min tr X`` subject to the data, X positive semidefinite; with shots to within ``||v(X) - v|| <= sqrt(n/shots)``.

    The trace is no constraint here: it is what is minimised, and the estimate is divided by it. Source: Gross, Liu, Flammia, Becker,
    Eisert (2010), arXiv:0909.3304; CVXPY with Clarabel.
    """

    def __init__(self, n: int, d: int, *, noisy: bool) -> None:
        import cvxpy as cp

        self._cp, self._matrix = cp, cp.Variable((d, d), hermitian=True)
        self._rows = cp.Parameter((n, 2 * d * d))
        self._values, self._radius = cp.Parameter(n), cp.Parameter(nonneg=True)
        means = _means(cp, self._rows, self._matrix)
        fits = cp.norm(means - self._values, 2) <= self._radius if noisy else means == self._values
        self._problem = cp.Problem(cp.Minimize(cp.real(cp.trace(self._matrix))), [self._matrix >> 0, fits])

    def __call__(self, matrices: np.ndarray, values: np.ndarray, radius: float = 0.0) -> np.ndarray:
        """The estimate; white noise where nothing was found."""
        self._rows.value, self._values.value, self._radius.value = _real_rows(matrices), values, radius
        self._problem.solve(solver=self._cp.CLARABEL)
        found = self._matrix.value
        trace = 0.0 if found is None else float(np.trace(found).real)
        return found / trace if trace > 1e-9 else np.eye(matrices.shape[1]) / matrices.shape[1]


class Likelihood:
    """Maximum likelihood of the counts over states, as an exponential cone program. Source: CVXPY with Clarabel."""

    def __init__(self, matrices: np.ndarray) -> None:
        import cvxpy as cp

        n, d, _ = matrices.shape
        self._cp, self._matrix = cp, cp.Variable((d, d), hermitian=True)
        self._up, self._down = cp.Parameter(n, nonneg=True), cp.Parameter(n, nonneg=True)
        means = _means(cp, _real_rows(matrices), self._matrix)
        likelihood = self._up @ cp.log((1 + means) / 2) + self._down @ cp.log((1 - means) / 2)
        self._problem = cp.Problem(cp.Maximize(likelihood), [self._matrix >> 0, cp.real(cp.trace(self._matrix)) == 1])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The estimate."""
        self._up.value, self._down.value = (1 + values) / 2, (1 - values) / 2
        self._problem.solve(solver=self._cp.CLARABEL)
        return np.asarray(self._matrix.value)


def qiskit_least_squares(matrices: np.ndarray, values: np.ndarray, shots: int) -> np.ndarray:
    """Weighted least squares over states by the fitter of qiskit-experiments (CVXPY inside), each observable a setting of its own."""
    from qiskit.quantum_info import DensityMatrix
    from qiskit_experiments.library.tomography.basis import MeasurementBasis
    from qiskit_experiments.library.tomography.fitters import cvxpy_gaussian_lstsq

    class Observables(MeasurementBasis):
        """Projections on the two eigenspaces, all qubits at once."""

        def index_shape(self, qubits):  # type: ignore[no-untyped-def]
            return (len(matrices),)

        def matrix_shape(self, qubits):  # type: ignore[no-untyped-def]
            return (matrices.shape[1],)

        def outcome_shape(self, qubits):  # type: ignore[no-untyped-def]
            return (2,)

        def matrix(self, index, outcome, qubits=None):  # type: ignore[no-untyped-def]
            sign = 1 - 2 * outcome
            return (np.eye(matrices.shape[1]) + sign * matrices[index[0]]) / 2

        def circuit(self, index, qubits=None):  # type: ignore[no-untyped-def]
            raise NotImplementedError("nothing is measured here: the counts are given.")

    up = np.round(shots * (1 + values) / 2)
    counts = np.stack([up, shots - up], axis=-1)[None]
    found, _ = cvxpy_gaussian_lstsq(
        counts,
        np.full(len(values), shots),
        np.arange(len(values))[:, None],
        np.zeros((len(values), 0), int),
        measurement_basis=Observables("observables"),
        measurement_qubits=(0,),
    )
    return np.asarray(DensityMatrix(found).data)


def _means(cp, rows, matrix):  # type: ignore[no-untyped-def]
    parts = cp.hstack([cp.vec(cp.real(matrix), order="C"), cp.vec(cp.imag(matrix), order="C")])
    return rows @ parts


def _real_rows(matrices: np.ndarray) -> np.ndarray:
    """``Re tr(P X) = <Re P, Re X> + <Im P, Im X>`` of Hermitian P and X."""
    flat = matrices.reshape(len(matrices), -1)
    return np.concatenate([flat.real, flat.imag], axis=1)
