"""`pruneft relu planted` and the figures on planted neurons."""

from pathlib import Path

import pytest

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ("--d", 4, "--patterns", 10)


def test_rates_are_counted_for_every_ratio(command):
    words = ("relu", "planted", "--model", "skip", "--planted", "linear", *SMALL, "--n-per-d", "1.5,3.0", "--seeds", 5)
    said = command(*words, "--json", "--quiet", "--figure", "rates.png")
    assert (said.code, said.err) == (0, "")
    found = said.json
    assert (found["model"], found["planted"], found["d"], found["figure"]) == ("skip", "linear", 4, "rates.png")
    assert Path("rates.png").read_bytes().startswith(PNG)
    assert [(row["n"], row["n_per_d"], row["trials"]) for row in found["rows"]] == [(6, 1.5, 5), (12, 3.0, 5)]
    for row in found["rows"]:
        assert 0 <= row["nic"] <= row["recovered"] <= row["trials"] - row["undecided"]
        assert row["recovered"] + row["all_ones"] <= row["trials"]
        assert row["low"] <= row["recovered"] / row["trials"] <= row["high"]
    assert found["rows"][0]["law"] == pytest.approx(1 - 26 / 32)
    text = command(*words, "--quiet").out.splitlines()
    assert text[0] == "skip, linear, gaussian weights, gaussian data, d = 4"
    assert [line.split()[2] for line in text[2:]] == [f"{row['recovered']}/5" for row in found["rows"]]


@pytest.mark.claims
def test_a_figure_is_one_command_and_goes_on_where_it_stopped(command):
    words = ("reproduce", "planted-noise", "--d", 3, "--n-per-d", "2", "--processes", 1, "--json", "--quiet")
    first = command(*words, "--seeds", 1).json
    assert (first["trials"], first["new"], first["figure"]) == (4, 4, "planted-noise.png")
    again = command(*words, "--seeds", 1, "--out", "b.png").json
    assert (again["trials"], again["new"]) == (4, 0)
    assert Path("b.png").read_bytes() == Path("planted-noise.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--model", "deep"), "model must be one of plain, skip, normalised: got 'deep'"),
        (("--model", "normalised"), "a linear neuron is planted in a network with a skip connection"),
        (
            ("--model", "normalised", "--planted", "one", "--n-per-d", "0.5"),
            "at least as many samples as features: got n=10, d=20",
        ),
        (("--planted", "three", "--d", 2), "planted neurons must not be more than features: got 3 neurons, d=2"),
        (("--n", 10, "--n-per-d", 2), "give --n or --n-per-d, not both"),
        (("--n-per-d", "2,,3"), "an empty item"),
        (("--patterns", 0), "--patterns: expected a whole number of at least 1, got 0."),
        (("--dtype", "float32"), "float32 does not reach: use --dtype float64"),
        (("--sigma", -1), "sigma must be finite and not negative"),
        (("--d", 20000), "GB of memory"),
        (("--figure", "x.gif"), "--figure must end in .png or .pdf"),
    ],
)
def test_bad_input_is_one_line(refused, words, text):
    assert text in refused("relu", "planted", *words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("planted-transition", "--d", "0"), "whole numbers of at least 1"),
        (("planted-transition", "--n-per-d", "1,-2"), "expected positive numbers"),
        (("planted-recovery", "--run", "a/b"), "a run is named with"),
        (("planted-recovery", "--seeds", 0), "--seeds: expected a whole number of at least 1"),
    ],
)
def test_a_figure_that_makes_no_sense_is_refused(refused, words, text):
    assert text in refused("reproduce", *words)
