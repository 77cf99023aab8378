"""The host side of the engine: feeds the lanes of one bucket, serves the stage, and collects reports.

The next segment is dispatched before the last one's report is read, so the device does not wait for the host. What is
read is small: flags, scalars, and the states of lanes that wait for the stage.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pruneft.status import Status
from pruneft.sweep.exchange import Outcome, Queue, Served
from pruneft.sweep.ledger import Row
from pruneft.sweep.plan import Planned
from pruneft.sweep.programs import Programs, pack
from pruneft.trial import Experiment

# A segment of this length loses about one percent at its boundary, and can be interrupted soon.
_SEGMENT_SECONDS = 0.03
_FIRST_STEPS = 64
_MOST_STEPS = 1 << 20
# A trial that the stage has served so often, with no step between, is getting nowhere.
_MOST_SERVES = 32


class Usage(NamedTuple):
    """What the lanes have done so far.

    Attributes:
      used: lane-steps in which a trial was at work.
      spent: lane-steps in all: steps of every segment times lanes.
      segments, stage_calls: calls of the compiled programs.
      running: trials that are in lanes, wait for the stage, or come back from it, now; not those that wait to begin.
      programs: compiled so far.
    """

    used: int = 0
    spent: int = 0
    segments: int = 0
    stage_calls: int = 0
    running: int = 0
    programs: int = 0

    @property
    def utilisation(self) -> float | None:
        """Share of lane-steps in which a trial was at work; None before the first."""
        return self.used / self.spent if self.spent else None

    def __add__(self, other: Any) -> Usage:
        """Of both together."""
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))


Take = Callable[[int], Sequence[Planned]]
Put = Callable[[list[Row], Usage], None]


class OutOfMemory(RuntimeError):
    """The device has not enough memory for this many lanes.

    Attributes:
      unfinished: trials that were taken and are not reported.
    """

    def __init__(self, text: str, unfinished: list[Planned]) -> None:
        super().__init__(text)
        self.unfinished = unfinished


class _Waiting(NamedTuple):
    """A trial that waits for the stage, or goes back from it."""

    number: int
    state: list[np.ndarray]  # leaves
    taken: int


def run_lanes(
    programs: Programs,
    experiment: Experiment,
    take: Take,
    put: Put,
    *,
    stop: Callable[[], bool] = lambda: False,
    segment_seconds: float = _SEGMENT_SECONDS,
    segment_steps: int | None = None,
    lookahead: bool = True,
) -> Usage:
    """Run the trials of one bucket until there are no more.

    Args:
      programs: of the bucket.
      experiment: whose trials they are.
      take: asked for at most so many trials; an empty answer means that there are no more.
      put: given the rows that are finished, and the usage so far; called after every segment, rows or not.
      stop: asked after every segment; true ends the run, trials under way are given up.
      segment_seconds: segments are made about this long.
      segment_steps: segments of exactly so many steps instead (fewer where lanes times steps would pass 2**31).
      lookahead: dispatch the next segment before the last report is read.

    Returns:
      The usage.

    Raises:
      OutOfMemory: with the trials that were under way.
    """
    loop = _Loop(programs, experiment, take, put, segment_seconds, segment_steps)
    try:
        return loop.run(stop, lookahead)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if (
            isinstance(error, MemoryError)
            or "RESOURCE_EXHAUSTED" in str(error)
            or "out of memory" in str(error).lower()
        ):
            raise OutOfMemory(str(error), list(loop.trials.values())) from error
        raise
    finally:
        programs.rest()


class _Loop:
    """The state of one `run_lanes`."""

    def __init__(
        self,
        programs: Programs,
        experiment: Experiment,
        take: Take,
        put: Put,
        segment_seconds: float,
        segment_steps: int | None,
    ) -> None:
        self._programs, self._experiment, self._take, self._put = programs, experiment, take, put
        layout = programs.layout
        # Lane-steps of a segment are counted in 32 bits.
        self._most = min(_MOST_STEPS if segment_steps is None else segment_steps, (2**31 - 1) // layout.lanes)
        self._seconds, self._adaptive = segment_seconds, segment_steps is None
        self._steps = min(_FIRST_STEPS, self._most) if self._adaptive else self._most
        self.trials: dict[int, Planned] = {}  # taken, not reported
        self._packed: dict[int, tuple[np.ndarray, list[float]]] = {}  # their keys and inputs
        self._served: dict[int, tuple[int, int]] = {}  # steps at the last serve, and serves since the last step
        self._taken = 0
        self._more = True
        self._fresh = [_Line() for _ in range(layout.shards)]
        self._back = [_Line() for _ in range(layout.shards)]
        self._stage: dict[int, deque[_Waiting]] = {}
        self._live = 0
        self._usage = Usage()
        self._queue, self._returned = programs.place(programs.no_queue()), programs.place(programs.no_returned())
        self._tree = jax.tree.structure(self._returned.state)
        self._waited = 0.0  # seconds on the device since the last segment was read

    def run(self, stop: Callable[[], bool], lookahead: bool) -> Usage:
        programs, layout = self._programs, self._programs.layout
        blocked = max(1, layout.lanes // 4)
        carry, pending = None, None
        while True:
            self._fill()
            if not self.trials:
                break
            if carry is None:
                programs.prepare()
                carry = programs.empty()
            if self._live or any(line.entries for line in (*self._fresh, *self._back)):
                self._write_windows()
                begin = time.monotonic()
                carry, outcome = programs.segment(carry, self._queue, self._returned, self._steps, blocked)
                self._waited += time.monotonic() - begin
                if not lookahead:
                    self._handle(outcome)
                elif pending is not None:
                    self._handle(pending)
                pending = outcome if lookahead else None
            elif pending is not None:
                self._handle(pending)
                pending = None
            elif any(self._stage.values()):
                self._serve(all_of_them=True)
            else:
                raise RuntimeError(f"{len(self.trials)} trials are in no lane and in no queue: a defect of the engine.")
            self._serve(all_of_them=False)
            if stop():
                break
        if pending is not None and self.trials:
            self._handle(pending)  # what has finished meanwhile is kept
        self._put([], self._usage)
        return self._usage

    def _fill(self) -> None:
        """Twice as many trials in line as there are lanes: enough for a segment, and little that nobody else can have."""
        lanes = self._programs.layout.lanes
        if not self._more or min(len(line.entries) for line in self._fresh) > lanes:
            return
        found = self._take(sum(max(0, 2 * lanes - len(line.entries)) for line in self._fresh))
        self._more = bool(found)
        for trial in found:
            cell, seed = trial
            self.trials[self._taken] = trial
            inputs = pack(self._experiment.inputs(cell), self._programs.names)
            self._packed[self._taken] = self._experiment.key_data(cell, seed), inputs
            # To the shortest, which is in turn where they are equal: every device has its share of the long ones.
            min(self._fresh, key=lambda line: len(line.entries)).entries.append(self._taken)
            self._taken += 1

    def _write_windows(self) -> None:
        """New arrays where a window has run low; the device may still read the old ones."""
        slots = self._programs.layout.queue
        if any(line.low(slots) for line in self._fresh):
            queue = self._programs.no_queue()
            for shard, line in enumerate(self._fresh):
                self._write(queue, shard, line, line.first(slots))
            self._queue = self._programs.place(queue)
        if any(line.low(slots) for line in self._back):
            returned = self._programs.no_returned()
            leaves = jax.tree.leaves(returned.state)
            for shard, line in enumerate(self._back):
                entries = line.first(slots)
                self._write(returned.queue, shard, line, [entry.number for entry in entries])
                for slot, entry in enumerate(entries, shard * slots):
                    returned.taken[slot] = entry.taken
                    for leaf, value in zip(leaves, entry.state, strict=True):
                        leaf[slot] = value
            self._returned = self._programs.place(returned)

    def _write(self, queue: Queue, shard: int, line: _Line, numbers: list[int]) -> None:
        begin = shard * self._programs.layout.queue
        for slot, number in enumerate(numbers, begin):
            queue.words[slot], queue.inputs[slot] = self._packed[number]
            queue.row[slot] = number
        line.end = line.base + len(numbers)
        queue.base[shard], queue.end[shard] = line.base, line.end

    def _handle(self, outcome: Outcome) -> None:
        begin = time.monotonic()
        # Reading waits for the segment. Reports and states are read only where there are any.
        lanes, counts = jax.device_get((outcome.lanes, outcome.counts))
        got = Outcome(lanes, counts, report={}, state=None)
        done, waiting = np.flatnonzero(got.done), np.flatnonzero(got.waiting)
        got = got._replace(
            report=jax.device_get(outcome.report) if done.size else {},
            state=jax.device_get(outcome.state) if waiting.size else None,
        )
        self._waited += time.monotonic() - begin
        for lines, taken in ((self._fresh, got.fresh), (self._back, got.back)):
            for line, position in zip(lines, taken, strict=True):
                line.advance(int(position))
        self._live = int(got.live.sum())
        rows = [self._report(int(got.row[lane]), got.report, lane, lost=bool(got.lost[lane])) for lane in done]
        leaves = jax.tree.leaves(got.state)
        handed = [
            (_Waiting(int(got.row[lane]), [leaf[lane] for leaf in leaves], int(got.taken[lane])), int(got.size[lane]))
            for lane in waiting
        ]
        self._usage = self._usage._replace(
            used=self._usage.used + int(got.used.sum()),
            spent=self._usage.spent + int(got.steps.sum()) * self._programs.layout.lanes,
            segments=self._usage.segments + 1,
        )
        self._adapt(int(got.steps.max()))
        self._pass_on(rows, handed)

    def _pass_on(self, rows: list[Row], handed: list[tuple[_Waiting, int]]) -> None:
        """Rows to the caller, then trials to the stage: rows are safe where one of these asks for what there is not."""
        waits = sum(map(len, self._stage.values())) + sum(len(line.entries) for line in self._back)
        self._usage = self._usage._replace(running=self._live + waits + len(handed), programs=self._programs.compiled)
        self._put(rows, self._usage)
        for entry, size in handed:
            self._wait(entry, size)

    def _adapt(self, steps: int) -> None:
        # Only time spent on the device counts: a slow `put` must not shorten segments.
        seconds, self._waited = self._waited, 0.0
        if self._adaptive and steps:  # a segment that only refilled says nothing
            if seconds > 2 * self._seconds:
                self._steps = max(1, min(self._steps, steps) // 2)
            elif seconds < self._seconds / 2 and steps >= self._steps:
                self._steps = min(2 * self._steps, self._most)

    def _report(self, number: int, report: dict[str, Any], lane: Any, *, lost: bool) -> Row:
        cell, seed = self.trials.pop(number)
        del self._packed[number]
        self._served.pop(number, None)
        values = {name: values[lane].item() for name, values in report.items()}
        if lost:
            values["status"] = int(Status.UNFINISHED)
        return Row(cell, seed, values)

    def _wait(self, entry: _Waiting, size: int) -> None:
        stage = self._programs.trial.stage
        assert stage is not None  # nothing waits without one
        self._stage.setdefault(stage.rung(size), deque()).append(entry)

    def _serve(self, *, all_of_them: bool) -> None:
        """Stage calls for whole batches; for the rest too, if nothing else is left to do."""
        batch = self._programs.layout.batch * self._programs.layout.shards
        for rung in sorted(self._stage):
            line = self._stage[rung]
            while len(line) >= batch or (all_of_them and line):
                self._serve_batch(rung, [line.popleft() for _ in range(min(batch, len(line)))], batch)

    def _serve_batch(self, rung: int, entries: list[_Waiting], batch: int) -> None:
        # A batch that is not full is filled with copies of its first trial: one shape, one program.
        filled = entries + entries[:1] * (batch - len(entries))
        keys = [self._packed[entry.number] for entry in filled]
        problem = self._programs.draw(
            np.stack([words for words, _ in keys]),
            np.array([inputs for _, inputs in keys], self._queue.inputs.dtype),
        )
        state = jax.tree.unflatten(self._tree, [np.stack(leaf) for leaf in zip(*(entry.state for entry in filled))])
        served: Served = jax.device_get(self._programs.serve(rung, problem, state))
        leaves = jax.tree.leaves(served.state)
        rows, handed = [], []
        for lane, entry in enumerate(entries):
            entry = entry._replace(state=[leaf[lane] for leaf in leaves])
            taken, serves = self._served.get(entry.number, (entry.taken, 0))
            serves = serves + 1 if taken == entry.taken else 1
            self._served[entry.number] = entry.taken, serves
            if served.done[lane] or serves >= _MOST_SERVES:
                rows.append(self._report(entry.number, served.report, lane, lost=not served.done[lane]))
            elif served.waiting[lane]:
                handed.append((entry, int(served.size[lane])))
            else:
                min(self._back, key=lambda line: len(line.entries)).entries.append(entry)
        self._usage = self._usage._replace(stage_calls=self._usage.stage_calls + 1)
        self._pass_on(rows, handed)


class _Line:
    """Entries that wait for a lane of one device, from position `base` of all that ever waited; `end` is the window's."""

    def __init__(self) -> None:
        self.entries: deque[Any] = deque()
        self.base = self.end = 0

    def advance(self, position: int) -> None:
        """Drop what is known to have been taken."""
        for _ in range(position - self.base):
            self.entries.popleft()
        self.base = position

    def low(self, slots: int) -> bool:
        """Whether the window shall be written again: half of it is taken, or none was full, and there is more to show."""
        return self.base + len(self.entries) > self.end and self.end - self.base <= slots // 2

    def first(self, count: int) -> list[Any]:
        return [self.entries[place] for place in range(min(count, len(self.entries)))]
