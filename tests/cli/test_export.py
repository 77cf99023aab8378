from pathlib import Path

import pytest

from pruneft.sweep import Ledger, Row
from pruneft.sweep.code import Code


@pytest.fixture
def stored(tmp_path):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    path = tmp_path / "runs" / "first" / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.begin(Code("0" * 32, {}, "{}"), "mine", {})
        rows = [
            Row({"a": a}, seed, {"status": 1, "success": seed > 0, "error": 0.5}) for a in (1, 2) for seed in range(3)
        ]
        ledger.write(rows)
    return path


def test_trials_are_exported_as_csv(command, stored):
    said = command("export", "first", "--format", "csv", "--out", "x.csv", "--quiet")
    columns = "a, seed, status, status_name, success, error"
    assert (said.code, said.out, said.err) == (0, f"csv  x.csv: 6 trials, {columns}\n", "")
    lines = Path("x.csv").read_text().splitlines()
    assert lines[:2] == [columns.replace(" ", ""), "1,0,1,CONVERGED,false,0.5"]
    assert len(lines) == 7


@pytest.mark.parametrize(("format", "rows"), [("parquet", 6), ("netcdf", 2), ("zarr", 2)])
def test_other_formats_say_in_json_what_they_hold(command, stored, format, rows):
    said = command("export", "first", "--format", format, "--out", "x", "--json", "--quiet")
    assert (said.code, said.err) == (0, "")
    assert {name: said.json[name] for name in ("run", "format", "out", "rows")} == {
        "run": "first",
        "format": format,
        "out": "x",
        "rows": rows,
    }
    assert ("error" in said.json["columns"]) == (format == "parquet")
    assert Path("x").exists()


def test_medians_are_added_on_request(command, stored):
    said = command("export", "first", "--format", "netcdf", "--of", "error, success", "--out", "x.nc", "--json")
    assert {"error_median", "error_mean", "success_mean"} <= set(said.json["columns"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frist", "--format", "csv", "--out", "x"), "Did you mean 'first'?"),
        (("first", "--format", "xls", "--out", "x"), "invalid choice: 'xls'"),
        (("first", "--format", "csv"), "required: --out"),
        (("first", "--out", "x"), "required: --format"),
        (("first", "--format", "csv", "--out", "none/x"), "the directory none does not exist"),
        (("first", "--format", "csv", "--out", "/proc/x"), "cannot write to /proc"),
        (("first", "--format", "csv", "--out", "runs"), "runs is there and is no csv export"),
        (("first", "--format", "csv", "--out", "x", "--of", "error"), "--of is for netcdf and zarr"),
        (("first", "--format", "zarr", "--out", "x", "--of", "error,"), "--of: expected names"),
        (("first", "--format", "zarr", "--out", "x", "--of", "eror"), "the trials have no 'eror'; they have: a, error"),
    ],
)
def test_what_cannot_be_exported_is_one_line(refused, stored, words, said):
    assert said in refused("export", *words, "--quiet")
    assert not Path("x").exists()


def test_a_file_that_is_there_is_replaced_only_by_force(command, refused, stored):
    words = ("export", "first", "--format", "csv", "--out", "x.csv", "--quiet")
    command(*words)
    assert "x.csv is there already: pass --force to replace it" in refused(*words)
    assert command(*words, "--force").code == 0
    Path("x.csv").write_text("notes of mine")
    assert "is no csv export, so it is not replaced" in refused(*words, "--force")
    assert Path("x.csv").read_text() == "notes of mine"
