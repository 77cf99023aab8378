"""What the claims share: running cells, and when a pooled count refutes a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import beta

from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import cells, make_grid, run_trials
from pruneft.trial import Experiment


def rows_of(grids: Sequence[Mapping[str, Any]], seeds: int, experiment: Experiment = RECOVERY) -> list[dict[str, Any]]:
    """Flat rows (cell and report) of the trials of several product grids."""
    trials = [
        (cell, seed)
        for axes in grids
        for cell in cells(experiment, make_grid(experiment, axes, seeds))
        for seed in range(seeds)
    ]
    return [{**row.cell, "seed": row.seed, **row.report} for batch in run_trials(experiment, trials) for row in batch]


def upper_bound(successes: int, trials: int, level: float = 0.99) -> float:
    """One-sided upper confidence bound of a proportion (Clopper and Pearson 1934)."""
    return 1.0 if successes == trials else float(beta.ppf(level, successes + 1, trials - successes))


def refuted(successes: int, trials: int, bar: float) -> bool:
    """Whether so few successes refute, at 99% confidence, that the probability is at least ``bar``."""
    return upper_bound(successes, trials) < bar
