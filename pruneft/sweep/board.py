"""Which trials nobody has begun, which worker has which, and which are done."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable

from pruneft.status import Status
from pruneft.sweep.ledger import Row
from pruneft.sweep.plan import Planned, Task
from pruneft.trial import canonical_json

_DEATHS_TO_SUSPECT = 2
_DEATHS_ALONE = 2


class Board:
    """Who does what. Every method is safe to call from any thread.

    A worker is a number that is not used again once it was given back: what a dead one still says is not heard.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Every trial of the tasks is to be done."""
        self._lock = threading.Lock()
        self._open = [(task.bucket, deque(task.trials)) for task in tasks]
        self._held: dict[int, dict[str, tuple[int, Planned]]] = {}
        self._where: dict[int, int] = {}  # worker -> place of its bucket in _open
        self._deaths: Counter[str] = Counter()
        self._suspects: deque[tuple[int, Planned]] = deque()
        self._alone: dict[int, bool] = {}
        self._gone: set[int] = set()

    def bucket(self, worker: int) -> tuple[int, int] | None:
        """(place in the tasks, trials to expect) of the bucket this worker should join; None if nothing is left."""
        with self._lock:
            if worker in self._gone:
                return None
            self._alone[worker] = False
            busy = Counter(place for who, place in self._where.items() if who != worker)
            open_ = [(len(trials) / (1 + busy[place]), place) for place, (_, trials) in enumerate(self._open) if trials]
            if open_:
                share, place = max(open_, key=lambda item: (item[0], -item[1]))
                self._where[worker] = place
                return place, max(1, int(share))
            if self._suspects:
                place, _ = self._suspects[0]
                self._where[worker], self._alone[worker] = place, True
                return place, 1
            self._where.pop(worker, None)
            return None

    def take(self, worker: int, count: int) -> list[Planned]:
        """The next trials of the worker's bucket; none if it has no more."""
        with self._lock:
            place = self._where.get(worker)
            if worker in self._gone or place is None:
                return []
            held = self._held.setdefault(worker, {})
            if self._alone[worker]:
                if held or not self._suspects or self._suspects[0][0] != place:
                    return []
                taken = [self._suspects.popleft()[1]]
            else:
                trials = self._open[place][1]
                others = sum(1 for other in self._where.values() if other == place)
                # Towards the end a worker takes no more than its share, or one would sit on what another could do.
                fair = max(1, len(trials) // (2 * others)) if others > 1 else count
                taken = [trials.popleft() for _ in range(min(count, fair, len(trials)))]
            for trial in taken:
                held[name_of(trial)] = (place, trial)
            return taken

    def done(self, worker: int, rows: Iterable[Row]) -> list[Row]:
        """The rows that this worker had been given; others are not ours, and a row that comes twice counts once."""
        with self._lock:
            held = self._held.get(worker, {})
            return [row for row in rows if held.pop(name_of((row.cell, row.seed)), None) is not None]

    def give_back(self, worker: int, *, died: bool) -> tuple[list[Row], bool]:
        """Take back what a worker had, which has gone: (rows of trials that are given up, whether it had anything)."""
        with self._lock:
            held = self._held.pop(worker, {})
            alone = self._alone.pop(worker, False)
            self._where.pop(worker, None)
            self._gone.add(worker)
            lost = []
            # Backwards, so that those put back in front stand in the order in which they were taken.
            for name, (place, trial) in reversed(held.items()):
                self._deaths[name] += died
                deaths = self._deaths[name]
                if alone and deaths >= _DEATHS_TO_SUSPECT + _DEATHS_ALONE:
                    lost.append(Row(*trial, {"status": int(Status.WORKER_LOST)}))
                elif deaths >= _DEATHS_TO_SUSPECT:
                    self._suspects.append((place, trial))
                else:
                    self._open[place][1].appendleft(trial)
            return lost, bool(held)

    @property
    def left(self) -> bool:
        """Whether there is anything that nobody has begun."""
        with self._lock:
            return bool(self._suspects) or any(trials for _, trials in self._open)


def name_of(trial: Planned) -> str:
    """The trial as a text, the same in every process."""
    return f"{canonical_json(trial[0])} {trial[1]}"
