"""The ledger of a sweep: rows written per second, and a ledger of ten million trials read.

Run: ``pytest benchmarks/bench_ledger.py``, or ``python -m benchmarks.collect ledger`` for the table; set
``PRUNEFT_BENCH_ROWS`` for a smaller ledger. Every reading is a process of its own, so that the peak of its memory is its
own and nothing of the file is in SQLite's cache; what the system keeps of the file in memory stays.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.table import Table, seconds
from pruneft.sweep import Ledger, Row
from pruneft.sweep.code import Code
from pruneft.trial import canonical_json

ROWS = int(os.environ.get("PRUNEFT_BENCH_ROWS", "10000000"))
SEEDS = 1000  # a cell
BATCHES = {1: 1_000, 16: 8_000, 64: 32_000, 1000: 200_000}  # batch -> rows written
CODE = Code("0" * 32, {}, "{}")

# What a user asks of a ledger: name -> (what to run with `path` and `out`, how it is called in the table).
READINGS = {
    "open": "with Ledger.open(path, read_only=True): pass",
    "count": "with Ledger.open(path, read_only=True) as ledger: ledger.count()",
    "counts by status": "with Ledger.open(path, read_only=True) as ledger: ledger.statuses()",
    "summary": "summary(path)",
    "summary with medians and means of one number": "summary(path, of=['error'])",
    "what is missing of 1000 planned trials": (
        "with Ledger.open(path, read_only=True) as ledger: ledger.missing([dict(next(ledger.iter_rows()), n=1)] * 10, 100)"
    ),
    "what is missing of as many planned trials as are there, at most 1 000 000": "everything_missing(path)",
    "export of 10 percent of the trials, csv": "part(path, out, export_csv)",
    "export of 10 percent of the trials, parquet": "part(path, out, export_parquet)",
}
_READER = """
import json, resource, sys, time
from pathlib import Path
from pruneft.sweep import Ledger, summary, export_csv, export_parquet
import xarray, pyarrow.parquet  # imported before the clock runs

path, out = Path(sys.argv[1]), Path(sys.argv[2])

def everything_missing(path):
    with Ledger.open(path, read_only=True) as ledger:
        with ledger.snapshot() as snapshot:
            cells = list(snapshot.cells.values())[:1000]
        ledger.missing(cells, 1000)

class Enough(Exception):
    pass

def part(path, out, export):
    with Ledger.open(path, read_only=True) as ledger:
        share = ledger.count() // 10
        def stop(rows):
            if rows >= share:
                raise Enough
        try:
            export(ledger, out, on_rows=stop)
        except Enough:
            pass

def peak():
    # Of this process, kB; what getrusage says is inherited from the one that started it.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

base = peak()
begin, busy = time.perf_counter(), time.process_time()
exec(sys.argv[3])
taken, busy = time.perf_counter() - begin, time.process_time() - busy
print(json.dumps([taken, busy, base / 1024, peak() / 1024]))
"""


def cell(number: int) -> dict[str, Any]:
    """A cell as an experiment on matrix sensing has it."""
    sizes = {"d": 16, "r": 1 + number % 100, "n": 30 + number // 100, "k": 16, "kappa": 1.5}
    return {**sizes, "sigma": 0.0, "scale": 1.0, "method": "path", "lam": None, "beta": None}


def report(seed: int) -> dict[str, Any]:
    """What a trial reports: as much as one of recovery."""
    good = seed % 3 > 0
    numbers = {"error": seed / 7e6, "oracle_error": seed / 9e6, "residual": 1e-9 * seed, "truth_norm": 1.5}
    return {"status": 1 if good else 3, "success": good, "steps": 500 + seed % 900, "rank": 4, "attempts": 2, **numbers}


def write(path: Path, batch: int, count: int) -> float:
    """Write trials in batches, each on the disk before the next; returns the seconds."""
    cells = [cell(number) for number in range(1 + count // 64)]
    rows = [Row(cells[number // 64], number % 64, report(number)) for number in range(count)]
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "recovery", {})
        begin = time.perf_counter()
        for start in range(0, count, batch):
            ledger.write(rows[start : start + batch])
        return time.perf_counter() - begin


def fill(path: Path, count: int) -> None:
    """A ledger of many trials: one by the ledger's own writer, which makes the columns, the others by SQL."""
    blocks = -(-count // SEEDS)
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "recovery", {"device": "none"})
        ledger.write([Row(cell(0), 0, report(0))])
        run = ledger._connection.execute
        run("pragma synchronous = off")
        specs = [(canonical_json(cell(number)),) for number in range(blocks)]
        run("begin")
        ledger._connection.executemany("insert or ignore into cell (spec) values (?)", specs)
        run("commit")
        like = {"success": "s % 3 > 0", "steps": "500 + s % 900", "rank": "4", "attempts": "2", "truth_norm": "1.5"}
        like |= {"error": "s / 7e3 + c", "oracle_error": "s / 9e3 + c", "residual": "1e-9 * (s + c)"}
        with ledger.snapshot() as snapshot:
            into = {column.sql: like[column.name] for column in snapshot.columns}
        names, values = ", ".join(into), ", ".join(into.values())
        for start in range(0, blocks, 100):
            run(
                f"with recursive seeds(s) as (select 0 union all select s + 1 from seeds where s < {SEEDS - 1})"
                f" insert or ignore into trial (cell, seed, code, manifest, status, {names})"
                f" select c, s, 1, 1, case when s % 3 > 0 then 1 else 3 end, {values}"
                f" from (select id as c from cell where id > {start} and id <= {start + 100}) cross join seeds"
                f" where (c - 1) * {SEEDS} + s < {count}"
            )


def read(path: Path, body: str) -> tuple[float, float, float, float]:
    """Seconds by the clock and of a processor, and MiB of memory before and at the peak, of a process that runs ``body``."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        words = [sys.executable, "-c", _READER, str(path), str(Path(directory) / "out"), body]
        root = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        said = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root})
    taken, busy, base, peak = json.loads(said.stdout)
    return taken, busy, base, peak


@functools.cache
def large() -> Path:
    """The large ledger, made once for a run of this file."""
    path = Path(tempfile.mkdtemp(prefix="pruneft-bench-")) / "ledger.sqlite"
    fill(path, ROWS)
    return path


@pytest.fixture(scope="module")
def ledger_path() -> Iterator[Path]:
    yield large()
    shutil.rmtree(large().parent)
    large.cache_clear()


@pytest.mark.parametrize("batch", BATCHES)
def bench_write(batch: int, benchmark: Any, tmp_path: Path) -> None:
    benchmark.group = "rows written"
    benchmark.extra_info["rows"] = BATCHES[batch]
    numbers = iter(range(1000))
    benchmark.pedantic(lambda: write(tmp_path / f"{next(numbers)}.sqlite", batch, BATCHES[batch]), rounds=3)


@pytest.mark.parametrize("name", ["count", "counts by status", "summary"])
def bench_read(name: str, benchmark: Any, ledger_path: Path) -> None:
    benchmark.group = f"{ROWS} trials read"
    benchmark.pedantic(lambda: read(ledger_path, READINGS[name]), rounds=1)


def measure() -> list[Table]:
    """The tables of this file."""
    return [_written(), _read()]


def _written() -> Table:
    rows, rates = [], {}
    with tempfile.TemporaryDirectory() as directory:
        for batch, count in BATCHES.items():
            path = Path(directory) / f"{batch}.sqlite"
            taken = write(path, batch, count)
            rates[batch] = count / taken
            each = seconds(taken * batch / count)
            rows.append([str(batch), str(count), f"{rates[batch]:.0f}", each, f"{path.stat().st_size / count:.0f}"])
    return Table(
        title="Rows written, every transaction on the disk before the next (WAL, synchronous FULL), 9 reported scalars",
        columns=["rows per transaction", "rows", "rows/s", "per transaction", "bytes per row"],
        rows=rows,
        says=f"At 64 rows per transaction {rates[64]:.0f} rows/s.",
    )


def _read() -> Table:
    begin = time.perf_counter()
    path = large()
    made = time.perf_counter() - begin
    try:
        size = path.stat().st_size
        found = {name: read(path, body) for name, body in READINGS.items()}
        with Ledger.open(path) as ledger:
            ledger.begin(CODE, "recovery", {"device": "none"})
            fresh = [Row(cell(7 * number % 9000), SEEDS + number, report(number)) for number in range(6400)]
            begin = time.perf_counter()
            for start in range(0, 6400, 64):
                ledger.write(fresh[start : start + 64])
            late = 6400 / (time.perf_counter() - begin)
    finally:
        shutil.rmtree(path.parent)
        large.cache_clear()
    rows = [
        [name, seconds(taken), seconds(busy), f"{peak:.0f} MiB", f"{peak - base:.0f} MiB"]
        for name, (taken, busy, base, peak) in found.items()
    ]
    return Table(
        title=f"A ledger of {ROWS} trials in {-(-ROWS // SEEDS)} cells: {size / 1e6:.0f} MB, {size / ROWS:.0f} bytes per trial",
        columns=["what", "time", "of a processor", "peak memory of the process", "above that of the imports"],
        rows=rows,
        says=f"Made by SQL in {made:.0f} s. The summary takes {seconds(found['summary'][0])}, of which a processor worked "
        f"{seconds(found['summary'][1])}. More rows go into it at {late:.0f} rows/s, 64 per transaction and each of "
        "another cell.",
    )
