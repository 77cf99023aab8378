"""Positions of points from some of their distances: the dimension is found, anchors fix the frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pruneft.sensing.identifiability import Identifiability, identifiability
from pruneft.sensing.mirror_images import mirror_images
from pruneft.sensing.operators.distances import Distances
from pruneft.sensing.operators.distances_data import check_pairs
from pruneft.sensing.pair_graph import PairGraph
from pruneft.sensing.problem import Problem
from pruneft.sensing.recover import recover
from pruneft.sensing.result import Recovery

_POWER: dict[str, int] = {"squares": 0, "ranges": 1, "relative": 2}  # of 1/y that the weights are
_SMALL = 24  # points up to which as many columns as points are trained
_FLOOR = 0.02  # share of the mean square below which a square counts as this, or the shortest would rule the fit


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """Where the points are.

    Attributes:
      positions: [N, dimension] in units of distance. In the frame of the anchors, or else about their mean along principal axes, where
        rotation and reflection are not determined.
      dimension: of the space, found or given.
      recovery: what `pruneft.recover` said of the Gram matrix: status, noise level, predicted error.
      identifiability: whether the distances determine the points, with reasons in words.
      mirrored: points whose mirror image in the plane of their neighbours cannot be told from where they are, within noise.
      anchor_error: root mean square distance between anchors as given and as found; NaN without anchors.
    """

    positions: np.ndarray
    dimension: int
    recovery: Recovery
    identifiability: Identifiability
    mirrored: tuple[int, ...]
    anchor_error: float

    @property
    def ok(self) -> bool:
        """Whether the fit may be used and nothing is known that speaks against it being the only one."""
        return self.recovery.ok and self.identifiability.unique and not self.mirrored

    @property
    def message(self) -> str:
        """What the fit ended with, and why it may not be the only one."""
        reasons = [self.recovery.message, *self.identifiability.reasons]
        if self.mirrored:
            reasons.append(f"mirror images fit as well within noise: points {', '.join(map(str, self.mirrored))}")
        return " ".join(reason if reason.endswith(".") else reason + "." for reason in reasons)


def localise(
    pairs: Any,
    squared_distances: Any,
    *,
    N: int | None = None,
    dimension: int | None = None,
    anchors: Mapping[int, Any] | None = None,
    noise: str = "squares",
    sigma: float | None = None,
    k: int | None = None,
    method: Literal["path", "prune"] = "path",
    seed: int = 0,
) -> Localisation:
    """Positions of N points from squared distances of some pairs.

    Args:
      pairs: [n, 2] indices of points, from 0, every pair once.
      squared_distances: [n], in any unit; small negative ones (noise) are used as they are.
      N: number of points; one more than the largest index if not given.
      dimension: of the space, if it is known; that of the anchors if these are given, found otherwise.
      anchors: index -> known position, for at least dimension + 1 points that do not lie in one plane (line). They fix the frame, and their
        distances are added to the data where they were not measured.
      noise: what has the same deviation for all pairs: ``"squares"``, the squared distances; ``"ranges"``, the distances; ``"relative"``,
        their shares. The fit is weighted by 1/variance in fine-tuning and in the choice of dimension.
      sigma: deviation of the squared distances, for noise ``"squares"``, where it is known: data below -4 sigma are refused.
      k: columns trained; N up to 24 points, else N/2, if not given.
      method, seed: of `pruneft.recover`.

    Returns:
      A `Localisation`.

    Raises:
      ValueError: pairs or data make no sense; points without any measured distance, or several groups without one between them; too
        few anchors, or all of them in one plane.

    Warns:
      PlainDistances: the data look like distances that were not squared.
    """
    checked, count = check_pairs(pairs, N)
    y = _data(squared_distances, len(checked), sigma)
    known, places = _anchors(anchors, count, dimension)
    if len(known) and dimension is None:
        dimension = places.shape[1]
    checked, y = _with_anchors(checked, y, known, places)
    _check_graph(checked, count)
    weights = _weights(y, noise)
    operator = Distances.from_pairs(checked, count)
    columns = (count if count <= _SMALL else count // 2) if k is None else k
    fit = recover(
        Problem(operator, y),
        k=columns,
        rank=dimension,
        sigma=sigma if noise == "squares" else None,
        weights=weights,
        method=method,
        seed=seed,
    )
    positions = np.asarray(fit.U, np.float64)
    if dimension is not None and positions.shape[1] < dimension:
        positions = np.concatenate([positions, np.zeros((count, dimension - positions.shape[1]))], axis=1)
    found = (
        identifiability(operator, fit.U, len(y), y=y, other=fit.rival)
        if fit.rank
        else identifiability(operator, fit.U, len(y))
    )
    mirrored = mirror_images(checked, y, positions, weights) if fit.rank else ()
    error = math.nan
    if len(known):
        positions, error = align(positions, places, known)
    return Localisation(
        positions=positions,
        dimension=positions.shape[1],
        recovery=fit,
        identifiability=found,
        mirrored=mirrored,
        anchor_error=error,
    )


def align(positions: Any, targets: Any, where: Any = None) -> tuple[np.ndarray, float]:
    """Positions moved rigidly (rotation, reflection, translation) to lie nearest to targets, and the root mean square distance left.

    Args:
      positions: [N, r].
      targets: [m, r], for the points ``where`` [m]; for all N in order if that is not given.

    Raises:
      ValueError: shapes do not fit.

    Source: orthogonal Procrustes problem, Schönemann (1966), doi:10.1007/BF02289451.
    """
    points, wanted = np.asarray(positions, np.float64), np.asarray(targets, np.float64)
    chosen = points if where is None else points[np.asarray(where)]
    if chosen.shape != wanted.shape or points.ndim != 2:
        raise ValueError(f"targets must have one row per point to align, shape {chosen.shape}: got {wanted.shape}.")
    here, there = chosen.mean(axis=0), wanted.mean(axis=0)
    left, _, right = np.linalg.svd((chosen - here).T @ (wanted - there))
    turn = left @ right
    moved = (points - here) @ turn + there
    apart = (chosen - here) @ turn + there - wanted
    return moved, float(np.sqrt(np.mean(np.sum(np.square(apart), axis=1))))


def _weights(y: np.ndarray, noise: str) -> np.ndarray | None:
    """1/variance of each squared distance, up to a factor; None where all are alike."""
    if noise not in _POWER:
        raise ValueError(f"noise must be one of {', '.join(_POWER)}: got {noise!r}.")
    if not _POWER[noise]:
        return None
    size = float(np.mean(y))
    weights: np.ndarray = (np.maximum(y, _FLOOR * size) / size) ** -float(_POWER[noise])
    return weights


def _data(given: Any, n: int, sigma: float | None) -> np.ndarray:
    y = np.asarray(given)
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.number) or np.iscomplexobj(y):
        raise ValueError(
            f"squared_distances must be one real number per pair, shape ({n},): got shape {y.shape}, dtype {y.dtype}."
        )
    y = y.astype(np.float64)
    if not np.all(np.isfinite(y)):
        raise ValueError(
            f"squared_distances must be finite: pair {int(np.flatnonzero(~np.isfinite(y))[0])} is not. Drop such pairs."
        )
    if sigma is not None and np.any(y < -4 * sigma):
        raise ValueError(
            f"squared distances below -4 sigma = {-4 * sigma:.3g} are no noise: got {y.min():.3g} for pair {int(np.argmin(y))}. "
            "Check sigma, which is the deviation of squared distances."
        )
    return y


def _anchors(anchors: Mapping[int, Any] | None, N: int, dimension: int | None) -> tuple[np.ndarray, np.ndarray]:
    if not anchors:
        return np.zeros(0, int), np.zeros((0, 0))
    known = np.array(sorted(anchors))
    if known[0] < 0 or known[-1] >= N:
        raise ValueError(f"anchors must be points from 0 to {N - 1}: got {known[0] if known[0] < 0 else known[-1]}.")
    rows = [np.asarray(anchors[index], np.float64).ravel() for index in known.tolist()]
    width = len(rows[0])
    if any(len(row) != width for row in rows) or not all(np.all(np.isfinite(row)) for row in rows):
        raise ValueError("anchors must all have finite positions of the same number of coordinates.")
    if dimension is not None and dimension != width:
        raise ValueError(f"anchors have {width} coordinates, but dimension={dimension} was asked for: make them agree.")
    places = np.stack(rows)
    spread = np.linalg.svd(places - places.mean(axis=0), compute_uv=False)
    if len(known) < width + 1 or spread[width - 1] <= 1e-9 * spread[0]:
        raise ValueError(
            f"{len(known)} anchors do not fix a frame in {width} dimensions: {width + 1} are needed that do not lie in one plane (in two "
            "dimensions, on one line). Add anchors, or leave them out and use align afterwards."
        )
    return known, places


def _with_anchors(
    pairs: np.ndarray, y: np.ndarray, known: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The data with the distances between anchors that were not measured."""
    measured = {tuple(sorted(pair)) for pair in pairs.tolist()}
    extra = [
        (int(known[a]), int(known[b]), float(np.sum((places[a] - places[b]) ** 2)))
        for b in range(len(known))
        for a in range(b)
        if tuple(sorted((int(known[a]), int(known[b])))) not in measured
    ]
    if not extra:
        return pairs, y
    added = np.array([pair[:2] for pair in extra], pairs.dtype)
    return np.concatenate([pairs, added]), np.concatenate([y, [pair[2] for pair in extra]])


def _check_graph(pairs: np.ndarray, N: int) -> None:
    graph = PairGraph.of(pairs, N, "distances")
    if graph.isolated:
        raise ValueError(
            f"no distance was measured to {len(graph.isolated)} of the {N} points: {', '.join(map(str, graph.isolated[:8]))}. "
            "Drop them, or set N."
        )
    if len(graph.components) > 1:
        sizes = ", ".join(str(len(nodes)) for nodes in graph.components)
        raise ValueError(
            f"the points fall into {len(graph.components)} groups (sizes {sizes}) without a measured distance between them: their places "
            "relative to each other are not determined. Localise each group on its own, or add anchors to each."
        )
