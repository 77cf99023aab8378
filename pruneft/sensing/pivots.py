"""What noise alone does to a fit of the right rank: laws of the residual that depend on no unknown, in NumPy.

At the right rank, with packed Gaussian measurements, ``n V⊥ᵀ G V⊥ / ||e||`` is distributed as W, an m x m symmetric
Gaussian matrix with diagonal variance 1 and off-diagonal 1/2, m = d - rank, whatever the noise level is: W meets the
residual e only through its direction, and the measurements restricted to the normal space are independent of it.
Derived (ours); exact in the linear model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from scipy import special  # type: ignore[import-untyped]

_DRAWS = 20_000
_SEED = 20_231_103
_KEPT = 64  # size of W up to which its draws are kept for the next call: 20 MB


def largest_eigenvalue_tail(t: float, m: int, *, draws: int = _DRAWS) -> float:
    """Probability that the largest eigenvalue of W (m x m) exceeds t, by simulation from a fixed seed.

    W has the eigenvalues of a random tridiagonal matrix (Dumitriu and Edelman 2002), and those lie below t exactly if
    every pivot of its elimination minus t is negative, so one pass over m numbers answers for all draws at once.

    Args:
      t: where to ask.
      m: size of W, at least 1.
      draws: of W; the result is (1 + exceedances) / (1 + draws), never 0. Standard error .0015 at .05.
    """
    pivot = np.full(draws, -1.0)
    below = np.ones(draws, bool)
    for diagonal, square in _kept(m, draws) if m <= _KEPT else _tridiagonal(m, draws):
        # A pivot of exactly zero is an eigenvalue at t of a leading block; any tiny number in its place will do.
        pivot = diagonal - t - square / np.where(pivot == 0, -1e-300, pivot)
        below &= pivot < 0
    return float((1 + np.sum(~below)) / (1 + draws))


def _tridiagonal(m: int, draws: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Diagonal entries of all draws, and the squares of the entries before them, one row of W after another."""
    generator = np.random.default_rng([_SEED, m])
    yield generator.standard_normal(draws), np.zeros(draws)
    for freedom in range(m - 1, 0, -1):
        yield generator.standard_normal(draws), generator.chisquare(freedom, draws) / 2


@functools.lru_cache(maxsize=4)
def _kept(m: int, draws: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return tuple(_tridiagonal(m, draws))


def chi_square_tail(value: float, freedom: int) -> float:
    """Probability that a chi-square variable of so many degrees of freedom exceeds ``value``."""
    return float(special.chdtrc(freedom, max(value, 0.0)))


def student_quantile(freedom: int, tail: float) -> float:
    """The t that Student's variable of so many degrees of freedom exceeds with probability ``tail``."""
    return float(special.stdtrit(freedom, 1 - tail))


@functools.lru_cache(maxsize=64)
def sigma_factors(largest: int, level: float = 0.95) -> np.ndarray:
    """What ``sqrt(RSS / v)`` is multiplied by for the ends of a confidence interval of sigma, for v = 0 .. ``largest``.

    ``sqrt(v / chi2_v)`` at the upper and the lower quantile of chi-square: the classical interval for a variance.

    Args:
      largest: of the degrees of freedom v that are left over.
      level: of confidence, both tails alike.

    Returns:
      [largest + 1, 2], low and high; NaN where v = 0.
    """
    left = np.arange(largest + 1, dtype=float)
    tail = (1 - level) / 2
    ends = [special.chdtri(np.maximum(left, 1), share) for share in (tail, 1 - tail)]
    factors = np.sqrt(left[:, None] / np.stack(ends, axis=1))
    factors[0] = np.nan
    factors.setflags(write=False)
    return factors


def error_quantiles(
    singular: np.ndarray, left: int, *, level: float = 0.95, draws: int = 4000, seed: int = _SEED
) -> tuple[float, float]:
    """Ends of the interval of ``||M̂ - M*||_F / sigma_hat``, for a fit whose noise level is estimated from its residual.

    Quantiles of ``sqrt( sum_i z_i² / s_i² / (chi2_v / v) )``, z standard normal: the first part is the error of least
    squares on the tangent space for this very design, the second what is not known of sigma. Derived (ours).

    Args:
      singular: [p], singular values of the measurements on an orthonormal basis of the tangent space, all positive.
      left: v = n - p, at least 1.
      level: of confidence, both tails alike.
      draws, seed: of the simulation.
    """
    generator = np.random.default_rng([seed, len(singular), left])
    total = np.zeros(draws)
    inverse = 1 / np.square(singular)
    for begin in range(0, len(inverse), 256):  # the normals of a block at a time: p may be thousands
        part = inverse[begin : begin + 256]
        total += np.square(generator.standard_normal((draws, len(part)))) @ part
    total /= generator.chisquare(left, draws) / left
    low, high = np.sqrt(np.quantile(total, [(1 - level) / 2, (1 + level) / 2]))
    return float(low), float(high)
