import dataclasses
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.sweep.cost import LaneCost
from pruneft.sweep.edges import rung
from pruneft.sweep.plan import plan
from pruneft.trial import Axis, Experiment, canonical_json
from tests.sweep.toy import TOY, resolve

CELLS = st.fixed_dictionaries(
    {"a": st.integers(1, 200), "b": st.sampled_from([5.0, 10.0]), "mode": st.sampled_from(["plain", "squared"])}
)


def _flops(bucket):
    return LaneCost(bytes=100.0, flops=1e4 * bucket["n"], moved=100.0)


DEAR = {"compile_seconds": 1e-3, "cost": _flops}  # steps matter: edges pay


def _trials(cells, seeds=1):
    return [(resolve(cell), seed) for cell in cells for seed in range(seeds)]


def _sized(padded=("n",), **changes):
    axes = tuple(Axis(name=name, default=1, kind="data", type=int) for name in ("n", "d"))
    return Experiment(
        name="e",
        subject="s",
        axes=axes,
        resolve=dict,
        sizes=lambda cell: {"n": cell["n"], "d": cell["d"]},
        inputs=dict,
        trial=lambda bucket: None,
        module=__name__,
        padded=padded,
        **changes,
    )


@given(st.lists(CELLS, max_size=12), st.integers(1, 3), st.sampled_from([{}, DEAR]))
@settings(max_examples=50, deadline=None)
def test_every_trial_is_planned_exactly_once(cells, seeds, how):
    trials = _trials(cells, seeds)
    made = plan(TOY, trials, **how)

    def count(pairs):
        return Counter((canonical_json(cell), seed) for cell, seed in pairs)

    assert count(pair for task in made for pair in task.trials) == count(trials)
    assert made.trials == len(trials)
    assert all(task.trials for task in made)
    assert len({task.bucket for task in made}) == len(made) == made.compilations


@given(st.lists(CELLS, min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_a_bucket_is_the_rung_of_its_largest_trial(cells):
    for task in plan(TOY, _trials(cells), **DEAR):
        sizes = [cell["a"] for cell, _ in task.trials]
        assert task.bucket["n"] == rung(max(sizes))
        assert task.waste == pytest.approx(1 - sum(sizes) / (len(sizes) * task.bucket["n"]))  # all expect equal steps


@given(st.lists(CELLS, min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_text_axes_are_never_mixed_in_a_bucket(cells):
    for task in plan(TOY, _trials(cells), **DEAR):
        assert {cell["mode"] for cell, _ in task.trials} == {task.bucket.option("mode")}


@given(st.permutations(_trials([{"a": a} for a in (2, 3, 40, 50, 70)], 2)))
@settings(max_examples=20, deadline=None)
def test_buckets_do_not_depend_on_the_order_of_trials(trials):
    assert [task.bucket["n"] for task in plan(TOY, trials, **DEAR)] == [16, 48, 64, 96]
    assert [task.bucket["n"] for task in plan(TOY, trials)] == [96]


def test_a_small_grid_shares_a_bucket_and_a_large_one_has_more():
    counts = [
        len(plan(TOY, _trials([{"a": a} for a in range(16, 320, 16)], seeds), compile_seconds=1.0, cost=_flops))
        for seeds in (1, 100, 1000)
    ]
    assert counts[0] == 1 < counts[1] < counts[2]


def test_several_processes_make_steps_cheaper_beside_compilation():
    trials = _trials([{"a": a} for a in range(16, 320, 16)], 100)
    one, many = (plan(TOY, trials, compile_seconds=1.0, cost=_flops, processes=count) for count in (1, 64))
    assert len(many) < len(one)
    assert many.total == pytest.approx(len(many) + sum(task.seconds for task in many) / 64)


def test_the_longest_trials_go_first_and_equals_stay_in_order():
    experiment = dataclasses.replace(TOY, expected_steps=lambda cell: cell["b"])
    trials = _trials([{"a": 2, "b": b} for b in (5.0, 20.0, 10.0)], 2)
    (task,) = plan(experiment, trials)
    assert [(cell["b"], seed) for cell, seed in task.trials] == [
        (20.0, 0),
        (20.0, 1),
        (10.0, 0),
        (10.0, 1),
        (5.0, 0),
        (5.0, 1),
    ]
    assert task.steps == 70


def test_expected_steps_decide_where_edges_pay():
    trials = _trials([{"a": 16}, {"a": 320}], 10)
    how = {"compile_seconds": 0.1, "cost": _flops}
    many = dataclasses.replace(TOY, expected_steps=lambda cell: 1e5 if cell["a"] == 16 else 1)
    few = dataclasses.replace(TOY, expected_steps=lambda cell: 1 if cell["a"] == 16 else 1e5)
    assert len(plan(many, trials, **how)) == 2
    assert len(plan(few, trials, **how)) == 1


@pytest.mark.parametrize("steps", [0, -1, float("nan"), float("inf")])
def test_steps_that_cannot_be_expected_are_refused(steps):
    with pytest.raises(ValueError, match="expected_steps must give a positive number"):
        plan(dataclasses.replace(TOY, expected_steps=lambda cell: steps), _trials([{}]))


def test_sizes_that_may_not_be_padded_are_kept_exact():
    trials = [({"n": n, "d": d}, 0) for n, d in ((3, 4), (5, 4), (5, 5))]
    assert [dict(task.bucket.sizes) for task in plan(_sized(), trials)] == [{"d": 4, "n": 16}, {"d": 5, "n": 16}]
    assert [dict(task.bucket.sizes) for task in plan(_sized(("n", "d")), trials)] == [{"d": 16, "n": 16}]
    assert len(plan(_sized(()), trials)) == 3


def test_with_two_padded_sizes_a_bucket_is_the_larger_of_each():
    trials = [({"n": n, "d": d}, 0) for n, d in ((100, 10), (10, 100), (300, 300))]
    how = {"cost": lambda bucket: LaneCost(1.0, 1e6 * bucket["n"] * bucket["d"], 1.0)}
    one = plan(_sized(("n", "d")), trials, compile_seconds=1e9, **how)
    assert [dict(task.bucket.sizes) for task in one] == [{"d": 320, "n": 320}]
    each = plan(_sized(("n", "d")), trials, compile_seconds=0.1, **how)
    assert {tuple(task.bucket.sizes) for task in each} == {
        (("d", 16), ("n", 128)),
        (("d", 128), ("n", 16)),
        (("d", 320), ("n", 320)),
    }


def test_the_chosen_plan_costs_no_more_than_the_alternatives_it_shows():
    made = plan(TOY, _trials([{"a": a} for a in range(1, 300, 7)], 20), compile_seconds=0.5, cost=_flops)
    one, each, chosen = made.alternatives
    assert (one.buckets, chosen.buckets) == (1, len(made))
    assert chosen.seconds <= min(one.seconds, each.seconds)
    assert chosen.seconds == pytest.approx(made.total)
    assert each.buckets > chosen.buckets > 1


def test_sizes_that_are_asked_for_are_what_every_bucket_has():
    trials = _trials([{"a": 3, "mode": mode} for mode in ("plain", "squared")] + [{"a": 70}])
    made = plan(TOY, trials, sizes={"n": 200}, **DEAR)
    assert [task.bucket["n"] for task in made] == [200, 200]
    assert plan(TOY, trials[:1], sizes={"n": 200})[0].bucket == made[0].bucket
    with pytest.raises(ValueError, match="a trial needs n=70, more than the 64 asked for"):
        plan(TOY, trials, sizes={"n": 64})
    with pytest.raises(ValueError, match="m is not padded by experiment 'toy'; it pads n"):
        plan(TOY, trials, sizes={"m": 64})


def test_edges_follow_the_operations_that_the_compiler_counts():
    trials = _trials([{"a": 16}, {"a": 4096}], 100)
    assert len(plan(TOY, trials, compile_seconds=1e-3)) == 2
    assert len(plan(TOY, trials, compile_seconds=10.0)) == 1


def test_a_grid_of_one_size_is_planned_without_tracing_anything():
    def trial(bucket):
        raise AssertionError("asked for a trial")

    experiment = dataclasses.replace(TOY, trial=trial)
    assert [task.bucket["n"] for task in plan(experiment, _trials([{"a": 3}, {"a": 16}]))] == [16]


def test_nothing_to_do_is_no_task():
    made = plan(TOY, [])
    assert (len(made), list(made), made.total, made.waste, made.describe()) == (0, [], 0, 0, "nothing to run")


def test_a_plan_is_described_in_one_line():
    made = plan(TOY, _trials([{"a": 8}], 10), compile_seconds=3.0)
    assert made.describe() == "10 trials in 1 bucket, 50% padding, about 3.03 s"


def test_many_cells_are_planned_in_linear_time():
    trials = [({"n": n, "d": 4}, 0) for n in range(1, 20_001)]
    started = time.process_time()
    made = plan(_sized(), trials, cost=_flops)
    assert made.trials == 20_000
    assert time.process_time() - started < 20  # half a second alone on the machine; quadratic time would take minutes
