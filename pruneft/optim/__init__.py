"""Optimisers of our own: optax transformations for matrix factors, and dense Levenberg-Marquardt beside them."""

from pruneft.optim.gauss_newton import GaussNewtonState, gauss_newton_cg
from pruneft.optim.levenberg_marquardt import LMConfig, LMResult, levenberg_marquardt
from pruneft.optim.noisy_precgd import NoisyPrecGDState, noisy_precgd, scale_by_noisy_precgd
from pruneft.optim.perturbed import PerturbedState, perturbed
from pruneft.optim.precgd import precgd, scale_by_precgd
from pruneft.optim.scaled_gd import scale_by_gram, scaled_gd
from pruneft.optim.tangent import TangentNesterovState, scale_by_tangent, tangent_descent, tangent_nesterov
