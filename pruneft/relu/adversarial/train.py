"""Networks trained by descent, plainly or against PGD: what the convex program is compared with.

The same architecture, loss and penalty as the convex program: ``f(x) = sum_j (x u_j)_+ alpha_j``, lam times half the squared weights.
Full batch, AdamW with a cosine schedule, one scan under jit, all seeds side by side. Nothing is certified.

Source: AdamW, Loshchilov, Hutter, arXiv:1711.05101; training against PGD, Madry et al., arXiv:1706.06083.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pruneft.relu.adversarial.attacks import pgd
from pruneft.relu.adversarial.norms import ball_named
from pruneft.relu.loss import loss_named
from pruneft.relu.neurons import Network


def train_plain(
    X: Any, y: Any, *, loss: str, lam: float, neurons: int, seeds: Sequence[int] = (0,), **options: Any
) -> Network:
    """Networks trained on the data as they are, one for each seed; arrays have a leading axis of seeds.

    Args:
      X: [n, features] samples; y: [n] labels.
      loss: ``"squared"``, ``"hinge"`` or ``"bce"``; weighted as by `pruneft.relu.fit`, the mean for hinge and else the sum.
      lam: weight of ``sum_j (||u_j||^2 + alpha_j^2) / 2``.
      neurons: width.
      seeds: of the starts.
      options: ``steps`` (2000), ``rate`` (0.01), ``decay`` (0, the decoupled decay of AdamW), ``bias`` (False).
    """
    return train_pgd(X, y, loss=loss, lam=lam, neurons=neurons, seeds=seeds, eps=0.0, attack_steps=0, **options)


def train_pgd(
    X: Any,
    y: Any,
    *,
    loss: str,
    lam: float,
    neurons: int,
    eps: float,
    norm: str | float = "inf",
    seeds: Sequence[int] = (0,),
    steps: int = 2000,
    rate: float = 0.01,
    decay: float = 0.0,
    attack_steps: int = 7,
    bias: bool = False,
) -> Network:
    """Networks trained on samples that PGD attacks anew at every step, from one random start each.

    Args:
      X, y, loss, lam, neurons, seeds: as in `train_plain`.
      eps, norm: the attack.
      steps, rate, decay: of AdamW; the rate falls to zero along a cosine.
      attack_steps: gradient steps of the attack; 0 trains plainly.
      bias: the network has a bias in its first layer, which no attack moves.
    """
    X, y = jnp.asarray(X), jnp.asarray(y)
    weights = jnp.full(len(y), 1 / len(y) if loss == "hinge" else 1.0, X.dtype)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    static = (loss, neurons, ball_named(norm).name, steps, decay, attack_steps, bias)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies Python floats with counters
        return _train(*static, X, y.astype(X.dtype), weights, keys, jnp.asarray([lam, eps, rate], X.dtype))


@functools.partial(jax.jit, static_argnums=range(7))
def _train(
    loss: str,
    neurons: int,
    norm: str,
    steps: int,
    decay: float,
    attack_steps: int,
    bias: bool,
    X: Float[Array, "n d"],
    y: Float[Array, " n"],
    weights: Float[Array, " n"],
    keys: Array,
    numbers: Float[Array, "3"],
) -> Network:
    lam, eps, rate = numbers
    functions, d = loss_named(loss), X.shape[1]

    def start(key: Array) -> Network:
        first, second = jax.random.split(key)
        u = jax.random.normal(first, (d + bias, neurons), X.dtype) / jnp.sqrt(d + bias).astype(X.dtype)
        alpha = jax.random.normal(second, (neurons,), X.dtype) / jnp.sqrt(neurons).astype(X.dtype)
        return Network(u=u, alpha=alpha, linear=jnp.zeros(d + bias, X.dtype), bias=bias)

    def objective(weights_of: tuple[Array, Array], like: Network, samples: Array) -> Array:
        network = Network(u=weights_of[0], alpha=weights_of[1], linear=like.linear, bias=bias)
        return functions.value(network(samples), y, weights) + lam * network.penalty()

    optimizer = optax.inject_hyperparams(optax.adamw, static_args=("weight_decay",))(
        learning_rate=1.0, weight_decay=decay
    )

    def one(key: Array) -> Network:
        network = start(key)

        def step(carry: tuple[Any, Any], inputs: tuple[Array, Array]) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            key, share = inputs
            now = Network(u=params[0], alpha=params[1], linear=network.linear, bias=bias)
            samples = X
            if attack_steps:
                samples = pgd(now, X, y, key, eps=eps, norm=norm, labels=functions.labels, steps=attack_steps, starts=2)
            slope = jax.grad(objective)(params, network, jax.lax.stop_gradient(samples))
            state.hyperparams["learning_rate"] = rate * share
            updates, state = optimizer.update(slope, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = (network.u, network.alpha)
        share = (1 + jnp.cos(jnp.pi * jnp.arange(steps) / steps)).astype(X.dtype) / 2
        inputs = (jax.random.split(jax.random.fold_in(key, 1), steps), share)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), inputs)
        return Network(u=params[0], alpha=params[1], linear=network.linear, bias=bias)

    return jax.vmap(one)(keys)
