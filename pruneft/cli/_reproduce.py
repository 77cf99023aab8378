"""`pruneft reproduce`: one action for each figure."""

from __future__ import annotations

import argparse
from typing import Any

from pruneft.cli import _reproduce_edge, _reproduce_network, _reproduce_planted, _reproduce_swept, _show
from pruneft.cli._common import number, whole


def add(commands: Any, parser_class: Any) -> None:
    """The command and its figures."""
    parser = commands.add_parser("reproduce", help="make a figure of the published methods again")
    figures = parser.add_subparsers(metavar="FIGURE", required=True, parser_class=parser_class)
    _add_prunability(figures)
    for subject in (_reproduce_planted, _reproduce_edge, _reproduce_network, _reproduce_swept):
        subject.add(figures)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _add_prunability(figures: Any) -> None:
    parser = figures.add_parser(
        "prunability", help="Figure 1 of arXiv:2303.11453: column norms with and without penalty"
    )
    parser.add_argument("--d", type=whole, default=100, help="ambient dimension (100; the paper has 500)")
    parser.add_argument("--k", type=whole, help="columns trained (d)")
    parser.add_argument("--r", type=whole, default=4, help="true rank (4)")
    parser.add_argument("--n-per-dof", type=number, default=3.0, help="measurements per degree of freedom (3)")
    parser.add_argument("--seeds", type=whole, default=4, help="instances (4)")
    parser.add_argument("--steps", type=whole, default=1500, help="steps with the penalty (1500)")
    parser.add_argument("--plain-steps", type=whole, default=600, help="steps of gradient descent without it (600)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="prunability.png",
        help=".png or .pdf; its numbers go beside it as .npz (prunability.png)",
    )
    _add_output(parser)
    parser.set_defaults(run_command=_show.reproduce)
