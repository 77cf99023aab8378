import numpy as np
import pytest

from pruneft import Recovery, __version__
from pruneft.cli import _common, main

# One column: one rank to compile for.
DRAWN = ("--n", 40, "--d", 6, "--r", 1, "--k", 1)


def _data(seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((40, 6, 6))
    A = (A + np.swapaxes(A, 1, 2)) / 2
    u = rng.standard_normal(6)
    return A, np.einsum("nij,i,j->n", A, u, u), np.outer(u, u)


def _packed(A):
    """Upper triangle by columns, off-diagonal entries times the square root of 2."""
    columns, rows = np.tril_indices(A.shape[1])
    return A[:, rows, columns] * np.where(rows == columns, 1, np.sqrt(2))


@pytest.fixture
def saved(tmp_path):
    """Write arrays over the sound ones; returns the file's name."""

    def save(**arrays):
        A, y, _ = _data()
        np.savez(tmp_path / "data.npz", **{"A": A, "y": y, **arrays})
        return "data.npz"

    return save


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, f"pruneft {__version__}\n")


def test_a_drawn_instance_is_recovered_in_one_json_object_and_kept(command):
    said = command("recover", *DRAWN, "--json", "--out", "kept.npz")
    found = said.json
    assert (said.code, said.err) == (0, "")
    assert {"status", "ok", "message", "rank", "eigenvalues", "residual", "sigma_estimate", "steps"} <= set(found)
    assert (found["status"], found["ok"], found["rank"], found["out"]) == ("converged", True, 1, "kept.npz")
    assert found["eigenvalues"] == pytest.approx([1])
    assert max(found["error"], found["residual"], found["sigma_estimate"]) < 1e-10
    kept = Recovery.load("kept.npz")
    assert kept.U.shape == (6, 1)
    assert np.sum(kept.U**2, axis=0) == pytest.approx(found["eigenvalues"])


def test_the_certificate_is_printed_and_is_in_the_json(command):
    noisy = (*DRAWN, "--sigma", "0.05")
    found = command("recover", *noisy, "--json").json["certificate"]
    assert (found["verdict"], found["n"], found["dof"], found["rank"], found["outliers"]) == ("accept", 40, 6, 1, [])
    assert found["sigma_interval"][0] < found["sigma"] < found["sigma_interval"][1]
    text = command("recover", *noisy).out
    assert f"{found['sigma_interval'][0]:.3g} to {found['sigma_interval'][1]:.3g} with 95 percent confidence" in text
    assert f"{found['relative_error']:.3g} (relative), " in text
    assert "\nverdict         accept\n" in text
    assert f"p = {found['eigenvalue_p']:.2g} (largest eigenvalue)" in text
    assert all(f"\n                {reason}\n" in text for reason in found["reasons"])


def test_the_text_says_what_the_json_says(command):
    said = command("recover", *DRAWN)
    assert (said.code, said.err) == (0, "")
    words = [line.split() for line in said.out.splitlines()]
    assert ["status", "converged"] in words
    assert ["rank", "1"] in words
    assert ["eigenvalues", "1"] in words
    assert {"residual", "true", "sigma", "steps"} <= {line[0] for line in words}


def test_dense_and_packed_measurements_give_the_same_answer(command, saved):
    A, _, truth = _data()
    dense = command("recover", "--k", 1, saved(), "--json", "--out", "dense.npz").json
    packed = command("recover", "--k", 1, saved(A=_packed(A)), "--json", "--out", "packed.npz").json
    np.testing.assert_allclose(Recovery.load("dense.npz").matrix, truth, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(Recovery.load("packed.npz").matrix, truth, rtol=1e-8, atol=1e-8)
    assert dense["eigenvalues"] == pytest.approx(packed["eigenvalues"], rel=1e-10)
    assert "error" not in dense  # of somebody's data the truth is not known


def test_asymmetric_measurements_are_taken_with_a_note_on_stderr(command, saved):
    A, _, _ = _data()
    said = command(
        "recover", "--k", 1, saved(A=A + np.triu(np.ones((6, 6)), 1) - np.tril(np.ones((6, 6)), -1)), "--json"
    )
    assert said.json["ok"]
    assert said.err.startswith("pruneft: note: A is not symmetric")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["<f2", ">f8", "<i8", "longdouble"])
def test_every_kind_of_real_numbers_is_taken(command, saved, kind):
    A, y, _ = _data()
    assert (
        command("recover", "--k", 1, saved(A=(8 * A).astype(kind), y=(8 * y).astype(kind)), "--json").json["rank"] >= 1
    )


@pytest.mark.parametrize(("of_A", "of_y"), [(1, 1e300), (1, 1e-300), (1e30, 1), (1e-30, 1e-30)])
def test_units_do_not_matter(command, saved, of_A, of_y):
    A, y, truth = _data()
    said = command("recover", "--k", 1, saved(A=A * of_A, y=y * of_y), "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json["eigenvalues"] == pytest.approx([np.trace(truth) * (of_y / of_A)])


def test_the_true_error_of_a_huge_instance_is_still_a_number(command):
    said = command("recover", *DRAWN, "--scale", "1e300", "--json")
    assert said.err == ""
    assert said.json["error"] < 1e-10


def test_an_answer_not_to_be_used_has_exit_code_1_and_says_so(command, saved):
    file = saved(y=-np.abs(_data()[1]))  # of no positive semidefinite matrix
    said = command("recover", "--k", 1, file, "--json")
    assert (said.code, said.json["ok"]) == (1, False)
    text = command("recover", "--k", 1, file)
    assert text.code == 1
    assert "(do not use this answer)" in text.out


@pytest.mark.parametrize("name", ["n", "d", "k", "r"])
@pytest.mark.parametrize("value", ["0", "-3", "2.5", "nan"])
def test_sizes_are_whole_and_positive(refused, name, value):
    sizes = {"n": "40", "d": "6", "r": "1", name: value}
    line = refused("recover", *(word for size, given in sizes.items() for word in (f"--{size}", given)))
    assert "whole number" in line
    assert value in line
    assert f" {name} " in line or f"--{name}" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--k", "2", "--r", "3"), "k (columns trained) must be at least r (true rank): got k=2, r=3. Raise k, or lower r"),
        (("--k", "7", "--r", "7"), "r=7, d=6. Lower r, or raise d"),
        (("--beta", "0"), "beta (smoothing of the group norm) must be positive: got 0.0"),
        (("--beta", "-1"), "must be positive: got -1.0"),
        (("--beta", "inf"), "must be finite: got inf"),
        (("--lam", "-1"), "lam (penalty weight) must be finite and not negative: got -1.0"),
        (("--lam", "x"), "--lam: expected a number, got 'x'"),
        (("--sigma", "-1"), "sigma (noise standard deviation) must not be negative: got -1.0"),
        (("--kappa", "nan"), "kappa (condition number) must be at least 1: got nan"),
        (("--scale", "0"), "must be positive: got 0.0"),
        (("--rank", "9"), "rank must not exceed d (ambient dimension): got rank=9, d=6"),
        (("--seed", "99999999999999999999999"), "--seed: expected a whole number from 0 to 2147483647"),
        (("--dtype", "float16"), "'float16' (choose from 'float64', 'float32')"),
        (("--lamb", "1"), "unknown argument --lamb: did you mean --lam?"),
        (("--out", "none/x.npz"), "the directory none does not exist: make it"),
        (("--out", "."), ". is a directory: --out names a file"),
        (("--out", "/proc/x.npz"), "cannot write to /proc"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_line(refused, words, said):
    assert said in refused("recover", *DRAWN, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("--n", 40, "--d", 10**9, "--r", 1),
        ("--n", 10**12, "--d", 1000, "--r", 1),
        ("--n", 40, "--d", 6, "--r", 1, "--k", 10**10),
    ],
)
def test_sizes_beyond_memory_are_refused_before_anything_is_drawn(refused, words):
    line = refused("recover", *words)
    assert "GB of memory" in line
    assert "choose smaller sizes" in line


def test_a_file_beyond_memory_is_refused_before_it_is_read(refused, saved, monkeypatch):
    monkeypatch.setattr(_common, "_memory", lambda: 1e4)
    assert "the data of data.npz needs at least" in refused("recover", "--k", 1, saved())
    monkeypatch.setattr(_common, "_memory", lambda: 2e4)
    assert "a recovery of n=40, d=6, k=1 needs at least" in refused("recover", "--k", 1, saved())


def test_memory_that_runs_out_all_the_same_is_one_line(refused, monkeypatch):
    def run(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")

    monkeypatch.setattr("pruneft.cli._recover._recover", run)
    assert "out of memory: choose smaller n, d or k" in refused("recover", *DRAWN)


def test_half_of_a_description_names_what_is_missing(refused):
    assert "--d, --r missing" in refused("recover", "--n", 5)


def test_data_and_a_description_exclude_each_other(refused, saved):
    assert "leave out one of them" in refused("recover", "--k", 1, saved(), "--n", 3)


_A, _Y, _ = _data()
_NAN, _INF = _A.copy(), _Y.copy()
_NAN[3, 1, 1], _INF[2] = np.nan, np.inf


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"A": _A[:5]}, "same number of measurements: got 5 in A and (40,)"),
        ({"A": _A[:, :5]}, "A must hold square matrices: got 5 x 6"),
        ({"A": _A[0]}, "same number of measurements"),
        ({"A": np.ones((40, 20))}, "The nearest are 15 (d=5) and 21 (d=6)"),
        ({"A": _A[:, None]}, "got (40, 1, 6, 6)"),
        ({"A": 0 * _A}, "A is all zero"),
        ({"A": _NAN}, "A must be finite: 1 of its 1440 entries are NaN or infinite, the first at index (3, 1, 1)"),
        ({"y": _INF}, "y must be finite: 1 of its 40 entries"),
        ({"y": 0 * _Y}, "y is all zero: the answer is M = 0"),
        ({"y": _Y[:, None]}, "y must be a vector"),
        ({"y": np.float64(3)}, "same number of measurements"),
        ({"A": _A.astype(str)}, "A must hold real numbers: got dtype <U32"),
        ({"A": _A + 0j}, "A must hold real numbers: got dtype complex128"),
        ({"A": _A > 0}, "A must hold real numbers: got dtype bool"),
        ({"A": _A.astype(object)}, "is not an .npz file of plain arrays"),
    ],
)  # fmt: skip
def test_bad_data_are_one_line(refused, saved, arrays, said):
    assert said in refused("recover", "--k", 1, saved(**arrays))


def test_numbers_beyond_float32_are_refused_there(refused, saved):
    assert "beyond the range of float32: use --dtype float64" in refused(
        "recover", "--k", 1, saved(y=_Y * 1e300), "--dtype", "float32"
    )


def test_other_files_are_refused(refused, saved, tmp_path):
    assert "there is no file none.npz" in refused("recover", "none.npz")
    assert "cannot read .: Is a directory" in refused("recover", ".")
    (tmp_path / "text.npz").write_text("1 2 3\n")
    assert "text.npz is not an .npz file: expected what numpy.savez('text.npz', A=A, y=y)" in refused(
        "recover", "text.npz"
    )
    np.save("single.npy", _A)
    assert "single.npy is not an .npz file" in refused("recover", "single.npy")
    np.savez("other.npz", B=_A)
    assert "has no array A and no array y" in refused("recover", "other.npz")
    whole = (tmp_path / saved()).read_bytes()
    (tmp_path / "damaged.npz").write_bytes(whole[:400] + b"x" * 40 + whole[440:])
    assert "damaged.npz is not an .npz file of plain arrays" in refused("recover", "damaged.npz")
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    assert "short.npz is not an .npz file" in refused("recover", "short.npz")
