"""The transition of the rank path, noiseless and rank unknown, and what the penalty contributes to it.

Run: ``python -m benchmarks.collect limit``. Sweeps keep their ledgers under ``runs/limit`` (``PRUNEFT_BENCH_RUNS`` names another
folder), so a run that was cut off goes on, and what was finished before it counts. ``PRUNEFT_BENCH_SMALL=1`` makes all of it
small, to try it out. ``PRUNEFT_BENCH_FINISHED=1`` runs nothing and reports what is there.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers, starts
from benchmarks.table import Table, seconds, times
from pruneft.experiments.phase import draw
from pruneft.experiments.recovery import RECOVERY, experiment
from pruneft.sensing import PathRecipe, draw_instance, smat, theory
from pruneft.sweep import Ledger, cells, make_grid, run_trials, sweep, wilson
from pruneft.sweep.code import code_of
from pruneft.trial import wrap_key

SMALL = bool(os.environ.get("PRUNEFT_BENCH_SMALL"))
FINISHED = bool(os.environ.get("PRUNEFT_BENCH_FINISHED"))
RUNS = Path(os.environ.get("PRUNEFT_BENCH_RUNS", "runs/limit-small" if SMALL else "runs/limit"))
FIGURE = Path(__file__).parent / "figures" / "transition.png"

RATIOS = (1.02, 1.05, 1.1, 1.2, 1.3)
# (d, ranks, seeds), the cheap ones first: a trial at d = 32, r = 16 costs as much as some hundred at d = 16, r = 4.
TRANSITION: tuple[tuple[int, tuple[int, ...], int], ...] = (
    ((8, (1, 2), 4),)
    if SMALL
    else (
        (16, tuple(range(1, 9)), 64),
        (24, tuple(range(1, 9)), 64),
        (32, tuple(range(1, 9)), 64),
        (24, tuple(range(9, 13)), 64),
        (32, tuple(range(9, 17)), 64),
    )
)
# (r, instances): what one start contributes at d = 16, n = 1.1 dof, known rank.
PENALTY: tuple[tuple[int, int], ...] = ((2, 8),) if SMALL else ((1, 256), (2, 256), (4, 256), (8, 64))
ANNEALS = (60, 150)
WHOLE = ((2, 8),) if SMALL else ((1, 256), (2, 256), (4, 256), (8, 64))
RACE, RACE_SEEDS = ((2,), 2) if SMALL else ((1, 2, 4, 8), 16)
EXACT_RESIDUAL = PathRecipe().exact ** 0.5


def measure() -> list[Table]:
    """The tables of this file; the figure is written beside them."""
    tables = [penalty_table(), whole_table(), *transition_tables()]
    return tables if FINISHED else [*tables, race_table()]


def penalty_table() -> Table:
    """Success of the first 1, 2, 4, 8 starts at known rank, with the penalty and without it, on the same instances."""
    rows, gains = [], []
    for r, instances in PENALTY:
        n = round(1.1 * theory.dof(starts.D, r))
        for steps in ANNEALS:
            found = {}
            for name, lam in (("with", None), ("without", 0.0)):
                success = _kept(r=r, n=n, steps=steps, lam=lam, instances=instances)
                if success is None:
                    break
                found[name] = starts.union(success)
                rows.append(
                    [f"{r}", f"{n}", f"{steps}", name, f"{instances}"]
                    + [_share(found[name][count], instances) for count in starts.COUNTS]
                )
            if len(found) == 2:
                gains.append((found["with"][1] - found["without"][1]) / instances)
    return Table(
        title="One start at a time, rank known: d = 16, n = 1.1 dof, noiseless; success of the first 1, 2, 4, 8 starts",
        columns=["r", "n", "steps", "penalty", "instances", *(f"{count}" for count in starts.COUNTS)],
        rows=rows,
        says=f"Shares with 95 percent Wilson intervals. With one start the penalty adds {_range(gains)}.",
    )


def _kept(**asked: Any) -> np.ndarray | None:
    """`starts.successes`, kept beside the ledgers under the code that made it."""
    name = "-".join(str(value) for value in asked.values())
    path = RUNS / f"starts-{name}-{code_of(RECOVERY).hash[:12]}.npy"
    if not path.exists():
        if FINISHED:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, starts.successes(**asked))
    return np.load(path)


def whole_table() -> Table:
    """The whole path, one round of four starts and the recipe's rounds, with the penalty and without it."""
    rows = []
    said: dict[str, list[float]] = {"one of 150": [], "recipe": []}
    for r, seeds in WHOLE:
        for name, attempts in (("one of 150", (150,)), ("recipe", PathRecipe().attempts)):
            path = experiment(path=PathRecipe(attempts=attempts))
            shares = []
            for lam in (None, 0.0):
                axes = {"d": 16, "r": r, "n_per_dof": 1.1, "method": "path"} | ({} if lam is None else {"lam": lam})
                where = RUNS / f"whole-{len(attempts)}"
                if not FINISHED:
                    sweep(path, make_grid(path, axes, seeds), where, processes=1)
                found = [row for row in _stored(where) if (row["r"], row["lam"]) == (r, lam)]
                if len(found) < seeds:
                    break
                won = sum(bool(row["success"]) for row in found)
                shares.append(won / len(found))
                penalty = "without" if lam == 0 else "with"
                rows.append([f"{r}", name, penalty, f"{len(found)}", _share(won, len(found))])
            if len(shares) == 2:
                said[name].append(shares[0] - shares[1])
    return Table(
        title="The whole path, rank unknown: d = 16, n = 1.1 dof, noiseless, four starts a round",
        columns=["r", "rounds", "penalty", "instances", "success"],
        rows=rows,
        says=f"To the success of one round the penalty adds {_range(said['one of 150'])}, after all rounds {_range(said['recipe'])}: "
        "without it each start succeeds less often, and more rounds make up for that.",
    )


def race_table() -> Table:
    """Processor time and success against Levenberg-Marquardt that is told the rank, 20 restarts, on the same instances.

    Both in this process on one core; the engine's programs are compiled by a first pass over the same trials.
    """
    rows, shares = [], []
    for r in RACE:
        axes = {"d": 16, "r": r, "n_per_dof": (1.05, 1.1), "method": "path"}
        trials = [
            (cell, seed)
            for cell in cells(RECOVERY, make_grid(RECOVERY, axes, RACE_SEEDS))
            for seed in range(RACE_SEEDS)
        ]
        for _ in range(2):
            begin = time.process_time()
            ours = [row for batch in run_trials(RECOVERY, trials) for row in batch]
            taken = time.process_time() - begin
        won = sum(bool(row.report["success"]) for row in ours)
        rng = np.random.default_rng(0)
        theirs, beaten = 0.0, 0
        for cell, seed in trials:
            key = wrap_key(RECOVERY.key_data(cell, seed))
            drawn = draw_instance(key, n=cell["n"], d=16, r=r, dtype="float64")
            matrices, y, truth = (
                np.asarray(smat(drawn.operator.rows.astype("float64"))),
                np.asarray(drawn.y),
                np.asarray(drawn.truth),
            )
            begin = time.process_time()
            estimate = peers.restarted_least_squares(matrices, y, r, rng)
            theirs += time.process_time() - begin
            beaten += bool(np.linalg.norm(estimate - truth) < starts.EXACT_ERROR * np.linalg.norm(truth))
        shares.append(taken / theirs)
        each = [seconds(total / len(trials)) for total in (taken, theirs)]
        rows.append([f"{r}", f"{won}/{len(trials)}", f"{beaten}/{len(trials)}", *each, times(shares[-1])])
    return Table(
        title="Against known-rank Levenberg-Marquardt (SciPy, 20 restarts): d = 16, n = 1.05 and 1.1 dof, noiseless",
        columns=["r", "path, rank unknown", "LM, rank known", "path, each", "LM, each", "path / LM"],
        rows=rows,
        says=f"The path in the sweep engine takes {times(min(shares))} to {times(max(shares))} of the processor time.",
    )


def transition_tables() -> list[Table]:
    """Success over (d, r, n), and how the failures ended; the figure is drawn from the same rows."""
    where = RUNS / "transition"
    if not FINISHED:
        for d, ranks, seeds in TRANSITION:
            axes = {"d": [d], "r": list(ranks), "n_per_dof": list(RATIOS), "method": ["path"]}
            sweep(RECOVERY, make_grid(RECOVERY, axes, seeds), where, processes=1)
    rows = _stored(where)
    FIGURE.parent.mkdir(exist_ok=True)
    if not SMALL:
        draw(rows).savefig(FIGURE, dpi=150, bbox_inches="tight")
    return [success_table(rows), failure_table(rows)]


def success_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Successes of trials, cell by cell, with n - dof in brackets."""
    groups = _by(rows, ("d", "r", "n"))
    body = []
    for d, r in sorted({(key[0], key[1]) for key in groups}):
        line = [f"{d}", f"{r}"]
        for ratio in RATIOS:
            n = max(1, round(ratio * theory.dof(d, r)))
            found = groups.get((d, r, n), [])
            won = sum(bool(row["success"]) for row in found)
            line.append(f"{won}/{len(found)} ({n - theory.dof(d, r)})" if found else "not run")
        body.append(line)
    return Table(
        title="Successes of trials, noiseless, rank unknown, the recipe's rounds; n - dof in brackets",
        columns=["d", "r", *(f"n = {ratio} dof" for ratio in RATIOS)],
        rows=body,
        says=f"{len(rows)} trials. At n = dof (0 in brackets) nothing can identify the matrix, and the verdict says so.",
    )


def failure_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What happened to identifiable trials: solved by which round, refused, or wrong."""
    budget = PathRecipe().attempts
    parts = ((0, budget[0]), (budget[0], sum(budget[:2])), (sum(budget[:2]), sum(budget)))
    body, wrong_exact = [], 0
    identifiable = [row for row in rows if row["n"] > theory.dof(row["d"], row["r"])]
    for ratio in RATIOS:
        found = [row for row in identifiable if row["n"] == round(ratio * theory.dof(row["d"], row["r"]))]
        if not found:
            continue
        solved = Counter(row["steps"] for row in found if row["success"])
        failed = [row for row in found if not row["success"]]
        accepted = [row for row in failed if row["status"] in (1, 2)]
        exact = sum(row["residual"] <= EXACT_RESIDUAL for row in failed)
        wrong_exact += exact
        first, second, later = (
            sum(count for steps, count in solved.items() if low < steps <= high) for low, high in parts
        )
        refused = len(failed) - len(accepted)
        body.append([f"{ratio}", *map(str, (len(found), first, second, later, refused, len(accepted), exact))])
    return Table(
        title="Where trials end that have more measurements than degrees of freedom, all d and r together",
        columns=[
            "n/dof",
            "trials",
            "solved in round 1",
            "in round 2",
            "later",
            "refused",
            "accepted, wrong",
            "exact fit, wrong",
        ],
        rows=body,
        says=(
            "No wrong matrix fitted the data exactly: what is left is search, not the limit of information."
            if not wrong_exact
            else f"{wrong_exact} wrong matrices fitted the data exactly."
        ),
    )


def _stored(where: Path) -> list[dict[str, Any]]:
    path = where / "ledger.sqlite"
    if not path.exists():
        return []
    with Ledger.open(path, read_only=True) as ledger:
        return ledger.rows()


def _by(rows: Iterable[Mapping[str, Any]], axes: Sequence[str]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in axes)].append(row)
    return groups


def _range(values: Sequence[float]) -> str:
    return f"{min(values):+.3f} to {max(values):+.3f}" if values else "(nothing run)"


def _share(successes: int, trials: int) -> str:
    low, high = wilson(successes, trials)
    return f"{successes / trials:.3f} ({low:.2f}, {high:.2f})"
