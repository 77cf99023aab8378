"""Penalty weight against smoothing, both fixed: where exactly as many columns as rank are left, and the line above which none grows.

The published setting (Rajaraman et al. 2023, arXiv:2303.11453): both values fixed, descent from a small start, one attempt.
There the penalty is weight decay of strength ``2 lam / sqrt(beta)`` on a column that is still small, while the data pull it
with four times the residual's eigenvalue: a direction of eigenvalue l grows as long as ``lam / (2 sqrt(beta)) < l``. So no
component of the truth survives above the line ``lam / (2 sqrt(beta)) = l_r``. The line is derived (ours), as is the momentum;
the published analysis fixes neither weights nor steps. Below the line the steps decide: a weak penalty takes longer to make
columns sharp than the budget lasts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import optax

from pruneft.experiments import recovery
from pruneft.pipeline import Anneal
from pruneft.sensing.recipe import PruneRecipe
from pruneft.trial import Bucket, Cell, Trial

# Fixed values: the schedule's starts are never above the ends that a cell gives. The start must be small beside sqrt(beta),
# or columns are born alive; no gate, because the bias of a fixed penalty is no sign of a failed training.
FIXED = PruneRecipe(
    anneal=Anneal(lam_start=0.0, beta_start=0.0, start_norm=0.01), attempts=(3000,), noisy_first=0, gate=math.inf
)
# Stable where 2 lam / sqrt(beta) is below about 600. Adam will not do: the size of its steps does not shrink with the gradient,
# so it carries columns over the line wherever sqrt(beta) is small beside its learning rate.
_RATE, _MOMENTUM = 0.005, 0.9


def weakest_eigenvalue(cell: Cell) -> float:
    """l_r of the normalised problem: the truth's r-th eigenvalue over the root mean square of y.

    Eigenvalues fall geometrically from l_1 to l_1 / kappa, and ``||M*||_F`` is ``scale``.
    """
    r, kappa = int(cell["r"]), float(cell["kappa"])
    powers = [kappa ** (-i / (r - 1)) if r > 1 else 1.0 for i in range(r)]
    return powers[-1] / math.sqrt(sum(p * p for p in powers)) / math.hypot(1, cell["sigma"] / cell["scale"])


def line(cell: Cell, betas: Sequence[float]) -> dict[float, float]:
    """Beta -> the weight ``2 sqrt(beta) l_r`` from which on the weakest component does not grow. Derived."""
    return {beta: 2 * math.sqrt(beta) * weakest_eigenvalue(cell) for beta in betas}


def trial(bucket: Bucket) -> Trial:
    """The recovery trial at fixed weight and smoothing, by gradient descent; reports ``columns_exact`` too."""
    optimizer = optax.sgd(_RATE, momentum=_MOMENTUM)
    made = recovery.trial(bucket, prune=FIXED, optimizer=optimizer)

    def report(lane: Any, state: Any) -> dict[str, Any]:
        found = made.report(lane, state)
        return {**found, "columns_exact": found["columns"] == lane.truth.rank}

    return dataclasses.replace(made, report=report)


def expected_steps(cell: Cell) -> float:
    """Every trial has one attempt of the same length."""
    return float(FIXED.attempts[0])


LAMBDA_BETA = dataclasses.replace(
    recovery.experiment(prune=FIXED),
    name="lambda-beta",
    trial=trial,
    inputs=functools.partial(recovery.inputs, prune=FIXED),
    module=__name__,
    default_grid={
        "d": (16,),
        "r": (2,),
        "n_per_dof": (2.0,),
        "beta": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "lam": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    },
    default_seeds=8,
    settings=f"{FIXED!r} sgd {_RATE} {_MOMENTUM}",
    expected_steps=expected_steps,
    success="columns_exact",
    figure="pruneft.experiments.lambda_beta_map:draw",
    panels="pruneft.experiments.lambda_beta_map:panels",
)
