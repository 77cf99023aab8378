"""Error against the number of measurements beside the oracle, from a run with noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruneft.plot import risk_curve


def draw(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A matplotlib Figure: relative error of every method in a run against n, median and quartiles, with the oracle's.

    Raises:
      ValueError: the run has no noise, or holds more than one setting besides n and method.
    """
    noisy = [row for row in rows if row["sigma"] > 0]
    if not noisy:
        raise ValueError(
            "a risk curve needs noise: this run has none. Sweep with --sigma 0.01, say, and several values of --n-per-dof."
        )
    for name in ("d", "r", "k", "kappa", "sigma", "scale", "lam", "beta"):
        values = sorted({str(row[name]) for row in noisy})
        if len(values) > 1:
            raise ValueError(
                f"a risk curve is for one setting: this run has {name} = {', '.join(values)}. Draw from a run of its own."
            )
    sizes = sorted({row["n"] for row in noisy})
    methods = sorted({row["method"] for row in noisy})
    errors = {
        method: [[row["error"] for row in noisy if row["n"] == n and row["method"] == method] for n in sizes]
        for method in methods
    }
    holes = [(method, n) for method in methods for n, found in zip(sizes, errors[method], strict=True) if not found]
    if holes:
        raise ValueError(f"method {holes[0][0]} has no trial at n = {holes[0][1]}: run the same n for every method.")
    oracle = [next(row["oracle_error"] for row in noisy if row["n"] == n) for n in sizes]
    return risk_curve(sizes, errors, oracle).figure
