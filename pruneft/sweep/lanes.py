"""The device side of the engine: lanes that are refilled from a queue, and the stage, as the compiled programs of one bucket.

A **segment** is one jitted call: up to K masked steps of L vmapped lanes; then turns, for the lanes that ask; then reports;
then idle lanes draw and begin the next trials of the queue. A lane freezes at the very step at which it finishes, asks for
its turn or waits for the stage, so a trial's numbers do not depend on K, on the order of the queue, or on what runs
beside it. Lanes that wait for the stage hand their state over and are refilled at once; the stage draws their problems
again from their keys, runs in batches of equal size, and what it does not finish comes back through a second queue.

Turns and refills run on R compacted lanes inside a real loop, so they cost nothing where no lane asks. The lengths of the
queues are traced numbers in arrays of fixed size: as shapes they would compile a program for every refill.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from pruneft.trial import Trial, wrap_key

# A stage that leaves a lane where it was would otherwise keep its batch for ever.
_MOST_CALLS = 256
AXIS = "lanes"


class Queue(NamedTuple):
    """A window of the trials that have not begun; every array has a leading axis over devices times slots.

    Attributes:
      words: uint32 [Q, 2], keys.
      inputs: [Q, m], the inputs of `Programs.names`.
      row: int32 [Q], the number by which the caller knows the trial.
      base, end: int32 [1], positions in the whole queue of the first slot, and of the end of what there is.
    """

    words: Array
    inputs: Array
    row: Array
    base: Array
    end: Array


class Returned(NamedTuple):
    """A window of the trials that come back from the stage: a `Queue`, and the states they go on from.

    Attributes:
      queue: as above.
      state: [Q, ...].
      count: int32 [Q], steps that the engine has counted for each.
    """

    queue: Queue
    state: PyTree
    count: Array


class Carry(NamedTuple):
    """What stays on the device between segments, donated from one to the next.

    Attributes:
      problem, state: [L, ...].
      row: int32 [L], the trial's number; -1 in an idle lane.
      count: int32 [L], steps of the trial.
      fresh, back: int32 [1], positions of the next trial in `Queue` and in `Returned`.
    """

    problem: PyTree
    state: PyTree
    row: Array
    count: Array
    fresh: Array
    back: Array


class Outcome(NamedTuple):
    """What a segment tells the host.

    Attributes:
      row: int32 [L], whose trial it was.
      done: bool [L], reported here; ``lost``: done without having finished, at its limit or stuck in its turn.
      waiting: bool [L], handed over to the stage; ``size``: int32 [L] what it asks for.
      report: name -> [L]; zeros where no lane is done.
      state: [L, ...]; zeros where no lane waits. Typed keys as their words.
      count: int32 [L].
      live: int32 [1], lanes at work after the refill.
      fresh, back: as in `Carry`.
      steps: int32 [1], steps of the segment; ``used``: int32 [1], lane-steps in which a lane was at work.
    """

    row: Array
    done: Array
    lost: Array
    waiting: Array
    size: Array
    report: dict[str, Array]
    state: PyTree
    count: Array
    live: Array
    fresh: Array
    back: Array
    steps: Array
    used: Array


class Served(NamedTuple):
    """What the stage tells the host, [B] each: as in `Outcome`."""

    state: PyTree
    done: Array
    waiting: Array
    size: Array
    report: dict[str, Array]


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
        return cls(lanes=lanes, chunk=max(1, lanes // 2), queue=max(32, 4 * lanes), batch=min(lanes, 8), devices=several)

    @property
    def shards(self) -> int:
        """Number of devices."""
        return 1 if self.devices is None else len(self.devices)


class Programs:
    """The compiled programs of one bucket: a segment, the draw of the stage, and a program for each rung of its ladder.

    They are compiled once each, when `prepare` or the first use asks for them, the stage's in a thread of their own,
    because nothing waits for them yet.

    Attributes:
      trial: what the lanes run.
      names: of the inputs, in the order in which they are packed.
      layout: lanes and the rest.
    """

    def __init__(
        self, trial: Trial, names: Sequence[str], dtype: Any, layout: Layout, *, max_steps: int = 10_000_000
    ) -> None:
        """Nothing is traced yet.

        Args:
          trial: what the lanes run.
          names: of the trial's inputs.
          dtype: of the inputs.
          layout: lanes and the rest.
          max_steps: a trial that has not finished after so many steps is ended and reported as unfinished.
        """
        self.trial, self.names, self.layout = trial, tuple(names), layout
        self._dtype, self._max_steps = np.dtype(dtype), max_steps
        self._programs: dict[Any, Future[Callable[..., Any]]] = {}
        self._lock = threading.Lock()
        self.problem, self.state = jax.eval_shape(self._begin, *self._one())
        self.report = jax.eval_shape(trial.report, self.problem, self.state)

    @property
    def lane_bytes(self) -> int:
        """Bytes of one lane's problem and state."""
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves((self.problem, self.state)))

    @property
    def compiled(self) -> int:
        """How many programs there are by now."""
        return len(self._programs)

    def prepare(self) -> None:
        """Begin to compile what every run needs: the stage's programs in a thread, the segment in this one."""
        stage = self.trial.stage
        if stage is not None:
            later = [self._future("draw"), *(self._future(("stage", rung)) for rung in stage.ladder)]
            missing = [make for _, make in later if make is not None]

            def compile_all() -> None:
                for make in missing:
                    make()

            threading.Thread(target=compile_all, name="pruneft-compile", daemon=True).start()
        self._program("segment")

    def empty(self) -> Carry:
        """Idle lanes, to be filled by the first segment."""
        every, shards = self.layout.lanes * self.layout.shards, self.layout.shards
        whole = jnp.zeros((every,), jnp.int32)
        carry = Carry(
            problem=_blank(self.problem, every),
            state=_blank(self.state, every),
            row=whole - 1,
            count=whole,
            fresh=jnp.zeros((shards,), jnp.int32),
            back=jnp.zeros((shards,), jnp.int32),
        )
        mesh = self._mesh()
        if mesh is None:
            return carry
        return jax.device_put(carry, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS)))

    def no_queue(self) -> Queue:
        """An empty window, NumPy, to be filled in by the host."""
        slots, shards = self.layout.queue * self.layout.shards, self.layout.shards
        return Queue(
            np.zeros((slots, 2), np.uint32),
            np.zeros((slots, len(self.names)), self._dtype),
            np.full(slots, -1, np.int32),
            np.zeros(shards, np.int32),
            np.zeros(shards, np.int32),
        )

    def no_returned(self) -> Returned:
        """An empty window, NumPy, to be filled in by the host."""
        queue = self.no_queue()
        state = jax.tree.map(lambda leaf: np.zeros((queue.row.size, *leaf.shape), leaf.dtype), _plain_shapes(self.state))
        return Returned(queue, state, np.zeros(queue.row.size, np.int32))

    def segment(self, carry: Carry, queue: Queue, returned: Returned, steps: int, blocked: int) -> tuple[Carry, Outcome]:
        """Run one segment of at most ``steps`` steps, ended early where ``blocked`` lanes of a device wait for its end."""
        limits = np.array([steps, blocked], np.int32)
        return self._program("segment")(carry, queue, returned, limits)  # type: ignore[no-any-return]

    def draw(self, words: np.ndarray, inputs: np.ndarray) -> PyTree:
        """The problems of a stage batch: words [B, 2], inputs [B, m]."""
        return self._program("draw")(words, inputs)

    def serve(self, rung: int, problem: PyTree, state: PyTree) -> Served:
        """Run the stage's program for this rung on a batch; typed keys of the state are given as their words."""
        return self._program(("stage", rung))(problem, state)  # type: ignore[no-any-return]

    # What follows is traced.

    def _begin(self, words: Array, inputs: Array) -> tuple[PyTree, PyTree]:
        values = {name: inputs[place] for place, name in enumerate(self.names)}
        problem = self.trial.draw(wrap_key(words), values)
        return problem, self.trial.init(problem)

    def _segment(self, carry: Carry, queue: Queue, returned: Returned, limits: Array) -> tuple[Carry, Outcome]:
        trial, lanes = self.trial, self.layout.lanes
        finished, at_turn, waiting = (jax.vmap(f) for f in (trial.finished, trial.at_turn, trial.waiting))
        problem, live = carry.problem, carry.row >= 0

        def running(state: PyTree, count: Array) -> Array:
            stopped = finished(problem, state) | at_turn(problem, state) | waiting(problem, state)
            return live & ~stopped & (count < self._max_steps)

        def go_on(loop: tuple[Array, PyTree, Array, Array, Array]) -> Array:
            steps, _, _, run, _ = loop
            return (steps < limits[0]) & jnp.any(run) & (jnp.sum(live & ~run) < limits[1])

        def advance(loop: tuple[Array, PyTree, Array, Array, Array]) -> tuple[Array, PyTree, Array, Array, Array]:
            steps, state, count, run, used = loop
            state = _where(run, jax.vmap(trial.step)(problem, state), state)
            count = count + run
            return steps + 1, state, count, running(state, count), used + jnp.sum(run, dtype=jnp.int32)

        zero = jnp.zeros((), jnp.int32)
        begin = (zero, carry.state, carry.count, running(carry.state, carry.count), zero)
        steps, state, count, _, used = jax.lax.while_loop(go_on, advance, begin)

        stopped = live & ~finished(problem, state) & ~waiting(problem, state)
        turning = stopped & at_turn(problem, state) & (count < self._max_steps)

        def turn(place: Array, state: PyTree) -> PyTree:
            return _put(state, place, jax.vmap(trial.turn)(_take(problem, place), _take(state, place)))

        state = self._in_chunks(turning, turn, state)
        over = finished(problem, state)
        lost = live & ~over & ((turning & at_turn(problem, state)) | (count >= self._max_steps))
        done, wait = live & (over | lost), live & ~lost & waiting(problem, state)
        report = jax.lax.cond(
            jnp.any(done), jax.vmap(trial.report), lambda *_: _blank(self.report, lanes), problem, state
        )
        handed = jax.lax.cond(jnp.any(wait), _plain, lambda state: jax.tree.map(jnp.zeros_like, _plain(state)), state)
        row = jnp.where(done | wait, -1, carry.row)
        filled = self._refill(Carry(problem, state, row, count, carry.fresh, carry.back), queue, returned)
        outcome = Outcome(
            row=carry.row,
            done=done,
            lost=lost,
            waiting=wait,
            size=self._size(problem, state),
            report=report,
            state=handed,
            count=count,
            live=jnp.sum(filled.row >= 0, dtype=jnp.int32)[None],
            fresh=filled.fresh,
            back=filled.back,
            steps=steps[None],
            used=used[None],
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
            old = jnp.clip(carry.back[0] + place_in_chunk - returned.queue.base[0], 0, slots - 1)
            new = jnp.clip(fresh - queue.base[0], 0, slots - 1)

            def pick(a: Array, b: Array) -> Array:
                return _where(back, a[old], b[new])  # type: ignore[no-any-return]

            problem, state = jax.vmap(self._begin)(
                pick(returned.queue.words, queue.words), pick(returned.queue.inputs, queue.inputs)
            )
            state = _where(back, _typed(_take(returned.state, old), self.state), state)
            count = jnp.where(back, returned.count[old], 0)
            target = jnp.where(some, place, self.layout.lanes)
            return Carry(
                _put(carry.problem, target, problem),
                _put(carry.state, target, state),
                _put(carry.row, target, pick(returned.queue.row, queue.row)),
                _put(carry.count, target, count),
                carry.fresh + jnp.sum(some & ~back, dtype=jnp.int32),
                carry.back + jnp.sum(some & back, dtype=jnp.int32),
            )

        return self._in_chunks(carry.row < 0, body, carry, more=lambda carry: left(carry) > 0)  # type: ignore[no-any-return]

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

    def _size(self, problem: PyTree, state: PyTree) -> Array:
        stage = self.trial.stage
        if stage is None:
            return jnp.zeros((jax.tree.leaves(state)[0].shape[0],), jnp.int32)
        return jax.vmap(stage.size)(problem, state).astype(jnp.int32)

    def _draw(self, words: Array, inputs: Array) -> PyTree:
        return jax.vmap(self._begin)(words, inputs)[0]

    def _stage(self, rung: int) -> Callable[[PyTree, PyTree], Served]:
        trial, stage = self.trial, self.trial.stage
        assert stage is not None
        lower = max((smaller for smaller in stage.ladder if smaller < rung), default=-1)
        run = jax.vmap(stage.run(rung))

        def going(problem: PyTree, state: PyTree) -> Array:
            size = self._size(problem, state)
            return jax.vmap(trial.waiting)(problem, state) & (size > lower) & (size <= rung)

        def serve(problem: PyTree, words: PyTree) -> Served:
            def once(loop: tuple[Array, PyTree, Array]) -> tuple[Array, PyTree, Array]:
                calls, state, go = loop
                # Lanes that are through get a copy of one that is not: their own, unfit problem could keep the loops of
                # the others going.
                place = jnp.where(go, jnp.arange(go.size), jnp.argmax(go))
                mine, theirs = jax.lax.cond(
                    jnp.all(go), lambda pair: pair, lambda pair: _take(pair, place), (problem, state)
                )
                state = _where(go, run(mine, theirs), state)
                return calls + 1, state, going(problem, state)

            state = _typed(words, self.state)
            begin = (jnp.zeros((), jnp.int32), state, going(problem, state))
            _, state, _ = jax.lax.while_loop(lambda loop: jnp.any(loop[2]) & (loop[0] < _MOST_CALLS), once, begin)
            return Served(
                state=_plain(state),
                done=jax.vmap(trial.finished)(problem, state),
                waiting=jax.vmap(trial.waiting)(problem, state),
                size=self._size(problem, state),
                report=jax.vmap(trial.report)(problem, state),
            )

        return serve

    # Compilation.

    def _one(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        return jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((len(self.names),), self._dtype)

    def _mesh(self) -> jax.sharding.Mesh | None:
        return None if self.layout.devices is None else jax.sharding.Mesh(np.array(self.layout.devices), (AXIS,))

    def _program(self, name: Any) -> Callable[..., Any]:
        future, make = self._future(name)
        if make is not None:
            make()
        return future.result()

    def _future(self, name: Any) -> tuple[Future[Callable[..., Any]], Callable[[], None] | None]:
        """The program, and what compiles it if nobody does so yet."""
        with self._lock:
            if name in self._programs:
                return self._programs[name], None
            future: Future[Callable[..., Any]] = Future()
            self._programs[name] = future

        def make() -> None:
            try:
                future.set_result(self._compile(name))
            except BaseException as error:
                future.set_exception(error)

        return future, make

    def _compile(self, name: Any) -> Callable[..., Any]:
        layout = self.layout
        batch = layout.batch * layout.shards
        words, inputs = (jax.ShapeDtypeStruct((batch, *one.shape), one.dtype) for one in self._one())
        if name == "segment":
            carry = jax.eval_shape(self.empty)
            limits = jax.ShapeDtypeStruct((2,), jnp.int32)
            shapes = (carry, self.no_queue(), self.no_returned(), limits)
            return self._jit(self._segment, shapes, shared=1, donate=(0,))
        if name == "draw":
            return self._jit(self._draw, (words, inputs))
        problem = _widen(self.problem, batch)
        return self._jit(self._stage(name[1]), (problem, _widen(_plain_shapes(self.state), batch)))

    def _jit(
        self, function: Callable[..., Any], shapes: tuple[PyTree, ...], shared: int = 0, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """Compile for these shapes; the last ``shared`` arguments are the same for every device."""
        mesh = self._mesh()
        if mesh is not None:
            spec, whole = jax.sharding.PartitionSpec(AXIS), jax.sharding.PartitionSpec()
            specs = (spec,) * (len(shapes) - shared) + (whole,) * shared
            function = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)
            shapes = tuple(
                jax.tree.map(
                    lambda leaf, spec=spec: jax.ShapeDtypeStruct(
                        leaf.shape, leaf.dtype, sharding=jax.sharding.NamedSharding(mesh, spec)
                    ),
                    shape,
                )
                for shape, spec in zip(shapes, specs, strict=True)
            )
        return jax.jit(function, donate_argnums=donate).lower(*shapes).compile()  # type: ignore[no-any-return]


def pack(inputs: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """The inputs of a trial in the order of the names."""
    return [inputs[name] for name in names]


def _take(tree: PyTree, place: Array) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.take(leaf, place, axis=0, mode="clip"), tree)


def _put(tree: PyTree, place: Array, new: PyTree) -> PyTree:
    return jax.tree.map(lambda old, leaf: old.at[place].set(leaf, mode="drop"), tree, new)


def _where(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), new, old)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _widen(shapes: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), shapes)


def _blank(shapes: PyTree, count: int) -> PyTree:
    """Zeros with a leading axis."""
    return _typed(
        jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), _plain_shapes(shapes)), shapes
    )


def _plain(tree: PyTree) -> PyTree:
    """Typed keys as their words; the host cannot hold them otherwise."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _plain_shapes(shapes: PyTree) -> PyTree:
    return jax.eval_shape(_plain, shapes)


def _typed(tree: PyTree, shapes: PyTree) -> PyTree:
    """The inverse of `_plain`."""
    return jax.tree.map(
        lambda leaf, like: jax.random.wrap_key_data(leaf, impl=_impl(like)) if _is_key(like) else leaf, tree, shapes
    )


def _impl(like: Any) -> Any:
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]
