"""Attacks on any differentiable prediction: one gradient step, projected gradient ascent, every corner of a box.

``predict`` takes samples [n, d] to scores [n], each from its own row. An attack moves every sample by at most eps in the norm of the
attack, to where its score does most harm: the least ``y f`` for labels -1 and 1, the largest ``|f - y|`` for real ones. All are pure
functions of arrays, batched, and safe under jit and vmap.

Source: FGSM, Goodfellow, Shlens, Szegedy, arXiv:1412.6572; PGD, Madry et al., arXiv:1706.06083.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.relu.adversarial.norms import ball_named

Predict = Callable[[Any], Any]
Samples = Float[Array, "n d"]
Scores = Float[Array, " n"]

CORNERS_UP_TO = 12


def harm(predict: Predict, X: Samples, y: Scores, labels: str = "sign") -> Scores:
    """What an attack makes large: ``-y f`` for labels -1 and 1 (``"sign"``), ``|f - y|`` for real ones (``"real"``).

    Raises:
      ValueError: ``labels`` is neither.
    """
    if labels not in ("sign", "real"):
        raise ValueError(f"labels must be 'sign' (-1 and 1) or 'real': got {labels!r}.")
    f = predict(X)
    return -y * f if labels == "sign" else jnp.abs(f - y)


def fgsm(
    predict: Predict,
    X: Samples,
    y: Scores,
    *,
    eps: float | Float[Array, ""],
    norm: str | float = "inf",
    labels: str = "sign",
) -> Samples:
    """The samples, moved to the boundary of the ball along the gradient of the harm. A sample without gradient stays."""
    ball, everything = ball_named(norm), jnp.ones(X.shape[1], X.dtype)
    slope = jax.grad(lambda X: jnp.sum(harm(predict, X, y, labels)))(X)
    return X + jnp.asarray(eps, X.dtype) * ball.worst(slope, everything)


def pgd(
    predict: Predict,
    X: Samples,
    y: Scores,
    key: Array,
    *,
    eps: float | Float[Array, ""],
    norm: str | float = "inf",
    labels: str = "sign",
    steps: int = 40,
    starts: int = 5,
    rate: float | None = None,
) -> Samples:
    """The most harmful of all points that projected gradient ascent visits, for every sample.

    Args:
      predict: the prediction.
      X: [n, d] samples.
      y: [n] labels.
      key: of the random starts; the first start is the sample itself.
      eps: radius.
      norm: of the attack.
      labels: ``"sign"`` or ``"real"``.
      steps: gradient steps from each start.
      starts: how many starts.
      rate: length of a step in units of eps; 2.5 / steps if not given, but at least 0.1.
    """
    ball, everything = ball_named(norm), jnp.ones(X.shape[1], X.dtype)
    eps = jnp.asarray(eps, X.dtype)
    length = eps * (max(2.5 / steps, 0.1) if rate is None else rate)

    def visit(carry: tuple[Samples, Samples, Scores], _: None) -> tuple[tuple[Samples, Samples, Scores], None]:
        delta, best, most = carry
        slope = jax.grad(lambda delta: jnp.sum(harm(predict, X + delta, y, labels)))(delta)
        # A flat place (dead neurons) has no gradient: there the sample stays, and other starts must do.
        delta = ball.project(delta + length * ball.worst(slope, everything), eps)
        return (delta, *_keep(predict, X, y, labels, delta, best, most)), None

    def from_start(delta: Samples) -> tuple[Samples, Scores]:
        start = (delta, delta, harm(predict, X + delta, y, labels))
        (_, best, most), _ = jax.lax.scan(visit, start, None, length=steps)
        return best, most

    here = jnp.zeros((1, *X.shape), X.dtype)
    begin = jnp.concatenate([here, eps * ball.random(key, (starts - 1, *X.shape), everything)])
    deltas, harms = jax.lax.map(from_start, begin)
    chosen = jnp.argmax(harms, axis=0)
    return X + jnp.take_along_axis(deltas, chosen[None, :, None], axis=0)[0]


def corners(predict: Predict, X: Samples, y: Scores, *, eps: float | Float[Array, ""], labels: str = "sign") -> Samples:
    """The most harmful corner of every sample's l_inf box, by trying all 2^d; for predictions that are linear on the box, the worst point.

    Raises:
      ValueError: more than twelve features.
    """
    n, d = X.shape
    if d > CORNERS_UP_TO:
        raise ValueError(f"all 2^d corners are tried for at most {CORNERS_UP_TO} features: got d={d}. Use pgd.")
    signs = np.array(np.meshgrid(*[(-1.0, 1.0)] * d, indexing="ij")).reshape(d, -1).T
    shifts = jnp.asarray(eps, X.dtype) * jnp.asarray(signs, X.dtype)

    def visit(carry: tuple[Samples, Scores], shift: Array) -> tuple[tuple[Samples, Scores], None]:
        return _keep(predict, X, y, labels, jnp.broadcast_to(shift, X.shape), *carry), None

    start = (jnp.zeros_like(X), jnp.full(n, -math.inf, X.dtype))
    (delta, _), _ = jax.lax.scan(visit, start, shifts)
    return X + delta


def _keep(
    predict: Predict, X: Samples, y: Scores, labels: str, delta: Samples, best: Samples, most: Scores
) -> tuple[Samples, Scores]:
    """The more harmful of two moves of every sample."""
    now = harm(predict, X + delta, y, labels)
    return jnp.where((now > most)[:, None], delta, best), jnp.maximum(now, most)


def accuracy(predict: Predict, X: Samples, y: Scores) -> Float[Array, ""]:
    """Share of samples whose score has the sign of y (-1 or 1); a score of zero counts as wrong.

    At attacked samples this is the robust accuracy against that attack: an upper bound of the true one, unless all corners were
    tried on a prediction that is linear in every box.
    """
    return jnp.mean((y * predict(X) > 0).astype(X.dtype))
