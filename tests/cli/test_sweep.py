import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import Ledger, Row
from pruneft.sweep.code import code_of
from pruneft.sweep.runs import hold

TOY = "tests.sweep.toy:TOY"
SMALL = ("--a", "2,3", "--b", 5, "--seeds", 2, "--dtype", "float32", "--quiet")
PNG = b"\x89PNG\r\n\x1a\n"

# A user's own experiment: the toy under another name, with a figure and a bucket for each size.
_MINE = """
import dataclasses
from tests.sweep.toy import TOY

MINE = dataclasses.replace(TOY, name="mine", module=__name__, figure=__name__ + ":draw", padded=())

def draw(rows):
    from matplotlib.figure import Figure
    figure = Figure()
    figure.subplots().plot([row["steps"] for row in rows])
    return figure
"""


def _count(run):
    with Ledger.open(Path("runs") / run / "ledger.sqlite", read_only=True) as ledger:
        return ledger.count()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module in the working directory, of a name that no other test has loaded."""
    name = "mine_" + "".join(c for c in tmp_path.parent.name + tmp_path.name if c.isalnum())
    (tmp_path / f"{name}.py").write_text(_MINE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield f"{name}:MINE"
    sys.modules.pop(name, None)


def _store_recovery(directory, seeds):
    """Trials of recovery as its sweep would have stored them; computing them takes half a minute of compilation."""
    cell = RECOVERY.resolve({"d": 6, "r": 1, "k": 1, "n_per_dof": 3.0})
    report = {"status": 1, "success": True, "error": 1e-9, "rank": 1, "steps": 500}
    directory.mkdir(parents=True)
    with Ledger.open(directory / "ledger.sqlite") as ledger:
        ledger.begin(code_of(RECOVERY, {"dtype": "float64"}), "recovery", {})
        ledger.write([Row(cell, seed, report) for seed in range(seeds)])


def test_a_sweep_says_where_ledger_and_figure_are_and_runs_nothing_again(command, tmp_path):
    _store_recovery(tmp_path / "runs" / "recovery", seeds=2)
    words = ("sweep", "--d", 6, "--r", 1, "--k", 1, "--n-per-dof", 3, "--seeds", 2)
    said = command(*words)
    assert said.code == 0
    assert said.out.startswith("recovery: r = 1, n = 18")
    assert "2/2" in said.out
    assert said.out.splitlines()[-3].startswith("0 new trials of 2 in ")
    assert said.out.splitlines()[-2:] == ["ledger  runs/recovery/ledger.sqlite", "figure  runs/recovery/figure.png"]
    assert "2/2" in said.err  # the progress bar
    assert Path("runs/recovery/figure.png").read_bytes().startswith(PNG)
    again = command(*words, "--json", "--quiet")
    assert again.err == ""
    assert [again.json[name] for name in ("trials", "new", "stored")] == [2, 0, 2]
    (cell,) = again.json["cells"]
    assert (cell["n"], cell["successes"], cell["trials"]) == (18, 2, 2)


def test_a_wider_grid_extends_a_run_and_another_experiment_is_refused(command, refused, mine):
    first = command("sweep", TOY, *SMALL, "--run", "one", "--json").json
    assert [first[name] for name in ("experiment", "trials", "new", "figure")] == ["toy", 4, 4, None]
    wider = command("sweep", TOY, *SMALL, "--run", "one", "--seeds", 3, "--b", "5,6", "--json").json
    assert [wider[name] for name in ("trials", "new", "stored")] == [12, 8, 12]
    line = refused("sweep", mine, *SMALL, "--run", "one")
    assert "holds trials of experiment 'toy', not of 'mine' (12 finished trials are kept" in line
    assert "float64" in refused("sweep", TOY, *SMALL, "--run", "one", "--dtype", "float64")
    assert "experiment toy has no figure" in refused("plot", "one")


def test_an_experiment_of_the_users_own_is_swept_and_drawn(command, refused, mine, tmp_path):
    said = command("sweep", mine, *SMALL, "--json")
    assert (said.code, said.json["run"], said.json["new"]) == (0, "mine", 4)
    Path("runs/mine/figure.png").unlink()
    assert command("plot", "mine").out == "figure  runs/mine/figure.png\n"
    assert Path("runs/mine/figure.png").read_bytes().startswith(PNG)
    file = tmp_path / f"{mine.partition(':')[0]}.py"
    file.write_text(file.read_text() + "\nMORE = 1\n")
    line = refused("sweep", mine, *SMALL)
    assert f"the code has changed since this run's trials were computed: module {file.stem} changed" in line
    assert "4 finished trials are kept" in line


def test_its_flags_are_in_the_help(command, mine, capfd):
    with pytest.raises(SystemExit) as stop:
        command("sweep", mine, "--help")
    assert stop.value.code == 0
    assert "axes of mine" in capfd.readouterr().out


def test_flags_go_over_a_grid_file(command, tmp_path):
    (tmp_path / "grid.toml").write_text(f'experiment = "{TOY}"\nrun = "file"\nseeds = 2\n[grid]\na = [2, 3]\nb = 5\n')
    said = command("sweep", "--config", "grid.toml", "--a", 4, "--dtype", "float32", "--json", "--quiet").json
    assert (said["run"], said["trials"], {cell["a"] for cell in said["cells"]}) == ("file", 2, {4})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sedes = 3", "unknown key 'sedes'. Did you mean 'seeds'?"),
        ("[grid]\nkapa = 3", "has no axis 'kapa'. Did you mean 'kappa'?"),
        ("[grid]\nr = []", "empty grid: --r has no values"),
        ("[grid.r]\nx = 1", "r in [grid] must be a number"),
        ("[grid]\nr = 99999999999999999999999999999999", "--r: expected whole numbers"),
        ("seeds = 99999999999999999999999999999999", "--seeds: expected a whole number"),
        ('run = "../x"', "a run is named with letters"),
        ('run = ""', "a run is named with letters"),
        ('experiment = "recovry"', "unknown experiment 'recovry'. Did you mean 'recovery'?"),
        ("grid = " + "[" * 5000, "nested too deeply"),
        ("\0", "is not a TOML file"),
    ],
)
def test_a_bad_grid_file_is_one_line(refused, tmp_path, text, said):
    (tmp_path / "grid.toml").write_text(text + "\n")
    assert said in refused("sweep", "--config", "grid.toml")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--r", ""), "--r: expected whole numbers, got nothing"),
        (("--r", "0"), "r must be a whole number of at least 1: got 0"),
        (("--r", "1.5"), "--r: expected whole numbers, got 1.5"),
        (("--r", "2", "--k", "1"), "k (columns trained) must be at least r (true rank): got k=1, r=2"),
        (("--lam=-1",), "lam (penalty weight) must not be negative"),
        (("--beta", "0"), "beta (smoothing of the group norm) must be positive"),
        (("--kappa", "nan"), "--kappa: expected finite numbers, got nan"),
        (("--n-per-dof", "inf"), "--n-per-dof: expected finite numbers, got inf"),
        (("--n-per-dof", "1e300"), "GB of memory"),
        (("--d", "1000000000"), "GB of memory"),
        (("--seeds", "0"), "--seeds: expected a whole number of trials per cell, at least 1, got 0"),
        (("--seeds", "1000000000"), "at most 2000000 at a time"),
        (("--r", "1:2000:2000", "--d", "1:2000:2000"), "at most 2000000 at a time"),
        (("--lanes", "0"), "--lanes: expected a whole number of at least 1, got 0"),
        (("--processes", "0"), "--processes: expected a whole number of at least 1, got 0"),
        (("--max-steps", "0"), "--max-steps: expected a whole number of at least 1, got 0"),
        (("--max-steps", "1e6"), "--max-steps: expected a whole number, got '1e6'"),
        (("--max-steps", "2147483648"), "max_steps must be below 2**31: got 2147483648"),
        (("--process", "2"), "unknown argument --process: did you mean --processes?"),
        (("--lanes", "-1"), "at least 1, got -1"),
        (("--nperdof", "2"), "unknown argument --nperdof: did you mean --n-per-dof? see pruneft sweep --help"),
        (("--seed", "2"), "unknown argument --seed: did you mean --seeds?"),
        (("recovry",), "unknown experiment 'recovry': known are recovery"),
        (("none:X",), "cannot import 'none'"),
        (("os:path",), "os:path is a module: expected a pruneft.Experiment"),
        (("..a:b",), "expected module:object"),
        ((":x",), "expected module:object"),
        (("--run", "../x"), "a run is named with letters"),
        (("--run", ""), "a run is named with letters"),
        (("--config", "none.toml"), "cannot read the grid file none.toml"),
    ],
)
def test_a_bad_grid_is_one_line_and_leaves_nothing(refused, tmp_path, words, said):
    assert said in refused("sweep", *words)
    assert not (tmp_path / "runs").exists()


def test_a_directory_of_runs_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write in the run's directory file/toy" in refused("sweep", TOY, *SMALL, "--runs-dir", "file")


def test_a_ledger_of_another_version_or_kind_is_left_as_it_is(command, refused):
    command("sweep", TOY, *SMALL)
    with sqlite3.connect("runs/toy/ledger.sqlite") as connection:
        connection.execute("pragma user_version = 7")
    connection.close()
    assert "has schema version 7" in refused("sweep", TOY, *SMALL)
    Path("runs/toy/ledger.sqlite").write_text("no ledger")
    assert "is not a ledger" in refused("sweep", TOY, *SMALL)
    assert Path("runs/toy/ledger.sqlite").read_text() == "no ledger"


def test_the_second_sweep_of_a_run_says_who_holds_it(refused):
    with hold("runs/toy"):
        assert f"is held by process {os.getpid()} on " in refused("sweep", TOY, *SMALL)


def test_a_run_removed_while_it_runs_is_one_line(refused, monkeypatch):
    from pruneft.cli import _sweep

    real = _sweep.sweep

    def sweep(*arguments, **settings):
        swept = real(*arguments, **settings)
        shutil.rmtree("runs/toy")
        return swept

    monkeypatch.setattr(_sweep, "sweep", sweep)
    assert "there is no ledger at" in refused("sweep", TOY, *SMALL)


def test_without_matplotlib_a_sweep_with_a_figure_is_refused_before_it_starts(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "figures need matplotlib: python -m pip install 'pruneft[cli]'" in refused("sweep", "--d", 6, "--r", 1)
    assert not (tmp_path / "runs").exists()


def test_a_reader_that_leaves_early_is_no_error(process, tmp_path):
    for name in range(3000):
        (tmp_path / "runs" / f"a-run-of-a-rather-long-name-{name}").mkdir(parents=True)
    listing = process("runs")
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.stderr.read() == ""
    listing.stderr.close()
    assert listing.wait(timeout=30) == 0


def test_a_user_without_a_home_may_sweep(command, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert command("sweep", TOY, *SMALL).code == 0
