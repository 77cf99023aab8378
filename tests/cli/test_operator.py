"""Measurements of every kind on the command line."""

from pathlib import Path

import numpy as np
import pytest

from pruneft.experiments import OPERATORS, load
from pruneft.sensing.families import FAMILIES
from pruneft.sweep import cells, make_grid


def _files(rng):
    """Arrays of every kind with their truths, rank 1, 5 x 5 (two qubits: 4 x 4)."""
    u = rng.standard_normal(5)
    upper = [(i, j) for i in range(5) for j in range(i, 5)]
    points = rng.standard_normal((6, 1))
    apart = np.square(points - points.T)
    X = rng.standard_normal((20, 5))
    Y = np.outer(u, u)
    Y[0, 3] = Y[3, 0] = np.nan
    paulis = [a + b for a in "IXYZ" for b in "IXYZ"]
    single = {"I": np.eye(2), "X": [[0, 1], [1, 0]], "Y": [[0, -1j], [1j, 0]], "Z": [[1, 0], [0, -1]]}
    values = [np.kron(single[p[0]], single[p[1]])[0, 0].real for p in paulis]  # of the state |00>
    return {
        "rank-one": ({"X": X, "y": np.square(X @ u)}, np.outer(u, u)),
        "entries": ({"pairs": upper, "y": [u[i] * u[j] for i, j in upper]}, np.outer(u, u)),
        "entries-matrix": ({"Y": Y}, np.outer(u, u)),
        "distances": ({"D": apart}, (points - points.mean()) @ (points - points.mean()).T),
        "pauli": ({"paulis": paulis, "values": values}, np.diag([1.0, 0, 0, 0])),
    }


# Programs are compiled for each: most of them with the tests that take long.
@pytest.mark.parametrize(
    "kind",
    ["entries-matrix", *(pytest.param(kind, marks=pytest.mark.claims) for kind in ("rank-one", "distances", "pauli"))],
)
def test_a_file_of_measurements_is_recovered(command, kind):
    arrays, truth = _files(np.random.default_rng(0))[kind]
    np.savez("data.npz", **arrays)
    operator = kind.removesuffix("-matrix")
    # One column: one rank to compile for.
    said = command("recover", "data.npz", "--operator", operator, "--k", 1, "--json", "--out", "fit.npz")
    assert (said.code, said.json["rank"], said.json["status"]) == (0, 1, "converged")
    with np.load("fit.npz") as saved:
        U = saved["U"]
    np.testing.assert_allclose(U @ U.conj().T, truth, atol=1e-5)


@pytest.mark.claims
def test_a_drawn_instance_of_another_operator_is_recovered(command):
    drawn = ("--n", 20, "--d", 5, "--r", 1, "--k", 1)
    said = command("recover", "--operator", "rank-one-complex", *drawn, "--json")
    assert said.code == 0
    assert said.json["error"] < 1e-6


@pytest.mark.parametrize(
    ("kind", "arrays", "message"),
    [
        ("rank-one", {"A": np.ones(3), "y": np.ones(3)}, "has no array X: expected X"),
        ("gaussian", {"X": np.ones((3, 2)), "y": np.ones(3)}, "want --operator"),
        ("rank-one", {"X": np.ones((3, 2)), "y": 1j * np.ones(3)}, "y must hold real numbers"),
        ("pauli", {"paulis": ["XZ", "ZQ"], "values": [0.1, 0.2]}, "Q"),
        ("pauli", {"paulis": ["XZ", "ZZZ"], "values": [0.1, 0.2]}, "ZZZ"),
        ("pauli", {"paulis": ["XZ", "ZZ"], "values": [0.1, 1.2]}, "1.2"),
        ("distances", {"pairs": [[0, 0], [0, 1]], "y": [1.0, 2.0]}, "two different points"),
        ("distances", {"pairs": [[0, 1], [0, 7]], "y": [1.0, 2.0], "N": 3}, "7"),
        ("entries", {"pairs": [[0, 1], [0, 7]], "y": [1.0, 2.0], "d": 3}, "7"),
        ("entries", {"pairs": [[0, 1]], "y": [1.0], "d": 2.5}, "d must be one whole number"),
    ],
)
def test_files_that_make_no_sense_are_refused_in_one_line(refused, tmp_path, kind, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    assert message in refused("recover", "data.npz", "--operator", kind)


def test_every_operator_names_an_experiment_of_its_own_data():
    assert set(OPERATORS) == set(FAMILIES)
    loaded = {name: load(place) for name, place in OPERATORS.items()}
    assert len({experiment.subject for experiment in loaded.values()}) == len(loaded)
    for name, experiment in loaded.items():
        assert cells(experiment, make_grid(experiment, {}, 1)), name


@pytest.mark.claims
def test_a_sweep_over_another_operator_draws_its_phase_diagram(command):
    axes = ("--d", 5, "--r", 1, "--k", 1, "--n", "10,14", "--method", "path", "--seeds", 2)
    said = command("sweep", "--operator", "entries", *axes, "--json", "--quiet", "--processes", 1)
    assert said.code == 0, said.err
    assert said.json["experiment"] == "recovery-entries"
    assert Path("runs/recovery-entries/figure.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep", "--operator", "entrys"), "Did you mean entries?"),
        (("sweep", "lambda-beta", "--operator", "pauli"), "leave out"),
        (("sweep", "--operator", "pauli", "--d", "6"), "power of two"),
        (("sweep", "--operator", "entries", "--d", "4", "--r", "1", "--n", "11"), "at most 10"),
        (("recover", "--operator", "pauli", "--d", "6", "--n", "20", "--r", "1"), "power of two"),
    ],
)
def test_what_an_operator_cannot_do_is_refused(refused, words, message):
    assert message in refused(*words)
