"""The loss inside the interior-point method: one slope for each row, and what Newton's equations say of it.

For every loss the row equations come to ``d nu = w * (d f + q)``: w [n] is the curvature of the row and q [n] the residual that the
step is to remove. Squared loss and cross-entropy are smooth: w and q are those of Newton's method for ``nu = l'(f)``. The
hinge is a linear program of its own: xi_k >= 0 and ``xi_k >= 1 - y_k f_k`` with the cost ``c_k xi_k``, whose multipliers are
``c_k - a_k`` and a_k, so that ``nu = -y a``; both pairs have products to drive to zero, as the cones have.
A padded row (weight 0) has w = 0, and nu = 0 throughout.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.relu.program import Program

Row = Float[Array, " n"]
Scalar = Float[Array, ""]


class Rows(NamedTuple):
    """State of the rows: the slopes nu, and the hinge's xi (zero for the other losses)."""

    nu: Row
    xi: Row


def _multiplier(program: Program, nu: Row) -> tuple[Row, Row]:
    """The hinge's a and c - a; ones where the weight is zero, so that quotients are finite."""
    real = program.weights > 0
    a = jnp.where(real, -program.y * nu, 1)
    return a, jnp.where(real, program.weights - a, 1)


def _slacks(program: Program, xi: Row, f: Row) -> tuple[Row, Row]:
    real = program.weights > 0
    return jnp.where(real, xi - 1 + program.y * f, 1), jnp.where(real, xi, 1)


def start(program: Program, f: Row, theta: Scalar) -> Rows:
    """Rows on the central path at the prediction f: each product of the hinge's pairs is theta."""
    c, real = program.weights, program.weights > 0
    if program.loss != "hinge":
        return Rows(program.losses.slope(f, program.y, c), jnp.zeros_like(f))
    # (c - a) xi = theta and a (xi - m) = theta with the margin m = 1 - y f: a quadratic in xi, and its larger root.
    m = jnp.where(real, 1 - program.y * f, 1)
    c = jnp.where(real, c, 1)
    xi = m / 2 + (theta + jnp.sqrt((c * m / 2) ** 2 + theta**2)) / c
    a = c - theta / xi
    return Rows(jnp.where(real, -program.y * a, 0), jnp.where(real, xi, 0))


def products(program: Program, rows: Rows, f: Row) -> tuple[Scalar, Scalar]:
    """Sum of the hinge's products, and their number."""
    if program.loss != "hinge":
        return jnp.zeros((), f.dtype), jnp.zeros((), f.dtype)
    a, b = _multiplier(program, rows.nu)
    over, xi = _slacks(program, rows.xi, f)
    real = program.weights > 0
    return jnp.sum(jnp.where(real, over * a + xi * b, 0)), 2 * jnp.sum(real).astype(f.dtype)


class Linear(NamedTuple):
    """Residual of ``d nu = w * (d f + q)``, and for the hinge what the products of the two pairs are to change by."""

    q: Row
    first: Row
    second: Row


def curvature(program: Program, rows: Rows, f: Row) -> Row:
    """w, zero for a row of weight zero."""
    if program.loss == "squared":
        return program.weights
    if program.loss == "bce":
        share = jax.nn.sigmoid(-2 * program.y * f)
        return 4 * program.weights * share * (1 - share)
    a, b = _multiplier(program, rows.nu)
    over, xi = _slacks(program, rows.xi, f)
    return jnp.where(program.weights > 0, 1 / (over / a + xi / b), 0)


def linearise(program: Program, rows: Rows, f: Row, theta: Scalar, before: tuple[Row, Rows]) -> Linear:
    """Newton's equations of the rows.

    Args:
      program, rows, f: where they are taken; f [n] is the prediction.
      theta: what the hinge's products are to become.
      before: d f and the step of the rows of an earlier step, whose second-order terms are taken off.
    """
    c, y, zero = program.weights, program.y, jnp.zeros_like(f)
    if program.loss != "hinge":
        w = curvature(program, rows, f)
        residual = program.losses.slope(f, y, c) - rows.nu
        return Linear(jnp.where(w > 0, residual / jnp.where(w > 0, w, 1), 0), zero, zero)
    a, b = _multiplier(program, rows.nu)
    over, xi = _slacks(program, rows.xi, f)
    df, last = before
    da = -y * last.nu
    first = theta - over * a - (last.xi + y * df) * da
    second = theta - xi * b + last.xi * da
    return Linear(jnp.where(c > 0, -y * (first / a - second / b), 0), first, second)


def step(program: Program, rows: Rows, line: Linear, df: Row, dnu: Row) -> Rows:
    """The step of the rows that belongs to d f and d nu."""
    if program.loss != "hinge":
        return Rows(dnu, jnp.zeros_like(dnu))
    _, b = _multiplier(program, rows.nu)
    _, xi = _slacks(program, rows.xi, df)
    return Rows(dnu, jnp.where(program.weights > 0, (line.second - program.y * dnu * xi) / b, 0))


def longest(program: Program, rows: Rows, f: Row, df: Row, step: Rows) -> Scalar:
    """The inverse of the longest step that keeps the rows interior."""
    if program.loss != "hinge":
        return jnp.zeros((), f.dtype)
    a, b = _multiplier(program, rows.nu)
    over, xi = _slacks(program, rows.xi, f)
    da = -program.y * step.nu
    pairs = ((a, da), (b, -da), (over, step.xi + program.y * df), (xi, step.xi))
    real = program.weights > 0
    return jnp.max(jnp.stack([jnp.max(jnp.where(real, -move / value, 0)) for value, move in pairs]))
