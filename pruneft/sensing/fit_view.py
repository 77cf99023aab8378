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
from pruneft.sensing.operator import PackedOperator, cast
from pruneft.sensing.packing import smat, svec
from pruneft.sensing.problem import Problem

_BLOCK = 2**24  # numbers unpacked at a time


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
        with sharded.quiet(placed):
            gain = float(_to_host(data.operator.gain(data.n, data.operator.d), placed))
        largest = float(np.max(np.abs(y))) or 1.0
        unit = largest * math.sqrt(float(np.sum(np.square(y / largest))) / data.n)
        scale = unit / gain * (data.y_unit / data.a_unit)
        return cls(data, problem, y / unit, unit * data.y_unit, scale, gain)

    @functools.cached_property
    def rows(self) -> np.ndarray | None:
        """[rows, d(d+1)/2] packed measurements where they are on this host; None where they are an operator's or split."""
        operator = self.data.operator
        here = isinstance(operator, PackedOperator) and self.problem.sharding is None
        return np.asarray(operator.rows) if here else None

    def errors(self, factor: np.ndarray) -> np.ndarray:
        """[rows], ``A(U Uᵀ) - y``."""
        matrix = factor @ factor.T
        if self.rows is not None:
            packed = svec(matrix) / self.gain
            blocks = [block.astype(np.float64) @ packed for block in self._blocks(1)]
            return np.concatenate(blocks) - self.y
        with sharded.quiet(self.problem.sharding):
            found = self._operator.apply(jnp.asarray(matrix, self._dtype))
        return _to_host(found, self.problem.sharding) / self.gain - self.y

    def residual_matrix(self, errors: np.ndarray) -> np.ndarray:
        """[d, d], ``G = (1/n) sum e_i sym(A_i)``."""
        if self.rows is not None:
            total = np.zeros(self.rows.shape[1])
            begin = 0
            for block in self._blocks(1):
                total += errors[begin : begin + len(block)] @ block.astype(np.float64)
                begin += len(block)
            return np.asarray(smat(total)) / (self.data.n * self.gain)
        placed = self.problem.sharding
        with sharded.quiet(placed):
            weights = jnp.asarray(errors, self._dtype)
            weights = weights if placed is None else sharded.distribute(np.asarray(weights), placed)
            found = self._operator.adjoint(weights)
        return _to_host(found, placed) / (self.data.n * self.gain)

    def on_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """[rows, d, r], ``A_i V``."""
        d = self.data.operator.d
        if self.rows is not None:
            parts = [smat(block.astype(np.float64)) @ vectors for block in self._blocks(d)]
            return np.concatenate(parts) / self.gain
        with sharded.quiet(self.problem.sharding):
            found = self._operator.jacobian(jnp.asarray(vectors, self._dtype))
        return _to_host(found, self.problem.sharding) / (2 * self.gain)

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
      vectors: [d, r], orthonormal eigenvectors V of U Uᵀ by falling eigenvalue; ``normal`` [d, d - r] the rest of a basis.
      values: [r], eigenvalues.
      errors: [n], ``A(U Uᵀ) - y`` of the live rows; ``live`` [n] where those stand among all rows.
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
        inner = np.einsum("dq,ndr->nqr", vectors, slopes)
        outer = np.einsum("dm,ndr->nmr", normal, slopes)
        upper = np.triu_indices(r, 1)
        parts = [inner[:, range(r), range(r)], math.sqrt(2) * inner[:, upper[0], upper[1]]]
        tangent = np.concatenate([*parts, math.sqrt(2) * outer.reshape(len(live), -1)], axis=1)
        return cls(measured, vectors, normal, np.square(singular[:r]), errors[live], live, G, tangent, slopes)

    @property
    def factor(self) -> np.ndarray:
        """[d, r], canonical."""
        return self.vectors * np.sqrt(self.values)

    @property
    def rss(self) -> float:
        """Residual sum of squares."""
        return float(self.errors @ self.errors)

    def moved(self, coefficients: np.ndarray) -> np.ndarray:
        """The factor of the best positive semidefinite matrix of this rank after a step [p] in the tangent space."""
        d, r = self.vectors.shape
        upper = np.triu_indices(r, 1)
        inner = np.diag(coefficients[:r])
        inner[upper] = coefficients[r : r + len(upper[0])] / math.sqrt(2)
        inner = inner + np.triu(inner, 1).T
        across = coefficients[r + len(upper[0]) :].reshape(d - r, r) / math.sqrt(2)
        half = self.normal @ across @ self.vectors.T
        matrix = (self.vectors * self.values) @ self.vectors.T + self.vectors @ inner @ self.vectors.T + half + half.T
        values, vectors = np.linalg.eigh(matrix)
        order = np.argsort(-values)[:r]
        floor = 1e-12 * max(float(values[-1]), 1e-300)
        moved: np.ndarray = vectors[:, order] * np.sqrt(np.maximum(values[order], floor))
        return moved


def _to_host(array: Any, placed: NamedSharding | None) -> np.ndarray:
    if placed is not None:
        # Whole on every device first: with several processes none of them could read the others' share.
        whole = NamedSharding(placed.mesh, PartitionSpec())
        array = jax.jit(lambda a: a, out_shardings=whole)(array)
    return np.asarray(array, np.float64)
