"""A lane's answer, and what a report says of it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pruneft.sensing.field import factor_of, gram
from pruneft.sensing.lane import Lane
from pruneft.sensing.operator import PackedOperator, cast
from pruneft.sensing.pivots import sigma_factors
from pruneft.sensing.selection import predicted_error


class Answer(NamedTuple):
    """A fitted factor, normalised units.

    Attributes:
      factor: [h, k], stored and canonical: columns orthogonal, by falling norm, zero beyond ``rank``.
      rank: number of nonzero columns.
      columns: columns that pruning left, before parallel ones were merged; 0 where columns were not pruned by norm.
      rss: residual sum of squares.
      trace: [steps + 1], RSS along the last refinement, NaN beyond its end.
      rival: [h, k], of the fits with about the same RSS the one that is farthest from this; zero where none was compared.
      apart: relative distance of the two in Frobenius norm.
    """

    factor: Float[Array, "h k"]
    rank: Int[Array, ""]
    columns: Int[Array, ""]
    rss: Float[Array, ""]
    trace: Float[Array, "t"]
    rival: Float[Array, "h k"]
    apart: Float[Array, ""]


def make_answer(
    factor: Float[Array, "h k"],
    rank: Int[Array, ""],
    rss: Float[Array, ""],
    trace: Float[Array, "t"],
    columns: Int[Array, ""] | None = None,
) -> Answer:
    """An answer that nothing was compared with."""
    none = jnp.zeros((), jnp.int32) if columns is None else columns
    return Answer(factor, rank, none, rss, trace, jnp.zeros_like(factor), jnp.zeros((), factor.dtype))


def distance(lane: Lane, one: Float[Array, "h k"], others: Float[Array, "*batch h q"]) -> Float[Array, "*batch"]:
    """``||U Uᴴ - V Vᴴ||_F / ||U Uᴴ||_F``, without a d x d array."""
    field = lane.operator.field
    u, v = factor_of(one, field), factor_of(others, field)
    adjoint = jnp.conj(jnp.swapaxes(v, -1, -2))
    own, cross = jnp.conj(u.T) @ u, adjoint @ u
    # A difference of squares: distances below the root of rounding are not resolved, which is all that is asked here.
    gap = jnp.sum(jnp.square(jnp.abs(own))) + _squares(adjoint @ v) - 2 * _squares(cross)
    return jnp.sqrt(jnp.maximum(gap, 0) / jnp.maximum(jnp.sum(jnp.square(jnp.abs(own))), jnp.finfo(lane.y.dtype).tiny))


def _squares(array: Array) -> Array:
    return jnp.sum(jnp.square(jnp.abs(array)), axis=(-1, -2))


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


def noise_edge(lane: Lane, sigma: Float[Array, ""]) -> Float[Array, ""]:
    """About the largest eigenvalue that noise of deviation ``sigma`` makes; both normalised."""
    if isinstance(lane.operator, PackedOperator):
        return sigma * jnp.sqrt(2 * lane.d / lane.n)  # the gain is divided out of everything here
    edge: Array = cast(lane.operator, lane.y.dtype).noise_edge(sigma * lane.unit, lane.n, lane.d)
    return edge / lane.scale


def edge_ratio(lane: Lane, answer: Answer) -> Float[Array, ""]:
    """Least eigenvalue of the answer over the noise edge of its operator; infinite where nothing is left of the data.

    Below about 1.2 a component cannot be told from noise, below 2 not surely. NaN for rank 0.
    """
    left = jnp.maximum(lane.n - lane.operator.dof(answer.rank.astype(lane.n.dtype), lane.d), 1)
    weakest = jnp.sum(jnp.square(jnp.take(answer.factor, answer.rank - 1, axis=1, mode="clip")))
    edge = noise_edge(lane, jnp.sqrt(answer.rss / left))
    ratio = jnp.where(edge > 0, weakest / jnp.where(edge > 0, edge, 1), jnp.inf)
    return jnp.where(answer.rank > 0, ratio, jnp.nan)


def expected_error(lane: Lane, answer: Answer) -> Float[Array, ""]:
    """Relative Frobenius error to expect of the answer if its rank is right; infinite where it cannot be predicted."""
    p = lane.operator.dof(answer.rank.astype(lane.n.dtype), lane.d)
    size = jnp.linalg.norm(answer.factor.T @ answer.factor) / equivalent(lane)
    return predicted_error(answer.rss, p, lane.n, size)


def equivalent(lane: Lane) -> Float[Array, ""]:
    """Noise in units of M over noise in units of y, both normalised: that of Gaussian measurements with the same noise edge."""
    one = jnp.ones((), lane.y.dtype)
    if isinstance(lane.operator, PackedOperator):
        return one
    wide = 2 * lane.d if lane.operator.field == "real" else 4 * lane.d
    return noise_edge(lane, one) / jnp.sqrt(wide / lane.n)


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
        "apart": answer.apart,
        "predicted_error": expected_error(lane, answer),
        "steps": steps,
    }
    if lane.truth is not None:
        estimate = gram(jnp.sqrt(lane.scale) * answer.factor, lane.operator.field)
        values["error"] = jnp.linalg.norm(estimate - lane.truth.matrix) / jnp.linalg.norm(lane.truth.matrix)
    return values
