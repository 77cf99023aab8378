"""A check for operators of one's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pruneft.sensing.field import factor_of, gram, height, stored_of
from pruneft.sensing.operator import Operator

_PROBES = 4


def check_adjoint(operator: Operator, *, key: Array | None = None, tolerance: float | None = None) -> float:
    """Check that the parts of an operator belong together, on random matrices: how far off they are, relative.

    ``<A X, e> = <X, Aᵀ e>`` for `Operator.adjoint`, that it is symmetric (Hermitian), that `Operator.image` and `Operator.pull`
    are their products with a factor, and ``J(U) D = A(U Dᴴ + D Uᴴ)`` for `Operator.jacobian` and `Operator.linearised`. A wrong
    adjoint makes training go nowhere or somewhere else without an error message.

    Args:
      operator: any `Operator`.
      key: of the random matrices; a fixed one if not given.
      tolerance: largest mismatch allowed, relative to the sizes of the two sides; by the operator's dtype if not given,
        some hundred roundings.

    Returns:
      The largest mismatch found.

    Raises:
      ValueError: one exceeds the tolerance, is not finite, or a shape is wrong; the message says which, by how much, and what
        to do.
    """
    dtype = np.dtype(operator.dtype)
    n, d = operator.n, operator.d
    # Sums of n d² terms: rounding grows with the root of their number.
    allowed = 100 * float(jnp.finfo(dtype).eps) * (n * d * d) ** 0.25 if tolerance is None else tolerance
    keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
    tall, field = height(d, operator.field), operator.field
    half = factor_of(jax.random.normal(keys[0], (_PROBES, tall, d), dtype), field)
    X = half + jnp.conj(jnp.swapaxes(half, -1, -2))
    e = jax.random.normal(keys[1], (_PROBES, n), dtype)
    image = _shaped("apply", operator.apply(X), (_PROBES, n))
    back = _shaped("adjoint", operator.adjoint(e), (_PROBES, d, d))
    forth = np.sum(image * np.asarray(e, np.float64), axis=-1)
    other = np.sum((np.conj(np.asarray(X)) * back).real, axis=(-2, -1))
    size = np.linalg.norm(image, axis=-1) * np.linalg.norm(np.asarray(e, np.float64), axis=-1)
    worst = _judge(
        "adjoint is not the adjoint of apply: <A X, e> and <X, Aᵀ e> differ",
        np.abs(forth - other) / np.where(size > 0, size, 1),
        allowed,
        "It must return sum_i e_i (A_i + A_iᴴ)/2 for the same A_i, in the same order and with the same factors as apply uses.",
    )
    asymmetry = np.linalg.norm(back - np.conj(np.swapaxes(back, -1, -2)), axis=(-2, -1))
    breadth = np.linalg.norm(back, axis=(-2, -1))
    worst = max(
        worst,
        _judge(
            "adjoint returns a matrix that is not symmetric: it and its transpose differ",
            asymmetry / np.where(breadth > 0, breadth, 1),
            allowed,
            "Return (B + Bᴴ)/2.",
        ),
    )
    r = min(2, d)
    U, D = (jax.random.normal(k, (tall, r), dtype) for k in keys[2:])
    plus, minus = (operator.apply(gram(U + sign * D, field)) for sign in (1, -1))
    change = (_shaped("apply", plus, (n,)) - _shaped("apply", minus, (n,))) / 2
    wanted = operator.apply(gram(U, field))
    pulled = stored_of(operator.adjoint(e[0]) @ factor_of(U, field), field)
    pairs = [
        ("image is not apply(U Uᴴ): they differ", operator.image(U), wanted, (n,), "It must return <A_i, U Uᴴ>."),
        (
            "pull is not adjoint(e) U: they differ",
            operator.pull(e[0], U),
            pulled,
            (tall, r),
            "It must return sum_i e_i A_i U.",
        ),
    ]
    for name, slopes in (("jacobian", operator.jacobian(U)), ("linearised", operator.linearised()(U))):
        found = np.einsum("nij,ij->n", _shaped(name, slopes, (n, tall, r)), np.asarray(D, np.float64))
        says = f"{name} is not the derivative of apply(U Uᴴ): J(U) D and A(U Dᴴ + D Uᴴ) differ"
        pairs.append(
            (says, found, change, (n,), "It must return 2 sym(A_i) U, shape [n, d, r] (2d where M is complex).")
        )
    for says, found, right, shape, remedy in pairs:
        found, right = _shaped(says.split(maxsplit=1)[0], found, shape), np.asarray(right, np.float64)
        gap = np.linalg.norm(found - right) / (float(np.linalg.norm(right)) or 1)
        worst = max(worst, _judge(says, np.array([gap]), allowed, remedy))
    return worst


def _shaped(name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    if np.shape(array) != shape:
        raise ValueError(
            f"{name} of the operator returns shape {np.shape(array)}: expected {shape}, leading axes being a batch."
        )
    found = np.asarray(array)
    return found.astype(np.complex128 if np.iscomplexobj(found) else np.float64)


def _judge(what: str, mismatch: np.ndarray, allowed: float, remedy: str) -> float:
    worst = float(np.max(mismatch)) if np.all(np.isfinite(mismatch)) else float("inf")
    if not worst <= allowed:
        raise ValueError(f"{what} by {worst:.2g} of their size, where rounding allows {allowed:.1g}. {remedy}")
    return worst
