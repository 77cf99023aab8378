"""The convex programs of two-layer ReLU networks, as blocks that share one pair of products.

A block g is a vector u_g in R^d with a pattern column S_g in {-1, 0, 1}^n; the prediction is ``F u = sum_g S_g * (X u_g)``
and the penalty ``lam * sum_g ||u_g||``. A block with cones must also satisfy ``(2 |S_g| - 1) * (X u_g) >= 0``: then
``S_g * (X u_g)`` is what a ReLU neuron computes.

* exact: blocks v_1..v_P with S = D and w_1..w_P with S = -D, all with cones (Pilanci, Ergen, arXiv:2002.10553);
* relaxed (gated): one block for each pattern, S = D, no cones; its optimum is never above the exact one's;
* skip: one more block in front, S = 1 and no cones, the linear part of a network with a skip connection.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.relu.loss import Loss, loss_named

FORMS = ("exact", "relaxed")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Program:
    """One convex program; a pytree, so that a vmap may run over any of its arrays.

    Attributes:
      X: [n, d] data, a column of ones for a bias included. Padded rows and columns are zero.
      y: [n] labels, real or -1 and 1, as the loss asks.
      D: [n, P] patterns, 0 and 1. A padded pattern is a zero column, and inert.
      H: [d, P] a direction in the interior of each pattern's cone: ``(2 D - 1) * (X H) > 0``, from which infeasible points are repaired.
      lam: scalar penalty weight.
      weights: [n] row weights of the loss; zero for a padded row.
      loss: ``"squared"``, ``"hinge"`` or ``"bce"``.
      form: ``"exact"`` or ``"relaxed"``.
      skip: whether a linear block without cones comes first.
    """

    X: Any  # Float[Array, "n d"]; JAX rebuilds the object around batches, shapes and placeholders too
    y: Any  # Float[Array, "n"]
    D: Any  # Float[Array, "n P"]
    H: Any  # Float[Array, "d P"]
    lam: Any  # Float[Array, ""]
    weights: Any  # Float[Array, "n"]
    loss: str = field(metadata={"static": True})
    form: str = field(default="exact", metadata={"static": True})
    skip: bool = field(default=False, metadata={"static": True})

    @property
    def n(self) -> int:
        """Samples, padding included."""
        return int(self.X.shape[-2])

    @property
    def d(self) -> int:
        """Features, the bias included."""
        return int(self.X.shape[-1])

    @property
    def P(self) -> int:
        """Patterns, padding included."""
        return int(self.D.shape[-1])

    @property
    def S(self) -> Float[Array, "n p"]:
        """The pattern column of every block."""
        parts = [jnp.ones((self.n, 1), self.D.dtype)] if self.skip else []
        parts += [self.D, -self.D] if self.form == "exact" else [self.D]
        return jnp.concatenate(parts, axis=1)

    @property
    def coned(self) -> np.ndarray:
        """[p] which blocks have cones; known before tracing."""
        blocks = 2 * self.P if self.form == "exact" else self.P
        return np.array([False] * self.skip + [self.form == "exact"] * blocks)

    @property
    def losses(self) -> Loss:
        """The functions of the loss."""
        return loss_named(self.loss)

    def predict(self, U: Float[Array, "d p"]) -> Float[Array, " n"]:
        """F U, the prediction of the blocks ``U``."""
        return jnp.sum(self.S * (self.X @ U), axis=1)

    def pull(self, nu: Float[Array, " n"]) -> Float[Array, "d p"]:
        """F^T nu."""
        return self.X.T @ (self.S * nu[:, None])

    def objective(self, U: Float[Array, "d p"]) -> Float[Array, ""]:
        """Loss and penalty at the blocks ``U``; says nothing about the cones."""
        fit = self.losses.value(self.predict(U), self.y, self.weights)
        return fit + self.lam * jnp.sum(jnp.linalg.norm(U, axis=0))

    def at_zero(self) -> Float[Array, ""]:
        """The objective where every block is zero, the loss of predicting zero.

        Without the products with zero blocks: XLA 0.10's fusion of such a product with a constant, from some size on, computes NaN on CPUs.
        """
        return self.losses.value(jnp.zeros_like(self.y), self.y, self.weights)

    def padded(self, n: int, d: int, P: int) -> Program:
        """The same program with zero rows, columns and patterns behind its own, up to these sizes: its solution is padded with zeros."""

        def grown(array: Array, *sizes: int) -> Array:
            return jnp.pad(array, [(0, size - own) for size, own in zip(sizes, array.shape, strict=True)])

        return dataclasses.replace(
            self,
            X=grown(self.X, n, d),
            y=grown(self.y, n),
            D=grown(self.D, n, P),
            H=grown(self.H, d, P),
            weights=grown(self.weights, n),
        )

    def unpadded(self, U: Float[Array, "*batch rows blocks"], P: int) -> Float[Array, "*batch d p"]:
        """The blocks of this program in those of one that is padded to P patterns."""
        first = int(self.skip)
        starts = [first + P * part for part in range(2 if self.form == "exact" else 1)]
        parts = [U[..., : self.d, start : start + self.P] for start in starts]
        return jnp.concatenate([U[..., : self.d, :first], *parts], axis=-1)
