"""Matrix completion by deep linear networks: steps of both methods against the loss written out, and what ranks are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.dynamics import deep_linear
from pruneft.trial import wrap_key

SIZES = {"d": 5, "rank": 1, "observed": 12, "layers": 3, "width": 4}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def problem():
    return deep_linear.draw(KEY, **SIZES, norm=3.0, dtype=jnp.float64)


def _moved(problem, gradient, eta, lam):
    return [(1 - 2 * eta * lam) * w - eta * g for w, g in zip(problem.start, gradient, strict=True)]


def test_problems_are_of_the_rank_and_norm_asked_for(problem):
    sizes = np.linalg.svd(problem.target, compute_uv=False)
    assert np.sum(sizes > 1e-12) == 1
    assert sizes[0] == pytest.approx(3, rel=1e-5)
    assert len({(int(i), int(j)) for i, j in zip(problem.rows, problem.columns)}) == 12
    assert [w.shape for w in problem.start] == [(4, 5), (4, 4), (5, 4)]
    np.testing.assert_allclose(
        deep_linear.product(problem.start), problem.start[2] @ problem.start[1] @ problem.start[0]
    )


def test_a_step_of_gradient_descent_goes_down_the_mean_over_all_observed_entries(problem):
    found = deep_linear.descend(problem.start, problem, eta=0.1, lam=0.2, steps=1, noisy=False)
    first, second, third = problem.start
    mask = np.zeros((5, 5))
    mask[problem.rows, problem.columns] = 1
    missed = mask * np.asarray(third @ second @ first - problem.target) / 12
    gradient = [(third @ second).T @ missed, third.T @ missed @ first.T, missed @ (second @ first).T]
    for one, other in zip(found, _moved(problem, gradient, 0.1, 0.2), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_step_on_one_entry_is_in_the_mean_a_step_on_all(problem):
    def on(place):
        return jax.grad(deep_linear._one)(problem.start, problem, place)

    each = jax.vmap(on)(jnp.arange(12))
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each)
    for one, other in zip(mean, jax.grad(deep_linear.misfit)(problem.start, problem), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_noisy_runs_can_be_interrupted_and_draw_every_entry(problem):
    run = jax.jit(
        lambda weights, steps, begin: deep_linear.descend(
            weights, problem, eta=0.01, lam=0.0, steps=steps, begin=begin, noisy=True
        )
    )
    whole = run(problem.start, 60, 0)
    parts = run(run(problem.start, 25, 0), 35, 25)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    drawn = [
        int(jax.random.randint(jax.random.fold_in(wrap_key(problem.words), place), (), 0, 12)) for place in range(100)
    ]
    assert set(drawn) == set(range(12))


def test_decay_alone_shrinks_every_weight_alike(problem):
    nothing = problem._replace(target=deep_linear.product(problem.start))
    found = deep_linear.descend(problem.start, nothing, eta=0.1, lam=0.5, steps=1, noisy=True)
    for one, other in zip(found, problem.start, strict=True):
        np.testing.assert_allclose(one, 0.9 * other, atol=1e-12)


def test_ranks_count_singular_values_above_the_bar(problem):
    left, right = (np.linalg.qr(np.random.default_rng(k).standard_normal((5, 5)))[0] for k in range(2))
    weights = (
        jnp.asarray(right.T[:4]),
        jnp.asarray(np.diag([2.0, 0.11, 0.09, 0.0])),
        jnp.asarray(left[:, :4]),
    )
    found = deep_linear.ranks(weights, problem, 1)
    assert int(found.rank) == 2
    assert float(found.beyond) == pytest.approx(0.11)
    assert float(found.error) == pytest.approx(
        float(np.linalg.norm(deep_linear.product(weights) - problem.target) / 3), rel=1e-5
    )
    broken = deep_linear.ranks((weights[0] * jnp.nan, *weights[1:]), problem, 1)
    assert int(broken.rank) == -1
    assert np.isnan(broken.beyond)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 6}, "a rank from 1 to d"),
        ({"observed": 26}, "from 1 to d.2 observed entries"),
        ({"layers": 1}, "at least 2 layers"),
        ({"width": 1, "rank": 2}, "at least the width of the rank"),
    ],
)
def test_problems_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        deep_linear.draw(KEY, **{**SIZES, **change})
