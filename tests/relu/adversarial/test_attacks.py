import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.adversarial import (
    accuracy,
    certified_accuracy,
    certified_margin,
    corners,
    fgsm,
    pgd,
    robust_patterns,
    train_plain,
)
from pruneft.relu.adversarial.norms import BALLS
from pruneft.relu.neurons import Network
from tests.relu.adversarial.instances import labelled, teacher

_EPS = 0.3
_SLOPE = jnp.array([1.0, -2.0, 0.5])


def _linear(X):
    return X @ _SLOPE


@pytest.fixture(scope="module")
def data():
    X, f = teacher(30, 3, 1)
    return jnp.asarray(X), jnp.asarray(labelled("hinge", f))


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(2)
    u, alpha = jnp.asarray(rng.standard_normal((4, 6))), jnp.asarray(rng.standard_normal(6))
    return Network(u=u, alpha=alpha, linear=jnp.zeros(4), bias=True)


@pytest.mark.parametrize("norm", BALLS)
def test_on_a_linear_score_one_step_is_the_worst_attack_and_pgd_is_no_better(data, norm):
    X, y = data
    reach = _EPS * float(BALLS[norm].dual(_SLOPE, jnp.ones(3)))
    moved = fgsm(_linear, X, y, eps=_EPS, norm=norm)
    np.testing.assert_allclose(y * _linear(moved), y * _linear(X) - reach, atol=1e-12)
    best = pgd(_linear, X, y, jax.random.key(0), eps=_EPS, norm=norm, steps=20, starts=2)
    np.testing.assert_allclose(y * _linear(best), y * _linear(X) - reach, atol=1e-12)
    assert np.all(np.asarray(BALLS[norm].size(best - X)) <= _EPS * (1 + 1e-12))


def test_corners_are_at_least_as_harmful_as_one_step_and_real_labels_are_pushed_either_way(data):
    X, y = data
    np.testing.assert_allclose(corners(_linear, X, y, eps=_EPS), fgsm(_linear, X, y, eps=_EPS), atol=1e-12)
    target = _linear(X) + jnp.where(y > 0, 0.1, -0.1)
    moved = _linear(corners(_linear, X, target, eps=_EPS, labels="real")) - target
    np.testing.assert_allclose(moved, -y * (0.1 + _EPS * 3.5), atol=1e-12)


def test_more_features_than_corners_can_be_tried_for_and_unknown_labels_are_refused(data):
    with pytest.raises(ValueError, match="at most 12 features: got d=13"):
        corners(_linear, jnp.zeros((2, 13)), jnp.ones(2), eps=0.1)
    with pytest.raises(ValueError, match="labels must be"):
        fgsm(_linear, *data, eps=0.1, labels="integers")


@functools.partial(jax.jit, static_argnames="norm")
def _bounds(network, X, y, eps, norm):
    """Certified margin and accuracy, and what PGD finds of both."""
    attacked = pgd(network, X, y, jax.random.key(1), eps=eps, norm=norm, steps=10)
    return (
        certified_margin(network, X, y, eps=eps, norm=norm),
        certified_accuracy(network, X, y, eps=eps, norm=norm),
        y * network(attacked),
        accuracy(network, attacked, y),
    )


@pytest.mark.parametrize("norm", BALLS)
def test_no_attack_goes_below_the_certified_margin(drawn, data, norm):
    X, y = data
    for eps in (0.01, 0.2):
        bound, share, margin, attacked = _bounds(drawn, X, y, eps, norm)
        assert np.all(np.asarray(margin) >= np.asarray(bound) - 1e-12)
        assert float(share) <= float(attacked)
    np.testing.assert_allclose(_bounds(drawn, X, y, 0.0, norm)[0], y * drawn(X), atol=1e-12)


@pytest.mark.parametrize("norm", BALLS)
def test_sampled_patterns_are_different_and_their_directions_are_inside_the_robust_cones(norm):
    X, _ = teacher(14, 3, 0)
    found = robust_patterns(jax.random.key(0), X, 6, eps=0.1, mask=np.ones(3), norm=norm)
    sides = 2 * found.D - 1
    dual = np.linalg.norm(found.H, {"inf": 1, "2": 2, "1": np.inf}[norm], axis=0)
    assert found.D.shape == (14, 6)
    assert len(np.unique(found.D, axis=1).T) == 6
    assert np.min(sides * (X @ found.H) - 0.1 * dual) > 0
    assert found.dropped + 6 <= found.sampled


def test_descent_lowers_the_loss_it_is_given_from_every_seed(data):
    X, y = data
    found = train_plain(X, y, loss="hinge", lam=0.005, neurons=8, seeds=(0, 1), steps=150, rate=0.05, bias=True)
    assert found.u.shape == (2, 4, 8)
    losses = jax.jit(jax.vmap(lambda network: jnp.mean(jax.nn.relu(1 - y * network(X)))))(found)
    assert np.all(np.asarray(losses) < 0.4)
    assert losses[0] != losses[1]
