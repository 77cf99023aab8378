"""Simulate the constants of the edge rule: the upper .3 percent point of lambda_max(W)^2 / m.

Run: ``python -m benchmarks.edge_constants``. The printed table is what `pruneft.sensing.selection` holds.
"""

from __future__ import annotations

import numpy as np


def edge_constant(m: int, draws: int, level: float, rng: np.random.Generator) -> float:
    """Upper ``level`` point of lambda_max(W)_+^2 / m over draws of W.

    M x m symmetric, diagonal variance 1, off-diagonal 1/2.
    """
    largest: list[np.ndarray] = []
    for begin in range(0, draws, 2000):
        g = rng.standard_normal((min(2000, draws - begin), m, m))
        w = (g + np.swapaxes(g, 1, 2)) / 2  # off-diagonal variance 1/2, diagonal variance 1
        largest.append(np.linalg.eigvalsh(w)[:, -1])
    top = np.maximum(np.concatenate(largest), 0)
    return float(np.quantile(top, 1 - level) ** 2 / m)


def main(draws: int = 200_000) -> None:
    """Print the table."""
    for m in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48):
        print(m, round(edge_constant(m, draws, 0.003, np.random.default_rng(m)), 3), flush=True)


if __name__ == "__main__":
    main()
