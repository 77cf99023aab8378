"""Figures as recipes: which cells of an experiment, how many trials of each, which drawing. `pruneft reproduce` makes each by its name."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

Cells = tuple[dict[str, Any], ...]


class Recipe(NamedTuple):
    """One figure.

    Attributes:
      help: what it shows.
      experiment: by its name; its figure is drawn.
      cells: of the short form, minutes on a few cores.
      full: of the long form.
      seeds, full_seeds: trials of a cell in either.
      dtype: that the trials are computed in.
    """

    help: str
    experiment: str
    cells: Cells
    full: Cells
    seeds: int
    full_seeds: int
    dtype: str = "float32"


def product(**axes: Any) -> Cells:
    """The cells of a product; a value that is no tuple is the same in all."""
    listed = [value if isinstance(value, tuple) else (value,) for value in axes.values()]
    return tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*listed))


def _laperm(
    periods: tuple[int, ...], rates: tuple[float, ...], shares: tuple[float, ...], best: int, **more: Any
) -> Cells:
    """LaPerm over the period, and at one of them over the share of zeros; Adam alone over the share of zeros."""
    return (
        *product(method="laperm", period=periods, lr=rates, **more),
        *product(method="laperm", period=best, lr=rates, removed=shares, **more),
        *product(method="adam", lr=rates, removed=(0.0, *shares), **more),
    )


RECIPES = {
    "laperm": Recipe(
        "training by permutation (arXiv:2003.02570) on handwritten digits: LaPerm against Adam over the period and the share of zeros",
        "laperm",
        _laperm((5, 20, 100, 250), (1e-3, 3e-3), (0.3, 0.5, 0.7), 100, steps=1500),
        _laperm((1, 2, 5, 10, 20, 50, 100, 250, 500), (1e-3, 3e-3, 1e-2), (0.3, 0.5, 0.7, 0.9), 100, steps=5000)
        + _laperm((5, 10, 20, 50, 100, 250), (1e-3, 3e-3), (0.3, 0.5, 0.7), 50, model="cnn", steps=2000),
        3,
        5,
    ),
    "rank-jumps": Recipe(
        "rank jumps of deep linear networks under more decay (arXiv:2305.16038): SGD, and gradient descent as its control",
        "rank-jumps",
        product(method=("sgd", "gd"), lam=(1e-3, 3e-3, 1e-2)),
        product(method=("sgd", "gd"), lam=(3e-4, 1e-3, 3e-3, 1e-2), observed=(32, 40, 50, 60)),
        3,
        10,
        "float64",
    ),
}
