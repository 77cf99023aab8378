r"""Pauli observables in bits, and the table of all of their values by a Walsh-Hadamard transform. NumPy arrays stay NumPy's.

The observable with masks (x, z) is ``P|b> = i^{|x & z|} (-1)^{|z & b|} |b xor x>``, |m| the number of ones of m: Hermitian, with
``P² = I`` and ``tr(P P') = 0`` for two different ones. A Hermitian matrix M is coded as the real matrix ``N = Re M + Im M``, of the
same Frobenius norm; its symmetric and skew parts give M back. Then

.. math:: \operatorname{tr}(P M) = s \sum_b (-1)^{|z \& b|} N[b, b \oplus x], \qquad s = (1, -1, -1, 1)[|x \& z| \bmod 4]

with real numbers only: of ``M[b, b xor x]`` the real part matters where |x & z| is even and the imaginary one where it is odd,
and each sums to zero where the other is meant. For one x the sums over all z are one transform.

Source: masks after Dehaene, De Moor (2003), arXiv:quant-ph/0304125; one transform for each x as in Georges, Berntson, Sünderhauf,
Ivanov (2024), arXiv:2408.06206; the real code is derived (ours).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Inexact, Int

_SIGNS = np.array([1, -1, -1, 1])
_BITS = 5  # a transform goes by products with Hadamard matrices of at most so many qubits


def code(matrix: Inexact[Any, "*batch d d"]) -> Float[Any, "*batch d d"]:
    """The real code ``Re M + Im M`` of Hermitian matrices."""
    return matrix.real + matrix.imag


def decode(coded: Float[Any, "*batch d d"]) -> Complex[Any, "*batch d d"]:
    """The Hermitian matrices of their codes."""
    turned = coded.swapaxes(-1, -2)
    return complex_of((coded + turned) / 2, (coded - turned) / 2)


def complex_of(real: Float[Any, "..."], imaginary: Float[Any, "..."]) -> Complex[Any, "..."]:
    """Complex numbers of their parts, in the precision of these."""
    if isinstance(real, np.ndarray):
        return real + 1j * imaginary
    return jax.lax.complex(real, imaginary)


def code_of_factor(stored: Float[Any, "*batch h k"]) -> Float[Any, "*batch d d"]:
    """The code of ``U Uᴴ`` for a stored factor, h = 2d."""
    real, imaginary = stored[..., 0::2, :], stored[..., 1::2, :]
    left = _beside(real, imaginary)
    return left @ _beside(real - imaginary, real + imaginary).swapaxes(-1, -2)


def times_factor(coded: Float[Any, "*batch d d"], stored: Float[Any, "*batch h k"]) -> Float[Any, "*batch h k"]:
    """The stored form of ``M U`` from the code of M and a stored factor."""
    real, imaginary = stored[..., 0::2, :], stored[..., 1::2, :]
    less, more = real - imaginary, real + imaginary
    k = stored.shape[-1]
    both = (coded @ _beside(less, more) + coded.swapaxes(-1, -2) @ _beside(more, -less)) / 2
    stack = np.stack if isinstance(stored, np.ndarray) else jnp.stack
    pairs = stack([both[..., :k], both[..., k:]], axis=-2)
    return pairs.reshape(*pairs.shape[:-3], 2 * pairs.shape[-3], k)


def values(coded: Float[Any, "*batch d d"]) -> Float[Any, "*batch d d"]:
    """``tr(P M)`` of all d² observables, entry (x, z), from the code of M."""
    flipped, signs = _layout(coded.shape[-1])
    diagonals = _take(coded, flipped)
    return hadamard(diagonals) * signs.astype(coded.dtype)


def combination(table: Float[Any, "*batch d d"]) -> Float[Any, "*batch d d"]:
    """The code of ``sum table[x, z] P``, the adjoint of `values`."""
    flipped, signs = _layout(table.shape[-1])
    diagonals = hadamard(table * signs.astype(table.dtype))
    # b -> b xor x is its own inverse, so N[b, c] = D[b xor c, b] is read by the same kind of index.
    return _take(diagonals, flipped, transposed=True)


def hadamard(array: Float[Any, "*batch d"]) -> Float[Any, "*batch d"]:
    """``sum_b (-1)^{|z & b|} array[..., b]`` for all z: matrix products, one for every five qubits or less.

    Of d (d_1 + d_2 ...) multiplications instead of d log d additions, but at the speed of products.
    """
    qubits = array.shape[-1].bit_length() - 1
    shape = array.shape
    done = 0
    for bits in pieces(qubits):
        matrix = _hadamard_matrix(bits).astype(array.dtype)
        if bits == qubits:
            return array @ matrix
        # The bits done stand last, those of this piece before them.
        wide = array.reshape(*shape[:-1], -1, 1 << bits, 1 << done)
        array = (matrix @ wide).reshape(shape)
        done += bits
    return array


def pieces(qubits: int) -> list[int]:
    """How many qubits each product of a transform takes: as equal as can be, none above five."""
    return [part.size for part in np.array_split(np.arange(qubits), max(1, -(-qubits // _BITS)))]


def phase_signs(x: Int[Any, "*n"], z: Int[Any, "*n"]) -> Int[Any, "*n"]:
    """The sign s of every observable."""
    return _SIGNS[np.bitwise_count(x & z) & 3] if isinstance(x, np.ndarray) else _traced_signs(x, z)


def parity_signs(masks: Int[Any, "*n"]) -> Int[Any, "*n"]:
    """``(-1)^{|m|}``."""
    if isinstance(masks, np.ndarray):
        return 1 - 2 * (np.bitwise_count(masks).astype(masks.dtype) & 1)
    return 1 - 2 * (jax.lax.population_count(masks) & 1)


def _traced_signs(x: Any, z: Any) -> Any:
    half = jax.lax.population_count(x & z) & 3
    return 1 - 2 * ((half == 1) | (half == 2)).astype(x.dtype)


def _beside(left: Any, right: Any) -> Any:
    return (np.concatenate if isinstance(left, np.ndarray) else jnp.concatenate)([left, right], axis=-1)


def _take(array: Any, flipped: np.ndarray, *, transposed: bool = False) -> Any:
    d = array.shape[-1]
    rows = np.arange(d)
    # [x, b] -> N[b, b xor x], or back: [b, c] -> D[b xor c, b].
    places = flipped * d + rows[:, None] if transposed else rows[None, :] * d + flipped
    flat = array.reshape(*array.shape[:-2], d * d)
    return flat[..., places.astype(np.int32)]


@functools.lru_cache(maxsize=32)
def _layout(d: int) -> tuple[np.ndarray, np.ndarray]:
    """``b xor x`` and the sign s, for all pairs."""
    places = np.arange(d)
    return places[:, None] ^ places, _SIGNS[np.bitwise_count(places[:, None] & places) & 3]


@functools.lru_cache(maxsize=32)
def _hadamard_matrix(bits: int) -> np.ndarray:
    places = np.arange(1 << bits)
    return np.asarray(parity_signs(places[:, None] & places), np.float64)
