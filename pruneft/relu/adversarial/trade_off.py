"""Robust against clean accuracy over the radius of training: convex, and by descent for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.relu.adversarial.attacks import accuracy, pgd
from pruneft.relu.adversarial.certified import certified_accuracy
from pruneft.relu.adversarial.fit import fit_robust
from pruneft.relu.adversarial.train import train_pgd, train_plain
from pruneft.relu.neurons import Network

CONVEX, PLAIN, ON_ATTACKS = "convex", "AdamW", "AdamW on PGD samples"


class TradeOff(NamedTuple):
    """One network of a sweep over radii.

    Attributes:
      eps: radius of training.
      training: ``"convex"``, ``"AdamW"`` or ``"AdamW on PGD samples"``.
      attack: radius of the attack.
      clean: accuracy without attack.
      attacked: accuracy under PGD; the true robust accuracy is not above it.
      certified: share of samples that provably no attack turns; the true robust accuracy is not below it.
      neurons: of the network.
      objective, gap, status: of convex training; NaN, NaN and "" of descent.
    """

    eps: float
    training: str
    attack: float
    clean: float
    attacked: float
    certified: float
    neurons: int
    objective: float
    gap: float
    status: str


def trade_off(
    X: Any,
    y: Any,
    radii: Sequence[float],
    *,
    fresh: tuple[Any, Any] | None = None,
    attack: float | None = None,
    compare: bool = False,
    width: int = 50,
    steps: int = 2000,
    loss: str = "hinge",
    lam: float | None = None,
    norm: str | float = "inf",
    bias: bool = False,
    seed: int = 0,
    **options: Any,
) -> list[TradeOff]:
    """Train at every radius, and measure clean, attacked and certified accuracy.

    Args:
      X: [n, d] samples; y: [n] labels, -1 and 1.
      radii: of training, zero or more.
      fresh: samples (X, y) to measure on; the training data if not given.
      attack: radius of the attack that is measured; that of training if not given.
      compare: also train networks by AdamW, plain and on PGD samples, with the penalty weight of convex training.
      width, steps: of those networks.
      loss: ``hinge`` or ``bce``.
      lam: penalty weight; a twentieth of ``lam_max`` at each radius if not given.
      norm, bias, seed: as in `fit_robust`, for all.
      options: of `fit_robust`.

    Raises:
      ValueError: an argument makes no sense.
    """
    if loss not in ("hinge", "bce"):
        raise ValueError(f"accuracies are of labels -1 and 1: loss must be hinge or bce, got {loss!r}.")
    if not len(radii):
        raise ValueError("radii must hold at least one radius: got none.")
    if attack is not None and not (np.isfinite(attack) and attack >= 0):
        raise ValueError(f"attack (radius of the attack) must be a finite number, zero or more: got {attack!r}.")
    points, labels = (X, y) if fresh is None else fresh
    rows = []
    for eps in radii:
        found = fit_robust(X, y, eps=eps, loss=loss, lam=lam, norm=norm, bias=bias, seed=seed, **options)
        networks = {CONVEX: found.network}
        if compare:
            A, b = np.asarray(X, found.dtype), np.asarray(y, found.dtype)
            common: dict[str, Any] = {"loss": loss, "lam": found.lam, "neurons": width, "steps": steps}
            common |= {"seeds": (seed,), "bias": bias}
            networks[PLAIN] = _first(train_plain(A, b, **common))
            networks[ON_ATTACKS] = _first(train_pgd(A, b, eps=eps, norm=norm, **common))
        data, hidden = jnp.asarray(points, found.dtype), jnp.asarray(labels, found.dtype)
        radius = float(eps if attack is None else attack)
        for training, network in networks.items():
            moved = pgd(network, data, hidden, jax.random.key(seed), eps=radius, norm=norm)
            proven = training == CONVEX
            rows.append(
                TradeOff(
                    eps=float(eps),
                    training=training,
                    attack=radius,
                    clean=float(accuracy(network, data, hidden)),
                    attacked=float(accuracy(network, moved, hidden)),
                    certified=float(certified_accuracy(network, data, hidden, eps=radius, norm=norm)),
                    neurons=network.neurons,
                    objective=found.objective if proven else math.nan,
                    gap=found.gap if proven else math.nan,
                    status=found.status.name.lower() if proven else "",
                )
            )
    return rows


def _first(networks: Network) -> Network:
    """The network of the first seed."""
    first: Network = jax.tree.map(lambda part: part[0], networks)
    return first
