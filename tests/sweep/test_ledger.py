import math
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.status import Status
from pruneft.sweep.code import Code, code_of
from pruneft.sweep.grid import cells, make_grid
from pruneft.sweep.ledger import SCHEMA_VERSION, Ledger, LedgerError, Row
from tests.sweep.ledgers import CELL, CODE, MANIFEST, REPORT, begun, filled
from tests.sweep.toy import TOY, resolve, toy


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def test_what_is_written_is_read_back_after_closing(path):
    filled(path, 2)
    with Ledger.open(path, create=False) as ledger:
        assert (ledger.count(), ledger.experiment, ledger.manifest) == (2, "toy", MANIFEST)
        assert ledger.rows() == [{**CELL, "seed": seed, **REPORT} for seed in range(2)]


def test_a_fresh_ledger_is_empty(path):
    with Ledger.open(path) as ledger:
        assert (ledger.count(), ledger.rows(), ledger.experiment, ledger.manifest) == (0, [], None, {})
        assert ledger.missing([CELL], 2) == [(CELL, 0), (CELL, 1)]


def test_reports_of_every_kind_of_scalar_come_back_exactly(path):
    report = {
        "status": np.int32(3),
        "nan": float("nan"),
        "inf": -np.inf,
        "f32": np.float32(0.1),
        "flag": np.bool_(False),
    }
    report |= {"count": np.int64(2**62), "tiny": 5e-324, "word": "ä", "none": None, "third": 1 / 3}
    with begun(path) as ledger:
        ledger.write([Row(CELL, 0, report)])
        (row,) = ledger.rows()
    assert math.isnan(row["nan"])
    assert (row["status"], row["inf"], row["f32"], row["count"]) == (3, -math.inf, float(np.float32(0.1)), 2**62)
    assert (row["flag"], row["tiny"], row["word"], row["none"], row["third"]) == (False, 5e-324, "ä", None, 1 / 3)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"steps": 1}, "integer `status`"),
        ({"status": True}, "integer `status`"),
        ({"status": 1.0}, "integer `status`"),
        ({"status": 1, "x": np.zeros(2)}, "scalars only"),
        ({"status": 1, "x": [1]}, "scalars only"),
        ({"status": 1, "gain": 2.0}, "must differ from the axes and from 'seed'.*got gain"),
        ({"status": 1, "seed": 2}, "got seed"),
    ],
)
def test_a_report_that_cannot_be_stored_is_refused_and_nothing_of_its_batch_is_kept(path, report, message):
    with begun(path) as ledger:
        with pytest.raises(ValueError, match=message):
            ledger.write([Row(CELL, 0, REPORT), Row(CELL, 1, report)])
        assert ledger.count() == 0


@pytest.mark.parametrize(
    "value", [True, False, 0, 1, -7, 2**63 - 1, 0.0, 1.0, -0.0, 0.1, 1e308, math.inf, "", "1", "nan", None]
)
def test_a_scalar_comes_back_with_the_type_it_had(path, value):
    with begun(path) as ledger:
        ledger.write([Row(CELL, 0, {"status": 1, "x": value})])
        (row,) = ledger.rows()
    assert (type(row["x"]), repr(row["x"])) == (type(value), repr(value))


def test_one_name_may_be_of_several_kinds_and_absent_is_not_none(path):
    reports = [{"x": True}, {"x": 1}, {"x": 1.0}, {"x": "1"}, {"x": None}, {"y": math.nan}, {}]
    with begun(path) as ledger:
        ledger.write([Row(CELL, seed, {"status": 1, **report}) for seed, report in enumerate(reports)])
        rows = ledger.rows()
    found = [{name: row[name] for name in row.keys() - CELL.keys() - {"seed", "status"}} for row in rows]
    assert repr(found) == repr(reports)


def test_cells_may_report_different_names_and_a_later_writer_new_ones(path):
    with begun(path) as first, begun(path) as second:
        first.write([Row(CELL, 0, {"status": 1, "x": 1})])
        second.write([Row({**CELL, "a": 9}, 0, {"status": 3, "y": 2.5, "x": 2})])
        first.write([Row(CELL, 1, {"status": 1, "y": 3.5, "z": "w"})])
        assert [{name: row.get(name) for name in "xyz"} for row in second.rows()] == [
            {"x": 1, "y": None, "z": None},
            {"x": None, "y": 3.5, "z": "w"},
            {"x": 2, "y": 2.5, "z": None},
        ]


@pytest.mark.parametrize(
    ("cell", "report", "message"),
    [
        (CELL, {"status": 1, "x": 2**63}, "must fit into 64 bits, got 9223372036854775808 for 'x'"),
        (CELL, {"status": 1, 3: 1}, "reported names are text"),
        (CELL, {"status": 1, "status_name": "x"}, "got status_name"),
        ({"seed": 1}, {"status": 1}, "an axis must not be called .*got seed"),
        (CELL, {"status": 1, **{f"x{i}": i for i in range(1501)}}, "at most 1500 different reported names"),
    ],
)
def test_what_a_table_cannot_hold_is_refused_and_leaves_no_column_behind(path, cell, report, message):
    with begun(path) as ledger:
        with pytest.raises(ValueError, match=message):
            ledger.write([Row(CELL, 0, {"status": 1, "fresh": 1}), Row(cell, 1, report)])
        with ledger.snapshot() as snapshot:
            assert (ledger.count(), ledger._columns, snapshot.columns) == (0, {}, ())


def test_a_row_that_a_worker_returns_twice_is_stored_once_as_it_came_first(path):
    first = [Row(CELL, seed, {"status": 1, "value": seed}) for seed in range(3)]
    again = [Row(CELL, seed, {"status": 3, "other": 1.5}) for seed in range(2)]
    with begun(path) as ledger:
        assert ledger.write([first[0], again[0], first[1], first[0]]) == 2
        assert ledger.write([*again, *first]) == 1
        assert ledger.rows() == [{**CELL, "seed": seed, "status": 1, "value": seed} for seed in range(3)]


def test_rows_are_of_one_moment_though_a_writer_goes_on(path):
    with begun(path) as ledger:
        ledger.write([Row(CELL, seed, REPORT) for seed in range(3000)])
        rows = ledger.iter_rows()
        first = next(rows)
        assert ledger.write([Row(CELL, seed, {**REPORT, "new": 1}) for seed in range(3000, 3010)]) == 10
        assert [first["seed"], *(row["seed"] for row in rows)] == list(range(3000))
        assert ledger.count() == 3010


def test_statuses_are_counted(path):
    with begun(path) as ledger:
        assert ledger.statuses() == {}
        ledger.write([Row({**CELL, "a": 1 + seed % 3}, seed, {"status": (1, 1, 3, 4)[seed % 4]}) for seed in range(20)])
        assert list(ledger.statuses().items()) == [(1, 10), (3, 5), (4, 5)]


def test_what_counts_as_success_is_remembered(path):
    with Ledger.open(path) as ledger:
        assert ledger.success == "success"
        ledger.begin(CODE, "toy", MANIFEST, success="exact")
        ledger.write([Row(CELL, 0, {"status": 1, "exact": True})])
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.success == "exact"


def test_few_planned_trials_are_looked_up_without_reading_the_others(path):
    with begun(path) as ledger:
        every = [{**CELL, "a": a} for a in range(1, 21)]
        ledger.write([Row(cell, seed, REPORT) for cell in every for seed in range(1000)])
        steps = []
        ledger._connection.set_progress_handler(lambda: steps.append(1), 1000)
        assert len(ledger.missing([{**CELL, "a": 7}, {**CELL, "a": 999}], 1001)) == 1002
        ledger._connection.set_progress_handler(None, 0)
        assert len(steps) < 30  # reading all 20 000 takes two hundred
        assert ledger.missing([{**CELL, "a": 7}] * 2, 1001) == [({**CELL, "a": 7}, 1000)] * 2
        assert ledger.missing([CELL], 0) == ledger.missing([], 5) == []


def test_missing_trials_are_found_in_a_ledger_that_may_only_be_read(path):
    filled(path, 3)
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.missing([CELL], 5) == [(CELL, 3), (CELL, 4)]


PLANS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(0, 9)), max_size=12)


@given(st.lists(PLANS, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_trial_is_stored_once_and_stays_as_it_was_first_written(batches):
    first: dict[tuple[int, int], int] = {}
    with tempfile.TemporaryDirectory() as directory, begun(Path(directory) / "ledger.sqlite") as ledger:
        for batch in batches:
            new = {(a, seed) for a, seed, _ in batch} - set(first)
            for a, seed, value in batch:
                first.setdefault((a, seed), value)
            rows = [Row(resolve({"a": a}), seed, {"status": 1, "value": value}) for a, seed, value in batch]
            assert ledger.write(rows) == len(new)
        assert {(row["a"], row["seed"]): row["value"] for row in ledger.rows()} == first
        assert ledger.count() == len(first)
        planned = [resolve({"a": a}) for a in (1, 2, 3)]
        missing = {(cell["a"], seed) for cell, seed in ledger.missing(planned, 5)}
        assert missing == {(a, seed) for a in (1, 2, 3) for seed in range(5)} - set(first)


def test_cells_that_differ_in_the_spelling_of_a_number_are_one(path):
    with begun(path) as ledger:
        assert ledger.write([Row({**CELL, "b": 10}, 0, REPORT), Row({**CELL, "b": 10.0}, 0, REPORT)]) == 1


def test_a_hundred_thousand_planned_trials_are_looked_up_at_once(path):
    planned = cells(TOY, make_grid(TOY, {"a": range(1, 101), "b": 5.0}))
    rows = [Row(cell, seed, REPORT) for cell in planned for seed in range(0, 1000, 20)]
    with begun(path) as ledger:
        assert ledger.write(rows) == 5_000
        steps = []
        ledger._connection.set_progress_handler(lambda: steps.append(1), 100_000)
        missing = ledger.missing(planned, 1000)
    assert len(missing) == 95_000
    assert (
        len(steps) < 10
    )  # a query per planned trial would take far more of SQLite's steps than reading the table once


def test_the_same_code_may_go_on_under_another_manifest(path):
    filled(path, 2)
    with Ledger.open(path) as ledger:
        ledger.begin(CODE, "toy", {**MANIFEST, "jax": "0.7"})
        assert ledger.missing([CELL], 3) == [(CELL, 2)]
        assert ledger.write([Row(CELL, seed, REPORT) for seed in range(3)]) == 1
        assert ledger.manifest["jax"] == "0.7"
        by_manifest = "select manifest, count(*) from trial group by manifest order by manifest"
        assert [number for _, number in ledger._connection.execute(by_manifest)] == [2, 1]


def test_changed_code_is_refused_with_what_changed_and_what_to_do(path):
    filled(path, 2)
    changed = Code("0" * 32, {**CODE.modules, "pruneft.trial": "new"}, CODE.settings)
    with Ledger.open(path) as ledger:
        with pytest.raises(LedgerError, match=r"module pruneft.trial changed \(2 finished trials are kept.*--run"):
            ledger.begin(changed, "toy", MANIFEST)
        with pytest.raises(LedgerError, match=r"dtype was 'float32', is 'float64'"):
            ledger.begin(code_of(TOY, {"dtype": "float64"}), "toy", MANIFEST)
        ledger.begin(CODE, "toy", MANIFEST)


def test_another_experiment_is_refused(path):
    filled(path, 2)
    with (
        Ledger.open(path) as ledger,
        pytest.raises(LedgerError, match=r"trials of experiment 'toy', not of 'other'.*--run"),
    ):
        ledger.begin(code_of(toy(name="other")), "other", MANIFEST)


def test_a_code_that_wrote_nothing_gives_way(path):
    other = code_of(toy(name="other"))
    with begun(path) as ledger, Ledger.open(path) as second:
        ledger.write([])
        second.begin(other, "other", MANIFEST)
        assert second.write([Row(CELL, 0, REPORT)]) == 1
        assert ledger.experiment == second.experiment == "other"
        # And whoever wrote first has it, even against one that had begun before.
        with pytest.raises(LedgerError, match="experiment 'other', not of 'toy'"):
            ledger.write([Row(CELL, 0, REPORT)])
        assert second.count() == 1


def test_writing_before_beginning_is_refused(path):
    with Ledger.open(path) as ledger, pytest.raises(LedgerError, match="call begin"):
        ledger.write([Row(CELL, 0, REPORT)])


def test_a_manifest_that_does_not_go_into_json_is_refused(path):
    with Ledger.open(path) as ledger, pytest.raises(ValueError, match="manifest must hold"):
        ledger.begin(CODE, "toy", {"device": object()})


def test_a_ledger_that_is_not_there_is_not_made_for_reading(path):
    for arguments in ({"create": False}, {"read_only": True}):
        with pytest.raises(LedgerError, match="there is no ledger at"):
            Ledger.open(path, **arguments)
    assert not path.exists()
    with pytest.raises(LedgerError, match="cannot open"):
        Ledger.open(path.parent / "none" / "ledger.sqlite")
    with pytest.raises(LedgerError, match="cannot open"):
        Ledger.open(path.parent)


@pytest.mark.parametrize("arguments", [{}, {"create": False}, {"read_only": True}])
def test_what_is_not_a_ledger_is_refused_and_left_as_it_is(path, arguments):
    path.write_text("no database " * 100)
    with pytest.raises(LedgerError, match="not an SQLite database"):
        Ledger.open(path, **arguments)
    assert path.read_text() == "no database " * 100
    path.unlink()
    with sqlite3.connect(path) as foreign:
        foreign.execute("create table theirs (x)")
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="not a ledger of pruneft"):
        Ledger.open(path, **arguments)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "advice"), [(SCHEMA_VERSION + 1, "Update pruneft"), (0, "version of pruneft that wrote")]
)
def test_another_schema_version_is_refused(path, version, advice):
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"pragma user_version = {version}")
    connection.close()
    with pytest.raises(LedgerError, match=f"schema version {version}, .*{advice}"):
        Ledger.open(path)


def test_status_names_are_kept_as_their_numbers(path):
    with begun(path) as ledger:
        ledger.write([Row(CELL, 0, {"status": Status.NOT_FINITE})])
        assert ledger.rows()[0]["status"] == Status.NOT_FINITE
