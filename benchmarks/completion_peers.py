"""Peers of matrix completion, in NumPy: soft-impute, Nyström, trace minimisation, and the fit that knows the tangent space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def soft_impute(
    values: np.ndarray,
    seen: np.ndarray,
    truth: np.ndarray,
    *,
    count: int = 16,
    most: int = 200,
    tolerance: float = 1e-4,
) -> np.ndarray:
    """The best of soft-impute's path, by the truth: the threshold is an oracle's.

    Observed entries are put back, eigenvalues lowered by the threshold and cut at zero, until nothing moves; from a large threshold
    to a small one, each from the last answer. Source: Mazumder, Hastie, Tibshirani (2010), J. Mach. Learn. Res. 11; positive
    semidefinite form.

    Args:
      values: [d, d], what was observed; elsewhere ignored.
      seen: [d, d], symmetric.
      truth: [d, d].
      count: thresholds, geometric over four decades below the largest eigenvalue of the observed matrix.
      most, tolerance: of the iterations at each threshold.
    """
    filled = np.where(seen, values, 0)
    answer, best = np.zeros_like(filled), np.zeros_like(filled)
    for threshold in np.linalg.norm(filled, 2) * np.geomspace(1, 1e-4, count):
        for _ in range(most):
            eigenvalues, vectors = np.linalg.eigh(np.where(seen, values, answer))
            kept = eigenvalues > threshold
            new = (vectors[:, kept] * (eigenvalues[kept] - threshold)) @ vectors[:, kept].T
            moved = np.linalg.norm(new - answer)
            answer = new
            if moved <= tolerance * np.linalg.norm(answer):
                break
        if np.linalg.norm(answer - truth) < np.linalg.norm(best - truth):
            best = answer
    return best


def nystrom(truth: np.ndarray, entries: int, rng: np.random.Generator) -> np.ndarray:
    """Completion from whole columns, as many as the entries suffice for: ``C W⁺ Cᵀ``. It chooses what it sees.

    m columns of a symmetric d x d matrix hold m d - m(m-1)/2 entries. Source: Williams, Seeger (2001).
    """
    d = len(truth)
    held = np.arange(1, d + 1) * d - np.arange(1, d + 1) * np.arange(d) // 2
    m = max(1, int(np.sum(held <= entries)))
    chosen = rng.permutation(d)[:m]
    columns = truth[:, chosen]
    return np.asarray(columns @ np.linalg.pinv(columns[chosen], rcond=1e-10, hermitian=True) @ columns.T)


def trace_minimisation(values: np.ndarray, seen: np.ndarray, radius: float = 0.0) -> np.ndarray:
    """Least trace among positive semidefinite matrices within ``radius`` of the observed entries, by an interior point method."""
    import cvxpy

    unknown = cvxpy.Variable(values.shape, PSD=True)
    upper = np.argwhere(np.triu(seen))
    places = (upper[:, 0], upper[:, 1])
    left = unknown[places] - values[places]
    limits = [left == 0] if radius == 0 else [cvxpy.norm(left) <= radius]
    cvxpy.Problem(cvxpy.Minimize(cvxpy.trace(unknown)), limits).solve(solver=cvxpy.CLARABEL)
    return np.asarray(unknown.value)


def oracle_error(factor: np.ndarray, pairs: np.ndarray, noise: np.ndarray) -> float:
    """Frobenius error of least squares in the tangent space of the truth, with the noise that was drawn.

    Args:
      factor: [d, r], of the truth, full column rank.
      pairs: [n, 2], the observed entries.
      noise: [n], what was added to them.
    """
    basis = tangent_basis(factor)
    first, second = pairs.T
    coefficients = np.linalg.lstsq(basis[:, first, second].T, noise, rcond=None)[0]
    return float(np.linalg.norm(coefficients))


def tangent_basis(factor: np.ndarray) -> np.ndarray:
    """[p, d, d], an orthonormal basis of the tangent space ``{U Vᵀ + V Uᵀ}``, p = r d - r(r-1)/2."""
    d, r = factor.shape
    whole = np.linalg.qr(np.concatenate([factor, np.eye(d)], axis=1))[0][:, :d]
    found = []
    for a in range(r):
        for b in range(a, d):
            one = np.outer(whole[:, a], whole[:, b])
            found.append(one if a == b else (one + one.T) / np.sqrt(2))
    return np.array(found)


def kernel_matrix(data: np.ndarray, points: int, seed: int = 0) -> np.ndarray:
    """``exp(-D2 / (4 median D2))`` of so many of the rows, each column of the data standardised."""
    data = (data - data.mean(axis=0)) / data.std(axis=0)
    data = data[np.random.default_rng(seed).permutation(len(data))[:points]]
    squares = np.sum((data[:, None] - data[None]) ** 2, axis=-1)
    return np.asarray(np.exp(-squares / (4 * np.median(squares[np.triu_indices(points, 1)]))))


def sample(d: int, fraction: float, seed: int) -> np.ndarray:
    """[d, d] symmetric truth values: a uniform sample of the upper triangle."""
    upper = np.stack(np.triu_indices(d), axis=1)
    taken = upper[np.random.default_rng(seed).permutation(len(upper))[: round(fraction * len(upper))]]
    seen = np.zeros((d, d), bool)
    seen[taken[:, 0], taken[:, 1]] = True
    return seen | seen.T


def spread(errors: Sequence[float]) -> str:
    """Median and largest."""
    return f"{np.median(errors):.3g} ({np.max(errors):.2g})"
