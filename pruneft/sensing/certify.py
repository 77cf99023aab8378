"""`certify`: how far an answer can be trusted, from the data alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pruneft.sensing import pivots, second_order
from pruneft.sensing.certificate import Certificate, Verdict, judge
from pruneft.sensing.data import Data, prepare
from pruneft.sensing.field import Field, stored_of
from pruneft.sensing.fit_view import Measured, View
from pruneft.sensing.operator import PackedOperator, cast
from pruneft.sensing.outliers import find_outliers
from pruneft.sensing.pair_graph import PairGraph
from pruneft.sensing.problem import Problem
from pruneft.sensing.recipe import PathRecipe
from pruneft.sensing.result import Recovery
from pruneft.sensing.selection import edge_constants
from pruneft.status import Status

_SEEN = 1e-8  # singular values of the Jacobian below this share of the largest are none
_BY_ROW = 1000  # directions up to which the error of each row is predicted
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
        then reported; that of the mean squared error if not given. Complex factors come and go as they are stored, [2d, r].

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
    factor = _factor(result.U if isinstance(result, Recovery) else result, data.operator.d, data.operator.field)
    factor = factor / math.sqrt(measured.scale)
    rank = factor.shape[1]
    dof = round(float(data.operator.dof(rank)))
    known: dict[str, Any] = {} if recovery is None else _of_the_run(recovery)
    if rank:
        known["gap_limit"] = _gap_limit(data, rank, limits)
    of_pairs: Any = problem.operator
    if rank and hasattr(of_pairs, "pairs"):
        known["graph"] = PairGraph.of(np.asarray(of_pairs.pairs()), of_pairs.d, of_pairs.pair_kind).reasons(rank)
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
    # A fit that is not the only one is a verdict of its own, not a failure of the run.
    sound = recovery is None or recovery.ok or recovery.status is Status.NOT_UNIQUE
    failure = None if recovery is None or sound else recovery.message
    return judge(found, limits, rank_given=recovery is not None and recovery.rank_given, failure=failure)


def _of_the_run(recovery: Recovery) -> dict[str, Any]:
    values: dict[str, Any] = {
        "prunability_gap": recovery.prunability_gap,
        "growth_threshold": recovery.growth_threshold,
        "apart": recovery.apart,
    }
    if recovery.fits:
        values |= {"agreeing": recovery.agreeing, "fits": recovery.fits, "score_gap": recovery.score_gap}
    return values


def _gap_limit(data: Data, rank: int, limits: PathRecipe) -> float:
    """`pruneft.sensing.selection.sure_gap` as the rank path has it; in NumPy, where nothing is compiled for each rank."""
    operator = data.operator
    here, beyond = (float(operator.dof(q)) for q in (rank, rank + 1))
    if rank + 1 > operator.d or data.n <= beyond:
        return limits.score_gap
    step = beyond - here
    side = round(step if operator.field == "real" else (step + 1) / 2)
    constant = float(edge_constants(operator.d, operator.field)[max(side, 0)])
    rise = -constant * math.log((data.n - beyond) / (data.n - here))
    return min(limits.score_gap, limits.gap_share * rise)


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
        noise_unit = measured.unit * math.sqrt(measured.data.typical)
        edge = _edge(measured, sigma)
        values |= {
            "sigma": sigma * noise_unit,
            "sigma_interval": (sigma * noise_unit * float(low), sigma * noise_unit * float(high)),
            "edge_ratio": float(view.values[-1]) / edge if edge > 0 else math.inf,
        }
        if left > 1:
            values["average_error"] = sigma * math.sqrt(dof / (left - 1)) / size
        elif exact:
            values["average_error"] = 0.0  # nothing is left to predict from, and nothing to be explained either
        values |= _error(view, sigma, dof, left, size)
        if not isinstance(measured.data.operator, PackedOperator):
            # The average over designs is that of Gaussian ones; of others only this very design is known.
            values["average_error"] = (
                0.0 if exact else values.get("relative_error", values.get("average_error", math.inf))
            )
        values |= _stationarity(view, exact, dof, left)
        if not exact:
            values |= _outliers(view)
    values |= _curvature(view, exact, hessian)
    if left > 0 and not exact and isinstance(measured.data.operator, PackedOperator):
        values |= _residual_tests(view)  # by the laws of Gaussian measurements
    return values


def _edge(measured: Measured, sigma: float) -> float:
    operator, n = measured.data.operator, measured.data.n
    if isinstance(operator, PackedOperator):
        return sigma * math.sqrt(2 * operator.d / n)
    scale = measured.scale / (measured.data.y_unit / measured.data.a_unit)
    whole = cast(operator, measured.data.y.dtype)
    return float(whole.noise_edge(sigma * measured.unit / measured.data.y_unit, n, operator.d)) / scale


def _error(view: View, sigma: float, dof: int, left: int, size: float) -> dict[str, Any]:
    """Jacobian rank, and the predicted error: absolute, relative, and their intervals."""
    normal = view.tangent.T @ view.tangent
    by_row = len(normal) <= _BY_ROW
    squares, vectors = np.linalg.eigh(normal) if by_row else (np.linalg.eigvalsh(normal), normal)
    # What no measurement of the family sees (translations, say) is no degree of freedom.
    live = slice(len(squares) - min(dof, len(squares)), None)
    singular = np.sqrt(np.maximum(squares[live], 0))
    found = int(np.sum(singular > _SEEN * singular[-1]))
    values: dict[str, Any] = {"jacobian_rank": found}
    if found < dof:
        return values
    values["condition_number"] = float(singular[-1] / singular[0])
    squares = np.square(singular)
    unit = view.measured.scale
    relative = sigma * math.sqrt(float(np.sum(1 / squares))) / size
    ends = np.array(pivots.error_quantiles(singular, left)) * sigma / size
    low, high = (float(end) for end in ends)
    if by_row and sigma > 0:
        rows = sigma * view.row_errors(vectors[:, live].T / singular[:, None])
        sizes = np.linalg.norm((view.vectors * view.values) @ view.vectors.conj().T, axis=1)
        values["row_errors"] = tuple(float(share) for share in rows / np.maximum(sizes, np.finfo(float).tiny))
    return values | {
        "error": relative * size * unit,
        "error_interval": (low * size * unit, high * size * unit),
        "relative_error": relative,
        "relative_error_interval": (low, high),
    }


def _stationarity(view: View, exact: bool, dof: int, left: int) -> dict[str, Any]:
    if exact:
        return {"unfinished": 0.0}  # what is left is rounding
    if view.tangent.shape[1] > dof:
        base = np.linalg.svd(view.tangent, full_matrices=False)[0][:, :dof]
    else:
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
        "clean_sigma": found.sigma * view.measured.unit * math.sqrt(data.typical),
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
    if m and not exact and isinstance(view.measured.data.operator, PackedOperator):
        # The .3 percent point of what noise makes, as in the edge rule.
        values["residual_limit"] = -math.sqrt(view.rss * float(edge_constants(m)[m]) * m) / n
    factor = view.factor
    gauge = second_order.gauge_basis(factor)
    size = len(gauge)
    if gauge.shape[1] == size:
        return values
    if hessian is not None:
        found = second_order.least_curvature(
            lambda v: np.asarray(hessian(v.reshape(-1, factor.shape[1])), np.float64).ravel(), size, deflate=gauge
        )
    else:
        field, bent = view.measured.field, second_order.stored_matrix(view.G)
        slopes = stored_of(2 * view.slopes * np.sqrt(view.values), field).reshape(len(view.slopes), -1)
        if size <= _DENSE:
            matrix = 2 / n * slopes.T @ slopes + 4 * np.kron(bent, np.eye(factor.shape[1]))
            found = second_order.dense_curvature(matrix, gauge)
        else:

            def product(v: np.ndarray) -> np.ndarray:
                along = bent @ v.reshape(len(bent), -1)
                image: np.ndarray = 2 / n * (slopes.T @ (slopes @ v)) + 4 * along.ravel()
                return image

            found = second_order.least_curvature(product, size, deflate=gauge)
    values["curvature"] = found.low / found.high if found.high > 0 else -math.inf
    return values


def _factor(given: Any, d: int, field: Field) -> np.ndarray:
    """Of full column rank: the canonical form, directions at rounding level dropped."""
    array = np.asarray(given)
    if np.iscomplexobj(array) and field == "real":
        raise ValueError(
            "the answer is complex, but these measurements are of a real matrix: pass its real part if that is meant."
        )
    eps = float(np.finfo(array.dtype).eps) if np.issubdtype(array.dtype, np.inexact) else 1e-7
    array = np.asarray(array, np.float64 if field == "real" else np.complex128)
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
