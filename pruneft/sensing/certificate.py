"""What `certify` returns, and how a verdict follows from it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pruneft.sensing.recipe import PathRecipe


class Verdict(StrEnum):
    """ACCEPT: the answer and its error interval may be used. RANK_UNCERTAIN: they may, but the rank may be off by a weak component.

    NOT_CERTIFIED: it fits the data, but they do not determine it, or not visibly: it may be one of several. REJECT: do not use it.
    """

    ACCEPT = "accept"
    RANK_UNCERTAIN = "rank_uncertain"
    NOT_CERTIFIED = "not_certified"
    REJECT = "reject"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What can be said of an answer without knowing the truth. Intervals are of 95 percent, and suppose that the rank is right.

    What could not be computed is NaN (numbers) or None (counts). Laws of the residual are those of Gaussian measurements.

    Attributes:
      verdict: see `Verdict`.
      reasons: sentences that led to the verdict or limit it, each with its number and its limit; the weightiest first.
      n: measurements that count, each distinct one once. ``repeated``: how many said nothing new.
      constant: every measurement has the same value.
      rank, dof: of the answer.
      exact: the data are fitted to rounding level.
      sigma, sigma_interval: noise standard deviation, in units of y.
      error, error_interval: of ``||M̂ - M*||_F``, in units of M, for this very design: ``sigma sqrt(sum 1/s_i^2)``, s_i
        the singular values of the measurements on the tangent space.
      relative_error, relative_error_interval: the same over ``||M̂||_F``.
      row_errors: [d] of each row of M, over the norm of that row of ``M̂``; empty where the tangent space has more than 1000 dimensions.
        Small rows are known worse: the same noise is a larger share of them.
      average_error: relative error of a fit like this averaged over designs, which needs no tangent space and is what
        `recover` judges by; infinite where n <= dof + 1.
      eigenvalue_test, eigenvalue_p: ``n lambda_max(-V⊥ᵀ G V⊥) / ||e||``, and how often noise alone exceeds it: small where a
        component is missing.
      energy_test, energy_p: ``n² ||V⊥ᵀ G V⊥||_F² / ||e||²`` against chi-square with m(m+1)/2 degrees of freedom, m = d - rank.
      gradient_norm: of the mean squared error, normalised units.
      unfinished: how much a further step of least squares would lower the RSS, over what it would lower that of any random
        residual; 0 at a minimum.
      residual_eigenvalue, residual_limit: ``lambda_min(G)``, and below what it is more than noise makes (once in 330),
        normalised units. ``4 lambda_min(G)`` is the least curvature along a further column.
      curvature: least eigenvalue of the Hessian on the live columns, rotations not counted, over the largest.
      edge_ratio: least eigenvalue over the noise edge ``sigma sqrt(2d/n)``.
      agreeing, fits: fits at this rank that agree, of how many.
      score_gap: of the second-best rank; ``gap_limit``: below what the rank is uncertain.
      jacobian_rank: of the measurements on the tangent space of the matrices of this rank; below ``dof`` the data do not
        determine the answer to first order. None where there are not enough of them to ask.
      condition_number: of the measurements on that space, infinite where the rank is below ``dof``.
      graph: what the graph of measured pairs leaves open, in words (`pruneft.sensing.pair_graph`); of distances and entries.
      apart: relative distance of the two most different fits that explain the data equally well.
      prunability_gap: of the trained factor; certifies that pruning loses nothing, never that the answer is right.
      growth_threshold: of the end of training, in units of M.
      outliers, deviations: places in y of measurements that do not belong, the worst first, and how many standard
        deviations they lie from the fit of the others.
      clean_sigma: sigma without them.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    n: int
    repeated: int
    constant: bool
    rank: int
    dof: int
    exact: bool
    sigma: float = math.nan
    sigma_interval: tuple[float, float] = (math.nan, math.nan)
    error: float = math.inf
    error_interval: tuple[float, float] = (math.nan, math.inf)
    relative_error: float = math.inf
    relative_error_interval: tuple[float, float] = (math.nan, math.inf)
    row_errors: tuple[float, ...] = ()
    average_error: float = math.inf
    eigenvalue_test: float = math.nan
    eigenvalue_p: float = math.nan
    energy_test: float = math.nan
    energy_p: float = math.nan
    gradient_norm: float = math.nan
    unfinished: float = math.nan
    residual_eigenvalue: float = math.nan
    residual_limit: float = math.nan
    curvature: float = math.nan
    edge_ratio: float = math.nan
    agreeing: int | None = None
    fits: int | None = None
    score_gap: float = math.nan
    gap_limit: float = math.nan
    jacobian_rank: int | None = None
    condition_number: float = math.inf
    graph: tuple[str, ...] = ()
    apart: float = 0.0
    prunability_gap: float = math.nan
    growth_threshold: float = math.nan
    outliers: tuple[int, ...] = ()
    deviations: tuple[float, ...] = ()
    clean_sigma: float = math.nan

    @property
    def ok(self) -> bool:
        """Whether the answer may be used as it is."""
        return self.verdict in (Verdict.ACCEPT, Verdict.RANK_UNCERTAIN)

    def summary(self) -> dict[str, Any]:
        """Everything as JSON-able values; what is not finite is None."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Verdict) else value


def judge(found: Certificate, limits: PathRecipe, *, rank_given: bool, failure: str | None) -> Certificate:
    """The certificate with its verdict and reasons.

    The limits on error, agreement, score gap and edge ratio are those by which the rank path accepts its own answers, so for them
    this verdict is its status. For other answers agreement and score gap are not known and not asked for.

    Args:
      found: everything else.
      limits: of the rank path.
      rank_given: the rank was asked for, so it is not in question.
      failure: the message of a status that says that the answer is not to be used.
    """
    bad = _rejections(found, limits)
    if failure is not None:
        bad.append(f"The run ended with: {failure}")
    doubts = [] if rank_given or found.exact or bad else _doubts(found, limits)
    several = [] if bad else _ambiguities(found, limits)
    verdict = Verdict.ACCEPT
    for worse, why in ((Verdict.RANK_UNCERTAIN, doubts), (Verdict.NOT_CERTIFIED, several), (Verdict.REJECT, bad)):
        verdict = worse if why else verdict
    reasons = [*bad, *several, *doubts, *_remarks(found)]
    if not bad:
        reasons += _support(found, limits)
    return dataclasses.replace(found, verdict=verdict, reasons=tuple(reasons))


def _rejections(found: Certificate, limits: PathRecipe) -> list[str]:
    if found.rank == 0:
        return [
            f"No rank could be fitted (n = {found.n}{' distinct' if found.repeated else ''}): there are too few measurements, or they "
            "are not of any positive semidefinite matrix of low rank."
        ]
    reasons = []
    if found.n <= found.dof:
        reasons.append(
            f"{found.n} {_distinct(found)}measurements cannot identify a matrix of rank {found.rank}, which has {found.dof} degrees of "
            "freedom: no error can be predicted. Take more measurements, or ask for a lower rank."
        )
    elif not found.average_error <= limits.limit:
        size = "infinite" if math.isinf(found.average_error) else f"{found.average_error:.2g}"
        reasons.append(
            f"The relative error to expect is {size}, above the limit of {limits.limit:g} (n = {found.n}, dof = {found.dof})."
        )
    if found.agreeing is not None and not found.exact and found.agreeing < 2:
        reasons.append(
            f"Only {found.agreeing} of {found.fits} fits reaches the least residual (to {limits.agree:.0%}); at least 2 must agree."
        )
    if found.unfinished > _UNFINISHED:
        reasons.append(
            f"The factor is no least-squares fit: one more step would lower its residual by {found.unfinished:.2g} of what it "
            f"lowers that of a random vector by (limit {_UNFINISHED:g}), so intervals and tests say nothing. Fine-tune it first."
        )
    if found.curvature < _SADDLE:
        reasons.append(
            f"The factor is a saddle point: least curvature {found.curvature:.2g} of the largest (limit {_SADDLE:g}). Perturb it and "
            "refine."
        )
    return reasons


# A minimum that Levenberg-Marquardt found is at 1e-5 and below; at this the bias is a tenth of a standard error.
_UNFINISHED = 1e-2
_SADDLE = -3e-6  # rounding of a float32 factor
_RARE = 1e-3
_UNKNOWN = 0.5  # predicted error of a row over the row, from which on it is named


def _ambiguities(found: Certificate, limits: PathRecipe) -> list[str]:
    reasons = [f"The measured pairs leave something open: {reason}." for reason in found.graph]
    if found.jacobian_rank is not None and found.jacobian_rank < found.dof:
        reasons.append(
            f"The measurements see only {found.jacobian_rank} of the {found.dof} degrees of freedom at this matrix, to first order: others "
            "near it may fit as well, and no error can be predicted. Take more measurements, or others."
        )
    size = found.relative_error if math.isfinite(found.relative_error) else 0.0
    if found.apart > max(limits.same, _SEVERAL * size):
        reasons.append(
            f"Another matrix of this rank fits the data as well and differs by {found.apart:.2g} of its size: the answer is not unique. "
            "Both are returned (`rival` is the other); take more measurements, or others."
        )
    return reasons


_SEVERAL = 3.0  # fits that lie within so many predicted errors of each other agree


def _doubts(found: Certificate, limits: PathRecipe) -> list[str]:
    reasons = []
    limit = limits.score_gap if math.isnan(found.gap_limit) else found.gap_limit
    if found.score_gap < limit:
        reasons.append(
            f"The score of another rank lies only {found.score_gap:.2g} above that of rank {found.rank} (limit {limit:.2g})."
        )
    if found.edge_ratio < limits.edge_ratio:
        reasons.append(
            f"The weakest component is {found.edge_ratio:.2g} times the noise edge (limit {limits.edge_ratio:g}): it, or another one, "
            "cannot be told from noise."
        )
    # The rank path has weighed this already, in its scores.
    if found.agreeing is None and found.eigenvalue_p < _RARE:
        reasons.append(
            f"The residual holds a direction that noise alone makes with probability {found.eigenvalue_p:.1g} (limit {_RARE:g}): a "
            "component is missing."
        )
    return reasons


def _remarks(found: Certificate) -> list[str]:
    reasons = []
    if found.constant:
        reasons.append(
            "Every measurement has the same value, which measurements of a matrix do not: check that the right y was passed."
        )
    if found.outliers:
        shown = ", ".join(f"{i} ({z:.1f})" for i, z in zip(found.outliers[:8], found.deviations, strict=False))
        more = f" and {len(found.outliers) - 8} more" if len(found.outliers) > 8 else ""
        reasons.append(
            f"{len(found.outliers)} measurements do not belong to the others; index (standard deviations): {shown}{more}. Without them "
            f"sigma is {found.clean_sigma:.3g}. Check them, or give them weight 0 and recover again."
        )
    if found.repeated:
        reasons.append(
            f"{found.repeated} measurements repeat others and were averaged with them: {found.n} distinct ones are left and count."
        )
    if found.agreeing is not None and found.eigenvalue_p < _RARE:
        reasons.append(
            f"The residual holds a direction that noise alone makes with probability {found.eigenvalue_p:.1g}: a component may be missing, "
            "or the noise is not what it is taken for."
        )
    if found.energy_p < _RARE:
        reasons.append(
            f"The residual is not like noise: test of its energy {found.energy_test:.3g}, probability {found.energy_p:.1g}."
        )
    return reasons


def _support(found: Certificate, limits: PathRecipe) -> list[str]:
    reasons = []
    unknown = [row for row, share in enumerate(found.row_errors) if share > _UNKNOWN]
    if unknown:
        shown = ", ".join(str(row) for row in unknown[:8]) + (" and others" if len(unknown) > 8 else "")
        reasons.append(
            f"{len(unknown)} of the {len(found.row_errors)} rows of the matrix are smaller than twice the error to expect in them, and so "
            f"hardly known: {shown}."
        )
    if found.exact:
        reasons.append(f"The data are fitted exactly, at n = {found.n} for {found.dof} degrees of freedom.")
    else:
        reasons.append(f"The relative error to expect is {found.average_error:.2g} (limit {limits.limit:g}).")
    if found.agreeing is not None:
        reasons.append(f"{found.agreeing} of {found.fits} fits agree (to {limits.agree:.0%} of the residual).")
    elif not found.exact:
        reasons.append("Whether other starts agree is not known: only the rank path compares them.")
    return reasons


def _distinct(found: Certificate) -> str:
    return "distinct " if found.repeated else ""
