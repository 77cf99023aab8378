"""Lanes: trials of one bucket side by side under vmap, from draw to report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from pruneft.trial import Trial, wrap_key


@dataclass
class Programs:
    """The compiled programs of one bucket. All have the batch size ``lanes``, so each is compiled once.

    Attributes:
      trial: what the lanes run.
      lanes: batch size of every program.
      segment_steps: steps in one call; between calls lanes that wait for the stage are served.
    """

    trial: Trial
    lanes: int
    segment_steps: int
    _stages: dict[int, Callable[[PyTree, PyTree], PyTree]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        trial = self.trial

        def begin(words: Array, inputs: Mapping[str, Array]) -> tuple[PyTree, PyTree]:
            problem = trial.draw(wrap_key(words), inputs)
            return problem, trial.init(problem)

        def look(problem: PyTree, state: PyTree) -> tuple[Array, Array, Array]:
            size = jnp.zeros((), jnp.int32) if trial.stage is None else trial.stage.size(problem, state)
            return trial.finished(problem, state), trial.waiting(problem, state), size

        self.begin = jax.jit(jax.vmap(begin))
        self.look = jax.jit(jax.vmap(look))
        self.report = jax.jit(jax.vmap(trial.report))
        self.segment = jax.jit(functools.partial(_segment, trial, steps=self.segment_steps), donate_argnums=1)

    def fit_memory(self, inputs: Mapping[str, np.ndarray], limit: int) -> Programs:
        """The same programs, with fewer lanes where those would need more than ``limit`` bytes for problems and states."""
        one = {name: jax.ShapeDtypeStruct((1,), values.dtype) for name, values in inputs.items()}
        shapes = jax.tree.leaves(jax.eval_shape(self.begin, jax.ShapeDtypeStruct((1, 2), jnp.uint32), one))
        per_lane = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in shapes)
        lanes = max(1, min(self.lanes, limit // max(per_lane, 1)))
        return self if lanes == self.lanes else Programs(self.trial, lanes, self.segment_steps)

    def stage(self, rung: int) -> Callable[[PyTree, PyTree], PyTree]:
        """The stage's program for lanes of this size."""
        if rung not in self._stages:
            assert self.trial.stage is not None
            self._stages[rung] = jax.jit(jax.vmap(self.trial.stage.run(rung)))
        return self._stages[rung]


def _segment(trial: Trial, problems: PyTree, states: PyTree, *, steps: int) -> PyTree:
    """Up to ``steps`` steps of every lane.

    A lane freezes where it finishes or waits, so results do not depend on ``steps``.
    """
    active, at_turn = jax.vmap(trial.active), jax.vmap(trial.at_turn)
    step, turn = jax.vmap(trial.step), jax.vmap(trial.turn)

    def go_on(carry: tuple[Array, PyTree, Array]) -> Array:
        return (carry[0] < steps) & jnp.any(carry[2])

    def advance(carry: tuple[Array, PyTree, Array]) -> tuple[Array, PyTree, Array]:
        count, states, running = carry
        turning = running & at_turn(problems, states)
        # Under vmap a cond inside the lane would make every lane pay for the turn at every step; here it is one real
        # branch for all.
        states = jax.lax.cond(
            jnp.any(turning),
            lambda states: _where(turning, turn(problems, states), states),
            lambda states: states,
            states,
        )
        states = _where(running & ~turning, step(problems, states), states)
        return count + 1, states, active(problems, states)

    return jax.lax.while_loop(go_on, advance, (jnp.zeros((), jnp.int32), states, active(problems, states)))[1]


def run_batch(
    programs: Programs, keys: np.ndarray, inputs: Mapping[str, np.ndarray], *, max_segments: int = 100_000
) -> list[dict[str, Any]]:
    """Run one batch of trials to the end.

    Args:
      programs: of the trials' bucket.
      keys: [trials, 2] uint32, at most ``programs.lanes`` of them.
      inputs: name -> [trials] numbers.
      max_segments: a batch that has not finished by then is a defect of the trial, and raises.

    Returns:
      The report of every trial, in order, as Python numbers.

    Raises:
      RuntimeError: some trial never finished.
    """
    count = keys.shape[0]
    # A batch that is not full is filled with copies of its last trial, whose reports are dropped: one shape, one
    # program.
    fill = np.minimum(np.arange(programs.lanes), count - 1)
    problems, states = programs.begin(keys[fill], {name: values[fill] for name, values in inputs.items()})
    for _ in range(max_segments):
        finished, waiting, size = (np.asarray(flag) for flag in programs.look(problems, states))
        if finished.all():
            break
        if (waiting | finished).all():
            states = _serve(programs, problems, states, waiting, size)
        else:
            states = programs.segment(problems, states)
    else:
        raise RuntimeError(
            f"a trial did not finish in {max_segments} segments of {programs.segment_steps} steps: its `finished` never became true. "
            "Give it a step budget."
        )
    columns = {name: np.asarray(values) for name, values in programs.report(problems, states).items()}
    return [{name: values[lane].item() for name, values in columns.items()} for lane in range(count)]


def _serve(programs: Programs, problems: PyTree, states: PyTree, waiting: np.ndarray, size: np.ndarray) -> PyTree:
    """Run the stage on the lanes that wait, in groups of equal size."""
    stage = programs.trial.stage
    assert stage is not None
    rungs = np.array([stage.rung(int(value)) for value in size])
    for rung in sorted({int(value) for value in rungs[waiting]}):
        served = waiting & (rungs == rung)
        # Idle lanes are given a copy of a waiting one: their own, much larger or unfit, problem could keep the loop of
        # all going.
        source = np.where(served, np.arange(served.size), int(np.flatnonzero(served)[0]))
        done = programs.stage(rung)(_take(problems, source), _take(states, source))
        states = _where(jnp.asarray(served), done, states)
    return states


def batches(count: int, lanes: int) -> Iterator[slice]:
    """Slices of at most ``lanes`` that cover ``count`` trials."""
    for begin in range(0, count, lanes):
        yield slice(begin, min(begin + lanes, count))


def stack_inputs(inputs: Sequence[Mapping[str, float]], dtype: Any) -> dict[str, np.ndarray]:
    """Name -> [trials] array, from one mapping per trial."""
    return {name: np.array([one[name] for one in inputs], dtype) for name in inputs[0]}


def _take(tree: PyTree, lanes: np.ndarray) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[lanes], tree)


def _where(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), new, old)
