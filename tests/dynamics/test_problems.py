"""The problems at the edge of stability: their laws, their losses, and draws that do not move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.dynamics import digits, problems, sensing
from pruneft.penalty import smoothed_group_norm


def test_the_truth_of_sensing_has_the_rank_and_the_eigenvalues_that_are_said():
    # As many rank-one measurements as entries determine the matrix behind y.
    made = sensing(jax.random.key(0), m=40, d=4, r=2, rank_one=True)
    A = np.asarray(made.data["A"])
    truth = np.linalg.lstsq(A.reshape(40, 16), np.asarray(made.data["y"]), rcond=None)[0].reshape(4, 4)
    np.testing.assert_allclose(np.linalg.eigvalsh((truth + truth.T) / 2)[::-1], [1, 0.6, 0, 0], atol=1e-9)
    np.testing.assert_allclose(np.linalg.matrix_rank(A[0]), 1)


def test_the_loss_of_sensing_is_its_formula_with_and_without_penalty():
    key = jax.random.key(1)
    U = sensing(key).params
    assert U.shape == (10, 10)
    values = {}
    for lam in (0.0, 0.01):
        made = sensing(key, lam=lam)
        misfit = np.array([np.sum(A * (U @ U.T)) for A in made.data["A"]]) - made.data["y"]
        values[lam] = float(made.loss(U))
        expected = np.sum(np.square(misfit)) / (4 * 25) + lam * float(smoothed_group_norm(U, 1e-4))
        assert values[lam] == pytest.approx(expected, rel=1e-12)
    assert values[0.01] > values[0.0]


def test_a_quadratic_network_is_sensing_with_rank_one_measurements():
    made = sensing(jax.random.key(2), m=5, d=3, r=1, rank_one=True)
    x = np.linalg.eigh(np.asarray(made.data["A"]))  # x x^T has x as its last eigenvector
    inputs = x[1][:, :, -1] * np.sqrt(x[0][:, -1:])
    predictions = np.sum((inputs @ np.asarray(made.params)) ** 2, axis=1)
    expected = float(np.mean((predictions - np.asarray(made.data["y"])) ** 2)) / 4
    assert float(made.loss(made.params)) == pytest.approx(expected, rel=1e-9)


def test_draws_are_the_same_in_both_precisions_and_under_vmap():
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    batch = jax.vmap(lambda key: sensing(key, m=6, d=3).params)(keys)
    np.testing.assert_array_equal(batch[1], sensing(jax.random.key(1), m=6, d=3).params)
    low = sensing(jax.random.key(1), m=6, d=3, dtype=jnp.float32)
    assert low.params.dtype == jnp.float32
    np.testing.assert_allclose(low.params, batch[1], rtol=1e-6)
    # More measurements leave the first ones alone.
    few, more = (sensing(jax.random.key(1), m=m, d=3).data["A"] for m in (6, 9))
    np.testing.assert_array_equal(few, more[:6])


def test_digits_are_centred_and_the_network_has_the_size_that_is_said():
    made = digits(jax.random.key(0))
    assert made.data["X"].shape == (150, 64)
    np.testing.assert_allclose(np.mean(made.data["X"], axis=0), 0, atol=1e-12)
    np.testing.assert_array_equal(np.sum(made.data["y"], axis=1), 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(made.params)) == 975
    assert np.std(made.params[0][0]) == pytest.approx((3 * 64) ** -0.5, rel=0.1)
    assert float(problems.network_loss(made.params, made.data)) == float(made.loss(made.params))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sensing(jax.random.key(0), m=0), "m must be at least 1: got 0"),
        (lambda: sensing(jax.random.key(0), d=2, r=3), "r .true rank. must be at most d .ambient dimension., 2: got 3"),
        (lambda: sensing(jax.random.key(0), lam=-1.0), "must not be negative: got -1.0"),
        (lambda: digits(jax.random.key(0), classes=11), "classes must be from 2 to 10: got 11"),
        (lambda: digits(jax.random.key(0), samples=10_000), "samples must be from 1 to 537"),
        (lambda: digits(jax.random.key(0), widths=(0,)), "widths must be at least 1"),
    ],
)
def test_bad_input_is_a_clear_error(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_without_64_bits_the_type_is_single_and_double_is_refused():
    jax.config.update("jax_enable_x64", False)
    try:
        assert sensing(jax.random.key(0)).data["A"].dtype == jnp.float32
        with pytest.raises(ValueError, match="64-bit mode"):
            sensing(jax.random.key(0), dtype=jnp.float64)
        with pytest.raises(ValueError, match="64-bit mode"):
            digits(jax.random.key(0), dtype="float64")
    finally:
        jax.config.update("jax_enable_x64", True)
    assert sensing(jax.random.key(0)).data["A"].dtype == jnp.float64
