"""What the host and the device hand each other: windows of the queues, what stays on the device, and what it tells."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import PyTree

Numbers = Any  # a jax.Array on the device, a NumPy array on the host


class Queue(NamedTuple):
    """A window of the trials that have not begun; every array has a leading axis over devices times slots.

    Attributes:
      words: uint32 [Q, 2], keys.
      inputs: [Q, m], the inputs in the order of `Lanes.names`.
      row: int32 [Q], the number by which the caller knows the trial.
      base, end: int32 [1], positions in the whole queue of the first slot, and of the end of what there is.
    """

    words: Numbers
    inputs: Numbers
    row: Numbers
    base: Numbers
    end: Numbers


class Returned(NamedTuple):
    """A window of the trials that come back from the stage: a `Queue`, and the states they go on from.

    Attributes:
      queue: as above.
      state: [Q, ...].
      taken: int32 [Q], steps that each has taken.
    """

    queue: Queue
    state: PyTree
    taken: Numbers


class Carry(NamedTuple):
    """What stays on the device between segments, donated from one to the next.

    Attributes:
      problem, state: [L, ...].
      row: int32 [L], the trial's number; -1 in an idle lane.
      taken: int32 [L], steps of the trial.
      fresh, back: int32 [1], positions of the next trial in `Queue` and in `Returned`.
    """

    problem: PyTree
    state: PyTree
    row: Numbers
    taken: Numbers
    fresh: Numbers
    back: Numbers


class Outcome(NamedTuple):
    """What a segment tells the host. Reading an array costs tens of microseconds, so what is always read stands in two.

    Attributes:
      lanes: int32 [L, 6]; its columns are the properties ``row`` to ``taken``.
      counts: int32 [1, 5]; its columns are the properties ``live`` to ``used``.
      report: name -> [L]; zeros where no lane is done.
      state: [L, ...]; zeros where no lane waits. Typed keys as their words.
    """

    lanes: Numbers
    counts: Numbers
    report: dict[str, Any]
    state: PyTree

    @property
    def row(self) -> Numbers:
        """int32 [L], whose trial it was."""
        return self.lanes[:, 0]

    @property
    def done(self) -> Numbers:
        """Bool [L], reported here."""
        return self.lanes[:, 1] != 0

    @property
    def lost(self) -> Numbers:
        """Bool [L], done without having finished, at its limit or stuck in its turn."""
        return self.lanes[:, 2] != 0

    @property
    def waiting(self) -> Numbers:
        """Bool [L], handed over to the stage."""
        return self.lanes[:, 3] != 0

    @property
    def size(self) -> Numbers:
        """int32 [L], what it asks the stage for."""
        return self.lanes[:, 4]

    @property
    def taken(self) -> Numbers:
        """int32 [L], steps of the trial."""
        return self.lanes[:, 5]

    @property
    def live(self) -> Numbers:
        """int32 [devices], lanes at work after the refill."""
        return self.counts[:, 0]

    @property
    def fresh(self) -> Numbers:
        """int32 [devices], as in `Carry`."""
        return self.counts[:, 1]

    @property
    def back(self) -> Numbers:
        """int32 [devices], as in `Carry`."""
        return self.counts[:, 2]

    @property
    def steps(self) -> Numbers:
        """int32 [devices], steps of the segment."""
        return self.counts[:, 3]

    @property
    def used(self) -> Numbers:
        """int32 [devices], lane-steps in which a lane was at work."""
        return self.counts[:, 4]


class Served(NamedTuple):
    """What the stage tells the host, [B] each: as in `Outcome`."""

    state: PyTree
    done: Numbers
    waiting: Numbers
    size: Numbers
    report: dict[str, Any]
