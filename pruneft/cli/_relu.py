"""`pruneft relu`, and its action `fit`."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from pruneft.cli import _relu_file, _relu_planted, _relu_robust
from pruneft.cli._common import (
    NOT_OK,
    OK,
    CommandError,
    check_counts,
    check_figure,
    check_target,
    need_figures,
    number,
    random_seed,
    say,
    set_precision,
    show,
    show_json,
    whole,
)


def add(commands: Any, parser_class: Any) -> None:
    """The command and its flags."""
    relu = commands.add_parser("relu", help="two-layer ReLU networks by convex optimisation")
    actions = relu.add_subparsers(metavar="ACTION", required=True, parser_class=parser_class)
    _add_fit(actions)
    _relu_robust.add(actions)
    _relu_planted.add(actions)


def _add_fit(actions: Any) -> None:
    parser = actions.add_parser(
        "fit",
        help="train a network to the global optimum of its convex program",
        description="Train a two-layer ReLU network and prove how near its objective is to the optimum. Exit code 1 if the gap is "
        "above --tol, or every weight is zero.",
    )
    parser.add_argument("file", metavar="FILE.npz", help=_relu_file.FILE_HELP)
    program = parser.add_argument_group("the program")
    program.add_argument(
        "--loss",
        choices=("squared", "hinge", "bce"),
        default="squared",
        help="squared (default), or hinge or bce for labels -1 and 1",
    )
    program.add_argument(
        "--form",
        choices=("exact", "relaxed"),
        default="exact",
        help="with the cones of ReLU (default), or without (gated: quicker)",
    )
    program.add_argument("--lam", type=number, help="penalty weight (a twentieth of where every weight is zero)")
    program.add_argument(
        "--eps", type=number, default=0.0, help="train against moves of every feature by up to this much (0)"
    )
    program.add_argument("--patterns", type=whole, help="activation patterns to sample (100)")
    program.add_argument("--bias", action="store_true", help="append a column of ones to X")
    program.add_argument("--skip", action="store_true", help="a linear part beside the neurons")
    method = parser.add_argument_group("the method")
    method.add_argument(
        "--method",
        choices=("admm", "interior"),
        help="the solver (interior for gaps below 1e-4 where it is affordable)",
    )
    method.add_argument(
        "--tol", type=number, default=1e-4, help="relative gap between objective and dual bound to reach (1e-4)"
    )
    method.add_argument("--max-iterations", type=whole, default=20_000, help="budget (20000)")
    method.add_argument("--seed", type=random_seed, default=0, help="of the sampled patterns (0)")
    parser.add_argument(
        "--out", metavar="FILE.npz", help="keep V, W, the neurons u and alpha, D, the histories and the numbers"
    )
    parser.add_argument(
        "--figure",
        metavar="FILE.png",
        help="draw objective, gap and error against iterations and seconds; with X_test and y_test in the file, of fresh samples too",
    )
    _relu_file.add_output(parser)
    parser.set_defaults(run_command=run)


def run(options: argparse.Namespace) -> int:
    """Train, report and keep."""
    check_counts(options, "patterns", "max_iterations")
    if not (math.isfinite(options.eps) and options.eps >= 0):
        raise CommandError(f"--eps (adversarial radius) must be finite and not negative: got {options.eps:g}.")
    if options.figure is not None and options.eps > 0:
        raise CommandError("--figure follows plain training: leave out --eps, or see pruneft relu robust --help.")
    target = None if options.out is None else check_target(options.out)
    figure = None
    if options.figure is not None:
        need_figures()
        figure = check_figure(options.figure, "--figure")
    set_precision(options.dtype)
    arrays = _relu_file.read(options.file, patterns=options.patterns, default=100, dtype=options.dtype)
    if figure is not None and arrays["y"].ndim > 1 and arrays["y"].shape[1] > 1:
        raise CommandError(f"--figure follows one output: y has {arrays['y'].shape[1]} columns.")
    result = _train(arrays, options)
    values = result.summary()
    if "X_test" in arrays:
        values["test_error"] = _test_error(result, arrays["X_test"], arrays["y_test"])
    if not options.quiet:
        for note in values["notes"]:
            say(f"pruneft: note: {note}")
    if target is not None:
        values["out"] = str(result.save(target))
    if figure is not None:
        from pruneft.plot import convergence, save

        said = "relative error" if options.loss == "squared" else "share of wrong signs"
        values["figure"] = str(save(convergence(result.history, error=said).figure, figure))
    if options.json:
        show_json(values)
    else:
        _print(values)
    return OK if result.ok else NOT_OK


def _train(arrays: dict[str, np.ndarray], options: argparse.Namespace) -> Any:
    from pruneft import relu

    asked: dict[str, Any] = {
        "loss": options.loss,
        "lam": options.lam,
        "patterns": arrays.get("D"),
        "bias": options.bias,
        "tol": options.tol,
        "max_iterations": options.max_iterations,
        "seed": options.seed,
        "dtype": options.dtype,
    }
    if options.eps == 0:
        more = {"form": options.form, "n_patterns": options.patterns, "skip": options.skip, "method": options.method}
        if options.figure is not None:
            more |= {"record": True, "fresh": _relu_file.test_samples(arrays)}
        return relu.fit(arrays["X"], arrays["y"], **asked, **more)
    if options.form != "exact" or options.skip or options.method == "interior":
        raise CommandError(
            "--eps trains the exact form without a linear part by ADMM: leave out --form relaxed, --skip and --method interior, or --eps."
        )
    from pruneft.relu.adversarial import fit_robust

    if options.patterns is not None:
        asked["n_patterns"] = options.patterns
    return fit_robust(arrays["X"], arrays["y"], eps=options.eps, **asked)


def _test_error(result: Any, X: np.ndarray, y: np.ndarray) -> float:
    """Share of wrong signs, or, for the squared loss, the relative error in the Euclidean norm."""
    f = result.predict(X)
    if result.loss != "squared":
        return float(np.mean((f > 0) != (y > 0)))
    return float(np.linalg.norm(f - y) / max(np.linalg.norm(y), np.finfo(np.float64).tiny))


def _print(values: dict[str, Any]) -> None:
    show(
        f"status          {values['status'].replace('_', ' ')}"
        + ("" if values["ok"] else "   (do not use this answer)")
    )
    show(f"                {values['message']}")
    for name in ("objective", "dual", "gap"):
        value = values[name]
        show(
            f"{name:<16}{'unknown' if value is None else f'{value:.3g} (relative)' if name == 'gap' else f'{value:.9g}'}"
        )
    show(f"iterations      {values['iterations']}")
    show(f"patterns        {values['patterns']}{' (all there are)' if values.get('complete') else ''}")
    show(f"neurons         {values['neurons']}")
    if "test_error" in values:
        said = "relative" if values["loss"] == "squared" else "share of wrong signs"
        show(f"test error      {values['test_error']:.4g} ({said})")
    show(f"lam             {values['lam']:.6g} (zero solution from {values['lam_max']:.6g})")
    for name in ("out", "figure"):
        if name in values:
            show(f"{'written to' if name == 'out' else 'figure':<16}{values[name]}")
