"""Networks trained on planted data: what the measures mean, what stays zero, and that descent finds a neuron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.planted import models, networks

QUICK = networks.Training(neurons=6, steps=1000, fine=400, rate=0.03)


@pytest.fixture(scope="module")
def trained():
    """(planted, before, after) of two starts on one instance, for each of two models."""

    def one(model, planted):
        instance = models.plant(jax.random.key(3), n=16, d=3, P=1, model=model, planted=planted)
        run = jax.vmap(
            lambda key: networks.train(key, instance, model=model, linear=planted == "linear", constants=QUICK)
        )
        return instance, *jax.jit(run)(jax.random.split(jax.random.key(0), 2))

    return {"skip": one("skip", "linear"), "normalised": one("normalised", "one")}


@pytest.mark.parametrize("model", ["skip", "normalised"])
def test_pruned_neurons_are_zero_and_the_others_fit_as_well_or_better(trained, model):
    _, before, after = trained[model]
    p = jax.tree.map(np.asarray, after.parameters)
    for k, keep in enumerate(np.asarray(after.keep)):
        assert np.all(p.u[k][:, ~keep] == 0)
        assert np.all(p.a[k][~keep] == 0)
        assert int(after.neurons[k]) == int(keep.sum())
    # The penalty shrinks what it weighs, so without it the fit is better.
    assert np.median(after.misfit) < np.median(before.misfit)
    if model == "normalised":
        assert np.all(p.v == 0)
    else:
        assert np.all(p.g == 0)


def test_descent_finds_the_planted_neuron_and_measures_it(trained):
    planted, _, after = trained["skip"]
    assert np.all(after.distance < 0.05)  # the planted weights have length 1
    p = jax.tree.map(np.asarray, after.parameters)
    for k in range(2):
        said = np.maximum(planted.fresh @ p.u[k], 0) @ p.a[k] + planted.fresh @ p.v[k] * p.b[k]
        error = np.linalg.norm(said - planted.target) / np.linalg.norm(planted.target)
        assert float(after.error[k]) == pytest.approx(error, rel=1e-6, abs=1e-9)
        distance = np.linalg.norm(p.v[k] * p.b[k] - np.asarray(planted.theta)[:, 0])
        assert float(after.distance[k]) == pytest.approx(distance, rel=1e-6)


def test_effective_weights_say_what_the_normalised_network_says(trained):
    planted, _, after = trained["normalised"]
    p = jax.tree.map(lambda part: part[0], after.parameters)
    raw = np.maximum(np.asarray(planted.X @ p.u), 0)
    size = np.linalg.norm(raw, axis=0)
    wanted = (raw / np.where(size > 0, size, 1)) @ np.asarray(p.g * p.a)
    np.testing.assert_allclose(networks.predict(p, planted.X, planted.X, "normalised"), wanted, atol=1e-10)
    assert np.asarray(after.misfit)[0] == pytest.approx(
        np.linalg.norm(wanted - planted.y) / np.linalg.norm(planted.y), rel=1e-6, abs=1e-9
    )


def test_the_planted_network_itself_has_no_distance_and_no_error():
    planted = models.plant(jax.random.key(3), n=16, d=3, P=1, model="normalised", planted="two")
    p = networks.Parameters(
        u=jnp.asarray(planted.w) * 2.5, a=jnp.full(2, 0.5), g=jnp.full(2, 2.0), v=jnp.zeros(3), b=jnp.zeros(())
    )
    measured = networks._measured(p, jnp.ones(2, bool), planted, "normalised", False)
    assert float(measured.distance) < 1e-12
    assert float(measured.error) < 1e-12
    wrong = networks._measured(p._replace(a=-p.a), jnp.ones(2, bool), planted, "normalised", False)
    assert float(wrong.distance) == pytest.approx(2 * np.linalg.norm(planted.theta))


def test_chunks_must_divide_the_steps():
    with pytest.raises(ValueError, match="chunk must divide steps and fine: got chunk=100, steps=150"):
        networks.Training(steps=150)
