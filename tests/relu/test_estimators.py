"""The estimators: scikit-learn's own battery, and what it does not ask."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pruneft.relu.estimators import ReLUClassifier, ReLURegressor

_SMALL = {"n_patterns": 8, "tol": 1e-3, "random_state": 0}


@pytest.fixture(scope="module")
def compiled_soon():
    """The battery asks for many small problems: what they take is the compiling."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.claims
@pytest.mark.usefixtures("compiled_soon")
@pytest.mark.filterwarnings("ignore")  # the battery provokes warnings on purpose
@parametrize_with_checks([ReLURegressor(n_patterns=8, tol=1e-3), ReLUClassifier(n_patterns=8, tol=1e-3)])
def test_scikit_learn_finds_nothing_to_complain_about(estimator, check):
    check(estimator)
    assert estimator.get_params()["n_patterns"] == 8


@pytest.fixture(scope="module")
def cancer():
    data = load_breast_cancer()
    return StandardScaler().fit_transform(data.data)[:, :5], data.target


@pytest.fixture(scope="module")
def fitted(cancer):
    X, y = cancer
    return ReLUClassifier(**_SMALL).fit(X[:60], np.where(y[:60], "benign", "malign"))


def test_a_classifier_predicts_its_own_labels_with_probabilities(cancer, fitted):
    X, y = cancer
    assert list(fitted.classes_) == ["benign", "malign"]
    assert np.mean((fitted.predict(X[300:]) == "benign") == y[300:]) > 0.8
    shares = fitted.predict_proba(X[300:])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert np.array_equal(shares[:, 1] > 0.5, fitted.decision_function(X[300:]) > 0)


def test_the_fit_is_certified_and_is_the_network_that_predicts(cancer, fitted):
    X = cancer[0][300:310]
    assert fitted.fit_.gap <= 1e-3
    np.testing.assert_allclose(fitted.decision_function(X), np.asarray(fitted.fit_.predict(X)), rtol=1e-9, atol=1e-12)


def test_a_weight_of_two_is_a_sample_twice_and_the_order_does_not_matter(cancer):
    X, y = cancer[0][:30], cancer[1][:30]
    weights = np.tile([1, 2, 0], 10)
    order = np.random.default_rng(0).permutation(30)
    one = ReLUClassifier(**_SMALL).fit(X, y, sample_weight=weights)
    two = ReLUClassifier(**_SMALL).fit(np.repeat(X[order], weights[order], axis=0), np.repeat(y[order], weights[order]))
    np.testing.assert_array_equal(one.decision_function(X), two.decision_function(X))


def test_a_regressor_in_a_pipeline_explains_diabetes_better_than_the_mean():
    X, y = load_diabetes(return_X_y=True)
    model = make_pipeline(StandardScaler(), ReLURegressor(**_SMALL)).fit(X[:60], y[:60])
    assert model.score(X[300:], y[300:]) > 0.2
    np.testing.assert_allclose(model[-1].intercept_, np.mean(y[:60]))


def test_constant_targets_are_the_intercept():
    model = ReLURegressor(**_SMALL).fit(np.arange(6.0)[:, None], np.full(6, 7.0))
    np.testing.assert_array_equal(model.predict([[1.5], [100.0]]), [7, 7])


@pytest.mark.parametrize(
    ("y", "weights", "words"),
    [
        (np.ones(6), None, "two classes"),
        (np.arange(6) % 2, [1, 0, 1, 0, 1, 0], "two classes"),
        (np.arange(6) % 2, [1, -1, 1, 1, 1, 1], "negative"),
        (np.linspace(0, 1, 6), None, "continuous"),
    ],
)
def test_what_no_classifier_can_learn_is_refused(y, weights, words):
    with pytest.raises(ValueError, match=words):
        ReLUClassifier(**_SMALL).fit(np.arange(6.0)[:, None], y, sample_weight=weights)


def test_a_budget_that_is_spent_is_a_warning(cancer):
    X, y = cancer[0][:60], cancer[1][:60]
    with pytest.warns(ConvergenceWarning, match="spent"):
        ReLUClassifier(**{**_SMALL, "tol": 1e-9}, max_iter=2).fit(X, y)
