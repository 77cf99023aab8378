import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.adversarial.norms import BALLS, ball_named
from pruneft.relu.adversarial.search import root

_MASK = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])


@pytest.fixture(params=BALLS)
def ball(request):
    return BALLS[request.param]


@pytest.fixture
def vectors():
    drawn = np.random.default_rng(0).standard_normal((40, 5))
    drawn[0] = 0
    drawn[1, :3] = 0
    drawn[2] = 1
    return jnp.asarray(drawn)


def test_the_worst_unit_attack_reaches_the_dual_norm_and_none_exceeds_it(ball, vectors):
    worst = ball.worst(vectors, _MASK)
    assert np.all(np.asarray(ball.size(worst)) <= 1 + 1e-12)
    np.testing.assert_allclose(jnp.sum(worst * vectors, axis=1), ball.dual(vectors, _MASK), atol=1e-12)
    tried = ball.random(jax.random.key(0), (500, 5), _MASK)
    assert np.all(np.asarray(ball.size(tried)) <= 1 + 1e-12)
    assert np.all(np.asarray(vectors @ tried.T) <= np.asarray(ball.dual(vectors, _MASK))[:, None] + 1e-12)


def test_shrinking_is_the_prox_of_the_dual_norm_and_leaves_what_is_not_attacked(ball, vectors):
    t = jnp.linspace(0, 3, 40)
    shrunk = ball.shrink(vectors, _MASK, t)
    np.testing.assert_array_equal(shrunk[:, 2], vectors[:, 2])
    # The optimality conditions of the prox: the step lies in t times the unit ball, and reaches t times the dual norm.
    step = vectors - shrunk
    assert np.all(np.asarray(ball.size(step)) <= np.asarray(t) + 1e-12)
    np.testing.assert_allclose(jnp.sum(step * shrunk, axis=1), t * ball.dual(shrunk, _MASK), atol=1e-12)


def test_a_projection_stays_inside_and_no_point_of_the_ball_is_nearer(ball, vectors):
    inside = ball.project(vectors, 0.7)
    assert np.all(np.asarray(ball.size(inside)) <= 0.7 + 1e-12)
    others = 0.7 * ball.random(jax.random.key(1), (300, 5), jnp.ones(5))
    distance = jnp.linalg.norm(vectors[:, None] - others, axis=2)
    assert np.all(np.asarray(distance) >= np.asarray(jnp.linalg.norm(vectors - inside, axis=1))[:, None] - 1e-12)


def test_norms_go_by_name_or_number_and_others_are_refused():
    assert ball_named(np.inf).name == "inf"
    assert ball_named(2).name == "2"
    with pytest.raises(ValueError, match="must be one of inf, 2, 1: got 3"):
        ball_named(3)


def test_roots_are_found_to_rounding_and_ends_where_there_are_none():
    kinks = jnp.asarray(np.random.default_rng(2).uniform(0, 1, (50, 6)))
    slopes = jnp.asarray(np.random.default_rng(3).exponential(size=(50, 6)) ** 3)

    def f(x):
        return jnp.sum(slopes * jax.nn.relu(x[:, None] - kinks), axis=1) - 0.3

    found = root(f, jnp.zeros(50), jnp.ones(50))
    value = f(found)
    at_end = np.asarray(found) == 1
    np.testing.assert_allclose(np.asarray(value)[~at_end], 0, atol=1e-12)
    assert np.all(np.asarray(value)[at_end] <= 0)
    np.testing.assert_array_equal(root(lambda x: x + 1, jnp.zeros(3), jnp.ones(3)), 0)
    np.testing.assert_allclose(root(lambda x: x**9 - 1e-6, jnp.zeros(1), jnp.ones(1)), 1e-6 ** (1 / 9), rtol=1e-12)
