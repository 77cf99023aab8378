import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest

from pruneft.sweep import _sqlite
from pruneft.sweep.ledger import Ledger, LedgerError, Row
from tests.sweep.forker import fork
from tests.sweep.ledgers import CELL, CODE, MANIFEST, REPORT, begun, filled


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def test_a_damaged_ledger_is_reported_as_such(path):
    filled(path, 2000)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4096] + random.Random(0).randbytes(len(whole) - 4096)):
        path.write_bytes(damaged)
        with pytest.raises(LedgerError, match=r"is damaged.*recover"), Ledger.open(path) as ledger:
            ledger.rows()
        with pytest.raises(LedgerError, match="is damaged"), Ledger.open(path, read_only=True) as ledger:
            ledger.rows()
    path.write_bytes(whole)
    with Ledger.open(path) as ledger:
        ledger._connection.execute("update cell set spec = '{'")
        with pytest.raises(LedgerError, match="is damaged"):
            ledger.rows()


def test_a_full_disk_keeps_what_was_acknowledged_and_takes_more_once_there_is_space(path):
    with begun(path) as ledger:
        (pages,) = ledger._connection.execute("pragma page_count").fetchone()
        ledger._connection.execute(f"pragma max_page_count = {pages + 4}")
        written: list[int] = []

        def write(a):
            return ledger.write([Row({**CELL, "a": a}, seed, REPORT) for seed in range(20)])

        with pytest.raises(LedgerError, match="no space is left") as caught:
            written.extend(write(a) for a in range(1, 500))
        kept = sum(written)
        assert kept > 0
        assert f"{kept} finished trials are kept in {path}; run the same command again" in str(caught.value)
        assert ledger.count() == kept
        ledger._connection.execute("pragma max_page_count = 100000")
        # The cell of the refused batch was rolled back with it, and must be made anew.
        assert write(len(written) + 1) == 20


def test_a_locked_ledger_says_so(path, monkeypatch):
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.05)
    filled(path)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("begin immediate")
    with (
        Ledger.open(path) as ledger,
        pytest.raises(LedgerError, match=r"another process has kept .* locked.* 20 finished"),
    ):
        ledger.begin(CODE, "toy", MANIFEST)
    blocker.close()


def test_a_reader_reads_while_a_writer_writes_and_cannot_write(path):
    with begun(path) as ledger:
        ledger.write([Row(CELL, 0, REPORT)])
        with Ledger.open(path, read_only=True) as reader:
            assert reader.count() == 1
            ledger.write([Row(CELL, 1, REPORT)])
            assert reader.count() == 2
            with pytest.raises(LedgerError, match="may not be written"):
                reader.begin(CODE, "toy", MANIFEST)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PROLOGUE = """
from pruneft.sweep.progress import Progress
code, path = Code(**code), Path(path)
def rows(start, count):
    return [Row(cell, seed, {"status": 1, "value": seed / 7}) for seed in range(start, start + count)]
"""


def _process(body, path, output=None):
    """A process of its own that has ``path``, ``code``, ``cell`` and ``rows`` and runs ``body``."""
    code = {"hash": CODE.hash, "modules": dict(CODE.modules), "settings": CODE.settings}
    return fork(PROLOGUE + body, output or path.with_suffix(".txt"), path=str(path), code=code, cell=CELL)


@needs_fork
def test_a_killed_writer_loses_no_acknowledged_trial(tmp_path):
    body = """
ledger = Ledger.open(path)
ledger.begin(code, "toy", {})
for start in range(0, 10**9, 20):
    ledger.write(rows(start, 20), Progress(10**9, start + 20, 0, 0, 1.0, None, None, 1.0, 1, "running"))
    os.write(1, b"%d\\n" % (start + 20))
"""
    delay = random.Random()
    for number in range(20):
        path = tmp_path / f"{number}.sqlite"
        process = _process(body, path)
        process.first_line()
        time.sleep(delay.uniform(0.0, 0.1))
        acknowledged = int(process.kill(signal.SIGKILL)[-1])
        with Ledger.open(path) as ledger:
            stored = [row["seed"] for row in ledger.rows() if row["value"] == row["seed"] / 7]
            # The progress speaks of the rows that are there.
            assert ledger.progress[0].done == len(stored)
            # The batch under way when the kill came is there as a whole or not at all.
            assert stored == list(range(len(stored)))
            assert len(stored) in (acknowledged, acknowledged + 20)
            assert ledger._connection.execute("pragma integrity_check").fetchone() == ("ok",)
            ledger.begin(CODE, "toy", MANIFEST)
            assert len(ledger.missing([CELL], len(stored) + 5)) == 5


@needs_fork
def test_two_writers_at_once_store_every_trial_once(path):
    body = """
total = 0
with Ledger.open(path) as ledger:
    ledger.begin(code, "toy", {})
    for start in range(0, 1000, 50):
        # Each with a name of its own, for which it has to add a column.
        mine = [Row(row.cell, row.seed, {**row.report, f"by_{os.getpid()}": start}) for row in rows(start, 50)]
        total += ledger.write(mine)
print(total)
"""
    processes = [_process(body, path, path.with_suffix(f".{number}")) for number in range(3)]
    assert sum(int(process.finish()[0]) for process in processes) == 1000
    with Ledger.open(path) as ledger:
        stored = ledger.rows()
        assert [row["seed"] for row in stored] == list(range(1000))
        assert all([row[name] for name in row if name.startswith("by_")] == [row["seed"] // 50 * 50] for row in stored)
        assert ledger._connection.execute("pragma integrity_check").fetchone() == ("ok",)


@needs_fork
def test_a_disk_that_refuses_to_write_keeps_what_was_acknowledged(path):
    body = """
import resource
kept = 0
with Ledger.open(path) as ledger:
    ledger.begin(code, "toy", {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        for start in range(0, 10**6, 50):
            kept += ledger.write(rows(start, 50))
    except LedgerError as error:
        print(kept)
        print(error)
"""
    kept, message = _process(body, path).finish()
    assert int(kept) > 0
    assert "the disk refused" in message or "no space is left" in message
    assert f"{kept} finished trials are kept" in message
    with begun(path) as ledger:  # in this process there is no limit: it goes on where the other one stopped
        assert ledger.count() == int(kept)
        assert ledger.write([Row(CELL, seed, REPORT) for seed in range(int(kept) + 50)]) == 50


READ_ONLY = """
if os.geteuid() == 0:  # permissions do not bind root; 65534 is nobody
    os.setgid(65534)
    os.setuid(65534)
try:
    open(path.parent / "probe", "w")
    print("writable")
except PermissionError:
    try:
        with Ledger.open(path, read_only=True) as ledger:
            print(ledger.count())
    except LedgerError as error:
        print(error)
    try:
        Ledger.open(path).begin(code, "toy", {})
    except LedgerError as error:
        print(error)
"""


@pytest.fixture
def bare_directory():
    # Not below tmp_path, through which nobody else may pass.
    directory = Path(tempfile.mkdtemp())
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


@needs_fork
@pytest.mark.parametrize("journal", [False, True])
def test_a_ledger_on_read_only_media_can_be_read_and_never_read_short(bare_directory, tmp_path, journal):
    path = bare_directory / "ledger.sqlite"
    if journal:  # as a killed writer leaves it, without the file that readers would share
        with begun(path.with_name("live.sqlite")) as ledger:
            ledger.write([Row(CELL, seed, REPORT) for seed in range(20)])
            shutil.copy(ledger.path, path)
            shutil.copy(f"{ledger.path}-wal", f"{path}-wal")
    else:
        filled(path)
    for file in bare_directory.iterdir():
        file.chmod(0o444)
    bare_directory.chmod(0o555)
    read, *written = _process(READ_ONLY, path, tmp_path / "out.txt").finish()
    if read == "writable":
        pytest.skip("this user may write everywhere, and may not become another one")
    assert ("cannot be read on read-only media" in read) if journal else (read == "20")
    assert "may not be written" in written[0] or "cannot open" in written[0]
