"""The measured constants of matrix sensing, in one place, each with where it comes from.

All are for the normalised problem (measurements of unit gain, mean y² = 1), so nothing needs retuning when data change
their units. None is from the published algorithm (Rajaraman et al. 2023, arXiv:2303.11453), which leaves them open;
they were measured by us on Gaussian designs with d from 10 to 32, r from 1 to d/2 and n from 1.05 to 5 times the
degrees of freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from pruneft.optim import LMConfig
from pruneft.pipeline import Anneal


@dataclass(frozen=True, kw_only=True)
class PruneRecipe:
    """Column pruning by norm after full training: the published method, with our schedule, attempts and Levenberg-Marquardt.

    Attributes:
      anneal: the training phase.
      attempts: steps of each attempt. The first solves 79 percent of a grid of n/dof from 1.05 to 3 at d = 16; longer
        ones are for the transition.
      noisy_first: with noise begin with this attempt (counted from 0). After 500 steps at condition number 10 there are still
        surplus columns, which noise then keeps alive: exact rank .38 to .94 at n = 2 to 3 dof, against 1.00 from 1000 steps on.
      share: noiseless: keep columns above this share of the largest norm.
      noisy_share: with noise: above this share and above 2 sqrt(beta_end).
      noise_edge: with sigma known the last threshold on residual eigenvalues is so many times the noise edge sigma
        sqrt(2d/n); half as much left surplus columns, twice as much lost weak ones at condition number 10.
      gate: relative residual above which a pruned factor is not worth fine-tuning (noise is added to it).
      accept: relative residual below which a fit is exact.
      discrepancy: with sigma known a fit is accepted when its RSS is below this many standard deviations above what
        noise alone gives.
      margin: a rank is admissible when n is at least this many times its degrees of freedom; excludes exact fits of too
        high a rank.
      merge: singular values of the fine-tuned factor below this share of the largest are dropped (surplus parallel
        columns).
      criterion: c in ``log(RSS/n) - c log(1 - dof/n)``; 2 is generalised cross validation, which overfits.
      taus: sigma unknown: last thresholds tried, each from ``tau_starts`` starts of ``tau_steps`` steps; the least
        criterion wins.
      tau_share: the share for them.
      lm: Levenberg-Marquardt.
    """

    anneal: Anneal = field(default_factory=Anneal)
    attempts: tuple[int, ...] = (500, 1000, 2000, 4000, 4000)
    noisy_first: int = 2
    share: float = 0.05
    noisy_share: float = 0.1
    noise_edge: float = 1.0
    gate: float = 0.02
    accept: float = 1e-4
    discrepancy: float = 3.0
    margin: float = 1.03
    merge: float = 0.03
    criterion: float = 3.0
    taus: tuple[float, ...] = (0.2, 0.07, 0.02, 0.007, 0.002, 0.0005, 1e-5)
    tau_starts: int = 4
    tau_steps: int = 2000
    tau_share: float = 0.07
    lm: LMConfig = field(default_factory=LMConfig)


@dataclass(frozen=True, kw_only=True)
class PathRecipe:
    """Short anneal, scan over ranks, edge rule: needs no rank, no noise level, and far fewer steps. Ours, not published.

    Attributes:
      anneal: the training phase (needs no final noise threshold).
      starts: random starts that share the data.
      untrained: so many of the starting factors are scanned as they are too, beside the trained ones; at most ``starts``.
      attempts: steps of the anneal in each round; a rejected round is followed by the next, with fresh starts, and what rounds found
        is compared together. Near the transition more starts help and longer ones do not: at d = 16, n = 1.05 dof, r = 1 and 2,
        eight starts lead to .88 and .90 with 60 steps each, .89 and .91 with 150, .81 and .89 with 600; sixteen of 60 to .96 and
        .93. So the rounds after the first are short.
      margin: a rank that does not fit exactly is a candidate while n is at least this many times its degrees of freedom; an exact
        fit is one while n exceeds them.
      safe_margin: a rank that does not fit exactly is trusted only above this margin, unless nothing else is left.
      spare, patience: below the safe margin, or with fewer than ``spare`` measurements more than degrees of freedom, a fit that is
        not exact waits for so many rounds, for a wrong one can look like weak noise there. At d = 16, n = 1.05 to 1.2 dof, r = 1 and
        2, noiseless, six rounds turned 6 of 7 wrong answers of 768 trials into right ones; two rounds had been asked for before. What
        it costs is time where there is noise: up to 1.7 times the steps there.
      exact: mean squared normalised residual of an exact fit. Right fits end below 1e-12; wrong ones come near zero by accident where
        few degrees of freedom are left over: at r = 1, n = dof + 1 below 1e-6 in .04 of the failed starts, and the share falls
        like the root of the bound.
      beyond: how many ranks past the best so far are scanned once that one could be accepted. (Stopping there in any case
        missed rank 8 at d = 16: success .22 at n = 1.05 dof, .53 at 1.1.)
      agree: starts whose RSS lies within this share of the best agree with it.
      same: two exact fits of one rank that differ by more than this (relative, Frobenius) are two answers: the data do not
        determine one.
      doubtful: above this predicted relative error the unsafe candidates are compared too.
      limit: above this predicted relative error the answer is rejected.
      settled: a rejected answer whose predicted relative error is at most this is final after two rounds if most starts agree with
        it: noise makes it uncertain, not the search. (Noise of .1 at 1.2 dof spent all rounds otherwise and changed nothing; most
        such rejections lie below. At .5 it ended searches without noise too early: of 16 such trials at n = 1.02 dof, most starts
        agreeing on a rank too low, the least predicted error was .27.)
      score_gap, edge_ratio: below either, the rank is called uncertain.
      gap_share: with many measurements a gap of this share of the penalty's next rise is enough. The gap above a right fit falls
        like 1/n: at d = 16, n = 5 dof it is about .14 where noise alone is left, .4 of the rise.
      lm: Levenberg-Marquardt for each rank and start.
    """

    anneal: Anneal = field(default_factory=Anneal)
    starts: int = 4
    untrained: int = 0
    attempts: tuple[int, ...] = (150, 60, 60, 60, 60, 60)
    margin: float = 1.03
    safe_margin: float = 1.15
    spare: int = 6
    patience: int = 6
    exact: float = 1e-10
    beyond: int = 3
    agree: float = 0.02
    same: float = 1e-3
    doubtful: float = 0.2
    limit: float = 0.15
    settled: float = 0.25
    score_gap: float = 0.2
    edge_ratio: float = 2.0
    gap_share: float = 0.15
    lm: LMConfig = field(default_factory=LMConfig)


# Real rank-one measurements have heavy tails, and below two measurements per degree of freedom most starts can share a wrong
# minimum that looks like weak noise: an inexact answer waits for a second round up to there, and no longer. At d = 16, r = 2, 1.2 dof
# it was right in 28 of 32 trials so, in 12 of 16 with the usual margin.
RANK_ONE_PATH = PathRecipe(safe_margin=2.0, patience=2)


class Schedule(NamedTuple):
    """Ends of the annealed penalty of the normalised problem, in the order of `pruneft.pipeline.Penalty`."""

    lam_start: float
    lam_end: float
    beta_start: float
    beta_end: float


def schedule(
    anneal: Anneal, *, lam: float | None = None, beta: float | None = None, threshold: float | None = None
) -> Schedule:
    """The annealed penalty with the ends that were asked for.

    Args:
      anneal: the recipe.
      lam: last weight; 0 trains without the penalty; the recipe's (or that of ``threshold``) if not given.
      beta: last smoothing; the recipe's if not given.
      threshold: the eigenvalue of the residual below which no column shall grow at the end, which sets ``lam = 2
        sqrt(beta) threshold``.
    """
    beta_end = anneal.beta_end if beta is None else beta
    lam_end = anneal.lam_end if lam is None else lam
    if lam is None and threshold is not None:
        lam_end = max(lam_end, 2 * math.sqrt(beta_end) * threshold)
    # Without a penalty both ends are zero; with one the weight never rises along the way.
    lam_start = max(anneal.lam_start, lam_end) if lam_end > 0 else 0.0
    return Schedule(lam_start, lam_end, max(anneal.beta_start, beta_end), beta_end)
