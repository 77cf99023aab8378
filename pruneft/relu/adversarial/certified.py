"""What no attack can do to a two-layer ReLU network: bounds of its worst score at any sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.relu.adversarial.norms import ball_named
from pruneft.relu.neurons import Network, with_ones


def certified_margin(
    network: Network,
    X: Float[Array, "n features"],
    y: Float[Array, " n"],
    *,
    eps: float | Float[Array, ""],
    norm: str | float = "inf",
) -> Float[Array, " n"]:
    """A lower bound of ``y f`` at every sample under every attack of size eps; [n].

    Neurons that no attack brings across zero are one linear model, whose worst value is exact. A neuron that can cross counts with
    what is worst for it alone: nothing where it helps, all that an attack can give it where it hurts. At the samples that a network was
    fitted to robustly no neuron can cross, and the bound is exact.

    Args:
      network: with one output.
      X: [n, features] samples, without a column of ones.
      y: [n] labels, -1 and 1.
      eps: radius of the attack.
      norm: of the attack.
    """
    ball = ball_named(norm)
    X = jnp.asarray(X, network.u.dtype)
    mask = jnp.ones(X.shape[1], X.dtype)
    if network.bias:
        X, mask = with_ones(X), jnp.append(mask, jnp.zeros((), X.dtype))
    values = X @ network.u
    reach = eps * ball.dual(network.u.T, mask)
    stable = jnp.abs(values) >= reach
    on = (stable & (values > 0)).astype(X.dtype)
    local = (on * network.alpha) @ network.u.T + network.linear
    straight = y * jnp.sum(local * X, axis=1) - eps * ball.dual(local, mask)
    hurts = jax.nn.relu(-y[:, None] * network.alpha) * jax.nn.relu(values + reach)
    return straight - jnp.sum(jnp.where(stable, 0, hurts), axis=1)


def certified_accuracy(
    network: Network,
    X: Float[Array, "n features"],
    y: Float[Array, " n"],
    *,
    eps: float | Float[Array, ""],
    norm: str | float = "inf",
) -> Float[Array, ""]:
    """Share of samples that stay on the right side under every attack, as far as `certified_margin` can prove it."""
    return jnp.mean((certified_margin(network, X, y, eps=eps, norm=norm) > 0).astype(network.u.dtype))
