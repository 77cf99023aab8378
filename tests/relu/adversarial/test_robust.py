import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.adversarial import corners, fit_robust, pgd, robust_patterns, solve
from pruneft.relu.adversarial.fit import with_lam
from pruneft.relu.neurons import Network, neurons
from pruneft.status import Status
from tests.relu.adversarial.instances import conic_optimum, instance, labelled, padded, teacher

_LOSSES = ("hinge", "squared")  # bce, and the other norms, among the claims
_BUDGET, _TOL = 20_000, 1e-6
_EPS = 0.1


@functools.cache
def _program(loss):
    return instance(loss, eps=_EPS)


@functools.cache
def _solution(loss):
    return solve(_program(loss), tol=_TOL, max_iterations=_BUDGET)


@pytest.fixture(params=_LOSSES)
def loss(request):
    return request.param


def test_bounds_enclose_the_conic_optimum(loss):
    solution, optimum = _solution(loss), conic_optimum(_program(loss))
    assert int(solution.status) == Status.CONVERGED
    assert float(solution.gap) <= _TOL
    slack = 1e-7 * abs(optimum)  # of the conic solver
    assert float(solution.dual) <= optimum + slack
    assert float(solution.objective) >= optimum - slack
    np.testing.assert_allclose(float(solution.objective), optimum, rtol=1e-5)


@functools.partial(jax.jit, static_argnames="labels")
def _attacked(network, X, y, labels):
    """Scores as they are, at the worst corner and after PGD; the sides of all neurons at all corners; the moves of PGD."""
    signs = np.array(np.meshgrid(*[(-1.0, 1.0)] * 3)).reshape(3, -1).T
    sides = jax.vmap(lambda sign: (X + _EPS * sign) @ network.u)(jnp.asarray(signs))
    moved = pgd(network, X, y, jax.random.key(0), eps=_EPS, labels=labels, steps=10, starts=2)
    return network(X), network(corners(network, X, y, eps=_EPS, labels=labels)), network(moved), sides, moved - X


@functools.cache
def _network(loss):
    """With its dead neurons, so that all have one shape, and its scores under attack."""
    plain = _program(loss).plain
    u, alpha = jax.jit(neurons)(plain, _solution(loss).U)
    made = Network(u=u, alpha=alpha, linear=jnp.zeros(3))
    return made, _attacked(made, plain.X, plain.y, plain.losses.labels)


def test_the_network_s_worst_corner_is_the_objective_and_no_neuron_turns_on_or_off_there(loss):
    plain, (made, (_, worst, _, sides, _)) = _program(loss).plain, _network(loss)
    value = plain.losses.value(worst, plain.y, plain.weights) + plain.lam * made.penalty()
    assert np.any(made.alpha != 0)
    np.testing.assert_allclose(float(value), float(_solution(loss).objective), rtol=1e-9)
    sides = np.asarray(sides)
    assert np.all((sides >= 0).all(axis=0) | (sides <= 0).all(axis=0))


def test_pgd_finds_no_loss_above_the_certified_one(loss):
    plain, (made, (clean, _, found, _, moves)) = _program(loss).plain, _network(loss)
    certified = float(_solution(loss).objective - plain.lam * made.penalty())
    losses = [float(plain.losses.value(scores, plain.y, plain.weights)) for scores in (clean, found)]
    assert losses[0] < losses[1] <= certified * (1 + 1e-9)
    assert float(jnp.max(jnp.abs(moves))) <= _EPS * (1 + 1e-12)


@pytest.fixture(scope="module")
def lanes():
    """Hinge in one batch: the same patterns at rising radii from zero, and the program alone in larger arrays."""
    program = padded(_program("hinge"))
    radii = jnp.array([0.0, 0.05, _EPS])

    def lane(share):
        return solve(dataclasses.replace(program, radius=program.radius * share / _EPS), tol=_TOL, max_iterations=4000)

    return jax.jit(jax.vmap(lane))(radii)


def test_in_a_batch_and_padded_a_program_has_the_answer_it_has_alone(lanes):
    alone = _solution("hinge")
    U = np.asarray(lanes.U[2])
    np.testing.assert_allclose(lanes.objective[2], alone.objective, rtol=2 * _TOL)
    np.testing.assert_array_equal(U[3], 0)  # the padded feature
    np.testing.assert_array_equal(U[:, [8, 17]], 0)  # the padded pattern's two blocks


def test_without_radius_it_is_the_plain_program(lanes):
    program = _program("hinge")
    still = dataclasses.replace(program, radius=jnp.zeros_like(program.radius))
    optimum = conic_optimum(still)
    assert float(lanes.dual[0]) <= optimum * (1 + 1e-7)
    assert float(lanes.objective[0]) >= optimum * (1 - 1e-7)
    # Without attacks this instance is degenerate: the plain ADMM too is at a gap of 2e-4 after 20,000 iterations.
    np.testing.assert_allclose(float(lanes.objective[0]), optimum, rtol=2e-4)


def test_the_objective_rises_with_the_radius(lanes):
    lower, upper = np.asarray(lanes.dual), np.asarray(lanes.objective)
    assert np.all(upper[1:] >= lower[:-1])
    assert upper[2] > upper[0] * 1.01


def test_a_penalty_above_the_threshold_is_certified_to_give_zero():
    program = with_lam(_program("hinge"), 100.0)
    solution = solve(program, tol=_TOL, max_iterations=_BUDGET)
    assert int(solution.status) == Status.ALL_ZERO
    assert int(solution.iterations) == 0
    np.testing.assert_allclose(float(solution.objective), 1.0)


def test_fit_robust_returns_the_same_optimum_with_its_network_and_bounds():
    program = _program("hinge")
    X, f = teacher(14, 3, 0)
    y = labelled("hinge", f)
    D = np.asarray(program.plain.D)
    lam = float(program.plain.lam)
    fit = fit_robust(X, y, eps=_EPS, lam=lam, patterns=D, tol=_TOL, max_iterations=_BUDGET)
    assert fit.ok
    np.testing.assert_allclose(fit.objective, float(_solution("hinge").objective), rtol=2 * _TOL)
    np.testing.assert_allclose(fit.network_objective, fit.objective, rtol=1e-10)
    assert fit.slack >= 0
    assert fit.dual <= fit.objective
    assert fit.clean_loss < fit.robust_loss < fit.objective
    at_corners = _network("hinge")[1][1]
    np.testing.assert_allclose(fit.certified_accuracy(X, y), np.mean(y * np.asarray(at_corners) > 0))
    assert fit.patterns.dropped == int(np.sum(~D.any(axis=0)))
    assert fit.history["dual"][-1] == fit.dual
    assert fit.summary()["status"] == "converged"


def test_a_radius_at_which_every_cone_is_zero_is_said():
    X, f = teacher(14, 3, 0)
    D = np.asarray(_program("hinge").plain.D)
    fit = fit_robust(X, labelled("hinge", f), eps=50.0, patterns=D, tol=_TOL, max_iterations=_BUDGET)
    assert fit.status == Status.ALL_ZERO
    assert fit.neurons == 0
    assert "8 of 8 patterns have no robust cone at eps = 50" in fit.notes[0]
    np.testing.assert_allclose(fit.objective, 1.0)
    found = robust_patterns(jax.random.key(0), X, 1, eps=50.0, mask=np.ones(3), perturbations=0)
    assert "none of" in found.note
    assert not found.D.any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eps": -0.1}, "eps .* zero or more: got -0.1"),
        ({"eps": float("nan")}, "eps .* finite"),
        ({"norm": 3}, "must be one of inf, 2, 1: got 3"),
        ({"n_patterns": 0}, "n_patterns must be a whole number of at least 1"),
        ({"perturbations": -1}, "perturbations"),
        ({"lam": 0.0}, "lam .* must be positive: got 0"),
        ({"tol": 0.0}, "tol"),
        ({"X": np.full((6, 2), np.nan)}, "X must be finite"),
        ({"y": np.array([0, 1, 0, 1, 0, 1])}, "labels -1 and 1"),
        ({"y": np.ones(6)}, "needs both labels"),
        ({"y": np.ones((6, 2)), "loss": "squared"}, "vector"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(change, says):
    good = {"X": np.arange(12.0).reshape(6, 2), "y": np.array([1, -1] * 3), "eps": 0.1}
    with pytest.raises(ValueError, match=says):
        fit_robust(**{**good, **change})
