"""What extreme values say beyond themselves: observables whose value follows from others of value +1 or -1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pruneft.sensing.operators.pauli import string_of
from pruneft.sensing.operators.pauli_code import parity_signs
from pruneft.sensing.tomography.measured import Measured, measured


class Completion(NamedTuple):
    """Measured values and what follows from them.

    Attributes:
      strings: observables whose value is known; those that were measured first.
      expectations: their values.
      generators: how many independent observables other than the identity have an extreme value. With q of them the state is known.
    """

    strings: list[str]
    expectations: np.ndarray
    generators: int


def complete(strings: Sequence[str], expectations: Any, *, tolerance: float = 1e-6) -> Completion:
    """Values that follow from exact ones of +1 and -1.

    ``tr(P rho) = s`` with s = ±1 means ``P rho = s rho``. Hence two such observables commute; their product has the product of the
    values; one that anticommutes with such a P has value 0; and of one that commutes, Q, the product PQ has the value ``s <Q>``.
    A stabiliser state (GHZ, say) is determined by a subset of its values exactly if this determines it: while the extreme
    values that were measured generate less than 2^q observables, a missing generator may have either sign, and the pure states
    of both signs have the same data.

    Args:
      strings, expectations: exact values; those with shots are extreme by chance too.
      tolerance: distance from ±1 that counts as none.

    Raises:
      ValueError: extreme values that contradict each other, or what `pruneft.sensing.tomography.measured` raises.

    Source: Gottesman (1997), arXiv:quant-ph/9705052; as a step of tomography derived (ours).
    """
    found = measured(strings, expectations)
    extreme = np.flatnonzero((np.abs(found.values) >= 1 - tolerance) & ~found.identity)
    x, z, signs, generators = _group(found, extreme, strings)
    if not generators:
        return Completion(list(strings), found.values, 0)
    d = found.d
    known = np.full((d, d), np.nan)
    every = np.arange(d)
    for place in range(len(x)):
        anti = parity_signs(x[place] & every)[None, :] * parity_signs(z[place] & every)[:, None] < 0
        known[anti] = 0.0
    commuting = np.isnan(known[found.x, found.z])
    for one in np.flatnonzero(commuting):
        turn = signs * _product_sign(found.x[one], found.z[one], x, z)
        known[found.x[one] ^ x, found.z[one] ^ z] = found.values[one] * turn
    known[x, z] = signs
    known[found.x, found.z] = found.values
    missing = ~np.isnan(known)
    missing[found.x, found.z] = False
    more_x, more_z = np.nonzero(missing)
    more = [string_of(int(a), int(b), found.qubits) for a, b in zip(more_x, more_z, strict=True)]
    return Completion([*strings, *more], np.concatenate([found.values, known[missing]]), generators)


def _group(
    found: Measured, extreme: np.ndarray, strings: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Masks and values of all products of the extreme observables, and how many of those are independent."""
    x, z, signs = np.array([0]), np.array([0]), np.array([1])
    place_of = {0: 0}
    generators = 0
    taken: list[int] = []
    for one in extreme:
        for other in taken:
            crossing = found.x[one] & found.z[other], found.z[one] & found.x[other]
            if parity_signs(crossing[0]) * parity_signs(crossing[1]) < 0:
                raise ValueError(
                    f"{strings[one]} and {strings[other]} do not commute, so no state has values of +1 or -1 for both: got "
                    f"{found.values[one]:g} and {found.values[other]:g}. Values from shots need shots=."
                )
        taken.append(int(one))
        value = int(np.sign(found.values[one]))
        code = int(found.x[one]) << found.qubits | int(found.z[one])
        if code in place_of:
            if signs[place_of[code]] != value:
                raise ValueError(
                    f"{strings[one]} is a product of other observables of value +1 or -1, and its value is the product of theirs, "
                    f"{signs[place_of[code]]}: got {value}. Values from shots need shots=."
                )
            continue
        turn = signs * value * _product_sign(found.x[one], found.z[one], x, z)
        x, z = np.concatenate([x, x ^ found.x[one]]), np.concatenate([z, z ^ found.z[one]])
        signs = np.concatenate([signs, turn])
        place_of = {int(a) << found.qubits | int(b): place for place, (a, b) in enumerate(zip(x, z, strict=True))}
        generators += 1
    return x, z, signs, generators


def _product_sign(x: Any, z: Any, others_x: np.ndarray, others_z: np.ndarray) -> np.ndarray:
    """The sign in ``P P' = ± P''`` of commuting observables."""
    ones = np.bitwise_count
    power = (
        ones(x & z).astype(np.int64)
        + ones(others_x & others_z)
        - ones((x ^ others_x) & (z ^ others_z)).astype(np.int64)
        + 2 * ones(z & others_x).astype(np.int64)
    )
    return 1 - (power & 2)
