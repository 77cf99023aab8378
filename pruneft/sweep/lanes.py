"""What runs on the device: lanes that are refilled from a queue, and the stage, as functions to be compiled.

A **segment** is one jitted call: up to K masked steps of L vmapped lanes; then turns, for the lanes that ask; then reports;
then idle lanes draw and begin the next trials of the queue. A lane freezes at the very step at which it finishes, asks for
its turn or waits for the stage, so a trial's numbers do not depend on K, on the order of the queue, or on what runs
beside it. Lanes that wait for the stage hand their state over and are refilled at once; the stage draws their problems
again from their keys, runs in batches of equal size, and what it does not finish comes back through a second queue.

Turns and refills run on R compacted lanes inside a real loop, so they cost nothing where no lane asks. The lengths of the
queues are traced numbers in arrays of fixed size: as shapes they would compile a program for every refill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pruneft.sweep import trees
from pruneft.sweep.exchange import Carry, Outcome, Queue, Returned, Served
from pruneft.trial import Trial, wrap_key

# A stage that leaves a lane where it was would otherwise keep its batch for ever.
_MOST_CALLS = 256


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The shapes of a bucket's programs.

    Attributes:
      lanes: side by side on each device.
      chunk: lanes that are turned or refilled together.
      queue: slots of each queue window, on each device.
      batch: trials of one stage call, on each device.
      devices: over which the lanes are spread, each with a queue of its own; None for the default device.
    """

    lanes: int
    chunk: int
    queue: int
    batch: int
    devices: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, lanes: int, devices: Sequence[Any] | None = None) -> Layout:
        """The layout for so many lanes on each device."""
        several = None if devices is None or len(devices) < 2 else tuple(devices)
        # In a batch every trial pays for the slowest: few at a time where batches gain nothing else, as on a CPU, which is
        # given few lanes (Levenberg-Marquardt in pairs takes two thirds of the time that it takes by eight).
        batch = min(lanes, 2) if lanes <= 16 else min(lanes // 4, 64)
        return cls(lanes=lanes, chunk=max(1, lanes // 2), queue=max(32, 4 * lanes), batch=batch, devices=several)

    @property
    def shards(self) -> int:
        """Number of devices."""
        return 1 if self.devices is None else len(self.devices)


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """The functions of one bucket; pure, to be compiled by `pruneft.sweep.programs`.

    Attributes:
      trial: what the lanes run.
      names: of its inputs, in the order in which they are packed.
      layout: lanes and the rest.
      max_steps: a trial that has not finished after so many steps is ended as lost.
      problem, state, report: shapes of one lane's.
    """

    trial: Trial
    names: tuple[str, ...]
    layout: Layout
    max_steps: int
    problem: PyTree
    state: PyTree
    report: PyTree

    @classmethod
    def of(cls, trial: Trial, names: Sequence[str], dtype: Any, layout: Layout, max_steps: int) -> Lanes:
        """The lanes of a trial whose inputs have this dtype.

        Raises:
          ValueError: a report is not a dict of scalars with ``status``.
        """
        words = jax.ShapeDtypeStruct((2,), jnp.uint32)
        inputs = jax.ShapeDtypeStruct((len(names),), dtype)
        problem, state = jax.eval_shape(lambda w, i: _begin(trial, names, w, i), words, inputs)
        report = jax.eval_shape(trial.report, problem, state)
        _check_report(report)
        return cls(
            trial=trial,
            names=tuple(names),
            layout=layout,
            max_steps=max_steps,
            problem=problem,
            state=state,
            report=report,
        )

    def begin(self, words: Array, inputs: Array) -> tuple[PyTree, PyTree]:
        """Problem and state of one lane, from key words [2] and packed inputs [m]."""
        return _begin(self.trial, self.names, words, inputs)

    def segment(self, carry: Carry, queue: Queue, returned: Returned, limits: Array) -> tuple[Carry, Outcome]:
        """At most limits[0] steps, ended early where limits[1] lanes wait for the end; then turns, reports, refill."""
        trial, lanes = self.trial, self.layout.lanes
        finished, at_turn, waiting = (jax.vmap(f) for f in (trial.finished, trial.at_turn, trial.waiting))
        problem, live = carry.problem, carry.row >= 0

        def running(state: PyTree, taken: Array) -> Array:
            stopped = finished(problem, state) | at_turn(problem, state) | waiting(problem, state)
            return live & ~stopped & (taken < self.max_steps)

        def go_on(loop: tuple[Array, PyTree, Array, Array, Array]) -> Array:
            steps, _, _, run, _ = loop
            return (steps < limits[0]) & jnp.any(run) & (jnp.sum(live & ~run, dtype=jnp.int32) < limits[1])

        def advance(loop: tuple[Array, PyTree, Array, Array, Array]) -> tuple[Array, PyTree, Array, Array, Array]:
            steps, state, taken, run, used = loop
            state = trees.where(run, jax.vmap(trial.step)(problem, state), state)
            taken = taken + run.astype(jnp.int32)
            return steps + 1, state, taken, running(state, taken), used + jnp.sum(run, dtype=jnp.int32)

        zero = jnp.zeros((), jnp.int32)
        begin = (zero, carry.state, carry.taken, running(carry.state, carry.taken), zero)
        steps, state, taken, _, used = jax.lax.while_loop(go_on, advance, begin)

        stopped = live & ~finished(problem, state) & ~waiting(problem, state)
        turning = stopped & at_turn(problem, state) & (taken < self.max_steps)

        def turn(place: Array, state: PyTree) -> PyTree:
            # Where none asks, one that asks once more: a turn may loop, and need not end on what it is not meant for.
            asking = jnp.where(place < lanes, place, place[0])
            return trees.put(state, place, jax.vmap(trial.turn)(trees.take(problem, asking), trees.take(state, asking)))

        state = self._in_chunks(turning, turn, state)
        over = finished(problem, state)
        lost = live & ~over & ((turning & at_turn(problem, state)) | (taken >= self.max_steps))
        done, wait = live & (over | lost), live & ~lost & waiting(problem, state)
        report = jax.lax.cond(
            jnp.any(done), jax.vmap(trial.report), lambda *_: trees.blank(self.report, lanes), problem, state
        )
        handed = jax.lax.cond(
            jnp.any(wait), trees.plain, lambda state: jax.tree.map(jnp.zeros_like, trees.plain(state)), state
        )
        row = jnp.where(done | wait, -1, carry.row)
        filled = self._refill(Carry(problem, state, row, taken, carry.fresh, carry.back), queue, returned)
        flags = (carry.row, done, lost, wait, self._size(problem, state, lanes), taken)
        counts = (jnp.sum(filled.row >= 0, dtype=jnp.int32), filled.fresh[0], filled.back[0], steps, used)
        outcome = Outcome(
            lanes=jnp.stack([flag.astype(jnp.int32) for flag in flags], axis=-1),
            counts=jnp.stack(counts)[None],
            report=report,
            state=handed,
        )
        return filled, outcome

    def _refill(self, carry: Carry, queue: Queue, returned: Returned) -> Carry:
        """Idle lanes take returned trials first, then fresh ones, in order."""
        slots, place_in_chunk = self.layout.queue, jnp.arange(self.layout.chunk, dtype=jnp.int32)

        def left(carry: Carry) -> Array:
            return (returned.queue.end[0] - carry.back[0]) + (queue.end[0] - carry.fresh[0])

        def body(place: Array, carry: Carry) -> Carry:
            coming = jnp.minimum(returned.queue.end[0] - carry.back[0], self.layout.chunk)
            back = place_in_chunk < coming
            fresh = carry.fresh[0] + place_in_chunk - coming
            some = (place < self.layout.lanes) & (back | (fresh < queue.end[0]))
            # Where no trial is left the first of the chunk again, since a draw need not end on an empty slot; there is
            # one, or there would be nothing to do here.
            which = jnp.where(some, place_in_chunk, 0)
            back, fresh = back[which], fresh[which]
            old = jnp.clip(carry.back[0] + which - returned.queue.base[0], 0, slots - 1)
            new = jnp.clip(fresh - queue.base[0], 0, slots - 1)

            def pick(a: Array, b: Array) -> Array:
                return trees.where(back, a[old], b[new])

            problem, state = jax.vmap(self.begin)(
                pick(returned.queue.words, queue.words), pick(returned.queue.inputs, queue.inputs)
            )
            state = trees.where(back, trees.typed(trees.take(returned.state, old), self.state), state)
            taken = jnp.where(back, returned.taken[old], 0)
            target = jnp.where(some, place, self.layout.lanes)
            return Carry(
                trees.put(carry.problem, target, problem),
                trees.put(carry.state, target, state),
                trees.put(carry.row, target, pick(returned.queue.row, queue.row)),
                trees.put(carry.taken, target, taken),
                carry.fresh + jnp.sum(some & ~back, dtype=jnp.int32),
                carry.back + jnp.sum(some & back, dtype=jnp.int32),
            )

        return self._in_chunks(carry.row < 0, body, carry, more=lambda carry: left(carry) > 0)

    def _in_chunks(
        self,
        mask: Array,
        body: Callable[[Array, PyTree], PyTree],
        value: PyTree,
        more: Callable[[PyTree], Array] = lambda value: jnp.ones((), jnp.bool_),
    ) -> PyTree:
        """``body(places, value)`` for the lanes of the mask, R at a time; a place beyond the lanes means none."""

        def step(loop: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            mask, value = loop
            (place,) = jnp.nonzero(mask, size=self.layout.chunk, fill_value=mask.shape[0])
            place = place.astype(jnp.int32)
            return mask.at[place].set(False, mode="drop"), body(place, value)

        return jax.lax.while_loop(lambda loop: jnp.any(loop[0]) & more(loop[1]), step, (mask, value))[1]

    def _size(self, problem: PyTree, state: PyTree, count: int) -> Array:
        stage = self.trial.stage
        if stage is None:
            return jnp.zeros((count,), jnp.int32)
        return jax.vmap(stage.size)(problem, state).astype(jnp.int32)

    def draw(self, words: Array, inputs: Array) -> PyTree:
        """The problems of a stage batch: words [B, 2], inputs [B, m]."""
        return jax.vmap(self.begin)(words, inputs)[0]

    def stage(self, rung: int) -> Callable[[PyTree, PyTree], Served]:
        """The stage on a batch: lanes whose size falls to this rung, until they are through with it."""
        trial, stage = self.trial, self.trial.stage
        assert stage is not None
        lower = max((smaller for smaller in stage.ladder if smaller < rung), default=jnp.iinfo(jnp.int32).min)
        run, batch = jax.vmap(stage.run(rung)), self.layout.batch

        def going(problem: PyTree, state: PyTree) -> Array:
            size = self._size(problem, state, batch)
            return jax.vmap(trial.waiting)(problem, state) & (size > lower) & (size <= rung)

        def serve(problem: PyTree, words: PyTree) -> Served:
            def once(loop: tuple[Array, PyTree, Array]) -> tuple[Array, PyTree, Array]:
                calls, state, go = loop
                # Lanes that are through get a copy of one that is not: their own, unfit problem could keep the loops of
                # the others going.
                place = jnp.where(go, jnp.arange(go.size), jnp.argmax(go))
                mine, theirs = jax.lax.cond(
                    jnp.all(go), lambda pair: pair, lambda pair: trees.take(pair, place), (problem, state)
                )
                state = trees.where(go, run(mine, theirs), state)
                return calls + 1, state, going(problem, state)

            state = trees.typed(words, self.state)
            begin = (jnp.zeros((), jnp.int32), state, going(problem, state))
            _, state, _ = jax.lax.while_loop(lambda loop: jnp.any(loop[2]) & (loop[0] < _MOST_CALLS), once, begin)
            return Served(
                state=trees.plain(state),
                done=jax.vmap(trial.finished)(problem, state),
                waiting=jax.vmap(trial.waiting)(problem, state),
                size=self._size(problem, state, batch),
                report=jax.vmap(trial.report)(problem, state),
            )

        return serve


def _begin(trial: Trial, names: Sequence[str], words: Array, inputs: Array) -> tuple[PyTree, PyTree]:
    problem = trial.draw(wrap_key(words), {name: inputs[place] for place, name in enumerate(names)})
    return problem, trial.init(problem)


def _check_report(report: Any) -> None:
    if not isinstance(report, dict) or "status" not in report:
        raise ValueError(f"a trial's report must be a dict with a `status`: got {report!r}.")
    for name, value in report.items():
        if getattr(value, "shape", None) != ():
            raise ValueError(
                f"a report holds scalars only, got {value!r} for {name!r}. Reduce it to a number in `report`."
            )
