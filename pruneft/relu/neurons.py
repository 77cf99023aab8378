"""From the blocks of a convex program to the neurons of a network, at the same objective.

A block v with ``(2 D_i - 1) * (X v) >= 0`` is the neuron ``u = v / sqrt(||v||)``, ``alpha = sqrt(||v||)``: ``(X u)_+ alpha = D_i X v``, and
``(||u||^2 + alpha^2) / 2 = ||v||``. A block w gives the same with ``alpha = -sqrt(||w||)``.

Source: Pilanci, Ergen, arXiv:2002.10553; Bai, Gautam, Sojoudi, arXiv:2201.01965.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pruneft.relu import gap
from pruneft.relu.program import Program


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Network:
    """A two-layer ReLU network ``f(x) = sum_j (x u_j)_+ alpha_j``, with a linear part where it was trained with one; a pytree.

    Attributes:
      u: [d, m] first layer, a bias weight in the last row where ``bias``.
      alpha: [m] second layer, or [m, K] for K outputs.
      linear: [d] or [d, K], the linear part; zeros without one.
      bias: whether a column of ones is appended to what is predicted from.
    """

    u: Any  # Float[Array, "d m"]; JAX rebuilds the object around batches, shapes and placeholders too
    alpha: Any  # Float[Array, "m"] or Float[Array, "m K"]
    linear: Any  # Float[Array, "d"] or Float[Array, "d K"]
    bias: bool = field(default=False, metadata={"static": True})

    @property
    def neurons(self) -> int:
        """How many neurons there are."""
        return int(self.u.shape[-1])

    def __call__(self, X: Float[Array, "n features"]) -> Float[Array, "..."]:
        """Predictions [n], or [n, K]; scores for the losses of labels -1 and 1.

        Raises:
          ValueError: X has another number of features than the network was trained on.
        """
        X = jnp.asarray(X, self.u.dtype)
        features = self.u.shape[-2] - self.bias
        if X.ndim != 2 or X.shape[1] != features:
            raise ValueError(f"expected X with {features} columns (no column of ones): got shape {X.shape}.")
        if self.bias:
            X = with_ones(X)
        return jax.nn.relu(X @ self.u) @ self.alpha + X @ self.linear

    def penalty(self) -> Float[Array, ""]:
        """``sum_j (||u_j||^2 + ||alpha_j||^2) / 2``, and the norms of the linear parts: what lam weighs."""
        straight = (
            jnp.sum(jnp.linalg.norm(self.linear, axis=0)) if self.linear.ndim > 1 else jnp.linalg.norm(self.linear)
        )
        return (jnp.sum(self.u**2) + jnp.sum(self.alpha**2)) / 2 + straight


def with_ones(X: Float[Array, "n d"]) -> Float[Array, "n e"]:
    """X with a column of ones behind it."""
    return jnp.concatenate([X, jnp.ones((X.shape[0], 1), X.dtype)], axis=1)


def neurons(program: Program, U: Float[Array, "d p"]) -> tuple[Float[Array, "d q"], Float[Array, " q"]]:
    """First and second layer of every block but the linear one; zero where the block is. Safe under jit and vmap.

    The blocks must satisfy their cones, or, in a relaxed program, they or their negatives those of their patterns: see `as_neurons`.
    """
    first = int(program.skip)
    blocks = U[:, first:]
    length = jnp.sqrt(jnp.linalg.norm(blocks, axis=0))
    u = blocks / jnp.where(length > 0, length, 1)
    if program.form == "exact":
        sign = jnp.concatenate([jnp.ones(program.P, u.dtype), -jnp.ones(program.P, u.dtype)])
        return u, sign * length
    # A relaxed block whose negative lies in the cone is D X w = -(X (-w))_+.
    negative = jnp.all((2 * program.D - 1) * (program.X @ u) <= 0, axis=0)
    sign = jnp.where(negative, -1, 1).astype(u.dtype)
    return u * sign, length * sign


def predict(program: Program, U: Float[Array, "d p"], X: Float[Array, "m d"]) -> Float[Array, " m"]:
    """Of samples X, which hold the column of ones where there is a bias: by the neurons of the blocks, or, relaxed, by gates.

    A relaxed program need not have neurons; what it defines is ``sum_j 1[x h_j >= 0] x u_j`` with the directions of its patterns.
    """
    first = int(program.skip)
    straight = X @ U[:, 0] if first else jnp.zeros(X.shape[0], X.dtype)
    if program.form == "relaxed":
        return straight + jnp.sum(jnp.where(X @ program.H >= 0, X @ U[:, first:], 0), axis=1)
    u, alpha = neurons(program, U)
    return straight + jax.nn.relu(X @ u) @ alpha


def misplaced(program: Program, U: Float[Array, "d p"]) -> Bool[Array, " p"]:
    """Which blocks are no neurons: those for which neither they nor, relaxed, their negatives lie in the cone."""
    if program.form == "exact":
        return ~gap.holds(program, U)
    first = int(program.skip)
    slack = (2 * program.D - 1) * (program.X @ U[:, first:])
    bad = ~(jnp.all(slack >= 0, axis=0) | jnp.all(slack <= 0, axis=0))
    return jnp.concatenate([jnp.zeros(first, bool), bad])


@jax.jit
def _parts(
    program: Program, U: Float[Array, "d p"]
) -> tuple[Float[Array, "d q"], Float[Array, " q"], Bool[Array, " p"]]:
    return *neurons(program, U), misplaced(program, U)


def network(
    programs: Sequence[Program], blocks: Sequence[Float[Array, "d p"]], *, bias: bool = False
) -> Network | None:
    """The network of one solution, or of one for each output, without dead neurons; None if a relaxed one is no network.

    On the host, because the number of neurons depends on the data.
    """
    parts, alphas, linear = [], [], []
    for k, (program, U) in enumerate(zip(programs, blocks, strict=True)):
        u, alpha, bad = (np.asarray(part) for part in _parts(program, U))
        if bad.any():
            return None
        live = alpha != 0
        parts.append(u[:, live])
        column = np.zeros((int(live.sum()), len(blocks)), alpha.dtype)
        column[:, k] = alpha[live]
        alphas.append(column)
        linear.append(np.asarray(U[:, 0]) if program.skip else np.zeros(program.d, u.dtype))
    alpha, straight = np.concatenate(alphas), np.stack(linear, axis=1)
    if len(blocks) == 1:
        alpha, straight = alpha[:, 0], straight[:, 0]
    return Network(
        u=jnp.asarray(np.concatenate(parts, axis=1)), alpha=jnp.asarray(alpha), linear=jnp.asarray(straight), bias=bias
    )


def network_objective(programs: Sequence[Program], network: Network) -> Float[Array, ""]:
    """The non-convex objective of a network on the data of its programs: losses of all outputs, and ``lam`` times `Network.penalty`.

    The programs share X, with its column of ones, and lam.
    """
    first = programs[0]
    prediction = jax.nn.relu(first.X @ network.u) @ network.alpha + first.X @ network.linear
    columns = prediction.reshape(first.n, -1).T
    losses = [each.losses.value(f, each.y, each.weights) for each, f in zip(programs, columns, strict=True)]
    return jnp.sum(jnp.stack(losses)) + first.lam * network.penalty()
