"""A caller to be killed: ``python -m tests.sweep.caller RUN SEEDS`` sweeps the slow toy in two processes."""

from __future__ import annotations

import sys

from pruneft.sweep import make_grid, sweep
from tests.sweep.troubles import GOOD, SLOW, TROUBLES


def grid(seeds: int):
    """Half of the trials take their time."""
    return make_grid(TROUBLES, {"a": (4,), "b": (10.0,), "gain": (GOOD, SLOW)}, seeds)


if __name__ == "__main__":
    sweep(TROUBLES, grid(int(sys.argv[2])), sys.argv[1], dtype="float32", lanes=4, segment_steps=100, processes=2)
