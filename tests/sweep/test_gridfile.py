import os

import pytest

from pruneft.sweep.grid import cells, make_grid
from pruneft.sweep.gridfile import load_toml
from pruneft.sweep.values import GridError
from tests.sweep.toy import AXES, TOY

A, B, GAIN, MODE = AXES


def _pairs(experiment, grid, *names):
    return [tuple(cell[name] for name in names) for cell in cells(experiment, grid)]


def _file(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_grid_file_is_read(tmp_path):
    text = '\ufeffexperiment = "toy"\nrun = "first"\nseeds = 3\n[grid]\na = [1, 2.0]\nb = 4\nmode = "plain"\n'
    read = load_toml(_file(tmp_path, text), ["toy", "other"])
    assert (read.experiment, read.run, read.seeds) == ("toy", "first", 3)
    assert make_grid(TOY, read.axes, read.seeds).axes == {"a": (1, 2), "b": (4.0,), "mode": ("plain",)}


def test_an_empty_grid_file_says_nothing(tmp_path):
    read = load_toml(_file(tmp_path, ""))
    assert (read.experiment, read.run, read.seeds, read.axes) == (None, None, None, {})


def test_a_module_may_stand_in_a_grid_file(tmp_path):
    assert load_toml(_file(tmp_path, 'experiment = "mine:exp"'), ["toy"]).experiment == "mine:exp"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 3", "unknown key 'seed'. Did you mean 'seeds'"),
        ("a = 3", "unknown key 'a'.*grid"),
        ("experiment = 3", "experiment must be a name"),
        ('experiment = "tyo"', "unknown experiment 'tyo'. Did you mean 'toy'"),
        ("seeds = 1.5", "--seeds"),
        ("seeds = true", "--seeds"),
        ("grid = 3", "grid must be a table"),
        ("[grid]\na = [[1]]", "a in .grid. must be"),
        ("[grid]\na = {x = 1}", "a in .grid. must be"),
        ("[grid]\na = [true]", "a in .grid. must be"),
        ("[grid]\na = 2020-01-01", "a in .grid. must be"),
        ("a = = 3", "not a TOML file"),
        (b"\xff\xfe\x00", "not a TOML file"),
    ],
)
def test_a_faulty_grid_file_is_refused(tmp_path, text, message):
    with pytest.raises(GridError, match=message):
        load_toml(_file(tmp_path, text), ["toy"])


def test_a_grid_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(GridError, match="cannot read the grid file"):
        load_toml(tmp_path / "none.toml")
    with pytest.raises(GridError, match="cannot read the grid file"):
        load_toml(tmp_path)
    path = _file(tmp_path, "seeds = 1")
    path.chmod(0)
    if not os.access(path, os.R_OK):  # not for root
        with pytest.raises(GridError, match="Permission denied"):
            load_toml(path)


def test_a_grid_file_may_zip_list_and_compute(tmp_path):
    text = """
    [grid]
    mode = "plain"
    [[zip]]
    a = [1, 2]
    b = [5, "=3*a"]
    [[cells]]
    a = "=b"
    """
    read = load_toml(_file(tmp_path, text))
    grid = make_grid(TOY, read.axes, 1, zipped=read.zipped, listed=read.listed)
    assert _pairs(TOY, grid, "a", "b") == [(1, 5.0), (2, 6.0), (10, 10.0)]
    one = load_toml(_file(tmp_path, "[zip]\na = [1, 2]\nb = [5, 6]"))
    assert one.zipped == (("a", "b"),)
    assert one.listed is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zip = 3", "zip must be tables"),
        ("cells = [3]", "cells must be tables"),
        ("cells = []", "the list of cells is empty"),
        ("[[cells]]\na = [1]", "a in ..cells.. must be a number or a string"),
        ("[zip]\na = true\nb = 1", "a in .zip. must be"),
        ("[grid]\na = 1\n[zip]\na = [1]\nb = [2]", "a is given twice"),
        ("[zip]\na = [1, 2]\nb = [1]", "a has 2, b has 1"),
        ("[zip]\na = [1, 2]", "at least two axes"),
        ("[grid]\nb = []", "empty grid: --b has no values"),
        ('[grid]\na = "=3*"', "--a: a formula is arithmetic"),
    ],
)
def test_a_faulty_zip_or_list_in_a_file_is_refused(tmp_path, text, message):
    def read_and_make():
        read = load_toml(_file(tmp_path, text))
        return make_grid(TOY, read.axes, 1, zipped=read.zipped, listed=read.listed)

    with pytest.raises(GridError, match=message):
        read_and_make()
