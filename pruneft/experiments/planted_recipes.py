"""The figures on planted neurons as recipes: which cells, how many trials, which drawing.

The grids of the publication are n = 10..400 in steps of 10 and d = 10..100, with 5 trials of recovery and 50 of the isometry
conditions; they take hours on a few cores. The short ones show the same transitions in minutes.

Source: Wang, Hua, Candes, Pilanci, arXiv:2209.15265.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_LINEAR = {"model": "skip", "planted": "linear"}
_SMALLEST = {**_LINEAR, "weights": "smallest"}
_ONE = {"model": "normalised", "planted": "one"}
_TWO = {"model": "normalised", "planted": "two"}
_PAIR = {**_TWO, "weights": "antipodal"}
_PAPER_D = tuple(range(10, 101, 10))
_PAPER_N = tuple(range(10, 401, 10))


class Recipe(NamedTuple):
    """One figure.

    Attributes:
      help: what it shows.
      figure: function of `pruneft.experiments.planted_figure` that draws it.
      settings: axes of each setting.
      d, ratios, seeds: features, samples per feature and trials of a cell, the short grid.
      full_seeds: trials of a cell on the published grid; None where the short grid is used with ``full`` too.
      experiments: that run its cells; the rows of all of them are drawn.
    """

    help: str
    figure: str
    settings: tuple[dict[str, Any], ...]
    d: tuple[int, ...]
    ratios: tuple[float, ...]
    seeds: int
    full_seeds: int | None = None
    experiments: tuple[str, ...] = ("planted",)


RECIPES = {
    "planted-recovery": Recipe(
        "recovery over (n, d): heat maps of skip and normalised networks, Wendel's law over the linear neuron",
        "heat_map",
        (_LINEAR, _SMALLEST, _ONE, _PAIR),
        (8, 12, 16, 20),
        (1.25, 1.75, 2.25, 2.75, 3.25, 4.0),
        10,
        5,
    ),
    "planted-transition": Recipe(
        "transition curves with intervals of every model",
        "transition",
        (_LINEAR, _SMALLEST, _ONE, _PAIR, _TWO),
        (12,),
        (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0),
        20,
    ),
    "planted-isometry": Recipe(
        "isometry conditions beside recovery",
        "isometry",
        (_LINEAR, _SMALLEST, _ONE, _PAIR, _TWO),
        (12,),
        (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
        20,
    ),
    "planted-noise": Recipe(
        "distance to the planted neuron and error on fresh samples under noise",
        "noise",
        tuple({**_LINEAR, "sigma": sigma} for sigma in (0.0, 0.05, 0.1, 0.2)),
        (20,),
        (1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
        10,
    ),
    "planted-networks": Recipe(
        "networks trained by AdamW, pruned and fine-tuned, beside the convex programs",
        "networks",
        (_LINEAR, _ONE),
        (10,),
        (1.5, 2.0, 2.5, 3.0, 4.0),
        8,
        experiments=("planted-networks", "planted"),
    ),
}


def cells(
    recipe: Recipe, *, full: bool = False, d: Sequence[int] | None = None, ratios: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """The cells of a recipe; normalised networks with fewer samples than features are left out.

    Args:
      recipe: of `RECIPES`.
      full: the published grid, where the recipe has one.
      d, ratios: others than the recipe's.

    Raises:
      ValueError: no cell is left.
    """
    found = []
    for setting in recipe.settings:
        for features in d or (_PAPER_D if full and recipe.full_seeds else recipe.d):
            whole = full and recipe.full_seeds is not None and ratios is None
            sizes = _PAPER_N if whole else [max(1, round(ratio * features)) for ratio in ratios or recipe.ratios]
            for n in sorted(set(sizes)):
                if setting["model"] != "normalised" or n >= features:
                    found.append({**setting, "d": features, "n": n})
    if not found:
        raise ValueError("no cell is left: normalised networks need at least as many samples as features.")
    return found
