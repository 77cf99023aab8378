"""What lookahead permutation costs: a training step of Adam with a sync every 100 steps against the same without, and one sync alone.

Run: ``python -m benchmarks.collect laperm``; a minute or two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.table import Table, seconds
from benchmarks.timing import Case, interleave, median, ratio
from pruneft.experiments import digits
from pruneft.optim import apply_sync, laperm
from pruneft.optim.laperm import LaPermState

BATCH, STEPS, PERIOD = 50, 100, 100
ROUNDS = 9
Build = Callable[[jax.Array], digits.Params]


def training(init: Build, model: Callable[..., Any], transformation: Any, lanes: int = 1) -> Callable[[], Any]:
    """A compiled call of `STEPS` steps from a start of every lane; batches follow one another."""
    images, labels = (jnp.asarray(part) for part in digits.load())

    def loss(params: digits.Params, begin: jax.Array) -> jax.Array:
        shown = jax.lax.dynamic_slice_in_dim(images, begin, BATCH)
        return digits.cross_entropy(model(params, shown), jax.lax.dynamic_slice_in_dim(labels, begin, BATCH))

    def run(params: digits.Params, state: Any) -> Any:
        def step(carry: Any, place: jax.Array) -> Any:
            params, state = carry
            updates, state = transformation.update(jax.grad(loss)(params, (37 * place) % 1700), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jnp.arange(STEPS, dtype=jnp.int32))[0]

    def start(key: jax.Array) -> Any:
        params = init(key)
        return params, transformation.init(params)

    params, state = jax.vmap(start)(jax.random.split(jax.random.key(0), lanes))
    axes: Any = 0
    if isinstance(state, LaPermState):  # one counter for all lanes, so that the sync stays a branch
        axes = LaPermState(inner=0, steps=None, synced_at=None, values=0)
        state = state._replace(steps=state.steps[0], synced_at=state.synced_at[0])
    compiled = jax.jit(jax.vmap(run, in_axes=(0, axes))).lower(params, state).compile()
    return lambda: jax.block_until_ready(compiled(params, state))


def syncing(init: Build) -> Callable[[], Any]:
    """A compiled call of one sync."""
    params = init(jax.random.key(0))
    state = laperm(optax.identity()).init(params)
    noise = jax.tree.map(
        lambda leaf: leaf + 0.01 * jax.random.normal(jax.random.key(1), leaf.shape, leaf.dtype), params
    )
    compiled = jax.jit(apply_sync).lower(noise, state).compile()
    return lambda: jax.block_until_ready(compiled(noise, state))


def measure() -> list[Table]:
    """The table of this file."""
    wide = functools.partial(digits.init_mlp, widths=(64, 512, 512, 10))
    models: dict[str, tuple[Build, Callable[..., Any], int]] = {
        "MLP 64-128-128-10": (digits.init_mlp, digits.mlp, 1),
        "the same, 8 lanes": (digits.init_mlp, digits.mlp, 8),
        "MLP 64-512-512-10": (wide, digits.mlp, 1),
        "CNN 16, 32 channels": (digits.init_cnn, digits.cnn, 1),
    }
    rows, overheads = [], []
    for name, (init, model, lanes) in models.items():
        cases = {
            "Adam": Case(training(init, model, optax.adam(1e-3), lanes), STEPS),
            "LaPerm": Case(training(init, model, laperm(optax.adam(1e-3), PERIOD), lanes), STEPS),
            "sync": Case(syncing(init)),
        }
        times = interleave(cases, rounds=ROUNDS)
        over = ratio(times, "LaPerm", "Adam") - 1
        alone = ratio(times, "sync", "Adam") * lanes / PERIOD
        overheads.append(over)
        size = sum(leaf.size for leaf in jax.tree.leaves(init(jax.random.key(0))))
        rows.append(
            [
                name,
                f"{size}",
                seconds(median(times, "Adam")),
                seconds(median(times, "sync")),
                f"{over:+.1%}",
                f"{alone:.1%}",
            ]
        )
    return [
        Table(
            title=f"A sync every {PERIOD} steps beside Adam, batches of {BATCH}, float32",
            columns=[
                "network",
                "weights",
                "a step of Adam",
                "a sync of one lane",
                "overhead, measured",
                "a sync over its steps",
            ],
            rows=rows,
            says=f"LaPerm takes {min(overheads):+.1%} to {max(overheads):+.1%} of the time of Adam more; a sync over the "
            f"{PERIOD} steps it is shared by is the last column, free of the noise of a difference.",
        )
    ]


def main() -> None:
    """Print the table."""
    for table in measure():
        print(table.markdown(), end="\n\n")


if __name__ == "__main__":
    main()
