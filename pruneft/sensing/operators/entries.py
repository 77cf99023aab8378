"""Single entries ``y = M_ij`` of a positive semidefinite matrix: matrix and kernel completion."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.sensing.defaults import OperatorDefaults
from pruneft.sensing.operators.entries_input import checked_mask, checked_pairs

# Pairs per entry of the matrix below which products by pairs are faster than products with the whole matrix: measured equal
# at d = 256 with 1 pair in 43 entries (k = 32), 1.8 times faster at d = 512 with 1 in 85, 2 times slower at d = 128 with 1 in 21.
_SPARSE = 1 / 45


class SuspiciousEntries(UserWarning):
    """Observed entries that no positive semidefinite matrix has: noise, or data of something else."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Entries(OperatorDefaults):
    r"""Some of the entries of a symmetric matrix: ``<A, M> = M_ij``, ``A = (e_i e_jᵀ + e_j e_iᵀ) / 2``.

    A uniform sample of n of the D = d(d+1)/2 entries is isotropic on average once an entry off the diagonal counts twice, for
    it stands in the matrix twice; training goes by

    .. math:: \frac1n \langle e, W e\rangle = \frac Dn \sum_{(i,j) \text{ observed}} (M_{ij} - y_{ij})^2

    the sum over both triangles. Derived (ours).

    Attributes:
      first, second: [n] int32, the pairs, i and j; any where padded.
      live: [n], 1, and 0 where padded; floating, its dtype is the operator's.
      place: [d, d] int32, for every entry the row that measures it, n where none does. None for a large and sparse sample,
        whose products then go by pairs: n k numbers and no d x d matrix.
      side: d.
    """

    first: Any  # Int[Array, "n"]; JAX rebuilds the object around batches, shapes and placeholders too
    second: Any
    live: Any  # Float[Array, "n"]
    place: Any  # Int[Array, "d d"]
    side: int = field(metadata={"static": True})

    @classmethod
    def from_pairs(cls, pairs: Any, d: int, *, dtype: Any = None) -> Entries:
        """From the places of the observed entries.

        Args:
          pairs: [n, 2] whole numbers from 0 to d - 1, (i, j) in any order; M is symmetric, so (i, j) and (j, i) are the same entry.
          d: side of the matrix.
          dtype: that the operator reports, float32 or float64; JAX's default if not given.

        Raises:
          ValueError: wrong shape, an index that is not a whole number or is outside of the matrix, an entry that is given twice.
        """
        array = checked_pairs(pairs, d)
        first, second = array.T
        n, place = len(array), None
        if n >= _SPARSE * d * d:
            place = np.full((d, d), n, np.int32)
            place[first, second] = place[second, first] = np.arange(n)
        live = jnp.ones(n, jnp.zeros(()).dtype if dtype is None else dtype)
        here, there = (jnp.asarray(part, jnp.int32) for part in (first, second))
        return cls(here, there, live, None if place is None else jnp.asarray(place), int(d))

    @classmethod
    def from_mask(cls, mask: Any, *, dtype: Any = None) -> Entries:
        """From a [d, d] array of truth values: an entry is observed where it, or its mirror image, is true.

        Rows are ordered by column, then row, of the upper triangle.

        Raises:
          ValueError: the mask is not square, not of truth values (or zeros and ones), or nothing is observed.
        """
        seen = checked_mask(mask)
        second, first = np.nonzero(np.tril(seen | seen.T))
        return cls.from_pairs(np.stack([first, second], axis=1), len(seen), dtype=dtype)

    @property
    def n(self) -> int:
        """Number of measurements, padded ones included."""
        return int(self.first.shape[-1])

    @property
    def d(self) -> int:
        """Side of the matrix."""
        return self.side

    @property
    def dtype(self) -> np.dtype:
        """Dtype that was asked for; the measurements themselves are exact in any."""
        return np.dtype(self.live.dtype)

    @property
    def pair_kind(self) -> str:
        """What a pair says, for graph checks."""
        return "entries"

    def pairs(self) -> np.ndarray:
        """[m, 2], the observed pairs i, j on the host, padding left out."""
        live = np.asarray(self.live) != 0
        return np.stack([np.asarray(self.first)[live], np.asarray(self.second)[live]], axis=1)

    def image(self, factor: Float[Array, "*batch h k"]) -> Float[Array, "*batch n"]:
        """``<u_i, u_j>``, the rows of U."""
        if self.place is None:
            ends = self._ends(factor)
            return self.live.astype(factor.dtype) * jnp.sum(ends[0] * ends[1], axis=-1)
        return self.apply(factor @ jnp.swapaxes(factor, -1, -2))

    def pull(
        self, residual: Float[Array, "*batch n"], factor: Float[Array, "*batch h k"]
    ) -> Float[Array, "*batch h k"]:
        """``E U``, E the residuals in their places."""
        if self.place is not None:
            return self.adjoint(residual) @ factor
        here, there = self._ends(factor)
        half = (self.live.astype(residual.dtype) * residual / 2)[..., None]
        total = jnp.zeros_like(factor)
        return total.at[..., self.first, :].add(half * there).at[..., self.second, :].add(half * here)

    def apply(self, matrix: Float[Array, "*batch d d"]) -> Float[Array, "*batch n"]:
        """The observed entries of X."""
        return self.live.astype(matrix.dtype) * matrix[..., self.first, self.second]

    def adjoint(self, residual: Float[Array, "*batch n"]) -> Float[Array, "*batch d d"]:
        """The residuals in their places, halved off the diagonal where each has two; zero elsewhere."""
        halves = self.live.astype(residual.dtype) * residual / jnp.where(self.first == self.second, 1, 2)
        if self.place is None:
            total = jnp.zeros((*residual.shape[:-1], self.d, self.d), residual.dtype)
            share = halves / jnp.where(self.first == self.second, 2, 1)
            return total.at[..., self.first, self.second].add(share).at[..., self.second, self.first].add(share)
        # Fetched by place and not sent to it: as fast for one matrix and faster for a batch.
        extended = jnp.concatenate([halves, jnp.zeros_like(halves[..., :1])], axis=-1)
        return extended[..., self.place]

    def jacobian(self, factor: Float[Array, "*batch h r"]) -> Float[Array, "*batch n h r"]:
        """``e_i u_jᵀ + e_j u_iᵀ``."""
        here, there = self._ends(factor)
        rows = jnp.arange(self.d, dtype=jnp.int32)
        at_first, at_second = ((index[:, None] == rows).astype(factor.dtype) for index in (self.first, self.second))
        slopes = at_first[..., None] * there[..., None, :] + at_second[..., None] * here[..., None, :]
        return self.live.astype(factor.dtype)[:, None, None] * slopes

    def whiten(self, residual: Float[Array, "*batch n"], n: Any, d: Any) -> Float[Array, "*batch n"]:
        """``D e`` on the diagonal, ``2 D e`` off it."""
        side = jnp.asarray(d, residual.dtype)
        times = jnp.where(self.first == self.second, 1, 2).astype(residual.dtype)
        return residual * self.live.astype(residual.dtype) * times * (side * (side + 1) / 2)

    def noise_edge(self, sigma: Any, n: Any, d: Any) -> Any:
        """``2 sigma sqrt(d D / n)``: the whitened noise is (D/n) times the residuals in their places, about d n/D of them in a row.

        Of a symmetric matrix with independent entries of variance v the largest eigenvalue is about ``2 sqrt(d v)``. Derived (ours);
        simulated means are .9 to 1 of it from d = 16 on, at 2 to 4 measurements per degree of freedom of rank 2.
        """
        side = jnp.asarray(d, self.dtype)
        return 2 * sigma * jnp.sqrt(side * (side * (side + 1) / 2) / jnp.asarray(n, self.dtype))

    def dof(self, rank: Any, d: Any = None) -> Any:
        """``r d - r(r-1)/2``: rotations of the factor do not count."""
        return rank * (self.d if d is None else d) - rank * (rank - 1) / 2

    def step_cost(self, k: int) -> tuple[float, float]:
        """FLOPs and bytes of one training step of one start with k columns."""
        d, n, size = self.d, self.n, self.dtype.itemsize
        if self.place is None:
            return 6.0 * n * k, float(6 * n * k * size + 8 * n + 3 * d * k * size)
        # U Uᵀ and E U; U read twice and its gradient written, U Uᵀ and E written and read, places and pairs read.
        return 4.0 * d * d * k, float(3 * d * k * size + 4 * d * d * size + 4 * d * d + n * (8 + 4 * size))

    def check_data(self, y: np.ndarray, n: int) -> None:
        """Entries that no positive semidefinite matrix has.

        Raises:
          ValueError: the observed diagonal is negative as a whole.

        Warns:
          SuspiciousEntries: a diagonal entry is negative, or ``|M_ij| > sqrt(M_ii M_jj)``, by more than a tenth of the root mean
            square of the data.
        """
        first, second = np.asarray(self.first), np.asarray(self.second)
        live = np.asarray(self.live) != 0
        values = np.where(live, y, 0).astype(np.float64)
        size = float(np.sqrt(np.mean(np.square(values[live])))) if np.any(live) else 0.0
        on = live & (first == second)
        diagonal = np.full(self.d, np.nan)
        diagonal[first[on]] = values[on]
        if np.any(on) and np.nansum(diagonal) < -size:
            raise ValueError(
                f"the observed diagonal must not be negative: its {int(np.sum(on))} entries sum to {np.nansum(diagonal):.3g}. A positive "
                "semidefinite matrix has none below zero; check the sign, or shift distances into a kernel first."
            )
        bound = np.sqrt(np.maximum(diagonal[first], 0) * np.maximum(diagonal[second], 0))
        excess = np.where(live & (first != second), np.abs(values) - bound, -np.inf)
        wrong = int(np.sum(diagonal < -0.1 * size)) + int(np.sum(excess > 0.1 * size))
        if wrong:
            warnings.warn(
                f"{wrong} observed entries cannot be those of a positive semidefinite matrix (a negative diagonal, or |M_ij| above "
                "sqrt(M_ii M_jj)): fine if the noise is that strong, otherwise check what the matrix is.",
                SuspiciousEntries,
                stacklevel=2,
            )

    def _ends(self, factor: Float[Array, "*batch h k"]) -> tuple[Array, Array]:
        return jnp.take(factor, self.first, axis=-2), jnp.take(factor, self.second, axis=-2)


def entries_of(Y: Any, mask: Any = None, *, dtype: Any = None) -> tuple[Entries, np.ndarray]:
    """The operator and data of a matrix of which some entries are known: ``Problem(*entries_of(Y, mask))``.

    Args:
      Y: [d, d]; what stands where nothing is observed does not matter.
      mask: [d, d] truth values; where Y is not NaN if not given. One of (i, j), (j, i) is enough; where both are observed and
        differ by rounding, their mean is taken.
      dtype: as in `Entries.from_pairs`.

    Returns:
      (operator, y [n]).

    Raises:
      ValueError: wrong shapes or numbers; (i, j) and (j, i) both observed, with different values.
    """
    values = np.asarray(Y)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.shape[0] < 1:
        raise ValueError(f"Y must be a square matrix: got shape {values.shape}.")
    if np.iscomplexobj(values) or not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        raise ValueError(
            f"Y must hold real numbers: got dtype {values.dtype}. Complex matrices are not supported here."
        )
    values = values.astype(np.float64)
    seen = ~np.isnan(values) if mask is None else checked_mask(mask)
    if seen.shape != values.shape:
        raise ValueError(f"Y and mask must have the same shape: got {values.shape} and {seen.shape}.")
    if not np.all(np.isfinite(values[seen])):
        raise ValueError("observed entries must be finite: NaN or infinite ones were found. Take them out of the mask.")
    both = seen & seen.T
    apart = np.where(both, np.abs(values - values.T), 0)
    largest = float(np.max(np.abs(values[seen]))) if np.any(seen) else 0.0
    if np.max(apart) > 1e-6 * largest:
        i, j = (int(index) for index in np.argwhere(apart == np.max(apart))[0])
        raise ValueError(
            f"M is symmetric, but Y[{i}, {j}] = {values[i, j]:.6g} and Y[{j}, {i}] = {values[j, i]:.6g} are both observed and differ. "
            "Take one out of the mask, or put their mean in both places."
        )
    operator = Entries.from_mask(seen, dtype=dtype)
    kept = np.where(seen, values, 0)
    mean = (kept + kept.T) / np.maximum(seen.astype(int) + seen.T, 1)
    i, j = operator.pairs().T
    return operator, mean[i, j]
