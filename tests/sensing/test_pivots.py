import numpy as np
import pytest
from scipy import stats

from pruneft.sensing.pivots import (
    chi_square_tail,
    error_quantiles,
    largest_eigenvalue_tail,
    sigma_factors,
    student_quantile,
)


def test_the_largest_of_one_by_one_matrices_is_a_normal_number():
    # 20000 draws: standard error at most .0036.
    for t in (-1.0, 0.0, 1.0, 2.0):
        assert abs(largest_eigenvalue_tail(t, 1) - stats.norm.sf(t)) < 4 * 0.0036


@pytest.mark.parametrize("m", [2, 7, 70])
def test_tail_of_the_largest_eigenvalue_is_that_of_dense_matrices(m):
    # An independent simulation with whole matrices; both have standard errors up to .016.
    generator = np.random.default_rng(m)
    half = generator.standard_normal((1000, m, m)) / 2
    largest = np.linalg.eigvalsh(half + np.swapaxes(half, 1, 2))[:, -1]
    # (G + Gᵀ)/2 has diagonal variance 1 and off-diagonal variance 1/2.
    for share in (0.1, 0.5, 0.9):
        assert abs(largest_eigenvalue_tail(float(np.quantile(largest, 1 - share)), m) - share) < 0.065


def test_the_tail_is_never_zero_and_the_same_at_every_call():
    assert largest_eigenvalue_tail(100.0, 5, draws=999) == 1 / 1000
    assert largest_eigenvalue_tail(2.0, 5) == largest_eigenvalue_tail(2.0, 5)


def test_sigma_factors_are_those_of_the_chi_square_law():
    factors = sigma_factors(40)
    assert np.isnan(factors[0]).all()
    for left in (1, 7, 40):
        ends = np.sqrt(left / stats.chi2.ppf([0.975, 0.025], left))
        np.testing.assert_allclose(factors[left], ends, rtol=1e-10)


def test_error_of_one_measured_direction_has_the_f_law():
    # One direction seen with singular value 2: error²/sigma_hat² is F(1, 12)/4.
    low, high = error_quantiles(np.array([2.0]), 12, draws=200_000)
    expected = np.sqrt(stats.f.ppf([0.025, 0.975], 1, 12)) / 2
    np.testing.assert_allclose([low, high], expected, rtol=0.02)


def test_many_directions_are_added_block_by_block():
    low, high = error_quantiles(np.full(600, 1.0), 10**9)
    # 600 unit squares and no doubt about sigma: chi with 600 degrees of freedom.
    np.testing.assert_allclose([low, high], stats.chi.ppf([0.025, 0.975], 600), rtol=0.01)


def test_quantiles_and_tails_are_those_of_scipy_stats():
    np.testing.assert_allclose(chi_square_tail(17.0, 9), stats.chi2.sf(17.0, 9), rtol=1e-10)
    np.testing.assert_allclose(student_quantile(11, 1e-4), stats.t.isf(1e-4, 11), rtol=1e-8)
