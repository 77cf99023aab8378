r"""The convex program of adversarial training: the plain one with worst losses and robust cones.

Over blocks v_i and w_i, one pair for each pattern D_i,

    minimise   sum_k weight_k l_worst(c_k) + lam sum_i (||v_i|| + ||w_i||),      c_k = sum_i D_ki (v_i - w_i),
    subject to (2 D_i - I) X v_i >= r ||v_i||_*,  the same for w_i,

with r_k how far sample k may be moved and ``||.||_*`` the dual norm over the attacked features. In a robust cone a neuron keeps its
side of zero under every attack, so the network's worst loss is exactly the program's. A pattern whose robust cone is {0} can have
no neuron: its column must be zero here, which makes it inert.

Source: Bai, Gautam, Sojoudi, arXiv:2201.01965; the dual and the repair derived (ours).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pruneft.relu.adversarial import losses
from pruneft.relu.adversarial.norms import Ball, ball_named
from pruneft.relu.program import Program


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RobustProgram:
    """One robust program; a pytree, so that a vmap may run over any of its arrays.

    Attributes:
      plain: the program without attacks, of form ``"exact"`` without skip block. Its ``H`` must be interior
        directions of the *robust* cones, its ``D`` zero in columns that have none.
      radius: [n] how far each sample may be moved; zero for a padded row.
      mask: [d] features that are attacked, 1 or 0; 0 for the bias.
      norm: of the attack, ``"inf"``, ``"2"`` or ``"1"``.
    """

    plain: Program
    radius: Float[Array, " n"]
    mask: Float[Array, " d"]
    norm: str = field(default="inf", metadata={"static": True})

    @property
    def ball(self) -> Ball:
        """The functions of the norm."""
        return ball_named(self.norm)

    @property
    def data(self) -> losses.Attacked:
        """What the losses need."""
        return losses.Attacked(self.plain.X, self.plain.y, self.radius, self.mask)

    @property
    def signs(self) -> Float[Array, "n p"]:
        """2 D - 1 for every block: the side of zero on which each neuron keeps each sample."""
        return 2 * jnp.abs(self.plain.S) - 1

    @property
    def live(self) -> Bool[Array, " p"]:
        """Which blocks may be other than zero."""
        return jnp.any(self.plain.S != 0, axis=0)

    def local(self, U: Float[Array, "d p"]) -> Float[Array, "n d"]:
        """The local linear models c_k, as rows."""
        return self.plain.S @ U.T

    def slack(self, U: Float[Array, "d p"]) -> Float[Array, "n p"]:
        """How far each block is inside each robust half-space; all at least zero where it is feasible."""
        return self.signs * (self.plain.X @ U) - self.radius[:, None] * self.ball.dual(U.T, self.mask)

    def loss(self, U: Float[Array, "d p"]) -> Float[Array, ""]:
        """The worst loss alone."""
        plain = self.plain
        return losses.value(plain.losses, self.ball, self.data, self.local(U), plain.weights)

    def objective(self, U: Float[Array, "d p"]) -> Float[Array, ""]:
        """Worst loss and penalty; says nothing about the cones."""
        return self.loss(U) + self.plain.lam * jnp.sum(jnp.linalg.norm(U, axis=0))
