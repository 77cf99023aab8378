"""Simulate the constants of the edge rule: the upper .3 percent point of lambda_max(W)^2 over the degrees of freedom of a direction.

Run: ``python -m benchmarks.edge_constants``. The printed tables are what `pruneft.sensing.selection` holds: real symmetric W, m
degrees of freedom, and complex Hermitian W, 2m - 1.
"""

from __future__ import annotations

import numpy as np


def edge_constant(m: int, draws: int, level: float, rng: np.random.Generator, *, hermitian: bool = False) -> float:
    """Upper ``level`` point of lambda_max(W)_+^2 over the degrees of freedom of a rank-1 direction, over draws of W.

    W is m x m Gaussian of unit variance in an orthonormal basis of the symmetric (Hermitian) matrices: diagonal variance 1,
    real and imaginary parts off it 1/2 each.
    """
    largest: list[np.ndarray] = []
    for begin in range(0, draws, 2000):
        g = rng.standard_normal((min(2000, draws - begin), m, m))
        if hermitian:
            # Half of a Hermitian part: diagonal variance 1, parts off it 1/2.
            h = rng.standard_normal(g.shape)
            w = (g + np.swapaxes(g, 1, 2)) / 2 + 1j * (h - np.swapaxes(h, 1, 2)) / 2
        else:
            w = (g + np.swapaxes(g, 1, 2)) / 2
        largest.append(np.linalg.eigvalsh(w)[:, -1])
    top = np.maximum(np.concatenate(largest), 0)
    return float(np.quantile(top, 1 - level) ** 2 / (2 * m - 1 if hermitian else m))


def main(draws: int = 200_000) -> None:
    """Print the tables."""
    for hermitian in (False, True):
        print("complex" if hermitian else "real")
        for m in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48):
            found = edge_constant(m, draws, 0.003, np.random.default_rng(m), hermitian=hermitian)
            print(m, round(found, 3), flush=True)


if __name__ == "__main__":
    main()
