"""Pruned networks: time of a batch over width beside the ideal line, discovery, and what thresholding adds to a training step.

Run: ``python -m benchmarks.collect network``; two minutes. With PRUNEFT_BENCH_BRIEF=1 in the environment small sizes.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.alone import tell
from benchmarks.table import Table, seconds
from benchmarks.timing import Case, interleave
from pruneft import network

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
WIDTH = 256 if BRIEF else 1024
BATCH = 256
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
COORDINATES = (10_000,) if BRIEF else (10_000, 100_000, 1_000_000)  # of all hidden layers together
TRAINED = ((128, 64), (512, 256)) if BRIEF else ((128, 64), (512, 256), (1024, 256))  # width, batch


def dense(p: Any, x: jax.Array) -> jax.Array:
    """Layers in the order of their names."""
    names = sorted(p)
    for name in names[:-1]:
        x = jax.nn.relu(x @ p[name])
    return x @ p[names[-1]]


def weights(*widths: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        f"w{place:02d}": jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)
        for place, shape in enumerate(itertools.pairwise(widths))
    }


def widths() -> Table:
    """Time of a batch of removed networks."""
    params = weights(64, WIDTH, WIDTH, 10)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((BATCH, 64)), jnp.float32)
    families = network.groups(dense, params, x)
    norms = network.scores("norm", params, families)
    run = jax.jit(dense)
    flops, cases = {}, {}
    for share in SHARES:
        small = network.remove(params, families, network.select(norms, families, share), compensate="none", calls=0)
        flops[share] = small.report.flops[1] if small.report.flops else 0
        cases[f"{share:g}"] = Case(_call(run, small.params, x))
    found = {name: statistics.median(each) for name, each in interleave(cases).items()}
    whole = found["1"]
    rows = []
    for share in SHARES:
        mine, part = found[f"{share:g}"], flops[share] / flops[1.0]
        rows.append([f"{share:g}", f"{flops[share] / 1e6:.1f}", seconds(mine), f"{mine / whole:.2f}", f"{part:.2f}"])
    half = found["0.5"] / whole
    return Table(
        title=f"Time of a batch of {BATCH} over the width that stays, 64-{WIDTH}-{WIDTH}-10",
        columns=[
            "share of the width",
            "million operations",
            "time",
            "of the whole network's",
            "ideal: of its operations",
        ],
        rows=rows,
        says=f"At half of the width a batch takes {half:.2f} of the time; {flops[0.5] / flops[1.0]:.2f} would be ideal.",
    )


def discovery() -> Table:
    """Seconds of `groups` on deep dense networks that exist as shapes alone."""
    rows = []
    for count in COORDINATES:
        width = count // 10
        sizes = [64, *[width] * 10, 10]
        shapes = {
            f"w{i:02d}": jax.ShapeDtypeStruct((a, b), jnp.float32) for i, (a, b) in enumerate(itertools.pairwise(sizes))
        }
        taken = []
        for _ in range(3):
            begin = time.perf_counter()
            found = network.groups(dense, shapes, jax.ShapeDtypeStruct((8, 64), jnp.float32))
            taken.append(time.perf_counter() - begin)
        units = sum(family.width for family in found)
        coordinates = sum(sum(leaf.shape) for leaf in shapes.values())
        rows.append([f"{units}", f"{coordinates}", seconds(min(taken)), seconds(statistics.median(taken))])
    return Table(
        title="Finding the families of ten hidden layers",
        columns=["units", "coordinates of all axes", "least of three", "median"],
        rows=rows,
        says=f"{rows[-1][1]} coordinates take {rows[-1][2]}; the model is traced, and traced again with groups taken away.",
    )


def thresholding() -> Table:
    """A step of Adam with and without gradual thresholding."""
    rows, shares = [], []
    for width, batch in TRAINED:
        params = weights(64, width, width, 10)
        rng = np.random.default_rng(2)
        x = jnp.asarray(rng.standard_normal((batch, 64)), jnp.float32)
        y = jnp.asarray(rng.standard_normal((batch, 10)), jnp.float32)
        families = network.groups(dense, params, x)
        plain = optax.adam(1e-3)
        cases = {"adam": Case(_steps(plain, params, x, y), units=20)}
        for every in (1, 10):
            thresholded = optax.chain(optax.adam(1e-3), network.gradual_threshold(families, 0.5, 1000, every=every))
            cases[f"every {every}"] = Case(_steps(thresholded, params, x, y), units=20)
        found = {name: statistics.median(each) for name, each in interleave(cases).items()}
        extra = [found[f"every {every}"] / found["adam"] - 1 for every in (1, 10)]
        shares.append(extra[0])
        rows.append([f"{width}, {batch}", seconds(found["adam"]), *(f"{100 * part:+.0f} %" for part in extra)])
    return Table(
        title="Gradual thresholding on top of a step of Adam, dense network of two hidden layers",
        columns=["width, batch", "a step of Adam", "looking at every step adds", "looking at every tenth adds"],
        rows=rows,
        says=f"Looking at every step adds {100 * min(shares):.0f} to {100 * max(shares):.0f} percent.",
    )


def _call(run: Callable[..., Any], params: Any, x: jax.Array) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(run(params, x))


def _steps(optimiser: optax.GradientTransformation, params: Any, x: jax.Array, y: jax.Array) -> Callable[[], Any]:
    """Twenty steps in one program."""

    def loss(p: Any) -> jax.Array:
        return jnp.mean((dense(p, x) - y) ** 2)

    def step(_: Any, carry: Any) -> Any:
        p, state = carry
        updates, state = optimiser.update(jax.grad(loss)(p), state, p)
        return optax.apply_updates(p, updates), state

    run = jax.jit(lambda carry: jax.lax.fori_loop(0, 20, step, carry))
    start = (params, optimiser.init(params))
    return lambda: jax.block_until_ready(run(start))


def measure() -> list[Table]:
    """All three."""
    found = []
    for part in (widths, discovery, thresholding):
        tell(f"network: {part.__name__}")
        found.append(part())
    return found
