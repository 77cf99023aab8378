"""What `sweep` and `explain` share: the flags of an experiment's grid, and the grid that they and a file ask for."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pruneft.cli._common import CommandError, check_memory, sensing_bytes, whole
from pruneft.experiments import EXPERIMENTS, OPERATORS, load
from pruneft.sweep import Grid, GridFile, cells, check_name, load_toml, make_grid, parse_values
from pruneft.trial import Experiment

DEFAULT = "recovery"
# Flags of the commands with a grid that take no value.
_SWITCHES = ("--json", "--quiet", "--no-calibrate", "--adaptive-falling")


class Asked(NamedTuple):
    """What a command line and its grid file ask for.

    Attributes:
      experiment: what is swept.
      grid: its grid.
      cells: the grid's resolved cells.
      run: name of the run.
      place: where the experiment was found: a name, or module:object.
    """

    experiment: Experiment
    grid: Grid
    cells: list[dict[str, Any]]
    run: str
    place: str


def experiment_of(arguments: Sequence[str]) -> Experiment:
    """The experiment that a command line asks for, known before its flags can be parsed: they are its axes."""
    probe = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    probe.add_argument("--config")
    probe.add_argument("--operator")
    try:
        known, rest = probe.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise CommandError(str(error)) from error
    for place, word in enumerate(rest):
        # The first word that is no flag and no flag's value.
        before = rest[place - 1] if place else ""
        if not word.startswith("-") and (not before.startswith("--") or "=" in before or before in _SWITCHES):
            if known.operator is not None and word != DEFAULT:
                raise CommandError(
                    f"--operator chooses among the recovery experiments: leave out {word!r}, or --operator."
                )
            return load(_of_operator(known.operator) or word)
    if known.operator is not None:
        return load(_of_operator(known.operator) or DEFAULT)
    if known.config is not None:
        return load(load_toml(known.config, tuple(EXPERIMENTS)).experiment or DEFAULT)
    return load(DEFAULT)


def _of_operator(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in OPERATORS:
        near = difflib.get_close_matches(name, OPERATORS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise CommandError(f"--operator: expected one of {', '.join(OPERATORS)}, got {name!r}.{hint}")
    return OPERATORS[name]


def add_options(parser: argparse.ArgumentParser, experiment: Experiment | None) -> None:
    """The flags that say what to sweep: experiment, file, run, seeds, axes."""
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        help="recovery (default), lambda-beta, or module:object for your own",
    )
    parser.add_argument(
        "--operator",
        metavar="|".join(OPERATORS),
        help="recovery from other measurements than Gaussian ones; --operator pauli is the experiment recovery-pauli",
    )
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        help="experiment, run, seeds, and tables [grid], [zip] and [[cells]]; flags go over it",
    )
    parser.add_argument("--run", metavar="NAME", help="name of the run (the experiment's)")
    parser.add_argument("--seeds", type=whole, help="trials per cell")
    if experiment is None:
        return
    axes = parser.add_argument_group(
        f"axes of {experiment.name}",
        "comma-separated values, start:stop:count for evenly spaced ones, or a formula of the other axes: '=1.2*r*d'",
    )
    for axis in experiment.axes:
        default = experiment.default_grid.get(axis.name)
        shown = (
            f"default {','.join(map(str, default))}"
            if default
            else ""
            if axis.default is None
            else f"default {axis.default}"
        )
        axes.add_argument(
            "--" + axis.name.replace("_", "-"),
            dest=f"axis_{axis.name}",
            metavar="|".join(axis.choices) or "VALUES",
            help=f"{axis.help} ({shown})".replace(" ()", "").replace("%", "%%"),
        )
    axes.add_argument(
        "--zip",
        action="append",
        metavar="AXES",
        help="axes that move together instead of being multiplied, as in --zip r,k; may be given again",
    )
    parser.set_defaults(loaded=experiment)


def asked(options: argparse.Namespace) -> Asked:
    """What is to be swept; a cell that makes no sense is an error now, before anything is written.

    Raises:
      ValueError: the grid, the file or the name of the run makes no sense.
      CommandError: a trial is larger than the machine.
    """
    experiment: Experiment = options.loaded
    file = GridFile()
    if options.config is not None:
        file = load_toml(options.config, tuple(EXPERIMENTS))
    axes: dict[str, Any] = dict(file.axes)
    for axis in experiment.axes:
        text = getattr(options, f"axis_{axis.name}")
        if text is not None:
            axes[axis.name] = parse_values(axis, text)
    zipped = file.zipped if options.zip is None else [_names(text) for text in options.zip]
    seeds = file.seeds if options.seeds is None else options.seeds
    grid = make_grid(experiment, axes, seeds, zipped=zipped, listed=file.listed)
    planned = cells(experiment, grid)
    name = next(given for given in (options.run, file.run, experiment.name) if given is not None)
    check_name(name)
    _check_memory(experiment, planned, options.dtype)
    place = _of_operator(options.operator) or options.experiment or file.experiment or DEFAULT
    return Asked(experiment, grid, planned, name, place)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip().replace("-", "_") for name in text.split(",") if name.strip())


def _check_memory(experiment: Experiment, planned: Sequence[Mapping[str, Any]], dtype: str) -> None:
    """Refuse trials that cannot fit; of an experiment of another subject nothing is known beforehand."""
    if experiment.subject != load(DEFAULT).subject or not planned:
        return
    need, sizes = max(
        (sensing_bytes(sizes["n"], sizes["d"], sizes["k"], dtype), tuple(sizes.items()))
        for sizes in map(experiment.sizes, planned)
    )
    check_memory(need, "a trial of " + ", ".join(f"{name}={size}" for name, size in sizes))
