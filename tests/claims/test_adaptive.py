"""Claims about adaptive allocation, by simulation: the interval holds what it promises, and few trials do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from pruneft.sweep.adaptive import Model, simulate
from tests.claims.trials import refuted, upper_bound

pytestmark = pytest.mark.claims

ROWS = 1000
X = np.arange(58, 117) / 58  # n / dof of d = 16, r = 4, from 1 to 2


class Simulated(NamedTuple):
    held: int  # intervals that hold the truth
    ended: int  # rows that reached the target
    trials: np.ndarray


def _simulate(half, width, saturation=1.0, *, seed, target=0.05, **model):
    """Rows with P(x) = saturation * logistic(.), P = 1/2 at ``half``."""
    half, width = np.broadcast_to(half, ROWS), np.broadcast_to(width, ROWS)
    z = (X - half[:, None]) / width[:, None] - np.log(2 * saturation - 1)
    chance = saturation * expit(z)
    verdicts, trials = simulate(Model(low=1.0, high=2.0, target=target, **model), X, chance, seed=seed)
    held = sum(verdict.low <= truth <= verdict.high for verdict, truth in zip(verdicts, half, strict=True))
    return Simulated(held, sum(verdict.flag == "ok" for verdict in verdicts), trials)


@pytest.fixture(scope="module")
def halves():
    return np.random.default_rng(0).uniform(1.1, 1.7, ROWS)


@pytest.fixture(scope="module")
def usual(halves):
    """Width 0.04, success saturates at 1."""
    return _simulate(halves, 0.04, seed=1)


def _mean_lower_bound(values):
    """One-sided 99% lower confidence bound of a mean."""
    return values.mean() - norm.ppf(0.99) * values.std() / np.sqrt(len(values))


def test_the_interval_holds_the_transition(usual):
    # The bar is that of 1000 simulations. Would break: stopping at the first narrow interval without a least width, or
    # an interval of the logistic's middle in place of the point where success is one half.
    assert not refuted(usual.held, ROWS, 0.93), usual.held
    assert usual.ended == ROWS


@pytest.mark.parametrize("saturation", [0.95, 0.8])
def test_it_holds_it_where_success_saturates_below_one(halves, saturation):
    found = _simulate(halves, 0.04, saturation, seed=2)
    assert not refuted(found.held, ROWS, 0.92), found.held


def test_it_holds_it_for_widths_and_places_at_random():
    random = np.random.default_rng(3)
    found = _simulate(random.uniform(1.02, 1.7, ROWS), random.uniform(0.02, 0.08, ROWS), seed=4)
    assert not refuted(found.held, ROWS, 0.93), found.held
    assert found.ended > 0.98 * ROWS


def test_without_a_lapse_in_the_model_it_does_not(halves):
    """The broken twin: the model believes that success reaches 1, and the truth saturates at .8."""
    found = _simulate(halves, 0.04, 0.8, seed=2, lapses=(0.0,))
    assert refuted(found.held, ROWS, 0.92), found.held


def test_a_hundred_and_ten_trials_do(usual):
    # Per row, in the mean. Would break: no trials where the posterior points to, as below.
    assert _mean_lower_bound(usual.trials) <= 110, usual.trials.mean()


def test_spread_evenly_they_do_not(halves):
    """The broken twin of the count: as many trials, evenly over the range, leave most intervals too wide."""
    from pruneft.sweep.adaptive import judge, posterior

    model = Model(low=1.0, high=2.0, target=0.05)
    chance = expit((X - halves[:200, None]) / 0.04)
    won = np.random.default_rng(5).binomial(2, chance)  # 118 trials a row
    told = posterior(model, model.curves(X), won, 2 - won)
    narrow = sum(judge(model, centre, 118).flag == "ok" for centre in told.centre)
    assert upper_bound(narrow, 200) < 0.5, narrow
