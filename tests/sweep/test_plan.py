from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.sweep.plan import plan
from pruneft.trial import Axis, Experiment, canonical_json
from tests.sweep.toy import TOY, resolve

CELLS = st.fixed_dictionaries(
    {"a": st.integers(1, 200), "b": st.sampled_from([5.0, 10.0]), "mode": st.sampled_from(["plain", "squared"])}
)


def _trials(cells, seeds=1):
    return [(resolve(cell), seed) for cell in cells for seed in range(seeds)]


def _two_sizes(padded):
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
    )


@given(st.lists(CELLS, max_size=12), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_every_trial_is_planned_exactly_once(cells, seeds):
    trials = _trials(cells, seeds)
    tasks = plan(TOY, trials)

    def count(pairs):
        return Counter((canonical_json(cell), seed) for cell, seed in pairs)

    assert count(pair for task in tasks for pair in task.trials) == count(trials)
    assert all(task.trials for task in tasks)
    assert len({task.bucket for task in tasks}) == len(tasks)


@given(st.lists(CELLS, min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_a_bucket_is_as_large_as_its_largest_trial_and_at_most_twice_the_others(cells):
    for task in plan(TOY, _trials(cells)):
        sizes = [cell["a"] for cell, _ in task.trials]
        assert task.bucket["n"] == max(sizes)
        assert sizes == sorted(sizes)
        assert max(sizes) <= 2 * min(sizes) or max(sizes) <= 32


@given(st.lists(CELLS, min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_text_axes_are_never_mixed_in_a_bucket(cells):
    for task in plan(TOY, _trials(cells)):
        assert {cell["mode"] for cell, _ in task.trials} == {task.bucket.option("mode")}


@given(st.permutations(_trials([{"a": a} for a in (2, 3, 40, 50, 70)], 2)))
@settings(max_examples=20, deadline=None)
def test_buckets_do_not_depend_on_the_order_of_trials(trials):
    assert [task.bucket["n"] for task in plan(TOY, trials)] == [3, 50, 70]


def test_small_sizes_share_a_bucket_and_larger_ones_go_by_powers_of_two():
    sizes = (1, 17, 32, 33, 64, 65, 128, 129)
    assert [task.bucket["n"] for task in plan(TOY, _trials([{"a": a} for a in sizes]))] == [32, 64, 128, 129]


def test_sizes_that_may_not_be_padded_are_kept_exact():
    trials = [({"n": n, "d": d}, 0) for n, d in ((3, 4), (5, 4), (5, 5))]
    assert [dict(task.bucket.sizes) for task in plan(_two_sizes(("n",)), trials)] == [
        {"d": 4, "n": 5},
        {"d": 5, "n": 5},
    ]
    assert [dict(task.bucket.sizes) for task in plan(_two_sizes(("n", "d")), trials)] == [{"d": 5, "n": 5}]
    assert len(plan(_two_sizes(()), trials)) == 3


def test_nothing_to_do_is_no_task():
    assert plan(TOY, []) == []
