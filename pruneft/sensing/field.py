"""Real and complex factors as real arrays, so that one pipeline trains both.

A complex factor U [d, k] is stored as a real one [2d, k]: row 2i is Re u_i, row 2i + 1 is Im u_i. Norms of columns and
gradients are then those of the real array, and padding d pads the end of it.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Inexact

Field = Literal["real", "complex"]


def height(d: Any, field: Field) -> Any:
    """Rows of the stored factor of a d x d matrix; d may be traced."""
    return d if field == "real" else 2 * d


def to_complex(stored: Float[Any, "*batch h k"]) -> Complex[Any, "*batch d k"]:
    """The complex factor of a stored one, h = 2d. NumPy arrays stay NumPy's."""
    real, imaginary = stored[..., 0::2, :], stored[..., 1::2, :]
    return real + 1j * imaginary if isinstance(stored, np.ndarray) else jax.lax.complex(real, imaginary)


def to_stored(factor: Complex[Any, "*batch d k"]) -> Float[Any, "*batch h k"]:
    """The inverse of `to_complex`. NumPy arrays stay NumPy's."""
    stack = np.stack if isinstance(factor, np.ndarray) else jnp.stack
    pairs = stack([factor.real, factor.imag], axis=-2)
    return pairs.reshape(*factor.shape[:-2], 2 * factor.shape[-2], factor.shape[-1])


def factor_of(stored: Float[Any, "*batch h k"], field: Field) -> Inexact[Any, "*batch d k"]:
    """The factor U, of the field's numbers."""
    return stored if field == "real" else to_complex(stored)


def stored_of(factor: Inexact[Any, "*batch d k"], field: Field) -> Float[Any, "*batch h k"]:
    """The real array that stands for a factor."""
    return factor if field == "real" else to_stored(factor)


def gram(stored: Float[Any, "*batch h k"], field: Field) -> Inexact[Any, "*batch d d"]:
    """``U Uᴴ`` of a stored factor, of the field's numbers."""
    factor = factor_of(stored, field)
    return factor @ jnp.conj(jnp.swapaxes(factor, -1, -2))


def svd(stored: Float[jax.Array, "h k"], field: Field) -> tuple[jax.Array, jax.Array]:
    """Left singular vectors, stored [h, q], and singular values [q] of a factor, q = min(d, k), by falling value."""
    left, values, _ = jnp.linalg.svd(factor_of(stored, field), full_matrices=False)
    return stored_of(left, field), values
