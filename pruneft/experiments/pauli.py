"""Recovery of low-rank states from random Pauli observables: the phase diagram over (r, n)."""

from __future__ import annotations

from pruneft.experiments.recovery import experiment
from pruneft.sensing.operators.pauli_draw import PAULI as FAMILY

PAULI = experiment(
    FAMILY,
    module=__name__,
    default_grid={"d": (16,), "r": (1, 2, 4), "n_per_dof": (1.0, 1.1, 1.2, 1.35, 1.5, 2.0)},
)
