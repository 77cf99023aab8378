import json
import math
import statistics
import sys

import numpy as np
import pytest

from pruneft.status import Status
from pruneft.sweep import Ledger, Row, summarise, summary, wilson
from pruneft.sweep.code import Code

CODE = Code("0" * 32, {}, "{}")
MANIFEST = {"pruneft": "1.2", "device": "cpu"}


def _ledger(path, rows, **settings):
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "mine", MANIFEST, **settings)
        ledger.write(rows)
    return path


def _grid(seeds=5):
    """Not every point of the product is there; ``mode`` is text, ``lam`` may be None, ``d`` does not vary."""
    rows = []
    for r in (4, 1, 2):
        for n in (10, 30, 20.5):
            for mode in ("plain", "squared"):
                if (r, n, mode) == (4, 10, "plain"):
                    continue
                cell = {"r": r, "n": n, "mode": mode, "d": 16, "lam": None}
                for seed in range(seeds):
                    good = (seed * r + int(n)) % 3 > 0
                    error = math.nan if seed == 1 else seed / r
                    report = {"status": 1 if good else 3, "success": good, "error": error, "steps": seed + r}
                    rows.append(Row(cell, seed, report))
    return rows


def test_a_grid_becomes_named_dimensions_with_sorted_values(tmp_path):
    data = summary(_ledger(tmp_path / "l", _grid()))
    assert data.trials.dims == ("mode", "n", "r")
    assert (list(data.mode.values), list(data.n.values), list(data.r.values)) == (
        ["plain", "squared"],
        [10, 20.5, 30],
        [1, 2, 4],
    )
    assert data.r.dtype == np.int64
    assert (int(data.d), math.isnan(data.lam)) == (16, True)
    assert data.attrs == {"experiment": "mine", "manifest": json.dumps(MANIFEST, sort_keys=True), "pruneft": "1.2"}


def test_the_dataset_says_of_every_cell_what_the_rows_say(tmp_path):
    path = _ledger(tmp_path / "l", _grid())
    data = summary(path, of=("error", "steps"))
    with Ledger.open(path) as ledger:
        rows = ledger.rows()
    cells = summarise(rows, ["r", "n", "mode"])
    assert len(cells) == 17
    for cell in cells:
        here = data.sel(cell.cell)
        assert (int(here.trials), int(here.successes), float(here.rate)) == (cell.trials, cell.successes, cell.rate)
        assert (float(here.low), float(here.high)) == (cell.low, cell.high)
        assert {str(s): int(c) for s, c in zip(here.status.values, here.statuses.values) if c} == cell.statuses
        assert float(here.error_median) == cell.medians["error"]
        assert float(here.steps_median) == cell.medians["steps"]
        mine = [row["error"] for row in rows if {**row, **cell.cell} == row and not math.isnan(row["error"])]
        assert float(here.error_mean) == pytest.approx(statistics.mean(mine), rel=1e-12)


def test_a_point_that_was_never_run_is_known_to_be_unknown(tmp_path):
    here = summary(_ledger(tmp_path / "l", _grid()), of=["error"]).sel(r=4, n=10, mode="plain")
    assert (int(here.trials), int(here.successes), int(here.statuses.sum())) == (0, 0, 0)
    assert (float(here.low), float(here.high)) == (0, 1)
    assert np.isnan([here.rate, here.error_median, here.error_mean]).all()


def test_cells_that_are_no_grid_lie_along_one_dimension(tmp_path):
    rows = [Row({"r": i, "n": 1000 - i, "mode": "ab"[i % 2]}, 0, {"status": 1, "success": i > 80}) for i in range(150)]
    data = summary(_ledger(tmp_path / "l", rows))
    assert dict(data.sizes) == {"cell": 150, "status": 1}
    assert data.r.dims == data.n.dims == data["mode"].dims == data.trials.dims == ("cell",)
    assert (data.r.values + data.n.values == 1000).all()
    assert (data.successes.values == (data.r.values > 80)).all()
    few = summary(_ledger(tmp_path / "few", rows[:70]))
    assert few.trials.dims == ("mode", "n", "r")  # 9800 points, nearly all empty
    assert int(few.trials.sum()) == 70


def test_nan_none_and_nothing_reported_are_no_success(tmp_path):
    values = [{"good": math.nan}, {"good": None}, {}, {"good": 0.0}, {"good": 2.0}, {"good": True}, {"good": False}]
    rows = [Row({"a": 1}, seed, {"status": 1, **value}) for seed, value in enumerate(values)]
    path = _ledger(tmp_path / "l", rows, success="good")
    for data in (summary(path), summary(path, success="good")):
        assert (int(data.trials), int(data.successes)) == (7, 2)
        assert (float(data.low), float(data.high)) == wilson(2, 7)


def test_an_axis_left_to_the_experiment_is_nan_or_the_empty_name(tmp_path):
    rows = [
        Row({"lam": lam, "mode": mode}, 0, {"status": 1, "success": True}) for lam in (None, 2) for mode in (None, "a")
    ]
    data = summary(_ledger(tmp_path / "l", rows))
    assert list(data["mode"].values) == ["", "a"]
    assert np.isnan(data.lam.values[0])
    assert data.lam.values[1] == 2
    assert (data.trials.values == 1).all()


def test_an_axis_that_only_some_cells_have_keeps_them_apart(tmp_path):
    rows = [Row(cell, 0, {"status": 1, "success": True}) for cell in ({"a": 1}, {"a": 1, "b": None}, {"a": 1, "b": 2})]
    data = summary(_ledger(tmp_path / "l", rows))
    assert data.trials.dims == ("cell",)
    assert list(data.trials.values) == [1, 1, 1]


def test_an_axis_with_the_name_of_a_variable_gives_way(tmp_path):
    rows = [Row({"rate": rate}, 0, {"status": 1, "success": True}) for rate in (0.1, 0.2)]
    data = summary(_ledger(tmp_path / "l", rows))
    assert data.rate.dims == ("rate_axis",)
    assert list(data.rate_axis.values) == [0.1, 0.2]


def test_unknown_statuses_keep_their_number_and_all_are_sorted_by_it(tmp_path):
    rows = [Row({"a": 1}, s, {"status": s, "success": False}) for s in (99, Status.NOT_FINITE, Status.CONVERGED)]
    assert list(summary(_ledger(tmp_path / "l", rows)).status.values) == ["CONVERGED", "NOT_FINITE", "STATUS_99"]


def test_an_empty_ledger_has_an_empty_summary(tmp_path):
    data = summary(_ledger(tmp_path / "l", []))
    assert dict(data.sizes) == {"cell": 0, "status": 0}


def test_unknown_names_and_texts_are_refused_with_what_there_is(tmp_path):
    rows = [Row({"a": 1}, 0, {"status": 1, "success": True, "word": "x", "error": 0.5})]
    path = _ledger(tmp_path / "l", rows)
    with pytest.raises(ValueError, match="no 'exact'; they have: a, error, seed, status, success, word"):
        summary(path, success="exact")
    with pytest.raises(ValueError, match="no 'eror'"):
        summary(path, of=["eror"])
    with pytest.raises(ValueError, match="'word' is text"):
        summary(path, of=["word"])


def test_infinities_have_a_median_and_no_mean(tmp_path):
    rows = [Row({"a": 1}, s, {"status": 1, "success": True, "x": x}) for s, x in enumerate((-math.inf, 1.0, math.inf))]
    data = summary(_ledger(tmp_path / "l", rows), of=["x"])
    assert float(data.x_median) == 1.0
    assert math.isnan(data.x_mean)


def test_the_run_s_own_success_is_counted_from_its_index_alone(tmp_path):
    path = _ledger(tmp_path / "l", _grid())
    with Ledger.open(path) as ledger, ledger.snapshot() as snapshot:
        holds = " or ".join(column.holds for column in snapshot.reported["success"])
        query = f"explain query plan select cell, status, count(*), sum({holds}) from trial group by cell, status"
        plans = [row[3] for row in snapshot._connection.execute(query)]
    assert plans == ["SCAN trial USING COVERING INDEX trial_summary"]


def test_without_xarray_it_says_what_to_install(tmp_path, monkeypatch):
    path = _ledger(tmp_path / "l", [])
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"python -m pip install 'pruneft\[cli\]'"):
        summary(path)
