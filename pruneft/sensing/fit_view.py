"""A fit seen from its data: residual, tangent space and curvature at a factor, normalised, in float64 on the host."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pruneft.sensing import sharded
from pruneft.sensing.data import Data
from pruneft.sensing.field import Field, factor_of, stored_of
from pruneft.sensing.operator import PackedOperator, cast
from pruneft.sensing.packing import smat, svec
from pruneft.sensing.problem import Problem

_BLOCK = 2**24  # numbers unpacked at a time
_AT_ONCE = 64  # changes of the matrix


@dataclass(frozen=True)
class Measured:
    """Measurements and data in normalised units, for looking at fits.

    Attributes:
      data: as prepared.
      problem: that they are of.
      y: [rows], unit root mean square over the live ones.
      unit: of y, in units of y as given.
      scale: the answer is ``scale U Uᵀ``.
      gain: what the measurements are divided by.
    """

    data: Data
    problem: Problem
    y: np.ndarray
    unit: float
    scale: float
    gain: float

    @classmethod
    def of(cls, problem: Problem, data: Data) -> Measured:
        """Normalise as `pruneft.sensing.lane.make_lane` does."""
        placed = problem.sharding
        y = _to_host(data.y, placed)
        largest = float(np.max(np.abs(y))) or 1.0
        unit = largest * math.sqrt(float(np.sum(np.square(y / largest))) / data.n)
        if isinstance(data.operator, PackedOperator):
            with sharded.quiet(placed):
                gain = float(_to_host(data.operator.gain(data.n, data.operator.d), placed))
        else:
            size = float(cast(data.operator, data.y.dtype).size(data.y, data.n, data.operator.d))
            gain = unit / size if size > 0 else 1.0
        scale = unit / gain * (data.y_unit / data.a_unit)
        return cls(data, problem, y / unit, unit * data.y_unit, scale, gain)

    @functools.cached_property
    def rows(self) -> np.ndarray | None:
        """[rows, d(d+1)/2] packed measurements where they are on this host; None where they are an operator's or split."""
        operator = self.data.operator
        here = isinstance(operator, PackedOperator) and self.problem.sharding is None
        return np.asarray(operator.rows) if here else None

    @property
    def field(self) -> Field:
        """Of M."""
        found: Field = self.data.operator.field
        return found

    @property
    def root(self) -> np.ndarray:
        """[rows], roots of the weights that the operator does not hold; a scalar 1 where there are none."""
        return np.ones(()) if self.data.root is None else self.data.root

    def errors(self, factor: np.ndarray) -> np.ndarray:
        """[rows], ``A(U Uᴴ) - y``, weighted."""
        if self.rows is not None:
            packed = svec(factor @ factor.T) / self.gain
            blocks = [block.astype(np.float64) @ packed for block in self._blocks(1)]
            return np.concatenate(blocks) - self.y
        with sharded.quiet(self.problem.sharding):
            found = self._operator.image(jnp.asarray(stored_of(factor, self.field), self._dtype))
        return (_to_host(found, self.problem.sharding) / self.gain - self.y) * self.root

    def residual_matrix(self, errors: np.ndarray) -> np.ndarray:
        """[d, d], ``G = (1/n) sum e_i A_i`` of weighted errors, weighted again."""
        if self.rows is not None:
            total = np.zeros(self.rows.shape[1])
            begin = 0
            for block in self._blocks(1):
                total += errors[begin : begin + len(block)] @ block.astype(np.float64)
                begin += len(block)
            return np.asarray(smat(total)) / (self.data.n * self.gain)
        placed = self.problem.sharding
        with sharded.quiet(placed):
            weights = jnp.asarray(errors * self.root, self._dtype)
            weights = weights if placed is None else sharded.distribute(np.asarray(weights), placed)
            found = self._operator.adjoint(weights)
        return _to_host(found, placed) / (self.data.n * self.gain)

    def on_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """[rows, d, r], ``A_i V``, weighted; complex where M is."""
        d = self.data.operator.d
        if self.rows is not None:
            parts = [smat(block.astype(np.float64)) @ vectors for block in self._blocks(d)]
            return np.concatenate(parts) / self.gain
        with sharded.quiet(self.problem.sharding):
            found = self._operator.jacobian(jnp.asarray(stored_of(vectors, self.field), self._dtype))
        slopes = factor_of(_to_host(found, self.problem.sharding), self.field) / (2 * self.gain)
        weighted: np.ndarray = slopes * np.reshape(self.root, (-1, 1, 1))
        return weighted

    @property
    def _dtype(self) -> Any:
        return self.data.y.dtype

    @functools.cached_property
    def _operator(self) -> Any:
        return cast(self.data.operator, self._dtype)

    def _blocks(self, d: int) -> list[np.ndarray]:
        assert self.rows is not None
        size = max(1, _BLOCK // (d * d if d > 1 else self.rows.shape[1]))
        return [self.rows[begin : begin + size] for begin in range(0, len(self.rows), size)]


@dataclass(frozen=True)
class View:
    """A factor and what the data say about it, normalised.

    Attributes:
      vectors: [d, r], orthonormal eigenvectors V of U Uᴴ by falling eigenvalue; ``normal`` [d, d - r] the rest of a basis.
      values: [r], eigenvalues.
      errors: [n], ``A(U Uᴴ) - y`` of the live rows; ``live`` [n] where those stand among all rows.
      G: [d, d], residual matrix.
      tangent: [n, p], the measurements on an orthonormal basis of the tangent space of the matrices of rank r.
      slopes: [n, d, r], ``A_i V``.
    """

    measured: Measured
    vectors: np.ndarray
    normal: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    live: np.ndarray
    G: np.ndarray
    tangent: np.ndarray
    slopes: np.ndarray

    @classmethod
    def of(cls, measured: Measured, factor: np.ndarray) -> View:
        """The view of a factor [d, r] of full column rank, normalised units."""
        r = factor.shape[1]
        basis, singular, _ = np.linalg.svd(factor, full_matrices=True)
        vectors, normal = basis[:, :r], basis[:, r:]
        errors = measured.errors(factor)
        slopes = measured.on_vectors(vectors)
        G = measured.residual_matrix(errors)
        data = measured.data
        live = np.arange(len(errors))
        if data.n < len(errors):  # padding is zero in measurements and data
            live = np.flatnonzero(np.any(slopes != 0, axis=(1, 2)) | (measured.y != 0))
        slopes = slopes[live]
        inner = np.einsum("dq,ndr->nqr", vectors.conj(), slopes)
        outer = np.einsum("dm,ndr->nmr", normal.conj(), slopes).reshape(len(live), -1)
        upper = np.triu_indices(r, 1)
        across = math.sqrt(2) * inner[:, upper[0], upper[1]]
        parts = [inner[:, range(r), range(r)].real, across.real, math.sqrt(2) * outer.real]
        if np.iscomplexobj(slopes):
            parts += [across.imag, math.sqrt(2) * outer.imag]
        tangent = np.concatenate(parts, axis=1)
        return cls(measured, vectors, normal, np.square(singular[:r]), errors[live], live, G, tangent, slopes)

    @property
    def factor(self) -> np.ndarray:
        """[d, r], canonical."""
        return self.vectors * np.sqrt(self.values)

    @property
    def rss(self) -> float:
        """Residual sum of squares."""
        return float(self.errors @ self.errors)

    def change(self, coefficients: np.ndarray) -> np.ndarray:
        """[..., d, d], the symmetric (Hermitian) matrix of a step [..., p] in the tangent space."""
        d, r = self.vectors.shape
        upper = np.triu_indices(r, 1)
        sizes = [r, len(upper[0]), (d - r) * r]
        if np.iscomplexobj(self.vectors):
            sizes += sizes[1:]
        diagonal, *rest = np.split(coefficients, np.cumsum(sizes)[:-1], axis=-1)
        above, outside = (
            (part / math.sqrt(2) for part in rest)
            if len(rest) == 2
            else ((rest[i] + 1j * rest[i + 2]) / math.sqrt(2) for i in (0, 1))
        )
        batch = coefficients.shape[:-1]
        # Half of the inner block: the other half is its own conjugate transpose.
        inner = np.zeros((*batch, r, r), self.vectors.dtype)
        inner[..., range(r), range(r)] = diagonal / 2
        inner[..., upper[0], upper[1]] = above
        left = self.vectors @ inner + self.normal @ outside.reshape(*batch, d - r, r)
        half = left @ self.vectors.conj().T
        found: np.ndarray = half + np.swapaxes(half, -1, -2).conj()
        return found

    def moved(self, coefficients: np.ndarray) -> np.ndarray:
        """The factor of the best positive semidefinite matrix of this rank after a step [p] in the tangent space."""
        r = self.vectors.shape[1]
        values, vectors = np.linalg.eigh(
            (self.vectors * self.values) @ self.vectors.conj().T + self.change(coefficients)
        )
        order = np.argsort(-values)[:r]
        floor = 1e-12 * max(float(values[-1]), 1e-300)
        moved: np.ndarray = vectors[:, order] * np.sqrt(np.maximum(values[order], floor))
        return moved

    def row_errors(self, directions: np.ndarray) -> np.ndarray:
        """[d], root of the sum over ``directions`` [m, p] of the squared norm of each row of the change that they make."""
        total = np.zeros(len(self.vectors))
        for part in np.array_split(directions, 1 + len(directions) // _AT_ONCE):
            total += np.sum(np.square(np.abs(self.change(part))), axis=(0, 2))
        roots: np.ndarray = np.sqrt(total)
        return roots


def _to_host(array: Any, placed: NamedSharding | None) -> np.ndarray:
    if placed is not None:
        # Whole on every device first: with several processes none of them could read the others' share.
        whole = NamedSharding(placed.mesh, PartitionSpec())
        array = jax.jit(lambda a: a, out_shardings=whole)(array)
    found = np.asarray(array)
    return found.astype(np.complex128 if np.iscomplexobj(found) else np.float64)
