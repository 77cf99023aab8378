"""The constrained trajectory: gradient descent held to where it is just stable, and the quantities that say what happens around it.

Gradient descent with step ``eta`` is stable along the direction u of largest curvature only while the sharpness S is at most
``2 / eta``. With M the points with ``S <= 2 / eta`` and ``grad L . u = 0``, the constrained trajectory takes a gradient step and returns
to M.

All functions take one flat vector of parameters; `pruneft.dynamics.flatten` makes it of a pytree.

Source: Damian, Nichani and Lee (2023), arXiv:2209.15594; the domain in which their prediction holds is measured, ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.dynamics.curvature import Loss, sharpness_gradient
from pruneft.dynamics.sharpness import Sharpness, sharpness
from pruneft.status import Status

HELD = 1e-6  # relative distance from M at which the sweeps of a projection end


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Where the prediction around the constrained trajectory holds.

    Read off matrix sensing (m = 25, d = 10, r = 2, f = .97, 24 instances, 120 steps): all 6 instances that stay within it have
    correlations of at least .99 (x), .95 (y), .97 (S, loss) and ``<x^2> / <delta^2>`` from .84 to 1.11, in the simple and the full form.
    At lower shares the gradient of the sharpness is nearly parallel to u and those two forms lose y; the generalised form keeps it (at
    least .97 in 23 of 24, down to a share of .13), so ``share=0`` will do for x and y in time, but not for ``<x^2> = <delta^2>``.

    Attributes:
      eps: most of ``eta sqrt(alpha)``: how much the sharpness rises within one oscillation.
      share: least of ``|b| / |grad S|``.
      second: most of ``eta lambda_2``: above it a second direction is about to become unstable.
    """

    eps: float = 0.1
    share: float = 0.45
    second: float = 1.9


class Point(NamedTuple):
    """A point and its local quantities; u is the unit eigenvector of the largest curvature.

    Attributes:
      theta: [n].
      loss, gradient: L and its gradient.
      eigen: the two largest eigenpairs (one for a single parameter).
      sharpness: S, the largest eigenvalue; ``second``: the next, minus infinity for a single parameter.
      u: [n].
      slope: [n], gradient of the sharpness.
      b: [n], its part across u.
      alpha: ``-grad L . b``, the rise of the sharpness along the gradient flow (progressive sharpening).
      beta: ``|b|^2``.
      delta: ``sqrt(2 alpha / beta)``, the size of the oscillation that cancels that rise; 0 where nothing has to be cancelled.
      eps: ``eta sqrt(alpha)``, 0 where delta is.
      share: ``|b| / |grad S|``.
      active: whether the point had to be held at ``S = 2 / eta``.
    """

    theta: Float[Array, " n"]
    loss: Float[Array, ""]
    gradient: Float[Array, " n"]
    eigen: Sharpness
    sharpness: Float[Array, ""]
    second: Float[Array, ""]
    u: Float[Array, " n"]
    slope: Float[Array, " n"]
    b: Float[Array, " n"]
    alpha: Float[Array, ""]
    beta: Float[Array, ""]
    delta: Float[Array, ""]
    eps: Float[Array, ""]
    share: Float[Array, ""]
    active: Bool[Array, ""]


def look(
    loss: Loss,
    theta: Float[Array, " n"],
    eta: float | Float[Array, ""],
    previous: Sharpness | None = None,
    *,
    key: Array | None = None,
) -> Point:
    """The local quantities of a point: one eigen-solve and one third derivative.

    Args:
      loss: of the flat vector.
      theta: the point.
      eta: step size, in units of theta per gradient.
      previous: `Point.eigen` of a point nearby.
      key: as in `sharpness`.
    """
    k = min(2, theta.shape[0])
    eigen = sharpness(loss, theta, k, key=key, previous=previous, check=previous is None, keep=True)
    value, gradient = jax.value_and_grad(loss)(theta)
    u = eigen.eigenvectors[0]
    slope = sharpness_gradient(loss, theta, u)
    b = slope - u * (u @ slope)
    point = Point(
        theta=theta,
        loss=value,
        gradient=gradient,
        eigen=eigen,
        sharpness=eigen.eigenvalues[0],
        second=eigen.eigenvalues[1] if k == 2 else jnp.full((), -jnp.inf, theta.dtype),
        u=u,
        slope=slope,
        b=b,
        alpha=-(gradient @ b),
        beta=b @ b,
        delta=value,
        eps=value,
        share=_over(jnp.linalg.norm(b), jnp.linalg.norm(slope)),
        active=eta * eigen.eigenvalues[0] >= 2,
    )
    return _forced(point, eta, point.active)


def project(
    loss: Loss,
    theta: Float[Array, " n"],
    eta: float | Float[Array, ""],
    previous: Sharpness | None = None,
    *,
    sweeps: int = 3,
    key: Array | None = None,
) -> Point:
    """The point of M near ``theta``, by linearised sweeps; at most ``sweeps + 1`` eigen-solves.

    Each sweep takes ``max(0, S - 2 / eta) / beta`` of b and ``(u . grad L) / S`` of u away. They end early where ``eta S - 2`` and
    ``|u . grad L| / |grad L|`` are below 1e-6.

    Args:
      loss, theta, eta, previous, key: as in `look`.
      sweeps: at most so many; at least 1.

    Raises:
      ValueError: fewer than one sweep.
    """
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1: got {sweeps}.")
    if previous is None:
        previous = look(loss, theta, eta, key=key).eigen

    def go_on(carry: tuple[Array, Array, Point, Array]) -> Array:
        i, _, _, there = carry
        return (i <= sweeps) & ~there

    def sweep(carry: tuple[Array, Array, Point, Array]) -> tuple[Array, Array, Point, Array]:
        i, theta, last, _ = carry
        point = look(loss, theta, eta, last.eigen, key=key)
        active = jnp.where(i == 0, point.active, last.active)
        excess, slope = jnp.maximum(0, point.sharpness - 2 / eta), point.u @ point.gradient
        there = (eta * excess <= HELD) & (jnp.abs(slope) <= HELD * jnp.linalg.norm(point.gradient))
        moved = theta - _over(excess, point.beta) * point.b - _over(slope, point.sharpness) * point.u
        return i + 1, jnp.where((i < sweeps) & ~there, moved, theta), _forced(point, eta, active), there

    empty = jax.tree.map(
        lambda part: jnp.zeros(part.shape, part.dtype),
        jax.eval_shape(lambda: look(loss, theta, eta, previous, key=key)),
    )
    # One body for the sweeps and the look at the result, so that it is compiled once.
    first = (jnp.zeros((), jnp.int32), theta, empty._replace(eigen=previous), jnp.zeros((), jnp.bool_))
    return jax.lax.while_loop(go_on, sweep, first)[2]


def advance(
    loss: Loss, point: Point, eta: float | Float[Array, ""], *, sweeps: int = 3, key: Array | None = None
) -> Point:
    """The next point of the constrained trajectory: a gradient step, then `project`."""
    return project(loss, point.theta - eta * point.gradient, eta, point.eigen, sweeps=sweeps, key=key)


def verdict(point: Point, eta: float | Float[Array, ""], domain: Domain = Domain()) -> Int[Array, ""]:
    """Whether the prediction around a point can be trusted, as a status.

    CONVERGED where it can; OUT_OF_DOMAIN where ``domain`` is left; BUDGET_SPENT where the eigenvalues are not accurate; NOT_FINITE.
    """
    forced = (point.eps <= domain.eps) & (point.share >= domain.share)
    inside = (eta * point.second <= domain.second) & (forced | (point.delta == 0))
    status = jnp.where(inside, point.eigen.status, Status.OUT_OF_DOMAIN)
    status = jnp.where(point.eigen.status == Status.CONVERGED, status, point.eigen.status)
    finite = jnp.all(jnp.isfinite(point.theta)) & jnp.isfinite(point.loss) & jnp.isfinite(point.beta)
    return jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32)


def _forced(point: Point, eta: float | Array, active: Array) -> Point:
    """With delta and eps for a point that is held at the edge, or not."""
    forced = active & (point.alpha > 0) & (point.beta > 0)
    alpha = jnp.where(forced, point.alpha, 0)
    delta = jnp.sqrt(2 * _over(alpha, point.beta))
    return point._replace(delta=delta, eps=eta * jnp.sqrt(alpha), active=active)


def _over(a: Array, b: Array) -> Array:
    """A quotient, 0 where the divisor is 0."""
    return jnp.where(b != 0, a / jnp.where(b != 0, b, 1), 0)
