"""The contract between a subject and whatever runs it, and `run` for a single trial.

A **Trial** is what one lane does: draw, init, step until finished, report. It is a frozen bundle of pure functions that
know only padded shapes, so the same bundle runs alone (`run`), under a user's own ``vmap``, or in the lanes of a sweep.
An **Experiment** is what a sweep runs: it knows its axes, turns a cell of the grid into numbers a lane understands, and
binds a Trial to padded sizes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from pruneft.kept import kept

Problem = Any  # a pytree of arrays, as every state is
State = Any
Report = dict[str, Array]
Cell = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A dear phase that is run apart from the steps, in batches of equal size.

    Levenberg-Marquardt is the example: one iteration costs n (d r)^2, so lanes that wait for it are batched by the rank
    they need, and a program is compiled for each size of the ladder and not for the worst case. It may be entered more
    than once by the same lane.

    Attributes:
      ready: (problem, state) -> bool [], the lane waits here and must not step.
      size: (problem, state) -> int32 [], how large a program the lane needs.
      ladder: the sizes that programs are made for, rising; a lane gets the smallest that holds it.
      run: size -> ((problem, state) -> state). Must leave ``ready`` false, or at another size, or ``finished`` true.
    """

    ready: Callable[[Problem, State], Bool[Array, ""]]
    size: Callable[[Problem, State], Int[Array, ""]]
    ladder: tuple[int, ...]
    run: Callable[[int], Callable[[Problem, State], State]]

    def rung(self, size: int) -> int:
        """The smallest size of the ladder that holds ``size``.

        Raises:
          ValueError: none does; the trial asks for more than it said it would.
        """
        for rung in self.ladder:
            if rung >= size:
                return rung
        raise ValueError(
            f"the stage asks for size {size}, but its ladder ends at {self.ladder[-1]}: the ladder must hold every size."
        )


def _never(problem: Problem, state: State) -> Bool[Array, ""]:
    return jnp.zeros((), jnp.bool_)


def _unchanged(problem: Problem, state: State) -> State:
    return state


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Pure functions of one lane; every one is safe under jit and vmap.

    Attributes:
      draw: (key, inputs) -> problem. ``inputs`` are the scalars of `Experiment.inputs`; the problem is padded.
      init: (problem,) -> state.
      step: (problem, state) -> state, one cheap and uniform step, whatever the phase. A loop inside must end on any numbers:
        lanes that have finished, or are empty, are stepped too, and the result is dropped.
      finished: (problem, state) -> bool []: converged, out of steps, or not finite.
      report: (problem, state) -> dict of scalars, ``status`` always among them.
      at_turn: (problem, state) -> bool [], the lane asks for ``turn`` and must not step before it was served.
      turn: (problem, state) -> state, a rare and dearer change of phase. Must leave ``at_turn`` false.
      stage: an optional dear phase that is batched by size; see `Stage`.
    """

    draw: Callable[[Array, Mapping[str, Any]], Problem]
    init: Callable[[Problem], State]
    step: Callable[[Problem, State], State]
    finished: Callable[[Problem, State], Bool[Array, ""]]
    report: Callable[[Problem, State], Report]
    at_turn: Callable[[Problem, State], Bool[Array, ""]] = _never
    turn: Callable[[Problem, State], State] = _unchanged
    stage: Stage | None = None

    def waiting(self, problem: Problem, state: State) -> Bool[Array, ""]:
        """Whether the lane waits for the stage."""
        if self.stage is None:
            return _never(problem, state)
        return self.stage.ready(problem, state) & ~self.finished(problem, state)

    def active(self, problem: Problem, state: State) -> Bool[Array, ""]:
        """Whether the lane has steps (or turns) to do now."""
        return ~self.finished(problem, state) & ~self.waiting(problem, state)


def segment(trial: Trial, problem: Problem, state: State, *, steps: int) -> State:
    """At most ``steps`` steps of one lane, turns served as they are asked for; stops early where the lane finishes or waits.

    A pure function, safe under jit. Under vmap every lane pays for the turn at every step; the lanes of a sweep have a
    form that does not.
    """

    def go_on(carry: tuple[Array, State]) -> Array:
        count, state = carry
        return (count < steps) & trial.active(problem, state)

    def advance(carry: tuple[Array, State]) -> tuple[Array, State]:
        count, state = carry
        state = jax.lax.cond(trial.at_turn(problem, state), trial.turn, trial.step, problem, state)
        return count + 1, state

    return jax.lax.while_loop(go_on, advance, (jnp.zeros((), jnp.int32), state))[1]


def run(
    trial: Trial,
    problem: Problem,
    *,
    state: State | None = None,
    segment_steps: int = 500,
    record: Callable[[Problem, State], None] | None = None,
    max_segments: int = 100_000,
) -> State:
    """Run one trial to its end.

    Args:
      trial: what to run.
      problem: what `Trial.draw` returned, or a problem of the caller's own of the same structure.
      state: where to go on from; ``trial.init(problem)`` if not given.
      segment_steps: steps inside one compiled call.
      record: called with (problem, state) after each segment and each stage, outside jit: for histories.
      max_segments: a trial that has not finished by then is a defect of the trial, and raises.

    Returns:
      The final state; ask ``trial.report(problem, state)`` how it ended.

    Raises:
      RuntimeError: the trial neither finished nor moved on in ``max_segments`` segments.
    """
    programs = _compiled(trial, segment_steps)
    if state is None:
        state = jax.block_until_ready(programs.init(problem))
    for _ in range(max_segments):
        # One program at a time, waited for on every device: what is read next depends on it anyway, and on CPU two
        # programs in flight over several devices can keep each other from the threads that their collectives need.
        finished, waiting, size = jax.block_until_ready(programs.look(problem, state))
        if bool(finished):
            return state
        state = programs.stage(int(size))(problem, state) if bool(waiting) else programs.go(problem, state)
        state = jax.block_until_ready(state)
        if record is not None:
            record(problem, state)
    raise RuntimeError(
        f"the trial did not finish in {max_segments} segments of {segment_steps} steps: its `finished` never became true. "
        "Give it a step budget, or raise max_segments."
    )


class _Compiled:
    """The jitted functions of one trial; kept, so that running a trial again does not compile it again."""

    def __init__(self, trial: Trial, segment_steps: int) -> None:
        def look(problem: Problem, state: State) -> tuple[Array, Array, Array]:
            size = jnp.zeros((), jnp.int32) if trial.stage is None else trial.stage.size(problem, state)
            return trial.finished(problem, state), trial.waiting(problem, state), size

        self.init = jax.jit(trial.init)
        self.look = jax.jit(look)
        self.go = jax.jit(functools.partial(segment, trial, steps=segment_steps))
        self._trial = trial
        self._stages: dict[int, Callable[[Problem, State], State]] = {}

    def stage(self, size: int) -> Callable[[Problem, State], State]:
        assert self._trial.stage is not None
        rung = self._trial.stage.rung(size)
        if rung not in self._stages:
            self._stages[rung] = jax.jit(self._trial.stage.run(rung))
        return self._stages[rung]


@kept(maxsize=32)
def _compiled(trial: Trial, segment_steps: int) -> _Compiled:
    return _Compiled(trial, segment_steps)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One named coordinate of an experiment's cells.

    Attributes:
      name: as in a cell, a grid file and a command line flag (``n_per_dof`` is ``--n-per-dof``).
      default: the value where a cell does not give one.
      kind: ``"data"`` axes decide what is drawn and are part of the data key; ``"method"`` axes do not touch the data,
        so that methods meet the same instances; ``"derived"`` axes are resolved into others and do not stay in the
        cell.
      type: int, float or str; a value that does not convert without loss is refused.
      help: one line for ``--help``.
      choices: the values a str axis may take.
    """

    name: str
    default: Any
    kind: Literal["data", "method", "derived"]
    type: type = float
    help: str = ""
    choices: tuple[str, ...] = ()


def filled(axes: Sequence[Axis], cell: Cell, usual: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A cell with every axis, defaults filled in: where an experiment's ``resolve`` begins.

    Args:
      axes: of the experiment.
      cell: values by axis.
      usual: defaults that go before those of the axes.

    Raises:
      ValueError: an axis that there is not, or a value that is not among an axis' choices.
    """
    names = [axis.name for axis in axes]
    for name in cell:
        if name not in names:
            raise ValueError(f"unknown axis {name!r} of a cell: known are {', '.join(names)}.")
    usual = usual or {}
    given = {axis.name: cell.get(axis.name, usual.get(axis.name, axis.default)) for axis in axes}
    for axis in axes:
        if axis.choices and given[axis.name] not in axis.choices:
            raise ValueError(f"{axis.name} must be one of {', '.join(axis.choices)}: got {given[axis.name]!r}.")
    return given


@dataclass(frozen=True)
class Bucket:
    """Cells that share one compiled program: padded sizes, and the values of the axes that are not numbers."""

    sizes: tuple[tuple[str, int], ...]
    static: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> int:
        return dict(self.sizes)[name]

    def option(self, name: str) -> str:
        """The value of a str axis."""
        return dict(self.static)[name]


def _guess(cell: Cell) -> float:
    return 1000.0


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a sweep runs.

    Attributes:
      name: names runs and ledgers.
      subject: names the law the data are drawn from; part of every data key, so two experiments of one subject meet the
        same instances.
      axes: the coordinates of a cell.
      resolve: cell -> cell with every axis but the derived ones, canonical values; raises ValueError on a cell that
        makes no sense.
      sizes: resolved cell -> the sizes that set shapes, which a plan may pad up.
      inputs: resolved cell -> the scalars a lane is given (numbers only).
      trial: bucket -> Trial, binding padded sizes.
      default_grid: axis -> values, the grid of a sweep that names none.
      default_seeds: trials per cell of a sweep that names none.
      padded: which sizes a plan may round up; the others are kept exact.
      module: where the content hash starts (``__name__`` of the module that defines the experiment).
      settings: whatever else of the experiment changes its numbers; part of the content hash.
      success: the reported scalar that counts as success in a phase diagram.
      expected_steps: resolved cell -> a guess at the steps of its trials. The plan weighs padding against compilation with
        it, and trials that take longest go first; results never depend on it.
      figure: ``"module:function"`` that draws a run, rows -> matplotlib Figure; by name, because what draws is no part
        of what computes.
      panels: ``"module:function"``, rows -> the panels of a phase diagram (`pruneft.report.Panel`), for the report page.
    """

    name: str
    subject: str
    axes: tuple[Axis, ...]
    resolve: Callable[[Cell], dict[str, Any]]
    sizes: Callable[[Cell], dict[str, int]]
    inputs: Callable[[Cell], dict[str, float]]
    trial: Callable[[Bucket], Trial]
    module: str
    default_grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    default_seeds: int = 8
    padded: tuple[str, ...] = ("n",)
    settings: str = ""
    success: str = "success"
    expected_steps: Callable[[Cell], float] = _guess
    figure: str = ""
    panels: str = ""

    def data_cell(self, cell: Cell) -> dict[str, Any]:
        """The part of a resolved cell that decides what is drawn."""
        return {axis.name: cell[axis.name] for axis in self.axes if axis.kind == "data"}

    def key_data(self, cell: Cell, seed: int) -> np.ndarray:
        """The threefry key of a trial, uint32 [2].

        A hash of subject, data axes and seed, so never of its place in a grid or batch.
        """
        return data_key(self.subject, self.data_cell(cell), seed)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys in which 1 and 1.0 are the same number; non-finite numbers are refused."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {str(key): plain(item[key]) for key in item}
        if isinstance(item, list | tuple):
            return [plain(entry) for entry in item]
        if isinstance(item, bool | str | int) or item is None:
            return item
        if isinstance(item, np.bool_ | np.integer):
            return item.item()
        number = float(item)
        if not np.isfinite(number):
            raise ValueError(f"a cell holds only finite numbers, got {item!r}.")
        return int(number) if number.is_integer() else number

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def data_key(subject: str, data_cell: Cell, seed: int) -> np.ndarray:
    """Threefry key data [2], uint32, from a 64-bit hash of (subject, cell, seed).

    Wrap with ``jax.random.wrap_key_data``.
    """
    text = canonical_json({"subject": subject, "cell": dict(data_cell), "seed": int(seed)})
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.frombuffer(digest, dtype=">u4").astype(np.uint32)


def wrap_key(data: UInt32[Array, "2"] | np.ndarray) -> Array:
    """A JAX key (threefry, whatever the session's default) from the two words of `data_key`."""
    return jax.random.wrap_key_data(jnp.asarray(data, jnp.uint32), impl="threefry2x32")
