"""What a user passes to `fit`, checked and in the form that the programs want."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.relu.loss import loss_named
from pruneft.relu.program import FORMS


class Data(NamedTuple):
    """Checked data.

    Attributes:
      X: [n, d], with the column of ones where there is a bias.
      y: [n, K], one column for each output.
      weights: [n] row weights of the loss, the mean's 1/n included.
      single: y was a vector.
    """

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    single: bool


class Fresh(NamedTuple):
    """Samples that nothing is trained on: X [m, d], with the column of ones where there is a bias, and y [m]."""

    X: Float[Array, "m d"]
    y: Float[Array, " m"]


def data(
    X: Any, y: Any, *, loss: str, bias: bool, weights: Any = None, reduction: str | None = None, dtype: Any = None
) -> Data:
    """X, y and weights as arrays of one dtype.

    Raises:
      ValueError: something is wrong with them; the message says what was expected, what came and what to do.
    """
    kind = loss_named(loss).labels
    X, y = _numbers("X", X), _numbers("y", y)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X must be a matrix [n, d], one row for each sample, neither empty: got shape {X.shape}.")
    if y.ndim not in (1, 2) or 0 in y.shape or len(y) != len(X):
        raise ValueError(f"y must have one row for each of the {len(X)} rows of X, [n] or [n, K]: got shape {y.shape}.")
    wanted = _dtype(X, dtype)
    columns = y.reshape(len(y), -1)
    if kind == "sign":
        _check_signs(columns, loss)
    if reduction not in (None, "sum", "mean"):
        raise ValueError(
            f"reduction must be 'sum', 'mean' or None (the mean for hinge, else the sum): got {reduction!r}."
        )
    mean = reduction == "mean" or (reduction is None and loss == "hinge")
    rows = _weights(weights, len(X)) / (len(X) if mean else 1)
    if bias:
        X = np.concatenate([X, np.ones((len(X), 1))], axis=1)
    return Data(_cast("X", X, wanted), _cast("y", columns, wanted), rows.astype(wanted), y.ndim == 1)


def fresh(X: Any, y: Any, *, like: Data, loss: str, bias: bool) -> Fresh:
    """Samples that nothing is trained on, of the shape and dtype of the training data, one output.

    Raises:
      ValueError: they do not fit.
    """
    X, y = _numbers("X of fresh", X), _numbers("y of fresh", y)
    features = like.X.shape[1] - bias
    if X.ndim != 2 or X.shape[1] != features or not len(X) or y.reshape(-1).shape != (len(X),):
        raise ValueError(
            f"fresh must be (X [m, {features}], y [m]) with at least one sample: got shapes {X.shape} and {y.shape}."
        )
    if loss_named(loss).labels == "sign" and not np.all(np.abs(y) == 1):
        raise ValueError(f"{loss} loss expects labels -1 and 1: y of fresh holds others.")
    if bias:
        X = np.concatenate([X, np.ones((len(X), 1))], axis=1)
    wanted = like.X.dtype
    return Fresh(jnp.asarray(_cast("X of fresh", X, wanted)), jnp.asarray(_cast("y of fresh", y.reshape(-1), wanted)))


def check_options(*, form: str, lam: float | None, tol: float, max_iterations: int, dtype: np.dtype) -> None:
    """Refuse what makes no sense.

    Raises:
      ValueError: says what was expected, what came and what to do.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}: got {form!r}.")
    if lam is not None and not (math.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam (penalty weight) must be positive and finite: got {lam}.")
    if lam == 0:
        raise ValueError(
            "lam (penalty weight) must be positive: got 0. Without the penalty nothing bounds the weights, the optimum need not exist, and "
            "there is no certificate; a hundredth or thousandth of lam_max comes near it."
        )
    floor = 20 * float(np.finfo(dtype).eps)
    if not floor <= tol < math.inf:
        raise ValueError(f"tol (relative gap) must be finite and at least {floor:.1e} in {dtype}: got {tol}.")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int | np.integer) or max_iterations < 1:
        raise ValueError(f"max_iterations must be a whole number of at least 1: got {max_iterations!r}.")


def own_patterns(D: Any, n: int, dtype: np.dtype) -> np.ndarray:
    """Patterns that a user brings, [n, P].

    Raises:
      ValueError: not a matrix of zeros and ones with a row for each sample.
    """
    D = np.asarray(D)
    if D.ndim != 2 or D.shape[0] != n or D.shape[1] < 1 or not np.all((D == 0) | (D == 1)):
        raise ValueError(
            f"D must be a matrix [n, P] of zeros and ones with n={n} rows: got {D.dtype} of shape {D.shape}."
        )
    return D.astype(dtype)


def _numbers(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"{name} must hold real numbers: got dtype {array.dtype}.")
    bad = int(np.sum(~np.isfinite(array)))
    if bad:
        raise ValueError(
            f"{name} must be finite: {bad} of {array.size} entries are NaN or infinite. Drop or fill them."
        )
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _dtype(X: np.ndarray, dtype: Any) -> np.dtype:
    wide = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    if dtype is None:
        return np.dtype(np.float64 if wide and X.dtype != np.float32 else np.float32)
    wanted = np.dtype(dtype)
    if wanted not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64: got {wanted}.")
    if wanted == np.float64 and not wide:
        raise ValueError(
            "dtype float64 needs JAX's 64-bit mode: call jax.config.update('jax_enable_x64', True) first, or ask for float32."
        )
    return wanted


def _check_signs(y: np.ndarray, loss: str) -> None:
    found = np.unique(y)
    if not np.all(np.isin(found, (-1, 1))):
        shown = ", ".join(f"{v:g}" for v in found[:4]) + (", ..." if found.size > 4 else "")
        hint = " Labels 0 and 1 become them by 2 * y - 1." if np.all(np.isin(found, (0, 1))) else ""
        raise ValueError(f"loss {loss} expects labels -1 and 1: y holds {shown}.{hint}")
    for k in range(y.shape[1]):
        if np.all(y[:, k] == y[0, k]):
            where = f" in output {k} of y" if y.shape[1] > 1 else ""
            raise ValueError(f"loss {loss} needs both labels, -1 and 1: all {len(y)}{where} are {y[0, k]:g}.")


def _weights(weights: Any, n: int) -> np.ndarray:
    if weights is None:
        return np.ones(n)
    weights = _numbers("weights", weights)
    if weights.shape != (n,) or np.any(weights < 0) or not np.any(weights > 0):
        raise ValueError(f"weights must be n={n} numbers, none negative and not all zero: got shape {weights.shape}.")
    return weights.astype(np.float64)


def _cast(name: str, array: np.ndarray, wanted: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if not np.all(np.isfinite(cast)):
        raise ValueError(f"{name} holds numbers beyond the range of {wanted}: use float64, or other units.")
    return cast
