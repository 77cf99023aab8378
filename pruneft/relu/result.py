"""What `fit` returns, and its form on disk."""

from __future__ import annotations

import abc
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from pruneft.files import save_arrays
from pruneft.relu.neurons import Network, with_ones
from pruneft.relu.patterns import Patterns
from pruneft.status import Status, is_ok, message


@dataclass(frozen=True, kw_only=True)
class Proven(abc.ABC):
    """What every fit has: bounds, how it ended, a network, and its form on disk.

    Attributes:
      objective: loss and penalty of the returned weights; an upper bound of the optimum.
      dual: a lower bound of the optimum.
      gap: ``(objective - dual) / |objective|``.
      iterations: of the solver.
      status: how it ended; ``ok`` and ``message`` follow from it.
      network: the neurons, dead ones left out; None where there are none to be had.
      network_objective: the non-convex objective of that network; equals ``objective`` to rounding. NaN without a network.
      lam: the penalty weight; ``lam_max``: a weight from which on all is zero.
      loss, dtype, bias: as asked for.
      history: bounds along the iterations, arrays by name.
      notes: what a user should know about this fit.
    """

    objective: float
    dual: float
    gap: float
    iterations: int
    status: Status
    network: Network | None = field(repr=False)
    network_objective: float
    lam: float
    lam_max: float
    loss: str
    dtype: str
    bias: bool
    history: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the optimum was certified to the tolerance that was asked for, and is not zero."""
        return is_ok(self.status)

    @property
    def message(self) -> str:
        """What the status means and what to do about it."""
        return message(self.status, "relu")

    @property
    def neurons(self) -> int:
        """How many neurons the network has; 0 without one."""
        return 0 if self.network is None else self.network.neurons

    def summary(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON-able values; what is not finite is None."""
        numbers = {name: float(getattr(self, name)) for name in self._numbers()}
        return {
            "status": self.status.name.lower(),
            "ok": self.ok,
            "message": self.message,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "iterations": self.iterations,
            "neurons": self.neurons,
            **self._more(),
            **{name: getattr(self, name) for name in ("loss", "dtype", "bias")},
            "notes": list(self.notes),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What `save` writes: V, W, D, H, the neurons u and alpha (if any), histories and numbers by name."""
        found = self._blocks()
        if self.network is not None:
            found |= {"u": np.asarray(self.network.u), "alpha": np.asarray(self.network.alpha)}
        found |= {f"history_{name}": values for name, values in self.history.items()}
        found |= {name: np.asarray(getattr(self, name)) for name in (*self._numbers(), "iterations")}
        return found | {"status": np.asarray(int(self.status)), "summary": np.asarray(json.dumps(self.summary()))}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `arrays` as an .npz file, whole or not at all.

        Raises:
          OSError: the file cannot be written; whatever stood there before is untouched.
        """
        return save_arrays(path, self.arrays())

    def _numbers(self) -> tuple[str, ...]:
        return ("objective", "dual", "gap", "network_objective", "lam", "lam_max")

    @abc.abstractmethod
    def _more(self) -> dict[str, Any]:
        """What else the summary holds."""

    @abc.abstractmethod
    def _blocks(self) -> dict[str, np.ndarray]:
        """The arrays of the program and its solution."""


@dataclass(frozen=True, kw_only=True)
class Fit(Proven):
    """A network trained to the optimum of its convex program, with the proof of how near it is.

    Beside what `Proven` holds. With several outputs the numbers are sums over outputs, iterations those of the slowest, and arrays have
    one axis more in front. ``lam_max`` is exact for the relaxed form, and an upper bound for the exact one. The network is None where the
    blocks are none (relaxed form, see ``notes``). ``history`` holds ``iteration`` [T], ``objective`` [T], ``dual`` [T]; of a recorded fit
    also ``seconds`` (of the solver, compiled), ``error`` on the training data and ``fresh_error``: the share of wrong signs, or the
    relative error.

    Attributes:
      U: [d, p] the blocks, in the order of `pruneft.relu.Program`.
      V, W: [d, P] blocks of positive and of negative second layer; W is empty, [d, 0], in the relaxed form. Every cone holds.
      linear: [d] the linear part; zeros without one.
      patterns: D, H that were used.
      form, method: as asked for.
    """

    U: np.ndarray = field(repr=False)
    V: np.ndarray = field(repr=False)
    W: np.ndarray = field(repr=False)
    linear: np.ndarray = field(repr=False)
    patterns: Patterns = field(repr=False)
    form: str
    method: str

    def predict(self, X: Any) -> np.ndarray:
        """Predictions [n], or [n, K]: the network's, or those by gates where there is no network.

        For the losses of labels -1 and 1 they are scores; their signs are labels.

        Raises:
          ValueError: X does not fit, or there is no network and the patterns were given without directions.
        """
        return self.gated(X) if self.network is None else np.asarray(self.network(jnp.asarray(X, self.dtype)))

    def gated(self, X: Any) -> np.ndarray:
        """Predictions ``sum_j 1[x h_j >= 0] x u_j`` with the directions of the patterns as gates: what a relaxed fit defines.

        Raises:
          ValueError: X does not fit, or the directions are not known.
        """
        if not np.any(self.patterns.H):
            raise ValueError(
                "the patterns have no directions, so gates are known on the training data only: use form='exact'."
            )
        X = jnp.asarray(X, self.dtype)
        d = self.V.shape[-2]
        if X.ndim != 2 or X.shape[1] != d - self.bias:
            raise ValueError(f"expected X with {d - self.bias} columns (no column of ones): got shape {X.shape}.")
        wide = np.asarray(with_ones(X) if self.bias else X)
        gates = wide @ self.patterns.H >= 0
        blocks = self.V - self.W if self.W.shape[-1] else self.V
        found = np.sum(gates * (wide @ blocks), axis=-1) + self.linear @ wide.T
        return found if found.ndim == 1 else found.T

    def _more(self) -> dict[str, Any]:
        return {
            "patterns": int(self.patterns.D.shape[1]),
            "complete": self.patterns.complete,
            "form": self.form,
            "method": self.method,
        }

    def _blocks(self) -> dict[str, np.ndarray]:
        return {"V": self.V, "W": self.W, "linear": self.linear, "D": self.patterns.D, "H": self.patterns.H}
