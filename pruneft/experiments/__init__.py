"""One file per figure or claim: where subjects, sweep and plot meet. This file only knows their names."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path
from typing import Any

from pruneft.trial import Experiment

EXPERIMENTS = {
    "recovery": "pruneft.experiments.recovery:RECOVERY",
    "lambda-beta": "pruneft.experiments.lambda_beta:LAMBDA_BETA",
    "relu": "pruneft.experiments.relu:RELU",
    "network": "pruneft.experiments.network:NETWORK",
    "planted": "pruneft.experiments.planted:PLANTED",
    "planted-networks": "pruneft.experiments.planted_networks:PLANTED_NETWORKS",
    "laperm": "pruneft.experiments.laperm:LAPERM",
    "rank-jumps": "pruneft.experiments.rank_jumps:RANK_JUMPS",
    "edge": "pruneft.experiments.edge:EDGE",
    "recovery-rank-one": "pruneft.experiments.rank_one:RANK_ONE",
    "recovery-rank-one-complex": "pruneft.experiments.rank_one_complex:RANK_ONE_COMPLEX",
    "recovery-pauli": "pruneft.experiments.pauli:PAULI",
    "recovery-distances": "pruneft.experiments.distances:DISTANCES",
    "recovery-distances-nearest": "pruneft.experiments.distances:DISTANCES_NEAREST",
    "recovery-entries": "pruneft.experiments.entries:ENTRIES",
    "recovery-entries-non-negative": "pruneft.experiments.entries:NON_NEGATIVE_ENTRIES",
    "recovery-entries-spiky": "pruneft.experiments.entries:SPIKY_ENTRIES",
}
# What measures, by its name on the command line: the experiment that draws such instances.
OPERATORS = {"gaussian": "recovery"} | {
    name.removeprefix("recovery-"): name for name in EXPERIMENTS if name.startswith("recovery-")
}


def load(name: str) -> Experiment:
    """An experiment by its name, or a user's own as ``module:object`` (the module may lie in the working directory).

    Raises:
      ValueError: there is no such experiment, or the object is something else.
    """
    if name in EXPERIMENTS:
        return locate(EXPERIMENTS[name])
    if ":" not in name:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"unknown experiment {name!r}: known are {', '.join(EXPERIMENTS)}, or module:object for your own.{hint}"
        )
    found = locate(name)
    if not isinstance(found, Experiment):
        raise ValueError(f"{name} is a {type(found).__name__}: expected a pruneft.Experiment.")
    return found


def locate(place: str) -> Any:
    """The object at ``module:object``; the working directory counts as a place to find modules in.

    Raises:
      ValueError: the module cannot be imported, or has no such object.
    """
    module, _, attribute = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not module or not attribute or module.startswith("."):
        raise ValueError(f"expected module:object, as in my_experiment:EXPERIMENT, got {place!r}.")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"cannot import {module!r} for {place!r}: {error}.") from error
    if not hasattr(found, attribute):
        raise ValueError(f"module {module!r} has no object {attribute!r}.")
    return getattr(found, attribute)
