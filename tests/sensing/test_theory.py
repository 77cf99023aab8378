import math

import numpy as np
import pytest
from scipy.integrate import quad

from pruneft.sensing import theory


@pytest.mark.parametrize(
    ("d", "r", "ratio"), [(16, 1, 1.79), (16, 2, 1.56), (16, 4, 1.33), (16, 8, 1.12), (24, 2, 1.71), (32, 4, 1.57)]
)
def test_trace_curve_has_its_known_values(d, r, ratio):
    assert abs(theory.trace_minimisation(d, r) / theory.dof(d, r) - ratio) <= 0.005 + 1e-9


@pytest.mark.parametrize("t", [0.0, 0.1, 0.35, 0.7, 0.95, 1.0])
def test_closed_form_of_the_tail_is_the_integral(t):
    integral, error = quad(lambda x: (x - t) ** 2 * math.sqrt(1 - x * x), t, 1)
    assert abs(float(theory.semicircle_tail(t)) - 2 / math.pi * integral) < 1e-9 + error


def test_tail_starts_at_one_eighth_and_ends_at_zero():
    tails = theory.semicircle_tail(np.linspace(0, 1, 50))
    np.testing.assert_allclose(tails[[0, -1]], [1 / 8, 0], atol=1e-12)
    assert np.all(np.diff(tails) < 0)


def test_degrees_of_freedom_are_those_of_the_tangent_space():
    for d, r in ((4, 1), (4, 3), (4, 4)):
        factor = np.random.default_rng(0).standard_normal((d, r))
        tangents = [factor @ e.T + e @ factor.T for e in np.eye(d * r).reshape(-1, d, r)]
        assert np.linalg.matrix_rank(np.reshape(tangents, (d * r, -1))) == theory.dof(d, r)


@pytest.mark.parametrize(("d", "r"), [(16, 1), (16, 8), (16, 15), (32, 3)])
def test_curves_stand_in_their_order(d, r):
    assert theory.dof(d, r) < theory.trace_minimisation(d, r) <= theory.psd_feasibility(d, r)


def test_a_full_rank_matrix_needs_all_its_entries():
    assert theory.dof(6, 6) == theory.trace_minimisation(6, 6) == theory.psd_feasibility(6, 6) == 21


def test_feasibility_adds_a_quarter_of_the_normal_space():
    assert theory.psd_feasibility(20, 2) == 39 + 18 * 19 / 4


def test_trace_curve_tends_to_three_times_the_degrees_of_freedom():
    ratios = [theory.trace_minimisation(d, 1) / theory.dof(d, 1) for d in (16, 100, 1000, 10000)]
    assert ratios == sorted(ratios)
    assert 2.85 < ratios[-1] < 3


def test_oracle_risk_is_that_of_least_squares_in_the_tangent_space():
    # Monte Carlo over Gaussian designs of n x p with p = dof(4, 1) = 4, n = 14; the risk is sigma^2 p/(n-p-1) = .4444
    # sigma^2. 6000 trials, five standard errors. The common sigma^2 p/n = .2857 would fail.
    generator = np.random.default_rng(0)
    trials, n, p, sigma = 6000, 14, theory.dof(4, 1), 0.3
    design, noise = generator.standard_normal((trials, n, p)), sigma * generator.standard_normal((trials, n, 1))
    normal, moment = np.swapaxes(design, 1, 2) @ design, np.swapaxes(design, 1, 2) @ noise
    losses = np.sum(np.linalg.solve(normal, moment) ** 2, axis=(1, 2))
    expected = theory.oracle_risk(n, 4, 1, sigma)
    assert expected == pytest.approx(sigma**2 * 4 / 9)
    assert abs(losses.mean() - expected) < 5 * losses.std() / math.sqrt(trials)
    assert abs(losses.mean() - sigma**2 * p / n) > 5 * losses.std() / math.sqrt(trials)


@pytest.mark.parametrize("n", [1, 16, 17])
def test_oracle_risk_is_infinite_where_its_mean_does_not_exist(n):
    assert theory.oracle_risk(n, 16, 1, 0.1) == math.inf


def test_oracle_risk_is_finite_from_two_measurements_beyond_the_degrees_of_freedom():
    assert theory.oracle_risk(18, 16, 1, 0.1) == pytest.approx(0.16)


def test_noise_edge_is_what_noise_makes_of_the_largest_residual_eigenvalue():
    # lambda_max of (1/n) sum e_i sym(A_i): GOE-like with diagonal variance sigma^2/n, hence about sigma sqrt(2d/n).
    generator = np.random.default_rng(0)
    d, n, sigma = 40, 4000, 1.0
    gaussian = generator.standard_normal((20, d, d))
    largest = np.linalg.eigvalsh((gaussian + np.swapaxes(gaussian, 1, 2)) / 2)[:, -1] * sigma / math.sqrt(n)
    assert abs(largest.mean() / theory.noise_edge(n, d, sigma) - 1) < 0.1


def test_growth_threshold_is_half_the_penalty_curvature_at_zero_over_two():
    # du/dt = -(4 G + (2 lam / sqrt beta) I) u at u = 0: growth needs lambda_max(-G) > lam / (2 sqrt beta).
    lam, beta = 0.3, 1e-2
    assert theory.growth_threshold(lam, beta) == pytest.approx(2 * lam / math.sqrt(beta) / 4)


@pytest.mark.parametrize(("d", "r"), [(4, 0), (4, 5), (0, 0), (4, -1)])
def test_a_rank_that_no_matrix_has_is_refused(d, r):
    for curve in (theory.dof, theory.trace_minimisation, theory.psd_feasibility):
        with pytest.raises(ValueError, match=r"r \(true rank\) must lie between 1 and d"):
            curve(d, r)
