import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from pruneft.status import Status
from pruneft.sweep.summary import summarise, wilson

COUNTS = st.integers(0, 200).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@given(COUNTS)
@settings(max_examples=50, deadline=None)
def test_wilson_interval_holds_the_rate_and_agrees_with_scipy(counts):
    successes, trials = counts
    low, high = wilson(successes, trials)
    assert 0 <= low <= high <= 1
    if trials:
        assert low <= successes / trials <= high
        expected = binomtest(successes, trials).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@given(COUNTS)
@settings(max_examples=30, deadline=None)
def test_wilson_interval_is_symmetric_in_success_and_failure(counts):
    successes, trials = counts
    low, high = wilson(successes, trials)
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_interval_of_sixteen_of_sixteen():
    assert wilson(16, 16) == pytest.approx((0.806, 1.0), abs=5e-4)


def test_without_trials_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (0, -1), (1, 2, 0.0), (1, 2, math.nan)])
def test_counts_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match=r"expected 0 <=|z must be positive"):
        wilson(*arguments)


def _row(a, seed, success=True, **more):
    return {"a": a, "mode": "plain", "seed": seed, "status": int(Status.CONVERGED), "success": success, **more}


def test_a_cell_is_counted_and_its_medians_ignore_nan():
    rows = [_row(1, 0, error=1.0), _row(1, 1, error=math.nan), _row(1, 2, False, error=3.0, status=3)]
    (cell,) = summarise(rows, ["a"])
    assert (cell.cell, cell.trials, cell.successes) == ({"a": 1}, 3, 2)
    assert cell.rate == pytest.approx(2 / 3)
    assert (cell.low, cell.high) == wilson(2, 3)
    assert cell.statuses == {"CONVERGED": 2, "BUDGET_SPENT": 1}
    assert cell.medians == {"error": 2.0}


def test_a_median_of_nothing_but_nan_is_nan():
    (cell,) = summarise([_row(1, 0, error=math.nan)], ["a"])
    assert math.isnan(cell.medians["error"])


def test_nan_and_none_are_no_success():
    (cell,) = summarise([_row(1, 0, math.nan), _row(1, 1, None), _row(1, 2, 1.0)], ["a"])
    assert cell.successes == 1


def test_the_order_of_arrival_does_not_matter():
    rows = [_row(a, seed, error=float(a * seed)) for a in (8, 1, 2.5) for seed in range(3)]
    rows += [_row("all", 0, error=1.0), _row(None, 0, error=1.0)]
    shuffled = random.Random(0).sample(rows, len(rows))
    found = summarise(shuffled, ["a", "mode"])
    assert found == summarise(rows, ["a", "mode"])
    assert [cell.cell["a"] for cell in found] == [None, 1, 2.5, 8, "all"]


def test_another_number_may_count_as_success():
    (cell,) = summarise([_row(1, 0, exact=0), _row(1, 1, exact=1)], ["a"], success="exact")
    assert cell.successes == 1


def test_an_unknown_status_keeps_its_number():
    (cell,) = summarise([_row(1, 0, status=99)], ["a"])
    assert cell.statuses == {"STATUS_99": 1}


def test_a_missing_axis_or_success_is_named_with_what_there_is():
    with pytest.raises(ValueError, match="no 'n'; they have: a, mode"):
        summarise([_row(1, 0)], ["n"])
    with pytest.raises(ValueError, match="no 'exact'"):
        summarise([_row(1, 0)], ["a"], success="exact")


def test_no_trials_make_no_cells():
    assert summarise([], ["a"]) == []
