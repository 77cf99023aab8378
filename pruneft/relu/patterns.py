"""Activation patterns of two-layer ReLU networks, each with a direction in the interior of its cone.

A direction h switches sample k on where ``x_k h >= 0``; the column of switches is a pattern D_j, and the directions with the same
pattern form the cone ``(2 D_j - 1) * (X h) >= 0``. Solvers repair infeasible points along the direction, so it is kept.

Functions that return as many columns as there are different patterns run on the host in NumPy; `switches`, `draw_directions` and
`first_of_each` have fixed shapes and are safe under jit and vmap.

Source: sampling, Pilanci, Ergen, arXiv:2002.10553, and Bai, Gautam, Sojoudi, arXiv:2201.01965; enumeration and centring ours.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pruneft.random import Block, normals
from pruneft.relu.arrangement import cells, cells_at_most, first_columns
from pruneft.relu.interior_direction import interior_directions

MOST = 20_000  # patterns that are enumerated; beyond, the convex program is out of reach anyway
_ROUNDS = 6  # doublings of the number of draws while patterns are missing
_CHUNK = 128  # directions of one call of the generator: of one shape, so that it is compiled once for each d
_MARGIN = 1e-9  # of a direction: a cone narrower than this cannot be told from an empty one


class Patterns(NamedTuple):
    """Different patterns and their directions.

    Attributes:
      D: [n, P], 0 and 1, in the dtype of X.
      H: [d, P], ``(2 D - 1) * (X H) > 0`` in every row of X that is not zero.
      complete: these are all patterns there are.
      note: what differs from what was asked for; empty if nothing does.
    """

    D: np.ndarray
    H: np.ndarray
    complete: bool = False
    note: str = ""


def switches(X: Float[Array, "n d"], H: Float[Array, "d P"]) -> Float[Array, "n P"]:
    """1 where ``X H >= 0``, else 0."""
    return jnp.asarray(X @ H >= 0, X.dtype)


def draw_directions(key: Array, d: int, count: int) -> Float[Array, "d count"]:
    """Standard normal directions, float32; neither more of them nor more rows change those that both have."""
    chunks = [_chunk(jax.random.fold_in(key, k), d) for k in range(-(-count // _CHUNK))]
    return jnp.concatenate(chunks, axis=1)[:, :count]


@functools.partial(jax.jit, static_argnames="d")
def _chunk(key: Array, d: int) -> Float[Array, "d chunk"]:
    return normals(key, Block(0, d, _CHUNK))[0]


def first_of_each(D: Float[Array, "n P"]) -> Bool[Array, " P"]:
    """Which columns equal no column before them: ``D * mask`` has every pattern once, and inert zero columns for the rest.

    Of fixed shape, in n P^2 operations; what `sample_patterns` does with shapes that depend on the data.
    """
    equal_rows = D.T @ D + (1 - D).T @ (1 - D)
    return ~jnp.any(jnp.triu(equal_rows == D.shape[0], k=1), axis=0)


def sample_patterns(key: Array, X: Any, count: int, *, perturb: float = 0.0, copies: int = 4) -> Patterns:
    """``count`` different patterns of random directions; all there are, and a note that says so, where there are fewer.

    Args:
      key: of the draws. More patterns from the same key begin with the same ones.
      X: [n, d] data.
      count: how many.
      perturb: half the side of the box in which adversaries move a sample, in units of X. If positive, every direction h also gives
        the patterns of ``X + perturb * sign(R)`` for ``copies`` Gaussian R; those that no direction has on X itself are left out,
        because only the zero block satisfies their cones.
      copies: as above.

    Raises:
      ValueError: ``count`` is less than 1, ``perturb`` is negative, or X is not a matrix of finite numbers.
    """
    X = _matrix(X)
    n, d = X.shape
    if count < 1:
        raise ValueError(f"the number of patterns must be at least 1: got {count}.")
    if not (math.isfinite(perturb) and perturb >= 0):
        raise ValueError(f"perturb must be finite and not negative: got {perturb}.")
    found = Patterns(np.zeros((n, 0), X.dtype), np.zeros((d, 0), X.dtype))
    for doubling in range(_ROUNDS):
        H = np.asarray(draw_directions(key, d, count << doubling)).astype(X.dtype)
        found = _different(X, H)
        if perturb:
            found = _with_perturbed(key, X, found, perturb, copies)
        if found.D.shape[1] >= count:
            return Patterns(found.D[:, :count], found.H[:, :count])
    there = found.D.shape[1]
    if cells_at_most(X, MOST):
        whole = all_patterns(X)
        if whole.D.shape[1] <= count:
            note = f"{count} patterns were asked for and there are {whole.D.shape[1]}: all are used."
            return whole._replace(note=note if whole.D.shape[1] < count else "")
        rest = _different(X, np.concatenate([found.H, whole.H], axis=1))
        return Patterns(rest.D[:, :count], rest.H[:, :count])
    tried = count << (_ROUNDS - 1)
    return found._replace(
        note=f"{count} patterns were asked for; {tried} random directions gave {there}: these are used."
    )


def all_patterns(X: Any, *, most: int = MOST) -> Patterns:
    """Every pattern that an open set of directions has: with them the convex program is exact.

    Patterns of directions with ``x_k h = 0`` in a row that is not zero are left out: whatever their blocks can do a neighbour's can.

    Args:
      X: [n, d] data, of any rank, with duplicate, parallel and zero rows.
      most: refuse to enumerate when there may be more.

    Raises:
      ValueError: there may be more than ``most``.
    """
    X = _matrix(X)
    if not cells_at_most(X, most):
        raise ValueError(
            f"X of shape {X.shape} may have more than {most} patterns: sample some of them with sample_patterns, or raise most."
        )
    H = cells(X.astype(np.float64)).astype(X.dtype)
    return _different(X, H)._replace(complete=True)


def _different(X: np.ndarray, H: np.ndarray) -> Patterns:
    """The patterns of directions that lie inside their cones, each once, in order."""
    values = X @ H
    size = np.linalg.norm(X, axis=1)
    scaled = np.abs(values[size > 0]) / size[size > 0, None]
    inside = np.min(scaled, axis=0, initial=np.inf) > _MARGIN * np.linalg.norm(H, axis=0)
    D = np.where(size[:, None] > 0, values >= 0, True)[:, inside]
    keep = first_columns(D)
    return Patterns(D[:, keep].astype(X.dtype), H[:, inside][:, keep])


def _with_perturbed(key: Array, X: np.ndarray, found: Patterns, perturb: float, copies: int) -> Patterns:
    n, d = X.shape
    moves = np.asarray(normals(key, Block(1, n, d, copies))[0])
    moved = [(X + perturb * np.sign(move).astype(X.dtype)) @ found.H >= 0 for move in moves]
    D = np.concatenate([found.D > 0, *moved], axis=1)
    D = D[:, first_columns(D)]
    new = D[:, found.D.shape[1] :].astype(X.dtype)  # what was there stands first, and every column of it is different
    H, margin = interior_directions(X, new)
    there = margin > _MARGIN
    return Patterns(
        np.concatenate([found.D, new[:, there]], axis=1), np.concatenate([found.H, H[:, there].astype(X.dtype)], axis=1)
    )


def pattern_bound(n: int, psi: float, xi: float) -> int:
    """How many sampled patterns suffice for the optimum to fall with probability at most ``xi`` when one more is drawn.

    That holds with probability ``1 - psi`` over the sample.
    ``min((n + 1) / (psi xi) - 1, 2 (n + 1 - log psi) / xi)``, rounded up: linear in n, whatever d is. Far above what is needed in
    practice; it does not bound the gap to the optimum over all patterns.

    Raises:
      ValueError: n is less than 1, or psi or xi not between 0 and 1.

    Source: the scenario approach, Calafiore, Campi (2005), with the n + 1 variables of the dual; derived (ours).
    """
    if n < 1 or not (0 < psi < 1 and 0 < xi < 1):
        raise ValueError(f"expected n of at least 1, and psi and xi between 0 and 1: got n={n}, psi={psi}, xi={xi}.")
    return math.ceil(min((n + 1) / (psi * xi) - 1, 2 / xi * (n + 1 - math.log(psi))))


def centred(X: Any, D: Any, H: Any) -> np.ndarray:
    """Directions [d, P] as far inside their cones as can be: ``(2 D - 1) * (X h) >= t ||x_k||`` for the largest t with ``|h| <= 1``.

    A linear program for each pattern, on the host (2 s for 200 patterns at n = 400, d = 30). The objective of a repaired point then
    is much nearer to the optimum when n is large: 2580 instead of 3940 iterations to a gap of 1e-4 at n = 400. A direction for
    which the program fails stays what it is.
    """
    X, D, H = _matrix(X), np.asarray(D), np.asarray(H)
    found, margin = interior_directions(X, D)
    return np.where(margin > _MARGIN, found, H).astype(X.dtype)


def directions_of(X: Any, D: Any) -> np.ndarray:
    """A direction [d, P] inside the cone of every pattern of one's own.

    Raises:
      ValueError: some have none; the message counts and names them.
    """
    X, D = _matrix(X), np.asarray(D)
    H, margin = interior_directions(X, D)
    missing = np.flatnonzero(margin <= _MARGIN)
    if missing.size:
        shown = ", ".join(str(j) for j in missing[:5]) + (", ..." if missing.size > 5 else "")
        raise ValueError(
            f"{missing.size} of {D.shape[1]} patterns have no direction inside their cone (columns {shown} of D, from 0): no h has "
            "1[X h >= 0] equal to them. Were they made of the same X, with the column of ones for a bias?"
        )
    return H.astype(X.dtype)


def _matrix(X: Any) -> np.ndarray:
    X = np.asarray(X)
    if X.ndim != 2 or 0 in X.shape or not np.issubdtype(X.dtype, np.floating) or not np.all(np.isfinite(X)):
        raise ValueError(f"X must be a matrix [n, d] of finite floats: got {X.dtype} of shape {X.shape}.")
    return X
