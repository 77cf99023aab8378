r"""Networks with one hidden layer and squares for activations, ``f(x) = sum_j (u_jᵀ x)²``: prediction, errors, training by minibatches.

Learning such a network is matrix sensing: ``f(x) = <x xᵀ, U Uᵀ>``, so rank-one measurements, and the hidden neurons are the columns
of the factor. Data that fit into memory are what `pruneft.recover` is for (`pruneft.sensing.operators.rank_one.RankOne`); here they come
in batches, and nothing larger than a batch's hidden layer is formed.

Published (Rajaraman et al. 2023, arXiv:2303.11453): wide network, smooth group Lasso penalty, pruning by neuron norm, fine-tuning. Ours:
the decaying penalty, Adam, soft centring and every constant; all are those of the full-batch recipe, on the normalised problem.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from pruneft.penalty import group_norms, smoothed_group_norm_gradient
from pruneft.pipeline import Anneal, OptimizerOrFactory
from pruneft.prune import keep_share, take_groups
from pruneft.sensing.operators.rank_one import RankOne
from pruneft.sensing.recipe import schedule

Batch = tuple[Any, Any]
_SNAPSHOTS = 100  # entries of the history of norms, about
# Adam moves every entry by about its rate, so a step's length grows like the root of their number: rates are those of the recipe up to so
# many entries, and fall with the root beyond. (At d = 1000, k = 100 the recipe's own .03 left all 100 neurons and an error above 1.)
_TRAIN_ENTRIES, _TUNE_ENTRIES = 32 * 32, 16 * 16
# Fine-tuning: Adam's rate, which falls to zero by a cosine, in normalised units. At d = 20 and 50, n = 100 r d, 300 steps from .003 ended
# at 3e-6 to 1e-5 without noise, from .01 at 2e-5 to 4e-5; with noise all ended at the error of least squares.
_TUNE_RATE = 0.003


class History(NamedTuple):
    """What is kept of the way.

    Attributes:
      losses: [steps], mean squared residual of every batch before its step, normalised units (1/g of the variance of y is about 1).
      norm_steps: [s], after how many steps ``norms`` were taken.
      norms: [s, k], norms of the neurons, in units of the weights.
    """

    losses: np.ndarray
    norm_steps: np.ndarray
    norms: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A pruned and fine-tuned network.

    Attributes:
      weights: [d, r], one column for every neuron that stayed; r = 0 where none did.
      columns: neurons that pruning left, before those that shared a direction were merged.
      trained: [d, k], before pruning.
      train_history, tune_history: of both phases.
    """

    weights: Float[Array, "d r"]
    columns: int
    trained: Float[Array, "d k"]
    train_history: History
    tune_history: History

    @property
    def neurons(self) -> int:
        """How many stayed."""
        return int(self.weights.shape[1])


def predict(weights: Float[Array, "d k"], inputs: Float[Array, "n d"]) -> Float[Array, "n"]:
    """``sum_j (u_jᵀ x_i)²`` for every input, in units of the outputs."""
    return jnp.sum(jnp.square(inputs @ weights), axis=-1)


def generalisation_error(
    weights: Float[Array, "d k"], inputs: Float[Array, "n d"], outputs: Float[Array, "n"]
) -> Float[Array, ""]:
    """Root mean square error on these inputs over the standard deviation of the outputs: 1 is no better than their mean."""
    error = jnp.sqrt(jnp.mean(jnp.square(predict(weights, inputs) - outputs)))
    return error / jnp.std(outputs)


def population_error(weights: Float[Array, "d k"], teacher: Float[Array, "d q"]) -> Float[Array, ""]:
    r"""`generalisation_error` over infinitely many standard normal inputs, without noise, in closed form.

    .. math:: \sqrt{\frac{2\|D\|_F^2 + (\operatorname{tr} D)^2}{2\|M\|_F^2}}, \qquad D = U U^\top - M

    with M of the teacher. Fourth moments of a Gaussian; derived (ours).
    """
    M = teacher @ teacher.T
    D = weights @ weights.T - M
    return jnp.sqrt((2 * jnp.sum(jnp.square(D)) + jnp.square(jnp.trace(D))) / (2 * jnp.sum(jnp.square(M))))


def shuffled(inputs: Any, outputs: Any, size: int, *, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches without end, every epoch in a new order; what is left over at its end is dropped.

    Args:
      inputs, outputs: [n, d] and [n], anything that NumPy can index by a sorted list: an array, a memory map, an HDF5 data set.
      size: of a batch.
      seed: of the orders.

    Raises:
      ValueError: ``size`` is not from 1 to n, or there is not one output for each input.
    """
    n = len(inputs)
    if len(outputs) != n:
        raise ValueError(f"inputs and outputs must be of the same length: got {n} and {len(outputs)}.")
    if not 1 <= size <= n:
        raise ValueError(f"size (of a batch) must be from 1 to n = {n}: got {size}.")
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        for first in range(0, n - size + 1, size):
            rows = np.sort(order[first : first + size])
            yield np.asarray(inputs[rows]), np.asarray(outputs[rows])


def fit(
    batches: Iterable[Batch],
    *,
    width: int,
    steps: int = 1000,
    tune_steps: int = 300,
    share: float = 0.05,
    merge: float = 0.03,
    lam: float | None = None,
    threshold: float | None = None,
    anneal: Anneal = Anneal(),
    optimizer: OptimizerOrFactory | None = None,
    tune_optimizer: OptimizerOrFactory | None = None,
    seed: int = 0,
) -> Fit:
    """Train a wide network with the penalty, prune its small neurons, fine-tune the others without it.

    Args:
      batches: pairs (inputs [b, d], outputs [b]), all of one shape, at least ``steps + tune_steps`` of them; see `shuffled`. Inputs with
        independent entries of mean zero and one variance; whiten others first.
      width: k, neurons trained; more than are needed.
      steps, tune_steps: one batch each.
      share: neurons of norm above this share of the largest stay.
      merge: neurons that stay are rotated to orthogonal ones, which changes no output, and those of norm below this share of the largest
        go: after short training several neurons can still share one direction.
      lam: last penalty weight of the normalised problem; 0 trains without the penalty. The recipe's if not given.
      threshold: instead: the eigenvalue of M, over its norm, below which no neuron shall be left at the end. For noise of deviation sigma
        on n samples take the noise edge, ``RankOne.noise_edge(sigma, n, d)``, over ``RankOne.size``.
      anneal: constants of the training phase.
      optimizer, tune_optimizer: optax transformations, or functions of the number of steps that make one; Adam with a cosine schedule if
        not given.
      seed: of the random start.

    Raises:
      ValueError: a count makes no sense, batches are of different or wrong shapes, not finite, or too few.

    Example:
      >>> import numpy as np
      >>> from pruneft.sensing import quadratic
      >>> rng = np.random.default_rng(0)
      >>> teacher, inputs = rng.standard_normal((10, 2)) / 10**0.5, rng.standard_normal((600, 10))
      >>> outputs = np.sum((inputs @ teacher) ** 2, axis=1)
      >>> found = quadratic.fit(quadratic.shuffled(inputs, outputs, 100), width=10, steps=600)
      >>> found.neurons, bool(quadratic.population_error(found.weights, teacher) < 1e-3)
      (2, True)
    """
    source = iter(batches)
    trained, train_history = train(
        source, width=width, steps=steps, lam=lam, threshold=threshold, anneal=anneal, optimizer=optimizer, seed=seed
    )
    kept = take_groups(trained, np.asarray(keep_share(group_norms(trained), share)))
    left, values, _ = jnp.linalg.svd(kept, full_matrices=False)
    merged = (left * values)[:, : int(jnp.sum(values > merge * jnp.max(values, initial=0.0)))]
    tuned, tune_history = tune(source, merged, steps=tune_steps, optimizer=tune_optimizer)
    return Fit(
        weights=tuned, columns=kept.shape[1], trained=trained, train_history=train_history, tune_history=tune_history
    )


def train(
    batches: Iterable[Batch],
    *,
    width: int,
    steps: int,
    lam: float | None = None,
    threshold: float | None = None,
    anneal: Anneal = Anneal(),
    optimizer: OptimizerOrFactory | None = None,
    seed: int = 0,
) -> tuple[Float[Array, "d k"], History]:
    """The wide network after ``steps`` steps with the decaying penalty, not pruned. Arguments and errors as in `fit`."""
    if width < 1 or steps < 1:
        raise ValueError(f"width and steps must be at least 1: got width={width}, steps={steps}.")
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise ValueError("batches is empty: expected pairs (inputs [b, d], outputs [b]).")
    inputs, outputs = _checked(first, None)
    operator = RankOne.from_vectors(inputs)
    scale = float(operator.size(jnp.asarray(outputs), *inputs.shape))
    gain = float(operator.level.max())
    unit = math.sqrt(scale)
    ends = schedule(anneal, lam=lam, threshold=threshold)
    d = inputs.shape[1]
    # Columns of its start have a Gaussian law and the whole the Frobenius norm of the recipe.
    start = jax.random.normal(jax.random.key(seed), (d, width), inputs.dtype) * (
        anneal.start_norm / math.sqrt(d * width)
    )

    def slope(factor: Array, progress: Array) -> Array:
        weight = ends.lam_start * (max(ends.lam_end, 1e-30) / max(ends.lam_start, 1e-30)) ** progress
        beta = ends.beta_start * (ends.beta_end / ends.beta_start) ** progress
        pull = smoothed_group_norm_gradient(factor, jnp.full((1, 1), beta, factor.dtype))
        return jnp.asarray(weight, factor.dtype) * pull

    penalty = slope if ends.lam_start > 0 else None
    rate = anneal.learning_rate * _slower(start, _TRAIN_ENTRIES)
    rule = _rule(dataclasses.replace(anneal, learning_rate=rate).optimizer if optimizer is None else optimizer, steps)
    rest = itertools.chain([first], source)
    return _descend(rest, start, unit, gain, steps, rule, penalty)


def tune(
    batches: Iterable[Batch],
    weights: Float[Array, "d r"],
    *,
    steps: int,
    optimizer: OptimizerOrFactory | None = None,
) -> tuple[Float[Array, "d r"], History]:
    """The network after ``steps`` steps on the data term alone. Arguments and errors as in `fit`."""
    # ||U Uᵀ||_F is the unit of the problem, and known by now.
    size = float(jnp.linalg.norm(weights.T @ weights))
    if weights.shape[1] == 0 or not size > 0 or steps == 0:
        return weights, History(np.zeros(0), np.zeros(0, int), np.zeros((0, weights.shape[1])))
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise ValueError("batches ended before fine-tuning: pass more, or repeat them (`shuffled` never ends).")
    inputs, _ = _checked(first, None)
    gain = float(np.mean(np.square(inputs, dtype=np.float64)))
    rate = _TUNE_RATE * _slower(weights, _TUNE_ENTRIES)
    rule = _rule(functools.partial(_tuner, rate) if optimizer is None else optimizer, steps)
    unit = math.sqrt(size)
    return _descend(itertools.chain([first], source), weights / unit, unit, gain, steps, rule, None)


def gradient(
    factor: Float[Array, "d k"], inputs: Float[Array, "b d"], outputs: Float[Array, "b"], gain: Any = 1.0
) -> tuple[Float[Array, "d k"], Float[Array, ""]]:
    """Gradient ``4 G U`` of the softly centred mean squared error of a batch, and the plain mean squared error over ``gain²``.

    Args:
      factor: U, normalised: ``||U Uᵀ||_F`` about 1.
      inputs, outputs: the batch, outputs over the unit that makes U normal.
      gain: mean square of the inputs' entries.
    """
    b, d = inputs.shape
    operator = RankOne(inputs, None, jnp.full((b,), gain, inputs.dtype))
    residual = operator.image(factor) - outputs
    pulled = operator.pull(operator.whiten(residual, b, d), factor)
    return 4 / b * pulled, jnp.mean(jnp.square(residual / gain))


def _descend(
    batches: Iterator[Batch],
    start: Array,
    unit: float,
    gain: float,
    steps: int,
    rule: optax.GradientTransformation,
    penalty: Any,
) -> tuple[Array, History]:
    """``steps`` steps from a normalised start; what comes back is in units of the weights."""

    def step(factor: Array, state: Any, inputs: Array, outputs: Array, count: Array) -> tuple[Array, Any, Array, Array]:
        slope, loss = gradient(factor, inputs, outputs / unit**2, gain)
        if penalty is not None:
            slope = slope + penalty(factor, jnp.minimum(count / max(steps - 1, 1), 1).astype(factor.dtype))
        updates, state = rule.update(slope, state, factor)
        factor = optax.apply_updates(factor, updates)
        return factor, state, loss, group_norms(factor)

    with jax.numpy_dtype_promotion("standard"):
        run = jax.jit(step, donate_argnums=(0, 1))
        factor, state = jnp.array(start), rule.init(start)
        shape, losses, every = None, [], max(1, steps // _SNAPSHOTS)
        taken, norms = [0], [np.asarray(group_norms(start))]
        for count in range(steps):
            batch = next(batches, None)
            if batch is None:
                raise ValueError(
                    f"batches ended after {count} of {steps} steps: pass more, or repeat them (`shuffled` never ends)."
                )
            inputs, outputs = _checked(batch, shape)
            shape = inputs.shape
            factor, state, loss, lengths = run(
                factor, state, inputs.astype(start.dtype), outputs.astype(start.dtype), float(count)
            )
            losses.append(loss)
            if (count + 1) % every == 0 or count + 1 == steps:
                taken.append(count + 1)
                norms.append(np.asarray(lengths))
    return unit * factor, History(np.asarray(jnp.stack(losses)), np.array(taken), unit * np.stack(norms))


def _slower(factor: Array, entries: int) -> float:
    return min(1.0, math.sqrt(entries / factor.size))


def _tuner(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps), b2=0.99)


def _rule(optimizer: OptimizerOrFactory, steps: int) -> optax.GradientTransformation:
    return optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(steps)


def _checked(batch: Batch, shape: tuple[int, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    inputs, outputs = (np.asarray(part) for part in batch)
    if inputs.ndim != 2 or outputs.shape != inputs.shape[:1] or 0 in inputs.shape:
        raise ValueError(
            f"a batch must be inputs [b, d] and outputs [b]: got shapes {inputs.shape} and {outputs.shape}."
        )
    if shape is not None and inputs.shape != shape:
        raise ValueError(
            f"all batches must have one shape, {shape}: got {inputs.shape}. Drop what is left over at the end."
        )
    if np.iscomplexobj(inputs) or np.iscomplexobj(outputs):
        raise ValueError("a batch must hold real numbers: for complex vectors use RankOne and recover.")
    # A sum is finite where all its terms are, short of overflow, and it needs no second array.
    if not (np.isfinite(inputs.sum(dtype=np.float64)) and np.isfinite(outputs.sum(dtype=np.float64))):
        raise ValueError("a batch holds NaN or infinite numbers: drop those samples.")
    # Without 64-bit mode JAX has nothing wider than float32.
    given = inputs.dtype if np.issubdtype(inputs.dtype, np.floating) else np.dtype(np.float32)
    dtype = jax.dtypes.canonicalize_dtype(given)
    return inputs.astype(dtype, copy=False), outputs.astype(dtype, copy=False)
