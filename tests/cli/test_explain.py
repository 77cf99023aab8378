from pathlib import Path

import pytest

TOY = "tests.sweep.toy:TOY"
SMALL = ("--a", "2,40", "--b", 5, "--seeds", 2, "--dtype", "float32")


def test_explain_says_what_a_sweep_will_do_and_writes_nothing(command, tmp_path):
    said = command("explain", TOY, *SMALL)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[:3] == [
        "experiment  toy",
        "grid        a = 2, 40; b = 5.0; 2 seeds",
        "trials      4 of 2 cells",
    ]
    assert lines[3].startswith("buckets     1 bucket (each compiled once); 56% of the work is padding")
    assert "n 48, plain" in said.out
    for words in (
        "as few buckets as possible (1)",
        "a bucket for each size (2)",
        "chosen (1)",
        "timed on this machine",
    ):
        assert words in said.out
    assert "compiling and timing" in said.err
    assert not list(tmp_path.iterdir())


def test_its_json_holds_the_same_and_nothing_is_timed_where_nothing_shall_be(command):
    said = command("explain", TOY, *SMALL, "--json", "--quiet", "--no-calibrate", "--lanes", 2, "--processes", 3)
    assert said.err == ""
    found = said.json
    assert [found[name] for name in ("cells", "trials", "stored", "compilations", "calibrated")] == [2, 4, 0, 1, False]
    (bucket,) = found["buckets"]
    assert (bucket["sizes"], bucket["lanes"], bucket["lane_bytes"]) == ({"n": 48}, 2, 4 * 48 + 20)
    assert found["memory"]["needed"] == 3 * 2 * (4 * 48 + 20)
    assert found["seconds"]["compile"] == 6.0
    assert found["grid"]["axes"]["a"] == [2, 40]


def test_trials_that_a_run_holds_are_not_counted_again(command, refused):
    assert command("sweep", TOY, *SMALL, "--quiet").code == 0
    stored = Path("runs/toy/ledger.sqlite").read_bytes()
    more = command("explain", TOY, *SMALL, "--b", "5,6", "--no-calibrate", "--quiet")
    assert "trials      8 of 4 cells, 4 of them in run 'toy' already" in more.out
    assert "nothing is left to run" in command("explain", TOY, *SMALL).out
    assert command("explain", TOY, *SMALL, "--json", "--quiet").json["seconds"]["total"] == 0
    assert "float64" in refused("explain", TOY, *SMALL, "--dtype", "float64", "--quiet")
    assert Path("runs/toy/ledger.sqlite").read_bytes() == stored


def test_the_grid_of_the_real_experiment_is_explained_by_the_same_flags(command):
    words = ("--d", 6, "--r", "1,2", "--n", "=3*r*d", "--k", "2,4", "--zip", "r,k", "--seeds", 2)
    found = command("explain", *words, "--no-calibrate", "--json", "--quiet").json
    assert (found["cells"], found["grid"]["zip"], found["grid"]["axes"]["n"]) == (2, [["r", "k"]], ["=3*r*d"])
    assert [bucket["sizes"] for bucket in found["buckets"]] == [{"d": 6, "k": 2, "n": 32}, {"d": 6, "k": 4, "n": 48}]
    assert all(bucket["step_flops"] > 21 * 32 and bucket["counted"] for bucket in found["buckets"])


def test_a_file_may_zip_and_list_and_flags_go_over_it(command, tmp_path):
    (tmp_path / "grid.toml").write_text(
        f'experiment = "{TOY}"\nseeds = 2\n[grid]\nmode = "plain"\n[zip]\na = [2, 3]\nb = [5, 6]\n[[cells]]\na = "=b"\n'
    )
    words = ("explain", "--config", "grid.toml", "--no-calibrate", "--quiet", "--json", "--dtype", "float32")
    assert command(*words).json["cells"] == 3
    assert command(*words, "--gain", "0.1,0.2").json["cells"] == 5
    assert command(*words, "--zip", "a,gain", "--gain", "0.1,0.2").json["cells"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--a", "2,3", "--gain", "0.1", "--zip", "a,gain"),
            "--zip a, gain: axes that move together need equally many",
        ),
        (("--zip", "a"), "at least two axes"),
        (("--zip", "a,gian"), "no axis 'gian'. Did you mean 'gain'?"),
        (("--a", "=3*c"), "--a: =3*c reads 'c', which is no axis"),
        (("--a", "=a"), "in a circle: a -> a"),
        (("--lanes", "0"), "--lanes: expected a whole number of at least 1, got 0"),
        (("--processes", "0"), "--processes: expected a whole number of at least 1, got 0"),
        (("--run", "../x"), "a run is named with letters"),
        (("--no-calibrat",), "did you mean --no-calibrate?"),
    ],
)
def test_what_cannot_be_explained_is_one_line(refused, words, said):
    assert said in refused("explain", TOY, "--quiet", *words)


def test_a_trial_beyond_memory_is_refused(refused):
    assert "GB of memory" in refused("explain", "--d", 10**9, "--quiet")


def test_the_experiment_may_stand_behind_a_switch(command):
    assert command("explain", "--no-calibrate", TOY, "--quiet").out.startswith("experiment  toy")
