"""The families of measurements by their names, and drawing instances of them. Each is loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from pruneft.random import normals
from pruneft.sensing.family import Family, Instance

FAMILIES = {
    "gaussian": "pruneft.sensing.draw:GAUSSIAN",
    "rank-one": "pruneft.sensing.operators.rank_one_draw:RANK_ONE",
    "rank-one-complex": "pruneft.sensing.operators.rank_one_draw:RANK_ONE_COMPLEX",
    "pauli": "pruneft.sensing.operators.pauli_draw:PAULI",
    "distances": "pruneft.sensing.operators.distances_draw:DISTANCES",
    "distances-nearest": "pruneft.sensing.operators.distances_draw:DISTANCES_NEAREST",
    "entries": "pruneft.sensing.operators.entries_draw:ENTRIES",
    "entries-non-negative": "pruneft.sensing.operators.entries_draw:NON_NEGATIVE_ENTRIES",
    "entries-spiky": "pruneft.sensing.operators.entries_draw:SPIKY_ENTRIES",
}


def family_of(name: str) -> Family:
    """The family of that name.

    Raises:
      ValueError: there is none.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown operator {name!r}: known are {', '.join(FAMILIES)}.")
    module, _, attribute = FAMILIES[name].partition(":")
    found: Family = getattr(importlib.import_module(module), attribute)
    return found


def draw(
    family: Family | str,
    key: Array,
    *,
    n: int,
    d: int,
    r: Any,
    kappa: Any = 1.0,
    scale: Any = 1.0,
    sigma: Any = 0.0,
    dtype: Any = jnp.float32,
) -> Instance:
    """An instance of a family: measurements, truth and data.

    Args:
      family: itself, or its name: one of `FAMILIES`.
      key: a JAX key.
      n: measurements. The operator may hold more rows, padding among them: give ``live_n=n`` to `pruneft.Problem`.
      d: side of M.
      r: true rank; may be traced.
      kappa: condition number l_1 / l_r, eigenvalues geometric between.
      scale: Frobenius norm of M*.
      sigma: noise standard deviation, in units of y.
      dtype: of y, truth and factor.

    Raises:
      ValueError: there are not so many measurements at this d, or no such family.
    """
    law = family_of(family) if isinstance(family, str) else family
    most = law.most(d)
    if most is not None and n > most:
        raise ValueError(f"n (measurements) must be at most {most}, all that there are at d={d}: got n={n}.")
    rows = law.rows(n, d)
    draws = normals(key, *law.blocks(rows, d))
    return law.make(
        draws,
        rows=rows,
        d=d,
        r=r,
        kappa=kappa,
        scale=scale,
        sigma=sigma,
        dtype=dtype,
        live_n=jnp.asarray(n, jnp.int32),
        live_d=jnp.asarray(d, jnp.int32),
    )
