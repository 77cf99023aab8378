"""What single starts of the short anneal lead to, at known rank: each start's success, with the penalty and without it.

A start is trained over-parameterised (k = d), cut to its leading rank-r eigen-part, and refined by Levenberg-Marquardt. No
scan, no selection, no second round: this is what training alone contributes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pruneft.optim import LMConfig
from pruneft.pipeline import Anneal, Penalty, penalty_gradient
from pruneft.sensing import lane as lanes
from pruneft.sensing.draw import draw_instance
from pruneft.sensing.recipe import schedule

D = 16
EXACT_ERROR = 1e-3  # relative, Frobenius
COUNTS = (1, 2, 4, 8)
_BATCH = 16


def successes(*, r: int, n: int, steps: int, lam: float | None, instances: int, starts: int = COUNTS[-1]) -> np.ndarray:
    """Whether each start recovers M* exactly, [instances, starts]; the instances are the same for every other argument.

    Args:
      r, n: true rank, which is also the rank of the fit, and measurements; d = 16, noiseless.
      steps: of the anneal.
      lam: last weight of the penalty: None for the recipe's, 0 to train without it.
      instances, starts: how many.
    """
    ends = jnp.asarray(schedule(Anneal(), lam=lam), jnp.float32)
    return np.asarray(_successes(jnp.arange(instances), ends, r, n, steps, starts))


@functools.partial(jax.jit, static_argnames=("r", "n", "steps", "starts"))
def _successes(seeds: jax.Array, ends: jax.Array, r: int, n: int, steps: int, starts: int) -> jax.Array:
    anneal = Anneal()
    optimizer = anneal.optimizer(steps)

    def each(seed: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(0), seed)
        drawn = draw_instance(key, n=n, d=D, r=r, dtype=jnp.float64)
        begin = lanes.draw_starts(key, 1, starts, D, D, live_d=D, live_k=D, norm=anneal.start_norm, dtype=jnp.float32)
        penalty = Penalty(*ends.reshape(4, 1, 1, 1))
        lane = lanes.make_lane(drawn.operator, drawn.y, begin, penalty)

        def step(
            carry: tuple[jax.Array, optax.OptState], taken: jax.Array
        ) -> tuple[tuple[jax.Array, optax.OptState], None]:
            factor, state = carry
            pull = penalty_gradient(penalty, taken.astype(jnp.float32) / steps, factor)
            updates, state = optimizer.update(lanes.gradient(lane, factor) + pull, state, factor)
            return (optax.apply_updates(factor, updates), state), None

        first = lanes.start(lane, jnp.zeros((), jnp.int32))
        (factor, _), _ = jax.lax.scan(step, (first, optimizer.init(first)), jnp.arange(steps))
        roots = jax.vmap(lambda u: lanes.canonical(lane, u, merge=0.0)[0])(factor.astype(jnp.float64))
        found = lanes.fit(lane, roots[..., :r], LMConfig()).x.reshape(starts, D, r)
        errors = jnp.linalg.norm(lane.scale * found @ jnp.swapaxes(found, -1, -2) - drawn.truth, axis=(-1, -2))
        return errors < EXACT_ERROR * jnp.linalg.norm(drawn.truth)

    return jax.lax.map(each, seeds, batch_size=_BATCH)


def union(success: np.ndarray) -> dict[int, int]:
    """Number of starts -> instances that one of the first so many starts recovers."""
    return {count: int(success[:, :count].any(axis=1).sum()) for count in COUNTS}
