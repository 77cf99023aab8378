"""The command line: commands, flags, and how a user's experiment brings its own."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

from pruneft.cli import _adaptive, _explain, _export, _recover, _relu, _report, _reproduce, _show, _status, _sweep
from pruneft.cli._common import DTYPES, CommandError, number, random_seed, whole
from pruneft.cli._grid import add_options, experiment_of
from pruneft.experiments import OPERATORS
from pruneft.trial import Experiment

COMMANDS = ("recover", "sweep", "explain", "status", "report", "plot", "runs", "export", "reproduce", "relu")


class _Parser(argparse.ArgumentParser):
    """Errors as one line, without the usage text before it; flags in full, so that no flag of today is two tomorrow."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses unknown flags here, where it is known which there are."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0]
            close = difflib.get_close_matches(word.partition("=")[0], self._option_string_actions, n=1)
            hint = f"did you mean {close[0]}? " if close and word.startswith("-") else ""
            raise CommandError(f"unknown argument {word}: {hint}see {self.prog} --help")
        return options, unknown


def parse(arguments: list[str]) -> int:
    """Parse and run."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise CommandError(f"unknown command {arguments[0]!r}: {hint}there are {', '.join(COMMANDS)}")
    experiment = experiment_of(arguments[1:]) if arguments[:1] in (["sweep"], ["explain"]) else None
    options = _parser(experiment).parse_args(arguments)
    options.words = list(arguments)
    code: int = options.run_command(options)
    return code


def _parser(experiment: Experiment | None) -> argparse.ArgumentParser:
    from pruneft import __version__

    parser = _Parser(
        prog="pruneft",
        description="Over-parameterise, regularise, prune, fine-tune: low-rank matrix sensing, and two-layer ReLU networks.",
    )
    parser.add_argument("--version", action="version", version=f"pruneft {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_recover(commands)
    _add_sweep(commands, experiment)
    _explain.add(commands, experiment)
    _add_plot(commands)
    _report.add(commands)
    _add_runs(commands)
    _status.add(commands)
    _export.add(commands)
    _reproduce.add(commands, _Parser)
    _relu.add(commands, _Parser)
    return parser


def _add_recover(commands: Any) -> None:
    parser = commands.add_parser(
        "recover",
        help="recover a matrix from a file of measurements, or from a drawn instance",
        description="Recover a low-rank positive semidefinite M from y_i = <A_i, M> + noise. Exit code 1 if the answer is not to be used.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE.npz",
        help="arrays A, n x d x d or packed n x d(d+1)/2, and y, n (others by --operator); draws one if left out",
    )
    parser.add_argument(
        "--operator",
        choices=tuple(OPERATORS),
        default="gaussian",
        help="what was measured: dense matrices (default; arrays A, y), rank-one (X, y), pauli (paulis, values), distances "
        "(pairs, y or D, mask), entries (pairs, y or Y, mask); what follows these names differs in what is drawn",
    )
    drawn = parser.add_argument_group("a drawn instance instead of a file")
    drawn.add_argument("--n", type=whole, help="measurements")
    drawn.add_argument("--d", type=whole, help="ambient dimension")
    drawn.add_argument("--r", type=whole, help="true rank")
    drawn.add_argument("--kappa", type=number, help="condition number of the truth (1)")
    drawn.add_argument("--scale", type=number, help="Frobenius norm of the truth (1)")
    method = parser.add_argument_group("the method")
    method.add_argument(
        "--method", choices=("path", "prune"), default="path", help="rank path (default), or pruning by column norm"
    )
    method.add_argument("--k", type=whole, help="columns trained (d)")
    method.add_argument("--rank", type=whole, help="the rank, if it is known")
    method.add_argument(
        "--sigma", type=number, help="noise standard deviation: of the drawn instance, or of the file's data if known"
    )
    method.add_argument(
        "--lam",
        type=number,
        help="last penalty weight, normalised problem (the recipe's); 0 trains without the penalty",
    )
    method.add_argument("--beta", type=number, help="last smoothing, normalised problem (the recipe's)")
    method.add_argument(
        "--finetune",
        choices=("lm", "auto"),
        default="lm",
        help="with --method prune: Levenberg-Marquardt (default), or whichever method is quicker at this size",
    )
    method.add_argument("--seed", type=random_seed, default=0, help="of the instance and of the random starts (0)")
    parser.add_argument("--out", metavar="FILE.npz", help="keep the factor U [d, rank], eigenvalues and histories")
    _add_output(parser)
    _add_dtype(parser)
    parser.set_defaults(run_command=_recover.run)


def _add_sweep(commands: Any, experiment: Experiment | None) -> None:
    parser = commands.add_parser(
        "sweep",
        help="run a grid of trials and draw its phase diagram",
        description="Run every trial of a grid that the run does not hold yet. A run that was stopped, or is given a wider grid, goes on.",
    )
    add_options(parser, experiment)
    _add_runs_dir(parser)
    parser.add_argument("--lanes", type=whole, help="trials side by side (by cache, memory and number of trials)")
    parser.add_argument("--processes", type=whole, help="processes that share the work (on a CPU one for each core)")
    parser.add_argument(
        "--max-steps",
        type=whole,
        default=10_000_000,
        help="steps after which a trial is ended as unfinished (10000000)",
    )
    _adaptive.add_flags(parser)
    _add_output(parser)
    _add_dtype(parser)
    parser.set_defaults(run_command=_sweep.run)


def _add_plot(commands: Any) -> None:
    parser = commands.add_parser("plot", help="draw the figure of a run, or of a saved recovery")
    parser.add_argument("target", metavar="RUN|FILE.npz", help="name of a run, or a file that recover --out wrote")
    parser.add_argument(
        "--kind",
        choices=_show.KINDS,
        help="of a run: phase (default) or risk; of a recovery: training (default) or columns",
    )
    parser.add_argument("--out", metavar="FILE", help=".png or .pdf (beside the run or file)")
    _add_runs_dir(parser)
    _add_output(parser)
    parser.set_defaults(run_command=_show.plot)


def _add_runs(commands: Any) -> None:
    parser = commands.add_parser("runs", help="list the runs")
    _add_runs_dir(parser)
    _add_output(parser)
    parser.set_defaults(run_command=_show.runs)


def _add_runs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", metavar="DIR", default="runs", help="where runs live (runs)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float64", help="of fine-tuning and selection (float64); training is float32"
    )
