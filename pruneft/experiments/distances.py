"""Recovery from squared distances between points, of random pairs and of the shortest ones: the phase diagrams over (r, n)."""

from __future__ import annotations

from pruneft.experiments.recovery import experiment
from pruneft.sensing.operators.distances_draw import DISTANCES as _RANDOM
from pruneft.sensing.operators.distances_draw import DISTANCES_NEAREST as _NEAREST

_GRID = {"d": (16,), "r": (1, 2, 3), "n_per_dof": (1.0, 1.2, 1.5, 2.0, 2.5)}


# 16 points in 3 dimensions have 42 degrees of freedom and 120 pairs: up to 2.5 times as many.
DISTANCES = experiment(_RANDOM, module=__name__, default_grid=_GRID)
DISTANCES_NEAREST = experiment(_NEAREST, module=__name__, default_grid=_GRID)
