"""Problems on which the edge of stability can be watched: matrix sensing, networks with quadratic activation, a small network on digits.

Each is a `Problem`: data, a start, and the loss of any parameters. Draws do not depend on padding or batch (`pruneft.random`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.penalty import smoothed_group_norm
from pruneft.random import Block, normals

INITIAL = 0.05  # standard deviation of the entries of a factor at the start
SPECTRUM = 0.6  # ratio of consecutive eigenvalues of the truth; the largest is 1
_MEASUREMENTS, _TRUTH, _START, _LAYERS = 0, 1, 2, 3  # streams


@functools.partial(jax.tree_util.register_dataclass, data_fields=("data", "params"), meta_fields=("of",))
@dataclass(frozen=True, kw_only=True)
class Problem:
    """Data and a start.

    Attributes:
      data: whatever the loss needs, arrays.
      params: to start from.
      of: (params, data) -> loss.
    """

    data: Any
    params: Any
    of: Callable[[Any, Any], Float[Array, ""]]

    def loss(self, params: Any) -> Float[Array, ""]:
        """The loss of parameters like ``params``."""
        return self.of(params, self.data)


def sensing_loss(U: Float[Array, "d k"], data: dict[str, Array]) -> Float[Array, ""]:
    """``sum_i (<A_i, U U^T> - y_i)^2 / (4 m)``, plus ``lam`` times the smoothed sum of the column norms."""
    misfit = jnp.einsum("mij,ik,jk->m", data["A"], U, U) - data["y"]
    return jnp.mean(misfit**2) / 4 + data["lam"] * smoothed_group_norm(U, data["beta"])


def network_loss(params: list[tuple[Array, Array]], data: dict[str, Array]) -> Float[Array, ""]:
    """Mean squared error of a network with tanh between its layers."""
    hidden = data["X"]
    for place, (weights, bias) in enumerate(params):
        hidden = hidden @ weights + bias
        hidden = jnp.tanh(hidden) if place < len(params) - 1 else hidden
    return jnp.mean((hidden - data["y"]) ** 2)


def sensing(
    key: Array,
    *,
    m: int = 25,
    d: int = 10,
    k: int | None = None,
    r: int = 2,
    lam: float | Float[Array, ""] = 0.0,
    beta: float = 1e-4,
    rank_one: bool = False,
    dtype: Any = None,
) -> Problem:
    """Matrix sensing: find ``U U^T`` of rank r with eigenvalues 1, .6, .36, ... from m measurements.

    With m about 1.3 d r there are many minimisers and the theory of self-stabilisation applies. With m far above it the minimiser is unique
    but for rotations, and gradient descent goes to an orbit of period 2 around it (`pruneft.dynamics.orbit`).

    Args:
      key: JAX key.
      m: measurements.
      d: ambient dimension.
      k: columns trained; d if not given.
      r: true rank.
      lam, beta: weight and smoothing of the penalty on the columns.
      rank_one: ``A_i = x_i x_i^T`` with Gaussian x_i, which makes it a two-layer network with quadratic activation,
        ``f(x) = sum_j (u_j . x)^2``, on labels of a teacher with r neurons; else symmetric Gaussian A_i.
      dtype: float32 or float64; the wider one that JAX is set to if not given.

    Raises:
      ValueError: a size below 1, r above d, a negative lam, or float64 without JAX's 64-bit mode.
    """
    k, dtype = d if k is None else k, _wanted(dtype)
    for name, size in (("m", m), ("d", d), ("k", k), ("r", r)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1: got {size}.")
    if r > d:
        raise ValueError(f"r (true rank) must be at most d (ambient dimension), {d}: got {r}.")
    if isinstance(lam, float | int) and lam < 0:
        raise ValueError(f"lam (weight of the penalty) must not be negative: got {lam}.")
    columns = d if rank_one else d * d
    rows, directions, start = (
        part.astype(dtype)
        for part in normals(key, Block(_MEASUREMENTS, m, columns), Block(_TRUTH, d, d), Block(_START, d, k))
    )
    if rank_one:
        A = rows[:, :, None] * rows[:, None, :]
    else:
        A = rows.reshape(m, d, d)
        A = (A + jnp.swapaxes(A, 1, 2)) / 2
    basis = jnp.linalg.qr(directions)[0][:, :r]
    truth = (basis * SPECTRUM ** jnp.arange(r, dtype=dtype)) @ basis.T
    data = {
        "A": A,
        "y": jnp.einsum("mij,ij->m", A, truth),
        "lam": jnp.asarray(lam, dtype),
        "beta": jnp.asarray(beta, dtype),
    }
    return Problem(data=data, params=INITIAL * start, of=sensing_loss)


def digits(
    key: Array, *, widths: tuple[int, ...] = (12, 12), classes: int = 3, samples: int = 150, dtype: Any = None
) -> Problem:
    """A network with tanh activation on scikit-learn's handwritten digits, squared loss on one-hot labels, centred inputs.

    Weights N(0, 1 / (3 fan_in)), biases 0. The data are read on the host: make it outside of jit. Needs scikit-learn.

    Args:
      key: JAX key, of the start.
      widths: of the hidden layers.
      classes: the digits 0 to classes - 1, from 2 to 10.
      samples: the first so many of them.
      dtype: float32 or float64; the wider one that JAX is set to if not given.

    Raises:
      ValueError: classes, samples or a width is out of range, or float64 without JAX's 64-bit mode.
    """
    X, y = _digits(classes, samples)
    dtype = _wanted(dtype)
    sizes = (X.shape[1], *widths, classes)
    if min(sizes) < 1:
        raise ValueError(f"widths must be at least 1: got {widths}.")
    params = []
    drawn = normals(key, *(Block(_LAYERS + i, a, b) for i, (a, b) in enumerate(itertools.pairwise(sizes))))
    for weights in drawn:
        scale = (3 * weights.shape[0]) ** -0.5
        params.append((weights.astype(dtype) * scale, jnp.zeros(weights.shape[1], dtype)))
    return Problem(data={"X": jnp.asarray(X, dtype), "y": jnp.asarray(y, dtype)}, params=params, of=network_loss)


def _wanted(dtype: Any) -> Any:
    wide = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    if dtype is None:
        return jnp.float64 if wide else jnp.float32
    if jnp.dtype(dtype) == jnp.float64 and not wide:
        raise ValueError(
            "dtype float64 needs JAX's 64-bit mode: call jax.config.update('jax_enable_x64', True) first, or ask for float32."
        )
    return dtype


@functools.lru_cache
def _digits(classes: int, samples: int) -> tuple[Any, Any]:
    """Pixels from 0 to 1 without their mean, and one-hot labels."""
    if not 2 <= classes <= 10:
        raise ValueError(f"classes must be from 2 to 10: got {classes}.")
    import numpy as np
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X, y = X[y < classes] / 16.0, y[y < classes]
    if not 1 <= samples <= len(y):
        raise ValueError(f"samples must be from 1 to {len(y)}, the images of {classes} digits: got {samples}.")
    X, y = X[:samples], y[:samples]
    return X - X.mean(axis=0), np.eye(classes)[y]
