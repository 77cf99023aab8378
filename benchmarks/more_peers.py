"""Peers for the comparison over n/dof and noise: preconditioned descent, a scan over ranks, weight decay, early stopping.

The same form as `benchmarks.peers`: float64 arrays in, the estimate of M out. Constants were chosen on instances other than
those that are compared.
"""

from __future__ import annotations

import numpy as np

from benchmarks.peers import leading, least_squares_fit, random_factors

_EVALUATIONS = 150  # of the residual at most, for each start: a rank too high or too low converges slowly


def scaled_descent(
    matrices: np.ndarray, y: np.ndarray, rank: int, *, rate: float = 0.3, steps: int = 3000, tolerance: float = 1e-6
) -> np.ndarray:
    """ScaledGD at the true rank from the spectral start: ``U <- U - rate/n A*(e) U (UᵀU)^{-1}``.

    Source: Tong, Ma, Chi (2021), arXiv:2005.08898, in its symmetric form.

    Args:
      matrices, y: the data.
      rank: the true rank.
      rate: step size; .5 diverges on some instances at n = 1.1 dof.
      steps: at most so many.
      tolerance: stops at this relative residual, or when a step changes U by less than this share of it.
    """
    n, d, _ = matrices.shape
    flat, unit = matrices.reshape(n, -1), np.sqrt(np.mean(y**2))
    target = y / unit
    factor = leading((target @ flat).reshape(d, d) / n, rank)
    for _ in range(steps):
        errors = flat @ (factor @ factor.T).reshape(-1) - target
        size = float(np.sqrt(np.mean(errors**2)))
        if not size < 1e6 or size <= tolerance:  # diverged, or done
            break
        slope = (errors @ flat).reshape(d, d) @ factor / n
        step = rate * slope @ np.linalg.pinv(factor.T @ factor)
        factor = factor - step
        if np.linalg.norm(step) <= tolerance * np.linalg.norm(factor):
            break
    return unit * (factor @ factor.T)


def scanned_least_squares(
    matrices: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    *,
    select: str = "bic",
    restarts: int = 4,
    share: float = 0.2,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Levenberg-Marquardt at every rank from 1 up, random starts, and the rank with the least BIC or hold-out error.

    The scan ends at the first exact fit, after two ranks without gain, or where n has no more than p(q) = q d - q(q-1)/2
    measurements. With hold-out the chosen rank is fitted to all data again.

    Args:
      matrices, y: the data.
      rng: of starts and of the split.
      select: ``"bic"``, ``n log(RSS/n) + p log n`` (Schwarz 1978), or ``"hold-out"``.
      restarts: starts for each rank.
      share: of the data held out.
      tolerance: relative residual of an exact fit.
    """
    n, d, _ = matrices.shape
    unit = np.sqrt(np.mean(y**2))
    target = y / unit
    held = np.zeros(n, bool)
    if select == "hold-out":
        held[rng.permutation(n)[: round(share * n)]] = True
    kept = ~held
    best, least, worse, chosen = np.zeros((d, 1)), np.inf, 0, 1
    for rank in range(1, d + 1):
        dof = rank * d - rank * (rank - 1) // 2
        if dof >= kept.sum():
            break
        factor, error = least_squares_fit(
            matrices[kept], target[kept], rank, random_factors(rng, d, rank, restarts), tolerance, _EVALUATIONS
        )
        if select == "bic":
            score = n * np.log(max(error, tolerance) ** 2) + dof * np.log(n)
        else:
            score = float(np.mean((_measure(matrices[held], factor) - target[held]) ** 2))
        worse = 0 if score < least else worse + 1
        if score < least:
            best, least, chosen = factor, score, rank
        if error <= tolerance or worse == 2:
            break
    if select == "hold-out":
        best, _ = least_squares_fit(
            matrices, target, chosen, [best, *random_factors(rng, d, chosen, restarts)], tolerance, _EVALUATIONS
        )
    return unit * (best @ best.T)


def decayed_weights(
    matrices: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    *,
    sigma: float = 0.0,
    weights: tuple[float, float] = (0.3, 1e-5),
    steps: int = 2000,
    rate: float = 0.03,
    cut: float = 0.05,
) -> np.ndarray:
    """Adam on mean squared error + weight ||U||_F² with a falling weight, eigenvalues cut, Levenberg-Marquardt at that rank.

    ``||U||_F²`` is the nuclear norm of U Uᵀ: a smooth path to trace minimisation. Knows no rank. Source: Srebro, Rennie,
    Jaakkola (2004) for the norm, Kingma, Ba (2015), arXiv:1412.6980, for Adam.

    Args:
      matrices, y: the data.
      rng: of the start, k = d columns of Frobenius norm 2.
      sigma: known noise standard deviation: the weight falls no further than where noise alone begins to grow directions,
        twice the noise edge ``sigma sqrt(2 d/n)``.
      weights: first and last, for data of unit size, geometric between.
      steps: of Adam.
      rate: its learning rate, cosine to 1 percent of it.
      cut: eigenvalues below this share of the largest are dropped.
    """
    n, d, _ = matrices.shape
    flat, unit = np.ascontiguousarray(matrices.reshape(n, -1)), np.sqrt(np.mean(y**2))
    target = y / unit
    weights = (weights[0], max(weights[1], 2 * sigma / unit * np.sqrt(2 * d / n)))
    factor = rng.standard_normal((d, d)) * 2 / d
    first, second = np.zeros_like(factor), np.zeros_like(factor)
    for step in range(1, steps + 1):
        done = step / steps
        weight = weights[0] * (weights[1] / weights[0]) ** done
        errors = flat @ (factor @ factor.T).reshape(-1) - target
        slope = 4 / n * (errors @ flat).reshape(d, d) @ factor + 2 * weight * factor
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        move = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        factor = factor - rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done))) * move
    values = np.linalg.eigvalsh(factor @ factor.T)
    rank = int(np.sum(values > cut * values[-1]))
    best, _ = least_squares_fit(matrices, target, rank, [leading(factor @ factor.T, rank)], 0.0, _EVALUATIONS)
    return unit * (best @ best.T)


def stopped_early(
    matrices: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    *,
    share: float = 0.1,
    size: float = 1e-6,
    rate: float = 0.4,
    steps: int = 4000,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Descent from a small start with k = d columns, stopped where the error on held-out data is least. Knows neither rank nor noise.

    Source: Li, Ma, Zhang (2018), arXiv:1712.09203, for early stopping from a small start.

    Args:
      matrices, y: the data.
      rng: of the start and of the split.
      share: of the data held out.
      size: standard deviation of the start's entries times sqrt(d), for data of unit size.
      rate, steps: of the descent.
      tolerance: relative residual on all data that ends it.
    """
    n, d, _ = matrices.shape
    flat, unit = np.ascontiguousarray(matrices.reshape(n, -1)), np.sqrt(np.mean(y**2))
    target = y / unit
    kept = np.ones(n)
    kept[rng.permutation(n)[: max(1, round(share * n))]] = 0
    factor = rng.standard_normal((d, d)) * size / np.sqrt(d)
    best, least, since = factor, np.inf, 0
    for _ in range(steps):
        errors = flat @ (factor @ factor.T).reshape(-1) - target
        held = float(np.sum((1 - kept) * errors**2))
        if not np.isfinite(held) or since > 500:
            break
        since = 0 if held < least else since + 1
        if held < least:
            best, least = factor, held
        if np.sqrt(np.mean(errors**2)) <= tolerance:
            break
        factor = factor - rate / kept.sum() * ((kept * errors) @ flat).reshape(d, d) @ factor
    return unit * (best @ best.T)


def least_squares_from(matrices: np.ndarray, y: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, float]:
    """Levenberg-Marquardt from a given factor: the factor it ends at and its root mean square residual."""
    unit = np.sqrt(np.mean(y**2))
    found, error = least_squares_fit(matrices, y / unit, factor.shape[1], [factor / np.sqrt(unit)], 0.0, _EVALUATIONS)
    return found * np.sqrt(unit), error * unit


def _measure(matrices: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return matrices.reshape(len(matrices), -1) @ (factor @ factor.T).reshape(-1)
