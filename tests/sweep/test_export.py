import csv
import json
import math
import os
import random
import shutil
import signal
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray

from pruneft.sweep import Ledger, LedgerError, Row, summary
from pruneft.sweep import export as export_module
from pruneft.sweep.code import Code
from pruneft.sweep.export import FORMATS, ExportError, export, export_csv, export_parquet
from tests.sweep.forker import fork

CODE = Code("0" * 32, {}, "{}")
NAMES = {"csv": "x.csv", "parquet": "x.parquet", "netcdf": "x.nc", "zarr": "x.zarr"}


def _rows(seeds=3):
    """Two kinds of cells that report different things, of every kind of value."""
    rows = []
    for a, mode in ((10, "plain"), (2, 'with, "comma"')):
        for seed in range(seeds):
            error = (math.nan, 0.5, -math.inf)[seed % 3]
            report = {
                "status": 1 + 2 * (seed % 2),
                "success": seed % 2 == 0,
                "error": error,
                "mixed": (True, 2, 1.5)[seed % 3],
            }
            if a == 2:
                report |= {"word": "ä\n", "nothing": None, "big": 2**62 + 1}
            rows.append(Row({"a": a, "mode": mode, "lam": None if a == 2 else 0.25}, seed, report))
    return rows


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "mine", {"device": "cpu"})
        ledger.write(_rows())
    return path


def _left(directory):
    return {entry for entry in os.listdir(directory) if not entry.startswith("ledger.sqlite")}


def test_csv_has_a_row_per_trial_with_axes_seed_status_and_every_reported_scalar(path, tmp_path):
    done = export(path, tmp_path / "x.csv", format="csv")
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["a", "lam", "mode", "seed", "status", "status_name", "success", "error", "mixed", "word", "nothing", "big"]
    assert (done.rows, list(done.columns), list(rows[0])) == (6, names, names)
    values = [list(row.values()) for row in rows]
    assert values[:3] == [
        ["10", "0.25", "plain", "0", "1", "CONVERGED", "true", "nan", "true", "", "", ""],
        ["10", "0.25", "plain", "1", "3", "BUDGET_SPENT", "false", "0.5", "2", "", "", ""],
        ["10", "0.25", "plain", "2", "1", "CONVERGED", "true", "-inf", "1.5", "", "", ""],
    ]
    assert values[3][:4] == ["2", "", 'with, "comma"', "0"]
    assert values[3][-3:] == ["ä\n", "", str(2**62 + 1)]


def test_parquet_keeps_types_and_tells_nan_from_nothing(path, tmp_path):
    done = export(path, tmp_path / "x.parquet", format="parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert tuple(types) == done.columns
    assert types == {
        "a": "int64", "lam": "double", "mode": "string", "seed": "int64", "status": "int64", "status_name": "string",
        "success": "bool", "error": "double", "mixed": "double", "word": "string", "nothing": "double", "big": "int64",
    }  # fmt: skip
    rows = table.to_pylist()
    assert math.isnan(rows[0].pop("error"))
    assert rows[0] == {
        "a": 10, "lam": 0.25, "mode": "plain", "seed": 0, "status": 1, "status_name": "CONVERGED", "success": True,
        "mixed": 1.0, "word": None, "nothing": None, "big": None,
    }  # fmt: skip
    assert (rows[3]["lam"], rows[3]["big"], rows[3]["word"], rows[5]["error"]) == (None, 2**62 + 1, "ä\n", -math.inf)
    kept = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert (kept["experiment"], json.loads(kept["manifest"])) == ("mine", {"device": "cpu"})


def test_all_parts_of_a_parquet_file_have_the_same_types_and_memory_does_not_hold_the_rows(path, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_CHUNK", 2)
    monkeypatch.setattr(export_module, "_GROUP", 2)
    seen = []
    with Ledger.open(path) as ledger:
        whole = export_parquet(ledger, tmp_path / "x.parquet", on_rows=seen.append)
    file = pq.ParquetFile(tmp_path / "x.parquet")
    assert (seen, whole.rows, file.num_row_groups) == ([2, 4, 6], 6, 3)
    assert file.read().column("word").to_pylist() == [None] * 3 + ["ä\n"] * 3


@pytest.mark.parametrize("format", ["netcdf", "zarr"])
def test_the_summary_comes_back_from_netcdf_and_zarr(path, tmp_path, format):
    out = tmp_path / NAMES[format]
    done = export(path, out, format=format, of=["error"])
    expected = summary(path, of=["error"])
    opened = xarray.open_zarr(out, consolidated=False) if format == "zarr" else xarray.open_dataset(out)
    with opened as data:
        loaded = data.load()
    assert set(done.columns) == set(loaded.data_vars)
    assert loaded.attrs == expected.attrs
    for name in expected.data_vars:
        np.testing.assert_array_equal(loaded[name], expected[name])
    assert [str(name) for name in loaded["mode"].values] == list(expected["mode"].values)
    assert loaded.trials.dims == expected.trials.dims


@pytest.mark.parametrize("format", FORMATS)
def test_an_earlier_export_is_replaced_only_by_force_and_nothing_else_is(path, tmp_path, format):
    out = tmp_path / NAMES[format]
    export(path, out, format=format)
    mark = (out / "zarr.json" if format == "zarr" else out).stat().st_ino
    with pytest.raises(ExportError, match="is there already: pass --force to replace it"):
        export(path, out, format=format)
    assert (out / "zarr.json" if format == "zarr" else out).stat().st_ino == mark
    export(path, out, format=format, force=True)
    assert (out / "zarr.json" if format == "zarr" else out).stat().st_ino != mark
    (tmp_path / "mine").write_text("my own text\n")
    (tmp_path / "folder").mkdir()
    for name in ("mine", "folder"):
        for force in (False, True):
            with pytest.raises(
                ExportError, match=f"is no {format} export, so it is not replaced, with --force neither"
            ):
                export(path, tmp_path / name, format=format, force=force)
    assert (tmp_path / "mine").read_text() == "my own text\n"
    assert _left(tmp_path) == {NAMES[format], "mine", "folder"}


@pytest.mark.parametrize("format", FORMATS)
def test_a_directory_that_is_not_there_or_may_not_be_written_is_named(path, tmp_path, format, monkeypatch):
    with pytest.raises(ExportError, match=r"the directory .*none does not exist: make it"):
        export(path, tmp_path / "none" / "x", format=format)
    with pytest.raises(ExportError, match="cannot write to /proc"):
        export(path, "/proc/x", format=format)
    with pytest.raises(ExportError, match="--out names the"):
        export(path, "", format=format)
    with pytest.raises(ValueError, match="the format is one of csv, parquet, netcdf, zarr: got 'xls'"):
        export(path, tmp_path / "x", format="xls")


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [
        ("parquet", "pyarrow", "export"),
        ("netcdf", "xarray", "cli"),
        ("zarr", "zarr", "export"),
        ("zarr", "xarray", "cli"),
    ],
)
def test_a_missing_package_is_named_with_its_extra_and_nothing_is_left(
    path, tmp_path, monkeypatch, format, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"need {package}: python -m pip install 'pruneft\[{extra}\]'"):
        export(path, tmp_path / "x", format=format)
    assert _left(tmp_path) == set()


def test_without_anything_that_writes_netcdf_it_says_what_to_install(path, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"netCDF files need h5netcdf: .*pruneft\[export\]"):
        export(path, tmp_path / "x", format="netcdf")


def test_medians_are_for_summaries(path, tmp_path):
    with pytest.raises(ValueError, match=r"medians of error belong to a summary .*csv holds the trials"):
        export(path, tmp_path / "x", format="csv", of=["error"])
    with pytest.raises(ValueError, match="no 'eror'"):
        export(path, tmp_path / "x", format="netcdf", of=["eror"])
    assert _left(tmp_path) == set()


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_run_is_exported_empty(tmp_path, format):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.begin(CODE, "mine", {})
        assert export(ledger, tmp_path / "x", format=format).rows == 0


def test_a_name_that_is_an_axis_here_and_reported_there_makes_no_table(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.begin(CODE, "mine", {})
        ledger.write([Row({"a": 1}, 0, {"status": 1, "b": 1}), Row({"b": 1}, 0, {"status": 1})])
        with pytest.raises(ExportError, match="b: an axis of some cells and a reported name of others"):
            export_csv(ledger, tmp_path / "x.csv")
    assert _left(tmp_path) == set()


def test_a_damaged_ledger_leaves_no_file(path, tmp_path):
    path.write_bytes(path.read_bytes()[:8192] + b"\xff" * 20_000)
    for file in ("-wal", "-shm"):
        path.with_name(path.name + file).unlink(missing_ok=True)
    with pytest.raises(LedgerError, match="is damaged"):
        export(path, tmp_path / "x.csv", format="csv")
    assert _left(tmp_path) == set()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

FULL = """
import resource
from pruneft.sweep.export import export
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    export(path, out, format=format)
    print("written")
except OSError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(type(error).__name__, error)
"""


@needs_fork
@pytest.mark.parametrize(("format", "limit"), [("csv", 2000), ("parquet", 2000), ("netcdf", 2000), ("zarr", 100)])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, format, limit):
    path = tmp_path / "ledger.sqlite"
    noise = random.Random(0)
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "mine", {})
        ledger.write([Row({"a": 1}, seed, {"status": 1, "success": True, "x": noise.random()}) for seed in range(2000)])
    out = tmp_path / "full" / "x"
    out.parent.mkdir()
    lines = fork(FULL, tmp_path / "out.txt", path=str(path), out=str(out), format=format, limit=limit).finish()
    assert lines[-1].startswith("ExportError")
    assert "and nothing was written" in lines[-1]
    assert os.listdir(out.parent) == []


KILLED = """
from pruneft.sweep.export import export
def tell(rows):
    os.write(1, b"%d\\n" % rows)
export(path, out, format=format, force=True, on_rows=tell)
print("done")
"""


@needs_fork
@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_an_export_that_is_killed_leaves_the_earlier_file_whole(tmp_path, format):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "mine", {})
        ledger.write([Row({"a": 1}, seed, {"status": 1, "x": seed / 7}) for seed in range(100)])
        out = tmp_path / NAMES[format]
        export(ledger, out, format=format)
        earlier = out.read_bytes()
        ledger._connection.execute(
            "with recursive more(seed) as (select 100 union all select seed + 1 from more where seed < 100000)"
            " insert into trial (cell, seed, code, manifest, status, v1) select 1, seed, 1, 1, 1, seed / 7.0 from more"
        )
    delay = random.Random()
    for number in range(2):
        process = fork(KILLED, tmp_path / f"{number}.txt", path=str(path), out=str(out), format=format)
        process.first_line()
        time.sleep(delay.uniform(0, 0.03))
        said = process.kill(signal.SIGKILL)
        assert said[-1] != "done"
        assert out.read_bytes() == earlier
    for part in tmp_path.glob(".x.*.part"):
        shutil.rmtree(part)
    assert export(path, out, format=format, force=True).rows == 100_001
