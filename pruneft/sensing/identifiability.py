"""Whether the measurements determine a fit: the rank of the Jacobian, the graph of measured pairs, and a second fit that disagrees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.sensing.field import gram, svd
from pruneft.sensing.operator import cast
from pruneft.sensing.pair_graph import PairGraph

_NULL = 1e-8  # singular values below this share of the largest count as zero
_LARGE = 2**25  # numbers of a Jacobian that is still decomposed
_AGREE = 0.02  # residual sums of squares within this share are equal
_EXACT = 1e-10  # of the mean square of the data: an exact fit
_APART, _NOISY_APART = 1e-3, 0.05  # relative distance of two matrices that count as different, exact fits and others


@dataclass(frozen=True, kw_only=True)
class Identifiability:
    """Whether other matrices of this rank fit the same data.

    A full rank of the Jacobian means that no neighbour fits. It says nothing of far matrices (a sign for each component of a graph, mirror
    images), for which see ``reasons``. Nor is it necessary: values at their bounds can fix a matrix that the Jacobian leaves free
    (stabiliser states among Pauli measurements).

    Attributes:
      dof: degrees of freedom of a matrix of this rank.
      jacobian_rank: directions that change the data; None where the Jacobian was too large to decompose.
      condition: largest singular value of the Jacobian on the column space of the factor over the dof-th; infinite where the rank is
        smaller, NaN where it was not computed.
      graph: of the measured pairs, None for measurements that are not of pairs.
      difference: how far ``other`` lies off, relative in Frobenius norm; NaN without it.
      other: [h, q] a second factor that fits as well, as it was given; None where there is none.
      reasons: why the fit is not the only one, in words, the weightiest first. Empty where nothing speaks against it.
    """

    dof: int
    jacobian_rank: int | None
    condition: float
    graph: PairGraph | None = None
    difference: float = math.nan
    other: np.ndarray | None = None
    reasons: tuple[str, ...] = ()

    @property
    def locally_unique(self) -> bool | None:
        """Whether the Jacobian has full rank; None where that is not known."""
        return None if self.jacobian_rank is None else self.jacobian_rank >= self.dof

    @property
    def unique(self) -> bool:
        """Whether nothing speaks against uniqueness. No proof of it: mirror images far away are not searched for."""
        return not self.reasons


def identifiability(operator: Any, factor: Any, n: int, *, y: Any = None, other: Any = None) -> Identifiability:
    """Whether measurements determine the matrix of a fit.

    Runs on the host in float64. Costs a singular value decomposition of the Jacobian, n (h r)² operations.

    Args:
      operator: any `pruneft.sensing.Operator`. One of pairs offers ``pairs()``, [n, 2] indices of the live measurements on the host, and
        ``pair_kind``, ``"distances"`` or ``"entries"``; the graph is looked at then.
      factor: [h, r], stored as factors are.
      n: live measurements.
      y: [rows] data, in units that fit the factor; needed beside ``other``.
      other: [h, q] factor of a second fit, from another start. Where its residual is that of the first and its matrix is another, the
        answer is not unique.

    Returns:
      An `Identifiability`.

    Raises:
      ValueError: a factor has another height than the operator wants, or ``other`` comes without y.

    Source: local uniqueness from the rank of the Jacobian is classical (rigidity of frameworks: Asimow and Roth 1978; completion: Singer
    and Cucuringu 2010, doi:10.1137/090750688); the threshold 1e-8 is ours.
    """
    given = _checked(operator, "factor", factor)
    if other is not None and y is None:
        raise ValueError("a second fit can only be compared with the data at hand: pass y too.")
    with jax.enable_x64(True):
        wide = cast(jax.tree.map(np.asarray, operator), np.float64)
        vectors, values = (np.asarray(part) for part in svd(jnp.asarray(given), operator.field))
        rank = int(np.sum(values > 1e-12 * values[0])) if values[0] > 0 else 0
        dof = round(float(operator.dof(rank)))
        jacobian_rank, condition = _jacobian(wide, vectors[:, :rank], dof)
        difference = math.nan if other is None else _disagreement(wide, given, _checked(operator, "other", other), y)
    graph = None
    if hasattr(operator, "pairs"):
        graph = PairGraph.of(np.asarray(operator.pairs()), operator.d, operator.pair_kind)
    reasons = []
    if not math.isnan(difference):
        reasons.append(f"not unique: two fits of equal residual differ by {difference:.2g} of their norm")
    if n < dof:
        reasons.append(f"{n} measurements are fewer than the {dof} degrees of freedom at rank {rank}")
    elif jacobian_rank is not None and jacobian_rank < dof:
        reasons.append(
            f"the measurements see {jacobian_rank} of {dof} directions at rank {rank}: matrices next to this one fit as well"
        )
    if graph is not None and rank > 0:
        reasons.extend(graph.reasons(rank))
    return Identifiability(
        dof=dof,
        jacobian_rank=jacobian_rank,
        condition=condition,
        graph=graph,
        difference=difference,
        other=None if math.isnan(difference) else np.asarray(other),
        reasons=tuple(reasons),
    )


def _checked(operator: Any, name: str, factor: Any) -> np.ndarray:
    given = np.asarray(factor, np.float64)
    tall = operator.d if operator.field == "real" else 2 * operator.d
    if given.ndim != 2 or given.shape[0] != tall:
        raise ValueError(f"{name} must have shape [{tall}, r], as the operator stores factors: got {given.shape}.")
    if not np.all(np.isfinite(given)):
        raise ValueError(f"{name} must be finite: got NaN or infinite entries.")
    return given


def _jacobian(operator: Any, vectors: np.ndarray, dof: int) -> tuple[int | None, float]:
    """Rank and condition number at orthonormal columns: those of the factor would mix in its own condition."""
    if dof == 0:
        return 0, 1.0
    if operator.n * vectors.size > _LARGE:
        return None, math.nan
    slopes = np.asarray(operator.jacobian(jnp.asarray(vectors))).reshape(operator.n, -1)
    values = np.linalg.svd(slopes, compute_uv=False)
    found = int(np.sum(values > _NULL * values[0])) if values[0] > 0 else 0
    return found, float(values[0] / values[dof - 1]) if found >= dof else math.inf


def _disagreement(operator: Any, one: np.ndarray, two: np.ndarray, y: Any) -> float:
    """How far the second matrix lies off if it fits as well and is another one; NaN otherwise."""
    data = jnp.asarray(np.asarray(y, np.float64))
    size = float(jnp.sum(jnp.square(data)))
    centred = [operator.canonical(jnp.asarray(factor), operator.d) for factor in (one, two)]
    first, second = (float(jnp.sum(jnp.square(operator.image(factor) - data))) for factor in centred)
    exact = max(first, second) <= _EXACT * size
    if not exact and abs(first - second) > _AGREE * max(first, second):
        return math.nan
    matrices = [np.asarray(gram(factor, operator.field)) for factor in centred]
    norm = float(np.linalg.norm(matrices[0])) or 1.0
    apart = float(np.linalg.norm(matrices[0] - matrices[1])) / norm
    return apart if apart > (_APART if exact else _NOISY_APART) else math.nan
