"""`pruneft reproduce edge-*`."""

from pathlib import Path

import numpy as np
import pytest

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.claims  # compiles for half a minute
def test_a_single_run_is_one_command_with_its_numbers_beside_it(command):
    said = command("reproduce", "edge-sensing", "--steps", 6, "--json", "--quiet")
    assert (said.code, said.err) == (0, "")
    assert said.json["steps"] == 6
    assert Path("edge-sensing.png").read_bytes().startswith(PNG)
    with np.load("edge-sensing.npz") as numbers:
        assert numbers["x"].shape == (6,)
        assert said.json["eta"] == float(numbers["eta"])
        assert said.json["correlation_x"] == pytest.approx(np.corrcoef(numbers["x"], numbers["x_predicted"])[0, 1])


@pytest.mark.claims  # runs of a minute
def test_a_sweep_is_one_command_and_goes_on_where_it_stopped(command):
    words = ("reproduce", "edge-columns", "--seeds", 1, "--processes", 1, "--json", "--quiet")
    first = command(*words).json
    assert (first["trials"], first["new"], first["figure"]) == (4, 4, "edge-columns.png")
    again = command(*words, "--out", "b.png").json
    assert (again["trials"], again["new"]) == (4, 0)
    assert Path("b.png").read_bytes() == Path("edge-columns.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("edge-sensing", "--f", 1.5), "--f: expected a number above 0 and at most 1, got 1.5"),
        (("edge-sensing", "--steps", 0), "--steps: expected a whole number of at least 1, got 0"),
        (("edge-digits", "--out", "x.gif"), "--out must end in .png or .pdf"),
        (("edge-step-size", "--seeds", 0), "--seeds: expected a whole number of at least 1"),
        (("edge-columns", "--run", "a/b"), "a run is named with"),
    ],
)
def test_bad_input_is_one_line(refused, words, text):
    assert text in refused("reproduce", *words)
