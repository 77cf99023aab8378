import json
import multiprocessing
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from pruneft.status import Status
from pruneft.sweep import executors as machinery
from pruneft.sweep import make_grid, sweep
from pruneft.sweep.executors import ExecutorFailed, check_place, run_on_executor
from pruneft.sweep.local import TrialError
from pruneft.sweep.worker import find_place, ping
from tests.sweep.gang import (
    SETTINGS,
    TOY_PLACE,
    TROUBLES_PLACE,
    Kept,
    agree,
    alone,
    approximately,
    never,
    stored,
    tasks_of,
    trials_of,
)
from tests.sweep.toy import TOY, toy
from tests.sweep.troubles import GOOD, KILLS, KILLS_ONCE, RAISES, SLOW, WHERE

TRIALS = trials_of((GOOD, 0.3), seeds=16)


class Fake(Executor):
    """Runs tasks at once in this process; ``answer(text, trials)`` says what becomes of each result."""

    def __init__(self, answer=lambda text, trials: text):
        self.submitted, self.closed, self._answer = [], False, answer

    def submit(self, function, *args):
        future = Future()
        if function is ping:
            future.set_result("cpu")
            return future
        self.submitted.append([(cell["gain"], seed) for cell, seed in json.loads(args[0])["trials"]])
        try:
            future.set_result(self._answer(function(*args), self.submitted[-1]))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.closed = True


class Held(Executor):
    """Keeps what it is given until the test answers."""

    def __init__(self):
        self.tasks = []

    def submit(self, function, *args):
        future = Future()
        self.tasks.append((future, function, args))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        pass


def _run(executor, trials=TRIALS, place=TOY_PLACE, put=None, stop=never, **settings):
    kept = Kept() if put is None else put
    usage = run_on_executor(executor, place, tasks_of(trials), SETTINGS, kept, stop, **settings)
    return kept, usage


def _spawn():
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def expected():
    return alone(TRIALS)


def test_threads_give_the_rows_of_one_process(expected):
    with ThreadPoolExecutor(2) as pool:
        kept, usage = _run(pool)
        assert pool.submit(int, "7").result() == 7  # it is the caller's, and stays open
    assert agree(kept.reports(), expected)
    assert usage.used == sum(report["steps"] for report in expected.values())


def test_a_sweep_on_a_spawning_pool_is_that_of_one_process(tmp_path):
    grid = make_grid(TOY, {"a": (2, 4), "b": 5.0}, seeds=4)
    with _spawn() as pool:
        result = sweep(TOY, grid, tmp_path / "pool", dtype="float32", lanes=4, executor=pool)
    assert (result.planned, result.new) == (8, 8)
    sweep(TOY, grid, tmp_path / "alone", dtype="float32", lanes=4, processes=1)
    assert stored(tmp_path / "pool") == approximately(stored(tmp_path / "alone"))


def test_a_pool_that_forks_is_refused_before_anything_is_sent():
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
        pytest.raises(ValueError, match=r"forks its workers.*get_context\('spawn'\)"),
    ):
        _run(pool)
    assert not pool._processes


def test_what_is_no_executor_is_refused():
    with pytest.raises(ValueError, match="or a function that makes one: got int"):
        _run(lambda: 3)


def test_an_executor_that_the_run_made_is_closed_by_it(expected):
    made = []

    def make():
        made.append(Fake())
        return made[-1]

    kept, _ = _run(make)
    assert agree(kept.reports(), expected)
    assert [one.closed for one in made] == [True]


@pytest.mark.claims  # most of a minute
def test_a_real_pool_that_breaks_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv(WHERE, str(tmp_path))
    trials = trials_of((GOOD,), seeds=7) + trials_of((KILLS_ONCE,), seeds=1)
    with _spawn() as pool:
        kept, _ = _run(pool, trials, TROUBLES_PLACE)
    assert (tmp_path / "killed").exists()
    assert agree(kept.reports(), alone(trials))


def _deadly(bad, error=BrokenProcessPool):
    """Breaks for every task that holds a bad trial."""

    def answer(text, trials):
        if any(trial in bad for trial in trials):
            raise error("a worker died")
        return text

    return answer


class Pools:
    """Makes pools that, as real ones do, lose all that is out when a bad trial comes to be computed."""

    def __init__(self, bad):
        self.bad, self.made = bad, 0

    def __call__(self):
        self.made += 1
        return _Pool(self.bad)


class _Pool(Fake):
    def __init__(self, bad):
        super().__init__(_deadly(bad))
        self._dead = False

    def submit(self, function, *args):
        if self._dead:
            raise BrokenProcessPool("dead")
        future = super().submit(function, *args)
        self._dead = isinstance(future.exception(), BrokenExecutor)
        return future


@pytest.mark.parametrize("bad", [[(GOOD, 3)], [(GOOD, 0), (GOOD, 1), (0.3, 15)]])
def test_trials_that_break_every_pool_are_lost_and_no_other(expected, bad):
    pools = Pools(bad)
    kept, _ = _run(pools)
    reports = kept.reports()
    for gain, seed in bad:
        assert reports.pop((gain, 4, seed)) == {"status": Status.WORKER_LOST}
    assert reports == {trial: report for trial, report in expected.items() if trial in reports}
    assert len(reports) == len(TRIALS) - len(bad)
    assert pools.made <= 12 * len(bad)


def test_dask_naming_the_killer_has_the_task_split_at_once():
    class KilledWorker(Exception):
        pass

    fake = Fake(_deadly([(GOOD, 3)], KilledWorker))
    kept, _ = _run(fake)
    reports = kept.reports()
    assert reports.pop((GOOD, 4, 3)) == {"status": Status.WORKER_LOST}
    assert len(reports) == len(TRIALS) - 1
    guilty = [trials for trials in fake.submitted if (GOOD, 3) in trials]
    assert [len(trials) for trials in guilty][-2:] == [1, 1]
    assert len(guilty) <= 6


def test_an_executor_that_breaks_for_ever_is_an_error_and_gives_up_no_trial():
    class Dead(Fake):
        def submit(self, function, *args):
            future = Future()
            future.set_exception(BrokenProcessPool("a worker died"))
            return future

    kept = Kept()
    with pytest.raises(ExecutorFailed, match="pools in a row broke before a task came back"):
        _run(Dead, put=kept)
    assert kept.rows == []


def test_a_broken_executor_that_cannot_be_made_again_says_what_to_pass():
    kept = Kept()
    with pytest.raises(ExecutorFailed, match="pass a function that makes the executor"):
        _run(_Pool([(0.3, 15)]), put=kept)
    assert 0 < len(kept.reports()) < len(TRIALS)  # what came back before is kept


def test_a_function_that_fails_to_make_another_pool_is_an_error():
    pools = iter([_Pool([(GOOD, 3)])])
    with pytest.raises(ExecutorFailed, match="a new one cannot be made: StopIteration"):
        _run(lambda: next(pools))


def test_a_closed_executor_is_an_error():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(ExecutorFailed, match="the executor takes no tasks: cannot schedule new futures"):
        _run(pool)


def test_a_pool_made_again_begins_as_the_first_one_did():
    pool = ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn"), initializer=print, initargs=("x",))
    run = machinery._Run(pool, TOY_PLACE, SETTINGS, Kept(), None)
    run._renew(BrokenProcessPool())
    again = run._pool
    assert again is not pool
    assert (again._max_workers, again._initializer, again._initargs) == (3, print, ("x",))
    run.close(wait=True)


def test_rows_that_come_twice_or_belong_to_nobody_do_not_count(expected):
    def answer(text, trials):
        result = json.loads(text)
        strange = [[{**cell, "a": 99}, seed, report] for cell, seed, report in result["rows"]]
        return json.dumps({**result, "rows": [*result["rows"], *strange, *result["rows"]]})

    kept, _ = _run(Fake(answer))
    assert agree(kept.reports(), expected)


def test_an_answer_without_some_trials_is_an_error_and_the_rest_is_kept():
    def answer(text, trials):
        result = json.loads(text)
        return json.dumps({**result, "rows": result["rows"][1:]})

    kept = Kept()
    with pytest.raises(ExecutorFailed, match=r"came back without 1 of its \d+ trials.*another version"):
        _run(Fake(answer), put=kept)
    assert len(kept.reports()) > 0


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [[1]], "usage": []}', "null"])
def test_an_answer_that_is_something_else_is_an_error(text):
    with pytest.raises(ExecutorFailed, match=r"something else than rows.*another version"):
        _run(Fake(lambda _, trials: text))


def test_a_task_that_is_cancelled_by_others_goes_out_again(expected):
    times = []

    class Forgetful(Fake):
        def submit(self, function, *args):
            times.append(1)
            if len(times) % 3 == 0:
                future = Future()
                future.cancel()
                return future
            return super().submit(function, *args)

    kept, _ = _run(Forgetful())
    assert agree(kept.reports(), expected)


def test_a_task_that_is_always_cancelled_is_an_error_and_not_lost():
    class Gone(Fake):
        def submit(self, function, *args):
            future = Future()
            future.cancel()
            return future

    kept = Kept()
    with pytest.raises(ExecutorFailed, match="is its scheduler there"):
        _run(Gone(), put=kept)
    assert kept.rows == []


def test_an_answer_that_comes_after_its_pool_broke_counts_once(expected):
    made = []

    def make():
        made.append(Held() if not made else Fake())
        return made[-1]

    def serve():
        while len(made[0].tasks if made else ()) < 4:
            time.sleep(0.01)
        first, second, *_ = made[0].tasks
        first[0].set_exception(BrokenProcessPool("a worker died"))
        time.sleep(0.3)
        second[0].set_result(second[1](*second[2]))

    late = threading.Thread(target=serve)
    late.start()
    kept, _ = _run(make)
    late.join(20)
    assert agree(kept.reports(), expected)


def test_an_error_of_a_trial_reaches_the_caller_and_what_is_finished_is_kept():
    with ThreadPoolExecutor(1) as pool:
        kept = Kept()
        with pytest.raises(TrialError, match="this trial is of no use"):
            _run(pool, trials_of((GOOD,), 8) + trials_of((RAISES,), 1), TROUBLES_PLACE, kept)
    assert agree(kept.reports(), alone(trials_of((GOOD,), 8)), part=True)


def test_an_unknown_error_names_its_kind():
    with pytest.raises(ExecutorFailed, match="a task failed on the executor: OSError: no such host"):
        _run(Fake(_deadly([(GOOD, 0)], lambda _: OSError("no such host"))))


def test_a_stop_cancels_what_has_not_begun_and_keeps_what_comes_back():
    trials = trials_of((SLOW,), seeds=64)
    asked = []
    with ThreadPoolExecutor(1) as pool:
        kept, _ = _run(
            pool, trials, TROUBLES_PLACE, Kept(lambda kept: asked.append(1)), stop=lambda: bool(asked), workers=4
        )
        assert pool._work_queue.empty() or all(item.future.cancelled() for item in list(pool._work_queue.queue) if item)
    assert 0 < len(kept.rows) < 64
    assert agree(kept.reports(), alone(trials), part=True)


def test_an_experiment_without_a_name_says_what_to_do(tmp_path):
    nameless = toy(cap=7)
    with pytest.raises(ValueError, match=r"must be able to import experiment 'toy'.*a file of its own.*processes=1"):
        check_place(nameless, find_place(nameless))
    fake = Fake()
    with pytest.raises(ValueError, match="must be able to import"):
        sweep(nameless, make_grid(TOY, {"a": 2}, seeds=1), tmp_path, dtype="float32", executor=fake)
    assert fake.submitted == []


def test_tasks_are_small_where_trials_are_long_and_many_enough_for_all_workers():
    (task,) = tasks_of(trials_of((GOOD,), seeds=400))
    assert len(machinery._cut(task, 2, 0.001)) == 8  # four for each worker
    assert len(machinery._cut(task, 2, 1.0)) == 40  # ten seconds each
    assert len(machinery._cut(task, 2, 1000.0)) == 400
    jobs = machinery._cut(task, 3, 0.1)
    assert sorted(seed for job in jobs for _, seed in job.trials) == list(range(400))


@pytest.mark.claims  # most of a minute
def test_a_trial_that_kills_a_real_pool_is_the_only_one_lost():
    good = trials_of((GOOD,), seeds=2)
    kept, _ = _run(_spawn, good + trials_of((KILLS,), seeds=1), TROUBLES_PLACE)
    reports = kept.reports()
    assert reports.pop((KILLS, 4, 0)) == {"status": Status.WORKER_LOST}
    assert agree(reports, alone(good))
