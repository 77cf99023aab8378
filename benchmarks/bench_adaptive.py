"""Trials that adaptive allocation needs, against a uniform grid: in simulation, and on the recovery experiment.

Run: ``pytest benchmarks/bench_adaptive.py``. A uniform grid gets its trials evenly, value after value; after every eight of them the
same posterior is fitted, and it ends when its interval is as narrow as the target. Both are charged trials per row.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import expit, ndtr

from benchmarks.table import Table, seconds, times
from pruneft.experiments.recovery import RECOVERY
from pruneft.sensing import theory
from pruneft.sweep import Ledger, Transition, adaptive_sweep, make_grid, sweep
from pruneft.sweep.adaptive import Model, Verdict, judge, posterior, simulate

TARGET = 0.05
LOW, HIGH = 1.0, 2.0
POINTS = 21
ROWS = 1000
_EACH = 8
# Coprime to the number of points, so that a pass over them that is not complete is spread evenly as well.
_STRIDE = 8
_MOST = 1600

AXES = {"d": [16], "r": [1, 2, 4], "method": ["path"]}
UNIFORM_SEEDS = 40


class Truth(NamedTuple):
    """A success curve per row: x [m], half [rows] -> probabilities [rows, m], and what varies in it."""

    name: str
    half: tuple[float, float]
    chance: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    width: tuple[float, float] = (0.04, 0.04)


def _logistic(saturation: float) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    return lambda x, half, width: saturation * expit((x - half) / width - np.log(2 * saturation - 1))


def _probit(x: np.ndarray, half: np.ndarray, width: np.ndarray) -> np.ndarray:
    return ndtr((x - half) / (1.7 * width))


def _gumbel(x: np.ndarray, half: np.ndarray, width: np.ndarray) -> np.ndarray:
    return -np.expm1(-np.log(2) * np.exp((x - half) / (1.3 * width)))


_NEAR = (1.1, 1.7)
TRUTHS = (
    Truth("width .04", _NEAR, _logistic(1.0)),
    Truth("width .04, saturates at .95", _NEAR, _logistic(0.95)),
    Truth("width .04, saturates at .8", _NEAR, _logistic(0.8)),
    Truth("width .01", _NEAR, _logistic(1.0), (0.01, 0.01)),
    Truth("width .08", _NEAR, _logistic(1.0), (0.08, 0.08)),
    Truth("width .02 to .08, centre 1.02 to 1.7", (1.02, 1.7), _logistic(1.0), (0.02, 0.08)),
    Truth("probit, not logistic", _NEAR, _probit),
    Truth("Gumbel, not logistic", _NEAR, _gumbel),
)


class Found(NamedTuple):
    """Intervals of simulated rows, and what they cost."""

    trials: np.ndarray
    held: np.ndarray
    error: np.ndarray
    ended: np.ndarray


def uniform(model: Model, x: np.ndarray, draw: Callable[[np.ndarray, int], np.ndarray], rows: int) -> tuple[Any, Any]:
    """Verdicts and trials of rows whose trials are spread evenly over x.

    Args:
      model: the curves.
      x: [m] the grid's values.
      draw: (rows, place) -> successes as 0 or 1, one trial of each row at x[place].
      rows: how many.
    """
    curves = model.curves(x)
    won, lost = np.zeros((rows, len(x))), np.zeros((rows, len(x)))
    verdicts: list[Verdict] = [Verdict(np.nan, -np.inf, np.inf, "open")] * rows
    spent = np.zeros(rows, int)
    active, trial = np.arange(rows), 0
    while active.size and trial < _MOST:
        for _ in range(_EACH):
            place = trial * _STRIDE % len(x)
            success = draw(active, place)
            won[active, place] += success
            lost[active, place] += 1 - success
            trial += 1
        told = posterior(model, curves, won[active], lost[active])
        going = []
        for centre, row in zip(told.centre, active, strict=True):
            verdicts[row], spent[row] = judge(model, centre, trial), trial
            if verdicts[row].flag == "open":
                going.append(row)
        active = np.array(going, int)
    return verdicts, spent


def by_simulation(truth: Truth, rule: str, *, dof: int = 58, rows: int = ROWS, seed: int = 0) -> Found:
    """Rows of a known truth, each to the target, by ``"adaptive"`` or ``"uniform"``.

    Args:
      truth: their success curves.
      rule: which of the two.
      dof: whole n per unit of x, what adaptive trials are rounded to.
      rows, seed: how many, and of their draws.
    """
    random = np.random.default_rng(seed)
    half, width = random.uniform(*truth.half, rows), random.uniform(*truth.width, rows)
    model = Model(low=LOW, high=HIGH, target=TARGET)
    steps = dof if rule == "adaptive" else POINTS - 1
    x = LOW + np.arange(steps + 1) / steps
    chance = truth.chance(x, half[:, None], width[:, None])
    if rule == "adaptive":
        verdicts, trials = simulate(model, x, chance, seed=seed + 1)
    else:
        verdicts, trials = uniform(
            model, x, lambda active, place: (random.random(active.size) < chance[active, place]).astype(float), rows
        )
    low, high = (np.array([getattr(verdict, end) for verdict in verdicts]) for end in ("low", "high"))
    return Found(
        trials,
        (low <= half) & (half <= high),
        np.array([verdict.estimate for verdict in verdicts]) - half,
        np.array([verdict.flag == "ok" for verdict in verdicts]),
    )


def recovery_adaptive(directory: Path) -> list[Transition]:
    """The transitions of the recovery experiment, adaptively, ledger and all."""
    grid = make_grid(RECOVERY, {**AXES, "n_per_dof": [LOW, HIGH]})
    return adaptive_sweep(RECOVERY, grid, directory, target=TARGET).transitions


def recovery_uniform(directory: Path) -> dict[int, tuple[Verdict, int]]:
    """Rank -> verdict and trials of a uniform grid on the recovery experiment; ``"open"`` where its seeds ran out."""
    grid = make_grid(RECOVERY, {**AXES, "n_per_dof": np.linspace(LOW, HIGH, POINTS)}, UNIFORM_SEEDS)
    done = sweep(RECOVERY, grid, directory)
    with Ledger.open(done.path, read_only=True) as ledger:
        rows = ledger.rows()
    model = Model(low=LOW, high=HIGH, target=TARGET)
    found = {}
    for r in AXES["r"]:
        outcome = {(row["n"], row["seed"]): bool(row["success"]) for row in rows if row["r"] == r}
        values = sorted({n for n, _ in outcome})
        found[r] = _evenly(model, np.array(values) / theory.dof(16, r), outcome, values)
    return found


def _evenly(
    model: Model, x: np.ndarray, outcome: dict[tuple[int, int], bool], values: list[int]
) -> tuple[Verdict, int]:
    curves, won, lost = model.curves(x), np.zeros((1, len(x))), np.zeros((1, len(x)))
    stride = next(step for step in range(_STRIDE, len(x) + _STRIDE) if np.gcd(step, len(x)) == 1)
    verdict, trial = Verdict(np.nan, -np.inf, np.inf, "open"), 0
    while verdict.flag == "open" and trial + _EACH <= len(outcome):
        for _ in range(_EACH):
            place = trial * stride % len(x)
            success = outcome[values[place], trial // len(x)]
            won[0, place] += success
            lost[0, place] += not success
            trial += 1
        verdict = judge(model, posterior(model, curves, won, lost).centre[0], trial)
    return verdict, trial


@pytest.mark.parametrize("rule", ["adaptive", "uniform"])
def bench_simulation(rule: str, benchmark: Any) -> None:
    benchmark.group = "100 rows to the target"
    found = benchmark.pedantic(by_simulation, args=(TRUTHS[0], rule), kwargs={"rows": 100}, rounds=2)
    benchmark.extra_info["trials"] = float(found.trials.mean())


def measure() -> list[Table]:
    """The tables of this file."""
    return [simulation_table(), recovery_table()]


def simulation_table() -> Table:
    """Trials and coverage by simulation."""
    rows, shares, coverage = [], [], []
    for place, truth in enumerate(TRUTHS):
        found = {rule: by_simulation(truth, rule, seed=100 + place) for rule in ("adaptive", "uniform")}
        ours, even = found["adaptive"], found["uniform"]
        shares.append(ours.trials.mean() / even.trials.mean())
        coverage.append(ours.held.mean())
        rows.append(
            [
                truth.name,
                *(
                    f"{one.trials.mean():.0f} ({np.quantile(one.trials, 0.95):.0f}), {one.held.mean():.3f}, "
                    f"{np.sqrt(np.nanmean(one.error**2)):.4f}"
                    for one in (ours, even)
                ),
                f"{shares[-1]:.0%}",
                f"{ours.ended.mean():.1%}",
            ]
        )
    return Table(
        title=f"Simulation: 95% interval of width {TARGET}, range 1 to 2, {ROWS} rows each",
        columns=[
            "success curve",
            "adaptive, dof 58: trials (95%), coverage, rmse",
            f"uniform, {POINTS} values: trials (95%), coverage, rmse",
            "adaptive / uniform",
            "reached the target",
        ],
        rows=rows,
        says=f"Adaptive allocation needs {min(shares):.0%} to {max(shares):.0%} of the uniform grid's trials at the same width; "
        f"its intervals hold {min(coverage):.3f} to {max(coverage):.3f} of the truths",
    )


def recovery_table() -> Table:
    """Trials on the real experiment."""
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        ours = recovery_adaptive(Path(place) / "adaptive")
        middle = time.perf_counter()
        even = recovery_uniform(Path(place) / "uniform")
        taken = middle - begin, time.perf_counter() - middle
    rows, total = [], [0, 0]
    for row in ours:
        verdict, trials = even[row.cell["r"]]
        total[0] += row.trials
        total[1] += trials
        rows.append(
            [
                f"r = {row.cell['r']}",
                f"{row.low:.3f} to {row.high:.3f}, {row.flag}, n* = {row.reached.get('n', '-')}",
                str(row.trials),
                f"{verdict.low:.3f} to {verdict.high:.3f}, {verdict.flag}",
                f"{'' if verdict.flag == 'ok' else 'more than '}{trials}",
                f"{row.trials / trials:.0%}",
            ]
        )
    rows.append(["all", "", str(total[0]), "", str(total[1]), f"{total[0] / total[1]:.0%}"])
    return Table(
        title=f"Recovery by the rank path, d = 16: n/dof at 50%, width {TARGET}, range 1 to 2",
        columns=["row", "adaptive", "trials", f"uniform, {POINTS} values", "trials", "adaptive / uniform"],
        rows=rows,
        says=f"Adaptive allocation took {times(total[1] / total[0])} times fewer trials. It ran {seconds(taken[0])}, compilation "
        f"included; the uniform grid with all its {UNIFORM_SEEDS} seeds {seconds(taken[1])}",
    )
