"""`pruneft status`."""

from __future__ import annotations

import argparse
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pruneft.cli._common import OK, CommandError, duration, number, show, show_json
from pruneft.sweep.ledger import Ledger
from pruneft.sweep.progress import Progress
from pruneft.sweep.runs import find_ledger, holder
from pruneft.sweep.summary import status_name

_SAYS = {
    "running": "running",
    "starting": "starting",
    "finished": "finished",
    "interrupted": "interrupted: run the same sweep again to go on",
    "failed": "ended by an error: its trials are kept, run the same sweep again to go on",
    "died": "died: its process is gone and said nothing; its trials are kept, run the same sweep again to go on",
    "unknown": "nobody works on it, and how far it came was never said",
}


class _Seen(NamedTuple):
    """A run at one moment."""

    name: str
    experiment: str | None
    state: str
    holder: str | None
    progress: Progress | None
    written: datetime | None
    stored: int
    statuses: dict[str, int]


def add(commands: Any) -> None:
    """The command and its flags."""
    parser = commands.add_parser(
        "status",
        help="how far a run is, while it runs or after",
        description="Done of planned, rate, time left, who works on it; afterwards how it ended. Changes nothing.",
    )
    parser.add_argument("run", metavar="RUN", help="name of the run")
    parser.add_argument(
        "--watch", type=number, metavar="SECONDS", help="again every so many seconds, until the run ends"
    )
    parser.add_argument("--runs-dir", metavar="DIR", default="runs", help="where runs live (runs)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout; with --watch one on every line")
    parser.set_defaults(run_command=run)


def run(options: argparse.Namespace) -> int:
    """Look, once or again and again."""
    pause = options.watch
    if pause is not None and not (math.isfinite(pause) and pause > 0):
        raise CommandError(f"--watch: expected a positive number of seconds, got {pause:g}.")
    path = find_ledger(options.runs_dir, options.run)
    while True:
        seen = _look(options.run, path)
        live = seen.state in ("running", "starting")
        if options.json:
            show_json(_values(seen))
        elif live and pause is not None:
            show(_line(seen))
        else:
            show("\n".join(_page(seen)))
        if pause is None or not live:
            return OK
        time.sleep(pause)


def _look(name: str, path: Path) -> _Seen:
    with Ledger.open(path, read_only=True) as ledger:
        # Whoever lets go has said before how it ended: so first who holds it, then what was said.
        held = holder(path.parent)
        told = ledger.progress
        if held is None and told is not None and told[0].state == "running":
            held = holder(path.parent)  # unless somebody took it up in between
            told = ledger.progress
        progress, written = told or (None, None)
        stored = ledger.statuses()
        experiment = ledger.experiment
    if held is not None:
        state = "running" if progress is not None and progress.state == "running" else "starting"
    elif progress is None:
        state = "unknown"
    else:
        state = "died" if progress.state == "running" else progress.state
    statuses = {status_name(status): count for status, count in stored.items()}
    return _Seen(name, experiment, state, held, progress, written, sum(stored.values()), statuses)


def _values(seen: _Seen) -> dict[str, Any]:
    empty = dict.fromkeys(Progress._fields)
    told = empty if seen.progress is None else seen.progress._asdict()
    if seen.state not in ("running", "starting"):
        told |= {"running": 0, "eta": None}
    return {
        **told,
        "run": seen.name,
        "experiment": seen.experiment,
        "state": seen.state,
        "holder": seen.holder,
        "stored": seen.stored,
        "statuses": seen.statuses,
        "written": seen.written,
    }


def _line(seen: _Seen) -> str:
    now = f"{datetime.now():%H:%M:%S}"
    told = seen.progress
    if told is None or seen.state != "running":
        return f"{now}  {seen.state}: {seen.stored} trials stored"
    words = [f"{told.done}/{told.planned} done", f"{told.running} running", f"{told.failed} failed"]
    words.append(f"{told.rate:.3g} trials/s")
    if told.utilisation is not None:
        words.append(f"utilisation {told.utilisation:.0%}")
    if told.eta is not None:
        words.append(f"{duration(told.eta)} left")
    return f"{now}  {', '.join(words)}"


def _page(seen: _Seen) -> list[str]:
    told = seen.progress
    lines = [("run", f"{seen.name}, experiment {seen.experiment or 'not begun'}"), ("state", _SAYS[seen.state])]
    if seen.holder is not None:
        lines.append(("held by", seen.holder))
    if told is None:
        lines.append(("stored", f"{seen.stored} trials"))
    else:
        share = f" ({told.done / told.planned:.1%})" if told.planned else ""
        lines.append(("done", f"{told.done} of {told.planned}{share}"))
        if seen.stored != told.done and seen.holder is None:
            lines.append(("stored", f"{seen.stored} trials, of other grids too"))
        if seen.state == "running":
            lines.append(("running", f"{told.running} trials, {told.workers} worker{'s' if told.workers != 1 else ''}"))
        lines.append(("failed", f"{told.failed} without success"))
        lines.append(("rate", f"{told.rate:.3g} trials/s"))
        if told.utilisation is not None:
            lines.append(("utilisation", f"{told.utilisation:.0%} of the lanes' steps"))
        if seen.state == "running":
            lines.append(("left", "unknown" if told.eta is None else f"about {duration(told.eta)}"))
        lines.append(("elapsed", duration(told.elapsed)))
    if seen.written is not None:
        lines.append(("written", f"{seen.written.astimezone():%Y-%m-%d %H:%M:%S}"))
    if seen.statuses:
        lines.append(("statuses", ", ".join(f"{count} {name}" for name, count in seen.statuses.items())))
    return [f"{name:<12} {text}" for name, text in lines]
