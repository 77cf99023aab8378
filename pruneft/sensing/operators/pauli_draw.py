"""Drawing tomography problems: distinct random observables, a random state, and data.

Every observable (x, z) has a number of its own, and the n observables of an instance are the identity and those of the n - 1 smallest
numbers; so more observables are added at the end, and no number depends on what the instance is padded to.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pruneft.random import Block
from pruneft.sensing.draw import make_truth
from pruneft.sensing.family import MEASUREMENTS, TRUTH, Family, Instance
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.pauli import Pauli, quicker


def blocks(rows: int, d: int) -> tuple[Block, Block]:
    """The observables' numbers and noises, column 2z and 2z + 1 of row x, and a truth of real and imaginary parts in turn."""
    return Block(MEASUREMENTS, d, 2 * d), Block(TRUTH, d, 2 * d)


def make(
    draws: Any,
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
) -> Instance:
    """An `Instance` of numbers drawn already, for `blocks`.

    The identity comes first, the others are a uniform sample without replacement. The truth is ``M* = t rho`` with a state rho (unit
    trace) of uniform eigenvectors and eigenvalues geometric between l_1 and l_1/kappa, and t such that ``||M*||_F = scale``, as
    in the other families: at scale ``||rho||_F``, which is 1/sqrt(r) at kappa 1, M* is the state itself. Noise of deviation sigma
    in y is that of ``d scale² / (sigma² ||rho||_F²)`` shots for each observable.
    """
    measurements, directions = draws
    live_n = rows if live_n is None else live_n
    live_d = jnp.asarray(d if live_d is None else live_d, jnp.int32)
    place = jnp.arange(d, dtype=jnp.int32)
    inside = (place[:, None] < live_d) & (place < live_d)
    number = jnp.where(inside, measurements[:, 0::2], jnp.inf).at[0, 0].set(-jnp.inf)
    # Equal numbers stay in the order of (x, z), which padding d does not change.
    order = jnp.argsort(number.reshape(-1), stable=True)[:rows].astype(jnp.int32)
    order = jnp.pad(order, (0, max(0, rows - d * d)))
    live = jnp.arange(rows, dtype=jnp.int32) < live_n
    chosen = jnp.where(live, order, 0)
    side = jnp.where(live, live_d, 0).astype(jnp.float32)
    operator = Pauli(chosen // d, chosen % d, side, d, quicker(rows, d))
    noise = jnp.where(live, measurements[:, 1::2].reshape(-1)[chosen], 0).astype(dtype)
    factor = make_truth(directions, r=r, kappa=kappa, scale=scale, dtype=dtype, live_d=live_d, field="complex")
    truth = factor @ jnp.conj(factor.T)
    y = cast(operator, dtype).apply(truth) + jnp.asarray(sigma, dtype) * noise
    return Instance(operator, jnp.where(live, y, 0), truth, factor)


def check(cell: Any) -> None:
    """Raise ValueError on a cell that cannot be drawn."""
    d, n = cell["d"], cell["n"]
    if d < 2 or d & (d - 1):
        near = 1 << max(1, int(d).bit_length() - 1)
        raise ValueError(
            f"Pauli observables act on qubits, so d must be a power of two, at least 2: got d={d}. The nearest are {near} and {2 * near}."
        )
    if n > d * d:
        raise ValueError(f"there are d² = {d * d} Pauli observables of d={d}: got n={n}. Lower n, or raise d.")


PAULI = Family(
    name="pauli",
    subject="sensing/pauli",
    field="complex",
    rows=lambda n, d: n,
    blocks=blocks,
    make=make,
    dof=lambda d, r: 2 * d * r - r * r,
    most=lambda d: d * d,
    check=check,
)
