"""`pruneft reproduce` for figures that are drawn from runs: a run goes on where it stopped, and what makes no sense is one line."""

from pathlib import Path

import pytest

from pruneft.experiments.recipes import RECIPES, product


@pytest.mark.claims
def test_a_recipe_is_run_and_drawn_and_a_second_call_computes_nothing(command, monkeypatch):
    sizes = {"d": 3, "observed": 6, "width": 3, "norm": 2.0, "first": 1000, "steps": 1000}
    short = RECIPES["rank-jumps"]._replace(cells=product(method=("sgd", "gd"), **sizes), seeds=1)
    monkeypatch.setitem(RECIPES, "rank-jumps", short)
    words = ("reproduce", "rank-jumps", "--processes", 1, "--quiet")
    first = command(*words, "--json").json
    assert (first["trials"], first["new"], first["figure"]) == (2, 2, "rank-jumps.png")
    said = command(*words, "--out", "b.png").out.splitlines()
    assert said[0] == "2 trials, 0 of them new"
    assert [line.split()[0] for line in said[1:]] == ["ledger", "figure"]
    assert Path("b.png").read_bytes() == Path("rank-jumps.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("laperm", "--seeds", 0), "--seeds: expected a whole number of at least 1"),
        (("rank-jumps", "--out", "jumps.gif"), ".png or .pdf"),
        (("laperm", "--run", "a/b"), "a run is named with"),
        (("laperm", "--d", 3), "--d"),
    ],
)
def test_options_that_make_no_sense_are_refused(refused, words, text):
    assert text in refused("reproduce", *words)
