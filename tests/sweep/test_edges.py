from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.sweep.edges import choose_edges, coarseness, rung


def _dof(r, d=16):
    return r * d - r * (r - 1) // 2


# Measurements of 48 cells at d = 16, and the measured seconds of a lane-step with s of them.
CELLS = Counter(round(x * _dof(r)) for r in (1, 2, 3, 4, 6, 8) for x in (1.05, 1.1, 1.2, 1.3, 1.5, 2, 2.5, 3))
SIZES = sorted(CELLS)


def _seconds(sizes):
    return 2.7e-6 + 0.021e-6 * sizes[0]


@pytest.mark.parametrize(
    ("compile_seconds", "seeds", "edges", "seconds"),
    [
        (0.3, 16, (70, 150, 300), 6.3),
        (0.3, 160, 9, 51),
        (0.3, 1600, 22, 470),
        (3, 16, (300,), 11.8),
        (3, 160, (70, 150, 300), 64),
        (3, 1600, 9, 505),
        (10, 16, (300,), 18.8),
        (10, 160, (122, 300), 80),
        (10, 1600, (50, 93, 135, 203, 300), 553),
    ],
)
def test_the_edges_of_the_measured_grid_depend_on_its_work_and_on_compilation(compile_seconds, seeds, edges, seconds):
    steps = [CELLS[size] * seeds * 1280 for size in SIZES]
    found = choose_edges([(size,) for size in SIZES], steps, _seconds, compile_seconds)
    assert found.seconds == pytest.approx(seconds, rel=0.01)
    if isinstance(edges, int):
        assert len(found.sizes) == edges
    else:
        # 1.3 * 156 is 202.8: whether it is cut or rounded moves one edge by one.
        assert [size for (size,) in found.sizes] == pytest.approx(edges, abs=1)


def _cost(sizes, steps, ends, compile_seconds):
    """Of buckets that end at these places, by the definition."""
    begin, total = 0, 0.0
    for end in ends:
        edge = tuple(map(max, *sizes[begin : end + 1])) if end > begin else sizes[end]
        total += compile_seconds + sum(steps[begin : end + 1]) * _area(edge)
        begin = end + 1
    return total


def _area(sizes):
    return 1e-3 * (3 + sizes[0] * sizes[1])


@given(
    st.lists(st.tuples(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 50)), min_size=1, max_size=7),
    st.floats(0.01, 3),
)
@settings(max_examples=100, deadline=None)
def test_no_other_choice_of_neighbours_costs_less(weighed, compile_seconds):
    weighed = sorted(dict(weighed).items(), key=lambda item: (_area(item[0]), item[0]))
    sizes, steps = [size for size, _ in weighed], [float(step) for _, step in weighed]
    found = choose_edges(sizes, steps, _area, compile_seconds)
    last = len(sizes) - 1
    choices = [(*ends, last) for count in range(last + 1) for ends in combinations(range(last), count)]
    assert found.seconds == pytest.approx(min(_cost(sizes, steps, ends, compile_seconds) for ends in choices))
    assert found.seconds == pytest.approx(_cost(sizes, steps, found.last, compile_seconds))
    begin = 0
    for end, padded in zip(found.last, found.sizes, strict=True):
        assert all(size <= edge for one in sizes[begin : end + 1] for size, edge in zip(one, padded, strict=True))
        begin = end + 1


def test_compilation_for_nothing_gives_every_size_its_own_bucket_and_steps_for_nothing_share_one():
    sizes, steps = [(10,), (20,), (30,)], [5.0, 5.0, 5.0]
    assert len(choose_edges(sizes, steps, _seconds, 0.0).sizes) == 3
    assert len(choose_edges(sizes, steps, lambda size: 1.0, 0.0).sizes) == 1
    assert choose_edges(sizes, steps, _seconds, 1.0).sizes == ((30,),)


def test_the_ladder_has_steps_of_16_to_64_and_of_32_beyond():
    assert [rung(size) for size in (1, 16, 17, 48, 49, 64, 65, 96, 97, 300)] == [
        16,
        16,
        32,
        48,
        64,
        64,
        96,
        96,
        128,
        320,
    ]
    assert [rung(size, 4) for size in (1, 65, 256, 257)] == [64, 128, 256, 384]


@given(st.integers(1, 10**6), st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=50, deadline=None)
def test_a_rung_holds_its_size_and_is_its_own_rung(size, coarse):
    found = rung(size, coarse)
    assert size <= found < size + 32 * coarse
    assert rung(found, coarse) == found


def test_many_sizes_are_put_on_a_coarser_ladder():
    assert coarseness([(size,) for size in range(1, 5000)]) == 1
    coarse = coarseness([(size,) for size in range(1, 100_000)])
    assert coarse > 1
    assert len({rung(size, coarse) for size in range(1, 100_000)}) <= 512
