"""Losses of a prediction, each with what convex training needs of it: value, slope, prox and conjugate.

All are sums over rows, ``sum_k c_k l(f_k, y_k)`` with row weights ``c``: a mean is ``c = 1/n``, a sample weight is its
``c_k``, and a padded row has ``c_k = 0`` and is inert.

==========  ===========================  =========================
name        l(f, y)                      y
==========  ===========================  =========================
squared     (f - y)^2 / 2                real
hinge       (1 - y f)_+                  -1 or 1
bce         log(1 + exp(-2 y f))         -1 or 1
==========  ===========================  =========================

``bce`` is ``-2 f t + log(1 + exp(2 f))`` with ``t = (y + 1) / 2``: the cross-entropy of logits 2 f.

Source: the programs are those of Bai, Gautam, Sojoudi, arXiv:2201.01965; conjugates and prox operators derived (ours).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Rows = Float[Array, " n"]
Scalar = Float[Array, ""]


class Loss(NamedTuple):
    """One loss, as pure functions of rows.

    Attributes:
      name: as users write it.
      labels: what y may be: ``"real"`` or ``"sign"`` (-1 and 1).
      value: (f, y, c) -> the weighted sum.
      slope: (f, y, c) -> its gradient in f, [n]; a subgradient where there is none.
      prox: (r, y, tau) -> argmin over f of ``tau_k l(f_k, y_k) + (f_k - r_k)^2 / 2``, tau [n] at least zero.
      dual_point: (nu, y, c) -> the nearest point of the conjugate's domain up to scaling, [n].
      dual_value: (nu, y, c, limit) -> the largest ``-l*(t nu)`` over scales 0 <= t <= limit, and that t.
    """

    name: str
    labels: str
    value: Callable[[Rows, Rows, Rows], Scalar]
    slope: Callable[[Rows, Rows, Rows], Rows]
    prox: Callable[[Rows, Rows, Rows], Rows]
    dual_point: Callable[[Rows, Rows, Rows], Rows]
    dual_value: Callable[[Rows, Rows, Rows, Scalar], tuple[Scalar, Scalar]]


def loss_named(name: str) -> Loss:
    """The loss with this name.

    Raises:
      ValueError: there is none.
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}: got {name!r}.")
    return LOSSES[name]


def _over(a: Rows, c: Rows) -> Rows:
    """Quotient a / c where c is positive, zero where it is not."""
    return jnp.where(c > 0, a / jnp.where(c > 0, c, 1), 0)


def _squared_value(f: Rows, y: Rows, c: Rows) -> Scalar:
    return jnp.sum(c * (f - y) ** 2) / 2


def _squared_dual(nu: Rows, y: Rows, c: Rows, limit: Scalar) -> tuple[Scalar, Scalar]:
    square, along = jnp.sum(_over(nu**2, c)), -jnp.sum(y * nu)
    t = jnp.clip(jnp.where(square > 0, along / jnp.where(square > 0, square, 1), 0), 0, limit)
    return t * along - t**2 * square / 2, t


def _hinge_prox(r: Rows, y: Rows, tau: Rows) -> Rows:
    margin = y * r
    return y * jnp.where(margin >= 1, margin, jnp.minimum(margin + tau, 1))


def _hinge_dual(nu: Rows, y: Rows, c: Rows, limit: Scalar) -> tuple[Scalar, Scalar]:
    share = jnp.max(_over(-y * nu, c))  # of the largest multiplier that the row may have
    t = jnp.minimum(limit, 1 / jnp.maximum(share, jnp.finfo(nu.dtype).tiny))
    t = jnp.where(share > 0, t, 0)
    return -t * jnp.sum(y * nu), t


def _bce_value(f: Rows, y: Rows, c: Rows) -> Scalar:
    return jnp.sum(c * jax.nn.softplus(-2 * y * f))


def _bce_prox(r: Rows, y: Rows, tau: Rows) -> Rows:
    """The root of ``m - m0 = 2 tau sigmoid(-2 m)``: bisection first, because Newton alone fails for tau of one and more."""
    start = y * r
    low, high = start, start + 2 * tau

    def excess(m: Rows) -> Rows:
        return m - start - 2 * tau * jax.nn.sigmoid(-2 * m)

    def halve(_: Array, ends: tuple[Rows, Rows]) -> tuple[Rows, Rows]:
        low, high = ends
        middle = (low + high) / 2
        right = excess(middle) > 0
        return jnp.where(right, low, middle), jnp.where(right, middle, high)

    low, high = jax.lax.fori_loop(0, 30, halve, (low, high))
    m = (low + high) / 2
    for _ in range(3):
        share = jax.nn.sigmoid(-2 * m)
        m = jnp.clip(m - excess(m) / (1 + 4 * tau * share * (1 - share)), low, high)
    return y * m


def _bce_dual(nu: Rows, y: Rows, c: Rows, limit: Scalar) -> tuple[Scalar, Scalar]:
    """The entropy of the shares ``t a`` is concave in t: where its slope changes sign, or at the largest t that is allowed."""
    share = _over(-y * nu, 2 * c)
    largest = jnp.minimum(limit, 1 / jnp.maximum(jnp.max(share), jnp.finfo(nu.dtype).tiny))
    largest = jnp.where(jnp.max(share) > 0, largest, 0)

    def halve(_: Array, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        t = (low + high) / 2
        a = jnp.clip(share * t, 0, 1)
        # Where a row has a share of one, or none, the slope is infinite, or adds nothing.
        slope = jnp.sum(jnp.where(share > 0, c * share * (jnp.log1p(-a) - jnp.log(a)), 0))
        return jnp.where(slope > 0, t, low), jnp.where(slope > 0, high, t)

    low, high = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(largest), largest))
    t = jnp.where(high == largest, largest, low)
    a = jnp.clip(share * t, 0, 1)
    entropy = -jax.scipy.special.xlogy(a, a) - jax.scipy.special.xlogy(1 - a, 1 - a)
    return jnp.sum(c * entropy), t


LOSSES = {
    "squared": Loss(
        name="squared",
        labels="real",
        value=_squared_value,
        slope=lambda f, y, c: c * (f - y),
        prox=lambda r, y, tau: (r + tau * y) / (1 + tau),
        dual_point=lambda nu, y, c: jnp.where(c > 0, nu, 0),
        dual_value=_squared_dual,
    ),
    "hinge": Loss(
        name="hinge",
        labels="sign",
        value=lambda f, y, c: jnp.sum(c * jax.nn.relu(1 - y * f)),
        slope=lambda f, y, c: jnp.where(y * f < 1, -c * y, 0),
        prox=_hinge_prox,
        dual_point=lambda nu, y, c: -y * jnp.clip(-y * nu, 0, c),
        dual_value=_hinge_dual,
    ),
    "bce": Loss(
        name="bce",
        labels="sign",
        value=_bce_value,
        slope=lambda f, y, c: -2 * c * y * jax.nn.sigmoid(-2 * y * f),
        prox=_bce_prox,
        dual_point=lambda nu, y, c: -y * jnp.clip(-y * nu, 0, 2 * c),
        dual_value=_bce_dual,
    ),
}
