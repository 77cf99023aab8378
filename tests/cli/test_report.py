import json
from pathlib import Path

import pytest

from pruneft.cli._report import command_of
from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import Ledger, Row, cells, make_grid
from pruneft.sweep.code import Code
from tests.report.runs import Elements, recovery_rows
from tests.sweep.toy import TOY

AXES = [axis.name for axis in RECOVERY.axes if axis.kind != "derived"]


def _store(directory, experiment, rows, manifest):
    directory.mkdir(parents=True)
    with Ledger.open(directory / "ledger.sqlite") as ledger:
        ledger.begin(Code("0" * 32, {}, "{}"), experiment, manifest)
        ledger.write(rows)


@pytest.fixture
def stored(tmp_path):
    """A run of recovery whose trials cost nothing."""
    rows = [
        Row({name: row[name] for name in AXES}, row["seed"], {n: v for n, v in row.items() if n not in (*AXES, "seed")})
        for row in recovery_rows()
    ]
    _store(tmp_path / "runs" / "first", "recovery", rows, {"experiment_place": "recovery", "jax": "9.9"})


def _data(path):
    return json.loads(Elements(Path(path).read_text()).by_id("data"))


def test_the_page_is_written_beside_the_ledger_and_its_place_is_said(command, stored):
    said = command("report", "first")
    assert (said.code, said.err) == (0, "")
    assert said.out == "report  runs/first/report.html (open it in a browser)\n"
    made = _data("runs/first/report.html")
    assert (made["run"], made["trials"], made["cell_count"]) == ("first", 160, 20)
    assert made["manifest"] == {"experiment_place": "recovery", "jax": "9.9"}
    assert [curve["label"] for curve in made["panels"][0]["curves"]] == [
        "n = dof",
        "trace minimisation",
        "PSD feasibility",
    ]


def test_the_page_may_go_elsewhere_and_replaces_an_older_one(command, stored):
    Path("größe.html").write_text("old")
    said = command("report", "first", "--out", "größe.html", "--json")
    assert said.json == {
        "report": "größe.html", "run": "first", "experiment": "recovery", "trials": 160, "cells": 20, "panels": 1, "notes": [],
    }  # fmt: skip
    assert _data("größe.html")["run"] == "first"
    assert not Path("runs/first/report.html").exists()


def test_an_experiment_without_panels_of_its_own_gets_the_generic_page(command):
    words = (
        "sweep",
        "tests.sweep.toy:TOY",
        "--a",
        "2,3",
        "--b",
        "5,6,7",
        "--seeds",
        2,
        "--dtype",
        "float32",
        "--quiet",
    )
    assert command(*words).code == 0
    assert command("report", "toy").code == 0
    made = _data("runs/toy/report.html")
    ((panel),) = made["panels"]
    assert (panel["row_label"], panel["x_label"], panel["rows"]) == ("a", "b", [2, 3])
    assert made["command"] == ("pruneft sweep tests.sweep.toy:TOY --a 2,3 --b 5,6,7 --seeds 2 --dtype float32 --quiet")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frist",), "there is no run 'frist' in runs. Did you mean 'first'?"),
        (("../first",), "a run is named with letters"),
        (("first", "--out", "x.pdf"), "--out must end in .html: got 'x.pdf'"),
        (("first", "--out", "none/x.html"), "the directory none does not exist"),
        (("first", "--out", "/proc/x.html"), "cannot write to /proc"),
        (("first", "--outt", "x.html"), "unknown argument --outt: did you mean --out?"),
        (("empty",), "run empty holds no finished trial yet: nothing to report"),
        (("strange",), "this run's experiment 'other' is not known here"),
        (("lost",), "cannot import 'gone'"),
    ],
)
def test_what_cannot_be_reported_is_one_line(refused, stored, tmp_path, words, said):
    row = Row({"a": 1}, 0, {"status": 1, "success": True})
    _store(tmp_path / "runs" / "empty", "recovery", [], {})
    _store(tmp_path / "runs" / "strange", "other", [row], {})
    _store(tmp_path / "runs" / "lost", "other", [row], {"experiment_place": "gone:MINE"})
    assert said in refused("report", *words)
    assert not list(tmp_path.glob("runs/*/report.html"))


def _rows(experiment, seeds=2, **axes):
    grid = make_grid(experiment, axes, seeds)
    return [{**cell, "seed": seed} for cell in cells(experiment, grid) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("rows", "manifest", "expected"),
    [
        (_rows(RECOVERY), {}, "pruneft sweep --run x --seeds 2"),
        (_rows(RECOVERY), {"command": "pruneft sweep --r 1:3:3"}, "pruneft sweep --r 1:3:3"),
        (_rows(RECOVERY), {"command": ["pruneft", "sweep", "a b"]}, "pruneft sweep 'a b'"),
        (
            _rows(RECOVERY, r=(1, 2), n=(20, 40), method="path"),
            {"dtype": "float32"},
            "pruneft sweep --run x --seeds 2 --dtype float32 --d 16 --r 1,2 --n 20,40 --method path",
        ),
    ],
)
def test_the_command_that_makes_the_run_again(rows, manifest, expected):
    assert command_of(RECOVERY, rows, manifest, "x") == expected


def test_a_grid_that_no_flags_describe_is_not_made_up():
    rows = _rows(TOY, a=(2, 3), b=(5, 6))[:-2]
    assert command_of(TOY, rows, {"experiment_place": "m:T"}, "x").startswith(
        "pruneft sweep m:T --run x --seeds 2  # and the flags of its grid"
    )
