"""Families written down are those that are found; contradictions are named."""

from __future__ import annotations

import numpy as np
import pytest

from pruneft import network
from pruneft.network import Pattern
from tests.network import models

WRITTEN = {
    "cnn": {
        "k1:3": [
            Pattern(path="k1", axis=-1),
            Pattern(path="mean|var|scale|bias", axis=0),
            Pattern(path="k2", axis=2, role="consumer"),
        ],
        "k2:3": [
            Pattern(path="k2", axis=3),
            Pattern(path="b2", axis=0),
            Pattern(path="w", axis=0, role="consumer", repeat=4, stride=5),
        ],
    },
    "concatenation": {
        "a:1": [Pattern(path="a", axis=1), Pattern(path="w", axis=0, role="consumer", offset=0)],
        "b:1": [Pattern(path="b", axis=1), Pattern(path="w", axis=0, role="consumer", offset=4)],
    },
}


@pytest.mark.parametrize("name", WRITTEN)
def test_written_families_are_the_found_ones(name):
    case = models.PLAIN[name]
    written = network.families_of(case.params, WRITTEN[name])
    found = network.groups(case.fn, case.params, *case.inputs)
    for family in found:
        mine = {(m.path, m.axis): m for m in written[family.name].members}
        assert len(mine) == len(family.members)
        for member in family.members:
            np.testing.assert_array_equal(mine[member.path, member.axis].indices, member.indices)
            assert mine[member.path, member.axis].role == member.role


def test_heads_are_runs_of_neighbours():
    case = models.transformer_case()
    at = r"blocks/0/"
    rules = [
        Pattern(path=at + "(query|key|value)", axis=1, repeat=4),
        Pattern(path=at + "out", axis=0, role="consumer", repeat=4),
    ]
    family = network.families_of(case.params, {"heads": rules}, fn=case.fn, inputs=case.inputs)["heads"]
    assert family.width == 3
    removed = network.remove(
        case.params,
        network.families_of(case.params, {"heads": rules}, fn=case.fn, inputs=case.inputs),
        {"heads": [0, 2]},
        calls=0,
    )
    assert removed.report.mismatch <= 1e-5


BAD = {
    "matches nothing": ({"f": [Pattern(path="conv.*", axis=0)]}, r"'f': the pattern 'conv\.\*' matches no array"),
    "no such axis": ({"f": [Pattern(path="b1", axis=1)]}, r"b1 has shape \(8,\), and so no axis 1"),
    "whole numbers": ({"f": [Pattern(path="count", axis=0)]}, "count has dtype int32"),
    "contradiction": (
        {"f": [Pattern(path="w1", axis=1)], "g": [Pattern(path="b1|w1", axis=-1)]},
        "two rules contradict: coordinate 0 of axis 1 of w1 is in 'f' and again in 'g'",
    ),
    "widths": (
        {"f": [Pattern(path="w1", axis=1), Pattern(path="b2", axis=0)]},
        "8 groups of 1 .* axis 0 of b2, which has length 7",
    ),
    "nothing": ({"f": []}, "family 'f' has no pattern"),
}


@pytest.mark.parametrize("name", BAD)
def test_rules_that_do_not_fit_are_errors(name):
    params = {**models.PLAIN["mlp"].params, "count": np.zeros(8, np.int32)}
    rules, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        network.families_of(params, rules)


def test_family_that_is_not_the_models_does_not_trace():
    case = models.PLAIN["mlp"]
    written = network.families_of(case.params, {"f": [Pattern(path="w1", axis=1)]}, fn=case.fn, inputs=case.inputs)
    with pytest.raises(ValueError, match="the smaller model does not trace"):
        network.remove(case.params, written, {"f": [0, 1, 2]}, calls=0)
