"""The compiled programs of one bucket, and the windows of its queues."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from pruneft.sweep import trees
from pruneft.sweep.exchange import Carry, Outcome, Queue, Returned, Served
from pruneft.sweep.lanes import Lanes, Layout
from pruneft.trial import Trial

AXIS = "lanes"  # of the mesh


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
        """Nothing is compiled yet.

        Args:
          trial: what the lanes run.
          names: of the trial's inputs.
          dtype: of the inputs.
          layout: lanes and the rest.
          max_steps: a trial that has not finished after so many steps is ended and reported as unfinished.

        Raises:
          ValueError: a report is not a dict of scalars with ``status``.
        """
        self.trial, self.names, self.layout = trial, tuple(names), layout
        self.lanes = Lanes.of(trial, names, dtype, layout, max_steps)
        self._dtype = np.dtype(dtype)
        self._programs: dict[Any, Future[Callable[..., Any]]] = {}
        self._lock = threading.Lock()
        self._ahead: threading.Thread | None = None
        self._resting = threading.Event()

    @property
    def compiled(self) -> int:
        """How many programs there are by now."""
        return len(self._programs)

    def prepare(self) -> None:
        """Compile the segment, and in a thread beside it what the stage will probably need, until `rest`.

        The last rung of the stage's ladder is its worst case, so it waits until it is asked for.
        """
        self._resting.clear()
        stage = self.trial.stage
        if stage is not None and self._ahead is None:
            names = ["draw", *(("stage", rung) for rung in stage.ladder[:-1])]
            same = _context()

            def compile_ahead() -> None:
                for name in names:
                    if self._resting.is_set():
                        break
                    with contextlib.suppress(Exception), same():  # who needs it is told
                        self._program(name)
                self._ahead = None

            self._ahead = threading.Thread(target=compile_ahead, name="pruneft-compile")
            self._ahead.start()
        self._program("segment")

    def rest(self) -> None:
        """Compile no further ahead."""
        self._resting.set()

    def empty(self) -> Carry:
        """Idle lanes, to be filled by the first segment."""
        every, shards = self.layout.lanes * self.layout.shards, self.layout.shards
        whole = jnp.zeros((every,), jnp.int32)
        carry = Carry(
            problem=trees.blank(self.lanes.problem, every),
            state=trees.blank(self.lanes.state, every),
            row=whole - 1,
            taken=whole,
            fresh=jnp.zeros((shards,), jnp.int32),
            back=jnp.zeros((shards,), jnp.int32),
        )
        return carry if self._mesh() is None else self.place(carry)

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
        state = jax.tree.map(
            lambda leaf: np.zeros((queue.row.size, *leaf.shape), leaf.dtype), trees.plain_shapes(self.lanes.state)
        )
        return Returned(queue, state, np.zeros(queue.row.size, np.int32))

    def place(self, window: PyTree) -> PyTree:
        """A window on the devices, each with its own slots: moved once, and not at every segment that looks at it."""
        mesh = self._mesh()
        if mesh is None:
            return jax.device_put(window)
        return jax.device_put(window, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS)))

    def segment(
        self, carry: Carry, queue: Queue, returned: Returned, steps: int, blocked: int
    ) -> tuple[Carry, Outcome]:
        """Run one segment of at most ``steps`` steps, ended early where ``blocked`` lanes of a device wait for its end."""
        limits = np.array([steps, blocked], np.int32)
        return self._program("segment")(carry, queue, returned, limits)

    def draw(self, words: np.ndarray, inputs: np.ndarray) -> PyTree:
        """The problems of a stage batch: words [B, 2], inputs [B, m]."""
        return self._program("draw")(words, inputs)

    def serve(self, rung: int, problem: PyTree, state: PyTree) -> Served:
        """Run the stage's program for this rung on a batch; typed keys of the state are given as their words."""
        return self._program(("stage", rung))(problem, state)

    def _one(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        return jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((len(self.names),), self._dtype)

    def _mesh(self) -> jax.sharding.Mesh | None:
        return None if self.layout.devices is None else jax.sharding.Mesh(np.array(self.layout.devices), (AXIS,))

    def _program(self, name: Any) -> Callable[..., Any]:
        """The program; whoever asks first compiles it, others wait, and try themselves if that fails."""
        while True:
            with self._lock:
                future = self._programs.get(name)
                mine = future is None
                if future is None:
                    future = self._programs[name] = Future()
            if mine:
                try:
                    future.set_result(self._compile(name))
                except BaseException as error:
                    with self._lock:
                        del self._programs[name]
                    future.set_exception(error)
                    raise
            with contextlib.suppress(Exception):
                return future.result()

    def _compile(self, name: Any) -> Callable[..., Any]:
        layout = self.layout
        batch = layout.batch * layout.shards
        words, inputs = (jax.ShapeDtypeStruct((batch, *one.shape), one.dtype) for one in self._one())
        if name == "segment":
            carry = jax.eval_shape(self.empty)
            limits = jax.ShapeDtypeStruct((2,), jnp.int32)
            shapes = (carry, self.no_queue(), self.no_returned(), limits)
            return self._jit(self.lanes.segment, shapes, shared=1, donate=(0,))
        if name == "draw":
            return self._jit(self.lanes.draw, (words, inputs))
        problem = trees.widen(self.lanes.problem, batch)
        return self._jit(self.lanes.stage(name[1]), (problem, trees.widen(trees.plain_shapes(self.lanes.state), batch)))

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
        return jax.jit(function, donate_argnums=donate).lower(*shapes).compile()


def _context() -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What opens, in another thread, the settings that this thread traces under."""
    config: Any = jax.config
    wide, promotion, rank = (
        config.jax_enable_x64,
        config.jax_numpy_dtype_promotion,
        config.jax_numpy_rank_promotion,
    )
    precision, generator = config.jax_default_matmul_precision, config.jax_default_prng_impl

    def same() -> contextlib.AbstractContextManager[Any]:
        stack = contextlib.ExitStack()
        wide_context: Any = jax.enable_x64 if hasattr(jax, "enable_x64") else vars(jax.experimental)["enable_x64"]
        stack.enter_context(wide_context(wide))
        stack.enter_context(jax.numpy_dtype_promotion(promotion))
        stack.enter_context(jax.numpy_rank_promotion(rank))
        stack.enter_context(jax.default_matmul_precision(precision))
        stack.enter_context(jax.default_prng_impl(generator))
        return stack

    return same


def pack(inputs: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """The inputs of a trial in the order of the names.

    Raises:
      ValueError: other names, or what is not a number.
    """
    if len(inputs) != len(names) or any(name not in inputs for name in names):
        raise ValueError(
            f"the inputs of a bucket's trials must have the same names: expected {', '.join(names)}, got "
            f"{', '.join(inputs)}. Give every cell all of them."
        )
    values = [inputs[name] for name in names]
    for name, value in zip(names, values, strict=True):
        if isinstance(value, str | bytes) or not np.isscalar(value):
            raise ValueError(f"an input of a trial must be a number: {name!r} is {value!r}. Make it one in `inputs`.")
    return values
