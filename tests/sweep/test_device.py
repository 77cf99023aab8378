import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneft.sweep.device import Device, choose_lanes, this_device

CPU, GPU = Device("cpu", 32e9), Device("gpu", 80e9)


@pytest.mark.parametrize(
    ("lane_bytes", "trials", "lanes"),
    [
        (70e3, 768, 8),  # the usual case
        (17e3, 768, 16),  # all 16 in the cache, and trials enough
        (17e3, 100, 8),  # too few trials to keep 16 lanes busy
        (70e3, 10, 5),  # half as many lanes as trials
        (70e3, 7, 4),
        (70e3, 5, 4),  # not below 4 for the sake of utilisation
        (70e3, 3, 3),
        (70e3, 1, 1),
        (70e3, 0, 1),
        (3e9, 100, 5),  # 16 of 32 GB
        (30e9, 100, 1),
    ],
)
def test_a_cpu_wants_few_lanes(lane_bytes, trials, lanes):
    assert choose_lanes(lane_bytes, trials, CPU) == lanes


@pytest.mark.parametrize(
    ("lane_bytes", "trials", "lanes"),
    [(1e6, 10**6, 4096), (100e6, 10**6, 256), (1e6, 1000, 256), (1e6, 10, 4), (1e6, 2, 2), (100e9, 10, 1), (0, 4, 4)],
)
def test_a_gpu_wants_as_many_lanes_as_fit(lane_bytes, trials, lanes):
    assert choose_lanes(lane_bytes, trials, GPU) == lanes


def test_processes_share_the_memory():
    assert choose_lanes(1e9, 1000, CPU, processes=4) == 4
    assert choose_lanes(100e6, 10**6, GPU, processes=4) == 64


@given(
    st.floats(0, 1e12), st.integers(0, 10**6), st.sampled_from(["cpu", "gpu", "tpu"]), st.none() | st.floats(0, 1e12)
)
def test_there_is_always_a_lane_and_never_more_than_trials(lane_bytes, trials, platform, memory):
    lanes = choose_lanes(lane_bytes, trials, Device(platform, memory))
    assert 1 <= lanes <= max(trials, 1)
    if platform != "cpu":
        assert lanes & (lanes - 1) == 0
    if memory is not None and lanes > 1:
        assert lanes * lane_bytes <= 0.5 * memory + 1


def test_this_machine_has_memory():
    device = this_device()
    assert device.platform == "cpu"
    assert device.memory > 1e8
