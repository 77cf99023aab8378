"""How long lookahead permutation should wait between two syncs."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.optim.laperm_groups import Rule, axis_of, matrices, to_groups

MOVE = 20.0  # ranks a weight moves between two syncs; 10 and 31 were the best rows measured
LEAST_SYNCS = 15  # in a run


def rank_moves(
    learning_rate: float, period: int, params: Any, *, permute: Rule = matrices, axis: int | Rule = -1
) -> dict[str, float]:
    r"""How many ranks a weight can move from sync to sync, for every permuted leaf by its path.

    .. math:: \rho = \frac{\eta \, k}{g}, \qquad g = \frac{\max_i w_{ji} - \min_i w_{ji}}{n}

    Adam moves a weight by about the learning rate at a step, and neighbouring values of a group lie g apart, the range over the number
    of values (the mean over the groups). Below 1 no value changes its rank and every sync undoes the training before it. Leaves whose
    values are all equal are left out. Runs on the host.

    Args:
      learning_rate: of Adam, or of another optimiser that moves every weight by about as much; at its greatest where it has a schedule.
      period: steps between syncs.
      params: the initial weights.
      permute, axis: as given to `laperm`.

    Raises:
      ValueError: the learning rate or the period is not positive, or no permuted leaf holds two different values.

    Source: derived (ours): a rule of thumb.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0 and period >= 1):
        raise ValueError(
            f"the learning rate must be positive and the period at least 1: got learning_rate={learning_rate}, period={period}."
        )
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if permute(name, leaf):
            groups = np.asarray(to_groups(jnp.asarray(leaf), axis_of(name, leaf, axis)), np.float64)
            gap = float(np.mean(np.ptp(groups, axis=1))) / groups.shape[1]
            if gap > 0:
                found[name] = learning_rate * period / gap
    if not found:
        raise ValueError(
            "no permuted leaf holds two different values, so nothing can move: give the initial weights, and permute= as to laperm."
        )
    return found


def suggest_period(
    learning_rate: float,
    params: Any,
    *,
    steps: int | None = None,
    move: float = MOVE,
    permute: Rule = matrices,
    axis: int | Rule = -1,
) -> int:
    """The period at which the weights of the slowest leaf move by ``move`` ranks between two syncs; see `rank_moves`.

    Args:
      learning_rate, params, permute, axis: as for `rank_moves`.
      steps: of the whole run, if known: it should hold at least 15 syncs, so the period is at most a fifteenth.
      move: ranks; 10 to 30 did best on small digits.

    Returns:
      At least 1, and at least one rank's worth of steps, even where ``steps`` asks for less: a shorter period trains nothing.

    Raises:
      ValueError: as `rank_moves`; ``move`` below 1, or ``steps`` below 1.

    Source: derived (ours): a rule of thumb.
    """
    if not (math.isfinite(move) and move >= 1) or (steps is not None and steps < 1):
        raise ValueError(f"move must be at least 1 rank and steps at least 1: got move={move}, steps={steps}.")
    one = 1 / min(rank_moves(learning_rate, 1, params, permute=permute, axis=axis).values())
    wanted = move * one if steps is None else min(move * one, steps / LEAST_SYNCS)
    return max(1, math.ceil(one), round(wanted))
