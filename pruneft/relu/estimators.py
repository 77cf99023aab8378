"""`ReLUClassifier` and `ReLURegressor`: convex training in scikit-learn's conventions. Needs scikit-learn (extra ``sklearn``).

Rows that are repeated are merged and weighted, rows of weight zero left out and the rest sorted, so that a sample weight of two is the
same as a sample given twice, to the last digit, and the order of samples does not matter.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "pruneft.relu.estimators needs scikit-learn 1.6 or newer: pip install 'pruneft[sklearn]'"
    ) from error

from pruneft.relu.fit import fit
from pruneft.relu.result import Fit


class _Estimator(BaseEstimator):
    """What both share: a fit in float64 of merged rows, and predictions in NumPy.

    By the convention parameters are not looked at before `fit`, so they have no types here.
    """

    def __init__(
        self,
        lam: Any,
        n_patterns: Any,
        bias: Any,
        skip: Any,
        tol: Any,
        max_iter: Any,
        random_state: Any,
    ) -> None:
        self.lam = lam
        self.n_patterns = n_patterns
        self.bias = bias
        self.skip = skip
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _train(self, X: np.ndarray, y: np.ndarray, sample_weight: Any, loss: Any) -> None:
        """Train on targets [n, K] and keep the network."""
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if np.any(weights < 0) or not np.any(weights > 0):
            raise ValueError("sample_weight must not be negative, and not be zero for all samples.")
        X, y, weights = _merged(X, y, weights)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.fit_: Fit | None = None
        self.n_iter_ = 1
        if not np.any(y) or not np.any(X):  # without a slope to follow: constant targets, which the intercept takes
            columns = X.shape[1] + bool(self.bias)
            self.neurons_, self.output_ = np.zeros((columns, 0)), np.zeros((0, y.shape[1]))
            self.linear_ = np.zeros((columns, y.shape[1]))
            return
        with jax.enable_x64(True):  # here and nowhere else: certificates want float64
            found = fit(
                X,
                y,
                loss=loss,
                lam=self.lam,
                n_patterns=self.n_patterns,
                bias=self.bias,
                skip=self.skip,
                tol=self.tol,
                max_iterations=self.max_iter,
                weights=weights,
                reduction="sum",
                seed=seed,
                dtype="float64",
            )
            network = found.network
            assert network is not None  # the exact form always has one
            self.neurons_ = np.asarray(network.u)
            self.output_ = np.asarray(network.alpha).reshape(network.neurons, y.shape[1])
            self.linear_ = np.asarray(network.linear).reshape(len(self.neurons_), y.shape[1])
        self.fit_, self.n_iter_ = found, max(1, found.iterations)
        if not found.ok:
            warnings.warn(f"{type(self).__name__}: {found.message}", ConvergenceWarning, stacklevel=3)

    def _scores(self, X: Any) -> np.ndarray:
        """[n, K]."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        if self.bias:
            X = np.concatenate([X, np.ones((len(X), 1))], axis=1)
        return np.maximum(X @ self.neurons_, 0) @ self.output_ + X @ self.linear_


class ReLURegressor(RegressorMixin, _Estimator):
    """Two-layer ReLU regression, trained to the global optimum of its convex program over sampled activation patterns.

    Least squares on the targets less their mean, plus ``lam`` times half the squared weights. Several targets are one network each.
    Standardise the features first, as for any penalised model.

    Args:
      lam: penalty weight; a twentieth of that above which all weights are zero if None.
      n_patterns: activation patterns to sample; a bound on how many neurons there can be is twice their number.
      bias: neurons with a bias, penalised as their other weights.
      skip: a linear part beside the neurons.
      tol: certified relative gap to reach; ``max_iter``: iterations until a `ConvergenceWarning`.
      random_state: of the sampled patterns.

    Attributes:
      fit_: the `pruneft.relu.Fit` with objective, lower bound and gap; None where targets or features were constant zero.
      neurons_: [d + bias, m], output_: [m, K], linear_: [d + bias, K]: the network.
      intercept_: [K], mean of the targets.
      n_iter_: of the slowest target.
    """

    def __init__(
        self,
        *,
        lam: Any = None,
        n_patterns: Any = 100,
        bias: Any = True,
        skip: Any = False,
        tol: Any = 1e-4,
        max_iter: Any = 20_000,
        random_state: Any = None,
    ) -> None:
        super().__init__(lam, n_patterns, bias, skip, tol, max_iter, random_state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ReLURegressor:
        """Train on X [n, d] and y [n] or [n, K].

        Raises:
          ValueError: data or parameters make no sense.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        self.intercept_ = np.average(columns, axis=0, weights=weights if np.any(weights) else None)
        self._single = np.ndim(y) == 1
        self._train(X, columns - self.intercept_, sample_weight, "squared")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predictions [n], or [n, K]."""
        found = self._scores(X) + self.intercept_
        return found[:, 0] if self._single else found


class ReLUClassifier(ClassifierMixin, _Estimator):
    """Two-layer ReLU classification, trained to the global optimum of its convex program over sampled activation patterns.

    Two classes are one network; more of them one network each, against all others. Standardise the features first.

    Args:
      loss: ``"bce"`` (with probabilities), ``"hinge"`` or ``"squared"``.
      lam, n_patterns, bias, skip, tol, max_iter, random_state: as for `ReLURegressor`.

    Attributes:
      classes_: [C], labels in the order of scores.
      fit_, neurons_, output_, linear_, n_iter_: as for `ReLURegressor`.
    """

    def __init__(
        self,
        *,
        loss: Any = "bce",
        lam: Any = None,
        n_patterns: Any = 100,
        bias: Any = True,
        skip: Any = False,
        tol: Any = 1e-4,
        max_iter: Any = 20_000,
        random_state: Any = None,
    ) -> None:
        super().__init__(lam, n_patterns, bias, skip, tol, max_iter, random_state)
        self.loss = loss

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ReLUClassifier:
        """Train on X [n, d] and labels y [n].

        Raises:
          ValueError: data or parameters make no sense; there is only one class.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        self.classes_ = np.unique(y)
        seen = np.unique(y[weights > 0])
        if len(seen) < 2:
            raise ValueError(
                f"a classifier needs samples of two classes at least, with positive weight: got {len(seen)} class."
            )
        signs = np.where(y[:, None] == (self.classes_ if len(self.classes_) > 2 else self.classes_[1:]), 1.0, -1.0)
        self._train(X, signs, sample_weight, self.loss)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores [n] for two classes (positive: the second), else [n, C]."""
        found = self._scores(X)
        return found[:, 0] if len(self.classes_) == 2 else found

    def predict(self, X: Any) -> np.ndarray:
        """The class with the largest score, [n]."""
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else np.argmax(scores, axis=1)
        labels: np.ndarray = self.classes_[best]
        return labels

    @available_if(lambda self: self.loss == "bce")
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [n, C]: those of the cross-entropy, scaled to sum to one where there are more than two classes."""
        positive = 1 / (1 + np.exp(-2 * np.clip(self._scores(X), -300, 300)))
        if len(self.classes_) == 2:
            return np.concatenate([1 - positive, positive], axis=1)
        return positive / np.maximum(np.sum(positive, axis=1, keepdims=True), np.finfo(float).tiny)


def _merged(X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each distinct row of X and y once, in lexicographic order, with the sum of its weights; rows of weight zero left out."""
    live = weights > 0
    rows, inverse = np.unique(np.concatenate([X[live], y[live]], axis=1), axis=0, return_inverse=True)
    total = np.bincount(inverse.reshape(-1), weights=weights[live], minlength=len(rows))
    return rows[:, : X.shape[1]], rows[:, X.shape[1] :], total
