"""Other ways to recover a low-rank positive semidefinite matrix from linear measurements, each as its source has it.

Plain NumPy, SciPy and CVXPY on float64 arrays: ``matrices`` [n, d, d], symmetric, with ``E <A_i, X>^2 = ||X||_F^2``, and
``y`` [n]. Every function returns the estimate of M, [d, d]. Constants are for data without noise; they were chosen for
success on instances other than those that are timed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares


class TraceMinimisation:
    """``min tr X`` subject to ``<A_i, X> = y_i``, X positive semidefinite, by an interior point method.

    With noise of known sigma the data are met to within ``||A(X) - y|| <= sigma sqrt(n)`` instead, after Candès, Plan (2011),
    arXiv:1001.0339.

    The program is set up once for a shape and its data are parameters. Source: Fazel, Hindi, Boyd (2001); Recht, Fazel,
    Parrilo (2010), arXiv:0706.4138; CVXPY (Diamond, Boyd 2016) with Clarabel (Goulart, Chen 2024).

    Attributes:
      solver_seconds: what Clarabel itself took in the last call, without CVXPY's work.
    """

    def __init__(self, n: int, d: int, *, noisy: bool = False) -> None:
        import cvxpy as cp

        self._cp = cp
        self._matrix = cp.Variable((d, d), PSD=True)
        self._rows, self._y = cp.Parameter((n, d * d)), cp.Parameter(n)
        self._radius = cp.Parameter(nonneg=True)
        errors = self._rows @ cp.vec(self._matrix, order="C") - self._y
        constraint = cp.norm(errors, 2) <= self._radius if noisy else errors == 0
        self._problem = cp.Problem(cp.Minimize(cp.trace(self._matrix)), [constraint])
        self.solver_seconds = float("nan")

    def __call__(self, matrices: np.ndarray, y: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """The estimate."""
        self._rows.value, self._y.value = matrices.reshape(len(y), -1), y
        self._radius.value = sigma * np.sqrt(len(y))
        self._problem.solve(solver=self._cp.CLARABEL)
        self.solver_seconds = float(self._problem.solver_stats.solve_time)
        return np.asarray(self._matrix.value)


def log_det_irls(
    matrices: np.ndarray,
    y: np.ndarray,
    *,
    sigma: float = 0.0,
    decay: float = 0.9,
    last: float = 1e-6,
    most: int = 400,
) -> np.ndarray:
    """Iteratively reweighted least squares for log det, geometric-mean weights, smoothing that decays geometrically.

    With ``X = V diag(l) Vᵀ`` and ``h = sqrt(l² + eps²)`` the next iterate minimises ``||B^{-1/2} X B^{-1/2}||_F``,
    ``B = V diag(h) Vᵀ``, subject to the data: ``X = B (sum_i z_i A_i) B`` with ``K z = y``, ``K_ij = <A_i, B A_j B>``; one
    n x n solve. Knows no rank. Source: Mohan, Fazel (2012), J. Mach. Learn. Res. 13; Kümmerle, Sigl (2018),
    arXiv:1703.05038, of whose harmonic-mean weights the geometric mean is the sibling that needs no n x d² operator.

    Args:
      matrices, y: the data.
      sigma: known noise standard deviation. With noise the data are not met but traded against the weighted norm: ``(K + sigma²
        d I) z = y``, at which weight log det keeps what exceeds about 1.4 times the noise edge ``sigma sqrt(2 d/n)``.
      decay: of eps in each iteration.
      last: stops when eps has fallen to this share of the largest eigenvalue.
      most: iterations at most.
    """
    n, d, _ = matrices.shape
    flat = matrices.reshape(n, -1)
    estimate = (np.linalg.lstsq(flat @ flat.T, y, rcond=None)[0] @ flat).reshape(d, d)
    smoothing = np.abs(np.linalg.eigvalsh(estimate)).max()
    for _ in range(most):
        values, vectors = np.linalg.eigh(estimate)
        largest = np.abs(values).max()
        if smoothing <= last * largest:
            break
        root = np.sqrt(np.sqrt(values**2 + smoothing**2))  # B = (V diag(root)) (V diag(root))ᵀ
        half = vectors * root
        weighted = (half.T @ matrices @ half).reshape(n, -1)
        gram = weighted @ weighted.T
        # A relative ridge far below the data's own digits: the Gram matrix loses rank as the smoothing vanishes.
        gram[np.diag_indices(n)] += 1e-15 * np.trace(gram) / n + sigma**2 * d
        try:
            multipliers = np.linalg.solve(gram, y)
        except np.linalg.LinAlgError:
            break
        estimate = half @ (multipliers @ weighted).reshape(d, d) @ half.T
        smoothing *= decay
    return estimate


def small_init_descent(
    matrices: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    *,
    size: float = 1e-14,
    rate: float = 0.4,
    steps: int = 20_000,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Gradient descent on ``(1/4n) ||A(U Uᵀ) - y||²`` from a small random start with k = d columns; knows no rank.

    Source: Gunasekar et al. (2017), arXiv:1705.09280; Li, Ma, Zhang (2018), arXiv:1712.09203.

    Args:
      matrices, y: the data.
      rng: of the start.
      size: standard deviation of the start's entries times sqrt(d), for data of unit size.
      rate: step size, in units of one over the size of the data.
      steps: at most so many.
      tolerance: stops at this relative residual.
    """
    d = matrices.shape[1]
    unit = np.sqrt(np.mean(y**2))
    factor = rng.standard_normal((d, d)) * size / np.sqrt(d)
    return unit * _descend(matrices, y / unit, factor, rate, steps, tolerance)


def spectral_descent(
    matrices: np.ndarray,
    y: np.ndarray,
    rank: int,
    *,
    rate: float = 0.4,
    steps: int = 20_000,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Gradient descent at the true rank from the leading eigenvectors of ``(1/n) sum y_i A_i``.

    Source: Tu, Boczar, Simchowitz, Soltanolkotabi, Recht (2016), arXiv:1507.03566 (Procrustes flow).

    Args:
      matrices, y: the data.
      rank: the true rank.
      rate, steps, tolerance: as in `small_init_descent`.
    """
    unit = np.sqrt(np.mean(y**2))
    factor = leading(np.tensordot(y / unit, matrices, axes=1) / len(y), rank)
    return unit * _descend(matrices, y / unit, factor, rate, steps, tolerance)


def leading(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The factor [d, rank] of the leading eigen-part of a symmetric matrix, negative eigenvalues as zero."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:], 0))


def _descend(
    matrices: np.ndarray, y: np.ndarray, factor: np.ndarray, rate: float, steps: int, tolerance: float
) -> np.ndarray:
    """``U U^T`` after gradient descent; one gradient is two products with the measurements as an n x d² matrix."""
    n, d, _ = matrices.shape
    flat = np.ascontiguousarray(matrices.reshape(n, d * d))
    limit = tolerance**2 * float(y @ y)
    for _ in range(steps):
        errors = flat @ (factor @ factor.T).reshape(-1) - y
        square = float(errors @ errors)
        if square <= limit or not np.isfinite(square):
            break
        factor = factor - (rate / n) * ((errors @ flat).reshape(d, d) @ factor)
    return factor @ factor.T


def restarted_least_squares(
    matrices: np.ndarray,
    y: np.ndarray,
    rank: int,
    rng: np.random.Generator,
    *,
    restarts: int = 20,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Levenberg-Marquardt (MINPACK, through SciPy) at the true rank, random starts until one fits the data.

    Data with noise have no exact fit, so all starts are made: near n = dof a fit that noise of the known size could explain is
    often a wrong one. The strongest baseline where the rank is known. Source: Moré (1978), Levenberg (1944), Marquardt (1963).

    Args:
      matrices, y: the data.
      rank: the true rank.
      rng: of the starts.
      restarts: starts at most; the best fit is returned.
      tolerance: relative residual that ends the search.
    """
    unit = np.sqrt(np.mean(y**2))
    starts = random_factors(rng, matrices.shape[1], rank, restarts)
    factor, _ = least_squares_fit(matrices, y / unit, rank, starts, tolerance)
    return unit * (factor @ factor.T)


def random_factors(rng: np.random.Generator, d: int, rank: int, count: int) -> list[np.ndarray]:
    """So many Gaussian factors [d, rank] with columns of norm about one."""
    return [rng.standard_normal((d, rank)) / np.sqrt(d) for _ in range(count)]


def least_squares_fit(
    matrices: np.ndarray,
    y: np.ndarray,
    rank: int,
    starts: Sequence[np.ndarray],
    tolerance: float,
    evaluations: int | None = None,
) -> tuple[np.ndarray, float]:
    """The best of several Levenberg-Marquardt fits at a rank, and its root mean square residual.

    Args:
      matrices, y: the data, y of unit size.
      rank: of the fit.
      starts: factors [d, rank], one at least.
      tolerance: root mean square residual that ends the search.
      evaluations: of the residual at most, for each start; as MINPACK likes if not given.
    """
    n, d, _ = matrices.shape
    flat = matrices.reshape(n, -1)
    spare = np.zeros(max(0, d * rank - n))  # MINPACK wants as many residuals as unknowns: zeros do no harm

    def errors(x: np.ndarray) -> np.ndarray:
        factor = x.reshape(d, rank)
        return np.concatenate([flat @ (factor @ factor.T).reshape(-1) - y, spare])

    def slopes(x: np.ndarray) -> np.ndarray:
        made = 2 * (matrices @ x.reshape(d, rank)).reshape(n, -1)
        return np.concatenate([made, np.zeros((len(spare), d * rank))])

    best, least = starts[0], np.inf
    for start in starts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = least_squares(
                errors,
                start.reshape(-1),
                jac=slopes,
                method="lm",
                xtol=1e-10,
                ftol=1e-10,
                gtol=1e-10,
                max_nfev=evaluations,
            )
        if found.cost < least:
            best, least = found.x.reshape(d, rank), found.cost
        if np.sqrt(2 * least / n) <= tolerance:
            break
    return best, float(np.sqrt(2 * least / n))
