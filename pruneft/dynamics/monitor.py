"""A history of loss and sharpness from inside any training loop.

    watch = pruneft.dynamics.monitor(loss, every=10)
    seen = watch.init(params)
    for batch in data:                                  # or lax.scan; everything here may be under jit
        before = params
        params, state = update(params, state, batch)
        seen = watch.update(seen, params, before=before)
    history = watch.history(seen)                       # NumPy arrays: step, loss, eigenvalues, residuals, status

Parameters are any pytree of arrays: those of a Flax module as they are, of an Equinox one by ``equinox.partition(model,
equinox.is_inexact_array)``, of ``flax.nnx`` by ``nnx.split(model, nnx.Param, ...)``; the loss puts the rest back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pruneft.dynamics.curvature import Params, check_counts, check_loss, midpoint
from pruneft.dynamics.sharpness import Sharpness, sharpness
from pruneft.status import Status

BLOCK = 4  # products of a record between two looks at its residual; mostly these do


class Seen(NamedTuple):
    """What a monitor carries through the loop.

    Attributes:
      step: updates so far.
      records: that were made, of which the last ``capacity`` are kept.
      last: eigenpairs of the last record, the start of the next.
      started: whether there is one.
      steps, loss, eigenvalues, residuals, statuses: the records, by number modulo the capacity.
    """

    step: Int[Array, ""]
    records: Int[Array, ""]
    last: Sharpness
    started: Bool[Array, ""]
    steps: Int[Array, " capacity"]
    loss: Float[Array, " capacity"]
    eigenvalues: Float[Array, "capacity k"]
    residuals: Float[Array, "capacity k"]
    statuses: Int[Array, " capacity"]


class History(NamedTuple):
    """The records in their order, NumPy.

    Attributes:
      step: [records], updates before each.
      loss: [records], where the sharpness was taken.
      eigenvalues: [records, k]; NaN where ``status`` is not CONVERGED.
      residuals: [records, k], as in `pruneft.dynamics.Sharpness`.
      status: [records].
    """

    step: np.ndarray
    loss: np.ndarray
    eigenvalues: np.ndarray
    residuals: np.ndarray
    status: np.ndarray

    def crossings(self, eta: float) -> np.ndarray:
        """The steps at which the sharpness has come from below ``2 / eta`` to it or beyond: where the edge is met."""
        above = self.eigenvalues[:, 0] >= 2 / eta
        return np.asarray(self.step[1:][above[1:] & ~above[:-1]])


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Made by `monitor`; see there.

    Attributes:
      loss: (params, ...) -> scalar.
      every, k, tol, most, capacity: as in `monitor`.
    """

    loss: Callable[..., Float[Array, ""]]
    every: int
    k: int
    tol: float
    most: int
    capacity: int

    def init(self, params: Params) -> Seen:
        """An empty record for parameters like these.

        Raises:
          ValueError: a leaf is no array of float32 or float64, or there are fewer parameters than eigenpairs are asked for.
        """
        n = check_loss(None, params)
        if self.k > n:
            raise ValueError(f"k (eigenpairs) must be at most the number of parameters, {n}: got {self.k}.")
        dtype = jnp.result_type(jax.tree.leaves(params)[0])
        k, capacity = self.k, self.capacity
        none = jnp.full(k, jnp.nan, dtype)
        zero = jnp.zeros((), jnp.int32)
        vectors = jax.tree.map(lambda leaf: jnp.zeros((k, *jnp.shape(leaf)), dtype), params)
        return Seen(
            step=zero,
            records=zero,
            last=Sharpness(none, vectors, none, zero, zero),
            started=jnp.zeros((), jnp.bool_),
            steps=jnp.zeros(capacity, jnp.int32),
            loss=jnp.full(capacity, jnp.nan, dtype),
            eigenvalues=jnp.full((capacity, k), jnp.nan, dtype),
            residuals=jnp.full((capacity, k), jnp.nan, dtype),
            statuses=jnp.zeros(capacity, jnp.int32),
        )

    def update(self, seen: Seen, params: Params, *args: Any, before: Params | None = None) -> Seen:
        """Count one update of the parameters; every ``every``-th time, record loss and sharpness.

        Args:
          seen: as from `init`, or the last call.
          params: after the update.
          args: handed on to the loss, a batch for instance.
          before: the parameters before the update. If given, loss and sharpness are taken half way between, which removes the oscillation
            of gradient descent at the edge; leave it out with momentum or mini-batches.
        """
        point = params if before is None else midpoint(before, params)

        def record(seen: Seen) -> Seen:
            def loss(params: Params) -> Array:
                return self.loss(params, *args)

            # From a record that failed, or before there is one, the start is random: its vectors are zero or of no use.
            usable = seen.started & (seen.last.status == Status.CONVERGED)
            blank = jnp.where(usable, 1, jnp.nan)
            old = seen.last._replace(
                eigenvectors=jax.tree.map(lambda leaf: leaf * blank.astype(leaf.dtype), seen.last.eigenvectors)
            )
            key = jax.random.fold_in(jax.random.key(0), seen.step)
            found = sharpness(
                loss,
                point,
                self.k,
                key=key,
                previous=old,
                tol=self.tol,
                width=2 * self.k + BLOCK + 2,  # few: what a record costs beside its products goes with it
                block=BLOCK,
                most=self.most,
                check=self.k > 1,
                keep=True,
            )
            good = found.status == Status.CONVERGED
            at = seen.records % self.capacity
            return seen._replace(
                records=seen.records + 1,
                last=found,
                started=jnp.ones((), jnp.bool_),
                steps=seen.steps.at[at].set(seen.step),
                loss=seen.loss.at[at].set(loss(point).astype(seen.loss.dtype)),
                eigenvalues=seen.eigenvalues.at[at].set(jnp.where(good, found.eigenvalues, jnp.nan)),
                residuals=seen.residuals.at[at].set(found.residuals),
                statuses=seen.statuses.at[at].set(found.status),
            )

        seen = seen._replace(step=seen.step + 1)
        return jax.lax.cond(seen.step % self.every == 0, record, lambda seen: seen, seen)

    def history(self, seen: Seen) -> History:
        """The records in their order; waits for the device, so call it outside of jit."""
        count = int(seen.records)
        order = np.arange(max(0, count - self.capacity), count) % self.capacity
        parts = (seen.steps, seen.loss, seen.eigenvalues, seen.residuals, seen.statuses)
        return History(*(np.asarray(part)[order] for part in parts))


def monitor(
    loss: Callable[..., Float[Array, ""]],
    *,
    every: int = 10,
    k: int = 1,
    tol: float = 1e-2,
    most: int = 100,
    capacity: int = 4096,
) -> Monitor:
    """A monitor of loss and sharpness for a training loop; how to use it stands at the head of `pruneft.dynamics.monitor`.

    A record mostly costs 4 Hessian-vector products, the first more, each about two gradients. Memory: k copies of the parameters, and at
    work 16 of them.

    Args:
      loss: (params, ...) -> scalar, the loss whose curvature is asked for. With mini-batches hand `Monitor.update` a fixed batch: the
        sharpness of one batch is another than that of the whole.
      every: updates between records.
      k: eigenpairs.
      tol: residual, relative to the largest eigenvalue: the eigenvalue is that accurate at least, mostly to its square. The usual one gave
        1e-4 on digits, at half of the products of 1e-3.
      most: Hessian-vector products of a record; what has not converged then is recorded as NaN, with its status.
      capacity: records kept, the last ones.

    Raises:
      ValueError: a count that is no whole number of at least 1, or a tolerance that is not positive.
    """
    check_counts(every=every, k=k, most=most, capacity=capacity)
    if not tol > 0:
        raise ValueError(f"tol must be positive: got {tol}.")
    return Monitor(loss=loss, every=every, k=k, tol=tol, most=most, capacity=capacity)
