"""Claims about pruned networks: handwritten digits (scikit-learn), a dense network 64-128-128-10, 1380 steps of Adam in all.

Accuracies are of 360 images that nothing was trained on, pooled over four seeds; they fail a bar only if 99% of what such a count can
come from lies below it.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy.stats import t as student

from pruneft.experiments.network import NETWORK, Training
from tests.claims.trials import refuted, rows_of

pytestmark = pytest.mark.claims

SEEDS = 4
BARS = {0.5: 0.98, 0.25: 0.965, 0.1: 0.91}  # share of the width that stays: accuracy of gradual thresholding
ONE_SHOT = 0.97  # at half of the width, after fine-tuning


@functools.cache
def _rows(method):
    keeps = (0.5,) if method == "one-shot" else tuple(BARS)
    return rows_of([{"method": (method,), "criterion": ("norm",), "keep": keeps}], SEEDS, NETWORK)


def _pooled(rows, keep, what="accuracy"):
    mine = [row[what] for row in rows if row["keep"] == keep]
    assert len(mine) == SEEDS
    return round(sum(mine) * Training().test), SEEDS * Training().test


def _worse(first, second):
    """Whether paired accuracies show, at 99%, that the first are lower in the mean."""
    difference = np.array([a["accuracy"] - b["accuracy"] for a, b in zip(first, second, strict=True)])
    size = difference.std(ddof=1) / math.sqrt(difference.size)
    return difference.mean() + student.ppf(0.99, difference.size - 1) * size < 0


def _sorted(rows, keeps):
    return sorted((row for row in rows if row["keep"] in keeps), key=lambda row: (row["keep"], row["seed"]))


@pytest.mark.parametrize("keep", BARS)
def test_gradual_thresholding_reaches_its_bar(keep):
    assert not refuted(*_pooled(_rows("gradual"), keep), BARS[keep])


def test_gradual_thresholding_is_not_worse_than_small_networks_from_scratch():
    assert not _worse(_sorted(_rows("gradual"), BARS), _sorted(_rows("scratch"), BARS))


def test_gradual_thresholding_keeps_exactly_what_was_asked_for():
    for row in _rows("gradual"):
        assert row["kept"] == 2 * max(round(row["keep"] * 128), 1)


def test_one_shot_pruning_of_half_of_the_units_reaches_its_bar():
    assert not refuted(*_pooled(_rows("one-shot"), 0.5), ONE_SHOT)


def test_pruning_without_fine_tuning_misses_every_bar():
    """The broken twin: whatever leaves out the steps after pruning must be noticed."""
    counts = _pooled(_rows("one-shot"), 0.5, "before")
    assert all(refuted(*counts, bar) for bar in (*BARS.values(), ONE_SHOT))


def test_a_tenth_of_the_width_from_scratch_is_worse_than_half():
    """The broken twin of the comparison: it sees a difference where there is one."""
    assert _worse(_sorted(_rows("scratch"), (0.1,)), _sorted(_rows("gradual"), (0.5,)))
