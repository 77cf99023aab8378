r"""Planted neurons: data of a network with none, one, two or three neurons, and the patterns of a program that looks for them.

* linear: :math:`y = X w` (for a network with a skip connection);
* neurons: :math:`y = \sum_i s_i (X w_i)_+`, each over its length on the data for a normalised network;

with noise of variance sigma^2 / n in every entry. Entries of X have variance 1 / n: Gaussian, cubed Gaussian, or either whitened
(:math:`X^T X = I`). All draws are made by counter, so an instance is the same whatever it is padded to.

Source: the planted models, Wang, Hua, Candes, Pilanci, arXiv:2209.15265; the scale of cubed entries and what whitening does to fresh
samples, ours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.random import Block, normals
from pruneft.relu.patterns import first_of_each
from pruneft.relu.planted.all_ones import FEASIBLE, AllOnes, all_ones
from pruneft.relu.planted.blocks import MODELS

DATA = ("gaussian", "cubed", "whitened", "cubed-whitened")
NEURONS = {"linear": 0, "one": 1, "two": 2, "three": 3}
WEIGHTS = ("gaussian", "smallest", "antipodal", "basis")
SIGNS = ("same", "alternating")
FRESH = 256  # samples that no program sees
_DATA, _NOISE, _FRESH, _WEIGHTS, _DIRECTIONS = 0, 1, 2, 3, 4  # streams


class Planted(NamedTuple):
    """An instance; a pytree of arrays. K: the planted neurons, or 1 for a linear one.

    Attributes:
      X: [n, d] samples; padded rows and columns are zero.
      y: [n] labels with noise; clean: without.
      w: [d, K] planted weights, of unit length.
      theta: [d, K] what a program should find for each: w with its sign, over the neuron's length on X for a normalised network.
      D: [n, Q] patterns, each once: of the planted neurons, of ones where there is such a direction, of random directions; repeated
        ones are zero columns. Q is 1 + P, and K more where neurons are planted.
      H: [d, Q] a direction of each pattern.
      there: bool, whether the data determine the planted neurons' patterns: every neuron is switched on by some sample, and no
        two by the same.
      ones: whether some direction switches every sample on.
      fresh: [256, d] samples of the same law; target: [256] their labels, without noise.
    """

    X: Float[Array, "n d"]
    y: Float[Array, " n"]
    clean: Float[Array, " n"]
    w: Float[Array, "d K"]
    theta: Float[Array, "d K"]
    D: Float[Array, "n Q"]
    H: Float[Array, "d Q"]
    there: Bool[Array, ""]
    ones: AllOnes
    fresh: Float[Array, "m d"]
    target: Float[Array, " m"]


def check(
    *, n: int, d: int, model: str, planted: str, weights: str = "gaussian", data: str = "gaussian", signs: str = "same"
) -> None:
    """Refuse what cannot be planted.

    Raises:
      ValueError: says what was expected, what came, and what to do.
    """
    choices = (
        ("model", model, MODELS),
        ("planted", planted, tuple(NEURONS)),
        ("weights", weights, WEIGHTS),
        ("data", data, DATA),
        ("signs", signs, SIGNS),
    )
    for name, value, known in choices:
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}: got {value!r}.")
    for name, size in (("n", n), ("d", d)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1: got {size!r}.")
    k = NEURONS[planted]
    if planted == "linear" and model != "skip":
        raise ValueError(f"a linear neuron is planted in a network with a skip connection: got model={model!r}.")
    if k > d:
        raise ValueError(f"planted neurons must not be more than features: got {k} neurons, d={d}. Raise d.")
    if model == "normalised" and n < d:
        raise ValueError(
            f"the normalised model needs at least as many samples as features: got n={n}, d={d}. Take more samples, or fewer features."
        )
    if weights == "antipodal" and k < 2:
        raise ValueError(f"antipodal weights are w and -w, of two neurons at least: got planted={planted!r}.")
    if weights == "smallest" and "whitened" in data:
        raise ValueError(f"whitened data have no smallest singular vector, all are equal: got data={data!r}.")


def plant(
    key: Array,
    *,
    n: int,
    d: int,
    P: int,
    model: str = "skip",
    planted: str = "linear",
    weights: str = "gaussian",
    data: str = "gaussian",
    signs: str = "same",
    sigma: float | Float[Array, ""] = 0.0,
    live_n: int | Int[Array, ""] | None = None,
    live_d: int | Int[Array, ""] | None = None,
    live_P: int | Int[Array, ""] | None = None,
    dtype: jnp.dtype | type | str = jnp.float64,
) -> Planted:
    """An instance of the given sizes; safe under jit and vmap over the key, sigma and the live sizes.

    Args:
      key: of the draws.
      n, d: samples and features.
      P: random directions. Their patterns, each once, are the columns of D after the planted ones and that of ones.
      model: ``"plain"``, ``"skip"`` or ``"normalised"``.
      planted: ``"linear"``, ``"one"``, ``"two"`` or ``"three"``.
      weights: unit Gaussian vectors; right singular vectors of X, from the smallest up; w and -w (and a third); or basis vectors.
      data: law of the samples.
      signs: of the neurons' second layer: all one, or 1, -1, 1.
      sigma: noise; each entry has standard deviation ``sigma / sqrt(n)``.
      live_n, live_d, live_P: the sizes without padding; the padding is zero. As they stand if None.
      dtype: of the arrays; numbers are drawn in float32 and cast.
    """
    drawn = normals(
        key,
        Block(_DATA, n, d),
        Block(_NOISE, n, 1),
        Block(_FRESH, FRESH, d),
        Block(_WEIGHTS, 3, d),
        Block(_DIRECTIONS, P, d),
    )
    X, noise, fresh, raw, H = (part.astype(dtype) for part in drawn)
    given = ((n, live_n), (d, live_d), (P, live_P))
    sizes = [jnp.asarray(full if live is None else live, jnp.int32) for full, live in given]
    rows, columns, kept = (
        (jnp.arange(full, dtype=jnp.int32) < size).astype(dtype) for full, size in zip((n, d, P), sizes, strict=True)
    )
    root = jnp.sqrt(sizes[0].astype(dtype))
    X, fresh = X * rows[:, None] * columns, fresh * columns
    if data.startswith("cubed"):
        X, fresh = (part**3 / math.sqrt(15) for part in (X, fresh))  # the sixth moment of a Gaussian is 15
    X, fresh = X / root, fresh / root
    if data.endswith("whitened"):
        X, fresh = _whitened(X, fresh)
    k = NEURONS[planted]
    w = _weights(X, raw * columns, columns, max(k, 1), weights)
    second = jnp.asarray([1, -1 if signs == "alternating" else 1, 1], dtype)[: max(k, 1)]
    said = X @ w if k == 0 else jax.nn.relu(X @ w)
    length = jnp.linalg.norm(said, axis=0)
    unit = jnp.where(length > 0, length, 1) if model == "normalised" else jnp.ones_like(length)
    theta = w * (second / unit)
    clean = said @ (second / unit)
    ahead = fresh @ w if k == 0 else jax.nn.relu(fresh @ w)
    ones = all_ones(X)
    D, H, there = _patterns(X, rows, w[:, :k], ones, (H * columns * kept[:, None]).T, kept)
    sigma = jnp.asarray(sigma, dtype)
    return Planted(
        X=X,
        y=clean + sigma / root * noise[:, 0] * rows,
        clean=clean,
        w=w,
        theta=theta,
        D=D,
        H=H,
        there=there & jnp.all(length > 0),
        ones=ones,
        fresh=fresh,
        target=ahead @ (second / unit),
    )


def directions(n: int) -> int:
    """How many random directions are drawn for n samples where nothing else is asked for: n, and at least 50."""
    return max(n, 50)


def _whitened(X: Float[Array, "n d"], fresh: Float[Array, "m d"]) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """``X (X^T X)^{-1/2}``, and fresh samples by the same map; with fewer samples than features the inverse is a pseudo-inverse."""
    values, vectors = jnp.linalg.eigh(X.T @ X)
    there = values > 1e4 * jnp.finfo(X.dtype).eps * values[-1]
    root = vectors * jnp.where(there, 1 / jnp.sqrt(jnp.where(there, values, 1)), 0)
    white, fresh = (part @ root @ vectors.T for part in (X, fresh))
    # Eigenvectors of X^T X know small singular values to half the digits only: two Newton steps give the others.
    for _ in range(2):
        white = 1.5 * white - 0.5 * white @ (white.T @ white)
    return white, fresh


def _weights(
    X: Float[Array, "n d"], raw: Float[Array, "r d"], columns: Float[Array, " d"], k: int, weights: str
) -> Float[Array, "d k"]:
    if weights == "basis":
        return jnp.eye(X.shape[1], k, dtype=X.dtype)
    if weights == "smallest":
        gram = X.T @ X
        padded = (1 + jnp.trace(gram)) * jnp.diag(1 - columns)  # padding must not pass for the smallest
        return jnp.linalg.eigh(gram + padded)[1][:, :k]
    w = raw[:k].T / jnp.linalg.norm(raw[:k], axis=1)
    return jnp.concatenate([w[:, :1], -w[:, :1], w[:, 2:]], axis=1) if weights == "antipodal" else w


def _patterns(
    X: Float[Array, "n d"],
    rows: Float[Array, " n"],
    w: Float[Array, "d k"],
    ones: AllOnes,
    H: Float[Array, "d P"],
    kept: Float[Array, " P"],
) -> tuple[Float[Array, "n Q"], Float[Array, "d Q"], Bool[Array, ""]]:
    """Patterns and directions, each pattern once, and whether the planted ones differ from one another."""
    k, dtype = w.shape[1], X.dtype
    H = jnp.concatenate([w, ones.h[:, None], H], axis=1)
    live = jnp.concatenate([jnp.ones(k, dtype), (ones.verdict == FEASIBLE).astype(dtype)[None], kept])
    D = (X @ H >= 0).astype(dtype) * rows[:, None] * live
    first = first_of_each(D + (1 - rows[:, None]))
    return D * first.astype(dtype), H * live, jnp.all(first[:k])
