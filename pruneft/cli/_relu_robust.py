"""`pruneft relu robust`."""

from __future__ import annotations

import argparse
import math
from typing import Any

from pruneft.cli import _relu_file
from pruneft.cli._common import (
    NOT_OK,
    OK,
    CommandError,
    check_counts,
    check_figure,
    need_figures,
    number,
    random_seed,
    set_precision,
    show,
    show_json,
    whole,
)

_RADII = (0.0, 0.05, 0.1, 0.2)


def add(actions: Any) -> None:
    """The action and its flags."""
    parser = actions.add_parser(
        "robust",
        help="train against attacks of several radii: robust against clean accuracy",
        description="Train a network against attacks of each radius, to the optimum of its convex program, and measure its accuracy: "
        "clean, under PGD, and certified. Exit code 1 if a gap is above --tol, or every weight of a network is zero.",
    )
    parser.add_argument("file", metavar="FILE.npz", help=_relu_file.FILE_HELP)
    program = parser.add_argument_group("the program")
    program.add_argument("--loss", choices=("hinge", "bce"), default="hinge", help="hinge (default) or bce")
    program.add_argument(
        "--eps", type=_radii, default=_RADII, metavar="E,E,...", help="radii of training (0,0.05,0.1,0.2)"
    )
    program.add_argument("--attack", type=number, help="radius of the attack that is measured (that of training)")
    program.add_argument("--norm", choices=("inf", "2", "1"), default="inf", help="of the attack (inf)")
    program.add_argument("--lam", type=number, help="penalty weight (a twentieth of where every weight is zero)")
    program.add_argument("--patterns", type=whole, help="activation patterns to sample (50)")
    program.add_argument("--bias", action="store_true", help="append a column of ones to X")
    method = parser.add_argument_group("the method")
    method.add_argument("--tol", type=number, default=1e-3, help="relative gap to reach (1e-3)")
    method.add_argument("--max-iterations", type=whole, default=20_000, help="budget of each radius (20000)")
    method.add_argument("--seed", type=random_seed, default=0, help="of the sampled patterns and of the attack (0)")
    method.add_argument("--compare", action="store_true", help="train networks by AdamW too, plain and on PGD samples")
    parser.add_argument("--figure", metavar="FILE.png", help="draw the accuracies")
    _relu_file.add_output(parser)
    parser.set_defaults(run_command=run)


def run(options: argparse.Namespace) -> int:
    """Train at every radius, report and draw."""
    check_counts(options, "patterns", "max_iterations")
    for name, radii in (("--eps", options.eps), ("--attack", [options.attack or 0.0])):
        if not all(math.isfinite(radius) and radius >= 0 for radius in radii):
            shown = ",".join(f"{radius:g}" for radius in radii)
            raise CommandError(f"{name} (adversarial radius) must be finite and not negative: got {shown}.")
    target = None
    if options.figure is not None:
        need_figures()
        target = check_figure(options.figure, "--figure")
    set_precision(options.dtype)
    from pruneft.relu.adversarial import fit, trade_off

    arrays = _relu_file.read(options.file, patterns=options.patterns, default=fit.PATTERNS, dtype=options.dtype)
    rows = trade_off(
        arrays["X"],
        arrays["y"],
        options.eps,
        fresh=_relu_file.test_samples(arrays),
        attack=options.attack,
        compare=options.compare,
        loss=options.loss,
        lam=options.lam,
        norm=options.norm,
        bias=options.bias,
        seed=options.seed,
        tol=options.tol,
        max_iterations=options.max_iterations,
        patterns=arrays.get("D"),
        n_patterns=fit.PATTERNS if options.patterns is None else options.patterns,
        dtype=options.dtype,
    )
    ok = all(row.status in ("converged", "") for row in rows)
    measured = "X_test" if "X_test" in arrays else "X"
    values: dict[str, Any] = {"ok": ok, "measured_on": measured, "rows": [row._asdict() for row in rows]}
    if target is not None:
        from pruneft.plot import save
        from pruneft.plot import trade_off as draw

        values["figure"] = str(save(draw(rows).figure, target))
    if options.json:
        show_json(values)
        return OK if ok else NOT_OK
    show(f"accuracy on {measured}")
    show(f"{'eps':>8}  {'training':<21}{'clean':>7}{'attacked':>10}{'certified':>11}{'neurons':>9}{'gap':>10}  status")
    for row in rows:
        gap = "" if math.isnan(row.gap) else f"{row.gap:.1e}"
        show(
            f"{row.eps:>8g}  {row.training:<21}{row.clean:>7.3f}{row.attacked:>10.3f}{row.certified:>11.3f}{row.neurons:>9}{gap:>10}"
            f"  {row.status.replace('_', ' ')}".rstrip()
        )
    if target is not None:
        show(f"written to {target}")
    return OK if ok else NOT_OK


def _radii(text: str) -> tuple[float, ...]:
    return tuple(number(part) for part in text.split(","))
