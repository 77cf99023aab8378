"""Drawing instances of completion: which entries are observed, and three kinds of truth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.random import Block
from pruneft.sensing import theory
from pruneft.sensing.draw import make_truth
from pruneft.sensing.family import MEASUREMENTS, TRUTH, Family, Instance
from pruneft.sensing.operators.entries import Entries
from pruneft.sensing.packing import layout, packed_size

_SPIKES = 0.02  # least row scale of the spiky truths, the largest being 1

Truth = Callable[..., Float[Array, "d d"]]


def _rows(n: int, d: int) -> int:
    return min(n, packed_size(d))


def _blocks(rows: int, d: int) -> tuple[Block, Block]:
    # For every entry of the upper triangle its noise and a number by whose order entries are taken: a sample without
    # replacement of which the first n do not depend on n, nor any on the padding of d.
    return Block(MEASUREMENTS, packed_size(d), 2), Block(TRUTH, d, d)


def _orthogonal(directions: Float[Array, "d d"], **asked: Any) -> Float[Array, "d d"]:
    """Uniform eigenvectors, eigenvalues geometric from l_1 to l_1/kappa."""
    return make_truth(directions, **asked)


def _non_negative(directions: Float[Array, "d d"], **asked: Any) -> Float[Array, "d d"]:
    """Absolute values of a Gaussian factor: one large eigenvalue, all entries of M positive."""
    return _plain(jnp.abs(directions), **asked)


def _spiky(directions: Float[Array, "d d"], **asked: Any) -> Float[Array, "d d"]:
    """A Gaussian factor whose rows are scaled geometrically from 1 to 1/50: most of M is in few rows."""
    last = jnp.maximum(jnp.asarray(asked["live_d"], jnp.float32) - 1, 1)
    place = jnp.arange(directions.shape[0], dtype=jnp.float32)
    return _plain(directions * jnp.float32(_SPIKES) ** (place / last), **asked)


def _plain(
    directions: Float[Array, "d d"], *, r: Any, kappa: Any, scale: Any, dtype: Any, live_d: Any
) -> Float[Array, "d d"]:
    place = jnp.arange(directions.shape[0], dtype=jnp.int32)
    factor = jnp.where((place[:, None] < live_d) & (place < r), directions.T, 0).astype(dtype)
    size = jnp.linalg.norm(factor.T @ factor)
    return factor * jnp.sqrt(jnp.asarray(scale, dtype) / size)


def make_entries(
    draws: Sequence[Float[Array, "..."]],
    *,
    rows: int,
    d: int,
    r: Any,
    kappa: Any = 1.0,
    scale: Any = 1.0,
    sigma: Any = 0.0,
    dtype: Any = jnp.float32,
    live_n: Any = None,
    live_d: Any = None,
    truth: Truth = _orthogonal,
) -> Instance:
    """An instance of numbers drawn already; arguments as in `Family.make`, ``truth`` the law of the factor."""
    numbers, directions = draws
    count = rows if live_n is None else live_n
    side = jnp.asarray(d if live_d is None else live_d, jnp.int32)
    inside = jnp.arange(packed_size(d), dtype=jnp.int32) < (side * (side + 1)) // 2
    taken = jnp.argsort(jnp.where(inside, numbers[:, 1], jnp.inf))[:rows].astype(jnp.int32)
    upper, across = (jnp.asarray(index)[taken] for index in layout(d)[:2])
    row = jnp.arange(rows, dtype=jnp.int32)
    live = row < count
    here, there = (jnp.where(live, index, d) for index in (upper, across))  # d is outside, and dropped
    place = jnp.full((d, d), rows, jnp.int32)
    place = place.at[here, there].set(row, mode="drop").at[there, here].set(row, mode="drop")
    operator = Entries(jnp.where(live, upper, 0), jnp.where(live, across, 0), live.astype(jnp.float32), place, d)
    factor = truth(directions, r=r, kappa=kappa, scale=scale, dtype=dtype, live_d=side)
    matrix = factor @ factor.T
    y = matrix[upper, across] + jnp.asarray(sigma, dtype) * numbers[taken, 0].astype(dtype)
    return Instance(operator, jnp.where(live, y, 0), matrix, factor)


def _check(cell: Any, *, conditioned: bool) -> None:
    n, d = int(cell["n"]), int(cell["d"])
    if n > packed_size(d):
        raise ValueError(f"a {d} x {d} symmetric matrix has {packed_size(d)} entries: got n={n}. Lower n, or raise d.")
    if not conditioned and cell.get("kappa", 1) != 1:
        raise ValueError(
            f"kappa has no meaning for this kind of truth: got {cell['kappa']}. Leave it out, or use entries."
        )


def _family(name: str, truth: Truth) -> Family:
    return Family(
        name=name,
        subject=f"sensing/{name}",
        field="real",
        rows=_rows,
        blocks=_blocks,
        make=functools.partial(make_entries, truth=truth),
        dof=theory.dof,
        most=packed_size,
        check=functools.partial(_check, conditioned=truth is _orthogonal),
    )


ENTRIES = _family("entries", _orthogonal)
NON_NEGATIVE_ENTRIES = _family("entries-non-negative", _non_negative)
SPIKY_ENTRIES = _family("entries-spiky", _spiky)
