"""The figure on pruned networks as a recipe: which cells, how many trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """One figure.

    Attributes:
      help: what it shows.
      models, keeps: networks, and shares of the width that stay.
      seeds: trials of a cell.
    """

    help: str
    models: tuple[str, ...]
    keeps: tuple[float, ...]
    seeds: int


RECIPES = {
    "network": Recipe(
        "accuracy on digits against the share of the width that stays: gradual, one-shot by every criterion, from scratch",
        ("mlp", "cnn", "transformer"),
        (0.1, 0.25, 0.5, 1.0),
        4,
    )
}


def cells(
    recipe: Recipe, *, models: Sequence[str] | None = None, keeps: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """The cells of a recipe: both baselines, chance and a small network from scratch, are always among them.

    Args:
      recipe: of `RECIPES`.
      models, keeps: others than the recipe's.
    """
    from pruneft.network import CRITERIA  # here, so that a command line that only lists figures does not load it

    ways = [{"method": "gradual"}, {"method": "scratch"}]
    ways += [{"method": "one-shot", "criterion": name} for name in CRITERIA]
    return [
        {"model": model, "keep": keep, **way}
        for model in models or recipe.models
        for keep in keeps or recipe.keeps
        for way in ways
    ]
