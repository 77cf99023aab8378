"""Measurements of one's own, given as functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from pruneft.sensing.defaults import OperatorDefaults
from pruneft.sensing.field import Field

_PROBES = 32  # random matrices that the whitening is estimated from: to about 2 percent of its root for n = 50, d = 16
_NOISES = 8  # random residuals that the noise edge is estimated from


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FunctionOperator(OperatorDefaults):
    r"""Measurements given by one function or two; made by `from_functions`.

    The whitening, unless it is given, is estimated from the functions. With ``g^2`` the mean of ``||A X||^2 / (n ||X||_F^2)`` over random
    X of trace zero, and ``a = A(I)``,

    .. math:: W e = \frac{1}{g^2}\Big(e - \big(1 - \tfrac{g^2}{h}\big)_+ \frac{a \langle a, e\rangle}{||a||^2}\Big), \quad
              h = \frac{||a||^2}{n d}

    so a response to the identity that is stronger than that to other matrices is weighed down to it. For rank-one measurements of unit
    Gaussian vectors, where h is about d + 2, it is soft centring. Derived (ours).

    Attributes:
      forward: X [d, d] -> [n].
      backward: e [n] -> [d, d], its adjoint; None for what JAX derives from ``forward``.
      whitening: e [n] -> [n]; None for the estimate.
      arrays: passed to the functions behind their argument.
      gain: g^2, [].
      direction: [n], ``a / ||a||``.
      down: ``(1 - g^2/h)_+``, [].
      edge: largest eigenvalue of ``(1/n) sum (W e)_i A_i`` for white noise of deviation 1, [].
      count, side: n and d.
      kind: "real" or "complex".
    """

    forward: Callable[..., Any] = field(metadata={"static": True})
    backward: Callable[..., Any] | None = field(metadata={"static": True})
    whitening: Callable[..., Any] | None = field(metadata={"static": True})
    arrays: tuple[Any, ...]
    gain: Any  # Float[Array, ""]; JAX rebuilds the object around batches, shapes and placeholders too
    direction: Any  # Float[Array, "n"]
    down: Any  # Float[Array, ""]
    edge: Any  # Float[Array, ""]
    count: int = field(metadata={"static": True})
    side: int = field(metadata={"static": True})
    kind: Field = field(default="real", metadata={"static": True})

    @classmethod
    def from_functions(
        cls,
        apply: Any,
        adjoint: Any = None,
        *,
        d: int,
        n: int | None = None,
        field: Any = "real",
        whitening: Any = None,
        arrays: tuple[Any, ...] = (),
        dtype: Any = None,
        key: Array | None = None,
    ) -> FunctionOperator:
        """An operator of plain functions, which JAX must be able to trace: `jax.numpy` inside, not NumPy.

        Args:
          apply: X -> ``<A_i, X>`` for every i: [d, d] symmetric (Hermitian) to [n] real; linear, called with one matrix at a time.
          adjoint: e -> ``sum_i e_i A_i``: [n] to [d, d]; its symmetric (Hermitian) part is taken. Derived from ``apply`` if not given.
          d: side of M.
          n: number of measurements; what ``apply`` returns if not given.
          field: "real" or "complex", of M.
          whitening: e -> ``W e``, [n] to [n], linear, symmetric and positive semidefinite with ``E (1/n) <A X, W A X> = ||X||_F^2``
            about; estimated if not given.
          arrays: passed on as further arguments of the functions. Arrays that a function merely closes over work too, but become
            constants of every program that is compiled, and keep their dtype.
          dtype: float32 or float64; JAX's default if not given.
          key: of the random matrices of the estimates; a fixed one if not given.

        Raises:
          ValueError: a function returns another shape, complex or non-finite numbers, cannot be traced, is not linear, or the two
            are not adjoint to each other; all measurements are zero.
        """
        dtype = np.dtype(jnp.zeros(()).dtype if dtype is None else dtype)
        if field not in ("real", "complex"):
            raise ValueError(f"field must be 'real' or 'complex': got {field!r}.")
        if isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 1:
            raise ValueError(f"d (side of the matrix) must be a whole number of at least 1: got {d!r}.")
        for name, function in (("apply", apply), ("adjoint", adjoint), ("whitening", whitening)):
            if not (callable(function) or (function is None and name != "apply")):
                raise ValueError(f"{name} must be a function: got {type(function).__name__}.")
        arrays = jax.tree.map(jnp.asarray, tuple(arrays))
        count = _count(apply, arrays, int(d), field, dtype, n)
        one = jnp.ones((), dtype)
        plain = cls(apply, adjoint, whitening, arrays, one, jnp.zeros(count, dtype), 0 * one, one, count, int(d), field)
        return _estimated(plain, jax.random.key(0) if key is None else key)

    @property
    def n(self) -> int:
        """Number of measurements."""
        return self.count

    @property
    def d(self) -> int:
        """Side of the matrix."""
        return self.side

    @property
    def dtype(self) -> np.dtype:
        """Dtype that was asked for."""
        return np.dtype(self.gain.dtype)

    @property
    def field(self) -> Field:
        """Whether M is real or complex."""
        return self.kind

    def apply(self, matrix: Inexact[Array, "*batch d d"]) -> Float[Array, "*batch n"]:
        """What ``forward`` says of every matrix."""
        flat = matrix.reshape(-1, self.side, self.side)
        found = jax.vmap(lambda one: self.forward(one, *self.arrays))(flat)
        return found.astype(jnp.real(matrix).dtype).reshape(*matrix.shape[:-2], self.count)

    def adjoint(self, residual: Float[Array, "*batch n"]) -> Inexact[Array, "*batch d d"]:
        """``sum_i e_i A_i``, the symmetric (Hermitian) part."""
        flat = residual.reshape(-1, self.count)
        found = jax.vmap(self._transposed(residual.dtype) if self.backward is None else self._given)(flat)
        number = residual.dtype if self.kind == "real" else _complex(residual.dtype)
        whole = found.astype(number).reshape(*residual.shape[:-1], self.side, self.side)
        return (whole + jnp.conj(jnp.swapaxes(whole, -1, -2))) / 2

    def whiten(self, residual: Float[Array, "*batch n"], n: Any, d: Any) -> Float[Array, "*batch n"]:
        """The function that was given, or the estimate."""
        share = jnp.asarray(n, residual.dtype) / self.count
        if self.whitening is not None:
            flat = residual.reshape(-1, self.count)
            white = jax.vmap(lambda one: self.whitening(one, *self.arrays))(flat)  # type: ignore[misc]
            return share * white.astype(residual.dtype).reshape(residual.shape)
        along = self.direction.astype(residual.dtype)
        common = (residual @ along)[..., None] * along
        return share / self.gain.astype(residual.dtype) * (residual - self.down.astype(residual.dtype) * common)

    def noise_edge(self, sigma: Any, n: Any, d: Any) -> Any:
        """``sigma`` times the eigenvalue that was found when the operator was made."""
        return sigma * self.edge * jnp.sqrt(self.count / jnp.asarray(n, self.edge.dtype))

    def dof(self, rank: Any, d: Any = None) -> Any:
        """``r d - r(r-1)/2`` for a real M, ``2 r d - r^2`` for a complex one: of measurements that see all of M."""
        side = self.side if d is None else d
        return rank * side - rank * (rank - 1) / 2 if self.kind == "real" else 2 * rank * side - rank * rank

    def step_cost(self, k: int) -> tuple[float, float]:
        """FLOPs and bytes of one step beside those of the functions, which are not known: products with ``U Uᴴ`` and its gradient."""
        numbers = 1 if self.kind == "real" else 2
        flops = 4.0 * self.side**2 * k * numbers**2
        return flops, float(self.dtype.itemsize * numbers * (4 * self.side**2 + 3 * self.side * k))

    def _given(self, residual: Float[Array, "n"]) -> Inexact[Array, "d d"]:
        assert self.backward is not None
        found: Array = self.backward(residual, *self.arrays)
        return found

    def _transposed(self, dtype: Any) -> Callable[[Array], Array]:
        number = dtype if self.kind == "real" else _complex(dtype)
        like = jax.ShapeDtypeStruct((self.side, self.side), number)
        made = jax.eval_shape(lambda one: self.forward(one, *self.arrays), like)
        turned = jax.linear_transpose(lambda one: self.forward(one, *self.arrays), like)
        # JAX's transpose pairs without conjugation, <A, X> = Re tr(Aᴴ X) with.
        return lambda residual: jnp.conj(turned(residual.astype(made.dtype))[0])


def _complex(dtype: Any) -> Any:
    return jnp.complex64 if np.dtype(dtype) == np.float32 else jnp.complex128


def _count(apply: Callable[..., Any], arrays: Any, d: int, field: Field, dtype: Any, n: int | None) -> int:
    like = jax.ShapeDtypeStruct((d, d), dtype if field == "real" else _complex(dtype))
    try:
        made = jax.eval_shape(lambda one: apply(one, *arrays), like)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(
            "apply must be a function that JAX can trace: write it with jax.numpy instead of numpy, and without branches on values. "
            f"It failed with {type(error).__name__}."
        ) from error
    shape = getattr(made, "shape", None)
    if shape is None or len(shape) != 1 or (n is not None and shape != (n,)):
        raise ValueError(f"apply must turn a [{d}, {d}] matrix into a vector [{'n' if n is None else n}]: got {made}.")
    if jnp.issubdtype(made.dtype, jnp.complexfloating):
        raise ValueError(
            "apply must return real numbers, <A, X> = Re tr(Aᴴ X): got complex ones. Take their real part."
        )
    return int(shape[0])


def _estimated(plain: FunctionOperator, key: Array) -> FunctionOperator:
    """The operator with its whitening and noise edge, and checked on the way."""
    n, d, dtype = plain.n, plain.d, plain.dtype
    keys = jax.random.split(key, 2)
    probes = _traceless(keys[0], d, plain.kind, dtype)
    noise = jax.random.normal(keys[1], (_NOISES, n), dtype)
    images, response = _host(plain.apply(probes)), _host(plain.apply(jnp.eye(d, dtype=probes.dtype)))
    _check_linear(plain, probes, images)
    _check_pair(plain, probes[: len(noise)], images[: len(noise)], noise)
    energy, strength = float(np.sum(np.square(images))), float(np.sum(np.square(response)))
    if energy == 0 and strength == 0:
        raise ValueError(
            "all measurements are zero: apply says nothing about M. Check that the right function was passed."
        )
    sizes = float(np.sum(np.square(np.abs(_host(probes)))))
    level = strength / (n * d)
    # Measurements of the trace alone have nothing else to go by.
    gain = energy / (n * sizes) if energy > 1e-12 * sizes * level else level
    found = FunctionOperator(
        **{
            **plain.__dict__,
            "gain": jnp.asarray(gain, dtype),
            "direction": jnp.asarray(response / (np.sqrt(strength) or 1), dtype),
            "down": jnp.asarray(max(0.0, 1 - gain / level) if level > 0 else 0.0, dtype),
        }
    )
    white = _host(found.adjoint(found.whiten(noise, n, d))) / n
    edge = float(np.mean(np.max(np.abs(np.linalg.eigvalsh(white)), axis=-1)))
    return FunctionOperator(**{**found.__dict__, "edge": jnp.asarray(edge, dtype)})


def _host(array: Any) -> np.ndarray:
    host = np.asarray(array)
    if not np.all(np.isfinite(host)):
        raise ValueError(
            "apply and adjoint must return finite numbers: NaN or infinite ones came for a random matrix of unit size."
        )
    return host.astype(np.complex128 if np.iscomplexobj(host) else np.float64)


def _traceless(key: Array, d: int, kind: Field, dtype: Any) -> Array:
    half = jax.random.normal(key, (_PROBES, d, d), dtype if kind == "real" else _complex(dtype))
    probes = half + jnp.conj(jnp.swapaxes(half, -1, -2))
    trace = jnp.trace(probes, axis1=-2, axis2=-1)[:, None, None] / d
    return probes - trace * jnp.eye(d, dtype=probes.dtype) if d > 1 else probes


def _check_linear(plain: FunctionOperator, probes: Array, images: np.ndarray) -> None:
    together = _host(plain.apply(probes[0] - 2 * probes[1]))
    size = float(np.linalg.norm(images[0]) + 2 * np.linalg.norm(images[1]))
    if not np.linalg.norm(together - (images[0] - 2 * images[1])) <= 1e3 * float(jnp.finfo(plain.dtype).eps) * size:
        raise ValueError(
            "apply is not linear: A(X - 2 Z) is not A(X) - 2 A(Z). Measurements of M itself are linear; subtract constants from y, and "
            "take logarithms or roots back, first."
        )


def _check_pair(plain: FunctionOperator, probes: Array, images: np.ndarray, noise: Array) -> None:
    try:
        back = _host(plain.adjoint(noise))
    except TypeError as error:
        raise ValueError(
            f"the adjoint does not turn [{plain.n}] numbers into a [{plain.d}, {plain.d}] matrix: {error}"
        ) from error
    pairs = _host(noise)
    forth = np.sum(images * pairs, axis=-1)
    other = np.real(np.sum(np.conj(back) * _host(probes), axis=(-2, -1)))
    size = np.linalg.norm(images, axis=-1) * np.linalg.norm(pairs, axis=-1)
    if not np.all(np.abs(forth - other) <= 1e3 * float(jnp.finfo(plain.dtype).eps) * size):
        raise ValueError(
            "adjoint is not the adjoint of apply: <A X, e> and <X, Aᴴ e> differ on random X and e. It must return sum_i e_i A_i for the "
            "same A_i, in the same order and with the same factors as apply uses; leave it out to have it derived."
        )
