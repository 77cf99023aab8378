"""What `fit_robust` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from pruneft.relu.adversarial.certified import certified_accuracy
from pruneft.relu.adversarial.patterns import RobustPatterns
from pruneft.relu.neurons import Network
from pruneft.relu.result import Proven


@dataclass(frozen=True, kw_only=True)
class RobustFit(Proven):
    """A network trained against attacks to the optimum of its convex program, with the proof of how near it is.

    Beside what `Proven` holds; ``objective`` is the worst loss under every attack on the training data, with the penalty, and
    ``network_objective`` is computed from the network alone.

    Attributes:
      V, W: [d, P] blocks of positive and of negative second layer; every robust cone holds.
      slack: least slack of the network's neurons in the robust half-spaces: at least zero, so no attack on a training sample turns a neuron
        on or off. Infinity without neurons.
      robust_loss: the worst loss alone, under every attack; exact, from the network.
      clean_loss: the loss at the data as they are.
      patterns: those used, and how many were dropped.
      eps, norm: the attack.
    """

    network: Network = field(repr=False)  # always there in the exact form
    V: np.ndarray = field(repr=False)
    W: np.ndarray = field(repr=False)
    slack: float
    robust_loss: float
    clean_loss: float
    patterns: RobustPatterns = field(repr=False)
    eps: float
    norm: str

    def predict(self, X: Any) -> np.ndarray:
        """Predictions [n]; for hinge and bce scores, whose signs are labels."""
        return np.asarray(self.network(jnp.asarray(X, self.dtype)))

    def certified_accuracy(self, X: Any, y: Any) -> float:
        """Share of samples that provably stay on the right side under every attack of this fit's eps; exact on the training data."""
        X, y = jnp.asarray(X, self.dtype), jnp.asarray(y, self.dtype)
        return float(certified_accuracy(self.network, X, y, eps=self.eps, norm=self.norm))

    def _numbers(self) -> tuple[str, ...]:
        return (*super()._numbers(), "slack", "robust_loss", "clean_loss", "eps")

    def _more(self) -> dict[str, Any]:
        return {"patterns": int(self.patterns.D.shape[1]), "dropped": self.patterns.dropped, "norm": self.norm}

    def _blocks(self) -> dict[str, np.ndarray]:
        return {"V": self.V, "W": self.W, "D": self.patterns.D, "H": self.patterns.H}
