"""Where to spend trials to find the 50 % transition of a row: posterior, allocation rule, stopping rule. Plain NumPy.

Success along the axis is modelled by a logistic curve that saturates below 1,

    P(x) = (1 - lapse) logistic((x - centre) / width - log(1 - 2 lapse)),

written so that ``centre`` is the x at which P = 1/2 exactly, whatever the lapse: that is what is estimated, with a credible
interval from a grid of (centre, width, lapse). The posterior depends on the counts alone, never on the order in which
they came, and so does the next batch: a run that is resumed goes on as if it had never stopped.

Constants below were chosen by simulation (``benchmarks/bench_adaptive.py`` repeats it).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LEVEL = 0.95

# Centres from this share of the range below it to as much above: mass there says that the range misses the transition.
_MARGIN = 0.25
# Grid steps of the centre in one target width. The interval is interpolated.
_STEPS_PER_TARGET = 10
# Widths: the least in units of the target, the largest of the range, log-uniform between. Without the floor, trials that
# happen to look like a step end a row too early: the interval held .93 to .94 of the truths instead of .95 to .96.
_LEAST_WIDTH, _LARGEST_WIDTH, _WIDTHS = 0.4, 0.3, 10
# Never zero: where success saturates at .8, the interval of a model without lapse holds the transition in 54 of 100 rows,
# with these in 93. The last one costs two trials per row; without it they are 87.
LAPSES = (0.01, 0.03, 0.06, 0.1, 0.2)

# A batch lies at evenly spaced quantiles of the posterior of the centre, pushed out by this many widths, alternately down
# and up: trials at the centre alone would never tell the width, and the interval would not close.
_SPREAD = 0.7
_FIRST, _SMALLEST, _LARGEST = 8, 4, 16
# Share of the trials that seem to be lacking (by 1/sqrt) that the next batch takes: the interval often closes earlier.
_SHARE = 0.3
# No verdict before so many trials.
_LEAST_TRIALS = 16
# Posterior mass outside the range at which the row is said to lie outside.
_OUTSIDE = 0.975

# Finer targets want a table of more than 100 000 curves.
_FINEST = 200


@dataclass(frozen=True, kw_only=True)
class Model:
    """The curves that a row is compared with.

    Attributes:
      low, high: range of x in which trials may lie.
      target: width of the interval at which a row is done, in units of x.
      lapses: shortfalls of success from 1 far above the transition, equally likely beforehand.
    """

    low: float
    high: float
    target: float
    lapses: tuple[float, ...] = LAPSES

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"the range must be finite and rising: got {self.low} to {self.high}.")
        span = self.high - self.low
        if not 0 < self.target < span:
            raise ValueError(
                f"the target (width of the interval) must be positive and less than the range, {span:g}: got {self.target}."
            )
        if self.target < span / _FINEST:
            raise ValueError(
                f"the target {self.target:g} is less than 1/{_FINEST} of the range {self.low:g} to {self.high:g}. Narrow the "
                "range around the transition, or raise the target."
            )

    @functools.cached_property
    def centres(self) -> np.ndarray:
        """[c], evenly spaced."""
        margin = _MARGIN * (self.high - self.low)
        count = math.ceil((self.high - self.low + 2 * margin) / self.target * _STEPS_PER_TARGET) + 1
        return np.linspace(self.low - margin, self.high + margin, count)

    @functools.cached_property
    def widths(self) -> np.ndarray:
        """[w], in units of x, geometric."""
        least = _LEAST_WIDTH * self.target
        return np.geomspace(least, max(_LARGEST_WIDTH * (self.high - self.low), 2 * least), _WIDTHS)

    def curves(self, x: np.ndarray) -> Curves:
        """Logarithms of P and 1 - P of every curve at x [m]."""
        centre, width, lapse = np.meshgrid(self.centres, self.widths, np.asarray(self.lapses), indexing="ij")
        z = (np.asarray(x, float)[:, None] - centre.ravel()) / width.ravel() - np.log1p(-2 * lapse.ravel())
        kept = np.log1p(-lapse.ravel())
        with np.errstate(divide="ignore"):
            lost = np.log(lapse.ravel())
        success = kept - np.logaddexp(0, -z)
        failure = np.logaddexp(lost, kept - np.logaddexp(0, z))
        return Curves(success.astype(np.float32), failure.astype(np.float32))


class Curves(NamedTuple):
    """Logarithms of P and 1 - P, [m, curves]; from `Model.curves`."""

    success: np.ndarray
    failure: np.ndarray

    def take(self, places: np.ndarray) -> Curves:
        """Those at some of the x."""
        return Curves(self.success[places], self.failure[places])


class Posterior(NamedTuple):
    """What counts say about rows.

    Attributes:
      centre: [rows, c] probabilities of the model's centres.
      width: [rows] geometric mean of the width.
      curves: [rows, curves] probabilities of all curves.
    """

    centre: np.ndarray
    width: np.ndarray
    curves: np.ndarray


def posterior(model: Model, curves: Curves, successes: np.ndarray, failures: np.ndarray) -> Posterior:
    """The posterior of rows that share their x, from a flat prior on centre, log width and lapse.

    Args:
      model: the curves.
      curves: theirs at the x of the counts, [m].
      successes, failures: [rows, m] counts.
    """
    # Products of whole numbers summed in float32: counts of hundreds leave 1e-4 of a unit of log-likelihood.
    log = successes.astype(np.float32) @ curves.success + failures.astype(np.float32) @ curves.failure
    log -= log.max(axis=1, keepdims=True)
    weight = np.exp(log)
    weight /= weight.sum(axis=1, keepdims=True)
    widths = model.widths
    table = weight.reshape(len(weight), -1, len(widths), len(model.lapses))
    width = np.exp(table.sum(axis=(1, 3)) @ np.log(widths))
    return Posterior(table.sum(axis=(2, 3), dtype=np.float64), width, weight)


def quantiles(model: Model, centre: np.ndarray, levels: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Quantiles [levels] of the centre, from its probabilities [c], interpolated inside the grid's steps."""
    grid = model.centres
    half = (grid[1] - grid[0]) / 2
    edges = np.concatenate([[grid[0] - half], grid + half])
    below = np.concatenate([[0.0], np.cumsum(centre)])
    return np.interp(levels, below / below[-1], edges)


class Verdict(NamedTuple):
    """What is known of one row.

    Attributes:
      estimate: posterior median of the centre.
      low, high: its central 95 % interval.
      flag: ``"open"``: go on; ``"ok"``: the interval is as narrow as the target; ``"below"``, ``"above"``: the transition
        lies outside the range, estimate NaN and interval open to that side.
    """

    estimate: float
    low: float
    high: float
    flag: str


def judge(model: Model, centre: np.ndarray, trials: int) -> Verdict:
    """Whether a row is done, from the probabilities [c] of its centre and its number of trials."""
    tail = (1 - LEVEL) / 2
    low, estimate, high = (float(value) for value in quantiles(model, centre, (tail, 0.5, 1 - tail)))
    if trials < _LEAST_TRIALS:
        return Verdict(estimate, low, high, "open")
    grid, whole = model.centres, centre.sum()
    if centre[grid < model.low].sum() > _OUTSIDE * whole:
        return Verdict(math.nan, -math.inf, model.low, "below")
    if centre[grid > model.high].sum() > _OUTSIDE * whole:
        return Verdict(math.nan, model.high, math.inf, "above")
    return Verdict(estimate, low, high, "ok" if high - low <= model.target else "open")


def allocate(model: Model, centre: np.ndarray, width: float, verdict: Verdict, trials: int) -> np.ndarray:
    """Where the next batch of a row should lie: x [batch] within the range, to be rounded to what is attainable.

    Args:
      model: the curves.
      centre: [c] probabilities of its centre.
      width: of its curve, from `Posterior`.
      verdict: from `judge`.
      trials: how many it has.
    """
    size = _FIRST
    if trials >= _FIRST:
        lacking = trials * (((verdict.high - verdict.low) / model.target) ** 2 - 1)
        size = int(np.clip(math.ceil(_SHARE * min(lacking, 1e6)), _SMALLEST, _LARGEST))
    levels = (np.arange(size) + 0.5) / size
    grid = model.centres
    # Within the range; the small addition keeps the edge as the place to ask when all mass lies outside.
    inside = (grid >= model.low) & (grid <= model.high)
    nearest = np.where(inside, centre, 0.0)
    nearest[np.flatnonzero(inside)[0]] += centre[grid < model.low].sum()
    nearest[np.flatnonzero(inside)[-1]] += centre[grid > model.high].sum()
    if trials == 0:
        nearest = inside.astype(float)
    x = quantiles(model, nearest, levels)
    if trials > 0:
        outwards = np.where((np.arange(size) + trials // _SMALLEST) % 2 == 0, -1.0, 1.0)
        x = x + _SPREAD * width * outwards
    return np.clip(x, model.low, model.high)


def simulate(
    model: Model,
    x: np.ndarray,
    success: np.ndarray,
    *,
    seed: int,
    most: int = 400,
) -> tuple[list[Verdict], np.ndarray]:
    """Run the rule on rows whose success probabilities are known, all of them round by round.

    Args:
      model: the curves the rule thinks in.
      x: [m] attainable values, rising.
      success: [rows, m] true success probabilities there.
      seed: of the outcomes.
      most: trials per row at most.

    Returns:
      A verdict per row (``"open"`` where ``most`` came first), and the trials per row.
    """
    random = np.random.default_rng(seed)
    curves = model.curves(x)
    rows = len(success)
    won, lost = np.zeros((rows, len(x))), np.zeros((rows, len(x)))
    verdicts: list[Verdict] = [Verdict(math.nan, -math.inf, math.inf, "open")] * rows
    active = np.arange(rows)
    while active.size:
        told = posterior(model, curves, won[active], lost[active])
        going = []
        for place, row in enumerate(active):
            trials = int(won[row].sum() + lost[row].sum())
            verdicts[row] = verdict = judge(model, told.centre[place], trials)
            if verdict.flag != "open" or trials >= most:
                continue
            going.append(row)
            wanted = allocate(model, told.centre[place], float(told.width[place]), verdict, trials)
            for column in nearest_places(x, wanted[: most - trials]):
                outcome = random.random() < success[row, column]
                (won if outcome else lost)[row, column] += 1
        active = np.array(going, int)
    return verdicts, (won + lost).sum(axis=1).astype(int)


def nearest_places(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of the attainable x [m] nearest to each wanted one."""
    return np.abs(np.asarray(wanted)[:, None] - np.asarray(x)).argmin(axis=1)
