"""Adversarial training of two-layer ReLU networks: convex, with a certificate, and by descent for comparison."""

from pruneft.relu.adversarial.admm import Constants, solve
from pruneft.relu.adversarial.attacks import accuracy, corners, fgsm, pgd
from pruneft.relu.adversarial.certified import certified_accuracy, certified_margin
from pruneft.relu.adversarial.fit import fit_robust
from pruneft.relu.adversarial.patterns import RobustPatterns, robust_direction, robust_patterns
from pruneft.relu.adversarial.program import RobustProgram
from pruneft.relu.adversarial.result import RobustFit
from pruneft.relu.adversarial.trade_off import TradeOff, trade_off
from pruneft.relu.adversarial.train import train_pgd, train_plain

__all__ = [
    "Constants",
    "RobustFit",
    "RobustPatterns",
    "RobustProgram",
    "TradeOff",
    "accuracy",
    "certified_accuracy",
    "certified_margin",
    "corners",
    "fgsm",
    "fit_robust",
    "pgd",
    "robust_direction",
    "robust_patterns",
    "solve",
    "trade_off",
    "train_pgd",
    "train_plain",
]
