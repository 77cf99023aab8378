"""Run an experiment adaptively: trials go where the 50 % transition of each row is still uncertain.

A **row** is one combination of the other axes; along it lie the cells that the experiment makes of the axis between the
ends of the range. Every round all rows that are not done get a batch (`pruneft.sweep.adaptive`), which run together; a
cell that comes again takes the next seed. Rows of trials go to an ordinary ledger, so everything that reads a ledger
reads this one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pruneft.status import Status
from pruneft.sweep.adaptive import Curves, Model, Verdict, allocate, judge, nearest_places, posterior
from pruneft.sweep.adaptive_rows import GridRow, adaptive_axis, grid_rows
from pruneft.sweep.code import code_of
from pruneft.sweep.driver import interruptible, manifest
from pruneft.sweep.engine import check_processes, run_plan
from pruneft.sweep.grid import Grid
from pruneft.sweep.keeper import Keeper
from pruneft.sweep.ledger import Ledger, Row
from pruneft.sweep.local import Settings
from pruneft.sweep.plan import Planned, plan
from pruneft.sweep.runs import LEDGER_NAME, hold
from pruneft.trial import Experiment, canonical_json

MOST_TRIALS = 400
_LANES = 8
# The round in hand, so that a run killed within it goes on as if nothing had happened. What was found is in the ledger
# alone; without this file the run goes on as well, with a batch chosen from what there is.
_ROUND_NAME = "adaptive-round.json"
# A row is too coarse for its target once so many trials lie around a gap that decides them all.
_COARSE_TRIALS = 40
_COARSE_RATES = (0.05, 0.85)


class Transition(NamedTuple):
    """Where success of one row passes one half.

    Attributes:
      cell: the row: axes of the resolved cells that do not vary along it.
      estimate: posterior median of the x at which the success probability is 1/2; NaN where it lies outside the range.
      low, high: its central 95 % credible interval; open (infinite) to the side where it lies outside the range.
      trials: how many the row has, those of earlier runs in the ledger included.
      flag: ``"ok"``: the interval is as narrow as the target. ``"below"``, ``"above"``: the transition lies outside the
        range on this side; widen it. ``"limit"``: the row has had its most trials. ``"coarse"``: the transition is sharper
        than the steps that the experiment can make along the axis, so no trial can tell more. ``"open"``: not done.
      reached: what varies along the row at the first attainable x at or above the estimate, ``{"n": 41}`` for example (at
        or below it where success falls); empty where there is none.
    """

    cell: dict[str, Any]
    estimate: float
    low: float
    high: float
    trials: int
    flag: str
    reached: dict[str, Any]


class Adapted(NamedTuple):
    """What an adaptive sweep did.

    Attributes:
      path: the ledger.
      transitions: one per row, in the order of the grid.
      new: trials that were run now.
    """

    path: Path
    transitions: list[Transition]
    new: int


def adaptive_sweep(
    experiment: Experiment,
    grid: Grid,
    run_dir: str | Path,
    *,
    target: float,
    axis: str | None = None,
    rising: bool = True,
    most: int = MOST_TRIALS,
    dtype: str = "float64",
    lanes: int | None = None,
    processes: int = 1,
    max_steps: int = Settings().max_steps,
    remarks: Mapping[str, Any] | None = None,
    on_round: Callable[[Sequence[Transition]], None] | None = None,
    on_rows: Callable[[Sequence[Row]], None] | None = None,
    on_stop: Callable[[], None] | None = None,
) -> Adapted:
    """Run trials until the 50 % transition of every row is known to ``target``.

    What is estimated is the x at which the success probability itself is one half, also where success saturates below 1.
    Running it again on the same run takes every trial of its rows in the ledger into account, whoever ran it, and goes
    on; where the target is met it runs nothing.

    Args:
      experiment: what to run; its ``success`` is what counts.
      grid: rows are the product of its other axes; the least and largest value of ``axis`` are the range. Its number of
        seeds is not used.
      run_dir: the run's directory, made if needed; one process at a time may write to it.
      target: width of the 95 % interval to reach, in units of the axis.
      axis: a float axis, direct or derived; the experiment's only derived one if not given.
      rising: whether success rises along the axis.
      most: trials per row at most; rows that get there are flagged.
      dtype, lanes, max_steps, remarks, on_stop: as in `sweep`.
      processes: that share each round's trials. Rounds are short: it pays where trials are dear.
      on_round: called before the first round and after each, with the rows as they stand.
      on_rows: called after rows were stored.

    Raises:
      ValueError: axis, range, target or another argument makes no sense.
      LedgerError: the run holds other trials, is held by another process, or cannot be written. Stored trials stay.
      TrialError: the trial's own code fails.
      KeyboardInterrupt: after a clean stop.
    """
    if most < 1:
        raise ValueError(f"most (trials per row) must be at least 1: got {most}.")
    planned = plan_adaptive(experiment, grid, target=target, axis=axis, rising=rising)
    model = planned.model
    rows = [_Row(row, model, rising) for row in planned.rows]
    plan_text = canonical_json(
        {"axis": planned.axis, "target": target, "low": model.low, "high": model.high, "most": most}
        | {"rows": [row.cell for row in rows]}
    )
    directory = Path(run_dir)
    sizes = _fixed_sizes(experiment, [cell for row in rows for cell in row.cells])
    settings = Settings(dtype, lanes or _LANES, max_steps)
    Settings(dtype, lanes, max_steps).check()
    check_processes(experiment, processes)
    with hold(directory), Ledger.open(directory / LEDGER_NAME) as ledger, interruptible(on_stop) as stop:
        code = code_of(experiment, settings.identity)
        kept = {**manifest(dtype, experiment), "grid": grid.spec(), **(remarks or {})}
        ledger.begin(code, experiment.name, kept, success=experiment.success)
        index = {canonical_json(cell): row for row in rows for cell in row.cells}
        names = [one.name for one in experiment.axes if one.kind != "derived"]
        for stored in ledger.rows():
            cell = {name: stored[name] for name in names if name in stored}
            _count(index, rows, cell, stored["seed"], _success(experiment, stored))

        def count(done: list[Row]) -> None:
            for one in done:
                _count(index, rows, one.cell, one.seed, _success(experiment, one.report))
            if on_rows is not None:
                on_rows(done)

        before = sum(row.spent for row in rows)
        keeper = Keeper(ledger, experiment, before, 0, 0.0, workers=processes, on_stored=count, open_end=True)
        unfinished = _load_round(directory, plan_text, rows)
        with keeper:
            while True:
                trials = unfinished or [one for row in rows for one in row.next(most)]
                if on_round is not None:
                    on_round([row.transition(most) for row in rows])
                if not trials:
                    break
                _save_round(directory, plan_text, trials)
                spent = [row.spent for row in rows]
                made = plan(experiment, trials, dtype=dtype, sizes=sizes)
                keeper.extend(len(trials), made.steps)
                run_plan(experiment, made, settings, keeper.put, stop, processes=processes, code=code.hash)
                keeper.flush()
                if stop():
                    raise KeyboardInterrupt
                if all(row.spent == so_far for row, so_far in zip(rows, spent, strict=True)):
                    raise RuntimeError(
                        f"a round of {len(trials)} trials came back without any of them: nothing to go on with."
                    )
                unfinished = []
        (directory / _ROUND_NAME).unlink(missing_ok=True)
    return Adapted(directory / LEDGER_NAME, [row.transition(most) for row in rows], keeper.new)


class AdaptivePlan(NamedTuple):
    """What an adaptive sweep is going to search.

    Attributes:
      axis: along which.
      model: the curves; of minus x where success falls.
      rows: the rows and their cells.
    """

    axis: str
    model: Model
    rows: list[GridRow]


def plan_adaptive(
    experiment: Experiment, grid: Grid, *, target: float, axis: str | None = None, rising: bool = True
) -> AdaptivePlan:
    """The rows of an adaptive sweep, everything checked and nothing written; arguments as in `adaptive_sweep`.

    Raises:
      ValueError: axis, range or target makes no sense, or the experiment refuses a cell.
    """
    chosen = adaptive_axis(experiment, grid, axis)
    low, high = min(grid.axes[chosen.name]), max(grid.axes[chosen.name])
    rows = grid_rows(experiment, grid, chosen)
    model = Model(low=low if rising else -high, high=high if rising else -low, target=target)
    return AdaptivePlan(chosen.name, model, rows)


class _Row:
    """The counts of one row, and what to do next."""

    def __init__(self, row: GridRow, model: Model, rising: bool) -> None:
        self.cell = row.cell
        self.cells = row.cells
        self._row = row
        self._sign = 1.0 if rising else -1.0
        self._model = model
        self._seeds: dict[str, set[int]] = {}
        self._won: dict[float, int] = {}
        self._lost: dict[float, int] = {}
        self.spent = 0
        self._curves: dict[float, Curves] = {}

    def count(self, cell: Mapping[str, Any], seed: int, success: Any) -> bool:
        """Take a trial in, once; False if it is none of this row's."""
        x = self._row.place(cell)
        if x is None:
            return False
        seeds = self._seeds.setdefault(canonical_json(cell), set())
        if seed not in seeds:
            seeds.add(seed)
            self.spent += 1
            # A trial that was lost before it could report says nothing about success; its seed is spent.
            if success is not None:
                counts = self._won if success == success and bool(success) else self._lost
                counts[x] = counts.get(x, 0) + 1
        return True

    def next(self, most: int) -> list[Planned]:
        """The next batch; empty if the row is done or has had its most trials."""
        verdict, centre, width = self._told()
        if verdict.flag != "open" or self.spent >= most:
            return []
        known = sum(self._won.values()) + sum(self._lost.values())
        wanted = allocate(self._model, centre, width, verdict, known)[: most - self.spent]
        trials: list[Planned] = []
        for place in nearest_places(self._sign * self._row.x, wanted):
            cell = self.cells[place]
            taken = self._seeds.get(canonical_json(cell), set())
            ahead = {seed for other, seed in trials if other is cell}
            seed = next(seed for seed in range(len(taken) + len(ahead) + 1) if seed not in taken | ahead)
            trials.append((cell, seed))
        return trials

    def missing(self, cell: Mapping[str, Any], seed: int) -> bool:
        """Whether a trial of this row has not been counted."""
        return seed not in self._seeds.get(canonical_json(cell), set())

    def transition(self, most: int) -> Transition:
        """The row as it stands."""
        verdict = self._told()[0]
        flag = "limit" if verdict.flag == "open" and self.spent >= most else verdict.flag
        low, high = sorted((self._sign * verdict.low, self._sign * verdict.high))
        estimate = self._sign * verdict.estimate
        if self._sign < 0 and flag in ("below", "above"):
            flag = "above" if flag == "below" else "below"
        reached: dict[str, Any] = {}
        beyond = np.flatnonzero(self._sign * self._row.x >= self._sign * estimate - 1e-12)
        if beyond.size:
            cell = self.cells[beyond[0] if self._sign > 0 else beyond[-1]]
            reached = {name: value for name, value in cell.items() if name not in self.cell}
        return Transition(self.cell, estimate, low, high, self.spent, flag, reached)

    def _told(self) -> tuple[Verdict, np.ndarray, float]:
        """Verdict, probabilities of the centre and width, in rising x."""
        seen = sorted({*self._won, *self._lost})
        model = self._model
        for x in (x for x in seen if x not in self._curves):
            self._curves[x] = model.curves(np.array([self._sign * x]))
        if not seen:
            flat = np.ones_like(model.centres) / len(model.centres)
            return judge(model, flat, 0), flat, 1.0
        curves = Curves(*(np.concatenate(parts) for parts in zip(*(self._curves[x] for x in seen), strict=True)))
        won = np.array([[self._won.get(x, 0) for x in seen]])
        lost = np.array([[self._lost.get(x, 0) for x in seen]])
        told = posterior(model, curves, won, lost)
        trials = int(won.sum() + lost.sum())
        verdict = judge(model, told.centre[0], trials)
        if verdict.flag == "open" and trials >= _COARSE_TRIALS and self._is_decided(verdict, seen, told.curves[0]):
            verdict = verdict._replace(flag="coarse")
        return verdict, told.centre[0], float(told.width[0])

    def _is_decided(self, verdict: Verdict, seen: Sequence[float], weight: np.ndarray) -> bool:
        """Whether the interval lies between two neighbours that hardly ever, and nearly always, succeed."""
        x = np.sort(self._sign * self._row.x)
        place = int(np.searchsorted(x, verdict.estimate))
        if not 0 < place < len(x) or not x[place - 1] <= verdict.low or not verdict.high <= x[place]:
            return False
        before, after = (self._sign * x[place - 1], self._sign * x[place])
        if before not in self._curves or after not in self._curves:
            return False
        rates = [float(np.exp(self._curves[at].success[0]) @ weight) for at in (before, after)]
        return rates[0] < _COARSE_RATES[0] and rates[1] > _COARSE_RATES[1]


def _count(index: Mapping[str, _Row], rows: Sequence[_Row], cell: Mapping[str, Any], seed: int, success: Any) -> None:
    """Give a trial to the row it belongs to, if to any; rows do not share cells."""
    found = index.get(canonical_json(cell))
    for row in rows if found is None else (found,):
        if row.count(cell, seed, success):
            return


def _success(experiment: Experiment, report: Mapping[str, Any]) -> Any:
    """What counts as success in a report; None for a trial that was lost with its worker."""
    if experiment.success in report:
        return report[experiment.success]
    if report.get("status") == Status.WORKER_LOST:
        return None
    raise ValueError(
        f"the trials report no {experiment.success!r}, which experiment {experiment.name!r} names as its success; they "
        f"report: {', '.join(sorted(report))}."
    )


def _fixed_sizes(experiment: Experiment, cells: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Padded sizes at the largest of all cells, so that every round runs the same programs."""
    return {name: max(experiment.sizes(cell)[name] for cell in cells) for name in experiment.padded}


def _save_round(directory: Path, plan: str, trials: Sequence[Planned]) -> None:
    text = json.dumps({"plan": plan, "trials": [[dict(cell), seed] for cell, seed in trials]})
    temporary = directory / (_ROUND_NAME + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, directory / _ROUND_NAME)


def _load_round(directory: Path, plan: str, rows: Sequence[_Row]) -> list[Planned]:
    """The trials that a run with the same rows and target had begun and not stored; none if it cannot be told."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads((directory / _ROUND_NAME).read_text(encoding="utf-8"))
        if kept["plan"] == plan:
            return list(_unstored(kept["trials"], rows))
    return []


def _unstored(trials: Sequence[Any], rows: Sequence[_Row]) -> Iterator[Planned]:
    known = {canonical_json(cell): (row, cell) for row in rows for cell in row.cells}
    for cell, seed in trials:
        row, own = known[canonical_json(cell)]
        if row.missing(own, int(seed)):
            yield own, int(seed)
