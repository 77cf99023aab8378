r"""Losses at the worst attack, their prox and multipliers, and their dual.

The recovered network is ``f_k = x_k.c_k`` near sample k, with one vector ``c_k`` per sample, as long as no pattern changes. An
attack of size ``r_k`` then moves the prediction by at most ``r_k ||c_k||_*``, to

    f_k - y_k r_k ||c_k||_*                     for labels -1 and 1 (hinge, bce),
    f_k + sign(f_k - y_k) r_k ||c_k||_*         for real labels (squared),

and the robust loss is the loss there. As a function phi_k of c_k it is convex, and has the multipliers (nu, t, delta) with
``|nu| <= t``, ``||delta||_p <= r t`` (for hinge and bce ``t = |nu|``) and ``nu x + delta`` in its subdifferential: nu is the slope of
the loss, delta / t the attack, and the cross term of the squared loss needs a t of its own where ``f = y``. The conjugate
at ``nu x + delta`` is at most ``l*(nu)``, for the squared loss ``nu y + t^2 / (2 weight)``.

Source: robust losses from Bai, Gautam, Sojoudi, arXiv:2201.01965; multipliers, prox and conjugate derived (ours).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.relu.adversarial.norms import Ball
from pruneft.relu.adversarial.search import root
from pruneft.relu.loss import Loss

Rows = Float[Array, " n"]
Vectors = Float[Array, "n d"]


class Attacked(NamedTuple):
    """What all functions here need of the data.

    Attributes:
      X: [n, d] data.
      y: [n] labels.
      radius: [n] how far each sample may be moved; zero for padded rows.
      mask: [d] features that are attacked, 1 or 0.
    """

    X: Vectors
    y: Rows
    radius: Rows
    mask: Float[Array, " d"]


class Multipliers(NamedTuple):
    """A subgradient ``nu_k x_k + delta_k`` of each robust loss, as above; t [n]."""

    nu: Rows
    t: Rows
    delta: Vectors


def worst_prediction(loss: Loss, ball: Ball, data: Attacked, C: Vectors) -> Rows:
    """The prediction at the worst attack on each sample, [n]; C [n, d] the local linear models."""
    f = jnp.sum(data.X * C, axis=1)
    reach = data.radius * ball.dual(C, data.mask)
    if loss.labels == "sign":
        return f - data.y * reach
    return f + jnp.where(f >= data.y, 1, -1).astype(f.dtype) * reach


def value(loss: Loss, ball: Ball, data: Attacked, C: Vectors, weights: Rows) -> Float[Array, ""]:
    """Sum of the worst losses, weighted."""
    return loss.value(worst_prediction(loss, ball, data, C), data.y, weights)


def prox(
    loss: Loss, ball: Ball, data: Attacked, C0: Vectors, weights: Rows, step: Float[Array, ""]
) -> tuple[Vectors, Multipliers]:
    """Argmin over C of ``step * value(C) + ||C - C0||^2 / 2``, and its multipliers (those of the value, not of the step).

    Along ``c = shrink(c0 - step nu x, step r t)`` the margin rises with the multiplier, so hinge and bce are one search for a number
    in each row. The squared loss is the larger of two smooth ones (attack upwards, attack downwards): where the prox of one
    predicts on its own side, that is the answer, one search; elsewhere the prediction is exactly y, and t and nu are searched
    one inside the other.
    """
    if loss.labels == "sign":
        return _prox_sign(loss, ball, data, C0, weights, step)
    return _prox_squared(ball, data, C0, weights, step)


def _moved(ball: Ball, data: Attacked, C0: Vectors, nu: Rows, t: Rows, step: Array) -> Vectors:
    return ball.shrink(C0 - step * nu[:, None] * data.X, data.mask, step * data.radius * t)


def _with_attack(
    data: Attacked, C0: Vectors, C: Vectors, nu: Rows, t: Rows, step: Array
) -> tuple[Vectors, Multipliers]:
    return C, Multipliers(nu, t, ((C0 - C) / step - nu[:, None] * data.X) * data.mask)


def _prox_sign(
    loss: Loss, ball: Ball, data: Attacked, C0: Vectors, weights: Rows, step: Array
) -> tuple[Vectors, Multipliers]:
    def margin(a: Rows) -> Rows:
        C = _moved(ball, data, C0, -data.y * a, a, step)
        return data.y * worst_prediction(loss, ball, data, C)

    def excess(a: Rows) -> Rows:
        if loss.name == "hinge":
            return margin(a) - 1
        return a - 2 * weights * jax.nn.sigmoid(-2 * margin(a))

    a = root(excess, jnp.zeros_like(data.y), weights * (1 if loss.name == "hinge" else 2))
    return _with_attack(data, C0, _moved(ball, data, C0, -data.y * a, a, step), -data.y * a, a, step)


def _prox_squared(ball: Ball, data: Attacked, C0: Vectors, weights: Rows, step: Array) -> tuple[Vectors, Multipliers]:
    def miss(nu: Rows, t: Rows) -> tuple[Rows, Rows]:
        """Residual and reach at these multipliers."""
        C = _moved(ball, data, C0, nu, t, step)
        return jnp.sum(data.X * C, axis=1) - data.y, data.radius * ball.dual(C, data.mask)

    zero = jnp.zeros_like(data.y)
    residual, reach = miss(zero, zero)
    most = weights * (jnp.abs(residual) + reach)  # no multiplier is larger: |residual| + reach falls as t rises

    def one_sided(side: Array) -> tuple[Rows, Array]:
        def excess(t: Rows) -> Rows:
            residual, reach = miss(side * t, t)
            return t - weights * (side * residual + reach)

        t = root(excess, zero, most)
        return t, side * miss(side * t, t)[0] >= 0

    (above, below), (is_above, is_below) = jax.vmap(one_sided)(jnp.array([1, -1], zero.dtype))

    def balanced(t: Rows) -> Rows:
        """The nu in [-t, t] at which the prediction is y, or as near as that can be."""
        return root(lambda nu: -miss(nu, t)[0], -t, t)

    def excess(t: Rows) -> Rows:
        residual, reach = miss(balanced(t), t)
        return t - weights * (jnp.abs(residual) + reach)

    # Rows that one side has answered already need no search: their bracket is a point.
    answered = is_above | is_below
    known = jnp.where(is_above, above, below)
    t = root(excess, jnp.where(answered, known, 0), jnp.where(answered, known, most))
    nu = jnp.where(is_above, above, jnp.where(is_below, -below, balanced(t)))
    t = jnp.where(answered, known, t)
    return _with_attack(data, C0, _moved(ball, data, C0, nu, t, step), nu, t, step)


def dual_value(
    loss: Loss, ball: Ball, data: Attacked, found: Multipliers, weights: Rows, limit: Float[Array, ""]
) -> Float[Array, ""]:
    """The largest lower bound over scales 0 <= s <= limit of multipliers from `dual_point`."""
    if loss.labels == "sign":
        return loss.dual_value(found.nu, data.y, weights, limit)[0]
    square = jnp.sum(jnp.where(weights > 0, found.t**2 / jnp.where(weights > 0, weights, 1), 0))
    along = -jnp.sum(data.y * found.nu)
    scale = jnp.clip(jnp.where(square > 0, along / jnp.where(square > 0, square, 1), 0), 0, limit)
    return scale * along - scale**2 * square / 2


def dual_point(loss: Loss, ball: Ball, data: Attacked, found: Multipliers, weights: Rows) -> Multipliers:
    """The same multipliers, exactly feasible: nu in the conjugate's domain, each attack within its ball."""
    nu = loss.dual_point(found.nu, data.y, weights)
    size = ball.size(found.delta)
    if loss.labels == "sign":
        t, allowed = jnp.abs(nu), data.radius * jnp.abs(nu)
        shrink = jnp.where(size > allowed, allowed / jnp.where(size > 0, size, 1), 1)
        return Multipliers(nu, t, found.delta * shrink[:, None])
    reachable = data.radius > 0
    delta = jnp.where(reachable[:, None] & (weights > 0)[:, None], found.delta, 0)
    t = jnp.maximum(jnp.abs(nu), jnp.where(reachable, size / jnp.where(reachable, data.radius, 1), 0))
    return Multipliers(nu, jnp.where(weights > 0, t, 0), delta)
