"""Patterns that neurons can keep under attack, each with a direction inside its robust cone; on the host.

Sampled as the patterns of the data themselves and of data moved by random attacks of full size. A pattern is of use only if some
direction keeps all samples on their sides under every attack, ``(2 D - 1) (X h) > r ||h||_*``; for the others the robust cone is
{0} (or has no interior), and they are dropped and counted. The direction furthest inside comes from a linear program: exact for
attacks in l_inf and l_1, whose dual norms are polyhedral, by cutting planes for l_2.

Source: patterns of perturbed data, Bai, Gautam, Sojoudi, arXiv:2201.01965; directions of robust cones derived (ours).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.optimize import linprog  # type: ignore[import-untyped]

from pruneft.random import Block, normals
from pruneft.relu.adversarial.norms import ball_named
from pruneft.relu.patterns import draw_directions

MARGIN = 1e-9  # of a direction, relative: a cone narrower than this cannot be told from {0}
_CUTS = 60
_ROUNDS = 4  # doublings of the number of draws while patterns are missing
_DUAL_ORDER = {"inf": 1, "2": 2, "1": np.inf}


class RobustPatterns(NamedTuple):
    """Patterns with robust cones.

    Attributes:
      D: [n, P], 0 and 1; one column of zeros, which is inert, where no pattern has a robust cone.
      H: [d, P], directions in the interior of their robust cones, ``|h|_inf <= 1``.
      sampled: different patterns that were looked at.
      dropped: how many of them have no direction inside a robust cone.
      note: what differs from what was asked for; empty if nothing does.
    """

    D: np.ndarray
    H: np.ndarray
    sampled: int
    dropped: int
    note: str = ""


def robust_patterns(
    key: Array, X: np.ndarray, count: int, *, eps: float, mask: np.ndarray, norm: str = "inf", perturbations: int = 4
) -> RobustPatterns:
    """Up to ``count`` different patterns whose robust cones have an interior.

    Args:
      key: of the draws.
      X: [n, d] data, with a column of ones for a bias.
      count: patterns wanted; as many as are found in eight times as many directions, with a note, where that is fewer.
      eps: radius of the attack.
      mask: [d] features that are attacked, 1 or 0.
      norm: of the attack.
      perturbations: random attacks on the data whose patterns are looked at too, for every direction.
    """
    n, d = X.shape
    ball = ball_named(norm)
    moves = np.zeros((1, n, d))
    if eps > 0 and perturbations:
        drawn = normals(key, Block(1, n, d, perturbations))[0].astype(X.dtype)
        moved = eps * np.asarray(ball.worst(jnp.asarray(drawn), jnp.asarray(mask, X.dtype)))
        moves = np.concatenate([moves, moved])
    kept: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    seen: set[bytes] = set()
    for doubling in range(_ROUNDS):
        H = np.asarray(draw_directions(key, d, count << doubling), X.dtype)
        fresh = H[:, 0 if doubling == 0 else count << (doubling - 1) :]
        for D in ((X + move) @ fresh >= 0 for move in moves):
            for column in D.T:
                name = np.packbits(column).tobytes()
                if name in seen or len(kept) == count or not column.any():
                    continue
                seen.add(name)
                A = (2.0 * column - 1)[:, None] * X
                h, margin = robust_direction(A, np.full(n, eps), mask, ball.name)
                if margin > 0:
                    kept[name] = column.astype(X.dtype), h.astype(X.dtype)
        if len(kept) == count:
            break
    dropped = len(seen) - len(kept)
    if not kept:
        note = f"none of {len(seen)} patterns has a robust cone at eps = {eps:g}: every neuron is zero. Lower eps, or sample more patterns."
        return RobustPatterns(np.zeros((n, 1), X.dtype), np.zeros((d, 1), X.dtype), len(seen), dropped, note)
    note = (
        ""
        if len(kept) == count
        else f"{count} patterns were asked for; {len(kept)} of {len(seen)} sampled ones have a robust cone."
    )
    D, directions = (np.stack(part, axis=1) for part in zip(*kept.values(), strict=True))
    return RobustPatterns(D, directions, len(seen), dropped, note)


def robust_direction(
    A: np.ndarray, radius: np.ndarray, mask: np.ndarray, norm: str = "inf"
) -> tuple[np.ndarray, float]:
    """The h with ``|h|_inf <= 1`` and ``a_k h >= r_k ||h||_* + t ||a_k||`` of the largest t (nearly the largest, for l_2).

    Args:
      A: [n, d] samples, each times its side, -1 or 1. Rows of zeros with radius 0 ask for nothing.
      radius: [n] how far each is moved.
      mask: [d] attacked features, 1 or 0.
      norm: of the attack.

    Returns:
      The direction, and its t over its length, computed from it; zeros and 0 where no direction is inside every half-space.
    """
    name = ball_named(norm).name
    asked = (np.linalg.norm(A, axis=1) > 0) | (radius > 0)
    A, radius = A[asked], radius[asked]
    size, d, attacked = np.linalg.norm(A, axis=1), A.shape[1], np.flatnonzero(mask > 0)
    if not np.all(size > 0):
        return np.zeros(d), 0.0  # a sample at zero that is moved can be kept on no side

    def dual(h: np.ndarray) -> float:
        return float(np.linalg.norm(h[attacked], _DUAL_ORDER[name])) if len(attacked) else 0.0

    def margin(h: np.ndarray) -> float:
        return float(np.min((A @ h - radius * dual(h)) / size, initial=np.inf))

    # Unknowns: h; bounds of |h_j|, one by one or for all, or of the length; and t.
    m = len(attacked) if name == "inf" else 1
    aim = np.r_[np.zeros(d + m), -1.0]
    rows = [np.c_[-A, np.repeat(radius[:, None], m, axis=1), size]]
    for sign in (1, -1) if name != "2" else ():
        cut = np.zeros((len(attacked), d + m + 1))
        cut[np.arange(len(attacked)), attacked] = sign
        cut[np.arange(len(attacked)), d + (np.arange(len(attacked)) if name == "inf" else 0)] = -1
        rows.append(cut)
    limits = [(-1, 1)] * d + [(0, None)] * m + [(0, 1)]
    best, most = np.zeros(d), 0.0
    for _ in range(_CUTS if name == "2" else 1):
        left = np.concatenate(rows)
        answer = linprog(aim, A_ub=left, b_ub=np.zeros(len(left)), bounds=limits, method="highs")
        if answer.x is None or answer.x[-1] <= MARGIN:
            break
        h = answer.x[:d]
        if margin(h) > most:
            best, most = h, margin(h)
        if most > 0.7 * answer.x[-1]:
            break  # the program without the missing cuts has no more than that
        length = float(np.linalg.norm(h[attacked]))
        cut = np.zeros((1, d + m + 1))
        cut[0, attacked], cut[0, d] = h[attacked] / (length if length > 0 else 1), -1
        rows.append(cut)
    length = float(np.linalg.norm(best))
    return (best, most / length) if most > MARGIN * length else (np.zeros(d), 0.0)
