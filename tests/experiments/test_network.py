"""The experiment on digits: lanes hold at zero what removal takes away, cells are checked, figures are drawn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft import network, sweep
from pruneft.experiments import load, network_figure
from pruneft.experiments.network import NETWORK, Training, resolve, trial
from pruneft.experiments.network_models import MODELS, digits, families, weights
from pruneft.experiments.network_recipes import RECIPES, cells
from pruneft.trial import Bucket, run, wrap_key

SHORT = Training(steps=80, prune_at=40, chunk=20, batch=32, scored=32, rate=0.01, fine_rate=0.01)


def trained(method, seed=0):
    static = (("model", "mlp"), ("method", method), ("criterion", "taylor" if method == "one-shot" else "norm"))
    short = trial(Bucket(sizes=(("steps", 80),), static=static), constants=SHORT)
    key = wrap_key(NETWORK.key_data(resolve({}), seed))
    task = jax.jit(short.draw)(key, {"keep": jnp.asarray(0.25, jnp.float32)})
    state = run(short, task, segment_steps=4)
    return task, state, short.report(task, state)


@pytest.fixture(scope="module", params=["gradual", "one-shot", "scratch"])
def outcome(request):
    return trained(request.param)


def test_lane_is_the_smaller_network(outcome):
    task, state, report = outcome
    groups = families("mlp")
    images, labels = digits()
    seen = np.asarray(task.order[: SHORT.test])
    batch = (jnp.asarray(images[seen]),)
    small = network.remove(state.params, groups, state.keep, batch=batch, compensate="none", calls=0)
    assert {name: leaf.shape for name, leaf in small.params.items()}["w2"] == (32, 32)
    assert small.report.change <= 1e-5
    found = np.argmax(np.asarray(MODELS["mlp"](small.params, batch[0])), axis=1)
    assert np.mean(found == labels[seen]) == pytest.approx(float(report["accuracy"]), abs=0.004)
    assert int(report["kept"]) == 64


def test_networks_learn_something(outcome):
    _, _, report = outcome
    assert float(report["accuracy"]) > 0.3
    assert int(report["status"]) == 1


@pytest.mark.parametrize(("model", "widths"), [("mlp", {128}), ("cnn", {16, 32}), ("transformer", {4, 64})])
def test_models_have_the_families_that_are_pruned(model, widths):
    found = families(model)
    assert {f.width for f in found} == widths
    assert len(found) == (4 if model == "transformer" else 2)
    p = jax.eval_shape(lambda: weights(model, jax.random.key(0)))
    assert jax.eval_shape(MODELS[model], p, jax.ShapeDtypeStruct((3, 64), jnp.float32)).shape == (3, 10)


def test_only_one_shot_pruning_has_a_criterion():
    assert load("network") is NETWORK
    assert resolve({"method": "scratch", "criterion": "fisher"})["criterion"] == "norm"
    assert resolve({"method": "one-shot", "criterion": "fisher"})["criterion"] == "fisher"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"keep": 0.0}, r"must lie in \(0, 1\]: got 0.0"),
        ({"model": "rnn"}, "model must be one of mlp, cnn, transformer: got 'rnn'"),
        ({"width": 3}, "unknown axis 'width'"),
    ],
)
def test_cells_that_make_no_sense_are_errors(cell, message):
    with pytest.raises(ValueError, match=message):
        resolve(cell)


def test_a_sweep_that_names_no_grid_holds_both_baselines_once():
    ways = [
        (cell["keep"], cell["method"], cell["criterion"]) for cell in sweep.cells(NETWORK, sweep.make_grid(NETWORK))
    ]
    assert len(ways) == len(set(ways)) == 4 * 4
    assert {(0.25, "scratch", "norm"), (0.25, "one-shot", "random")} <= set(ways)


def test_figure_has_a_line_for_every_way():
    made = cells(RECIPES["network"], models=("mlp", "cnn"))
    rows = [{**resolve(cell), "accuracy": 0.9 + 0.01 * seed, "seed": seed} for cell in made for seed in range(3)]
    axes = [ax for ax in network_figure.draw(rows).axes if ax.get_visible()]
    assert len(axes) == 2
    labels = axes[0].get_legend_handles_labels()[1]
    assert set(labels) == {"gradual", "from scratch", *(f"one-shot, {name}" for name in network.CRITERIA)}
    with pytest.raises(ValueError, match="no finished trial"):
        network_figure.draw([])
