import dataclasses
import importlib
import json
import math
import signal

import jax
import pytest

from pruneft.status import Status
from pruneft.sweep import GridError, Ledger, LedgerError, Row, adaptive_sweep, make_grid, sweep
from pruneft.sweep.loop import Usage
from pruneft.sweep.runs import LEDGER_NAME, hold
from pruneft.trial import Trial
from tests.sweep.bernoulli import BERNOULLI

MODULE = importlib.import_module("pruneft.sweep.adaptive_sweep")  # the package hands on its function by this name
ROUND = "adaptive-round.json"
GRID = make_grid(BERNOULLI, {"half": [1.25, 1.6], "n_per_dof": [1.0, 2.0]})


def _run(directory, grid=GRID, experiment=BERNOULLI, target=0.1, **settings):
    # Four lanes: a batch is never smaller, so all tests share one program.
    return adaptive_sweep(experiment, grid, directory, target=target, dtype="float32", lanes=4, **settings)


def _rows(directory):
    with Ledger.open(directory / LEDGER_NAME, read_only=True) as ledger:
        return ledger.rows()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return directory, _run(directory)


def test_each_row_ends_with_an_interval_as_narrow_as_the_target(adapted):
    directory, done = adapted
    assert [row.cell for row in done.transitions] == [{"dof": 40, "half": half, "width": 0.04} for half in (1.25, 1.6)]
    for row in done.transitions:
        assert row.flag == "ok"
        assert row.high - row.low <= 0.1
        # Far outside the interval would be a defect, not bad luck: its half width is two standard deviations.
        assert abs(row.estimate - row.cell["half"]) < 0.1
        assert 16 <= row.trials < 100
        assert row.reached == {"n": math.ceil(row.estimate * 40)}
    assert done.new == sum(row.trials for row in done.transitions) == len(_rows(directory))
    assert not (directory / ROUND).exists()


def test_the_ledger_says_how_far_the_rounds_have_come(adapted, tmp_path):
    seen = []

    def look(_):
        # As `pruneft status` does from another process.
        with Ledger.open(tmp_path / LEDGER_NAME, read_only=True) as ledger:
            seen.append(ledger.progress[0])

    done = _run(tmp_path, on_rows=look, on_round=look)
    assert [now.state for now in seen] == ["running"] * len(seen)
    assert {now.eta for now in seen} == {None}  # nobody knows how many rounds there will be
    assert all(now.done <= now.planned for now in seen)
    planned = [now.planned for now in seen]
    assert planned == sorted(planned)
    with Ledger.open(tmp_path / LEDGER_NAME, read_only=True) as ledger:
        last = ledger.progress[0]
    assert (last.state, last.done, last.planned) == ("finished", done.new, done.new)


def test_several_processes_share_the_rounds(adapted, tmp_path):
    one, done = adapted[1], _run(tmp_path, processes=2)
    assert [row.flag for row in done.transitions] == ["ok", "ok"]
    assert done.transitions == one.transitions


def test_a_repeated_cell_takes_the_next_seed(adapted):
    seeds = {}
    for row in _rows(adapted[0]):
        seeds.setdefault((row["half"], row["n"]), []).append(row["seed"])
    assert all(sorted(found) == list(range(len(found))) for found in seeds.values())
    assert max(len(found) for found in seeds.values()) > 1


def test_a_run_that_met_its_target_runs_nothing_again(adapted):
    directory, done = adapted
    seen = []
    again = _run(directory, on_rows=seen.append)
    assert (again.new, seen, again.transitions) == (0, [], done.transitions)


def test_a_narrower_target_and_more_rows_extend_a_run(adapted, tmp_path):
    _run(tmp_path)
    wider = make_grid(BERNOULLI, {"half": [1.25, 1.4, 1.6], "n_per_dof": [1.0, 2.0]})
    done = _run(tmp_path, wider, target=0.08)
    assert [row.flag for row in done.transitions] == ["ok"] * 3
    assert all(row.high - row.low <= 0.08 for row in done.transitions)
    assert done.new == len(_rows(tmp_path)) - adapted[1].new


def test_the_trials_of_an_ordinary_sweep_count(tmp_path):
    points = make_grid(BERNOULLI, {"half": 1.25, "n_per_dof": [1.2, 1.25, 1.3]}, seeds=20)
    sweep(BERNOULLI, points, tmp_path, dtype="float32", lanes=4)
    # Trials outside the range, or of another row, do not.
    sweep(BERNOULLI, make_grid(BERNOULLI, {"half": 1.25, "n_per_dof": 2.5}, 3), tmp_path, dtype="float32", lanes=4)
    done = _run(tmp_path, make_grid(BERNOULLI, {"half": 1.25, "n_per_dof": [1.0, 2.0]}))
    (row,) = done.transitions
    assert row.flag == "ok"
    assert row.trials == 60 + done.new
    assert done.new < 30


@pytest.mark.parametrize("batches", [1, 6])
def test_a_run_interrupted_within_a_round_ends_as_if_it_had_not_been(adapted, tmp_path, monkeypatch, batches):
    left = batches

    class Stop(Exception):
        pass

    def write(self, rows, progress=None):
        nonlocal left
        if left == 0:
            raise Stop
        left -= 1
        return real(self, rows, progress)

    real = Ledger.write
    monkeypatch.setattr("pruneft.sweep.keeper._FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(Ledger, "write", write)
    with pytest.raises(Stop):
        _run(tmp_path)
    monkeypatch.undo()
    stored = len(_rows(tmp_path))
    assert stored >= batches
    assert (tmp_path / ROUND).exists()
    done = _run(tmp_path)
    assert done.transitions == adapted[1].transitions
    assert done.new == adapted[1].new - stored
    assert [(row["half"], row["n"], row["seed"]) for row in _rows(tmp_path)] == [
        (row["half"], row["n"], row["seed"]) for row in _rows(adapted[0])
    ]


def test_ctrl_c_stops_within_a_round_keeps_its_rows_and_the_run_ends_as_if_undisturbed(adapted, tmp_path, monkeypatch):
    monkeypatch.setattr("pruneft.sweep.keeper._FLUSH_SECONDS", 0.0)
    asked = []
    with pytest.raises(KeyboardInterrupt):
        _run(
            tmp_path,
            on_rows=lambda rows: asked or signal.raise_signal(signal.SIGINT),
            on_stop=lambda: asked.append("once"),
        )
    assert asked == ["once"]
    stored = len(_rows(tmp_path))
    assert stored > 0
    done = _run(tmp_path)
    assert (done.transitions, done.new) == (adapted[1].transitions, adapted[1].new - stored)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_note_of_the_round_in_hand_is_passed_over(adapted, tmp_path, text):
    (tmp_path / ROUND).write_text(text)
    assert _run(tmp_path).transitions == adapted[1].transitions


def test_a_note_with_trials_of_another_run_is_passed_over(adapted, tmp_path):
    note = {"plan": "other", "trials": [[{"half": 1.25, "n": 999}, 0]]}
    (tmp_path / ROUND).write_text(json.dumps(note))
    assert _run(tmp_path).transitions == adapted[1].transitions


def test_a_falling_axis_is_searched_in_mirror_image(tmp_path):
    grid = make_grid(BERNOULLI, {"half": 1.6, "width": -0.04, "n_per_dof": [1.0, 2.0]})
    (row,) = _run(tmp_path, grid, rising=False).transitions
    assert row.flag == "ok"
    assert row.low < row.estimate < row.high <= row.low + 0.1
    assert abs(row.estimate - 1.6) < 0.1
    assert row.reached == {"n": math.floor(row.estimate * 40)}


@pytest.mark.parametrize(
    ("half", "width", "flag"),
    [(0.2, 0.04, "below"), (3.0, 0.04, "above"), (0.2, -0.04, "below"), (3.0, -0.04, "above")],
)
def test_a_transition_outside_the_range_is_told_with_its_side(tmp_path, half, width, flag):
    grid = make_grid(BERNOULLI, {"half": half, "width": width, "n_per_dof": [1.0, 2.0]})
    (row,) = _run(tmp_path, grid, rising=width > 0).transitions
    assert row.flag == flag
    assert math.isnan(row.estimate)
    assert (row.low, row.high) == ((-math.inf, 1.0) if flag == "below" else (2.0, math.inf))
    assert row.reached == {}
    assert row.trials <= 40


def test_a_row_ends_at_its_most_trials_and_says_so(tmp_path):
    grid = make_grid(BERNOULLI, {"half": [1.25, 1.6], "width": 10.0, "n_per_dof": [1.0, 2.0]})
    done = _run(tmp_path, grid, most=50)
    assert [(row.flag, row.trials) for row in done.transitions] == [("limit", 50)] * 2
    more = _run(tmp_path, grid, most=60)
    assert (more.new, {row.trials for row in more.transitions}) == (20, {60})


def test_a_transition_sharper_than_the_steps_of_the_axis_is_told_early(tmp_path):
    # Steps of 1/8, a step function between two of them, and a target of 1/50: no trial can tell more.
    grid = make_grid(BERNOULLI, {"dof": 8, "half": 1.43, "width": 1e-6, "n_per_dof": [1.0, 2.0]})
    (row,) = _run(tmp_path, grid, target=0.02).transitions
    assert row.flag == "coarse"
    assert 11 / 8 <= row.low < row.high <= 12 / 8
    assert row.reached == {"n": 12}
    assert row.trials < 100


def test_trials_lost_with_their_worker_say_nothing_and_do_not_go_on_for_ever(tmp_path, monkeypatch):
    def lost(experiment, made, settings, put, stop, **how):
        for task in made:
            put([Row(cell, seed, {"status": int(Status.WORKER_LOST)}) for cell, seed in task.trials], Usage())
        return Usage()

    monkeypatch.setattr(MODULE, "run_plan", lost)
    done = _run(tmp_path, most=30)
    assert [(row.flag, row.trials) for row in done.transitions] == [("limit", 30)] * 2
    assert all(row.high - row.low > 1 for row in done.transitions)


def test_a_round_that_brings_nothing_is_an_error_and_not_a_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "run_plan", lambda *given, **how: Usage())
    with pytest.raises(RuntimeError, match="a round of 16 trials came back without any of them"):
        _run(tmp_path)


def test_nan_for_success_is_no_success(tmp_path):
    def trial(bucket):
        plain = BERNOULLI.trial(bucket)
        nan = jax.numpy.float32("nan")
        return Trial(**{**plain.__dict__, "report": lambda p, s: {**plain.report(p, s), "success": nan}})

    done = _run(tmp_path, experiment=dataclasses.replace(BERNOULLI, trial=trial))
    assert {row.flag for row in done.transitions} == {"above"}


def test_a_report_without_the_success_it_is_judged_by_is_refused(tmp_path):
    other = dataclasses.replace(BERNOULLI, success="recovered")
    with pytest.raises(ValueError, match="report no 'recovered', which experiment 'bernoulli' names as its success"):
        _run(tmp_path, experiment=other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": 0}, "must be positive and less than the range, 1: got 0"),
        ({"target": -1.0}, "must be positive and less than the range"),
        ({"target": math.nan}, "must be positive and less than the range"),
        ({"target": 1.0}, "must be positive and less than the range"),
        ({"most": 0}, r"most \(trials per row\) must be at least 1: got 0"),
        ({"axis": "nope"}, "has no axis 'nope'"),
        ({"axis": "dof"}, "must be a float axis"),
        ({"axis": "half", "grid": make_grid(BERNOULLI, {"half": 1.2})}, "expected two values at least"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, settings, said):
    with pytest.raises((ValueError, GridError), match=said):
        _run(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_held_is_refused(tmp_path):
    with hold(tmp_path), pytest.raises(LedgerError, match="is held by process"):
        _run(tmp_path)


def test_every_round_runs_the_same_programs(tmp_path):
    # Rounds differ in their cells; padded to one size they share one bucket.
    buckets = set()

    def trial(bucket):
        buckets.add(bucket)
        return BERNOULLI.trial(bucket)

    rounds = []
    _run(tmp_path, experiment=dataclasses.replace(BERNOULLI, trial=trial), on_round=rounds.append)
    assert len(rounds) > 3
    assert {bucket["n"] for bucket in buckets} == {80}
