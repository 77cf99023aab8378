"""Optimisers of our own; first-order ones come from optax."""

from pruneft.optim.levenberg_marquardt import LMConfig, LMResult, levenberg_marquardt
