"""Removal gives smaller arrays and the function of the model whose removed groups are zero."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from pruneft import network
from pruneft.network import trees
from tests.network import models

CLOSE = 1e-5


def found(case, **options):
    return network.groups(case.fn, case.params, *case.inputs, **options)


def shapes_only(case):
    """Families found from shapes: removal is traced, and nothing is computed or compiled."""
    return network.groups(case.fn, case.params, *(trees.abstract(x) for x in case.inputs))


def halves(families):
    """Every second group of each family, and one more."""
    return {f.name: (np.arange(f.width) % 2 == 0) | (np.arange(f.width) == 1) for f in families}


def outputs(case, params):
    return np.asarray(eqx.filter_jit(case.fn)(params, *case.inputs))


@pytest.mark.parametrize("name", models.NAMES)
def test_smaller_model_is_the_model_with_groups_at_zero(name):
    case = models.cases()[name]
    families = found(case)
    keep = halves(families)
    removed = network.remove(case.params, families, keep, compensate="none", calls=0)
    assert removed.report.mismatch <= CLOSE
    # Something went, and the model knows.
    assert removed.report.change > 0.01
    before, after = removed.report.parameters
    count = sum(leaf.size for leaf in trees.named_arrays(removed.params).values())
    assert count == after < before
    assert removed.report.flops[1] < removed.report.flops[0]


def test_smaller_model_computes_what_its_weights_say():
    case = models.PLAIN["mlp"]
    p = network.remove(case.params, found(case), {"w1:1": [1, 6], "w2:1": [0, 2, 5]}, compensate="none", calls=0).params
    w1, w2, w3 = (np.asarray(case.params[name]) for name in ("w1", "w2", "w3"))
    b1, b2, b3 = (np.asarray(case.params[name]) for name in ("b1", "b2", "b3"))
    h = np.maximum(np.asarray(models.ROWS) @ w1[:, [1, 6]] + b1[[1, 6]], 0)
    h = np.maximum(h @ w2[[1, 6]][:, [0, 2, 5]] + b2[[0, 2, 5]], 0)
    np.testing.assert_allclose(outputs(case, p), h @ w3[[0, 2, 5]] + b3, rtol=1e-5, atol=1e-5)


def test_heads_and_feed_forward_units_of_a_transformer_go_exactly():
    case = models.transformer_case()
    families = found(case)
    keep = {f.name: np.arange(f.width) != 1 for f in families if f.exact}
    removed = network.remove(case.params, families, keep, compensate="none", calls=0)
    assert len(keep) == 4
    assert removed.report.mismatch <= CLOSE
    assert removed.params["blocks"][0]["query"].shape == (6, 8)


def test_stream_under_layer_normalisation_warns():
    case = models.transformer_case()
    families = found(case)
    (stream,) = (f for f in families if not f.exact)
    with pytest.warns(UserWarning, match="not exact: .*normalisation"):
        removed = network.remove(case.params, families, {stream.name: np.arange(6) != 1}, calls=0)
    assert removed.params["embedding"].shape == (11, 5)
    assert removed.report.mismatch > 1e-3


def test_layers_stacked_for_a_scan_go_exactly():
    def scanned(p, x):
        def layer(h, w):
            return h + jax.nn.relu(h @ w["u"]) @ w["d"], None

        return jax.lax.scan(layer, x @ p["in"], p["layers"])[0] @ p["out"]

    p = {**models.tree({"in": (6, 4), "out": (4, 3)}), "layers": models.tree({"u": (3, 4, 5), "d": (3, 5, 4)})}
    families = network.groups(scanned, p, models.ROWS)
    removed = network.remove(p, families, {"layers/u:2": [0, 2, 3], "layers/d:2": [1, 3]}, calls=0)
    assert removed.report.mismatch <= CLOSE
    assert removed.params["layers"]["u"].shape == (3, 2, 3)
    # Three turns of (2 x 3 + 3 x 2), and the two layers around them, two operations each, for five rows.
    assert removed.report.flops[1] == 2 * 5 * (6 * 2 + 3 * (2 * 3 + 3 * 2) + 2 * 3)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.sigmoid, jnp.cos])
def test_units_without_a_kernel_leave_their_constant_in_the_next_bias(activation):
    def model(p, x):
        return activation(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]

    p = models.tree({"w1": (6, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)})
    p["w1"], p["b1"] = p["w1"].at[:, ::2].set(0), jnp.abs(p["b1"])
    families = network.groups(model, p, models.ROWS)
    removed = network.remove(p, families, {"w1:1": np.arange(8) % 2 == 1}, calls=0)
    assert removed.report.change <= CLOSE
    assert removed.report.biases == ("b2",)
    left = network.remove(p, families, {"w1:1": np.arange(8) % 2 == 1}, compensate="none", calls=0)
    assert left.report.change > 0.01


def test_constants_are_moved_in_equinox_layers_too():
    model = models.drawn(eqx.filter_eval_shape(eqx.nn.MLP, 6, 3, 8, 2, dtype=jnp.float32, key=models.KEY))
    model = eqx.tree_at(lambda m: m.layers[1].weight, model, replace_fn=lambda w: w.at[:5].set(0))
    case = models.Case(lambda m, x: jax.vmap(m)(x), model, (models.ROWS,), {})
    removed = network.remove(model, found(case), {"layers/1/weight:0": [5, 6, 7]}, calls=0)
    assert removed.report.change <= CLOSE
    assert removed.report.biases == ("layers/2/bias",)


def test_mean_of_what_units_say_keeps_the_mean_output():
    case = models.PLAIN["mlp"]
    families = found(case)
    keep = {"w2:1": [0, 1, 2]}
    removed = network.remove(case.params, families, keep, compensate="mean", calls=0)
    before, after = outputs(case, case.params), outputs(case, removed.params)
    np.testing.assert_allclose(after.mean(0), before.mean(0), rtol=1e-4)


def test_optimiser_state_is_sliced_with_the_parameters():
    case = models.PLAIN["cnn"]
    families = shapes_only(case)
    keep = halves(families)
    state = optax.adam(1e-3).init(case.params)
    # The first moment holds the parameters themselves, so that its slices can be compared with theirs.
    state = (state[0]._replace(mu=case.params), *state[1:])
    removed = network.remove(case.params, families, keep, opt_state=state, compensate="none", calls=0)
    for name, leaf in removed.params.items():
        np.testing.assert_array_equal(removed.opt_state[0].mu[name], leaf)
        assert removed.opt_state[0].nu[name].shape == leaf.shape
    assert removed.opt_state[0].count == state[0].count


@pytest.mark.parametrize("name", ["nnx split", "nnx whole", "linen", "equinox"])
def test_sliced_state_is_that_of_an_optimiser_of_the_smaller_model(name):
    """Equinox's layers write their sizes beside the arrays, in the moments too: with old ones nothing can be added to them."""
    case = models.cases()[name]
    families = shapes_only(case)
    adam = optax.adam(1e-3)
    arrays = eqx.filter(case.params, eqx.is_array)
    removed = network.remove(case.params, families, halves(families), opt_state=adam.init(arrays), calls=0)
    fresh = adam.init(eqx.filter(removed.params, eqx.is_array))
    assert jax.tree.structure(removed.opt_state) == jax.tree.structure(fresh)
    assert [leaf.shape for leaf in jax.tree.leaves(removed.opt_state)] == [x.shape for x in jax.tree.leaves(fresh)]


def test_optimiser_state_of_another_shape_is_an_error():
    case = models.PLAIN["mlp"]
    factored = {"rows": {"w1": np.zeros(6, np.float32)}}
    with pytest.raises(ValueError, match=r"rows/w1 has shape \(6,\).*anew"):
        network.remove(case.params, shapes_only(case), {"w1:1": [0]}, opt_state=factored, calls=0)


def test_widths_written_beside_the_arrays_are_put_right():
    cases = models.cases()
    keep = {"channels": [0, 1, 2, 3], "width": [0, 2, 4]}

    def small(case):
        families = shapes_only(case)
        named = {f.name: keep["channels" if f.width == 6 else "width"] for f in families}
        return network.remove(case.params, families, named, calls=0).params

    model = small(cases["equinox"])
    assert (model.first.out_channels, model.deep.groups, model.deep.in_channels) == (4, 4, 4)
    assert (model.join.in_features, model.join.out_features, model.last.in_features) == (64, 3, 6)
    whole = small(cases["nnx whole"])
    assert (whole.first.out_features, whole.deep.feature_group_count, whole.norm.num_features) == (4, 4, 4)
    assert whole.last.in_features == 6
    merged = network.refreshed(nnx.merge(nnx.split(cases["nnx whole"].params)[0], small(cases["nnx split"])))
    assert (merged.deep.feature_group_count, merged.same.in_features) == (4, 3)


@pytest.mark.parametrize("name", ["cnn", "nnx split", "equinox"])
def test_smaller_model_is_saved_and_restored(name, tmp_path):
    case = models.cases()[name]
    families = shapes_only(case)
    params = network.remove(case.params, families, halves(families), calls=0).params
    arrays = trees.named_arrays(params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "small", {name.replace("/", "."): leaf for name, leaf in arrays.items()})
        checkpointer.wait_until_finished()
        target = {name.replace("/", "."): trees.abstract(leaf) for name, leaf in arrays.items()}
        restored = checkpointer.restore(tmp_path / "small", target)
    again = trees.with_arrays(params, {name: restored[name.replace("/", ".")] for name in arrays})
    for path, leaf in trees.named_arrays(again).items():
        np.testing.assert_array_equal(leaf, arrays[path])
    assert jax.tree.structure(again) == jax.tree.structure(params)


def test_removing_twice_is_removing_once():
    case = models.PLAIN["cnn"]
    families = shapes_only(case)
    first = network.remove(case.params, families, {"k1:3": [0, 2, 4, 5], "k2:3": [1, 2, 4]}, calls=0)
    second = network.remove(first.params, first.families, {"k1:3": [1, 3], "k2:3": [0, 2]}, calls=0)
    once = network.remove(case.params, families, {"k1:3": [2, 5], "k2:3": [1, 4]}, calls=0)
    for name, leaf in once.params.items():
        np.testing.assert_array_equal(second.params[name], leaf)
    assert {f.name: (f.width, f.original) for f in second.families} == {"k1:3": (2, 6), "k2:3": (2, 5)}


def test_report_says_what_went():
    case = models.PLAIN["mlp"]
    report = network.remove(case.params, found(case), {"w1:1": [1, 2, 3]}, calls=1).report
    assert report.widths == {"w1:1": (8, 3), "w2:1": (7, 7)}
    assert report.parameters == (6 * 8 + 8 + 8 * 7 + 7 + 21 + 3, 6 * 3 + 3 + 3 * 7 + 7 + 21 + 3)
    assert report.flops == (2 * 5 * (48 + 56 + 21), 2 * 5 * (18 + 21 + 21))
    assert "w1:1: 8 -> 3" in str(report)
    assert "seconds a call" in str(report)


BAD = {
    "unknown family": ({"w9": [0]}, r"no family is called 'w9': known are w1:1, w2:1"),
    "every group": ({"w1:1": np.zeros(8, bool)}, "every group of w1:1 would go"),
    "wrong length": ({"w1:1": np.ones(7, bool)}, r"w1:1 has 8 groups: its mask has shape \(7,\)"),
    "not there": ({"w1:1": [0, 8]}, "w1:1 has groups 0 to 7"),
    "too few": ({"w1:1": [0]}, "w1:1 must keep at least 2 groups"),
    "fractions": ({"w1:1": [0.5]}, "boolean mask or distinct group numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_masks_that_do_not_fit_are_errors(name):
    case = models.PLAIN["mlp"]
    keep, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        network.remove(case.params, found(case, min_width=2), keep, calls=0)


def test_traced_mask_is_an_error():
    case = models.PLAIN["mlp"]
    families = found(case)
    with pytest.raises(ValueError, match="the mask of w1:1 is traced"):
        jax.jit(lambda mask: network.remove(case.params, families, {"w1:1": mask}).params)(np.ones(8, bool))


def test_model_that_has_changed_is_an_error():
    case = models.PLAIN["mlp"]
    families = shapes_only(case)
    wider = {**case.params, "w2": jnp.ones((8, 9), jnp.float32)}
    with pytest.raises(ValueError, match=r"has changed .* w2 had shape \(8, 7\), and has \(8, 9\)"):
        network.remove(wider, families, {"w1:1": [0]}, calls=0)
    with pytest.raises(ValueError, match="b3 is gone"):
        network.remove({k: v for k, v in case.params.items() if k != "b3"}, families, {"w1:1": [0]}, calls=0)


def test_function_that_is_not_the_grouped_one_is_an_error():
    case = models.PLAIN["mlp"]
    families = found(case)

    def other(p, x):
        h = jax.nn.relu(x @ p["w1"] + p["b1"])
        return jax.nn.relu(h @ p["w2"] + p["b2"]) @ p["w3"] + p["b3"] + p["w1"].shape[1]

    changed = families.replace(families.items, fn=other)
    with pytest.raises(ValueError, match=r"differs from the one .* in w1:1"):
        network.remove(case.params, changed, {"w1:1": [0, 1]}, calls=0)
