import os
import sys

import pytest

from pruneft import kept


@pytest.fixture
def counted(monkeypatch):
    """A kept function, and the list of what it was called with."""
    monkeypatch.setattr(kept, "_caches", [])
    calls = []

    @kept.kept(maxsize=2)
    def make(value):
        calls.append(value)
        return object()

    return make, calls


def test_equal_arguments_find_what_was_made_and_the_oldest_goes_first(counted):
    make, calls = counted
    first = make(1)
    assert make(1) is first
    make(2), make(3)
    assert make(1) is not first
    assert calls == [1, 2, 3, 1]


def test_dropping_forgets_everything(counted):
    make, _ = counted
    first = make(1)
    kept.drop()
    assert make(1) is not first


def test_short_of_maps_everything_goes_before_something_new_is_made_and_nothing_else_does(counted, monkeypatch):
    make, calls = counted
    make(1)
    monkeypatch.setattr(kept, "short_of_maps", lambda: True)
    make(1)
    assert calls == [1]
    make(2), make(1)
    assert calls == [1, 2, 1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell their maps")
def test_maps_are_counted(monkeypatch, tmp_path):
    with open("/proc/self/maps") as file:
        used = len(file.readlines())
    limit = tmp_path / "limit"
    monkeypatch.setattr(kept, "_LIMIT", limit)
    limit.write_text(f"{used // 2}\n")
    assert kept.short_of_maps()
    limit.write_text(f"{used * 4}\n")
    assert not kept.short_of_maps()
    assert kept.short_of_maps(0.01)


def test_where_maps_are_not_told_nothing_is_short(monkeypatch):
    monkeypatch.setattr(kept, "_MAPS", kept.Path(os.devnull) / "maps")
    assert not kept.short_of_maps(0.0)
