"""Selection keeps exactly what was asked for, counts shares from the original width, and stays within budgets."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft import network
from pruneft.network import trees
from tests.network import models

CASE = models.PLAIN["cnn"]
FAMILIES = network.groups(CASE.fn, CASE.params, *map(trees.abstract, CASE.inputs))
MLP = models.PLAIN["mlp"]
WIDE = network.groups(MLP.fn, MLP.params, *MLP.inputs)


def drawn(families, seed=0):
    rng = np.random.default_rng(seed)
    return {f.name: rng.uniform(size=f.width) for f in families}


def sizes(masks):
    return {name: int(np.sum(mask)) for name, mask in masks.items()}


def options(families, **changes):
    return families.replace([dataclasses.replace(f, **changes) for f in families])


def test_share_keeps_the_best_of_each_family():
    scores = drawn(FAMILIES)
    masks = network.select(scores, FAMILIES, 0.5)
    assert sizes(masks) == {"k1:3": 3, "k2:3": 3}  # half of 6, and of 5 rounded
    for name, mask in masks.items():
        assert scores[name][mask].min() > scores[name][~np.asarray(mask)].max()


def test_asking_twice_prunes_once():
    first = network.remove(
        CASE.params, FAMILIES, network.select(drawn(FAMILIES), FAMILIES, 0.5), compensate="none", calls=0
    )
    for scope in ("layer", "global"):
        again = network.select(drawn(first.families, 1), first.families, 0.5, scope=scope)
        assert all(np.all(mask) for mask in again.values())


def test_widths_are_multiples_and_never_too_small():
    wide = options(WIDE, round_to=4, min_width=2)
    assert network.counts(wide, 0.3) == {"w1:1": 4, "w2:1": 4}
    assert network.counts(options(WIDE, min_width=3), 0.1) == {"w1:1": 3, "w2:1": 3}
    assert network.counts(wide, {"w1:1": 1.0}) == {"w1:1": 8, "w2:1": 7}


def test_global_share_goes_to_the_best_of_all():
    scores = {"w1:1": np.arange(8) + 10.0, "w2:1": np.arange(7) + 1.0}
    masks = network.select(scores, WIDE, 0.6, scope="global", normalise="none")
    assert sizes(masks) == {"w1:1": 8, "w2:1": 1}
    # Divided by its family's mean, a score says how a group stands within its own.
    masks = network.select(scores, WIDE, 0.6, scope="global")
    assert sum(sizes(masks).values()) == 9
    assert sizes(masks)["w2:1"] > 1
    masks = network.select(scores, WIDE, 0.6, scope="global", normalise="none", least=0.4)
    assert sizes(masks) == {"w1:1": 6, "w2:1": 3}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    share=st.floats(0.01, 1.0),
    which=st.sampled_from(["parameters", "flops"]),
    step=st.integers(1, 3),
)
def test_budgets_are_met_and_used_up(seed, share, which, step):
    families = options(FAMILIES, round_to=step)
    scores = drawn(families, seed)
    cost = getattr(families, which)
    narrowest = cost({f.name: f.rounded(0) for f in families})
    budget = int(narrowest + share * (cost() - narrowest))
    found = sizes(network.within(scores, families, **{which: budget}))
    assert cost(found) <= budget
    for family in families:
        wider = min(found[family.name] + step, family.width)
        if wider > found[family.name]:
            assert cost({**found, family.name: wider}) > budget


def test_budget_is_what_removal_reports():
    masks = network.within(drawn(FAMILIES), FAMILIES, parameters=200)
    removed = network.remove(CASE.params, FAMILIES, masks, compensate="none", calls=0)
    assert removed.report.parameters[1] == FAMILIES.parameters(sizes(masks)) <= 200
    assert sum(np.size(leaf) for leaf in removed.params.values()) == removed.report.parameters[1]


def test_layer_scope_is_safe_under_jit():
    scores = drawn(WIDE)
    masks = jax.jit(lambda s: network.select(s, WIDE, 0.5))(scores)
    assert sizes(masks) == sizes(network.select(scores, WIDE, 0.5))


BAD = {
    "share": (lambda s: network.select(s, WIDE, 1.5), r"w1:1 to keep must lie in \(0, 1\]: got 1.5"),
    "name": (lambda s: network.select(s, WIDE, {"w9": 0.5}), "no family is called 'w9'"),
    "scope": (lambda s: network.select(s, WIDE, 0.5, scope="net"), "'layer' or 'global': got 'net'"),
    "global shares": (lambda s: network.select(s, WIDE, {"w1:1": 0.5}, scope="global"), "one share for all"),
    "normalise": (lambda s: network.within(s, WIDE, flops=999, normalise="max"), "'mean' or 'none': got 'max'"),
    "missing": (lambda s: network.select({}, WIDE, 0.5), "scores of w1:1 are missing"),
    "shape": (
        lambda s: network.select({**s, "w1:1": np.ones(3)}, WIDE, 0.5),
        r"8 groups: its scores have shape \(3,\)",
    ),
    "no budget": (lambda s: network.within(s, WIDE), "give one budget"),
    "too small": (
        lambda s: network.within(s, WIDE, parameters=10),
        "budget of 10 parameters cannot be reached: .* has 15",
    ),
    "traced": (jax.jit(lambda t: network.within(t, WIDE, flops=1000)), "runs on the host"),
}


@pytest.mark.parametrize("name", BAD)
def test_requests_that_make_no_sense_are_errors(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call(drawn(WIDE))


def test_operations_of_written_families_are_unknown():
    written = network.families_of(MLP.params, {"f": [network.Pattern(path="w1", axis=1)]})
    with pytest.raises(ValueError, match="products are not known"):
        network.within({"f": np.ones(8)}, written, flops=100)


def test_families_left_out_stay_whole_and_their_operations_are_counted():
    left = FAMILIES.replace([FAMILIES["k2:3"]])
    assert left.flops() == FAMILIES.flops()
    assert left.flops({"k2:3": 2}) == FAMILIES.flops({"k2:3": 2}) < FAMILIES.flops()
    assert left.parameters({"k2:3": 2}) == FAMILIES.parameters({"k2:3": 2})
    assert "whole  k1[3], 6: left out" in str(left)
    # A budget is met by what is left.
    masks = network.within(drawn(left), left, flops=FAMILIES.flops({"k2:3": 3}))
    assert sizes(masks) == {"k2:3": 3}
