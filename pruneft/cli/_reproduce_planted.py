"""`pruneft reproduce planted-*`: figures on planted neurons."""

from __future__ import annotations

import argparse
from typing import Any

from pruneft.cli._common import check_counts, check_figure, need_figures, set_precision, whole
from pruneft.cli._reproduce_swept import add_run, collect, number_list, told, whole_list
from pruneft.experiments.planted_recipes import RECIPES, cells


def add(figures: Any) -> None:
    """The figures of this subject."""
    for name, recipe in RECIPES.items():
        _add(figures, name, recipe.help)


def _add(figures: Any, name: str, text: str) -> None:
    parser = figures.add_parser(
        name, help=f"planted neurons (arXiv:2209.15265): {text}", description=f"{text[0].upper()}{text[1:]}."
    )
    parser.add_argument("--full", action="store_true", help="the published grid, where there is one: hours")
    parser.add_argument("--d", metavar="D,D,...", type=whole_list, help="features (the figure's)")
    parser.add_argument("--n-per-d", metavar="R,R,...", type=number_list, help="samples per feature (the figure's)")
    parser.add_argument("--seeds", type=whole, help="trials of a cell (the figure's)")
    add_run(parser, name)
    parser.set_defaults(run_command=planted, figure=name)


def planted(options: argparse.Namespace) -> int:
    """Run a recipe's cells, as far as the run does not hold them, and draw."""
    check_counts(options, "seeds", "processes")
    need_figures()
    target = check_figure(options.out)
    set_precision("float64")
    from pruneft.experiments import planted_figure
    from pruneft.plot import save

    recipe = RECIPES[options.figure]
    seeds = options.seeds or (options.full and recipe.full_seeds) or recipe.seeds
    listed = cells(recipe, full=options.full, d=options.d, ratios=options.n_per_d)
    found = collect(options, recipe.experiments, listed, seeds)
    save(getattr(planted_figure, recipe.figure)(found.rows), target)
    undecided = sum(bool(row.get("undecided")) for row in found.rows)
    values = {
        "figure": target,
        "ledgers": found.ledgers,
        "trials": len(found.rows),
        "new": found.new,
        "undecided": undecided,
    }
    return told(options, values, f"{len(found.rows)} trials, {found.new} of them new, {undecided} undecided")
