"""`pruneft relu planted`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneft.cli import _relu_file
from pruneft.cli._common import (
    OK,
    CommandError,
    check_counts,
    check_figure,
    check_memory,
    need_figures,
    number,
    progress,
    set_precision,
    show,
    show_json,
    whole,
)

_DEFAULT = "1.2,1.6,2.0,2.4,2.8"
# The first is the default. Said here, so that no other command pays for the import of the experiment, which checks them.
_CHOICES = {
    "model": ("skip plain normalised", "the network that is trained (skip)"),
    "planted": ("linear one two three", "what made the labels: a linear neuron, or so many of ReLU (linear)"),
    "weights": (
        "gaussian smallest antipodal basis",
        "of the planted neurons; smallest: right singular vectors (gaussian)",
    ),
    "data": ("gaussian cubed whitened cubed-whitened", "law of the samples (gaussian)"),
    "signs": ("same alternating", "second layer of the planted neurons (same)"),
}


def add(actions: Any) -> None:
    """The action and its flags."""
    parser = actions.add_parser(
        "planted",
        help="does a ReLU network of minimal norm find the neurons that made its data?",
        description="Plant neurons, solve the minimum-norm program to a certified gap, and count in how many trials they are found, for "
        "each number of samples. A trial that the budget does not decide is counted as undecided, never as a failure. Exit code 0.",
    )
    for name, (choices, text) in _CHOICES.items():
        parser.add_argument(f"--{name}", metavar=choices.replace(" ", "|"), default=choices.split()[0], help=text)
    parser.add_argument("--d", type=whole, default=20, help="features (20)")
    parser.add_argument("--n-per-d", metavar="VALUES", help=f"samples per feature, several by commas ({_DEFAULT})")
    parser.add_argument("--n", metavar="VALUES", help="samples, instead")
    parser.add_argument("--sigma", type=number, default=0.0, help="noise: labels differ by sigma / sqrt(n) (0)")
    parser.add_argument("--patterns", type=whole, help="random directions (n, and at least 50)")
    parser.add_argument(
        "--lam", type=number, default=0.0, help="weight of the norms beside half the squared misfit (0: interpolate)"
    )
    parser.add_argument("--tol", type=number, default=1e-8, help="relative gap at which a recovery counts (1e-8)")
    parser.add_argument("--seeds", type=whole, default=20, help="trials of each number of samples (20)")
    parser.add_argument("--figure", metavar="FILE.png", help="draw the rates with their intervals")
    _relu_file.add_output(parser)
    parser.set_defaults(run_command=run)


def run(options: argparse.Namespace) -> int:
    """Run the trials, count, draw."""
    check_counts(options, "patterns", "seeds")
    if options.dtype != "float64":
        raise CommandError(
            "recovery is decided to 1e-4 at gaps of 1e-8, which float32 does not reach: use --dtype float64."
        )
    target = None
    if options.figure is not None:
        need_figures()
        target = check_figure(options.figure, "--figure")
    set_precision(options.dtype)
    from pruneft.experiments.planted import PLANTED
    from pruneft.sweep import parse_values, run_trials

    if options.n is not None and options.n_per_d is not None:
        raise CommandError("give --n or --n-per-d, not both.")
    name = "n_per_d" if options.n is None else "n"
    axis = next(axis for axis in PLANTED.axes if axis.name == name)
    given = parse_values(axis, getattr(options, name) or _DEFAULT)
    fixed = {name: getattr(options, name) for name in (*_CHOICES, "d", "sigma", "lam", "tol")}
    planned = [PLANTED.resolve({**fixed, "P": options.patterns, name: value}) for value in given]
    check_memory(max(_bytes(cell) for cell in planned), f"a trial of d={options.d}")
    trials = [(cell, seed) for cell in {cell["n"]: cell for cell in planned}.values() for seed in range(options.seeds)]
    with progress("planted neurons", quiet=options.quiet) as bar:
        bar(total=len(trials), note="compiling; the first trials take some seconds")
        done = 0

        def on_rows(found: list[Any]) -> None:
            nonlocal done
            done += len(found)
            bar(completed=done, note="")

        rows = [
            {**row.cell, "seed": row.seed, **row.report}
            for batch in run_trials(PLANTED, trials, dtype=options.dtype, on_rows=on_rows)
            for row in batch
        ]
    counts = [
        counted([row for row in rows if row["n"] == cell["n"]], value if name == "n_per_d" else value / options.d)
        for cell, value in zip(planned, given, strict=True)
    ]
    values: dict[str, Any] = {**fixed, "seeds": options.seeds, "rows": counts}
    if target is not None:
        values["figure"] = str(_draw(rows, target))
    if options.json:
        show_json(values)
    else:
        _print(values)
    return OK


def counted(rows: Sequence[Mapping[str, Any]], n_per_d: float) -> dict[str, Any]:
    """What the trials of one number of samples come to; the interval is that of the rate with every undecided trial either way."""
    import numpy as np

    from pruneft.relu.planted import wendel
    from pruneft.sweep import wilson

    n, d, trials = int(rows[0]["n"]), int(rows[0]["d"]), len(rows)
    recovered = sum(bool(row["success"]) for row in rows)
    undecided = sum(bool(row["undecided"]) for row in rows)
    found: dict[str, Any] = {
        "n": n,
        "n_per_d": n_per_d,
        "trials": trials,
        "recovered": recovered,
        "undecided": undecided,
        "nic": sum(bool(row["nic"]) for row in rows),
        "all_ones": sum(row["all_ones"] == 1 for row in rows),
        "all_ones_undecided": sum(row["all_ones"] == -1 for row in rows),
        "low": wilson(recovered, trials)[0],
        "high": wilson(recovered + undecided, trials)[1],
        "distance": float(np.median([row["distance"] for row in rows])),
        "error": float(np.median([row["error"] for row in rows])),
        "iterations": float(np.median([row["iterations"] for row in rows])),
    }
    if rows[0]["planted"] == "linear":
        found["law"] = 1 - wendel(n, d)
    return found


def _bytes(cell: Mapping[str, Any]) -> float:
    """A lower bound on the memory of one trial: the points of the iteration, and the bases of a normalised network."""
    n, d, P = cell["n"], cell["d"], cell["P"]
    return 8.0 * (3 * d * P + 3 * n * n + n * P + (n * d * P + d * d * P) * (cell["model"] == "normalised"))


def _draw(rows: Sequence[Mapping[str, Any]], target: Path) -> Path:
    from pruneft.experiments.planted_figure import transition
    from pruneft.plot import save

    return save(transition(rows), target)


def _print(values: Mapping[str, Any]) -> None:
    law = any("law" in row for row in values["rows"])
    show(
        f"{values['model']}, {values['planted']}, {values['weights']} weights, {values['data']} data, d = {values['d']}"
        + (f", sigma = {values['sigma']:g}" if values["sigma"] else "")
    )
    show(
        f"{'n':>6}{'n/d':>7}{'recovered':>12}{'95% interval':>15}{'undecided':>11}{'isometry':>10}{'all ones':>10}"
        + (f"{'law':>8}" if law else "")
        + f"{'distance':>11}{'error':>10}"
    )
    for row in values["rows"]:
        show(
            f"{row['n']:>6}{row['n_per_d']:>7.3g}{row['recovered']:>7}/{row['trials']:<4}{row['low']:>9.2f}-{row['high']:.2f}"
            f"{row['undecided']:>11}{row['nic']:>10}{row['all_ones']:>10}"
            + (f"{row['law']:>8.3f}" if law else "")
            + f"{row['distance']:>11.1e}{row['error']:>10.1e}"
        )
    if "figure" in values:
        show(f"figure {values['figure']}")
