r"""The linear map of a minimum-norm program: one block of weights for each pattern, and the products with all of them.

With patterns D_j the prediction of the blocks W is :math:`A W = \sum_g A_g w_g`, where

* plain: :math:`A_j = D_j X`, one block for each pattern;
* skip: the same, and a linear block :math:`A_0 = X` in front;
* normalised: :math:`A_j = U_j`, an orthonormal basis of the range of :math:`D_j X = U_j \Sigma_j V_j^T`: what a neuron behind
  a normalisation layer can say.

Source: Wang, Hua, Candes, Pilanci, arXiv:2209.15265.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MODELS = ("plain", "skip", "normalised")
_RANK = {8: 1e-10, 4: 1e-5}  # by bytes of a number: singular values below this share of the largest count as zero


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Data and patterns of one program; a pytree, so that a vmap may run over any of its arrays. Made by `make_blocks`.

    Attributes:
      X: [n, d] data; padded rows and columns are zero.
      D: [n, P] patterns, 0 and 1; a zero column is padding, and inert.
      U: [n, d, P] orthonormal bases of the ranges of ``D_j X``, zero columns behind them where its rank is less than d; None
        but for the normalised model.
      back: [d, d, P] ``V_j / Sigma_j``: ``back_j w`` are the weights of a neuron in the data's coordinates, ``D_j X back_j = U_j``.
        None but for the normalised model.
      model: ``"plain"``, ``"skip"`` or ``"normalised"``.
    """

    X: Any  # Float[Array, "n d"]; JAX rebuilds the object around batches, shapes and placeholders too
    D: Any  # Float[Array, "n P"]
    U: Any = None  # Float[Array, "n d P"]
    back: Any = None  # Float[Array, "d d P"]
    model: str = field(metadata={"static": True})

    @property
    def n(self) -> int:
        """Samples, padding included."""
        return int(self.X.shape[-2])

    @property
    def d(self) -> int:
        """Features, padding included."""
        return int(self.X.shape[-1])

    @property
    def P(self) -> int:
        """Patterns, padding included."""
        return int(self.D.shape[-1])

    @property
    def first(self) -> int:
        """The column of the first pattern's block: 1 where a linear block comes before it, else 0."""
        return int(self.model == "skip")

    @property
    def g(self) -> int:
        """Blocks, padding included."""
        return self.P + self.first

    @property
    def S(self) -> Float[Array, "n g"]:
        """The pattern of every block; ones for the linear block."""
        return jnp.concatenate([jnp.ones((self.n, self.first), self.D.dtype), self.D], axis=1)

    @property
    def live(self) -> Bool[Array, " g"]:
        """Which blocks are not padding."""
        return jnp.any((self.S != 0) & jnp.any(self.X != 0, axis=1)[:, None], axis=0)

    def apply(self, W: Float[Array, "d g"]) -> Float[Array, " n"]:
        """A W, the prediction of the blocks ``W``."""
        if self.model == "normalised":
            return self.U.reshape(self.n, -1) @ W.reshape(-1)
        return jnp.sum(self.S * (self.X @ W), axis=1)

    def adjoint(self, nu: Float[Array, " n"]) -> Float[Array, "d g"]:
        """A^T nu, one column for each block."""
        if self.model == "normalised":
            return (nu @ self.U.reshape(self.n, -1)).reshape(self.d, self.P)
        return self.X.T @ (self.S * nu[:, None])

    def gram(self) -> Float[Array, "n n"]:
        """A A^T."""
        if self.model == "normalised":
            rows = self.U.reshape(self.n, -1)
            return rows @ rows.T
        return (self.X @ self.X.T) * (self.S @ self.S.T)

    def predictions(self, W: Float[Array, "d g"]) -> Float[Array, "n g"]:
        """What every block says, ``A_g w_g``: the same whatever bases the normalised model has."""
        if self.model == "normalised":
            return jnp.einsum("ndp,dp->np", self.U, W)
        return self.S * (self.X @ W)


def make_blocks(
    X: Float[Array, "n d"], D: Float[Array, "n P"], model: str, live: Bool[Array, " P"] | None = None
) -> Blocks:
    """The blocks of a model; safe under jit and vmap.

    Args:
      X: [n, d] data.
      D: [n, P] patterns, 0 and 1, each once: a pattern that comes twice is two blocks that can share one neuron.
      model: ``"plain"``, ``"skip"`` or ``"normalised"``.
      live: [P], which columns of D count; the others become zero. All if None.

    Raises:
      ValueError: there is no such model, no pattern, shapes do not fit, or the normalised model has fewer samples than
        features: the pattern that is all ones then says anything, and nothing can be recovered.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}: got {model!r}.")
    n, d = X.shape
    if D.shape[0] != n:
        raise ValueError(f"D must have a row for each of the {n} rows of X: got shape {D.shape}.")
    if D.shape[1] == 0:
        raise ValueError(
            "there is no pattern left: D has no columns. Draw more directions, or keep every pattern once."
        )
    if model == "normalised" and n < d:
        raise ValueError(
            f"the normalised model needs at least as many samples as features: got n={n}, d={d}. Take more samples, or fewer features."
        )
    D = jnp.asarray(D, X.dtype)
    if live is not None:
        D = D * jnp.asarray(live, X.dtype)
    if model != "normalised":
        return Blocks(X=X, D=D, model=model)
    U, size, Vt = jnp.linalg.svd(D.T[:, :, None] * X, full_matrices=False)
    inside = size > _RANK[X.dtype.itemsize] * size[:, :1]
    U = jnp.where(inside[:, None, :], U, 0)
    back = jnp.where(inside[:, None, :], jnp.swapaxes(Vt, 1, 2) / jnp.where(inside, size, 1)[:, None, :], 0)
    return Blocks(X=X, D=D, U=jnp.moveaxis(U, 0, 2), back=jnp.moveaxis(back, 0, 2), model=model)
