"""Pauli observables on q qubits: measurements of quantum state tomography."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Int

from pruneft.sensing.defaults import OperatorDefaults
from pruneft.sensing.field import Field
from pruneft.sensing.operators import pauli_code as bits

Form = Literal["rows", "transform"]
_MOST_QUBITS = 15  # masks are 32-bit numbers, and a matrix of 15 qubits has 2^30 entries
_ROUNDING = 1e-6


class SuspiciousExpectations(UserWarning):
    """Values of observables that no state has, beyond rounding."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pauli(OperatorDefaults):
    """Measurements ``A_i = sqrt(d) P_i`` of a complex positive semidefinite d x d matrix, d = 2^q; the P_i are never built.

    ``y_i = sqrt(d) tr(P_i M)``. For a state (unit trace) that is sqrt(d) times the expectation of the observable: `data` makes y of
    expectations. With observables drawn uniformly ``E (1/n) sum <A_i, X>^2 = ||X||_F^2``, and with all d² of them this holds exactly, so
    nothing has to be whitened. An expectation from N shots has variance ``(1 - <P>^2)/N``, so y has at most d/N.

    A residual costs 2 d² k multiplications for the matrix, in its real code, and n d or about d² q for the observables (see ``form``);
    the product back with a factor costs 4 d² k.

    Attributes:
      x, z: [n] masks: which qubits carry X or Y, and which Z or Y; the first qubit of a string is the highest bit. 0 and 0 is the identity.
      side: [n], the live dimension d; 0 where a row is padding. A power of two, so exact in any dtype.
      d: side of the arrays. Where it is more than the live dimension, what lies beyond is zero and stays so.
      form: ``"rows"`` sums n rows of d signs, ``"transform"`` goes through the table of all d² observables. By `quicker`, from the sizes.
    """

    x: Any  # Int[Array, "n"]; JAX rebuilds the object around batches and placeholders too
    z: Any  # Int[Array, "n"]
    side: Any  # Float[Array, "n"]
    d: int = dataclasses.field(metadata={"static": True})
    form: Form = dataclasses.field(metadata={"static": True})

    @classmethod
    def from_strings(cls, strings: Sequence[str]) -> Pauli:
        """From strings of the letters I, X, Y and Z, one letter for each qubit: ``["XIZ", "YYI"]``.

        The matrix is the Kronecker product in the order of the letters.

        Raises:
          ValueError: a letter, a length, or a repeated string.
        """
        x, z, qubits = masks_of(strings)
        return cls.from_masks(x, z, qubits)

    @classmethod
    def from_masks(cls, x: Any, z: Any, qubits: int, *, form: str | None = None) -> Pauli:
        """From masks (see the attributes), whole numbers below ``2**qubits``.

        Raises:
          ValueError: a mask is out of range or an observable is repeated.
        """
        if isinstance(qubits, bool) or not isinstance(qubits, int | np.integer) or not 1 <= qubits <= _MOST_QUBITS:
            raise ValueError(f"qubits must be a whole number from 1 to {_MOST_QUBITS}: got {qubits!r}.")
        if form not in (None, "rows", "transform"):
            raise ValueError(f"form must be 'rows' or 'transform', or None for the quicker: got {form!r}.")
        x, z, d = np.asarray(x), np.asarray(z), 1 << int(qubits)
        for name, mask in (("x", x), ("z", z)):
            if mask.ndim != 1 or mask.shape != x.shape or not mask.size or not np.issubdtype(mask.dtype, np.integer):
                raise ValueError(
                    f"masks x and z must be whole numbers of one shape [n], n at least 1: got {name} of shape {mask.shape}, "
                    f"dtype {mask.dtype}."
                )
            if np.any((mask < 0) | (mask >= d)):
                raise ValueError(
                    f"a mask of {qubits} qubits lies between 0 and {d - 1}: got {name} from {mask.min()} to {mask.max()}."
                )
        different, first, counts = np.unique(x.astype(np.int64) * d + z, return_index=True, return_counts=True)
        if len(different) < len(x):
            twice = first[np.argmax(counts)]
            raise ValueError(
                f"{len(x) - len(different)} observables are repeated, {string_of(int(x[twice]), int(z[twice]), qubits)} for one: "
                "pass each once, with the mean of its values and the sum of its shots."
            )
        side = jnp.full(len(x), d, jnp.result_type(float))
        chosen: Form = quicker(len(x), d) if form is None else "rows" if form == "rows" else "transform"
        return cls(jnp.asarray(x, jnp.int32), jnp.asarray(z, jnp.int32), side, d, chosen)

    @property
    def n(self) -> int:
        """Number of observables, padded ones included."""
        return self.x.shape[-1]

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the products, where a factor does not say another."""
        return np.dtype(self.side.dtype)

    @property
    def field(self) -> Field:
        """Complex."""
        return "complex"

    @property
    def qubits(self) -> int:
        """q, of the arrays."""
        return (self.d - 1).bit_length()

    @property
    def strings(self) -> list[str]:
        """The observables as strings; of padding too."""
        pairs = zip(np.asarray(self.x).tolist(), np.asarray(self.z).tolist(), strict=True)
        return [string_of(x, z, self.qubits) for x, z in pairs]

    def data(self, expectations: Any) -> np.ndarray:
        """The data y [n] of expectations [n] between -1 and 1: sqrt(d) times them.

        Raises:
          ValueError: a shape, a number that is not finite, one beyond 1, or an identity whose value is not 1.
        """
        found = np.asarray(expectations, np.float64)
        if found.shape != (self.n,):
            raise ValueError(
                f"expectations must have one entry for each of {self.n} observables: got shape {found.shape}."
            )
        far = ~(np.abs(found) <= 1 + _ROUNDING)  # NaN too
        if np.any(far):
            place = int(np.argmax(far))
            raise ValueError(
                f"an expectation lies between -1 and 1: got {found[place]:g} for {self.strings[place]}. Pass mean outcomes "
                "(+1 or -1 each), not counts or sums."
            )
        identity = (np.asarray(self.x) == 0) & (np.asarray(self.z) == 0)
        if np.any(np.abs(found[identity] - 1) > _ROUNDING):
            raise ValueError(
                f"the identity has expectation 1: got {float(found[identity][0]):g}. Leave it out, or pass 1."
            )
        return np.sqrt(np.asarray(self.side, np.float64)) * found

    def check_data(self, y: np.ndarray, n: int) -> None:
        """Look at y [rows] before it is solved.

        Raises:
          ValueError: the identity was measured, and its value, the trace of M times sqrt(d), is not positive.

        Warns:
          SuspiciousExpectations: an observable's value is larger than the trace. (Noise can do that, so it is no error.)
        """
        live = np.asarray(self.side) > 0
        values = np.abs(np.asarray(y, np.float64))
        identity = live & (np.asarray(self.x) == 0) & (np.asarray(self.z) == 0)
        if not np.any(identity):
            return
        place = int(np.argmax(identity))
        if not y[place] > 0:
            raise ValueError(
                f"the identity's value is the trace of M, which is positive: got y = {y[place]:g} at place {place}."
            )
        beyond = live & (values > values[place] * (1 + _ROUNDING))
        if np.any(beyond):
            worst = int(np.argmax(np.where(beyond, values, 0)))
            warnings.warn(
                f"{int(np.sum(beyond))} observables have values larger than the trace, which no positive semidefinite M gives: "
                f"{self.strings[worst]} has {values[worst] / values[place]:.3g} times that. "
                "Unless noise is that large, check signs and units.",
                SuspiciousExpectations,
                stacklevel=2,
            )

    def image(self, factor: Float[Array, "*batch h k"]) -> Float[Array, "*batch n"]:
        """``sqrt(d) tr(P_i U Uᴴ)``."""
        return self._values(bits.code_of_factor(factor))

    def pull(
        self, residual: Float[Array, "*batch n"], factor: Float[Array, "*batch h k"]
    ) -> Float[Array, "*batch h k"]:
        """``sum_i e_i A_i U``."""
        return bits.times_factor(self._sum(residual), factor)

    def apply(self, matrix: Inexact[Array, "*batch d d"]) -> Float[Array, "*batch n"]:
        """``sqrt(d) tr(P_i X)`` of a Hermitian X."""
        return self._values(bits.code(matrix))

    def adjoint(self, residual: Float[Array, "*batch n"]) -> Complex[Array, "*batch d d"]:
        """``sum_i e_i A_i``, zero beyond the live dimension."""
        live = jnp.arange(self.d, dtype=self.dtype) < jnp.max(self.side)
        return bits.decode(jnp.where(live[:, None] & live, self._sum(residual), 0))

    def jacobian(self, factor: Float[Array, "*batch h r"]) -> Float[Array, "*batch n h r"]:
        """``2 A_i U``: the rows of U in another order, with signs; of an odd number of Y real and imaginary parts change places."""
        return self.linearised()(factor)

    def linearised(self) -> Callable[[Array], Array]:
        """`jacobian` with places and signs made once."""
        row = jnp.arange(self.d, dtype=jnp.int32)
        x, z = self.x[:, None], self.z[:, None]
        power = jax.lax.population_count(x & z) & 3
        odd = power & 1
        source = jnp.minimum(row ^ x, self.d - 1)
        signs = bits.parity_signs(z & (row ^ x)) * (1 - (power & 2))
        # i (a + ib) = -b + ia: for an odd number of Y the real row takes minus the imaginary one, and the other way round.
        real = jnp.stack([2 * source + odd, 2 * source + 1 - odd], axis=-1).reshape(self.n, 2 * self.d)
        both = jnp.stack([signs * (1 - 2 * odd), signs], axis=-1).reshape(self.n, 2 * self.d)

        def jacobian(factor: Array) -> Array:
            size = 2 * both.astype(factor.dtype) * jnp.sqrt(self.side.astype(factor.dtype))[:, None]
            return factor[..., real, :] * size[..., None]

        return jacobian

    def noise_edge(self, sigma: Any, n: Any, d: Any) -> Any:
        """``2 sigma sqrt(d / n)``: ``2/sqrt(N)`` where every observable has N shots and all d² are measured."""
        return 2 * sigma * jnp.sqrt(jnp.asarray(d / n, self.dtype))

    def dof(self, rank: Any, d: Any = None) -> Any:
        """``2 r d - r²``: complex numbers less the unitary rotations of the factor."""
        return 2 * rank * (self.d if d is None else d) - rank * rank

    def step_cost(self, k: int) -> tuple[float, float]:
        """Floating-point operations and bytes of one training step of one start: residual, its sum of observables, product with the factor.

        Bytes of the least traffic: factor, gradient and data once, and the d x d arrays written and read between the products.
        """
        d, n, size = self.d, self.n, self.dtype.itemsize
        table = (
            2 * d * d * sum(1 << part for part in bits.pieces(self.qubits)) if self.form == "transform" else 2 * n * d
        )
        flops = 4 * d * d * k + 8 * d * d * k + 2 * table
        passes = 8 if self.form == "transform" else 4
        return float(flops), float(size * (2 * 2 * d * k + 2 * n + passes * d * d) + 8 * n)

    def _values(self, coded: Float[Array, "*batch d d"]) -> Float[Array, "*batch n"]:
        """``sqrt(d) tr(P_i M)`` from the code of M."""
        scale = jnp.sqrt(self.side.astype(coded.dtype))
        if self.form == "transform":
            return scale * bits.values(self._widened(coded))[..., self.x, self.z]
        place, signs = self._rows(coded.dtype)
        row = jnp.arange(self.d, dtype=jnp.int32)
        return scale * jnp.sum(coded[..., row, place] * signs, axis=-1)

    def _sum(self, residual: Float[Array, "*batch n"]) -> Float[Array, "*batch d d"]:
        """The code of ``sum_i e_i A_i``; beyond the live dimension it is left as it comes, where factors are zero."""
        scaled = residual * jnp.sqrt(self.side.astype(residual.dtype))
        if self.form == "transform":
            wide = 1 << self.qubits
            table = jnp.zeros((*residual.shape[:-1], wide, wide), residual.dtype).at[..., self.x, self.z].add(scaled)
            return bits.combination(table)[..., : self.d, : self.d]
        place, signs = self._rows(residual.dtype)
        row = jnp.arange(self.d, dtype=jnp.int32)
        empty = jnp.zeros((*residual.shape[:-1], self.d, self.d), residual.dtype)
        return empty.at[..., row, place].add(scaled[..., None] * signs)

    def _rows(self, dtype: Any) -> tuple[Int[Array, "n d"], Float[Array, "n d"]]:
        """Where the d entries of every observable stand, and their signs; zero beyond its side."""
        row = jnp.arange(self.d, dtype=jnp.int32)
        place = jnp.minimum(row ^ self.x[:, None], self.d - 1)
        signs = bits.parity_signs(self.z[:, None] & row) * bits.phase_signs(self.x, self.z)[:, None]
        return place, jnp.where(row.astype(self.side.dtype) < self.side[:, None], signs, 0).astype(dtype)

    def _widened(self, coded: Float[Array, "*batch d d"]) -> Float[Array, "*batch wide wide"]:
        """Zeros up to the next power of two, which the transform needs."""
        missing = (1 << self.qubits) - self.d
        return coded if not missing else jnp.pad(coded, [(0, 0)] * (coded.ndim - 2) + [(0, missing)] * 2)


def quicker(n: int, d: int) -> Form:
    """The quicker form, by the sizes alone.

    Both start from the d x d matrix, so what is left is n d signs against two transforms of the table. Measured on a CPU (q = 3 to
    8) the rows are level or ahead up to n = 2d, and 5 to 100 times behind with all observables of five qubits and more.
    """
    return "transform" if n > 2 * d else "rows"


def masks_of(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Masks x and z [n] of Pauli strings, and their number of qubits.

    Raises:
      ValueError: no string, a letter other than I, X, Y and Z, or strings of different lengths.
    """
    if isinstance(strings, str) or not all(isinstance(one, str) for one in strings):
        raise ValueError(f"strings must be a sequence of Pauli strings such as ['XIZ', 'YYI']: got {strings!r}.")
    if not len(strings) or not strings[0]:
        raise ValueError("there must be at least one Pauli string, of at least one letter.")
    qubits = len(strings[0])
    for place, one in enumerate(strings):
        wrong = sorted(set(one) - set("IXYZ"))
        if wrong:
            raise ValueError(
                f"a Pauli string has the letters I, X, Y and Z only: got {one!r} at place {place}, with {wrong[0]!r}."
            )
        if len(one) != qubits:
            raise ValueError(
                f"all Pauli strings must have one letter for each qubit, {qubits} as in {strings[0]!r}: got {one!r} at place {place}, "
                f"with {len(one)}."
            )
    letters = np.array([list(one) for one in strings])
    powers = 1 << np.arange(qubits - 1, -1, -1)
    x = np.isin(letters, ["X", "Y"]) @ powers
    z = np.isin(letters, ["Z", "Y"]) @ powers
    return x, z, qubits


def string_of(x: int, z: int, qubits: int) -> str:
    """The string of one pair of masks."""
    places = range(qubits - 1, -1, -1)
    return "".join("IXZY"[(x >> place & 1) + 2 * (z >> place & 1)] for place in places)
