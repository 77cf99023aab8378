"""Two-layer ReLU networks trained to the global optimum, as convex programs."""

from pruneft.relu import admm, adversarial
from pruneft.relu.fit import fit
from pruneft.relu.interior import interior_point
from pruneft.relu.loss import LOSSES, Loss, loss_named
from pruneft.relu.neurons import Network
from pruneft.relu.patterns import Patterns, all_patterns, centred, pattern_bound, sample_patterns
from pruneft.relu.program import Program
from pruneft.relu.result import Fit
from pruneft.relu.scp import Sampled, fit_sampled
from pruneft.relu.solution import Solution

__all__ = [
    "LOSSES",
    "Fit",
    "Loss",
    "Network",
    "Patterns",
    "Program",
    "Sampled",
    "Solution",
    "admm",
    "adversarial",
    "all_patterns",
    "centred",
    "fit",
    "fit_sampled",
    "interior_point",
    "loss_named",
    "pattern_bound",
    "sample_patterns",
]
