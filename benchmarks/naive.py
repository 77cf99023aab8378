"""What one would write without the engine, for the same grids and the same instances.

* `PlainLoop`: for every cell one program, ``jit(vmap)`` over its seeds, of a training of fixed length; no attempts, pruning or
  fine-tuning, so it finds fewer of the matrices.
* `NumpyTraining`: the same training, one trial at a time, with a hand-written gradient.
* `Batches`: the library's own trial in one vmapped while-loop per bucket, or per batch of it, without refill: finished lanes
  wait for the slowest. The dear stage follows in batches of equal rung, as in the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from pruneft.experiments.recovery import EXACT_ERROR, RECOVERY
from pruneft.pipeline import Anneal
from pruneft.sensing.draw import draw_instance
from pruneft.sensing.loss import objective
from pruneft.sensing.packing import packed_size
from pruneft.sweep import Grid, cells, plan, trees
from pruneft.sweep.lanes import Lanes, Layout
from pruneft.sweep.plan import Task
from pruneft.trial import Cell, wrap_key

STEPS = 4000
_STAGE_BATCH = 8
_MOST_ROUNDS = 50


class Outcome(NamedTuple):
    """What a contestant did: trials, successes, lane-steps at work and in all, programs it compiled."""

    trials: int
    successes: int
    used: int = 0
    spent: int = 0
    programs: int = 0


class PlainLoop:
    """The loop over cells; compiled programs are kept if ``keep``."""

    def __init__(self, keep: bool, steps: int = STEPS) -> None:
        self._keep, self._steps = keep, steps
        self._programs: dict[tuple[int, int, int], Callable[[Array, float], Array]] = {}

    def __call__(self, which: Sequence[Cell], seeds: int) -> tuple[Outcome, list[float]]:
        """Train every trial of these cells; the outcome, and the seconds of every cell."""
        errors: list[np.ndarray] = []
        taken = []
        for cell in which:
            begin = time.perf_counter()
            shape = (cell["n"], cell["d"], cell["r"])
            program = self._programs.get(shape) or _plain_program(*shape, self._steps)
            if self._keep:
                self._programs[shape] = program
            keys = wrap_key(np.stack([RECOVERY.key_data(cell, seed) for seed in range(seeds)]))
            errors.append(np.asarray(program(keys, cell["kappa"])))
            taken.append(time.perf_counter() - begin)
        every = np.concatenate(errors)
        steps = every.size * self._steps
        shapes = len({(cell["n"], cell["d"], cell["r"]) for cell in which})
        return Outcome(every.size, int(np.sum(every < EXACT_ERROR)), steps, steps, shapes), taken


def _plain_program(n: int, d: int, r: int, steps: int) -> Callable[[Array, float], Array]:
    """Keys -> relative errors: Adam on the annealed objective by automatic differentiation, float32."""
    anneal = Anneal()
    optimizer = anneal.optimizer(steps)

    def train(key: Array, kappa: Array) -> Array:
        drawn = draw_instance(key, n=n, d=d, r=r, kappa=jnp.asarray(kappa, jnp.float32), dtype=jnp.float32)
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

        along = jnp.arange(steps, dtype=jnp.float32) / steps
        (factor, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), along)
        return jnp.linalg.norm(unit * factor @ factor.T - drawn.truth) / jnp.linalg.norm(drawn.truth)

    return jax.jit(jax.vmap(train, in_axes=(0, None)))


class NumpyTraining:
    """One trial at a time in NumPy, float32; data are drawn beforehand and cost nothing here."""

    def __init__(self, cell: Cell, seed: int) -> None:
        key = wrap_key(RECOVERY.key_data(cell, seed))
        d = cell["d"]
        drawn = jax.jit(lambda key: draw_instance(key, n=cell["n"], d=d, r=cell["r"], kappa=cell["kappa"]))(key)
        self._rows, self._truth = np.asarray(drawn.operator.rows), np.asarray(drawn.truth)
        self._y = np.asarray(drawn.y)
        columns = np.repeat(np.arange(d), np.arange(1, d + 1))
        rows = np.arange(packed_size(d)) - columns * (columns + 1) // 2
        self._flat = rows * d + columns
        self._scale = np.where(rows == columns, 1.0, np.sqrt(2.0)).astype(np.float32)
        place = np.zeros((d, d), np.int64)
        place[rows, columns] = place[columns, rows] = np.arange(rows.size)
        self._place = place
        self._start = np.random.default_rng(seed).normal(size=(d, d)).astype(np.float32) * np.float32(2.0 / d)

    def gradient(self, factor: np.ndarray, y: np.ndarray, lam: float, beta: float) -> np.ndarray:
        """Of mean squared error and penalty, ``4 G U + lam U (q + 2 beta) / (q + beta)^1.5``."""
        packed = (factor @ factor.T).ravel()[self._flat] * self._scale
        back = ((self._rows @ packed - y) @ self._rows) / self._scale
        q = np.sum(factor * factor, axis=0)
        shifted = q + beta
        pull = lam * (q + 2 * beta) / (shifted * np.sqrt(shifted))
        slope: np.ndarray = (4.0 / y.size) * (back[self._place] @ factor) + factor * pull
        return slope

    def train(self, steps: int = STEPS) -> float:
        """The relative error after so many steps of Adam."""
        anneal = Anneal()
        unit = np.sqrt(np.mean(np.square(self._y)))
        y, factor = self._y / unit, self._start.copy()
        mean, square = np.zeros_like(factor), np.zeros_like(factor)
        for step in range(steps):
            along = step / steps
            lam = anneal.lam_start * (anneal.lam_end / anneal.lam_start) ** along
            beta = anneal.beta_start * (anneal.beta_end / anneal.beta_start) ** along
            share = anneal.final_rate + (1 - anneal.final_rate) * 0.5 * (1 + np.cos(np.pi * along))
            slope = self.gradient(factor, y, lam, beta)
            mean += (1 - anneal.b1) * (slope - mean)
            square += (1 - anneal.b2) * (slope * slope - square)
            level = np.sqrt(square / (1 - anneal.b2 ** (step + 1))) + np.float32(1e-8)
            factor -= np.float32(anneal.learning_rate * share / (1 - anneal.b1 ** (step + 1))) * mean / level
        return float(np.linalg.norm(unit * factor @ factor.T - self._truth) / np.linalg.norm(self._truth))


class Batches:
    """Vmapped while-loops over the engine's own buckets and trials, without refill; programs are kept.

    Args:
      grid: what is run.
      lanes: of a batch; None for all trials of a bucket at once.
    """

    def __init__(self, grid: Grid, lanes: int | None) -> None:
        todo = [(cell, seed) for cell in cells(RECOVERY, grid) for seed in range(grid.seeds)]
        self._parts = [_Bucket(task, lanes) for task in plan(RECOVERY, todo, dtype="float64")]

    def __call__(self) -> Outcome:
        """Run every trial."""
        found = [part.run() for part in self._parts]
        trials, successes, used, spent, programs = (sum(values) for values in zip(*found, strict=True))
        return Outcome(trials, successes, used, spent, programs)


class _Bucket:
    def __init__(self, task: Task, lanes: int | None) -> None:
        self._task = task
        self._width = lanes or len(task.trials)
        self._names = tuple(RECOVERY.inputs(task.trials[0][0]))
        self._trial = RECOVERY.trial(task.bucket)
        self._lanes = Lanes.of(self._trial, self._names, "float64", Layout.of(_STAGE_BATCH), 10_000_000)
        self._begin = jax.jit(jax.vmap(self._lanes.begin))
        self._train = jax.jit(self._until_stopped)
        self._look = jax.jit(self._asked)
        self._report = jax.jit(jax.vmap(self._trial.report))
        self._draw = jax.jit(self._lanes.draw)
        self._stages: dict[int, Callable[..., Any]] = {}

    def run(self) -> Outcome:
        successes = used = spent = 0
        trials = self._task.trials
        for first in range(0, len(trials), self._width):
            batch = trials[first : first + self._width]
            found = self._batch([*batch, *batch[:1] * (self._width - len(batch))], len(batch))
            successes, used, spent = successes + found[0], used + found[1], spent + found[2]
        return Outcome(len(trials), successes, used, spent, 5 + len(self._stages))

    def _until_stopped(self, problem: PyTree, state: PyTree, real: Array) -> tuple[PyTree, Array, Array]:
        """Steps and turns until no lane has any left: (states, steps, lane-steps of ``real`` lanes)."""
        active, at_turn = jax.vmap(self._trial.active), jax.vmap(self._trial.at_turn)

        def running(state: PyTree) -> Array:
            return active(problem, state) & ~at_turn(problem, state)

        def step(loop: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
            state, steps, used = loop
            run = running(state)
            state = trees.where(run, jax.vmap(self._trial.step)(problem, state), state)
            return state, steps + 1, used + jnp.sum(run & real, dtype=jnp.int32)

        def turn(loop: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
            state, steps, used = jax.lax.while_loop(lambda loop: jnp.any(running(loop[0])), step, loop)
            asks = active(problem, state) & at_turn(problem, state)
            return trees.where(asks, jax.vmap(self._trial.turn)(problem, state), state), steps, used

        zero = jnp.zeros((), jnp.int32)
        return jax.lax.while_loop(lambda loop: jnp.any(active(problem, loop[0])), turn, (state, zero, zero))

    def _asked(self, problem: PyTree, state: PyTree) -> tuple[Array, Array]:
        stage = self._trial.stage
        assert stage is not None
        return jax.vmap(self._trial.waiting)(problem, state), jax.vmap(stage.size)(problem, state)

    def _batch(self, trials: Sequence[tuple[Cell, int]], real: int) -> tuple[int, int, int]:
        words = np.stack([RECOVERY.key_data(cell, seed) for cell, seed in trials])
        inputs = np.array([[RECOVERY.inputs(cell)[name] for name in self._names] for cell, _ in trials])
        problem, state = self._begin(words, inputs)
        mask = np.arange(len(trials)) < real
        used = spent = 0
        for _ in range(_MOST_ROUNDS):
            state, steps, at_work = self._train(problem, state, mask)
            used, spent = used + int(at_work), spent + int(steps) * len(trials)
            waiting, size = (np.asarray(found) for found in self._look(problem, state))
            if not waiting[mask].any():
                break
            state = self._serve(words, inputs, state, waiting, size)
        success = np.asarray(self._report(problem, state)["success"])
        return int(success[mask].sum()), used, spent

    def _serve(
        self, words: np.ndarray, inputs: np.ndarray, state: PyTree, waiting: np.ndarray, size: np.ndarray
    ) -> PyTree:
        """The stage for every lane that waits, in batches of equal rung."""
        leaves, tree = jax.tree.flatten(jax.tree.map(np.array, trees.plain(state)))
        for rung, places in self._by_rung(np.flatnonzero(waiting), size):
            filled = np.concatenate([places, np.repeat(places[:1], _STAGE_BATCH - len(places))])
            if rung not in self._stages:
                self._stages[rung] = jax.jit(self._lanes.stage(rung))
            served = self._stages[rung](
                self._draw(words[filled], inputs[filled]), jax.tree.unflatten(tree, [leaf[filled] for leaf in leaves])
            )
            for leaf, new in zip(leaves, jax.tree.leaves(served.state), strict=True):
                leaf[places] = np.asarray(new)[: len(places)]
        return trees.typed(jax.tree.unflatten(tree, leaves), self._lanes.state)

    def _by_rung(self, places: np.ndarray, size: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        stage = self._trial.stage
        assert stage is not None
        rungs = np.array([stage.rung(int(size[place])) for place in places])
        for rung in np.unique(rungs):
            mine = places[rungs == rung]
            for first in range(0, len(mine), _STAGE_BATCH):
                yield int(rung), mine[first : first + _STAGE_BATCH]
