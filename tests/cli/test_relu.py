from pathlib import Path

import numpy as np
import pytest

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
Y = np.abs(X[:, 0]) - np.maximum(X @ [1.0, -1.0, 0.5], 0) + 0.1 * RNG.standard_normal(20)


@pytest.fixture
def saved(tmp_path):
    """Write arrays over the sound ones; returns the file's name."""

    def save(**arrays):
        np.savez(tmp_path / "data.npz", **{"X": X, "y": Y, **arrays})
        return "data.npz"

    return save


def test_a_network_is_fitted_reported_in_one_json_object_and_kept(command, saved):
    said = command("relu", "fit", saved(), "--patterns", 12, "--json", "--out", "kept.npz")
    found = said.json
    assert (said.code, said.err) == (0, "")
    assert {"objective", "dual", "gap", "iterations", "status"} <= set(found)
    assert (found["status"], found["ok"], found["patterns"], found["out"]) == ("converged", True, 12, "kept.npz")
    assert 0 <= found["gap"] <= 1e-4
    assert found["gap"] == pytest.approx((found["objective"] - found["dual"]) / found["objective"])
    with np.load("kept.npz") as kept:
        V, W, D, u, alpha = (kept[name] for name in ("V", "W", "D", "u", "alpha"))
        assert float(kept["objective"]) == found["objective"]
    E = 2 * D - 1
    assert np.all(E * (X @ V) >= 0)
    assert np.all(E * (X @ W) >= 0)
    f = np.maximum(X @ u, 0) @ alpha
    np.testing.assert_allclose(f, np.sum(D * (X @ (V - W)), axis=1), atol=1e-12)
    objective = np.sum((f - Y) ** 2) / 2 + found["lam"] * (np.sum(u**2) + np.sum(alpha**2)) / 2
    assert objective == pytest.approx(found["objective"], rel=1e-8)


def test_the_text_says_what_the_json_says(command, saved):
    said = command("relu", "fit", saved(), "--patterns", 12)
    words = dict(line.split(maxsplit=1) for line in said.out.splitlines() if not line.startswith(" "))
    found = command("relu", "fit", saved(), "--patterns", 12, "--json").json
    assert (said.code, words["status"]) == (0, "converged")
    assert words["objective"] == f"{found['objective']:.9g}"
    assert int(words["iterations"]) == found["iterations"]


def test_patterns_of_the_file_are_used(command, saved):
    D = np.stack([X[:, 0] >= 0, X[:, 1] >= 0], axis=1)
    found = command("relu", "fit", saved(D=D), "--form", "relaxed", "--json").json
    assert (found["patterns"], found["form"], found["ok"]) == (2, "relaxed", True)


def test_an_answer_that_is_not_certified_or_is_zero_has_exit_code_1(command, saved):
    short = command("relu", "fit", saved(), "--patterns", 12, "--max-iterations", 20, "--json")
    assert (short.code, short.json["status"]) == (1, "budget_spent")
    zero = command("relu", "fit", saved(), "--patterns", 12, "--lam", 1e6, "--json")
    assert (zero.code, zero.json["status"], zero.json["neurons"]) == (1, "all_zero", 0)
    assert "at or above" in zero.err
    assert zero.json["notes"] == [zero.err.removeprefix("pruneft: note: ").rstrip("\n")]


def test_more_patterns_than_there_are_is_a_remark(command, saved):
    said = command("relu", "fit", saved(X=X[:4, :2], y=Y[:4]), "--patterns", 12, "--json")
    assert said.err == "pruneft: note: 12 patterns were asked for and there are 8: all are used.\n"
    assert (said.code, said.json["patterns"], said.json["complete"]) == (0, 8, True)


BAD = {
    "labels": ({"y": (Y > 0).astype(int)}, ("--loss", "hinge"), "expects labels -1 and 1: y holds 0, 1."),
    "one class": ({"y": np.ones(20)}, ("--loss", "bce"), "needs both labels"),
    "NaN": ({"y": np.full(20, np.nan)}, (), "y must be finite: 20 of 20"),
    "lam": ({}, ("--lam", 0), "lam (penalty weight) must be positive: got 0."),
    "eps": ({}, ("--eps", -0.1), "--eps (adversarial radius) must be finite and not negative: got -0.1."),
    "count": ({}, ("--patterns", 0), "--patterns: expected a whole number of at least 1, got 0."),
    "both": ({"D": np.ones((20, 1))}, ("--patterns", 3), "leave out one of them"),
    "D": ({"D": np.ones((19, 1))}, (), "zeros and ones with n=20 rows"),
    "loss": ({}, ("--loss", "l1"), "invalid choice: 'l1'"),
    "out": ({}, ("--out", "nowhere/kept.npz"), "the directory nowhere does not exist"),
    "figure": ({}, ("--figure", "nowhere/way.png"), "does not exist: make it, or choose another --figure."),
    "robust figure": ({}, ("--figure", "way.png", "--eps", 0.1), "leave out --eps, or see pruneft relu robust"),
    "outputs": ({"y": np.stack([Y, Y], axis=1)}, ("--figure", "way.png"), "follows one output: y has 2 columns"),
    "test": ({"y_test": Y}, (), "holds y_test but not X_test"),
    "test y": (
        {"X_test": X, "y_test": Y[:3]},
        (),
        "X_test must be m x 3 and y_test have one row for each: got shapes (20, 3) and (3,).",
    ),
}


@pytest.mark.parametrize(("arrays", "flags", "text"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(refused, saved, arrays, flags, text):
    assert text in refused("relu", "fit", saved(**arrays), *flags)


def test_a_file_without_the_arrays_is_named(refused, tmp_path):
    np.savez(tmp_path / "other.npz", A=X)
    assert "has no array X and no array y: expected X (n x d" in refused("relu", "fit", "other.npz")
    assert "there is no file none.npz" in refused("relu", "fit", "none.npz")


def test_a_figure_of_the_way_to_the_optimum_is_drawn_and_test_samples_are_measured_on(command, saved):
    fresh = {"X_test": X[:7] + 0.1, "y_test": Y[:7]}
    said = command(
        "relu", "fit", saved(**fresh), "--patterns", 12, "--json", "--figure", "way.png", "--out", "kept.npz"
    )
    assert (said.code, said.json["figure"]) == (0, "way.png")
    assert Path("way.png").read_bytes().startswith(b"\x89PNG")
    with np.load("kept.npz") as kept:
        f = np.maximum(fresh["X_test"] @ kept["u"], 0) @ kept["alpha"]
        assert kept["history_seconds"].size == kept["history_fresh_error"].size > 1
        last = float(kept["history_fresh_error"][-1])
    error = np.linalg.norm(f - Y[:7]) / np.linalg.norm(Y[:7])
    assert said.json["test_error"] == pytest.approx(error)
    assert last == pytest.approx(error)


@pytest.mark.claims
def test_robust_against_clean_accuracy_is_told_and_drawn(command, saved):
    file = saved(y=np.where(np.median(Y) <= Y, 1.0, -1.0))
    flags = ("relu", "robust", file, "--eps", "0,0.1", "--patterns", 6, "--bias", "--tol", 0.01)
    found = command(*flags, "--json", "--figure", "robust.png").json
    assert [(row["eps"], row["training"], row["status"]) for row in found["rows"]] == [
        (0.0, "convex", "converged"),
        (0.1, "convex", "converged"),
    ]
    assert (found["ok"], found["measured_on"], found["figure"]) == (True, "X", "robust.png")
    assert Path("robust.png").read_bytes().startswith(b"\x89PNG")
    assert all(row["certified"] <= row["attacked"] <= row["clean"] for row in found["rows"])
    said = command(*flags)
    assert (said.code, said.out.splitlines()[0]) == (0, "accuracy on X")
    assert len(said.out.splitlines()) == 4


BAD_ROBUST = {
    "radius": ({}, ("--eps", "0,-1"), "--eps (adversarial radius) must be finite and not negative: got 0,-1."),
    "radii": ({}, ("--eps", "0,,1"), "--eps"),
    "attack": ({}, ("--attack", -0.1), "--attack (adversarial radius) must be finite and not negative: got -0.1."),
    "labels": ({}, (), "expects labels -1 and 1"),
    "test": ({"X_test": X}, (), "holds X_test but not y_test: give both, or neither."),
    "figure": ({}, ("--figure", "robust.txt"), "--figure must end in .png or .pdf"),
}


@pytest.mark.parametrize(("arrays", "flags", "text"), BAD_ROBUST.values(), ids=BAD_ROBUST)
def test_bad_input_of_the_robust_action_is_one_line(refused, saved, arrays, flags, text):
    assert text in refused("relu", "robust", saved(**arrays), *flags)
