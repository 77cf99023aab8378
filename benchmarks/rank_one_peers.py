"""Other ways to recover M from rank-one data ``y_i = x_iᴴ M x_i``, real or complex, each as its source has it.

Plain NumPy, SciPy and CVXPY on float64 (complex128) arrays: ``vectors`` [n, d], row i is x_i, of unit variance, and ``y`` [n]. Every
function returns the estimate of M, [d, d].
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import least_squares


class TraceMinimisation:
    """``min tr X`` subject to ``x_iᴴ X x_i = y_i``, X positive semidefinite; with noise of known sigma to within ``sigma sqrt(n)``.

    PhaseLift, Candès, Strohmer, Voroninski (2013), arXiv:1109.4499; for rank-one data of any rank Chen, Chi, Goldsmith (2015),
    arXiv:1310.0807. CVXPY with Clarabel (interior point) or SCS (splitting).
    """

    def __init__(self, n: int, d: int, *, hermitian: bool, noisy: bool, solver: str) -> None:
        import cvxpy as cp

        self._solver = solver
        self._matrix = cp.Variable((d, d), hermitian=True) if hermitian else cp.Variable((d, d), PSD=True)
        # <x xᴴ, X> in real numbers: real part against real part and imaginary against imaginary.
        self._real, self._imaginary = cp.Parameter((n, d * d)), cp.Parameter((n, d * d))
        self._y, self._radius = cp.Parameter(n), cp.Parameter(nonneg=True)
        image = self._real @ cp.vec(cp.real(self._matrix) if hermitian else self._matrix, order="C")
        if hermitian:
            image = image + self._imaginary @ cp.vec(cp.imag(self._matrix), order="C")
        errors = image - self._y
        constraints = [cp.norm(errors, 2) <= self._radius if noisy else errors == 0]
        constraints += [self._matrix >> 0] if hermitian else []
        trace = cp.trace(self._matrix)
        self._problem = cp.Problem(cp.Minimize(cp.real(trace) if hermitian else trace), constraints)

    def __call__(self, vectors: np.ndarray, y: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """The estimate."""
        dense = (vectors[:, :, None] * vectors[:, None, :].conj()).reshape(len(y), -1)
        self._real.value, self._imaginary.value, self._y.value = dense.real, dense.imag, y
        self._radius.value = sigma * np.sqrt(len(y))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "solution may be inaccurate": judged by its error
            self._problem.solve(solver=self._solver)
        return np.asarray(self._matrix.value)


def restarted_least_squares(
    vectors: np.ndarray,
    y: np.ndarray,
    rank: int,
    rng: np.random.Generator,
    *,
    restarts: int = 20,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Levenberg-Marquardt (MINPACK) at the true rank from random starts, until one fits the data to ``tolerance``."""
    n, d = vectors.shape
    unit = np.sqrt(np.mean(y**2))
    target, parts = y / unit, (vectors.real, vectors.imag) if np.iscomplexobj(vectors) else (vectors,)
    half, size = len(parts), len(parts) * d * rank
    spare = max(0, size - n)  # MINPACK wants as many residuals as unknowns: zeros do no harm

    def hidden(x: np.ndarray) -> np.ndarray:
        factor = x.reshape(half, d, rank)
        return vectors.conj() @ (factor[0] + 1j * factor[1] if half == 2 else factor[0])

    def errors(x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.sum(np.abs(hidden(x)) ** 2, axis=1) - target, np.zeros(spare)])

    def slopes(x: np.ndarray) -> np.ndarray:
        pulled = 2 * vectors[:, :, None] * hidden(x)[:, None, :]
        made = np.concatenate([pulled.real.reshape(n, -1), pulled.imag.reshape(n, -1)][:half], axis=1)
        return np.concatenate([made, np.zeros((spare, size))])

    best, least = np.zeros(size), np.inf
    for _ in range(restarts):
        start = rng.standard_normal(size) / np.sqrt(d)
        found = least_squares(errors, start, jac=slopes, method="lm", xtol=1e-10, ftol=1e-10, gtol=1e-10)
        if found.cost < least:
            best, least = found.x, found.cost
        if np.sqrt(2 * least / n) <= tolerance:
            break
    factor = best.reshape(half, d, rank)
    factor = factor[0] + 1j * factor[1] if half == 2 else factor[0]
    return unit * factor @ factor.conj().T


def wirtinger_flow(
    vectors: np.ndarray, y: np.ndarray, rank: int, *, rate: float = 0.2, steps: int = 3000, tolerance: float = 1e-5
) -> np.ndarray:
    """Gradient descent at the true rank from a spectral start, its step growing to ``rate`` over the first hundreds of steps.

    ``(1/n) sum y_i x_i x_iᴴ`` is about ``g M + tr(M) I``, g = 2 (real) or 1, and the mean of y is the trace. Source: Candès, Li,
    Soltanolkotabi (2015), arXiv:1407.1065; at higher rank Sanghavi, Ward, White (2017), arXiv:1602.06116.
    """
    n = len(vectors)
    g = 1 if np.iscomplexobj(vectors) else 2
    unit = np.sqrt(np.mean(y**2))
    target = y / unit
    values, basis = np.linalg.eigh((vectors.T * target) @ vectors.conj() / n)
    values = np.maximum((values[-rank:] - target.mean()) / g, 1e-3)
    factor = basis[:, -rank:] * np.sqrt(values)
    largest = values.max()
    for count in range(steps):
        hidden = vectors.conj() @ factor
        residual = np.sum(np.abs(hidden) ** 2, axis=1) - target
        if np.sqrt(np.mean(residual**2)) <= tolerance or not np.isfinite(residual).all():
            break
        step = min(1 - np.exp(-(count + 1) / 330), rate) / (g * largest)
        factor = factor - step / n * (vectors.T @ (residual[:, None] * hidden))
    return unit * factor @ factor.conj().T
