"""Compiled programs that later calls find again, until a process holds nearly as many as it can.

Linux gives a process 65 530 memory maps unless it is set up otherwise, a compiled program takes dozens to a thousand of them, and
where there is none left XLA ends the process. So what is kept is dropped at half of the limit.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")

_MAPS, _LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_SHARE = 0.5
_caches: list[Any] = []


def kept(maxsize: int) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """A decorator: what the function made of equal, hashable arguments is found again; the last ``maxsize`` results are kept.

    All that is kept anywhere is dropped before something new is made where the process is short of memory maps. What is in use lives on.
    """

    def decorate(make: Callable[..., Made]) -> Callable[..., Made]:
        @functools.lru_cache(maxsize=maxsize)
        @functools.wraps(make)
        def found(*args: Any) -> Made:
            if short_of_maps():
                drop()
            return make(*args)

        _caches.append(found)
        return found

    return decorate


def drop() -> None:
    """Keep nothing of what was kept so far."""
    for cache in _caches:
        cache.cache_clear()
    gc.collect()


def short_of_maps(share: float = _SHARE) -> bool:
    """Whether this process has used more than a share of the memory maps it may have; False where that cannot be known."""
    try:
        limit = int(_LIMIT.read_text())
        with _MAPS.open("rb") as file:
            used = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except (OSError, ValueError):
        return False
    return used > share * limit
