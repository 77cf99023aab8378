import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.status import Status
from pruneft.sweep.board import Board, name_of
from pruneft.sweep.ledger import Row
from pruneft.sweep.plan import Task
from pruneft.trial import Bucket


def _tasks(*counts):
    return [
        Task(
            bucket=Bucket(sizes=(("n", place + 1),), static=()),
            trials=tuple(({"a": place + 1}, seed) for seed in range(count)),
        )
        for place, count in enumerate(counts)
    ]


def _rows(trials):
    return [Row(cell, seed, {"status": 1}) for cell, seed in trials]


def _names(rows):
    return [name_of((row.cell, row.seed)) for row in rows]


ACTIONS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["take", "done", "die", "leave"]), st.integers(1, 4)))


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=3), actions=ACTIONS)
def test_whatever_workers_do_every_trial_ends_exactly_once(counts, actions):
    board = Board(_tasks(*counts))
    number = {slot: slot for slot in range(3)}  # a worker that has gone is followed by one with a new number
    held = {slot: [] for slot in range(3)}
    ended = Counter()

    def join(slot):
        return not held[slot] and board.bucket(number[slot]) is not None

    def act(slot, action, count):
        if action == "take":
            if held[slot] or join(slot):
                held[slot] += board.take(number[slot], count)
                every = [name_of(trial) for one in held.values() for trial in one]
                assert len(every) == len(set(every))  # nobody has what another one has
        elif action == "done":
            finished, held[slot] = held[slot][:count], held[slot][count:]
            ended.update(_names(board.done(number[slot], _rows(finished))))
        else:
            lost, busy = board.give_back(number[slot], died=action == "die")
            assert busy == bool(held[slot])
            assert all(row.report == {"status": Status.WORKER_LOST} for row in lost)
            ended.update(_names(lost))
            held[slot] = []
            number[slot] = max(number.values()) + 1

    for slot, action, count in actions:
        act(slot, action, count)
    for slot in range(3):
        act(slot, "done", 10)
    while board.left:
        act(0, "take", 3)
        act(0, "done", 3)
    everything = {name_of(trial): 1 for task in _tasks(*counts) for trial in task.trials}
    assert ended == everything


def test_a_bucket_with_more_left_for_each_of_its_workers_is_joined_first():
    board = Board(_tasks(10, 24))
    assert board.bucket(0) == (1, 24)
    assert board.bucket(1) == (1, 12)  # 24 shared by two are more than 10
    assert board.bucket(2) == (0, 10)


def test_a_worker_takes_no_more_than_its_share_of_what_is_left():
    board = Board(_tasks(12))
    board.bucket(0)
    assert len(board.take(0, 2)) == 2
    board.bucket(1)
    assert len(board.take(1, 10)) == 2  # a quarter of ten: two share them
    assert len(board.take(0, 10)) == 2


def test_what_a_dead_worker_had_is_handed_out_again_in_order():
    board = Board(_tasks(5))
    board.bucket(0)
    had = board.take(0, 3)
    board.done(0, _rows(had[:1]))
    assert board.give_back(0, died=True) == ([], True)
    board.bucket(1)
    assert board.take(1, 10) == [*had[1:], *_tasks(5)[0].trials[3:]]


def test_rows_count_once_and_only_for_who_was_given_the_trial():
    board = Board(_tasks(3))
    board.bucket(0)
    had = board.take(0, 2)
    stranger = [({"a": 1}, 2), ({"a": 9}, 0)]
    assert board.done(1, _rows(had)) == []
    assert board.done(0, _rows([*had, *had, *stranger])) == _rows(had)
    assert board.done(0, _rows(had)) == []


def test_a_worker_that_has_gone_is_not_heard_any_more():
    board = Board(_tasks(4))
    board.bucket(0)
    had = board.take(0, 2)
    board.give_back(0, died=True)
    assert board.bucket(0) is None
    assert board.take(0, 1) == []
    assert board.done(0, _rows(had)) == []
    assert board.bucket(1) == (0, 4)  # shared with nobody


def test_trials_under_way_at_two_deaths_run_alone_and_last():
    board = Board(_tasks(4))
    for worker in range(2):
        board.bucket(worker)
        suspects = board.take(worker, 2)
        board.give_back(worker, died=True)
    board.bucket(2)
    assert board.take(2, 10) == list(_tasks(4)[0].trials[2:])
    assert board.take(2, 10) == []
    assert board.bucket(3) == (0, 1)
    alone = board.take(3, 10)
    assert len(alone) == 1
    assert alone[0] in suspects
    assert board.take(3, 10) == []  # until it is done
    assert board.done(3, _rows(alone)) == _rows(alone)
    assert len(board.take(3, 10)) == 1


def test_a_trial_that_kills_alone_twice_is_given_up_and_one_that_does_not_is_not():
    board = Board(_tasks(2))
    for worker in range(2):
        board.bucket(worker)
        assert len(board.take(worker, 2)) == 2
        assert board.give_back(worker, died=True) == ([], True)
    outcome = []
    for worker in range(2, 8):
        if board.bucket(worker) is None:
            break
        (trial,) = board.take(worker, 5)
        if trial[1] == 0:
            outcome += board.give_back(worker, died=True)[0]
        else:
            outcome += board.done(worker, _rows([trial]))
            board.give_back(worker, died=False)
    assert sorted(outcome, key=lambda row: row.seed) == [
        Row({"a": 1}, 0, {"status": Status.WORKER_LOST}),
        Row({"a": 1}, 1, {"status": 1}),
    ]
    assert not board.left


def test_a_worker_that_leaves_without_dying_makes_nobody_suspect():
    board = Board(_tasks(1))
    for worker in range(10):
        assert board.bucket(worker) == (0, 1)
        assert len(board.take(worker, 1)) == 1
        assert board.give_back(worker, died=False) == ([], True)
    assert board.left


@pytest.mark.parametrize("deadly", [False, True])
def test_many_threads_finish_every_trial_once(deadly):
    board = Board(_tasks(300, 200, 100))
    finished, fresh = [], iter(range(10**6))
    lock = threading.Lock()

    def live():
        turn = 0
        with lock:
            worker = next(fresh)
        while board.bucket(worker) is not None:
            while taken := board.take(worker, 7):
                turn += 1
                if deadly and turn % 5 == 0:
                    # Half done at the death: one death for the rest, which is too little to suspect it for long.
                    half = board.done(worker, _rows(taken[: len(taken) // 2]))
                    lost, _ = board.give_back(worker, died=False)
                    with lock:
                        finished.extend([*half, *lost])
                        worker = next(fresh)
                    break
                rows = board.done(worker, _rows(taken))
                with lock:
                    finished.extend(rows)

    threads = [threading.Thread(target=live) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    live()  # what the last deaths gave back
    assert not board.left
    assert len(finished) == 600
    assert len(set(_names(finished))) == 600
