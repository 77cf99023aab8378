"""One lane's problem.

Measurements and data normalised and padded, starting points drawn, and what both methods do with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int

from pruneft.optim import LMConfig, LMResult, levenberg_marquardt
from pruneft.penalty import group_norms
from pruneft.pipeline import Penalty
from pruneft.random import Block, normals
from pruneft.sensing.defaults import root_mean_square
from pruneft.sensing.field import svd
from pruneft.sensing.operator import Gram, PackedOperator, cast
from pruneft.sensing.packing import smat, svec

_STARTS = 2  # first stream of the starting factors; 0 and 1 are those of `pruneft.sensing.draw`


class Truth(NamedTuple):
    """What a drawn instance knows and a report compares with: M* [d, d], in the units of the answer, and its rank."""

    matrix: Inexact[Array, "d d"]
    rank: Int[Array, ""]


class Lane(NamedTuple):
    """A normalised problem; what is padded is zero.

    Attributes:
      operator: the measurements as given; their storage dtype may be narrower than y's (drawn ones are exact in
        float32).
      gain: what they are divided by wherever they are used, so that M and y come in units of their own: the unit over the size of
        M. Dividing the stored numbers would round them.
      fast: the measurements in the dtype and form that training uses (Gram form or a cast copy); None where
        ``operator`` serves.
      y: [n], normalised; its dtype is the dtype of fine-tuning and selection.
      root: [n], roots of the weights of the measurements in residuals, fine-tuning and selection; None where all are 1. Training
        only leaves out those of weight 0: what its constants were measured on is the whitened loss.
      n, d: live measurements and dimensions, as numbers of y's dtype.
      unit: root mean square of the data as given; ``y`` and ``noise`` are in this unit.
      scale: the answer is ``M = scale U Uᴴ``: the operator's ``size``, about ``||M||_F``.
      noise: sigma of the normalised y; NaN where it is not known.
      rank: the rank asked for; 0 where it is not known.
      starts: [attempts, starts, h, k], stored as factors are (`pruneft.sensing.field`).
      penalty: the ends of the schedule.
      truth: where it is known.
    """

    operator: Any
    gain: Float[Array, ""]
    fast: Any
    y: Float[Array, "n"]
    root: Float[Array, "n"] | None
    n: Float[Array, ""]
    d: Float[Array, ""]
    unit: Float[Array, ""]
    scale: Float[Array, ""]
    noise: Float[Array, ""]
    rank: Int[Array, ""]
    starts: Float[Array, "attempts starts h k"]
    penalty: Penalty
    truth: Truth | None


def make_lane(
    operator: Any,
    y: Float[Array, "n"],
    starts: Float[Array, "attempts starts h k"],
    penalty: Penalty,
    *,
    n: Any = None,
    d: Any = None,
    sigma: Any = None,
    rank: Any = 0,
    truth: Truth | None = None,
    root: Float[Array, "n"] | None = None,
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
      root: [n], roots of weights, of unit mean square over the data (``sum (root y)² = sum y²``); None where all are 1.
      shards: devices that the measurements are split over (`pruneft.sensing.sharded`).
    """
    dtype, train = y.dtype, starts.dtype
    n_live = jnp.asarray(operator.n if n is None else n, dtype)
    d_live = jnp.asarray(operator.d if d is None else d, dtype)
    unit = root_mean_square(y, n_live)
    if isinstance(operator, PackedOperator):
        gain = operator.gain(n_live, d_live).astype(dtype)
    else:
        size = operator.size(y, n_live, d_live)
        gain = jnp.where(size > 0, unit / jnp.where(size > 0, size, 1), 1).astype(dtype)
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
        root=root,
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
) -> Float[Array, "attempts starts h k"]:
    """Gaussian starting factors of Frobenius norm about ``norm``; padding d or k changes no live entry.

    ``d`` and ``live_d`` are rows as they are stored: twice as many where M is complex.
    """
    (columns,) = normals(key, starts_block(attempts, starts, d, k))
    return make_starts(columns, attempts, live_d=live_d, live_k=live_k, norm=norm, dtype=dtype)


def starts_block(attempts: int, starts: int, d: int, k: int) -> Block:
    """What `make_starts` needs drawn: for callers that draw more with the same call of the generator."""
    return Block(_STARTS, k, d, attempts * starts)


def make_starts(
    columns: Float[Array, "all k d"], attempts: int, *, live_d: Any, live_k: Any, norm: float, dtype: Any
) -> Float[Array, "attempts starts h k"]:
    """`draw_starts` of numbers drawn already, for the block of `starts_block`."""
    every, k, d = columns.shape
    factor = jnp.swapaxes(columns, -1, -2).reshape(attempts, every // attempts, d, k)
    live = (jnp.arange(d, dtype=jnp.int32)[:, None] < live_d) & (jnp.arange(k, dtype=jnp.int32)[None] < live_k)
    size = norm / jnp.sqrt(jnp.asarray(live_d, jnp.float32) * jnp.asarray(live_k, jnp.float32))
    return jnp.where(live, factor * size, 0).astype(dtype)


def start(lane: Lane, attempt: Int[Array, ""]) -> Float[Array, "starts d k"]:
    """The starting factors of an attempt."""
    return lane.starts[attempt]


def gradient(lane: Lane, factor: Float[Array, "starts h k"]) -> Float[Array, "starts h k"]:
    """Gradient of the whitened mean squared error, the starts as rows of matrix products with the shared measurements.

    ``4 G U``, G = (1/n) sum (W e)_i A_i.
    """
    if isinstance(lane.operator, PackedOperator):
        return 4 * _packed_residual_matrix(lane, factor) @ factor
    operator, n, gain, d = _for_training(lane, factor.dtype)
    errors = _counted(lane, operator.image(factor) / gain - lane.y.astype(factor.dtype))
    return operator.pull(operator.whiten(errors, n, d), factor) * (4 * gain / n)


def _counted(lane: Lane, errors: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Without the measurements of weight 0."""
    return errors if lane.root is None else jnp.where(lane.root > 0, errors, 0)


def _packed_residual_matrix(lane: Lane, factor: Float[Array, "starts d k"]) -> Float[Array, "starts d d"]:
    matrix = factor @ jnp.swapaxes(factor, -1, -2)
    if isinstance(lane.fast, Gram):
        return lane.fast.residual_matrix(matrix)
    operator, n, gain, _ = _for_training(lane, factor.dtype)
    total: Array = operator.residual_sum(matrix, lane.y.astype(factor.dtype), gain)
    return total / (n * gain)


def _for_training(lane: Lane, dtype: Any) -> tuple[Any, Array, Array, Array]:
    """Operator, n, gain and d as training uses them."""
    operator = lane.operator if lane.fast is None else lane.fast
    return operator, lane.n.astype(dtype), lane.gain.astype(dtype), lane.d.astype(dtype)


def curvature(
    lane: Lane, factor: Float[Array, "starts h k"], direction: Float[Array, "starts h k"]
) -> Float[Array, "starts h k"]:
    """Gauss-Newton Hessian ``(2/n) Jᵀ W J`` of the whitened mean squared error times a direction; the starts share the measurements."""
    if not isinstance(lane.operator, PackedOperator):
        operator, n, _, d = _for_training(lane, factor.dtype)
        _, change = jax.jvp(operator.image, (factor,), (direction,))
        return 4 * operator.pull(operator.whiten(_counted(lane, change), n, d), factor) / n
    turned = direction @ jnp.swapaxes(factor, -1, -2)
    moved = turned + jnp.swapaxes(turned, -1, -2)
    if isinstance(lane.fast, Gram):
        normal = smat(svec(moved) @ lane.fast.quadratic)
    else:
        operator, n, gain, _ = _for_training(lane, factor.dtype)
        normal = operator.adjoint(operator.apply(moved) / gain) / (n * gain)
    return 4 * normal @ factor


def tuning(lane: Lane, factor: Float[Array, "starts d k"]) -> dict[str, Any]:
    """What an optimiser may ask for beside the gradient: the mean squared error of each start, and `curvature`."""
    return {
        "value": rss(lane, factor).astype(factor.dtype) / lane.n.astype(factor.dtype),
        "curvature": functools.partial(curvature, lane),
    }


def residual(lane: Lane, factor: Float[Array, "*starts h r"]) -> Float[Array, "*starts n"]:
    """``A(U Uᴴ) - y`` in the dtype of y, normalised units, by the roots of the weights; zero at padded measurements."""
    factor = factor.astype(lane.y.dtype)
    errors = cast(lane.operator, lane.y.dtype).image(factor) / lane.gain - lane.y
    return errors if lane.root is None else errors * lane.root


def residual_matrix(lane: Lane, factor: Float[Array, "h r"]) -> Inexact[Array, "d d"]:
    """``G = (1/n) sum (W e)_i A_i`` in the dtype of y, normalised units. It does not weigh, as training does not."""
    operator = cast(lane.operator, lane.y.dtype)
    errors = operator.image(factor.astype(lane.y.dtype)) / lane.gain - lane.y
    if isinstance(operator, PackedOperator):
        return operator.adjoint(errors) / (lane.n * lane.gain)
    return operator.adjoint(operator.whiten(_counted(lane, errors), lane.n, lane.d)) * (lane.gain / lane.n)


def rss(lane: Lane, factor: Float[Array, "*starts d r"]) -> Float[Array, "*starts"]:
    """Residual sum of squares, normalised units."""
    return jnp.sum(jnp.square(residual(lane, factor)), axis=-1)


def fit(lane: Lane, factors: Float[Array, "starts d r"], config: LMConfig) -> LMResult:
    """Levenberg-Marquardt from every start, all sharing the data.

    ``x`` of the result is [starts, h r], ``rss`` is ||A(U Uᴴ) - y||², weighted.
    """
    operator = cast(lane.operator, lane.y.dtype)
    linearised, shape = operator.linearised(), factors.shape[1:]
    # Residual and Jacobian both by root n, so that the damping means the same at every n.
    root = jnp.sqrt(lane.n)

    weight = jnp.ones((), lane.y.dtype) if lane.root is None else lane.root

    def errors(x: Array) -> Array:
        return (operator.image(x.reshape(shape)) / lane.gain - lane.y) * (weight / root)

    def slopes(x: Array) -> Array:
        rows = linearised(x.reshape(shape)).reshape(operator.n, -1) / (root * lane.gain)
        return rows if lane.root is None else rows * lane.root[:, None]

    run: Callable[[Array], LMResult] = functools.partial(levenberg_marquardt, errors, slopes, config=config)
    result = jax.vmap(run)(factors.astype(lane.y.dtype).reshape(factors.shape[0], -1))
    return result._replace(rss=result.rss * lane.n, trace=result.trace * lane.n)


def canonical(
    lane: Lane, factor: Float[Array, "h r"], *, merge: float, limit: Int[Array, ""] | None = None
) -> tuple[Array, Array]:
    """``V S`` of the singular value decomposition, singular values below ``merge`` times the largest dropped: (factor, rank).

    Surplus columns that share an eigen-direction are merged by it, and what the measurements cannot see is taken out.
    ``limit`` (0: none) bounds the rank.
    """
    seen = lane.operator.canonical(jnp.where(jnp.isfinite(factor), factor, 0), lane.d)
    left, values = svd(seen, lane.operator.field)
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
