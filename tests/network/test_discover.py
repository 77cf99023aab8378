"""Discovery finds exactly the families that a model has, and nothing where it does not understand."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft import network
from tests.network import models


def described(family):
    """{member: coordinates of a group}, consumers with a star."""
    return {f"{m.path}[{m.axis}]" + ("*" if m.role == "consumer" else ""): m.indices.shape[1] for m in family.members}


@pytest.mark.parametrize("name", models.NAMES)
def test_families_are_exactly_those_of_the_model(name):
    case = models.cases()[name]
    found = network.groups(case.fn, case.params, *case.inputs)
    assert sorted(((f.width, described(f)) for f in found), key=str) == sorted(case.families.values(), key=str)
    assert all(family.exact for family in found)
    assert not found.unknown


@pytest.mark.parametrize("name", models.PLAIN)
def test_families_are_named_after_what_makes_them(name):
    case = models.PLAIN[name]
    assert set(network.groups(case.fn, case.params, *case.inputs).names) == set(case.families)


def test_flattened_channel_owns_every_pixel_of_its_map():
    case = models.PLAIN["cnn"]
    family = network.groups(case.fn, case.params, *case.inputs)["k2:3"]
    (member,) = family.consumers
    # [H, W, C] flattened in C order: channel c is every fifth row.
    np.testing.assert_array_equal(member.indices, np.arange(5)[:, None] + 5 * np.arange(4)[None])


def test_concatenated_parts_know_their_offset():
    case = models.PLAIN["concatenation"]
    found = network.groups(case.fn, case.params, *case.inputs)
    np.testing.assert_array_equal(found["a:1"].consumers[0].indices[:, 0], np.arange(4))
    np.testing.assert_array_equal(found["b:1"].consumers[0].indices[:, 0], 4 + np.arange(5))


def test_what_stays_is_named_with_its_reason():
    case = models.PLAIN["mlp"]
    report = str(network.groups(case.fn, case.params, *case.inputs))
    assert "w3[1], 3: it is an output of the model" in report
    assert "w1[0], 6: it is contracted with the model's input" in report


def test_gated_halves_go_together():
    def gated(p, x):
        first, second = jnp.split(x @ p["w"], 2, axis=-1)
        return (first * jax.nn.sigmoid(second)) @ p["out"]

    (family,) = network.groups(gated, models.tree({"w": (6, 8), "out": (4, 3)}), models.ROWS)
    np.testing.assert_array_equal(family.members[1].indices, np.arange(4)[:, None] + [0, 4])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda p, x: (x @ p["w"])[:, :4] @ p["out"][:4] + (x @ p["w"])[:, 2:] @ p["out"][2:], "written into|course"),
        (
            lambda p, x: (x @ p["w"])[:, : p["w"].shape[1] // 2] @ p["out"][:3] + (x @ p["w"])[:, 3:] @ p["out"][3:],
            "trace|written|course",
        ),
        (lambda p, x: jnp.sort(x @ p["w"], axis=-1) @ p["out"], "sort works along it"),
        (lambda p, x: (x @ p["w"] + jnp.arange(6.0, dtype=jnp.float32)) @ p["out"], "something that stays"),
        (lambda p, x: jnp.fft.fft(x @ p["w"]).real @ p["out"], "the primitive fft"),
        (lambda p, x: jnp.cumsum(x @ p["w"], axis=1) @ p["out"], "cumsum works along it"),
        (lambda p, x: (x @ p["w"]).reshape(-1, 2, 3).sum(1) @ p["out"][:3], "does not trace|written into"),
        (
            lambda p, x: (x @ p["w"]) @ p["out"] + jnp.argmax(x @ p["w"], -1)[:, None].astype(jnp.float32),
            "counts positions",
        ),
        (lambda p, x: x @ p["w"] @ (p["out"] * (1.0 + p["w"].shape[1] // 6)), None),
    ],
)
def test_what_is_not_understood_stays_whole(body, why):
    found = network.groups(body, models.tree({"w": (6, 6), "out": (6, 6)}), models.ROWS)
    if why is None:
        # The program has another constant without one unit: found, but flagged.
        assert [family.exact for family in found] == [False]
        assert "depends on the width" in found[0].remarks[0]
        return
    assert len(found) == 0
    assert any(re.search(why, each.why) for each in found.whole), str(found)


def test_unknown_primitive_is_named():
    found = network.groups(lambda p, x: jnp.linalg.qr(p["w"])[0] @ x.T[:6], models.tree({"w": (6, 6)}), models.ROWS)
    assert len(found) == 0
    assert "qr" in " ".join(found.unknown)


def test_excluded_families_stay_and_options_reach_the_others():
    case = models.PLAIN["mlp"]
    found = network.groups(case.fn, case.params, *case.inputs, exclude=["^b2$"], round_to=4, min_width=2)
    assert found.names == ("w1:1",)
    assert (found[0].round_to, found[0].min_width) == (4, 2)
    assert any("excluded by" in each.why for each in found.whole)


def test_pattern_that_matches_nothing_is_an_error():
    case = models.PLAIN["mlp"]
    with pytest.raises(ValueError, match=r"'head' matches no array\. Arrays are b1"):
        network.groups(case.fn, case.params, *case.inputs, exclude=["head"])


def test_function_that_cannot_be_traced_is_an_error():
    with pytest.raises(ValueError, match="cannot be traced"):
        network.groups(lambda p, x: x @ p["w"] if p["w"][0, 0] > 0 else x, models.tree({"w": (6, 6)}), models.ROWS)


def test_arrays_of_whole_numbers_stay():
    p = {**models.tree({"w": (6, 4), "out": (4, 3)}), "mask": jnp.ones(4, jnp.int32)}
    found = network.groups(lambda p, x: (x @ p["w"] * p["mask"].astype(jnp.float32)) @ p["out"], p, models.ROWS)
    assert len(found) == 0
    assert any(each.path == "mask" and "int32" in each.why for each in found.whole)


def test_layers_stacked_for_a_scan_share_their_width():
    def scanned(p, x):
        def layer(h, w):
            return h + jax.nn.relu(h @ w["u"]) @ w["d"], None

        return jax.lax.scan(layer, x @ p["in"], p["layers"])[0] @ p["out"]

    p = {**models.tree({"in": (6, 4), "out": (4, 3)}), "layers": models.tree({"u": (3, 4, 5), "d": (3, 5, 4)})}
    found = network.groups(scanned, p, models.ROWS)
    assert {f.name: described(f) for f in found} == {
        "layers/u:2": {"layers/u[2]": 1, "layers/d[1]*": 1},
        "layers/d:2": {"in[1]": 1, "layers/u[1]*": 1, "layers/d[2]": 1, "out[0]*": 1},
    }


def test_a_hundred_thousand_coordinates_are_one_pass():
    shapes = {f"w{i}": jax.ShapeDtypeStruct((10_000, 10_000), jnp.float32) for i in range(9)}

    def deep(p, x):
        for name in sorted(p):
            x = jax.nn.relu(x @ p[name])
        return x

    found = network.groups(deep, shapes, jax.ShapeDtypeStruct((1, 10_000), jnp.float32))
    assert [family.width for family in found] == [10_000] * 8


def test_transformer_has_a_stream_heads_and_feed_forward_units():
    case = models.transformer_case()
    found = network.groups(case.fn, case.params, *case.inputs)
    assert sorted(((f.width, described(f)) for f in found), key=str) == sorted(case.families.values(), key=str)
    # Layer normalisation counts the width of the stream; heads and feed-forward units go without a trace.
    assert [f.width for f in found if not f.exact] == [6]
    assert "normalisation" in next(f for f in found if not f.exact).remarks[0]


def test_a_variance_flags_what_it_runs_over_and_nothing_else():
    """jnp.var, which Equinox normalises by, guards its division by a NaN in the program."""

    def normalised(p, x):
        h = x @ p["in"]
        s = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return (h + jax.nn.relu(s @ p["up"]) @ p["down"]) @ p["out"]

    found = network.groups(
        normalised, models.tree({"in": (6, 4), "up": (4, 5), "down": (5, 4), "out": (4, 3)}), models.ROWS
    )
    assert {family.width: family.exact for family in found} == {4: False, 5: True}
    assert not any("nan" in remark for family in found for remark in family.remarks)
