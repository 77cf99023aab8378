"""A small phase diagram: by the sweep engine, and by a plain loop over its cells.

Run: ``pytest benchmarks/bench_sweep.py``. The loop is what one writes first: for every cell one program, ``jit(vmap)`` over
its seeds, of a training of fixed length on the same instances, without attempts, pruning or fine-tuning.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

from benchmarks.table import Table, seconds, times
from benchmarks.timing import Case, CompileClock
from pruneft.experiments.recovery import EXACT_ERROR, METHODS, RECOVERY
from pruneft.pipeline import Anneal
from pruneft.sensing.draw import draw_instance
from pruneft.sensing.loss import objective
from pruneft.sweep import Ledger, cells, make_grid, sweep
from pruneft.trial import wrap_key

AXES = {"d": [16], "r": [1, 2, 4], "n_per_dof": [1.1, 1.3, 2.0]}
SEEDS = 8
STEPS = 4000


class Outcome(NamedTuple):
    """Trials done, and those that succeeded."""

    trials: int
    successes: int


def by_sweep(method: str) -> Outcome:
    """The grid by `pruneft.sweep.sweep`, ledger and all, into a fresh directory."""
    grid = make_grid(RECOVERY, {**AXES, "method": [method]}, SEEDS)
    with tempfile.TemporaryDirectory() as directory:
        done = sweep(RECOVERY, grid, Path(directory) / "run")
        with Ledger.open(done.path, read_only=True) as ledger:
            return Outcome(done.new, sum(bool(row["success"]) for row in ledger.rows()))


class PlainLoop:
    """The loop over cells; one compiled program for each, kept if ``keep``."""

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._programs: dict[tuple[int, int, int], Callable[[Array], Array]] = {}

    def __call__(self) -> Outcome:
        """Train every trial of the grid."""
        errors: list[np.ndarray] = []
        for cell in cells(RECOVERY, make_grid(RECOVERY, AXES, SEEDS)):
            shape = (cell["n"], cell["d"], cell["r"])
            program = self._programs.get(shape) or _plain_program(*shape)
            if self._keep:
                self._programs[shape] = program
            keys = wrap_key(np.stack([RECOVERY.key_data(cell, seed) for seed in range(SEEDS)]))
            errors.append(np.asarray(program(keys)))
        every = np.concatenate(errors)
        return Outcome(every.size, int(np.sum(every < EXACT_ERROR)))


def _plain_program(n: int, d: int, r: int) -> Callable[[Array], Array]:
    """Keys -> relative errors: Adam on the annealed objective by automatic differentiation, float32, `STEPS` steps."""
    anneal = Anneal()
    optimizer = anneal.optimizer(STEPS)

    def train(key: Array) -> Array:
        drawn = draw_instance(key, n=n, d=d, r=r, dtype=jnp.float32)
        unit = jnp.sqrt(jnp.mean(jnp.square(drawn.y)))
        y = drawn.y / unit
        start = jax.random.normal(jax.random.fold_in(key, 2), (d, d), jnp.float32) * (anneal.start_norm / d)

        def step(carry: tuple[Array, Any], progress: Array) -> tuple[tuple[Array, Any], None]:
            factor, state = carry
            lam = anneal.lam_start * (anneal.lam_end / anneal.lam_start) ** progress
            beta = anneal.beta_start * (anneal.beta_end / anneal.beta_start) ** progress
            slope = jax.grad(objective)(factor, drawn.operator, y, lam, beta)
            updates, state = optimizer.update(slope, state, factor)
            return (optax.apply_updates(factor, updates), state), None

        along = jnp.arange(STEPS, dtype=jnp.float32) / STEPS
        (factor, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), along)
        return jnp.linalg.norm(unit * factor @ factor.T - drawn.truth) / jnp.linalg.norm(drawn.truth)

    return jax.jit(jax.vmap(train))


@pytest.mark.parametrize("method", METHODS)
def bench_sweep_second_call(method: str, benchmark: Any) -> None:
    benchmark.group = "grid"
    by_sweep(method)
    benchmark.pedantic(by_sweep, args=(method,), rounds=2)


@pytest.mark.parametrize("keep", [True, False], ids=["programs kept", "compiled again"])
def bench_plain_loop(keep: bool, benchmark: Any) -> None:
    benchmark.group = "grid"
    loop = PlainLoop(keep)
    loop()
    benchmark.pedantic(loop, rounds=2)


def measure() -> list[Table]:
    """The tables of this file."""
    kept = PlainLoop(keep=True)
    rivals: dict[str, Case] = {
        **{f"sweep, {method}": Case(lambda method=method: by_sweep(method)) for method in METHODS},
        f"plain loop, {STEPS} steps": Case(kept),
    }
    taken: dict[tuple[str, int], float] = {}
    rows = []
    plain = f"plain loop, {STEPS} steps"
    notes: dict[tuple[str, int], tuple[Outcome, CompileClock]] = {}
    for name, case in rivals.items():
        jax.clear_caches()
        for call in (1, 2):
            with CompileClock() as clock:
                begin = time.perf_counter()
                outcome = case.run()
                taken[name, call] = time.perf_counter() - begin
            notes[name, call] = (outcome, clock)
    for (name, call), (outcome, clock) in notes.items():
        whole = taken[name, call]
        rows.append(
            [
                name,
                "first" if call == 1 else "second",
                seconds(whole),
                seconds(clock.seconds) if clock.programs else "none",
                str(clock.programs),
                seconds(whole / outcome.trials),
                seconds((whole - clock.seconds) / outcome.trials),
                f"{outcome.successes}/{outcome.trials}",
                times(taken[plain, call] / whole),
            ]
        )
    gains = {call: {m: taken[plain, call] / taken[f"sweep, {m}", call] for m in METHODS} for call in (1, 2)}
    return [
        Table(
            title=f"d = 16, r = 1, 2, 4, n/dof = 1.1, 1.3, 2, {SEEDS} seeds: {notes[plain, 1][0].trials} trials",
            columns=[
                "by",
                "call",
                "time",
                "of it XLA's compiler",
                "programs",
                "per trial",
                "per trial, compiler apart",
                "success",
                "plain loop / this",
            ],
            rows=rows,
            says=". ".join(_verdict("first" if call == 1 else "second", gains[call]) for call in (1, 2))
            + ". Both keep their programs for the second call. A sweep does more: "
            "attempts, pruning, Levenberg-Marquardt and a ledger.",
        )
    ]


def _verdict(call: str, gains: dict[str, float]) -> str:
    said = [
        f"{method} is {times(gain)} times faster than the loop"
        if gain > 1
        else f"the loop is {times(1 / gain)} times faster than {method}"
        for method, gain in gains.items()
    ]
    return f"At the {call} call {' and '.join(said)}"
