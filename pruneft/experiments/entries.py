"""Recovery from observed entries, matrix completion: the phase diagram over (r, n), and two harder kinds of truth."""

from __future__ import annotations

from pruneft.experiments.recovery import experiment
from pruneft.sensing.operators.entries_draw import ENTRIES as FAMILY
from pruneft.sensing.operators.entries_draw import NON_NEGATIVE_ENTRIES as NON_NEGATIVE_FAMILY
from pruneft.sensing.operators.entries_draw import SPIKY_ENTRIES as SPIKY_FAMILY

_GRID = {"d": (16,), "r": (1, 2, 3), "n_per_dof": (1.2, 1.5, 2.0, 2.5, 3.0)}

ENTRIES = experiment(FAMILY, module=__name__, default_grid=_GRID)
NON_NEGATIVE_ENTRIES = experiment(NON_NEGATIVE_FAMILY, module=__name__, default_grid=_GRID)
SPIKY_ENTRIES = experiment(SPIKY_FAMILY, module=__name__, default_grid=_GRID)
