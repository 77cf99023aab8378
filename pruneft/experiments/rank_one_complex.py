"""Recovery from complex rank-one measurements: the phase diagram over (r, n)."""

from __future__ import annotations

from pruneft.experiments.recovery import experiment
from pruneft.sensing.operators.rank_one_draw import RANK_ONE_COMPLEX as COMPLEX

_GRID = {"d": (12,), "r": (1, 2, 3), "n_per_dof": (1.0, 1.1, 1.2, 1.3, 1.5, 2.0)}

RANK_ONE_COMPLEX = experiment(COMPLEX, module=__name__, default_grid=_GRID)
