"""How far a run is, as its driver last said: one row in the ledger, read by whoever asks from another process."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

State = Literal["running", "interrupted", "finished", "failed"]


class Progress(NamedTuple):
    """How far a run is. Every time in it is a difference of a monotonic clock, so the wall clock may go as it likes.

    Attributes:
      planned: trials of the grid.
      done: how many of them are stored, those of earlier calls included.
      running: trials in lanes now.
      failed: trials of this call without success.
      rate: trials per second, recently.
      eta: seconds until the plan is done; None if nothing is known of it.
      utilisation: share of the lanes' steps that moved a trial, 0 to 1; None if nothing is known of it.
      elapsed: seconds since this call began.
      workers: processes that compute.
      state: "running", "interrupted", "finished" or "failed".
    """

    planned: int
    done: int
    running: int
    failed: int
    rate: float
    eta: float | None
    utilisation: float | None
    elapsed: float
    workers: int
    state: State


def stored(progress: Progress) -> tuple[Any, ...]:
    """The values as SQLite keeps them.

    Raises:
      ValueError: an unknown state, a number that is not finite, or a negative one.
    """
    if progress.state not in get_args(State):
        raise ValueError(f"a progress's state is one of {', '.join(get_args(State))}: got {progress.state!r}.")
    numbers = progress[:-1]
    for name, value in zip(Progress._fields, numbers, strict=False):
        if value is None and name in ("eta", "utilisation"):
            continue
        if value is None or not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} of a progress must be finite and not negative: got {value!r}.")
    whole = {"planned", "done", "running", "failed", "workers"}
    plain = [
        None if value is None else int(value) if name in whole else float(value)
        for name, value in zip(Progress._fields, numbers, strict=False)
    ]
    return (*plain, progress.state)
