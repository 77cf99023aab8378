"""Recovery from real rank-one measurements: the phase diagram over (r, n)."""

from __future__ import annotations

from pruneft.experiments.recovery import experiment
from pruneft.sensing.operators.rank_one_draw import RANK_ONE as REAL
from pruneft.sensing.recipe import RANK_ONE_PATH

_GRID = {"d": (16,), "r": (1, 2, 3, 4), "n_per_dof": (1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0)}

RANK_ONE = experiment(REAL, module=__name__, path=RANK_ONE_PATH, default_grid=_GRID)
