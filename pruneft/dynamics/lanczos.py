"""The largest eigenvalues of a symmetric map from its products alone: thick-restart Lanczos with full re-orthogonalisation.

Basis and products are kept, so projected matrix and residuals are computed and not taken from the three-term recurrence; what is
returned is therefore right to the residual that stands beside it. Where the Krylov space is exhausted (a start of a few eigenvectors, a
repeated eigenvalue, a zero map) it goes on from a random direction.

Source: Wu and Simon (2000), doi:10.1137/S0895479898334605, for the restart; the random directions are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BLOCK = 4  # products between two looks at the residuals, each of which is an eigendecomposition of the projected matrix


class Pairs(NamedTuple):
    """Eigenpairs with how far they can be trusted.

    Attributes:
      values: [k], falling.
      vectors: [k, n], orthonormal rows.
      residuals: [k], ``||A v - l v||`` over the largest absolute Ritz value; 0 for a zero map.
      products: products with the map that were made.
      converged: whether all residuals came below the tolerance.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k n"]
    residuals: Float[Array, " k"]
    products: Int[Array, ""]
    converged: Bool[Array, ""]


class _State(NamedTuple):
    basis: Float[Array, "m n"]  # rows beyond the first `used` are zero
    images: Float[Array, "m n"]
    projected: Float[Array, "m m"]  # basis times images
    miss: Float[Array, " n"]  # residual of the wanted pair that is furthest off: where the basis is to grow
    ritz: Float[Array, "m m"]  # coefficients of the Ritz vectors, by falling value
    used: Int[Array, ""]
    pairs: Pairs
    checked: Bool[Array, ""]  # a random direction has been tried since the residuals were small


def top(
    product: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    start: Float[Array, " n"],
    key: Array,
    *,
    k: int,
    width: int,
    block: int = BLOCK,
    most: int,
    tol: float | Float[Array, ""],
    check: bool,
) -> Pairs:
    """The k algebraically largest eigenvalues of a symmetric map, and their vectors.

    Args:
      product: the map.
      start: [n], not zero; a sum of the eigenvectors of a map nearby is a good one.
      key: for random directions.
      k: how many, at most n.
      width: directions kept, at least ``2 k + block`` or n.
      block: products between two looks at the residuals.
      most: products after which it ends; rounded up to whole blocks.
      tol: residual at which it stops.
      check: when the residuals are small, go on for one block from a random direction before they are believed: a start that
        lacks an eigenvector, or a repeated eigenvalue, would stay unseen without.

    Returns:
      The `Pairs`. With non-finite products they are not converged.
    """
    n = start.shape[0]
    width = min(width, n)
    kept = min(max(k + 2, width // 3), width - 1) if width < n else width
    block = min(block, width - kept) if width < n else min(block, n)
    tiny = 20 * float(jnp.finfo(start.dtype).eps)
    place = jnp.arange(width, dtype=jnp.int32)

    def without(vector: Array, basis: Array) -> Array:
        return vector - basis.T @ (basis @ vector)

    def unit(rest: Array, size: Array, basis: Array, key: Array) -> Array:
        """A vector without its part in the basis, of which one pass took it, normalised; a random one where rounding is all that is left.

        ``size`` is the vector's length before. The second pass is always made, twice is enough (Parlett and Kahan): with single ones the
        basis loses its orthogonality by a factor at every step.
        """
        rest = without(rest, basis)
        length = jnp.linalg.norm(rest)
        lost = ~(length > tiny * size)

        def fresh() -> Array:
            drawn = jax.random.normal(key, (n,), start.dtype)
            drawn = without(without(drawn, basis), basis)
            length = jnp.linalg.norm(drawn)
            return drawn / jnp.where(length > 0, length, 1)  # zero where the basis is complete

        return jax.lax.cond(lost, fresh, lambda: rest / jnp.where(lost, 1, length))

    def grow(state: _State, key: Array) -> _State:
        def one(j: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            basis, images, projected, rest, size, used = carry
            direction = unit(rest, size, basis, jax.random.fold_in(key, j))
            image = product(direction)
            at = jnp.where(used >= n, width, used)  # a complete basis gains nothing: out of range, and dropped
            basis = basis.at[at].set(direction, mode="drop")
            images = images.at[at].set(image, mode="drop")
            along = basis @ image
            projected = projected.at[at].set(along, mode="drop").at[:, at].set(along, mode="drop")
            return basis, images, projected, image - basis.T @ along, jnp.linalg.norm(image), jnp.minimum(used + 1, n)

        first = (without(state.miss, state.basis), jnp.linalg.norm(state.miss), state.used)
        carry = (state.basis, state.images, state.projected, *first)
        basis, images, projected, _, _, used = jax.lax.fori_loop(0, block, one, carry)
        return state._replace(basis=basis, images=images, projected=projected, used=used)

    def restart(state: _State) -> _State:
        """Keeps the best Ritz vectors."""
        keep = jnp.where(place < kept, state.ritz, 0).T
        return state._replace(
            basis=keep @ state.basis,
            images=keep @ state.images,
            projected=keep @ state.projected @ keep.T,
            used=jnp.asarray(kept, jnp.int32),
        )

    def advance(state: _State) -> _State:
        if width < n:
            state = jax.lax.cond(state.used + block > width, restart, lambda state: state, state)
        products = state.pairs.products
        small = state.pairs.converged if check else jnp.zeros((), jnp.bool_)
        # In a Krylov space all residuals are parallel, and this is Lanczos; it stays right where random directions came in.
        state = grow(state._replace(miss=jnp.where(small, 0, state.miss)), jax.random.fold_in(key, products))
        state = _look(state, k, tol)
        pairs = state.pairs._replace(products=products + block)
        return state._replace(pairs=pairs, checked=state.checked | small)

    def go_on(state: _State) -> Array:
        sure = state.pairs.converged & (state.checked | (state.used >= n)) if check else state.pairs.converged
        bad = (state.pairs.products > 0) & ~jnp.all(jnp.isfinite(state.pairs.values))
        return ~sure & ~bad & (state.pairs.products < most)

    zero = jnp.zeros((width, n), start.dtype)
    far = jnp.full(k, jnp.inf, start.dtype)
    none = Pairs(far, zero[:k], far, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_))
    state = _State(
        basis=zero,
        images=zero,
        projected=jnp.zeros((width, width), start.dtype),
        miss=start,
        ritz=jnp.eye(width, dtype=start.dtype),
        used=jnp.zeros((), jnp.int32),
        pairs=none,
        checked=jnp.zeros((), jnp.bool_),
    )
    return jax.lax.while_loop(go_on, advance, state).pairs


def _look(state: _State, k: int, tol: float | Array) -> _State:
    """With the pairs that the basis holds, and the residual of the worst."""
    projected = state.projected
    inside = jnp.arange(projected.shape[0], dtype=jnp.int32) < state.used
    # Rows that are not in use come last.
    below = -2 * jnp.linalg.norm(projected) - 1
    values, vectors = jnp.linalg.eigh(projected + jnp.diag(jnp.where(inside, 0, below)))
    values, ritz = values[::-1], vectors[:, ::-1]
    scale = jnp.max(jnp.where(inside, jnp.abs(values), 0))
    coefficients = ritz[:, :k].T
    found, image = coefficients @ state.basis, coefficients @ state.images
    # Rayleigh quotients of what is returned: rounding in the projected matrix does not reach the values.
    squares = jnp.sum(found**2, axis=1)
    values = jnp.where(squares > 0, jnp.sum(found * image, axis=1) / jnp.where(squares > 0, squares, 1), values[:k])
    misses = image - values[:, None] * found
    sizes = jnp.linalg.norm(misses, axis=1)
    residuals = jnp.where(sizes > 0, sizes / jnp.where(scale > 0, scale, 1), 0)
    residuals = jnp.where(jnp.isfinite(sizes), residuals, jnp.nan)
    enough = (state.used >= k) & jnp.all(residuals <= tol)
    pairs = Pairs(values, found, residuals, state.pairs.products, enough)
    return state._replace(pairs=pairs, miss=misses[jnp.argmax(sizes)], ritz=ritz)
