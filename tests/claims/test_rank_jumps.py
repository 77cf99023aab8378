"""Claims about deep linear networks: after a fit of high rank, more decay brings the rank down to the true one, and it stays.

Three seeds and three decays. Gradient descent with the same decay, the control, does so too: what is shown is a way down that is not
gone back, not that the noise of SGD is needed.
"""

import functools

import pytest

from pruneft.experiments.rank_jumps import METHODS, RANK_JUMPS
from tests.claims.trials import rows_of

pytestmark = pytest.mark.claims

DECAYS = (1e-3, 3e-3, 1e-2)


@functools.cache
def _rows(method):
    return rows_of([{"method": method, "lam": DECAYS}], 3, RANK_JUMPS)


@pytest.mark.parametrize("method", METHODS)
def test_the_rank_falls_from_full_to_one_and_stays(method):
    rows = _rows(method)
    assert len(rows) == 9
    for row in rows:
        assert row["rank_fitted"] == 10
        assert row["misfit_fitted"] < 1e-5
        assert row["rank_decayed"] == 1
        assert row["rank_final"] == 1
        assert row["error_final"] < 0.05 < row["error_fitted"]


def test_the_control_ends_where_sgd_does():
    # Whoever claims that the noise is needed would have to show a difference: errors agree within a factor of two in every pair.
    pairs = {(row["lam"], row["seed"]): row for row in _rows("gd")}
    for row in _rows("sgd"):
        control = pairs[row["lam"], row["seed"]]
        assert 0.5 < row["error_final"] / control["error_final"] < 2
        assert row["beyond_final"] < 0.05
        assert control["beyond_final"] < 0.05


def test_little_decay_alone_leaves_the_rank_where_it_is():
    # The broken twin: with as little decay in the second phase nothing falls.
    rows = rows_of([{"method": "sgd", "lam": 1e-4, "steps": 20_000}], 3, RANK_JUMPS)
    assert all(row["rank_final"] > 1 for row in rows)
