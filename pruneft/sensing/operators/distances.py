"""Squared Euclidean distances between pairs of N points: ``y_ij = ||u_i - u_j||²``, that is ``<(e_i - e_j)(e_i - e_j)ᵀ, M>``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pruneft.sensing.defaults import OperatorDefaults
from pruneft.sensing.operators.distances_data import check_distances, check_pairs, pairs_of
from pruneft.sensing.operators.shortest_paths import classical_scaling, shortest_paths

# A list of pairs goes by products of N x N matrices up to so many entries of the matrix per pair. Measured on CPU, matrices against
# list: 8 against 13 µs at N = 16 (4 entries a pair), 105 against 180 at N = 64 (10), but 397 against 147 at N = 256 (33).
_DENSE = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Distances(OperatorDefaults):
    """Squared distances between listed pairs of N points; M is the Gram matrix of the centred points.

    With all pairs measured the operator has N/2 times the eigenvalue on node effects ``a_i + a_j`` (on the constant, N times) than on
    everything else, so that plain least squares on distances has condition number N. The whitening leaves a factor 2 of that. The
    translation of the points is not seen: it is subtracted at the end (`canonical`).

    Attributes:
      first, second: [n] the nodes of every pair; a padded row is the pair (0, 0).
      live: [n] 1 for a measurement, 0 for padding.
      slots: [N, N] the row that measures this pair, n where none does.
      inverse: [N, N] pseudo-inverse of the signless Laplacian, degrees on the diagonal and 1 for every measured pair; zero for padded
        and isolated nodes.

    Source: the measurements and their spectrum are classical (Schoenberg 1935 for the Gram matrix; condition number O(N)
    published); the whitening is derived (ours), checked against dense matrices.
    """

    first: Any  # Int[Array, "n"]; JAX rebuilds the object around batches, shapes and placeholders too
    second: Any  # Int[Array, "n"]
    live: Any  # Float[Array, "n"]
    slots: Any  # Int[Array, "N N"]
    inverse: Any  # Float[Array, "N N"]

    @classmethod
    def from_pairs(cls, pairs: Any, N: int | None = None, *, dtype: Any = None) -> Distances:
        """From the pairs of points whose distance was measured.

        Args:
          pairs: [n, 2] whole numbers from 0; the order within a pair does not matter.
          N: number of points; one more than the largest index if not given.
          dtype: real; JAX's default floating dtype if not given.

        Raises:
          ValueError: a pair of a point with itself, a pair that comes twice, an index outside, not whole numbers.
        """
        checked, count = check_pairs(pairs, N)
        kind = np.dtype(jnp.result_type(float) if dtype is None else dtype)
        n = len(checked)
        slots = np.full((count, count), n, np.int32)
        slots[checked[:, 0], checked[:, 1]] = slots[checked[:, 1], checked[:, 0]] = np.arange(n, dtype=np.int32)
        seen = (slots < n).astype(np.float64)
        values, vectors = np.linalg.eigh(np.diag(seen.sum(axis=1)) + seen)
        kept = values > 1e-10 * values[-1]
        inverse = (vectors * np.where(kept, 1 / np.where(kept, values, 1), 0)) @ vectors.T
        return cls(
            first=jnp.asarray(checked[:, 0], jnp.int32),
            second=jnp.asarray(checked[:, 1], jnp.int32),
            live=jnp.ones(n, kind),
            slots=jnp.asarray(slots),
            inverse=jnp.asarray((inverse + inverse.T) / 2, kind),
        )

    @classmethod
    def from_matrix(cls, D: Any, mask: Any = None, *, dtype: Any = None) -> tuple[Distances, np.ndarray]:
        """From a matrix of squared distances: the operator and its data y [n], pairs i < j by columns.

        Args:
          D: [N, N] squared distances. What is not observed may be NaN; the diagonal is not looked at beyond being 0 or NaN.
          mask: [N, N] true where observed; all that is finite if not given. A pair observed on one side only is taken from there.
          dtype: as in `from_pairs`.

        Raises:
          ValueError: D is not a square matrix of real numbers, its two triangles contradict each other, its diagonal is not zero, or
            nothing is observed.
        """
        pairs, y = pairs_of(D, mask)
        return cls.from_pairs(pairs, len(D), dtype=dtype), y

    @property
    def n(self) -> int:
        """Number of rows, padded ones included."""
        return self.first.shape[-1]

    @property
    def d(self) -> int:
        """Number of points, padded ones included."""
        return self.slots.shape[-1]

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the measurements."""
        return np.dtype(self.live.dtype)

    @property
    def pair_kind(self) -> str:
        """What a pair of nodes says, for `pruneft.sensing.identifiability`."""
        return "distances"

    def pairs(self) -> np.ndarray:
        """[live n, 2], the measured pairs, on the host."""
        live = np.asarray(self.live) > 0
        return np.stack([np.asarray(self.first)[live], np.asarray(self.second)[live]], axis=1)

    def image(self, factor: Float[Array, "*batch N k"]) -> Float[Array, "*batch n"]:
        """``||u_i - u_j||²`` for every pair; exactly 0 for padding."""
        if not self._dense:
            return jnp.sum(jnp.square(self._differences(factor)), axis=-1) * self.live.astype(factor.dtype)
        return self.apply(factor @ jnp.swapaxes(factor, -1, -2))

    def apply(self, matrix: Float[Array, "*batch N N"]) -> Float[Array, "*batch n"]:
        """``X_ii + X_jj - X_ij - X_ji`` for every pair."""
        diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
        spread = diagonal[..., :, None] + diagonal[..., None, :] - matrix - jnp.swapaxes(matrix, -1, -2)
        flat = spread.reshape(*spread.shape[:-2], self.d * self.d)
        return jnp.take(flat, self.first * self.d + self.second, axis=-1) * self.live.astype(matrix.dtype)

    def pull(
        self, residual: Float[Array, "*batch n"], factor: Float[Array, "*batch N k"]
    ) -> Float[Array, "*batch N k"]:
        """``sum e_ij (e_i - e_j)(u_i - u_j)ᵀ``: the Laplacian with weights e times the factor."""
        if self._dense:
            weights = self._matrix(residual)
            return jnp.sum(weights, axis=-1, keepdims=True) * factor - weights @ factor
        moved = (residual * self.live.astype(residual.dtype))[..., None] * self._differences(factor)
        return (
            jnp.zeros_like(moved, shape=factor.shape)
            .at[..., self.first, :]
            .add(moved)
            .at[..., self.second, :]
            .add(-moved)
        )

    def adjoint(self, residual: Float[Array, "*batch n"]) -> Float[Array, "*batch N N"]:
        """``diag(E 1) - E``, E the symmetric matrix of the residuals."""
        weights = self._matrix(residual)
        return jnp.sum(weights, axis=-1)[..., None] * jnp.eye(self.d, dtype=weights.dtype) - weights

    def jacobian(self, factor: Float[Array, "*batch N r"]) -> Float[Array, "*batch n N r"]:
        """``2 (e_i - e_j)(u_i - u_j)ᵀ`` for every pair."""
        return self.linearised()(factor)

    def linearised(self) -> Callable[[Array], Array]:
        """`jacobian` with the incidence of pairs and nodes made once."""
        ends = [jax.nn.one_hot(node, self.d, dtype=self.live.dtype) for node in (self.first, self.second)]
        incidence = 2 * (ends[0] - ends[1]) * self.live[:, None]
        return lambda factor: incidence.astype(factor.dtype)[:, :, None] * self._differences(factor)[..., :, None, :]

    def whiten(self, residual: Float[Array, "*batch n"], n: Any, d: Any) -> Float[Array, "*batch n"]:
        """``(N(N-1)/4)(e - (1 - 2/N) P e)``, P the projection on the node effects ``a_i + a_j`` on the measured pairs."""
        N = jnp.asarray(d, residual.dtype)
        return (N * (N - 1) / 4) * (
            residual * self.live.astype(residual.dtype) - (1 - 2 / N) * self.node_effects(residual)
        )

    def node_effects(self, residual: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """``a_i + a_j`` that is nearest to the residual in least squares."""
        if self._dense:
            sums = jnp.sum(self._matrix(residual), axis=-1)
        else:
            live = residual * self.live.astype(residual.dtype)
            sums = jnp.zeros_like(live, shape=(*live.shape[:-1], self.d))
            sums = sums.at[..., self.first].add(live).at[..., self.second].add(live)
        effects = sums @ self.inverse.astype(residual.dtype)
        both = jnp.take(effects, self.first, axis=-1) + jnp.take(effects, self.second, axis=-1)
        return both * self.live.astype(residual.dtype)

    def noise_edge(self, sigma: Any, n: Any, d: Any) -> Any:
        """``sigma sqrt(N(N-1)/4) sqrt(2 N / n)``: all but the few node effects see white noise of that size."""
        N = jnp.asarray(d, jnp.result_type(self.live))
        return sigma * jnp.sqrt(N * (N - 1) / 4 * 2 * N / n)

    def dof(self, rank: Any, d: Any = None) -> Any:
        """``N r - r(r+1)/2``: rotations and translations of the points are not seen."""
        return rank * (self.d if d is None else d) - rank * (rank + 1) / 2

    def canonical(self, factor: Float[Array, "*batch N k"], d: Any) -> Float[Array, "*batch N k"]:
        """The points about their mean; padded ones stay 0."""
        live = (jnp.arange(self.d, dtype=jnp.int32) < d)[:, None]
        mean = jnp.sum(factor, axis=-2, keepdims=True) / jnp.asarray(d, factor.dtype)
        return jnp.where(live, factor - mean, 0)

    def warm_starts(self, y: Float[Array, "n"], n: Any, d: Any, rank: Any) -> Float[Array, "s N N"]:
        """Starting factors from shortest paths and classical scaling, by falling eigenvalue, zero from column ``rank`` on.

        Where the shortest pairs were measured, paths are nearly straight and annealing from random starts ends in folded configurations;
        where random pairs were, paths say little. So these are offered beside random starts.

        Args:
          y: squared distances, in any unit; negative ones count as 0.
          n, d, rank: live sizes and the rank asked for; may be traced.

        Source: shortest paths with classical scaling, Shang et al. (2003), doi:10.1145/778415.778439.
        """
        lengths = jnp.sqrt(jnp.maximum(self._matrix(y), 0))
        paths = shortest_paths(lengths, self.slots < self.n)
        found = classical_scaling(paths, d)
        return jnp.where(jnp.arange(self.d, dtype=jnp.int32) < rank, found, 0)[None]

    def check_data(self, y: np.ndarray, n: Any) -> None:
        """Refuses data that cannot be squared distances, and warns of what look like distances that were not squared.

        Raises:
          ValueError: see `pruneft.sensing.operators.distances_data.check_distances`.
        """
        check_distances(self.pairs(), np.asarray(y)[np.asarray(self.live) > 0], self.d)

    def step_cost(self, k: int) -> tuple[float, float]:
        """FLOPs and bytes of one training step of one start with k columns: image, whitening and pull, the optimiser not counted."""
        size, n, N = self.dtype.itemsize, self.n, self.d
        if not self._dense:
            return 8.0 * n * k + 8.0 * n + 2.0 * N * N, size * (6.0 * n * k + 12.0 * n + N * N)
        return 4.0 * N * N * k + 8.0 * N * N + 8.0 * n, size * (3.0 * N * k + 12.0 * N * N + 8.0 * n)

    @property
    def _dense(self) -> bool:
        return self.d * self.d <= _DENSE * self.n

    def _matrix(self, residual: Float[Array, "*batch n"]) -> Float[Array, "*batch N N"]:
        """The residuals as a symmetric matrix, zero where nothing was measured."""
        padded = jnp.concatenate([residual, jnp.zeros_like(residual, shape=(*residual.shape[:-1], 1))], axis=-1)
        return jnp.take(padded, self.slots, axis=-1)

    def _differences(self, factor: Float[Array, "*batch N k"]) -> Float[Array, "*batch n k"]:
        return jnp.take(factor, self.first, axis=-2) - jnp.take(factor, self.second, axis=-2)


def assemble(first: Int[Array, "n"], second: Int[Array, "n"], live: Any, live_d: Any, N: int) -> Distances:
    """The operator of pairs that may be traced; ``live`` [n] says which rows are measurements. All arrays float32 or int32."""
    n = first.shape[0]
    first, second = (jnp.where(live, node, 0).astype(jnp.int32) for node in (first, second))
    # Padded rows all write n, at (0, 0), which no measured pair has.
    rows = jnp.where(live, jnp.arange(n, dtype=jnp.int32), n)
    slots = jnp.full((N, N), n, jnp.int32).at[first, second].set(rows).at[second, first].set(rows)
    seen = (slots < n).astype(jnp.float32)
    inside = jnp.arange(N, dtype=jnp.int32) < live_d
    # Ones for padded nodes keep the matrix regular there.
    laplacian = jnp.diag(jnp.where(inside, jnp.sum(seen, axis=1), 1)) + seen
    values, vectors = jnp.linalg.eigh(laplacian)
    kept = values > 1e-5 * values[-1]
    inverse = (vectors * jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)) @ vectors.T
    inverse = jnp.where(inside[:, None] & inside, (inverse + inverse.T) / 2, 0)
    return Distances(first, second, jnp.asarray(live, jnp.float32), slots, inverse)
