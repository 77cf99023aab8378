"""How large a step stochastic gradient descent bears at a minimum that fits every sample: four thresholds, and runs beside them.

At such a minimum of the squared loss ``L = 1/(2 n) sum_i (f_i - y_i)^2`` only the gradients g_i of the outputs f_i matter: a step on a
batch moves a small deviation by ``I - eta A`` with A the mean of g_i g_iᵀ over the batch, and ``H = mean g_i g_iᵀ`` is the Hessian.
Stability here is that of the second moment M of the deviation, in the mean over batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from pruneft.dynamics.lanczos import top

Output = Callable[[Any, Any], Float[Array, ""]]  # (params, one input) -> its output

FAR = 100.0  # loss over that at the start from which a run counts as having left


class Thresholds(NamedTuple):
    """Step sizes that must not be exceeded.

    With batches of one sample ``exact <= quartic <= trace <= sharpness``; with larger ones exact is at most each of the others, which
    have no order. All are infinite where no gradient is left.

    Attributes:
      exact: the second moment stays bounded up to here and grows beyond: ``2 / lambda_max(C^-1 D)`` with ``C M = (H M + M H) / 2`` and
        ``D M = E[A M A]``.
      quartic: ``2 tr H / E||A||_F^2``, which is ``2 tr H / E||g||^4`` for batches of one.
      trace: ``2 B / tr H``.
      sharpness: ``2 / lambda_1(H)``, what gradient descent bears.
      residual: of the eigenvalue behind ``exact``, relative; it is too large by at most so much if the eigenvalue is the top one.
    """

    exact: Float[Array, ""]
    quartic: Float[Array, ""]
    trace: Float[Array, ""]
    sharpness: Float[Array, ""]
    residual: Float[Array, ""]


class Moments(NamedTuple):
    """What batches do to second moments, in the eigenbasis of H.

    Attributes:
      gradients: [n, r] of the outputs, on the range of H.
      eigenvalues: [r] of H.
      single, mean: ``E[A M A] = single E[g gᵀ M g gᵀ] + mean H M H``.
    """

    gradients: Float[Array, "n r"]
    eigenvalues: Float[Array, " r"]
    single: Float[Array, ""]
    mean: Float[Array, ""]

    def noise(self, M: Float[Array, "r r"]) -> Float[Array, "r r"]:
        """``E[A M A]``."""
        G, h = self.gradients, self.eigenvalues
        along = jnp.sum((G @ M) * G, axis=1)
        return self.single * (G.T * along) @ G / G.shape[0] + self.mean * h[:, None] * M * h

    def advance(self, M: Float[Array, "r r"], eta: Any) -> Float[Array, "r r"]:
        """The second moment after one step: ``M - eta (H M + M H) + eta^2 E[A M A]``."""
        pairs = self.eigenvalues[:, None] + self.eigenvalues
        return M - eta * pairs * M + eta**2 * self.noise(M)


def output_gradients(output: Output, params: Any, inputs: Any) -> Float[Array, "n p"]:
    """Gradients of the outputs of all samples with respect to all parameters, one row for each sample.

    Args:
      output: (params, one input) -> scalar.
      params: a pytree.
      inputs: an array, or a pytree of arrays, whose first axis counts samples.

    Raises:
      ValueError: the output is no scalar.
    """
    flat, back = ravel_pytree(params)

    def of(theta: Array, x: Any) -> Array:
        found = output(back(theta), x)
        if jnp.shape(found) != ():
            raise ValueError(
                f"the output of one sample must be a scalar: got shape {jnp.shape(found)}. Take one output at a time."
            )
        return found

    return jax.vmap(jax.grad(of), in_axes=(None, 0))(flat, inputs)


def moments(gradients: Float[Array, "n p"], batch: int | np.integer = 1, *, replace: bool = True) -> Moments:
    """What batches of this size do to the second moment of a deviation.

    Args:
      gradients: of the outputs at the minimum, one row for each sample.
      batch: samples of a step.
      replace: whether a batch may hold a sample more than once.

    Raises:
      ValueError: the batch is no whole number of at least 1, or larger than the data without replacement.

    Source: batches of one: derived (ours); larger ones likewise, from ``E[A M A] = E[g gᵀ M g gᵀ] / B + (1 - 1/B) H M H`` with replacement.
    """
    n = gradients.shape[0]
    batch = int(batch) if isinstance(batch, np.integer) else batch
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1 or (not replace and batch > n):
        limit = "" if replace else f" and at most {n}, as many as there are samples"
        raise ValueError(f"the batch must be a whole number of at least 1{limit}: got {batch!r}.")
    left, sizes, _ = jnp.linalg.svd(gradients, full_matrices=False)
    # Without replacement a second sample is never the first again.
    single = 1 / batch if replace else (n - batch) / (batch * max(n - 1, 1))
    mean = 1 - 1 / batch if replace else n * (batch - 1) / (batch * max(n - 1, 1))
    dtype = gradients.dtype
    return Moments(left * sizes, sizes**2 / n, jnp.asarray(single, dtype), jnp.asarray(mean, dtype))


def thresholds(
    gradients: Float[Array, "n p"], batch: int | np.integer = 1, *, replace: bool = True, products: int = 400
) -> Thresholds:
    """The four step sizes at an interpolating minimum; see `Thresholds`.

    The map behind ``exact`` is applied, never built: one product costs n r^2 with r the rank of the gradients, at most n or p.

    Args:
      gradients: of the outputs, one row for each sample, as `output_gradients` gives them.
      batch, replace: as for `moments`.
      products: with the map, at most; reached only where the top eigenvalue is nearly repeated.

    Raises:
      ValueError: as `moments`.

    Source: sharpness and trace: published, Wu and Su (2023), arXiv:2305.17490, as the quartic one; ``exact``: derived (ours): the
      second moment moves by a symmetric map T that keeps positive semidefinite matrices so, whose spectral radius is thus its top
      eigenvalue, and ``<M, T M> <= <M, M>`` for all M is the condition ``eta <M, D M> <= 2 <M, C M>``; M = I is the quartic one.
    """
    found = moments(gradients, batch, replace=replace)
    h = found.eigenvalues
    pairs = (h[:, None] + h) / 2
    # Directions without curvature to rounding are not moved by any gradient.
    live = h > h.shape[0] * jnp.finfo(h.dtype).eps * jnp.max(h)
    scale = jnp.where(live[:, None] & live, jax.lax.rsqrt(jnp.where(pairs > 0, pairs, 1)), 0)

    def product(flat: Array) -> Array:
        return (scale * found.noise(scale * flat.reshape(scale.shape))).ravel()

    # From inside the cone of positive matrices, where the top eigenvector is.
    start = jnp.eye(h.shape[0], dtype=h.dtype)
    tol = 1e-10 if h.dtype == jnp.float64 else 1e-5
    pair = top(product, start.ravel(), jax.random.key(0), k=1, width=24, most=products, tol=tol, check=False)
    trace = jnp.sum(h)
    quartic = jnp.trace(found.noise(jnp.eye(h.shape[0], dtype=h.dtype)))
    return Thresholds(
        2 / pair.values[0],
        jnp.where(quartic > 0, 2 * trace / quartic, jnp.inf),
        2 * int(batch) / trace,
        2 / h[0],
        pair.residuals[0],
    )


class Diagram(NamedTuple):
    """What runs of stochastic gradient descent did, over step sizes and batches.

    Attributes:
      etas: [E] step sizes; batches: [B] samples of a step.
      growth: [E, B, runs] loss at the end over loss at the start; infinite where it overflowed.
      escaped: [E, B] share of runs whose loss was at some step 100 times what it was at the start, so that the deviation was ten times
        as large, or not finite. A run that leaves may settle in a flatter minimum, so its end does not tell.
      control: [E, runs] and ``control_escaped``: [E], the same of gradient descent on all samples, from the same deviations.
    """

    etas: Float[np.ndarray, " E"]
    batches: np.ndarray
    growth: Float[np.ndarray, "E B runs"]
    escaped: Float[np.ndarray, "E B"]
    control: Float[np.ndarray, "E runs"]
    control_escaped: Float[np.ndarray, " E"]


def stability_diagram(
    output: Output,
    params: Any,
    inputs: Any,
    etas: Any,
    batches: Any,
    *,
    key: Array,
    steps: int = 2000,
    runs: int = 8,
    away: float = 1e-3,
) -> Diagram:
    """Runs of SGD that begin beside a minimum, in lanes over step sizes, batches and runs, on the model itself, and of gradient descent.

    The targets are the outputs at ``params``, so these are a minimum that fits every sample. Batches are drawn with replacement. Note
    that single runs bear more than the thresholds of the second moment: its growth comes from rare batches that a run may never meet,
    so a run below ``exact`` returns, and one above it need not leave. For gradient descent both are one.

    Runs on the host; two compiled programs.

    Args:
      output: (params, one input) -> scalar.
      params: the minimum.
      inputs: an array, or a pytree of arrays, whose first axis counts samples.
      etas: [E]; batches: [B] whole numbers of at least 1.
      key: of deviations and batches; run k has the same deviation in every cell.
      steps: of every run.
      runs: of every cell.
      away: length of the deviation at the start, over that of the parameters.

    Raises:
      ValueError: a step size or a batch is not positive, or steps or runs are below 1.
    """
    etas, sizes = np.atleast_1d(np.asarray(etas, np.float64)), np.atleast_1d(np.asarray(batches))
    if not (np.all(np.isfinite(etas)) and np.all(etas > 0)) or not (
        np.all(sizes >= 1) and np.all(sizes == np.round(sizes))
    ):
        raise ValueError(f"step sizes must be positive and batches whole numbers of at least 1: got {etas}, {batches}.")
    if steps < 1 or runs < 1 or not away > 0:
        raise ValueError(f"steps and runs must be at least 1 and away positive: got {steps}, {runs}, {away}.")
    theta, back = ravel_pytree(params)
    most, n = int(sizes.max()), jax.tree.leaves(inputs)[0].shape[0]

    def outputs(at: Array, x: Any) -> Array:
        return jax.vmap(lambda one: output(back(at), one))(x)

    targets = outputs(theta, inputs)

    def loss(at: Array, places: Array, weights: Array) -> Array:
        chosen = jax.tree.map(lambda leaf: leaf[places], inputs)
        return jnp.sum(weights * (outputs(at, chosen) - targets[places]) ** 2) / 2

    def whole(at: Array) -> Array:
        return jnp.mean((outputs(at, inputs) - targets) ** 2) / 2

    def aside(run: Array) -> tuple[Array, Array]:
        """The key of a run, and where it begins."""
        drawn = jax.random.fold_in(key, run)
        way = jax.random.normal(drawn, theta.shape, theta.dtype)
        return drawn, theta + away * jnp.linalg.norm(theta) / jnp.linalg.norm(way) * way

    def one(eta: Array, size: Array, run: Array) -> tuple[Array, Array]:
        drawn, begin = aside(run)
        weights = jnp.where(jnp.arange(most, dtype=jnp.int32) < size, 1 / size.astype(theta.dtype), 0)

        def move(place: Array, at: Array) -> Array:
            places = jax.random.randint(jax.random.fold_in(drawn, place + 1), (most,), 0, n)
            return at - eta * jax.grad(loss)(at, places, weights)

        return followed(move, begin)

    def descent(eta: Array, run: Array) -> tuple[Array, Array]:
        return followed(lambda _, at: at - eta * jax.grad(whole)(at), aside(run)[1])

    def followed(move: Callable[[Array, Array], Array], begin: Array) -> tuple[Array, Array]:
        """Loss at the end over that at the start, and whether it was ever far above."""
        scale = whole(begin)

        def step(place: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            at = move(place, carry[0])
            return at, carry[1] | ~(whole(at) <= FAR * scale)  # what is not a number is far

        end, far = jax.lax.fori_loop(0, steps, step, (begin, jnp.zeros((), jnp.bool_)))
        return whole(end) / scale, far

    def over(function: Callable[..., tuple[Array, Array]], *axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Growth on the grid of these axes, infinite where it overflowed, and the share of runs, the last axis, that went far."""
        grid = np.meshgrid(*axes, indexing="ij")
        lanes = [jnp.asarray(part.ravel()) for part in grid]
        lanes = [lanes[0].astype(theta.dtype), *(lane.astype(jnp.int32) for lane in lanes[1:])]
        growth, far = (np.asarray(part).reshape(grid[0].shape) for part in jax.jit(jax.vmap(function))(*lanes))
        return np.where(np.isfinite(growth), growth, np.inf).astype(np.float64), np.mean(far, axis=-1)

    return Diagram(etas, sizes, *over(one, etas, sizes, np.arange(runs)), *over(descent, etas, np.arange(runs)))
