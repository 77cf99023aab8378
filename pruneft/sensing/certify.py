"""`certify`: how far an answer can be trusted, from the data alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pruneft.sensing import pivots, second_order
from pruneft.sensing.certificate import Certificate, Verdict, judge
from pruneft.sensing.data import prepare
from pruneft.sensing.fit_view import Measured, View
from pruneft.sensing.outliers import find_outliers
from pruneft.sensing.problem import Problem
from pruneft.sensing.recipe import PathRecipe
from pruneft.sensing.result import Recovery
from pruneft.sensing.selection import edge_constants

_DENSE = 300  # variables up to which a Hessian is decomposed whole


def certify(
    problem: Problem,
    result: Recovery | Any,
    *,
    weights: Any = None,
    recipe: PathRecipe | None = None,
    hessian: Callable[[np.ndarray], Any] | None = None,
) -> Certificate:
    """What can be said of an answer without knowing the truth: noise level, error, tests of the residual, and a verdict with reasons.

    Runs on the host in float64 whatever the answer was computed in. Costs about as much as two iterations of
    Levenberg-Marquardt, and holds n times dof numbers.

    Args:
      problem: that was solved.
      result: of `recover`, by any method, or any factor [d, r] in units of the answer. A plain factor comes without the
        agreement of starts and the scores of other ranks; its rank is the number of its singular values above rounding.
      weights: as they were given to `recover`.
      recipe: whose limits decide; those of `PathRecipe` if not given. For the verdict to be the status of a run with a recipe of
        one's own, pass it here too.
      hessian: a Hessian-vector product at the canonical factor, [d, r] -> [d, r], of a loss of one's own, whose curvature is
        then reported; that of the mean squared error if not given.

    Returns:
      A `Certificate`.

    Raises:
      ValueError: the factor has another d than the problem, or is not finite; weights make no sense.

    Example:
      >>> import jax
      >>> from pruneft import Problem, certify, recover
      >>> from pruneft.sensing import draw_instance
      >>> drawn = draw_instance(jax.random.key(0), n=60, d=16, r=2, sigma=0.01)
      >>> problem = Problem(drawn.operator, drawn.y)
      >>> certify(problem, recover(problem)).verdict.name
      'ACCEPT'

    Source: intervals and verdict are derived (ours) and were checked by simulation with Gaussian measurements, whose laws they
    are; the interval of sigma is the classical one.
    """
    limits = PathRecipe() if recipe is None else recipe
    recovery = result if isinstance(result, Recovery) else None
    dtype = None if recovery is None else recovery.dtype
    data = prepare(problem, weights, _possible(dtype))
    measured = Measured.of(problem, data)
    factor = _factor(result.U if isinstance(result, Recovery) else result, data.operator.d) / math.sqrt(measured.scale)
    rank = factor.shape[1]
    dof = round(float(data.operator.dof(rank)))
    known: dict[str, Any] = {} if recovery is None else _of_the_run(recovery)
    numbers = {} if rank == 0 else _numbers(measured, factor, dof, limits, hessian)
    found = Certificate(
        verdict=Verdict.REJECT,
        reasons=(),
        n=data.n,
        repeated=data.repeated,
        constant=data.n > 1 and _constant(problem),
        rank=rank,
        dof=dof,
        **{"exact": False, **numbers, **known},
    )
    failure = None if recovery is None or recovery.ok else recovery.message
    return judge(found, limits, rank_given=recovery is not None and recovery.rank_given, failure=failure)


def _of_the_run(recovery: Recovery) -> dict[str, Any]:
    values: dict[str, Any] = {
        "prunability_gap": recovery.prunability_gap,
        "growth_threshold": recovery.growth_threshold,
    }
    if recovery.fits:
        values |= {"agreeing": recovery.agreeing, "fits": recovery.fits, "score_gap": recovery.score_gap}
    return values


def _numbers(
    measured: Measured, factor: np.ndarray, dof: int, limits: PathRecipe, hessian: Callable[[np.ndarray], Any] | None
) -> dict[str, Any]:
    view = View.of(measured, factor)
    n, left = measured.data.n, measured.data.n - dof
    size = float(np.linalg.norm(view.values))
    mean_square = view.rss / n
    exact = mean_square <= limits.exact
    values: dict[str, Any] = {"exact": exact, "gradient_norm": 4 * float(np.linalg.norm(view.G @ view.factor))}
    if left > 0:
        sigma = math.sqrt(view.rss / left)
        low, high = pivots.sigma_factors(left)[left]
        edge = sigma * math.sqrt(2 * measured.data.operator.d / n)
        values |= {
            "sigma": sigma * measured.unit,
            "sigma_interval": (sigma * measured.unit * float(low), sigma * measured.unit * float(high)),
            "edge_ratio": float(view.values[-1]) / edge if edge > 0 else math.inf,
        }
        if left > 1:
            values["average_error"] = sigma * math.sqrt(dof / (left - 1)) / size
        elif exact:
            values["average_error"] = 0.0  # nothing is left to predict from, and nothing to be explained either
        values |= _error(view, sigma, left, size)
        values |= _stationarity(view, exact, dof, left)
        if not exact:
            values |= _outliers(view)
    values |= _curvature(view, exact, hessian)
    if left > 0 and not exact:
        values |= _residual_tests(view)
    return values


def _error(view: View, sigma: float, left: int, size: float) -> dict[str, Any]:
    """Predicted error: absolute, relative, and their intervals."""
    squares = np.linalg.eigvalsh(view.tangent.T @ view.tangent)
    if not squares[0] > 1e-13 * squares[-1]:
        return {}  # the measurements do not see some tangent direction at all
    singular = np.sqrt(squares)
    unit = view.measured.scale
    relative = sigma * math.sqrt(float(np.sum(1 / squares))) / size
    ends = np.array(pivots.error_quantiles(singular, left)) * sigma / size
    low, high = (float(end) for end in ends)
    return {
        "error": relative * size * unit,
        "error_interval": (low * size * unit, high * size * unit),
        "relative_error": relative,
        "relative_error_interval": (low, high),
    }


def _stationarity(view: View, exact: bool, dof: int, left: int) -> dict[str, Any]:
    if exact:
        return {"unfinished": 0.0}  # what is left is rounding
    base = np.linalg.qr(view.tangent)[0]
    share = float(np.sum(np.square(base.T @ view.errors))) / view.rss
    return {"unfinished": share * (dof + left) / dof}


def _outliers(view: View) -> dict[str, Any]:
    data = view.measured.data
    found = find_outliers(view, floor=16 * float(np.finfo(np.dtype(data.y.dtype)).eps))
    places = [data.place(int(view.live[row])) for row in found.rows]
    return {
        "outliers": tuple(place for group in places for place in group),
        "deviations": tuple(z for group, z in zip(places, found.deviations, strict=True) for _ in group),
        "clean_sigma": found.sigma * view.measured.unit,
    }


def _residual_tests(view: View) -> dict[str, Any]:
    m = view.normal.shape[1]
    if m == 0:
        return {}
    errors, n = view.errors, view.measured.data.n
    weight = view.measured.data.weight
    if weight is not None:  # rows of unequal size: each adds by its own
        errors = errors * np.sqrt(weight[view.live] / np.mean(weight[view.live]))
    normal = n * (view.normal.T @ view.G @ view.normal) / float(np.linalg.norm(errors))
    largest = float(np.linalg.eigvalsh(-normal)[-1])
    energy = float(np.sum(np.square(normal)))
    return {
        "eigenvalue_test": largest,
        "eigenvalue_p": pivots.largest_eigenvalue_tail(largest, m),
        "energy_test": energy,
        "energy_p": pivots.chi_square_tail(energy, m * (m + 1) // 2),
    }


def _curvature(view: View, exact: bool, hessian: Callable[[np.ndarray], Any] | None) -> dict[str, Any]:
    """Second order: further columns by the residual matrix, live columns by the Hessian without its gauge directions."""
    m, n = view.normal.shape[1], view.measured.data.n
    values: dict[str, Any] = {"residual_eigenvalue": float(np.linalg.eigvalsh(view.G)[0])}
    if m and not exact:
        # The .3 percent point of what noise makes, as in the edge rule.
        values["residual_limit"] = -math.sqrt(view.rss * float(edge_constants(m)[m]) * m) / n
    factor = view.factor
    gauge = second_order.gauge_basis(factor)
    if gauge.shape[1] == factor.size:
        return values
    if hessian is not None:
        found = second_order.least_curvature(
            lambda v: np.asarray(hessian(v.reshape(factor.shape)), np.float64).ravel(), factor.size, deflate=gauge
        )
    else:
        slopes = (2 * view.slopes * np.sqrt(view.values)).reshape(len(view.slopes), -1)
        if factor.size <= _DENSE:
            matrix = 2 / n * slopes.T @ slopes + 4 * np.kron(view.G, np.eye(factor.shape[1]))
            found = second_order.dense_curvature(matrix, gauge)
        else:

            def product(v: np.ndarray) -> np.ndarray:
                bent: np.ndarray = 2 / n * (slopes.T @ (slopes @ v)) + 4 * (view.G @ v.reshape(factor.shape)).ravel()
                return bent

            found = second_order.least_curvature(product, factor.size, deflate=gauge)
    values["curvature"] = found.low / found.high if found.high > 0 else -math.inf
    return values


def _factor(given: Any, d: int) -> np.ndarray:
    """Of full column rank: the canonical form, directions at rounding level dropped."""
    array = np.asarray(given)
    eps = float(np.finfo(array.dtype).eps) if np.issubdtype(array.dtype, np.floating) else 1e-7
    array = np.asarray(array, np.float64)
    if array.ndim != 2 or array.shape[0] != d:
        raise ValueError(f"the answer must be a Recovery or a factor of shape [d, r] with d={d}: got {array.shape}.")
    if not np.all(np.isfinite(array)):
        raise ValueError("the factor must be finite: NaN or infinite entries were found. There is nothing to certify.")
    if array.size == 0:
        return array.reshape(d, 0)
    left, values, _ = np.linalg.svd(array, full_matrices=False)
    kept = values > max(d, array.shape[1]) * eps * values[0]
    canonical: np.ndarray = left[:, kept] * values[kept]
    return canonical


def _constant(problem: Problem) -> bool:
    if problem.sharding is not None:
        return False  # its ends are padding
    y = np.asarray(problem.y)
    return problem.n == len(y) and bool(np.all(y == y[0]))


def _possible(dtype: str | None) -> str | None:
    """The dtype of a result, or that of y where JAX could not have made it here (64-bit mode is off)."""
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return dtype if dtype == "float32" or (dtype == "float64" and wide) else None
