"""Claims about training by permutation on handwritten digits: accuracy at the last sync, in percent of 497 test pictures, over seeds.

A claim on a mean fails when its one-sided 99 % bound (Student's) lies on the wrong side of the bar. Seeds draw split, start and batches.
"""

import functools

import numpy as np
import pytest
from scipy.stats import t

from pruneft.experiments.laperm import LAPERM
from pruneft.sweep import run_trials

pytestmark = pytest.mark.claims

SHARES = {0.3: 94.0, 0.5: 93.0, 0.7: 90.0}  # of zeros, and the bar
CELLS = {
    "quick": {"lr": 3e-3, "steps": 1500},
    "long": {"lr": 1e-3, "steps": 5200},
    **{share: {"lr": 1e-3, "steps": 1500, "removed": share} for share in SHARES},
    "adam": {"method": "adam", "lr": 1e-3, "steps": 1500},
    "every step": {"period": 1, "lr": 1e-3, "steps": 300},
    "cnn": {"model": "cnn", "period": 50, "lr": 3e-3, "steps": 1000},
    "cnn adam": {"model": "cnn", "method": "adam", "lr": 1e-3, "steps": 1000},
}


def _seeds(name):
    return 3 if "cnn" in str(name) else 5


@functools.cache
def _reports():
    """By cell, the reports of its seeds in order."""
    resolved = {name: LAPERM.resolve(cell) for name, cell in CELLS.items()}
    trials = [(cell, seed) for name, cell in resolved.items() for seed in range(_seeds(name))]
    rows = [row for batch in run_trials(LAPERM, trials, dtype="float32") for row in batch]
    found = {}
    for name, cell in resolved.items():
        mine = sorted((row for row in rows if row.cell == cell), key=lambda row: row.seed)
        assert len(mine) == _seeds(name)
        found[name] = [row.report for row in mine]
    return found


def _accuracy(name):
    return np.array([100 * report["accuracy"] for report in _reports()[name]])


def _refuted(values, bar):
    """Whether the mean is below the bar at 99 % confidence."""
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return np.mean(values) + t.ppf(0.99, len(values) - 1) * spread < bar


def test_a_dense_network_trained_by_permutation_reaches_97_3_percent():
    assert not _refuted(_accuracy("quick"), 97.3)
    assert not _refuted(_accuracy("long"), 97.5)
    # The bar says something: a sync at every step does not reach it.
    assert _refuted(_accuracy("every step"), 97.3)


def test_it_is_within_1_2_points_of_adam_from_the_same_starts():
    assert not _refuted(_accuracy("quick") - _accuracy("adam"), -1.2)
    assert _refuted(_accuracy("every step") - _accuracy("adam"), -1.2)


def test_a_convolutional_network_reaches_95_5_percent_and_is_within_2_points_of_adam():
    assert not _refuted(_accuracy("cnn"), 95.5)
    assert not _refuted(_accuracy("cnn") - _accuracy("cnn adam"), -2.0)


@pytest.mark.parametrize("share", SHARES)
def test_sparse_starts_reach_their_bars(share):
    assert not _refuted(_accuracy(share), SHARES[share])
    # As many zeros at the end as at the start; a first layer keeps four fifths.
    expected = (share * 17664 + min(share, 0.2) * 8192) / 25856
    assert all(abs(report["zeros"] - expected) < 0.02 for report in _reports()[share])


def test_a_sync_at_every_step_undoes_the_training():
    # A weight moves by a twentieth to a third of a rank in a step of 1e-3, so nothing changes places for long.
    assert np.all(_accuracy("every step") < 70)
