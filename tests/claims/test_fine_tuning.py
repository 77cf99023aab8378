"""Claims about fine-tuning: it converges linearly at the predicted rate, and what it gains over the unpruned fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruneft.optim import LMConfig
from pruneft.sensing import lane as lanes
from pruneft.sensing import nesterov, smat, theory
from tests.claims.nearby import draw_lane, errors, nearby

pytestmark = pytest.mark.claims


_fit_factors = jax.jit(lanes.fit, static_argnames="config")


def _fit(way: np.ndarray) -> tuple[float, float]:
    """Rate and R² of log error against step over the four decades from 1e-4 to 1e-8."""
    begin, end = int(np.argmax(way < 1e-4)), int(np.argmax(way < 1e-8))
    assert end > begin > 0, f"ended at {way[-1]:.1e}"
    steps, logs = np.arange(begin, end), np.log(way[begin:end])
    line = np.polyfit(steps, logs, 1)
    return -line[0], 1 - np.var(logs - np.polyval(line, steps)) / np.var(logs)


def _rates(make, predict, *, n: int, d: int, r: int, steps: int, seeds: int = 7):
    """Rates, R² and predicted rates of ``make(l_1)``, an optimiser, over seeds."""
    found = []
    for seed in range(seeds):
        _, lane, factor = draw_lane(seed, n=n, d=d, r=r)
        largest = float(np.max(np.sum(factor**2, axis=0)))
        start = jnp.asarray(nearby(factor, seed))
        way = np.asarray(errors(lane, start, factor @ factor.T, largest, make=make, steps=steps))
        found.append((*_fit(way), predict(lane, factor, largest)))
    return np.array(found).T


@pytest.mark.parametrize("ratio", [2, 3, 5])
def test_nesterov_converges_linearly_at_the_rate_of_marchenko_and_pastur(ratio):
    # Medians over 7 instances; would break: another step or momentum (see the twin).
    d, r = 40, 4
    p = theory.dof(d, r)
    rate, straight, predicted = _rates(
        lambda largest: nesterov(ratio * p, p, largest),
        lambda *_: theory.nesterov_rate(ratio * p, p),
        n=ratio * p, d=d, r=r, steps=500,
    )  # fmt: skip
    assert np.median(straight) >= 0.99
    assert np.median(rate / predicted) == pytest.approx(1, abs=0.25)


def test_gradient_descent_converges_linearly_at_the_rate_of_its_own_tangent_space():
    """For plain gradient descent the finite spectrum matters.

    Its slowest direction is that of the instance, not of the limit.
    """
    d, r, n = 16, 2, 93

    high = theory.tangent_spectrum(n, theory.dof(d, r))[1]

    def predict(lane, factor, largest):
        rows = 2 * np.einsum("nij,jr->nir", np.asarray(smat(lane.operator.rows.astype("float64"))), factor)
        jacobian = rows.reshape(n, -1) / (np.sqrt(n) * float(lane.gain))
        # Hessian of the mean squared error at an exact fit; its r(r-1)/2 zeros are the rotations of the factor.
        curvature = np.linalg.eigvalsh(2 * jacobian.T @ jacobian)[r * (r - 1) // 2]
        return -np.log(1 - 0.2 / (largest * high) * curvature)

    rate, straight, predicted = _rates(
        lambda largest: optax.sgd(0.2 / (largest * high)), predict, n=n, d=d, r=r, steps=800
    )
    assert np.median(straight) >= 0.99
    assert np.median(rate / predicted) == pytest.approx(1, abs=0.25)


def test_without_momentum_the_accelerated_rate_is_missed():
    """The broken twin."""
    d, r = 40, 4
    p = theory.dof(d, r)
    high = theory.tangent_spectrum(3 * p, p)[1]
    rate, _, predicted = _rates(
        lambda largest: optax.sgd(1 / (8 * largest * high)),
        lambda *_: theory.nesterov_rate(3 * p, p),
        n=3 * p, d=d, r=r, steps=1500, seeds=2,
    )  # fmt: skip
    assert np.all(rate < 0.75 * predicted)


def test_levenberg_marquardt_needs_few_steps_even_near_the_transition():
    # From 10 percent error to 1e-6, n = 1.3 dof: at most 8 iterations in the median of 8 instances.
    steps = []
    for seed in range(8):
        _, lane, factor = draw_lane(seed, n=40, d=16, r=2)
        result = _fit_factors(lane, jnp.asarray(nearby(factor, seed))[None], config=LMConfig(max_steps=20))
        trace = np.sqrt(np.asarray(result.trace[0]) / 40)
        steps.append(int(np.argmax(trace < 1e-7)) or 99)
    assert np.median(steps) <= 8, steps


@pytest.mark.parametrize("surplus", [2, 4])
def test_the_unpruned_fit_is_worse_about_as_the_number_of_columns_predicts(surplus):
    """Squared error of the least-squares fit with k = surplus * r columns over the oracle's, d = 16, r = 2, 1 percent noise.

    Published: k d sigma²/n against r d sigma²/n, so k/r. Positive semidefinite fits choose their surplus directions, so
    the ratio is not exactly that: medians over 16 instances must lie within a factor 1.6 of it, and the pruned fit at
      1.
    """
    n, d, r, sigma = 200, 16, 2, 0.01
    ratios = {k: [] for k in (r, surplus * r)}
    for seed in range(16):
        drawn, lane, factor = draw_lane(seed, n=n, d=d, r=r, sigma=sigma)
        for k, found in ratios.items():
            wide = np.concatenate([factor, np.zeros((d, k - r))], axis=1)
            start = wide + 0.05 * np.random.default_rng(seed).standard_normal(wide.shape)
            fitted = np.asarray(
                _fit_factors(lane, jnp.asarray(start)[None], config=LMConfig(max_steps=60)).x[0]
            ).reshape(d, k)
            error = np.sum(np.square(float(lane.scale) * fitted @ fitted.T - np.asarray(drawn.truth)))
            found.append(error / theory.oracle_risk(n, d, r, sigma))
    assert np.median(ratios[r]) == pytest.approx(1, abs=0.25)
    assert surplus / 1.6 <= np.median(ratios[surplus * r]) <= surplus * 1.6
