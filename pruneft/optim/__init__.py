"""Optimisers of our own: for matrix factors, lookahead permutation for any weights, and dense Levenberg-Marquardt."""

from pruneft.optim.gauss_newton import GaussNewtonState, gauss_newton_cg
from pruneft.optim.laperm import LaPermState, apply_sync, laperm, last_sync, sync, synced
from pruneft.optim.laperm_groups import nearest_permutation
from pruneft.optim.laperm_init import shared_value_init, sparse_init
from pruneft.optim.laperm_period import rank_moves, suggest_period
from pruneft.optim.levenberg_marquardt import LMConfig, LMResult, levenberg_marquardt
from pruneft.optim.noisy_precgd import NoisyPrecGDState, noisy_precgd, scale_by_noisy_precgd
from pruneft.optim.perturbed import PerturbedState, perturbed
from pruneft.optim.precgd import precgd, scale_by_precgd
from pruneft.optim.scaled_gd import scale_by_gram, scaled_gd
from pruneft.optim.tangent import TangentNesterovState, scale_by_tangent, tangent_descent, tangent_nesterov
