"""What there is to compute on, and how many lanes it wants."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import jax

# Measured on 2 CPU cores (d = 16, n = 32 to 320): 8 lanes are within a tenth of the best, 4 are 5 to 20 % slower and
# 16 only help while their problems stay in the cache.
_LANES, _FEWEST, _MOST = 8, 4, 16
_CACHE_BYTES = 1e6
_MOST_ON_GPU = 4096
# Of a device's memory, what problems and states may fill; the rest is for temporaries, stages, and the other copy of
# what is being replaced.
_SHARE = 0.5


class Device(NamedTuple):
    """A device as the planner sees it.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      memory: bytes; None if it does not say.
      name: what it calls itself.
    """

    platform: str
    memory: float | None
    name: str = ""


def this_device() -> Device:
    """JAX's first local device."""
    device = jax.local_devices()[0]
    return Device(device.platform, device_memory(), device.device_kind)


def device_memory() -> float | None:
    """Bytes of the device's memory; of the machine's or the container's, whichever is less, on a CPU."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(float(Path(place).read_text()))
    return min(found, default=None)


def choose_lanes(lane_bytes: float, trials: int, device: Device, *, processes: int = 1, spread: float = 4.0) -> int:
    """How many trials of a bucket to run side by side.

    On a CPU 8: few lanes stay in the cache, and the last trials of a queue leave few of them idle. 16 where those
    together hold less than 1 MB and there are trials enough to keep them busy. On other devices as many as half of the
    memory holds, a power of two. Everywhere at most half as many as there are trials (utilisation cannot exceed total
    steps / (lanes x longest trial)), but not fewer than 4 for that reason.

    Args:
      lane_bytes: problem and state of one lane.
      trials: in the bucket, for one process.
      device: what computes.
      processes: that share its memory.
      spread: steps of the longest trial over the mean.

    Returns:
      At least 1, at most ``trials`` (1 if there are none).
    """
    if trials <= 1:
        return 1
    room = math.inf if device.memory is None else _SHARE * device.memory / processes // max(lane_bytes, 1.0)
    if device.platform == "cpu":
        many = _MOST * lane_bytes < _CACHE_BYTES and trials >= 2 * spread * _MOST
        wanted = float(_MOST if many else _LANES)
        enough = max(_FEWEST, -(-trials // 2))
        return max(1, int(min(wanted, enough, trials, room)))
    enough = max(_FEWEST, -(-trials // 2))
    return _power_of_two(min(_MOST_ON_GPU, enough, trials, room))


def _power_of_two(limit: float) -> int:
    """The largest power of two that is not above the limit; 1 below that."""
    return 1 << (int(limit).bit_length() - 1) if limit >= 1 else 1
