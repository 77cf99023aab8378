"""One lane's problem.

Measurements and data normalised and padded, starting points drawn, and what both methods do with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.optim import LMConfig, LMResult, levenberg_marquardt
from pruneft.penalty import group_norms
from pruneft.pipeline import Penalty
from pruneft.random import Block, normals
from pruneft.sensing.operator import Gram, PackedOperator, cast
from pruneft.sensing.packing import smat, svec
from pruneft.sensing.pivots import sigma_factors
from pruneft.sensing.selection import predicted_error

_STARTS = 2  # first stream of the starting factors; 0 and 1 are those of `pruneft.sensing.draw`


class Truth(NamedTuple):
    """What a drawn instance knows and a report compares with: M* [d, d], in the units of the answer, and its rank."""

    matrix: Float[Array, "d d"]
    rank: Int[Array, ""]


class Lane(NamedTuple):
    """A normalised problem; what is padded is zero.

    Attributes:
      operator: the measurements as given; their storage dtype may be narrower than y's (drawn ones are exact in
        float32).
      gain: what they are divided by wherever they are used, so that ``E (1/n) sum <A_i, X>^2 = ||X||_F^2``. Dividing
        the stored numbers would round them.
      fast: the measurements in the dtype and form that training uses (Gram form or a cast copy); None where
        ``operator`` serves.
      y: [n], normalised; its dtype is the dtype of fine-tuning and selection.
      n, d: live measurements and dimensions, as numbers of y's dtype.
      unit: root mean square of the data as given; ``y`` and ``noise`` are in this unit.
      scale: the answer is ``M = scale U Uᵀ``: the unit over the gain.
      noise: sigma of the normalised y; NaN where it is not known.
      rank: the rank asked for; 0 where it is not known.
      starts: [attempts, starts, d, k].
      penalty: the ends of the schedule.
      truth: where it is known.
    """

    operator: Any
    gain: Float[Array, ""]
    fast: Any
    y: Float[Array, "n"]
    n: Float[Array, ""]
    d: Float[Array, ""]
    unit: Float[Array, ""]
    scale: Float[Array, ""]
    noise: Float[Array, ""]
    rank: Int[Array, ""]
    starts: Float[Array, "attempts starts d k"]
    penalty: Penalty
    truth: Truth | None


class Answer(NamedTuple):
    """A fitted factor, normalised units.

    Attributes:
      factor: [d, k], canonical: columns orthogonal, by falling norm, zero beyond ``rank``.
      rank: number of nonzero columns.
      columns: columns that pruning left, before parallel ones were merged; 0 where columns were not pruned by norm.
      rss: residual sum of squares.
      trace: [steps + 1], RSS along the last refinement, NaN beyond its end.
    """

    factor: Float[Array, "d k"]
    rank: Int[Array, ""]
    columns: Int[Array, ""]
    rss: Float[Array, ""]
    trace: Float[Array, "t"]


def make_lane(
    operator: Any,
    y: Float[Array, "n"],
    starts: Float[Array, "attempts starts d k"],
    penalty: Penalty,
    *,
    n: Any = None,
    d: Any = None,
    sigma: Any = None,
    rank: Any = 0,
    truth: Truth | None = None,
    shards: int = 1,
) -> Lane:
    """Normalise data for the solvers.

    Args:
      operator: the measurements; rows beyond ``n`` and coordinates beyond ``d`` are zero.
      y: [n], in the dtype that fine-tuning shall have; zero where padded.
      starts: starting factors of the normalised problem, in the dtype that training shall have.
      penalty: of the normalised problem.
      n, d: live sizes; all of them if not given.
      sigma: noise standard deviation in units of y; None or NaN if unknown.
      rank: 0 if unknown.
      truth: for reports.
      shards: devices that the measurements are split over (`pruneft.sensing.sharded`).
    """
    dtype, train = y.dtype, starts.dtype
    n_live = jnp.asarray(operator.n if n is None else n, dtype)
    d_live = jnp.asarray(operator.d if d is None else d, dtype)
    gain = operator.gain(n_live, d_live).astype(dtype)
    # Divided by the largest first: squares of data in extreme units would overflow or vanish.
    largest = jnp.max(jnp.abs(y))
    largest = jnp.where(largest > 0, largest, 1)
    unit = largest * jnp.sqrt(jnp.sum(jnp.square(y / largest)) / n_live)
    unit = jnp.where(unit > 0, unit, 1)
    normal = y / unit
    fast: Any = None
    # Every device holds the whole Gram form but only its share of the rows, so it is its share that has to be the dearer.
    if isinstance(operator, PackedOperator) and Gram.pays(operator.n // shards, operator.d):
        # Divided by the gain before squares are formed: in extreme units those would overflow or vanish in float32.
        unit_gain = cast(cast(operator, dtype).scaled(1 / gain), train)
        fast = Gram.of(unit_gain, normal.astype(train), n_live.astype(train))
    elif operator.dtype != train:
        fast = cast(operator, train)
    return Lane(
        operator=operator,
        gain=gain,
        fast=fast,
        y=normal,
        n=n_live,
        d=d_live,
        unit=unit,
        scale=unit / gain,
        noise=jnp.asarray(jnp.nan if sigma is None else sigma, dtype) / unit,
        rank=jnp.asarray(rank, jnp.int32),
        starts=starts,
        penalty=penalty,
        truth=truth,
    )


def draw_starts(
    key: Array, attempts: int, starts: int, d: int, k: int, *, live_d: Any, live_k: Any, norm: float, dtype: Any
) -> Float[Array, "attempts starts d k"]:
    """Gaussian starting factors of Frobenius norm about ``norm``; padding d or k changes no live entry."""
    (columns,) = normals(key, starts_block(attempts, starts, d, k))
    return make_starts(columns, attempts, live_d=live_d, live_k=live_k, norm=norm, dtype=dtype)


def starts_block(attempts: int, starts: int, d: int, k: int) -> Block:
    """What `make_starts` needs drawn: for callers that draw more with the same call of the generator."""
    return Block(_STARTS, k, d, attempts * starts)


def make_starts(
    columns: Float[Array, "all k d"], attempts: int, *, live_d: Any, live_k: Any, norm: float, dtype: Any
) -> Float[Array, "attempts starts d k"]:
    """`draw_starts` of numbers drawn already, for the block of `starts_block`."""
    every, k, d = columns.shape
    factor = jnp.swapaxes(columns, -1, -2).reshape(attempts, every // attempts, d, k)
    live = (jnp.arange(d, dtype=jnp.int32)[:, None] < live_d) & (jnp.arange(k, dtype=jnp.int32)[None] < live_k)
    size = norm / jnp.sqrt(jnp.asarray(live_d, jnp.float32) * jnp.asarray(live_k, jnp.float32))
    return jnp.where(live, factor * size, 0).astype(dtype)


def start(lane: Lane, attempt: Int[Array, ""]) -> Float[Array, "starts d k"]:
    """The starting factors of an attempt."""
    return lane.starts[attempt]


def gradient(lane: Lane, factor: Float[Array, "starts d k"]) -> Float[Array, "starts d k"]:
    """Gradient ``4 G U`` of the mean squared error, the starts as rows of matrix products with the shared measurements."""
    matrix = factor @ jnp.swapaxes(factor, -1, -2)
    if isinstance(lane.fast, Gram):
        residual_matrix = lane.fast.residual_matrix(matrix)
    else:
        operator = lane.operator if lane.fast is None else lane.fast
        gain = lane.gain.astype(factor.dtype)
        y = lane.y.astype(factor.dtype)
        if isinstance(operator, PackedOperator):
            total = operator.residual_sum(matrix, y, gain)
        else:
            total = operator.adjoint(operator.apply(matrix) / gain - y)
        residual_matrix = total / (lane.n.astype(factor.dtype) * gain)
    return 4 * residual_matrix @ factor


def curvature(
    lane: Lane, factor: Float[Array, "starts d k"], direction: Float[Array, "starts d k"]
) -> Float[Array, "starts d k"]:
    """Gauss-Newton Hessian ``(2/n) Jᵀ J`` of the mean squared error times a direction; the starts share the measurements."""
    turned = direction @ jnp.swapaxes(factor, -1, -2)
    moved = turned + jnp.swapaxes(turned, -1, -2)
    if isinstance(lane.fast, Gram):
        normal = smat(svec(moved) @ lane.fast.quadratic)
    else:
        operator = lane.operator if lane.fast is None else lane.fast
        gain = lane.gain.astype(factor.dtype)
        normal = operator.adjoint(operator.apply(moved) / gain) / (lane.n.astype(factor.dtype) * gain)
    return 4 * normal @ factor


def tuning(lane: Lane, factor: Float[Array, "starts d k"]) -> dict[str, Any]:
    """What an optimiser may ask for beside the gradient: the mean squared error of each start, and `curvature`."""
    return {
        "value": rss(lane, factor).astype(factor.dtype) / lane.n.astype(factor.dtype),
        "curvature": functools.partial(curvature, lane),
    }


def residual(lane: Lane, factor: Float[Array, "*starts d r"]) -> Float[Array, "*starts n"]:
    """``A(U Uᵀ) - y`` in the dtype of y, normalised units; zero at padded measurements."""
    factor = factor.astype(lane.y.dtype)
    return cast(lane.operator, lane.y.dtype).apply(factor @ jnp.swapaxes(factor, -1, -2)) / lane.gain - lane.y


def residual_matrix(lane: Lane, factor: Float[Array, "d r"]) -> Float[Array, "d d"]:
    """``G = (1/n) sum e_i sym(A_i)`` in the dtype of y, normalised units."""
    return cast(lane.operator, lane.y.dtype).adjoint(residual(lane, factor)) / (lane.n * lane.gain)


def rss(lane: Lane, factor: Float[Array, "*starts d r"]) -> Float[Array, "*starts"]:
    """Residual sum of squares, normalised units."""
    return jnp.sum(jnp.square(residual(lane, factor)), axis=-1)


def fit(lane: Lane, factors: Float[Array, "starts d r"], config: LMConfig) -> LMResult:
    """Levenberg-Marquardt from every start, all sharing the data.

    ``x`` of the result is [starts, d r], ``rss`` is ||A(U Uᵀ) - y||².
    """
    operator = cast(lane.operator, lane.y.dtype)
    linearised, shape = operator.linearised(), factors.shape[1:]
    # Residual and Jacobian both by root n, so that the damping means the same at every n.
    root = jnp.sqrt(lane.n)

    def errors(x: Array) -> Array:
        factor = x.reshape(shape)
        return (operator.apply(factor @ factor.T) / lane.gain - lane.y) / root

    def slopes(x: Array) -> Array:
        return linearised(x.reshape(shape)).reshape(operator.n, -1) / (root * lane.gain)

    run: Callable[[Array], LMResult] = functools.partial(levenberg_marquardt, errors, slopes, config=config)
    result = jax.vmap(run)(factors.astype(lane.y.dtype).reshape(factors.shape[0], -1))
    return result._replace(rss=result.rss * lane.n, trace=result.trace * lane.n)


def canonical(factor: Float[Array, "d r"], *, merge: float, limit: Int[Array, ""] | None = None) -> tuple[Array, Array]:
    """``V S`` of the singular value decomposition, singular values below ``merge`` times the largest dropped: (factor, rank).

    Surplus columns that share an eigen-direction are merged by it. ``limit`` (0: none) bounds the rank.
    """
    left, values, _ = jnp.linalg.svd(jnp.where(jnp.isfinite(factor), factor, 0), full_matrices=False)
    keep = (values > merge * values[0]) & (values > 0)
    if limit is not None:
        keep &= (jnp.arange(values.shape[0], dtype=jnp.int32) < limit) | (limit <= 0)
    return left * jnp.where(keep, values, 0), jnp.sum(keep, dtype=jnp.int32)


def pad_columns(factor: Float[Array, "... d r"], width: int) -> Float[Array, "... d k"]:
    """Zero columns appended (or surplus ones cut) up to ``width``."""
    missing = width - factor.shape[-1]
    if missing <= 0:
        return factor[..., :width]
    return jnp.concatenate([factor, jnp.zeros((*factor.shape[:-1], missing), factor.dtype)], axis=-1)


def finite(factor: Float[Array, "*starts d k"]) -> Bool[Array, "*starts"]:
    """Whether a factor has no NaN and no infinity."""
    return jnp.all(jnp.isfinite(factor), axis=(-1, -2))


def largest_columns(factor: Float[Array, "*starts d k"], width: int) -> Float[Array, "*starts d w"]:
    """The ``width`` columns of largest norm, by falling norm."""
    order = jnp.argsort(-group_norms(factor), axis=-1)[..., :width]
    return jnp.take_along_axis(factor, order[..., None, :], axis=-1)


def sigma_estimate(lane: Lane, answer: Answer) -> Float[Array, ""]:
    """``sqrt(RSS / (n - dof))`` in units of y; NaN where nothing is left to estimate it from."""
    left = lane.n - lane.operator.dof(answer.rank.astype(lane.n.dtype), lane.d)
    return jnp.where(left > 0, lane.unit * jnp.sqrt(answer.rss / jnp.where(left > 0, left, 1)), jnp.nan)


def sigma_interval(lane: Lane, answer: Answer) -> Float[Array, "2"]:
    """Ends of the 95 percent interval of sigma, in units of y, if the rank is right; NaN where nothing is left over."""
    left = lane.n - lane.operator.dof(answer.rank.astype(lane.n.dtype), lane.d)
    table = jnp.asarray(sigma_factors(lane.operator.n), lane.y.dtype)
    place = jnp.clip(jnp.round(left), 0, lane.operator.n).astype(jnp.int32)
    return sigma_estimate(lane, answer) * table[place]


def edge_ratio(lane: Lane, answer: Answer) -> Float[Array, ""]:
    """Least eigenvalue of the answer over the noise edge ``sigma sqrt(2 d / n)``; infinite where nothing is left of the data.

    Below about 1.2 a component cannot be told from noise, below 2 not surely. NaN for rank 0.
    """
    left = jnp.maximum(lane.n - lane.operator.dof(answer.rank.astype(lane.n.dtype), lane.d), 1)
    weakest = jnp.sum(jnp.square(jnp.take(answer.factor, answer.rank - 1, axis=1, mode="clip")))
    edge = jnp.sqrt(answer.rss / left) * jnp.sqrt(2 * lane.d / lane.n)
    ratio = jnp.where(edge > 0, weakest / jnp.where(edge > 0, edge, 1), jnp.inf)
    return jnp.where(answer.rank > 0, ratio, jnp.nan)


def expected_error(lane: Lane, answer: Answer) -> Float[Array, ""]:
    """Relative Frobenius error to expect of the answer if its rank is right; infinite where it cannot be predicted."""
    p = lane.operator.dof(answer.rank.astype(lane.n.dtype), lane.d)
    return predicted_error(answer.rss, p, lane.n, jnp.linalg.norm(answer.factor.T @ answer.factor))


def report(lane: Lane, answer: Answer, status: Int[Array, ""], steps: Int[Array, ""]) -> dict[str, Array]:
    """The scalars that both methods report.

    ``error`` is relative to ``truth`` in Frobenius norm where the truth is known.
    """
    sigma_low, sigma_high = sigma_interval(lane, answer)
    values = {
        "status": status.astype(jnp.int32),
        "rank": answer.rank,
        "columns": answer.columns,
        "residual": jnp.sqrt(answer.rss / lane.n),
        "sigma_estimate": sigma_estimate(lane, answer),
        "sigma_low": sigma_low,
        "sigma_high": sigma_high,
        "edge_ratio": edge_ratio(lane, answer),
        "predicted_error": expected_error(lane, answer),
        "steps": steps,
    }
    if lane.truth is not None:
        estimate = lane.scale * (answer.factor @ answer.factor.T)
        values["error"] = jnp.linalg.norm(estimate - lane.truth.matrix) / jnp.linalg.norm(lane.truth.matrix)
    return values
