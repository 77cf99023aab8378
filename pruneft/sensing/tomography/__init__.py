"""Quantum state tomography: states, measured expectations, low-rank recovery, and the estimates it is compared with."""

from pruneft.sensing.tomography.estimates import (
    Likelihood,
    linear_inversion,
    maximum_likelihood,
    nearest_state,
    project_simplex,
)
from pruneft.sensing.tomography.fit import Tomography, tomography
from pruneft.sensing.tomography.measured import all_strings, draw_shots, expectations_of, measured, random_strings
from pruneft.sensing.tomography.stabiliser import Completion, complete
from pruneft.sensing.tomography.states import check_state, depolarised, fidelity, ghz, random_state, w_state

__all__ = [
    "Completion",
    "Likelihood",
    "Tomography",
    "all_strings",
    "check_state",
    "complete",
    "depolarised",
    "draw_shots",
    "expectations_of",
    "fidelity",
    "ghz",
    "linear_inversion",
    "maximum_likelihood",
    "measured",
    "nearest_state",
    "project_simplex",
    "random_state",
    "random_strings",
    "tomography",
    "w_state",
]
