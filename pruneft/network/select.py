"""Which groups stay: so many of each family, so many in all, or as many as a budget of parameters or operations allows.

Shares are of the original widths, which families remember, so asking twice prunes once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.network.families import Families
from pruneft.prune import keep_count

Share = float | Mapping[str, float]
Masks = dict[str, Any]


def counts(families: Families, keep: Share) -> dict[str, int]:
    """How many groups of each family stay.

    Args:
      families: of the model; their ``min_width`` and ``round_to`` count.
      keep: share of the original width, in (0, 1], for all or by name; families that are not named stay as they are.

    Raises:
      ValueError: a share lies outside (0, 1], or a name is unknown.
    """
    shares = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(families.names, keep)
    for name, share in shares.items():
        if name not in families.names:
            raise ValueError(f"no family is called {name!r}: known are {', '.join(families.names)}.")
        if not 0 < share <= 1:
            raise ValueError(f"the share of {name} to keep must lie in (0, 1]: got {share}.")
    return {f.name: f.rounded(shares[f.name] * f.original) if f.name in shares else f.width for f in families}


def select(
    scores: Mapping[str, Any],
    families: Families,
    keep: Share,
    *,
    scope: str = "layer",
    normalise: str = "mean",
    least: float = 0.0,
) -> Masks:
    """Masks of the groups that stay, {family: boolean [n]}.

    Args:
      scores: larger for what should stay; from `pruneft.network.scores`.
      families: of the model.
      keep: share of the original width. By layer exactly ``counts(families, keep)`` groups of each family stay; globally (a number)
        that share of all groups, wherever they lie.
      scope: ``"layer"``, safe under jit, or ``"global"``, on the host.
      normalise: before groups of different families are compared, their scores are divided by the family's mean, or not.
      least: share of every family that stays at least, for ``"global"``.

    Raises:
      ValueError: a share is out of range, scores are missing, or ``keep`` is not one number where the scope is global.
    """
    _check(scores, families)
    if scope == "layer":
        wanted = counts(families, keep)
        return {f.name: keep_count(jnp.asarray(scores[f.name]), wanted[f.name]) for f in families}
    if scope != "global":
        raise ValueError(f"scope must be 'layer' or 'global': got {scope!r}.")
    if isinstance(keep, Mapping):
        raise ValueError("a global selection takes one share for all families: give a number, or scope='layer'.")
    counts(families, keep)
    total = max(int(np.floor(keep * sum(f.original for f in families) + 0.5)), 1)
    order = _Order(scores, families, normalise, least)
    return order.masks(order.total(total))


def within(
    scores: Mapping[str, Any],
    families: Families,
    *,
    parameters: int | None = None,
    flops: int | None = None,
    normalise: str = "mean",
    least: float = 0.0,
) -> Masks:
    """Masks of as many groups as a budget allows, the lowest normalised scores going first; on the host.

    The model never exceeds the budget, and no group that went would fit into what is left of it.

    Args:
      scores, families, normalise, least: as for `select`.
      parameters: numbers in the arrays, at most. flops: operations of the model's products on the example inputs, at most.

    Raises:
      ValueError: no budget is given, or the narrowest allowed network exceeds it.
    """
    _check(scores, families)
    if (parameters is None) == (flops is None):
        raise ValueError("give one budget: parameters=..., or flops=....")
    budget, cost = (parameters, families.parameters) if flops is None else (flops, families.flops)
    assert budget is not None
    order = _Order(scores, families, normalise, least)
    narrowest = cost(order.least)
    if narrowest > budget:
        raise ValueError(
            f"the budget of {budget} {'parameters' if flops is None else 'operations'} cannot be reached: the narrowest network that "
            f"min_width, round_to and least allow has {narrowest}. Raise the budget, or lower them."
        )
    low, high = 0, len(order.ranked)  # so many of the best groups, beyond those that stay in any case
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(order.widths(middle)) <= budget else (low, middle - 1)
    return order.masks(order.filled(low, lambda widths: cost(widths) <= budget))


def _check(scores: Mapping[str, Any], families: Families) -> None:
    for family in families:
        if family.name not in scores:
            raise ValueError(f"scores of {family.name} are missing: got those of {', '.join(scores) or 'nothing'}.")
        if np.shape(scores[family.name]) != (family.width,):
            raise ValueError(
                f"{family.name} has {family.width} groups: its scores have shape {np.shape(scores[family.name])}."
            )


class _Order:
    """All groups by score, in steps of ``round_to``, beyond those that stay in any case."""

    def __init__(self, scores: Mapping[str, Any], families: Families, normalise: str, least: float) -> None:
        if normalise not in ("mean", "none"):
            raise ValueError(f"normalise must be 'mean' or 'none': got {normalise!r}.")
        if any(isinstance(scores[name], jax.core.Tracer) for name in families.names):
            raise ValueError(
                "a global selection or a budget runs on the host, between jitted steps: the scores are traced."
            )
        self.families = families
        self.scores = {name: np.asarray(scores[name], np.float64) for name in families.names}
        self.least = {f.name: f.rounded(least * f.original) for f in families}
        steps = []
        for family in families:
            mine = -np.sort(-self.scores[family.name])
            mean = mine.mean() if normalise == "mean" and mine.mean() > 0 else 1.0
            begin = self.least[family.name]
            while begin < family.width:
                end = min(begin + family.round_to, family.width)
                steps.append((mine[begin:end].mean() / mean, family.name, end - begin))
                begin = end
        # Stable: within a family the scores fall, so its steps come in their order.
        self.ranked = [(name, size) for _, name, size in sorted(steps, key=lambda step: -step[0])]

    def widths(self, best: int) -> dict[str, int]:
        """With so many of the best steps."""
        found = dict(self.least)
        for name, size in self.ranked[:best]:
            found[name] += size
        return found

    def total(self, groups: int) -> dict[str, int]:
        """With so many groups in all, or as near from below as the steps allow."""
        sizes = np.cumsum([size for _, size in self.ranked], dtype=np.int64)
        low = int(np.searchsorted(sizes, groups - sum(self.least.values()), side="right"))
        return self.filled(low, lambda widths: sum(widths.values()) <= groups)

    def filled(self, best: int, fits: Any) -> dict[str, int]:
        """The best steps, and any later one that still fits, as long as its family's earlier ones do."""
        found = self.widths(best)
        closed: set[str] = set()
        for name, size in self.ranked[best:]:
            if name in closed:
                continue
            larger = {**found, name: found[name] + size}
            if fits(larger):
                found = larger
            else:
                closed.add(name)
        return found

    def masks(self, widths: Mapping[str, int]) -> Masks:
        """The highest scores of each family."""
        found = {}
        for family in self.families:
            order = np.argsort(-self.scores[family.name], kind="stable")
            found[family.name] = np.isin(np.arange(family.width), order[: widths[family.name]])
        return found
