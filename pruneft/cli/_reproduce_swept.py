"""Figures that are drawn from runs of experiments: running their cells, as far as the runs do not hold them, and drawing."""

from __future__ import annotations

import argparse
import functools
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from pruneft.cli._common import (
    OK,
    check_counts,
    check_figure,
    need_figures,
    number,
    progress,
    set_precision,
    show,
    show_json,
    whole,
)
from pruneft.experiments.recipes import RECIPES


class Collected(NamedTuple):
    """Rows of all experiments of a figure, the ledgers that hold them, and how many trials are new."""

    rows: list[dict[str, Any]]
    ledgers: list[Any]
    new: int


def add(figures: Any) -> None:
    """A command for every recipe."""
    for name, recipe in RECIPES.items():
        parser = figures.add_parser(name, help=recipe.help, description=f"{recipe.help[0].upper()}{recipe.help[1:]}.")
        parser.add_argument("--full", action="store_true", help="the long form")
        parser.add_argument("--seeds", type=whole, help="trials of a cell (the figure's)")
        add_run(parser, name)
        parser.set_defaults(run_command=swept, figure=name)


def add_run(parser: argparse.ArgumentParser, name: str) -> None:
    """Options on where a run lives and what comes out."""
    parser.add_argument("--processes", type=whole, help="processes that share the work (one for each core)")
    parser.add_argument(
        "--run", metavar="NAME", default=name, help=f"name of the run, which goes on if stopped ({name})"
    )
    parser.add_argument("--runs-dir", metavar="DIR", default="runs", help="where runs live (runs)")
    add_output(parser, name)


def add_output(parser: argparse.ArgumentParser, name: str) -> None:
    """Options on what comes out of a figure's command."""
    parser.add_argument("--out", metavar="FILE", default=f"{name}.png", help=f".png or .pdf ({name}.png)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def swept(options: argparse.Namespace) -> int:
    """Run a recipe's cells and draw."""
    check_counts(options, "seeds", "processes")
    need_figures()
    target = check_figure(options.out)
    recipe = RECIPES[options.figure]
    set_precision(recipe.dtype)
    from pruneft.experiments import load, locate
    from pruneft.plot import save

    seeds = options.seeds or (recipe.full_seeds if options.full else recipe.seeds)
    listed = recipe.full if options.full else recipe.cells
    found = collect(options, (recipe.experiment,), listed, seeds, recipe.dtype)
    save(locate(load(recipe.experiment).figure)(found.rows), target)
    values = {"figure": target, "ledgers": found.ledgers, "trials": len(found.rows), "new": found.new}
    return told(options, values, f"{len(found.rows)} trials, {found.new} of them new")


def collect(
    options: argparse.Namespace,
    experiments: Sequence[str],
    listed: Sequence[dict[str, Any]],
    seeds: int,
    dtype: str = "float64",
) -> Collected:
    """The rows of these cells by each of the experiments; what their runs do not hold is computed."""
    from pruneft.experiments import load
    from pruneft.sweep import Ledger, check_name, make_grid, run_path, sweep

    check_name(options.run)
    rows: list[dict[str, Any]] = []
    ledgers: list[Any] = []
    new = 0
    for name in experiments:
        experiment = load(name)
        # A ledger holds one experiment: the second of a figure has a run of its own.
        run = options.run if name == experiments[0] else f"{options.run}-beside"
        with progress(f"{options.figure}: {name}", quiet=options.quiet) as bar:
            done = sweep(
                experiment,
                make_grid(experiment, seeds=seeds, listed=listed),
                run_path(options.runs_dir, run),
                dtype=dtype,
                processes=options.processes,
                remarks={"experiment_place": name, "command": shlex.join(["pruneft", *options.words])},
                on_plan=functools.partial(_planned, bar),
                on_progress=functools.partial(_progressed, bar),
            )
        with Ledger.open(done.path, read_only=True) as ledger:
            rows += ledger.rows()
        ledgers, new = [*ledgers, done.path], new + done.new
    return Collected(rows, ledgers, new)


def told(options: argparse.Namespace, values: dict[str, Any], line: str) -> int:
    """Say what came out."""
    if options.json:
        show_json(values)
        return OK
    show(line)
    for path in values["ledgers"]:
        show(f"ledger  {path}")
    show(f"figure  {values['figure']}")
    return OK


def _planned(bar: Any, planned: int, stored: int, _: Any) -> None:
    bar(total=planned, completed=stored, note="compiling")


def _progressed(bar: Any, now: Any) -> None:
    bar(completed=now.done, note="")


def whole_list(text: str) -> tuple[int, ...]:
    """Positive whole numbers with commas between them."""
    found = tuple(whole(part) for part in text.split(","))
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"expected whole numbers of at least 1, got {text!r}")
    return found


def number_list(text: str) -> tuple[float, ...]:
    """Positive numbers with commas between them."""
    found = tuple(number(part) for part in text.split(","))
    if not all(0 < value < 1e6 for value in found):
        raise argparse.ArgumentTypeError(f"expected positive numbers, got {text!r}")
    return found
