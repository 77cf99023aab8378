"""`pruneft reproduce edge-*`: gradient descent at the edge of stability."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from pruneft.cli._common import (
    OK,
    CommandError,
    check_counts,
    check_figure,
    need_figures,
    number,
    progress,
    random_seed,
    set_precision,
    show,
    show_json,
    whole,
)
from pruneft.cli._reproduce_swept import add_output, add_run, collect, told
from pruneft.experiments.edge_recipes import RUNS, SWEEPS
from pruneft.experiments.recipes import product
from pruneft.files import save_arrays


def add(figures: Any) -> None:
    """The figures of this subject."""
    for name, run in RUNS.items():
        parser = _parser(figures, name, f"gradient descent beside its prediction: {run.help}")
        parser.add_argument("--f", type=number, help=f"2 / eta over the peak of the sharpness ({run.f})")
        parser.add_argument("--steps", type=whole, help=f"of gradient descent ({run.steps})")
        parser.add_argument("--seed", type=random_seed, help=f"of the problem ({run.seed})")
        add_output(parser, name)
        parser.set_defaults(run_command=single, figure=name)
    for name, sweep in SWEEPS.items():
        parser = _parser(figures, name, sweep.help)
        parser.add_argument("--seeds", type=whole, help=f"trials of a cell ({sweep.seeds})")
        add_run(parser, name)
        parser.set_defaults(run_command=swept, figure=name)

    parser = _parser(
        figures,
        "edge-sgd",
        "share of runs of SGD that leave a minimum, over step size and batch, beside gradient descent and four thresholds",
        "2305.17490",
    )
    parser.add_argument("--steps", type=whole, default=4000, help="of every run (4000)")
    parser.add_argument("--runs", type=whole, default=16, help="of every step size and batch (16)")
    parser.add_argument("--seed", type=random_seed, default=0, help="of the network, the samples and the batches (0)")
    add_output(parser, "edge-sgd")
    parser.set_defaults(run_command=stability, figure="edge-sgd")


def _parser(figures: Any, name: str, text: str, source: str = "2209.15594") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = figures.add_parser(
        name, help=f"edge of stability (arXiv:{source}): {text}", description=f"{text[0].upper()}{text[1:]}."
    )
    return parser


def single(options: argparse.Namespace) -> int:
    """One run; its arrays go beside the figure."""
    check_counts(options, "steps")
    need_figures()
    if options.f is not None and not 0 < options.f <= 1:
        raise CommandError(f"--f: expected a number above 0 and at most 1, got {options.f}.")
    target = check_figure(options.out)
    set_precision("float64")
    from pruneft.experiments import edge_figure, edge_recipes
    from pruneft.plot import save
    from pruneft.status import Status, message

    with progress(options.figure, quiet=options.quiet) as bar:
        bar(total=1, note="most of it is compilation")
        try:
            seen: dict[str, Any] = edge_recipes.run(
                RUNS[options.figure], seed=options.seed, f=options.f, steps=options.steps
            )
        except ImportError as error:
            raise CommandError(
                f"{options.figure} needs scikit-learn: python -m pip install 'pruneft[sklearn]'."
            ) from error
        bar(completed=1)
    numbers = save_arrays(target.with_suffix(".npz"), seen)
    save(edge_figure.history(seen), target)
    status, inside, steps = int(seen["status"]), int(seen["inside"]), len(seen["x"])
    said = message(status, "dynamics")
    values = {"figure": target, "numbers": numbers, "status": Status(status).name, "inside": inside, "steps": steps}
    if options.json:
        show_json(
            {
                **values,
                "eta": seen["eta"],
                "correlation_x": _correlation(seen, "x"),
                "correlation_y": _correlation(seen, "y"),
            }
        )
        return OK
    show(f"step size {float(seen['eta']):.4g}; {inside} of {steps} steps within the domain of the theory")
    show(f"correlation with the prediction: x {_correlation(seen, 'x'):.3f}, y {_correlation(seen, 'y'):.3f}")
    show(said)
    show(f"figure  {target}")
    show(f"numbers {numbers}")
    return OK


def stability(options: argparse.Namespace) -> int:
    """The stability diagram of SGD; its arrays go beside the figure."""
    check_counts(options, "steps", "runs")
    need_figures()
    target = check_figure(options.out)
    set_precision("float64")
    from pruneft.experiments import edge_figure, edge_recipes
    from pruneft.plot import save

    with progress(options.figure, quiet=options.quiet) as bar:
        bar(total=1, note="all runs at once")
        seen = edge_recipes.diagram(seed=options.seed, steps=options.steps, runs=options.runs)
        bar(completed=1)
    numbers = save_arrays(target.with_suffix(".npz"), seen)
    save(edge_figure.stability(seen), target)
    bounds = {name: float(seen[name][0]) for name in ("exact", "quartic", "trace", "sharpness")}
    if options.json:
        show_json({"figure": target, "numbers": numbers, **bounds})
        return OK
    show("batches of one: " + ", ".join(f"{name} {value:.4g}" for name, value in bounds.items()))
    show(f"figure  {target}")
    show(f"numbers {numbers}")
    return OK


def _correlation(seen: dict[str, np.ndarray], name: str) -> float:
    pair = np.stack([seen[name], seen[f"{name}_predicted"]])
    if pair.shape[1] < 2 or not np.all(np.isfinite(pair)):
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(pair)[0, 1])


def swept(options: argparse.Namespace) -> int:
    """Run a sweep's cells, as far as the run does not hold them, and draw."""
    check_counts(options, "seeds", "processes")
    need_figures()
    target = check_figure(options.out)
    set_precision("float64")
    from pruneft.experiments import edge_figure
    from pruneft.plot import save
    from pruneft.status import Status

    recipe = SWEEPS[options.figure]
    found = collect(options, ("edge",), product(**recipe.axes), options.seeds or recipe.seeds)
    rows = found.rows
    save(getattr(edge_figure, recipe.figure)(rows), target)
    inside = sum(row["status"] == Status.CONVERGED for row in rows)
    values = {"figure": target, "ledgers": found.ledgers, "trials": len(rows), "new": found.new, "inside": inside}
    line = f"{len(rows)} trials, {found.new} of them new, {inside} within the domain of the theory throughout"
    return told(options, values, line)
