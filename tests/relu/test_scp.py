import dataclasses

import cvxpy as cp
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu import LOSSES, all_patterns
from pruneft.relu.scp import fit_sampled, unit_vectors, worst_neurons
from pruneft.status import Status
from tests.relu.conic import optimum, program

N, D, COUNT, ROUNDS, STARTS = 12, 3, 60, 12, 16
SHAPE = {"n_neurons": COUNT, "refine": ROUNDS, "starts": STARTS, "seed": 1}


def _data(loss):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((N, D))
    f = np.maximum(X @ rng.standard_normal((D, 5)), 0) @ rng.choice([-1.0, 1.0], 5)
    return X, f if loss == "squared" else np.where(f > np.median(f), 1.0, -1.0)


def _weight(loss):
    return 0.02 * (1 if loss == "hinge" else N)


def _lasso(features, y, loss, lam):
    """The optimum over these features, by Clarabel."""
    alpha = cp.Variable(features.shape[1])
    f = features @ alpha
    fit = {
        "squared": lambda: cp.sum_squares(f - y) / 2,
        "hinge": lambda: cp.sum(cp.pos(1 - cp.multiply(y, f))) / len(y),
        "bce": lambda: cp.sum(cp.logistic(-2 * cp.multiply(y, f))),
    }[loss]()
    tight = {f"tol_{name}": 1e-10 for name in ("gap_abs", "gap_rel", "feas")}
    return float(cp.Problem(cp.Minimize(fit + lam * cp.norm1(alpha))).solve(solver=cp.CLARABEL, **tight))


@pytest.fixture(scope="module", params=LOSSES)
def refined(request):
    """The loss, what was fitted, and the optimum over all networks, from the program with all patterns."""
    loss = request.param
    X, y = _data(loss)
    patterns = all_patterns(X)
    whole = program(X, y, patterns.D, patterns.H, loss, lam=1.0)
    whole = dataclasses.replace(whole, lam=jnp.asarray(_weight(loss)))
    return loss, fit_sampled(X, y, loss=loss, lam=_weight(loss), **SHAPE), optimum(whole)


def test_the_network_has_the_objective_of_its_program_and_dead_neurons_are_left_out(refined):
    loss, found, _ = refined
    X, y = _data(loss)
    assert found.status == Status.CONVERGED
    assert found.ok
    assert found.network_objective == pytest.approx(found.objective, rel=1e-12)
    u, alpha = np.asarray(found.network.u), np.asarray(found.network.alpha)
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), np.abs(alpha), rtol=1e-12)
    assert np.all(alpha != 0)
    f = np.maximum(X @ u, 0) @ alpha
    np.testing.assert_allclose(found.predict(X), f, rtol=1e-12, atol=1e-12)
    fit = {
        "squared": lambda: np.sum((f - y) ** 2) / 2,
        "hinge": lambda: np.mean(np.maximum(1 - y * f, 0)),
        "bce": lambda: np.sum(np.log1p(np.exp(-2 * y * f))),
    }[loss]()
    assert found.objective == pytest.approx(fit + found.lam * (np.sum(u**2) + np.sum(alpha**2)) / 2, rel=1e-12)


def test_refinement_comes_to_the_optimum_over_all_networks(refined):
    _, found, value = refined
    assert found.added > 0
    assert value * (1 - 1e-7) <= found.objective <= value * (1 + 5e-4)
    assert found.violation < 1 + 1e-3


def test_the_estimate_is_near_the_optimum_it_stands_for(refined):
    _, found, value = refined
    assert found.estimate == pytest.approx(value, rel=5e-4)


def test_without_refinement_the_optimum_over_the_sample_is_that_of_a_conic_solver():
    for loss in LOSSES:
        X, y = _data(loss)
        plain = fit_sampled(
            X, y, loss=loss, lam=_weight(loss), n_neurons=COUNT + ROUNDS * STARTS, starts=STARTS, seed=1
        )
        refined = fit_sampled(X, y, loss=loss, lam=_weight(loss), **SHAPE)
        assert plain.gap <= 1e-8
        assert refined.objective <= plain.objective
        u = unit_vectors(1, D, COUNT + ROUNDS * STARTS)
        value = _lasso(np.maximum(X @ u, 0), y, loss, _weight(loss))
        assert plain.dual <= value * (1 + 1e-7)
        assert plain.objective == pytest.approx(value, rel=1e-7)
        assert plain.violation > 1
        assert plain.estimate <= plain.dual


def test_climbing_finds_the_largest_violation_of_a_small_problem():
    rng = np.random.default_rng(0)
    X, nu = rng.standard_normal((10, 2)), rng.standard_normal(10)
    angles = np.linspace(0, 2 * np.pi, 20_001)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    largest = np.max(np.abs(nu @ np.maximum(X @ circle, 0)))
    u, values = worst_neurons(jnp.asarray(X), jnp.asarray(nu), jnp.asarray(rng.standard_normal((2, STARTS))))
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(np.abs(nu @ np.maximum(X @ np.asarray(u), 0)), values, rtol=1e-12)
    assert np.max(values) == pytest.approx(largest, rel=1e-6)


def test_climbing_finds_maxima_that_lie_on_kinks():
    # Negative slopes around a positive one: the largest value is where both their rows are zero, and nowhere is it smooth there.
    X = jnp.asarray([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.5, 0.0, 1.0]])
    nu = jnp.asarray([1.0, -9.0, -9.0])
    best = np.array([1.0, -0.5, -0.5]) / np.sqrt(1.5)
    _, values = worst_neurons(X, nu, jnp.asarray([[0.9], [0.3], [0.2]]))
    assert float(values[0]) >= best[0] * (1 - 1e-9)


def test_with_one_feature_the_climb_ends_at_a_sign():
    u, values = worst_neurons(jnp.asarray([[2.0], [-1.0]]), jnp.asarray([1.0, 3.0]), jnp.asarray([[0.5, -0.5]]))
    np.testing.assert_array_equal(u, [[1.0, -1.0]])
    np.testing.assert_allclose(values, [2.0, 3.0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": np.arange(N) * 1.0, "loss": "hinge"}, "-1"),
        ({"lam": 0.0}, "lam"),
        ({"n_neurons": 0}, "n_neurons must be a whole number of at least 1"),
        ({"refine": -1}, "refine .* must be a whole number"),
        ({"starts": 1}, "starts must be a whole number of at least 2"),
        ({"y": np.ones((N, 2))}, "one output"),
        ({"y": np.zeros(N)}, "nothing to fit"),
        ({"tol": 0.0}, "tol"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(change, says):
    X, y = _data("squared")
    with pytest.raises(ValueError, match=says):
        fit_sampled(**{"X": X, "y": y, **change})
