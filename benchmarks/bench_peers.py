"""pruneft against its peers on the same instances, over measurements per degree of freedom and noise.

Run: ``python -m benchmarks.bench_peers``, or ``python -m benchmarks.collect peers``, which also writes the figure. With
PRUNEFT_BENCH_BRIEF=1 in the environment four instances a cell and three values of n/dof.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import more_peers, peers
from benchmarks.alone import tell
from benchmarks.table import Table, seconds, times
from pruneft import Problem, recover
from pruneft.sensing import PackedOperator, smat, theory
from pruneft.sensing.draw import draw_instance

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
D, R = 16, 2
RATIOS = (1.1, 1.5, 3.0) if BRIEF else (1.05, 1.1, 1.2, 1.5, 2.0, 3.0)
NOISES = (0.0, 0.01, 0.1)
INSTANCES = 4 if BRIEF else 16
FIGURE = Path(__file__).with_name("figures") / "peers.png"
EXACT = 1e-3  # relative error of a success without noise
ORACLE = 3.0  # with noise: a success has at most so many times the error of least squares from the truth
EIGENVALUE = 1e-2  # share of the largest above which an eigenvalue counts; all of the truth's are equal
OWN = ("pruneft, path", "pruneft, prune")
KNOWS = {
    "pruneft, path": "nothing",
    "pruneft, prune": "noise",
    "trace minimisation": "noise",
    "log-det IRLS": "noise",
    "weight decay, cut, LM": "noise",
    "small start, stopped by hold-out": "nothing",
    "LM, rank scan, BIC": "nothing",
    "LM, rank scan, hold-out": "nothing",
    "spectral descent": "rank",
    "ScaledGD": "rank",
    "LM, 20 restarts": "rank",
}
Key = tuple[float, float, str]  # n/dof, noise, method


class Instance(NamedTuple):
    """One drawn problem, float64, as pruneft takes it and as the peers do, with the error of the fit from the truth."""

    rows: jax.Array
    matrices: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    sigma: float
    oracle: float


class Cell(NamedTuple):
    """What one method did on the instances of one cell.

    Attributes:
      errors: relative, Frobenius; infinite where the method failed.
      successes, exact: how many succeeded and how many had the right rank.
      seconds: of each instance.
      share: error over that of the fit from the truth, median; 0 noise: the median error itself.
    """

    errors: list[float]
    successes: int
    exact: int
    seconds: list[float]
    share: float


def draw(n: int, sigma: float, seed: int) -> Instance:
    """An instance and the error of its oracle: Levenberg-Marquardt at the true rank, from the truth."""
    drawn = draw_instance(jax.random.key(seed), n=n, d=D, r=R, sigma=sigma, dtype=jnp.float64)
    rows = drawn.operator.rows.astype(jnp.float64)
    matrices, y, truth = np.asarray(smat(rows)), np.asarray(drawn.y), np.asarray(drawn.truth)
    oracle = 0.0
    if sigma > 0:
        factor = peers.leading(truth, R)
        best, _ = more_peers.least_squares_from(matrices, y, factor)
        oracle = relative(best @ best.T, truth)
    return Instance(rows, matrices, y, truth, sigma, oracle)


def relative(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Relative error in Frobenius norm; infinite where the estimate is not finite."""
    error = float(np.linalg.norm(estimate - truth) / np.linalg.norm(truth))
    return error if np.isfinite(error) else float("inf")


def methods(n: int, sigma: float) -> dict[str, Callable[[Instance], np.ndarray]]:
    """Name -> solver, for one cell; random starts are the same in every run."""
    trace = peers.TraceMinimisation(n, D, noisy=sigma > 0)
    rng = np.random.default_rng(0)

    def own(method: Any, told: bool) -> Callable[[Instance], np.ndarray]:
        return lambda it: (
            recover(Problem(PackedOperator(it.rows), it.y), method=method, sigma=it.sigma if told else None).matrix
        )

    found: dict[str, Callable[[Instance], np.ndarray]] = {
        "pruneft, path": own("path", False),
        "pruneft, prune": own("prune", True),
        "trace minimisation": lambda it: trace(it.matrices, it.y, it.sigma),
        "log-det IRLS": lambda it: peers.log_det_irls(it.matrices, it.y, sigma=it.sigma),
        "weight decay, cut, LM": lambda it: more_peers.decayed_weights(it.matrices, it.y, rng, sigma=it.sigma),
        "small start, stopped by hold-out": lambda it: more_peers.stopped_early(it.matrices, it.y, rng),
        "LM, rank scan, BIC": lambda it: more_peers.scanned_least_squares(it.matrices, it.y, rng),
        "LM, rank scan, hold-out": lambda it: more_peers.scanned_least_squares(
            it.matrices, it.y, rng, select="hold-out"
        ),
        "spectral descent": lambda it: peers.spectral_descent(it.matrices, it.y, R, steps=4000),
        "ScaledGD": lambda it: more_peers.scaled_descent(it.matrices, it.y, R),
        "LM, 20 restarts": lambda it: peers.restarted_least_squares(it.matrices, it.y, R, rng),
    }
    return found


def compare() -> dict[Key, Cell]:
    """Every method on every instance."""
    found: dict[Key, Cell] = {}
    for ratio in RATIOS:
        n = round(ratio * theory.dof(D, R))
        for sigma in NOISES:
            tell(f"peers: n/dof {ratio:g}, noise {sigma:g}")
            instances = [draw(n, sigma, seed) for seed in range(INSTANCES)]
            solvers = methods(n, sigma)
            for name in solvers:
                if name in OWN or name == "trace minimisation":
                    solvers[name](draw(n, sigma, 1000))  # compiled, and set up, before it is timed
            taken: dict[str, list[tuple[float, np.ndarray | None]]] = {name: [] for name in solvers}
            for instance in instances:
                for name, solve in solvers.items():
                    begin = time.perf_counter()
                    try:
                        estimate = solve(instance)
                    except Exception as error:  # a solver that gives up has failed on this instance, and no other
                        tell(f"peers: {name} gave up: {type(error).__name__}: {error}")
                        estimate = None
                    taken[name].append((time.perf_counter() - begin, estimate))
            for name, runs in taken.items():
                found[ratio, sigma, name] = _cell(instances, runs)
    return found


def _cell(instances: list[Instance], runs: list[tuple[float, np.ndarray | None]]) -> Cell:
    errors, shares, exact = [], [], 0
    successes = 0
    for instance, (_, estimate) in zip(instances, runs, strict=True):
        if estimate is None or not np.isfinite(estimate).all():
            errors.append(float("inf"))
            shares.append(float("inf"))
            continue
        error = relative(estimate, instance.truth)
        values = np.linalg.eigvalsh(estimate)
        exact += int(np.sum(values > EIGENVALUE * values[-1])) == R
        successes += error < max(EXACT, ORACLE * instance.oracle)
        errors.append(error)
        shares.append(error / instance.oracle if instance.oracle else error)
    return Cell(errors, successes, exact, [taken for taken, _ in runs], statistics.median(shares))


def measure() -> list[Table]:
    """The tables of this file, and the figure beside them."""
    found = compare()
    FIGURE.parent.mkdir(exist_ok=True)
    from pruneft.plot import save

    save(draw_figure(found), FIGURE)
    return [*(_table(found, sigma) for sigma in NOISES), _summary(found)]


def _table(found: Mapping[Key, Cell], sigma: float) -> Table:
    rows = []
    for name, knows in KNOWS.items():
        cells = [found[ratio, sigma, name] for ratio in RATIOS]
        rows.append([name, knows, *(_show(cell, sigma) for cell in cells)])
    what = f"noise {sigma:g}" if sigma else "no noise"
    last = "median error / oracle's" if sigma else "median error"
    return Table(
        title=f"d = {D}, r = {R}, {what}, {INSTANCES} instances a cell: success · exact rank · {last} · median time",
        columns=["method", "is told", *(f"n/dof {ratio:g}" for ratio in RATIOS)],
        rows=rows,
        says=_verdict(found, sigma),
    )


def _show(cell: Cell, sigma: float) -> str:
    share = "failed" if not np.isfinite(cell.share) else f"{cell.share:.2f}" if sigma else f"{cell.share:.0e}"
    count = len(cell.errors)
    return f"{_rate(cell.successes, count)} · {_rate(cell.exact, count)} · {share} · {seconds(statistics.median(cell.seconds))}"


def _rate(hits: int, of: int) -> str:
    return "1" if hits == of else f"{hits / of:.2f}".lstrip("0") if hits else "0"


def _verdict(found: Mapping[Key, Cell], sigma: float) -> str:
    """Where a peer had more successes than `path`, cell by cell, and whether chance can explain it."""
    parts = []
    for ratio in RATIOS:
        own = found[ratio, sigma, OWN[0]].successes
        better = [
            f"{name} ({cell.successes}/{INSTANCES}{', told the rank' if KNOWS[name] == 'rank' else ''})"
            for name in KNOWS
            if name not in OWN and (cell := found[ratio, sigma, name]).successes > own
        ]
        if better:
            parts.append(f"at n/dof {ratio:g} (`path` {own}/{INSTANCES}): {', '.join(better)}")
    if not parts:
        return "No peer has more successes than `path` at any n/dof."
    return f"**Peers that win** over `path` in successes: {'; '.join(parts)}."


def _summary(found: Mapping[Key, Cell]) -> Table:
    rows = []
    for name, knows in KNOWS.items():
        cells = [found[ratio, sigma, name] for ratio in RATIOS for sigma in NOISES]
        total = len(cells) * INSTANCES
        per_cell = [
            statistics.median(cell.seconds) / statistics.median(found[ratio, sigma, OWN[0]].seconds)
            for ratio in RATIOS
            for sigma in NOISES
            for cell in (found[ratio, sigma, name],)
        ]
        rows.append(
            [
                name,
                knows,
                f"{sum(cell.successes for cell in cells)}/{total}",
                f"{sum(cell.exact for cell in cells)}/{total}",
                seconds(statistics.median(t for cell in cells for t in cell.seconds)),
                times(statistics.median(per_cell)),
                f"{sum(t for cell in cells for t in cell.seconds):.3g} s",
            ]
        )
    counts = {row[0]: int(row[2].split("/")[0]) for row in rows}
    mine = counts[OWN[0]]
    ahead = [f"{name} ({count})" for name, count in counts.items() if name not in OWN and count > mine]
    quick = [row[0] for row in rows if row[0] not in OWN and float(row[5]) < 0.85]
    says = (
        f"**More successes in all than `path` ({mine}):** {', '.join(ahead)}"
        if ahead
        else f"No peer has more successes in all than `path` ({mine})"
    )
    return Table(
        title="All cells together",
        columns=["method", "is told", "success", "exact rank", "median time", "time / path, median of cells", "total"],
        rows=rows,
        says=f"{says}; faster than `path` in the median cell: {', '.join(quick) or 'none'}.",
    )


def draw_figure(found: Mapping[Key, Cell]) -> Any:
    """Success above, error below, over n/dof, one column of panels for each noise level, one line for each method.

    Errors are relative without noise, and in units of the oracle's with it. The distance of n/dof from 1 is what is on a
    logarithmic scale: it is there that methods part.
    """
    from pruneft.plot._style import MARKERS, TWO_COLUMNS, dress, legend_of_figure, new_figure, open_frame, series_style

    figure = new_figure(TWO_COLUMNS, 4.8)
    axes = figure.subplots(2, len(NOISES), sharex=True, squeeze=False)
    handles: list[Any] = []
    where = [ratio - 1 for ratio in RATIOS]
    for column, sigma in enumerate(NOISES):
        above, below = axes[0][column], axes[1][column]
        for index, name in enumerate(KNOWS):
            # Eleven lines, seven styles: those that repeat one are drawn with open markers. Ours are wide, and below the others.
            look = {**series_style(index), "marker": MARKERS[index % len(MARKERS)], "markersize": 3.2, "linewidth": 1.0}
            look |= {"markerfacecolor": "white"} if index >= len(MARKERS) else {}
            look |= {"linewidth": 2.6, "markersize": 5.0, "zorder": 1.5} if name in OWN else {}
            cells = [found[ratio, sigma, name] for ratio in RATIOS]
            told = KNOWS[name]
            label = name if told == "nothing" else f"{name} (told the {told})"
            above.plot(where, [cell.successes / INSTANCES for cell in cells], label=label, **look)
            (line,) = below.plot(where, [max(cell.share, 1e-12) for cell in cells], label=label, **look)
            handles += [line] if column == 0 else []
        dress(above, y="success" if column == 0 else None, title=f"noise {sigma:g}" if sigma else "no noise")
        dress(below, x="n / dof", y="median error / oracle's" if sigma else "median relative error")
        below.set_yscale("log")
        for ax in (above, below):
            ax.set_xscale("log")
            ax.set_xticks(where, [f"{ratio:g}" for ratio in RATIOS])
            ax.set_xticks([], minor=True)
            open_frame(ax)
        above.set_ylim(-0.04, 1.04)
    legend_of_figure(figure, handles, columns=3)
    return figure


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for table in measure():
        print(table.markdown(), end="\n\n")
