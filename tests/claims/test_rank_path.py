"""Claims about the rank path: it recovers with neither rank nor noise level given, from few training steps."""

from __future__ import annotations

import pytest

from pruneft.experiments.recovery import experiment
from pruneft.sensing import PathRecipe
from tests.claims.trials import refuted, rows_of

pytestmark = pytest.mark.claims

_CELLS = {"d": 16, "r": (2, 8), "n_per_dof": 1.2, "method": "path"}


def test_the_rank_path_recovers_at_low_and_at_high_rank():
    # Noiseless, rank unknown, 64 trials. Would break: a scan that stops three ranks past the best score, whatever that is.
    rows = rows_of([_CELLS], seeds=32)
    recovered = sum(row["success"] for row in rows)
    assert not refuted(recovered, len(rows), 0.95), f"{recovered} of {len(rows)}"
    assert max(row["steps"] for row in rows) <= 450


def test_without_training_it_does_not():
    """The broken twin: one start, one step, no second round; Levenberg-Marquardt from what is nearly a random factor."""
    rows = rows_of([_CELLS], 16, experiment(path=PathRecipe(starts=1, attempts=(1,))))
    assert refuted(sum(row["success"] for row in rows), len(rows), 0.95)
