"""Between lanes and ledger: rows are stored in transactions of a fraction of a second, with how far the run is."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pruneft.status import Status
from pruneft.sweep.ledger import Ledger, Row
from pruneft.sweep.loop import Usage
from pruneft.sweep.progress import Progress, State
from pruneft.trial import Experiment

# A synchronised transaction takes a few milliseconds: so often it costs about one percent, and no more than this is lost
# where the power goes.
_FLUSH_SECONDS = 0.4
_FLUSH_ROWS = 512
_RECENT_SECONDS = 20.0


class Keeper:
    """Stores what `put` is given; a context manager that stores the rest at the end, however it ends.

    Attributes:
      new: trials stored so far.
      interrupted: set before the end if the run was stopped.
    """

    def __init__(
        self,
        ledger: Ledger,
        experiment: Experiment,
        planned: int,
        todo: int,
        steps: float,
        *,
        workers: int = 1,
        on_progress: Callable[[Progress], None] | None = None,
        on_stored: Callable[[list[Row]], None] | None = None,
        open_end: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """For a plan of ``planned`` trials, ``todo`` of them to be done in ``steps`` expected steps.

        Args:
          ledger: open and begun.
          experiment: whose trials they are.
          planned, todo, steps: of the plan.
          workers: processes that compute.
          on_progress: told how far the run is whenever something was stored, and about every half second.
          on_stored: given the rows that were stored, before ``on_progress``.
          open_end: more will be planned by `extend`, so that nobody knows when the run will end.
          clock: seconds, monotonic.
        """
        self._ledger, self._experiment, self._clock, self._tell = ledger, experiment, clock, on_progress
        self._on_stored, self._open_end = on_stored, open_end
        self._planned, self._stored, self._workers = planned, planned - todo, workers
        self._expected, self._passed = steps, 0.0
        self._rows: list[Row] = []
        self._usage = Usage()
        self._failed = 0
        self._begin = self._flushed = clock()
        self._recent: deque[tuple[float, int, float]] = deque([(self._begin, 0, 0.0)])
        self.new = 0
        self.interrupted = False

    def __enter__(self) -> Self:
        self._ledger.report_progress(self._progress("running"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = self.interrupted or (kind is not None and issubclass(kind, KeyboardInterrupt))
        state: State = "interrupted" if stopped else "finished" if kind is None else "failed"
        self._usage = self._usage._replace(running=0)
        try:
            self._flush(state)
        except Exception:
            with contextlib.suppress(Exception):  # without the rows; on a full disk this fails as well
                self._ledger.report_progress(self._progress("interrupted" if stopped else "failed"))
            if error is None:
                raise  # otherwise the first error is the one to be told

    def extend(self, todo: int, steps: float) -> None:
        """Plan so many trials more."""
        self._planned += todo
        self._expected += steps

    def put(self, rows: list[Row], usage: Usage) -> None:
        """Keep finished rows; on disk within half a second."""
        self._rows.extend(rows)
        self._usage = usage
        if len(self._rows) >= _FLUSH_ROWS or self._clock() - self._flushed >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what there is now."""
        self._flush("running")

    def _flush(self, state: State) -> None:
        rows, self._rows = self._rows, []
        for row in rows:
            self._failed += not self._succeeded(row)
            self._passed += self._experiment.expected_steps(row.cell)
        now = self._clock()
        self._recent.append((now, self.new + len(rows), self._passed))
        while len(self._recent) > 2 and now - self._recent[1][0] > _RECENT_SECONDS:
            self._recent.popleft()
        progress = self._progress(state, len(rows))
        if rows:
            self.new += self._ledger.write(rows, progress)
        else:
            self._ledger.report_progress(progress)
        self._flushed = self._clock()
        if rows and self._on_stored is not None:
            self._on_stored(rows)
        if self._tell is not None:
            self._tell(progress)

    def _succeeded(self, row: Row) -> bool:
        """As a summary counts it: NaN is no success, and neither is a trial that was lost with its worker."""
        told = row.report.get(self._experiment.success, row.report["status"] != Status.WORKER_LOST)
        return bool(told == told and told)

    def _progress(self, state: State, coming: int = 0) -> Progress:
        (first, done_then, passed_then), (last, done_now, passed_now) = self._recent[0], self._recent[-1]
        # Over no time there is no rate. Trials that take long go first, so time left is told by expected steps and not by
        # trials.
        seconds = last - first if last > first else math.inf
        pace = (passed_now - passed_then) / seconds
        done = self._stored + self.new + coming
        return Progress(
            planned=self._planned,
            done=done,
            running=self._usage.running,
            failed=self._failed,
            rate=(done_now - done_then) / seconds,
            eta=self._left(done, pace),
            utilisation=self._usage.utilisation,
            elapsed=self._clock() - self._begin,
            workers=self._workers,
            state=state,
        )

    def _left(self, done: int, pace: float) -> float | None:
        if self._open_end:
            return None
        if done >= self._planned:
            return 0.0
        return max(0.0, self._expected - self._passed) / pace if pace > 0 else None
