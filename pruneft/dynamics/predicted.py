"""What gradient descent does around the constrained trajectory, predicted without running it.

With ``v = theta - theta+`` and the quantities of `pruneft.dynamics.constrained.Point` at theta+, ``x = u . v`` is how far it is out along
the unstable direction and ``y = b . v`` how much the sharpness there is above ``2 / eta``: x grows while y is positive, and x^2 lowers y.

Source: Damian, Nichani and Lee (2023), arXiv:2209.15594, for the three forms; period and conserved level of the reduced map: derived, ours.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.dynamics.constrained import Point
from pruneft.dynamics.curvature import Loss, hessian_product

FORMS = ("simple", "full", "generalised")
Scalar = float | Float[Array, "..."]


class Prediction(NamedTuple):
    """What `predict` says of a step.

    Attributes:
      theta: [n], ``theta+ + v``.
      x, y: coordinates of v along u and b.
      loss: ``L+ + x^2 / eta``.
      sharpness: ``2 / eta + y + (grad S . u) x``, with S+ for ``2 / eta`` where theta+ lies below the edge.
    """

    theta: Float[Array, " n"]
    x: Float[Array, ""]
    y: Float[Array, ""]
    loss: Float[Array, ""]
    sharpness: Float[Array, ""]


def check_form(form: str) -> None:
    """Refuses an unknown form.

    Raises:
      ValueError: it is none of `FORMS`.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}: got {form!r}.")


def kicked(point: Point, kick: float | Float[Array, ""]) -> Float[Array, " n"]:
    """The displacement ``kick delta u`` to start from.

    A run that has converged along u has an x near rounding, so nothing says when it will be seen to grow; after a kick the times compare.
    """
    return kick * point.delta * point.u


def step(
    form: str, loss: Loss, now: Point, following: Point, v: Float[Array, " n"], eta: float | Float[Array, ""]
) -> Float[Array, " n"]:
    r"""The displacement one step later.

    .. math:: v \leftarrow v - \eta \left[ \tfrac12 (x^2 - \delta^2) b + \nabla^2 L \, v + x y u \right]

    is the simple form. The full form follows the eigenvector as it turns, from u to u' (P, P' project across them):

    .. math:: v \leftarrow P'(I - \eta \nabla^2 L) P v + \tfrac{\eta}{2} (\delta^2 - x^2) P' b - (1 + \eta y) x u'

    The generalised form is the simple one with the true slope of the loss along u, ``grad L(theta+ + x u) . u``, for losses that are not
    quadratic across the oscillation.

    Args:
      form: ``"simple"``, ``"full"`` or ``"generalised"``.
      loss: of the flat vector.
      now, following: consecutive points of the constrained trajectory, with aligned eigenvectors.
      v: displacement from ``now``.
      eta: step size.

    Raises:
      ValueError: an unknown form.
    """
    check_form(form)
    x, y = now.u @ v, now.b @ v
    push = (now.delta**2 - x**2) / 2 * now.b
    if form == "full":
        across = v - x * now.u
        across = across - eta * hessian_product(loss, now.theta, across) + eta * push
        return across - following.u * (following.u @ across) - (1 + eta * y) * x * following.u
    if form == "simple":
        force = hessian_product(loss, now.theta, v)
    else:
        slope = now.u @ jax.grad(loss)(now.theta + x * now.u)
        force = hessian_product(loss, now.theta, v - x * now.u) + slope * now.u
    return v - eta * (force - push + x * y * now.u)


def predict(point: Point, v: Float[Array, " n"], eta: float | Float[Array, ""]) -> Prediction:
    """Parameters, loss and sharpness of gradient descent at displacement ``v`` from a point of the constrained trajectory."""
    x, y = point.u @ v, point.b @ v
    edge = jnp.where(point.active, 2 / eta, point.sharpness)
    return Prediction(point.theta + v, x, y, point.loss + x**2 / eta, edge + y + (point.slope @ point.u) * x)


def reduced(x: Scalar, y: Scalar, eta: Scalar, beta: Scalar, delta: Scalar) -> tuple[Scalar, Scalar]:
    """One step of the map that x and y alone obey, with beta and delta constant.

    ``x <- -(1 + eta y) x`` and ``y <- y + eta beta (delta^2 - x^2) / 2``. It circles around the 2-cycle ``|x| = delta, y = 0``, over which
    x^2 averages delta^2.
    """
    return -(1 + eta * y) * x, y + eta * beta / 2 * (delta**2 - x**2)


def level(X: Scalar, Y: Scalar) -> Float[Array, "..."]:
    """What the reduced map keeps for small eps: ``(X^2 + Y^2) / 2 - ln X`` with ``X = |x| / delta``, ``Y = y / sqrt(alpha)``.

    1/2 at the 2-cycle, which is the least.
    """
    X, Y = jnp.asarray(X), jnp.asarray(Y)
    return (X**2 + Y**2) / 2 - jnp.log(X)


def period(h: Scalar, eps: Scalar) -> Float[Array, "..."]:
    r"""Steps of one turn around the 2-cycle at a level ``h`` above 1/2, for small eps; tends to ``sqrt(2) pi / eps`` as h goes to 1/2.

    .. math:: T = \frac{2}{\epsilon} \int \frac{dq}{\sqrt{2 h - e^{2 q} + 2 q}}, \quad q = \ln X

    between the zeros of the root, by the midpoint rule in the angle, which is accurate to 1e-8 for h below 5.
    """
    h = jnp.asarray(h, jnp.result_type(float))

    def zero(low: Array, high: Array) -> Array:
        """Bisection for e^(2q) - 2q = 2h, positive at ``low``."""
        for _ in range(60):
            middle = (low + high) / 2
            above = jnp.exp(2 * middle) - 2 * middle > 2 * h
            low, high = jnp.where(above, middle, low), jnp.where(above, high, middle)
        return (low + high) / 2

    left, right = zero(-h - 1, jnp.zeros_like(h)), zero(jnp.log(2 * h + 2), jnp.zeros_like(h))
    angles = (jnp.arange(200, dtype=h.dtype) + 0.5) * (jnp.pi / 200)
    q = (left + right)[..., None] / 2 - (right - left)[..., None] / 2 * jnp.cos(angles)
    under = 2 * h[..., None] - jnp.exp(2 * q) + 2 * q
    return 2 / eps * jnp.mean((right - left)[..., None] / 2 * jnp.sin(angles) / jnp.sqrt(under), axis=-1) * jnp.pi
