"""Second-order stationarity: the least curvature of a loss at a factor, rotations of the factor not counted. NumPy.

For ``f(U) = (1/n) ||A(U Uᵀ) - y||²`` the Hessian at D is ``(2/n) ||A(U Dᵀ + D Uᵀ)||² + 4 <G, D Dᵀ>``. Over zero columns
it is 4 G, so however many columns are trained, its least eigenvalue is the lesser of ``4 lambda_min(G)`` and of that on
the live columns: one d x d problem and one in d r variables. `least_curvature` is for the second, and for any other
loss that gives a Hessian-vector product. Derived (ours).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pruneft.sensing.field import Field, height, stored_of


class Curvature(NamedTuple):
    """Ends of a spectrum.

    Attributes:
      low, high: the least and the largest eigenvalue found.
      error: bound on how far ``low`` is from an eigenvalue; 0 from a dense solver.
      steps: products taken.
    """

    low: float
    high: float
    error: float
    steps: int


def gauge_basis(factor: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the directions ``U S``, S antisymmetric (antihermitian), in which U Uᴴ does not change to first order.

    Args:
      factor: U [d, r], of full column rank; real or complex.

    Returns:
      [h r, r(r-1)/2], or [h r, r²] where U is complex: vectors flattened as the stored factor is (`pruneft.sensing.field`), h = d
      or 2d.
    """
    d, r = factor.shape
    pairs = [(i, j) for i in range(r) for j in range(i)]
    kind: Field = "complex" if np.iscomplexobj(factor) else "real"
    turns = []
    for i, j in pairs:
        turn = np.zeros((d, r), factor.dtype)
        turn[:, j], turn[:, i] = factor[:, i], -factor[:, j]
        turns.append(turn)
    if kind == "complex":
        for i, j in [*pairs, *((i, i) for i in range(r))]:
            turn = np.zeros((d, r), factor.dtype)
            turn[:, j], turn[:, i] = 1j * factor[:, i], 1j * factor[:, j]
            turns.append(turn)
    stored = [stored_of(turn, kind).ravel() for turn in turns]
    tall = height(d, kind) * r
    return np.linalg.qr(np.stack(stored, axis=1))[0] if stored else np.zeros((tall, 0))


def stored_matrix(matrix: np.ndarray) -> np.ndarray:
    """The real matrix that acts on stored factors as a Hermitian one acts on factors; a real matrix itself."""
    if not np.iscomplexobj(matrix):
        return matrix
    d = len(matrix)
    pairs = np.array([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
    return pairs.transpose(2, 0, 3, 1).reshape(2 * d, 2 * d)


def dense_curvature(hessian: np.ndarray, deflate: np.ndarray | None = None) -> Curvature:
    """Ends of the spectrum of a symmetric matrix outside of the span of ``deflate``.

    Args:
      hessian: [p, p].
      deflate: [p, q] orthonormal, q < p; nothing if not given.
    """
    size = len(hessian)
    values = np.linalg.eigvalsh(_projected(hessian, deflate))
    if deflate is not None and deflate.shape[1]:
        # The projection leaves q exact zeros, which are not the spectrum asked for: take out the q nearest to zero.
        values = np.delete(values, np.argsort(np.abs(values))[: deflate.shape[1]])
    return Curvature(float(values[0]), float(values[-1]), 0.0, size)


def least_curvature(
    product: Callable[[np.ndarray], np.ndarray],
    size: int,
    *,
    deflate: np.ndarray | None = None,
    tolerance: float = 1e-7,
    max_steps: int | None = None,
    seed: int = 0,
) -> Curvature:
    """Least eigenvalue of a symmetric map by Lanczos, outside of the span of ``deflate``.

    Every vector is made orthogonal to all before it and to what is deflated, twice, and no more steps are taken than
    dimensions are left: otherwise the null directions that were deflated come back as ghosts.

    Args:
      product: v [size] -> H v [size], the Hessian-vector product of any loss.
      size: number of variables.
      deflate: [size, q] orthonormal, for example `gauge_basis`; nothing if not given.
      tolerance: stop when the error bound is below this share of the largest eigenvalue.
      max_steps: products at most; as many as dimensions are left if not given.
      seed: of the random start.

    Raises:
      ValueError: everything is deflated, or the product is not finite.

    Source: Lanczos (1950), with full reorthogonalisation.
    """
    fixed = np.zeros((size, 0)) if deflate is None else np.asarray(deflate, float)
    room = size - fixed.shape[1]
    if room < 1:
        raise ValueError(f"nothing is left to look at: {fixed.shape[1]} of {size} directions are deflated.")
    limit = room if max_steps is None else min(max_steps, room)
    vector = _fresh(np.random.default_rng(seed), fixed, np.zeros((size, 0)))
    basis, diagonal, off = np.zeros((size, 0)), np.zeros(0), np.zeros(0)
    while True:
        image = np.asarray(product(vector), float).reshape(size)
        if not np.all(np.isfinite(image)):
            raise ValueError("the Hessian-vector product is not finite: check the loss at this factor.")
        basis = np.column_stack([basis, vector])
        diagonal = np.append(diagonal, vector @ image)
        rest = image
        for _ in range(2):
            rest = rest - fixed @ (fixed.T @ rest)
            rest = rest - basis @ (basis.T @ rest)
        length = float(np.linalg.norm(rest))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
        scale = max(abs(values[0]), abs(values[-1]))
        error = length * abs(float(vectors[-1, 0]))
        steps = len(diagonal)
        # A small bound after a few steps may be that of an inner eigenvalue, so some steps are always taken.
        if steps >= limit or (steps >= min(limit, 20) and error <= tolerance * scale):
            return Curvature(float(values[0]), float(values[-1]), error if steps < room else 0.0, steps)
        if length <= 1e-12 * max(scale, 1e-300):
            vector, length = _fresh(np.random.default_rng([seed, steps]), fixed, basis), 0.0
        else:
            vector = rest / length
        off = np.append(off, length)


def _fresh(generator: np.random.Generator, fixed: np.ndarray, basis: np.ndarray) -> np.ndarray:
    vector = generator.standard_normal(len(fixed))
    for _ in range(2):
        vector = vector - fixed @ (fixed.T @ vector)
        vector = vector - basis @ (basis.T @ vector)
    return vector / np.linalg.norm(vector)


def _projected(matrix: np.ndarray, deflate: np.ndarray | None) -> np.ndarray:
    if deflate is None or not deflate.shape[1]:
        return matrix
    half = matrix - deflate @ (deflate.T @ matrix)
    return half - (half @ deflate) @ deflate.T
