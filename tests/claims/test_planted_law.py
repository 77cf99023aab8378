"""Claims about a planted linear neuron in a skip connection network: it is found where no direction switches every sample on.

Gaussian data and weights, P = max(n, 50) random patterns and the pattern of ones where there is one. Every trial is decided by its
certificate or counted as undecided; an undecided trial can only make a claim harder to refute, so there may be one in a hundred.
"""

import functools

import pytest
from scipy.stats import binom

from pruneft.experiments.planted import PLANTED
from pruneft.relu.planted import wendel
from tests.claims.trials import refuted, rows_of

pytestmark = pytest.mark.claims

SEEDS = 40
RATIOS = {20: (1.2, 1.6, 1.8, 2.0, 2.2, 2.4, 3.0), 40: (1.2, 1.8, 2.0, 2.2, 3.0)}


@functools.cache
def _rows():
    return rows_of([{"d": d, "n_per_d": ratios} for d, ratios in RATIOS.items()], SEEDS, PLANTED)


@functools.cache
def _cells():
    """(d, n) to how many trials recovered, and how many are undecided."""
    found = {}
    for row in _rows():
        recovered, undecided = found.get((row["d"], row["n"]), (0, 0))
        found[row["d"], row["n"]] = recovered + bool(row["success"]), undecided + bool(row["undecided"])
    return found


def _outside(law):
    """The cells whose counts lie outside the 99.9 % interval of the law, whatever the undecided trials are."""
    out = []
    for (d, n), (recovered, undecided) in _cells().items():
        p = law(n, d)
        low, high = binom.ppf(0.0005, SEEDS, p), binom.ppf(0.9995, SEEDS, p)
        if recovered + undecided < low or recovered > high:
            out.append((d, n, recovered, undecided, p))
    return out


def test_recovery_follows_wendels_law():
    # A trial that stops before its gap decides, or patterns of ones that are missed, move the counts out of the intervals.
    assert len(_cells()) == 12
    assert _outside(lambda n, d: 1 - wendel(n, d)) == []


@pytest.mark.parametrize("shift", [-0.25, 0.25])
def test_recovery_does_not_follow_a_law_a_quarter_of_d_beside_it(shift):
    assert len(_outside(lambda n, d: 1 - wendel(max(1, n + round(shift * d)), d))) >= 2


def test_every_recovery_has_no_direction_that_switches_every_sample_on():
    recovered = [row for row in _rows() if row["success"]]
    assert len(recovered) > 100
    assert all(row["all_ones"] == 0 for row in recovered)
    # The implication says something: among all trials many have such a direction, and it is decided in each.
    assert sum(row["all_ones"] == 1 for row in _rows()) > 100
    assert all(row["all_ones"] != -1 for row in _rows())


def test_the_isometry_condition_implies_recovery_and_not_the_other_way():
    holds = [row for row in _rows() if row["nic"] and not row["undecided"]]
    assert len(holds) > 100
    assert all(row["success"] and row["gap"] <= row["tol"] for row in holds)
    assert any(row["success"] and not row["nic"] for row in _rows())


def test_trials_are_decided():
    decided = [not row["undecided"] for row in _rows()]
    assert not refuted(sum(decided), len(decided), 0.99)
    early = [row["iterations"] <= 8 for row in _rows()]  # a budget of 8 iterations would leave many undecided
    assert refuted(sum(early), len(early), 0.99)
