"""Positions from shortest paths and classical scaling: a start where short distances were measured."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def shortest_paths(lengths: Float[Array, "N N"], seen: Bool[Array, "N N"]) -> Float[Array, "N N"]:
    """Length of the shortest path between any two nodes of a graph, symmetric; infinite where there is none.

    N passes over the matrix (Floyd 1962, Warshall 1962), so it runs under jit and vmap.

    Args:
      lengths: of the edges, symmetric and not negative, in any unit.
      seen: where there is an edge.
    """
    N = lengths.shape[0]
    own = jnp.eye(N, dtype=bool)
    start = jnp.where(own, 0, jnp.where(seen, lengths, jnp.inf))

    def through(node: Array, paths: Array) -> Array:
        return jnp.minimum(paths, paths[:, node, None] + paths[None, node, :])

    return jax.lax.fori_loop(0, N, through, start)


def classical_scaling(lengths: Float[Array, "N N"], d: Any) -> Float[Array, "N N"]:
    """Points whose distances are about ``lengths``: [N, N], coordinates by falling variance, those of negative one zero.

    Args:
      lengths: distances (not squared); infinite ones count as the largest that is finite.
      d: how many points are live, may be traced; the others become exactly zero.

    Source: Torgerson (1952), doi:10.1007/BF02288916.
    """
    N = lengths.shape[0]
    inside = jnp.arange(N, dtype=jnp.int32) < d
    both = inside[:, None] & inside
    finite = jnp.isfinite(lengths) & both
    largest = jnp.max(jnp.where(finite, lengths, 0))
    squares = jnp.where(both, jnp.square(jnp.where(finite, lengths, largest)), 0)
    count = jnp.asarray(d, lengths.dtype)
    rows = jnp.sum(squares, axis=1) / count
    inner = -(squares - rows[:, None] - rows[None, :] + jnp.sum(rows) / count) / 2
    values, vectors = jnp.linalg.eigh(jnp.where(both, inner, 0))
    points = vectors[:, ::-1] * jnp.sqrt(jnp.maximum(values[::-1], 0))
    return jnp.where(inside[:, None], points, 0)
