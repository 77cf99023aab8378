import dataclasses

import jax
import jax.numpy as jnp
import pytest

from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import cost as costs
from pruneft.sweep.cost import STEP_SECONDS, CostModel, LaneCost, lane_cost, largest
from pruneft.trial import Bucket, Trial
from tests.sweep.toy import TOY, resolve

CELL = resolve({})


def _bucket(n, mode="plain"):
    return Bucket(sizes=(("n", n),), static=(("mode", mode),))


def test_bytes_are_those_of_problem_and_state():
    # n float32 of data; length, gain, step, left and value of 4 bytes each.
    for n in (16, 100):
        assert lane_cost(TOY, _bucket(n), CELL).bytes == 4 * n + 20


def test_operations_are_counted_for_one_lane_without_compiling():
    # A sum of n numbers is n - 1 additions; squares are n more.
    counted = lane_cost(TOY, _bucket(1000), CELL)
    assert counted.counted
    assert counted.flops == pytest.approx(1000, rel=0.02)
    assert lane_cost(TOY, _bucket(1000, "squared"), CELL).flops == pytest.approx(2000, rel=0.02)
    assert counted.moved >= 4000


def test_a_product_with_the_measurements_costs_what_its_size_says():
    # d = 8: 36 packed entries, n = 64 measurements, applied and transposed: 4 operations for each number at least.
    cell = RECOVERY.resolve({"d": 8, "r": 1, "n": 64})
    bucket = Bucket(sizes=(("d", 8), ("k", 8), ("n", 64)), static=(("method", "prune"),))
    with jax.numpy_dtype_promotion("standard"):  # optax promotes an integer count
        found = lane_cost(RECOVERY, bucket, cell, "float32")
    assert found.bytes > 4 * 36 * 64
    assert 36 * 36 < found.flops < 100 * 36 * 64


@pytest.mark.parametrize("analysis", [None, [], {}, {"flops": float("nan")}, [{"utilization": 1.0}]])
def test_where_nothing_is_counted_the_cost_says_so(analysis):
    leaves = [jnp.zeros((10, 3), jnp.float32), jnp.zeros((), jnp.int32)]
    assert costs._read(analysis, 124.0, leaves) == LaneCost(124.0, 62.0, 124.0, counted=False)


def test_a_list_of_counts_is_read_too():
    assert costs._read([{"flops": 80.0, "bytes accessed": 160.0}], 4.0, []) == LaneCost(4.0, 10.0, 20.0)


def test_seconds_are_a_fixed_part_and_a_part_for_each_operation():
    # The measured line: 2.7 us and .021 us for each measurement of 136 entries, 4 operations each.
    for n, microseconds in ((32, 3.4), (128, 5.2), (320, 9.5)):
        assert 1e6 * LaneCost(0.0, 4 * 136 * n, 0.0).seconds(STEP_SECONDS) == pytest.approx(microseconds, rel=0.05)


def test_costs_between_two_sizes_are_close_to_the_counted_ones_and_exact_at_them():
    buckets = {_bucket(n, mode): CELL for n in (16, 64, 320, 1024) for mode in ("plain", "squared")}
    model = CostModel(TOY, buckets)
    for bucket in buckets:
        counted = lane_cost(TOY, bucket, CELL)
        close = 1e-12 if bucket["n"] in (16, 1024) else 0.3
        assert model(bucket)[:3] == pytest.approx(counted[:3], rel=close)


def test_only_the_extremes_of_each_size_are_looked_at():
    looked = []

    def trial(bucket):
        looked.append(bucket["n"])
        return TOY.trial(bucket)

    CostModel(dataclasses.replace(TOY, trial=trial), {_bucket(n): CELL for n in range(16, 512, 16)})
    assert sorted(looked) == [16, 496]


def test_sizes_that_vary_together_are_fitted_together():
    def trial(bucket):
        size = bucket["n"] * bucket["d"]
        made = TOY.trial(Bucket(sizes=(("n", size),), static=(("mode", "plain"),)))
        return Trial(**made.__dict__)

    experiment = dataclasses.replace(TOY, trial=trial)
    buckets = [Bucket(sizes=(("d", d), ("n", 10 * d))) for d in (4, 8, 16, 32)]
    model = CostModel(experiment, dict.fromkeys(buckets, CELL))
    for bucket in buckets:
        assert model(bucket).flops == pytest.approx(10 * bucket["d"] ** 2, rel=0.2)


def test_the_largest_bucket_is_the_one_of_most_entries():
    assert largest([_bucket(3), _bucket(7), _bucket(5)]) == _bucket(7)
