import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruneft.pipeline import Anneal
from pruneft.sensing import quadratic

RNG = np.random.default_rng(0)
D, R, N, SIZE = 8, 2, 600, 100
TEACHER = RNG.standard_normal((D, R)) / D**0.5
INPUTS = 3.0 * RNG.standard_normal((N, D))
OUTPUTS = np.sum((INPUTS @ TEACHER) ** 2, axis=1)


def _batches(size=SIZE, seed=0):
    return quadratic.shuffled(INPUTS, OUTPUTS, size, seed=seed)


def test_prediction_is_the_sum_of_squares_of_the_hidden_layer():
    outputs = [sum((u @ x) ** 2 for u in TEACHER.T) for x in INPUTS[:5]]
    np.testing.assert_allclose(quadratic.predict(jnp.asarray(TEACHER), jnp.asarray(INPUTS[:5])), outputs, rtol=1e-12)


def test_the_error_is_zero_for_the_teacher_and_one_for_the_mean():
    inputs, outputs = jnp.asarray(INPUTS), jnp.asarray(OUTPUTS)
    assert quadratic.generalisation_error(jnp.asarray(TEACHER), inputs, outputs) < 1e-12
    # Outputs shifted to mean zero, predicted by the zero network.
    zero = jnp.zeros((D, 1))
    np.testing.assert_allclose(quadratic.generalisation_error(zero, inputs, outputs - outputs.mean()), 1, rtol=1e-12)


def test_the_closed_form_is_the_error_on_many_fresh_inputs():
    other = TEACHER + 0.3 * RNG.standard_normal((D, R))
    fresh = RNG.standard_normal((100_000, D))
    found = quadratic.generalisation_error(
        jnp.asarray(other), jnp.asarray(fresh), quadratic.predict(jnp.asarray(TEACHER), jnp.asarray(fresh))
    )
    # Squares of quadratic forms have a kurtosis of some tens: relative deviation below 10 / (2 sqrt(n)).
    np.testing.assert_allclose(
        quadratic.population_error(jnp.asarray(other), jnp.asarray(TEACHER)), found, rtol=5 * 0.016
    )


def test_every_epoch_sees_every_sample_once_in_another_order():
    inputs = np.arange(10)[:, None]
    batches = list(itertools.islice(quadratic.shuffled(inputs, np.arange(10), 5), 4))
    for first in (0, 2):
        seen = np.concatenate([batches[first][1], batches[first + 1][1]])
        np.testing.assert_array_equal(np.sort(seen), np.arange(10))
    assert not np.array_equal(batches[0][1], batches[2][1])
    for x, y in batches:
        np.testing.assert_array_equal(x[:, 0], y)


def test_the_gradient_of_all_data_is_the_mean_of_those_of_batches_but_for_the_mean_residual():
    factor = jnp.asarray(RNG.standard_normal((D, 3)))
    x, y = jnp.asarray(INPUTS[:200] / 3), jnp.asarray(OUTPUTS[:200] / 9)
    whole, loss = quadratic.gradient(factor, x, y)
    e = np.asarray(quadratic.predict(factor, x) - y)
    np.testing.assert_allclose(loss, np.mean(e**2), rtol=1e-12)
    centred = jax.grad(
        lambda u: (
            (
                jnp.mean(jnp.square(quadratic.predict(u, x) - y))
                - (1 - 2 / D) * jnp.square(jnp.mean(quadratic.predict(u, x) - y))
            )
            / 2
        )
    )(factor)
    np.testing.assert_allclose(whole, centred, rtol=1e-10)


@pytest.fixture(scope="module")
def found():
    with jax.numpy_dtype_promotion("standard"):
        return quadratic.fit(_batches(), width=D, steps=600, tune_steps=100)


def test_as_many_neurons_stay_as_the_teacher_has_and_the_error_vanishes(found):
    assert found.neurons == R
    assert quadratic.population_error(found.weights, jnp.asarray(TEACHER)) < 5e-4
    norms = found.train_history.norms
    np.testing.assert_allclose(norms[-1], np.linalg.norm(found.trained, axis=0), rtol=1e-6)
    assert (norms.shape[1], found.train_history.norm_steps[-1], len(found.train_history.losses)) == (D, 600, 600)
    assert found.tune_history.losses[-1] < 1e-6 < found.train_history.losses[0]


def test_units_of_inputs_and_outputs_do_not_matter(found):
    with jax.numpy_dtype_promotion("standard"):
        batches = ((1e-3 * x, 1e4 * y) for x, y in _batches())
        other = quadratic.fit(batches, width=D, steps=600, tune_steps=100)
    assert other.neurons == R
    # f(x) = |Uᵀx|²: weights take up the root of the outputs' unit over that of the inputs squared.
    np.testing.assert_allclose(other.weights @ other.weights.T / 1e10, found.weights @ found.weights.T, atol=2e-4)


def test_without_the_penalty_pruning_leaves_more_neurons():
    with jax.numpy_dtype_promotion("standard"):
        found = quadratic.fit(_batches(), width=D, steps=150, tune_steps=0, lam=0.0)
    assert found.neurons > R
    np.testing.assert_array_equal(
        found.weights, found.trained[:, : found.neurons] if found.neurons == D else found.weights
    )


def test_an_optimiser_of_ones_own_and_the_published_constant_penalty_are_taken():
    constant = Anneal(lam_start=0.02, lam_end=0.02, beta_start=1e-3, beta_end=1e-3)
    with jax.numpy_dtype_promotion("standard"):
        trained, history = quadratic.train(_batches(), width=3, steps=4, anneal=constant, optimizer=optax.sgd(0.0))
    assert trained.shape == (D, 3)
    np.testing.assert_allclose(history.norms[0], history.norms[-1], rtol=1e-12)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches is empty"),
        ([(INPUTS[:9], OUTPUTS[:8])], r"shapes \(9, 8\) and \(8,\)"),
        ([(INPUTS[:9], OUTPUTS[:9]), (INPUTS[:8], OUTPUTS[:8])], "one shape"),
        ([(INPUTS[:9], OUTPUTS[:9])], "ended after 1 of 5 steps"),
        ([(INPUTS[:9] * np.nan, OUTPUTS[:9])], "not be used|NaN"),
        ([(INPUTS[:9] + 1j, OUTPUTS[:9])], "real numbers"),
    ],
)
def test_batches_that_make_no_sense_are_refused(batches, message):
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match=message):
        quadratic.train(iter(batches), width=3, steps=5)


def test_counts_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="width and steps"):
        quadratic.train(_batches(), width=0, steps=5)
    with pytest.raises(ValueError, match="from 1 to n = 600"):
        next(quadratic.shuffled(INPUTS, OUTPUTS, 601))
    with pytest.raises(ValueError, match="same length"):
        next(quadratic.shuffled(INPUTS, OUTPUTS[:-1], 5))
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match="before fine-tuning"):
        quadratic.tune(iter([]), jnp.ones((D, 1)), steps=5)


def test_nothing_left_by_pruning_is_an_answer_of_no_neurons():
    weights, history = quadratic.tune(_batches(), jnp.zeros((D, 0)), steps=5)
    assert (weights.shape, len(history.losses)) == ((D, 0), 0)
