import json
from pathlib import Path

import jax
import numpy as np
import pytest

from pruneft import Recovery, Status
from pruneft.sweep import Ledger, Row
from pruneft.sweep.code import Code
from pruneft.sweep.ledger import SCHEMA_VERSION

PNG = b"\x89PNG\r\n\x1a\n"


def _row(seed, **cell):
    sizes = {"d": 6, "r": 1, "n": 12, "kappa": 1, "scale": 1, "sigma": 0.01, "k": 6, "method": "prune"}
    report = {"status": 1, "success": seed > 0, "error": 0.02, "oracle_error": 0.01, "steps": 500}
    return Row({**sizes, "lam": None, "beta": None, **cell}, seed, report)


@pytest.fixture
def stored(tmp_path):
    """A run of recovery whose trials cost nothing."""
    (tmp_path / "runs" / "first").mkdir(parents=True)
    path = tmp_path / "runs" / "first" / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.begin(Code("0" * 32, {}, "{}"), "recovery", {"experiment_place": "recovery"})
        ledger.write([_row(seed, r=r, n=n) for r in (1, 2) for n in (12, 24) for seed in range(3)])
    return path


@pytest.fixture
def recovered(tmp_path):
    norms = np.linspace(1, 0.01, 12).reshape(3, 4)
    columns = np.array([4, 3, 2])
    Recovery(
        U=np.ones((4, 1)),
        status=Status.CONVERGED,
        residual=0.0,
        sigma_estimate=0.0,
        predicted_error=0.0,
        columns=1,
        steps=3,
        method="prune",
        dtype="float64",
        history={
            "step": np.arange(3),
            "attempt": np.zeros(3, int),
            "phase": np.zeros(3, int),
            "residual": np.array([1.0, 0.1, 0.01]),
            "columns": columns,
            "column_norms": norms,
            "finetune": np.array([1e-2, 1e-9]),
        },
    ).save(tmp_path / "kept.npz")
    return "kept.npz"


def test_a_run_is_drawn_beside_its_ledger_from_the_ledger_alone(command, stored):
    said = command("plot", "first", "--json")
    assert (said.code, said.err, said.json) == (0, "", {"figure": "runs/first/figure.png"})
    assert (stored.parent / "figure.png").read_bytes().startswith(PNG)


def test_a_figure_may_go_elsewhere_and_be_a_pdf(command, stored):
    assert command("plot", "first", "--out", "größe.pdf").out == "figure  größe.pdf\n"
    assert Path("größe.pdf").read_bytes().startswith(b"%PDF")


def test_a_risk_curve_wants_one_setting(refused, stored):
    assert "this run has r = 1, 2" in refused("plot", "first", "--kind", "risk")


@pytest.mark.parametrize("kind", ["training", "columns"])
def test_a_saved_recovery_is_drawn_beside_its_file(command, recovered, kind):
    assert command("plot", recovered, "--kind", kind, "--json").json == {"figure": f"kept-{kind}.png"}
    assert Path(f"kept-{kind}.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frist",), "there is no run 'frist' in runs. Did you mean 'first'? There are: first."),
        (("../first",), "a run is named with letters"),
        (("first", "--runs-dir", "none"), "none holds no runs"),
        (("first", "--kind", "training"), "--kind training is not for a run: choose phase or risk"),
        (("kept.npz", "--kind", "phase"), "--kind phase is not for a saved recovery: choose training or columns"),
        (("none.npz",), "there is no file none.npz"),
        (("first", "--out", "x.gif"), "--out must end in .png or .pdf: got 'x.gif'"),
        (("first", "--out", ""), "--out must end in .png or .pdf: got ''"),
        (("first", "--out", "none/x.png"), "the directory none does not exist"),
        (("first", "--out", "/proc/x.png"), "cannot write to /proc"),
        (("first", "--outt", "x.png"), "unknown argument --outt: did you mean --out?"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(refused, stored, recovered, words, said):
    assert said in refused("plot", *words)


def test_a_file_of_something_else_is_no_recovery(refused, tmp_path):
    np.savez("data.npz", A=np.ones(3))
    assert "data.npz is not a saved recovery: it holds A" in refused("plot", "data.npz")
    (tmp_path / "text.npz").write_text("hello\n")
    assert "text.npz is not an .npz file: expected what `pruneft recover --out` writes" in refused("plot", "text.npz")


def _newer(path):
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_newer, f"has schema version {SCHEMA_VERSION + 1}, this version of pruneft reads {SCHEMA_VERSION}. Update pruneft"),
        (lambda path: path.write_text("no database, but longer than the header of one" * 9), "is not a ledger"),
        (lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192), "is damaged"),
    ],
)  # fmt: skip
def test_an_unreadable_ledger_says_why_in_plot_and_in_runs(command, refused, stored, spoil, said):
    spoil(stored)
    assert said in refused("plot", "first")
    listed = command("runs")
    assert (listed.code, listed.err) == (0, "")
    assert said in listed.out


def test_the_runs_are_listed(command, stored, tmp_path):
    (tmp_path / "runs" / "empty").mkdir()
    said = command("runs")
    assert (said.code, said.err) == (0, "")
    empty, first = said.out.splitlines()
    assert empty.startswith("empty  has no ledger.sqlite")
    assert first.startswith("first  recovery, 12 trials, 20")
    listed = command("runs", "--json").json
    assert listed["runs_dir"] == "runs"
    assert [(run["name"], run["experiment"], run["trials"]) for run in listed["runs"]] == [
        ("empty", None, 0),
        ("first", "recovery", 12),
    ]
    assert listed["runs"][1]["changed"].startswith("20")


def test_no_runs_are_no_error(command):
    assert command("runs").out == "no runs in runs\n"
    assert command("runs", "--json").json == {"runs_dir": "runs", "runs": []}


def test_figure_1_and_its_numbers_are_made(command):
    words = (
        "--d",
        12,
        "--r",
        2,
        "--seeds",
        1,
        "--steps",
        50,
        "--plain-steps",
        30,
        "--out",
        "X.png",
        "--json",
        "--quiet",
    )
    said = command("reproduce", "prunability", *words)
    assert (said.code, said.err) == (0, "")
    assert (said.json["figure"], said.json["numbers"]) == ("X.png", "X.npz")
    assert set(said.json["columns_kept"]) == {"with_penalty", "without_penalty"}
    assert Path("X.png").read_bytes().startswith(PNG)
    with np.load("X.npz") as numbers:
        assert numbers["with_penalty"].shape == numbers["without_penalty"].shape == (1, 12)
    assert not jax.config.jax_enable_x64  # Figure 1 is made in float32, whatever ran before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prunabilty",), "invalid choice: 'prunabilty' (choose from"),
        (("prunability", "--d", "0"), "got d=0"),
        (("prunability", "--d", "1000000000"), "GB of memory"),
        (("prunability", "--k", "2", "--r", "3"), "k=2, r=3"),
        (("prunability", "--n-per-dof", "inf"), "n_per_dof=inf"),
        (("prunability", "--n-per-dof", "nan"), "n_per_dof=nan"),
        (("prunability", "--seeds", "0"), "seeds=0"),
        (("prunability", "--out", "x.gif"), "--out must end in .png or .pdf"),
        (("prunability", "--out", "none/x.png"), "the directory none does not exist"),
    ],
)
def test_a_figure_that_makes_no_sense_is_refused(refused, words, said):
    assert said in refused("reproduce", *words)


def test_commands_and_their_flags_are_suggested(refused):
    assert "unknown command 'swep': did you mean sweep?" in refused("swep")
    assert "required: COMMAND" in refused()
    assert "unknown argument --jsno: did you mean --json? see pruneft runs --help" in refused("runs", "--jsno")


def test_json_numbers_that_are_not_finite_are_null(capsys):
    from pruneft.cli._common import show_json

    show_json({"a": np.float64("nan"), "b": [float("inf"), np.int64(3)], "c": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 3], "c": "x"}
