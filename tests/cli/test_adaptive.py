import pytest

from tests.sweep.bernoulli import BERNOULLI

PLACE = "tests.sweep.bernoulli:BERNOULLI"
ROWS = ("--half", "1.25,1.6", "--n-per-dof", "1,2", "--dtype", "float32", "--lanes", 4)


def test_a_table_says_where_each_row_passes_one_half(command):
    said = command("sweep", PLACE, *ROWS, "--adaptive", 0.1)
    assert said.code == 0
    assert said.out.startswith("bernoulli: dof = 40, width = 0.04")
    assert "n_per_dof at 50%" in said.out
    assert said.out.splitlines()[-1] == "ledger  runs/bernoulli/ledger.sqlite"
    assert " new trials in " in said.out.splitlines()[-2]
    assert "2 of 2 rows done" in said.err
    again = command("sweep", PLACE, *ROWS, "--adaptive", 0.1, "--json", "--quiet")
    assert (again.code, again.err) == (0, "")
    assert (again.json["axis"], again.json["target"], again.json["new"]) == ("n_per_dof", 0.1, 0)
    first, second = again.json["transitions"]
    assert (first["cell"]["half"], second["cell"]["half"], first["flag"]) == (1.25, 1.6, "ok")
    assert first["low"] < first["estimate"] < first["high"] <= first["low"] + 0.1
    assert first["reached"]["n"] >= 40 * first["estimate"]
    assert again.json["stored"] == first["trials"] + second["trials"]


def test_a_row_without_an_answer_is_named_and_changes_the_exit_code(command):
    words = ("sweep", PLACE, *ROWS, "--half", "1.25,4", "--adaptive", 0.1, "--quiet")
    said = command(*words)
    assert said.code == 1
    assert "> 2" in said.out
    assert "lies above the range: widen it upwards" in said.out
    outside = command(*words, "--json").json["transitions"][1]
    assert (outside["estimate"], outside["low"], outside["high"], outside["flag"]) == (None, 2, None, "above")


def test_a_falling_axis_and_a_limit_are_asked_for_by_flags(command):
    words = ("sweep", PLACE, "--n-per-dof", "1,2", "--width", "-0.04", "--dtype", "float32", "--lanes", 4)
    flags = ("--adaptive", 0.05, "--adaptive-falling", "--adaptive-most", 20, "--adaptive-axis", "n_per_dof")
    said = command(*words, *flags, "--json", "--quiet")
    (row,) = said.json["transitions"]
    assert (said.code, row["flag"], row["trials"]) == (1, "limit", 20)
    assert row["low"] < 1.4 < row["high"]


def test_the_flag_without_a_value_may_stand_before_the_experiment(refused):
    assert "goes with --adaptive TARGET" in refused("sweep", "--adaptive-falling", PLACE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--adaptive", "0"), "--adaptive: expected a positive width along the axis, got 0"),
        (("--adaptive=-1",), "--adaptive: expected a positive width along the axis, got -1"),
        (("--adaptive", "nan"), "expected a positive width along the axis, got nan"),
        (("--adaptive", "x"), "expected a number, got 'x'"),
        (("--adaptive", "1"), "must be positive and less than the range, 1: got 1.0"),
        (("--adaptive", "0.0001"), "is less than 1/200 of the range 1 to 2"),
        (("--adaptive", "0.1", "--n-per-dof", "1.5"), "--n-per-dof: expected two values at least"),
        (("--adaptive", "0.1", "--n-per-dof", "1,1.001"), "makes only one cell"),
        (("--adaptive", "0.1", "--adaptive-axis", "nn"), "has no axis 'nn'. Did you mean 'n'?"),
        (("--adaptive", "0.1", "--adaptive-axis", "n"), "--n is an axis of int values"),
        (("--adaptive", "0.1", "--adaptive-axis", "half"), "--half: expected two values at least"),
        (("--adaptive", "0.1", "--seeds", "3"), "--seeds has no meaning with --adaptive"),
        (("--adaptive", "0.1", "--adaptive-most", "0"), "--adaptive-most: expected at least 1 trial per row, got 0"),
        (("--adaptive", "0.1", "--max-steps", "0"), "--max-steps: expected a whole number of at least 1, got 0"),
        (("--adaptive-most", "9"), "--adaptive-most goes with --adaptive TARGET"),
        (("--adaptive-axis", "n"), "--adaptive-axis goes with --adaptive TARGET"),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing(refused, tmp_path, words, said):
    assert said in refused("sweep", PLACE, *words)
    assert not (tmp_path / "runs").exists()


def test_the_default_grid_of_the_experiment_is_a_range(command):
    assert BERNOULLI.default_grid == {"n_per_dof": (1.0, 2.0)}
    said = command("sweep", PLACE, "--dtype", "float32", "--lanes", 4, "--adaptive", 0.2, "--json", "--quiet").json
    assert [row["flag"] for row in said["transitions"]] == ["ok"]
