"""Planted neurons: minimum-norm programs of ReLU networks, when they find the neurons that made the data, and conditions for it."""

from pruneft.relu.planted import exact, interior, min_norm
from pruneft.relu.planted.all_ones import AllOnes, all_ones, wendel
from pruneft.relu.planted.blocks import MODELS, Blocks, make_blocks
from pruneft.relu.planted.bounds import Interpolant
from pruneft.relu.planted.interior import Interior, solve
from pruneft.relu.planted.isometry import Isometry, coordinates, nic, nic_linear
from pruneft.relu.planted.min_norm import DouglasRachford
from pruneft.relu.planted.models import Planted, plant
from pruneft.relu.planted.networks import Trained, Training, train

__all__ = [
    "MODELS",
    "AllOnes",
    "Blocks",
    "DouglasRachford",
    "Interior",
    "Interpolant",
    "Isometry",
    "Planted",
    "Trained",
    "Training",
    "all_ones",
    "coordinates",
    "exact",
    "interior",
    "make_blocks",
    "min_norm",
    "nic",
    "nic_linear",
    "plant",
    "solve",
    "train",
    "wendel",
]
