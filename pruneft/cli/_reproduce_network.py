"""`pruneft reproduce network`: pruned networks on handwritten digits."""

from __future__ import annotations

import argparse
from typing import Any

from pruneft.cli._common import check_counts, check_figure, need_figures, set_precision, whole
from pruneft.cli._reproduce_swept import add_run, collect, number_list, told
from pruneft.experiments.network_recipes import RECIPES, cells


def add(figures: Any) -> None:
    """The figures of this subject."""
    for name, recipe in RECIPES.items():
        parser = figures.add_parser(
            name, help=f"pruned networks: {recipe.help}", description=f"{recipe.help[0].upper()}{recipe.help[1:]}."
        )
        parser.add_argument("--models", metavar="M,M,...", type=_models, help="mlp, cnn, transformer (all)")
        parser.add_argument("--keep", metavar="S,S,...", type=number_list, help="shares of the width (the figure's)")
        parser.add_argument("--seeds", type=whole, help="trials of a cell (the figure's)")
        add_run(parser, name)
        parser.set_defaults(run_command=networks, figure=name)


def networks(options: argparse.Namespace) -> int:
    """Run a recipe's cells, as far as the run does not hold them, and draw."""
    check_counts(options, "seeds", "processes")
    need_figures()
    target = check_figure(options.out)
    set_precision("float64")
    from pruneft.experiments import network_figure
    from pruneft.plot import save

    recipe = RECIPES[options.figure]
    listed = cells(recipe, models=options.models, keeps=options.keep)
    found = collect(options, ("network",), listed, options.seeds or recipe.seeds)
    save(network_figure.draw(found.rows), target)
    values = {"figure": target, "ledgers": found.ledgers, "trials": len(found.rows), "new": found.new}
    return told(options, values, f"{len(found.rows)} trials, {found.new} of them new")


def _models(text: str) -> tuple[str, ...]:
    known = RECIPES["network"].models
    found = tuple(part.strip() for part in text.split(","))
    for name in found:
        if name not in known:
            raise argparse.ArgumentTypeError(f"expected names among {', '.join(known)}, got {name!r}")
    return found
