"""The constrained trajectory and the prediction around it, on a loss small enough to know everything about."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.dynamics import Domain, agreement, constrained, onset, predicted, track
from pruneft.status import Status

ETA = 0.1


def valley(theta):
    """Curvature ``20 + 2 b`` along a, which gradient descent on the slope -g b sharpens; c only makes a third direction."""
    a, b, c = theta
    return (20 + 2 * b) * a**2 / 2 - 0.05 * b + (c - 1) ** 2 + a**4 / 50


START = jnp.array([0.01, 0.02, 0.3])


@pytest.fixture(scope="module")
def both():
    """A point of the constrained trajectory and the next."""

    def compute(theta, eta):
        point = constrained.project(valley, theta, eta)
        return point, constrained.advance(valley, point, eta)

    return jax.jit(compute)


@pytest.fixture(scope="module")
def held(both):
    return both(START, ETA)[0]


def test_projection_lands_where_the_sharpness_is_2_over_eta_and_the_slope_along_u_is_zero(held):
    assert bool(held.active)
    assert abs(ETA * float(held.sharpness) - 2) < 1e-4
    assert abs(float(held.u @ held.gradient)) < 1e-6 * float(jnp.linalg.norm(held.gradient))
    np.testing.assert_allclose(held.theta, [0, 0, 0.3], atol=1e-4)


def test_local_quantities_are_those_of_closed_form(held):
    # S = 20 + 2 b on the floor, so grad S = (0, 2, 0); -grad L = (0, .05, ...).
    near = functools.partial(pytest.approx, rel=1e-5)
    np.testing.assert_allclose(held.slope, [0, 2, 0], atol=1e-5)
    assert float(held.alpha) == near(0.1)
    assert float(held.beta) == near(4)
    assert float(held.delta) == near(np.sqrt(0.05))
    assert float(held.eps) == near(ETA * np.sqrt(0.1))
    assert float(held.share) == near(1)
    assert float(held.second) == near(2)


def test_below_the_edge_nothing_is_forced(both):
    point = both(START, ETA / 2)[0]
    assert not bool(point.active)
    assert float(point.delta) == 0
    assert float(point.eps) == 0
    np.testing.assert_allclose(point.theta[1:], START[1:], atol=1e-4)  # only the slope along u is taken away
    assert int(constrained.verdict(point, ETA / 2)) == Status.CONVERGED


def test_the_domain_of_the_theory_is_a_status(held):
    def status(**change):
        return int(constrained.verdict(held._replace(**change), ETA))

    number = functools.partial(jnp.asarray, dtype=jnp.float64)
    assert status() == Status.CONVERGED
    assert status(eps=number(0.2)) == Status.OUT_OF_DOMAIN
    assert status(share=number(0.3)) == Status.OUT_OF_DOMAIN
    assert status(second=number(19.5)) == Status.OUT_OF_DOMAIN
    assert status(loss=number(np.nan)) == Status.NOT_FINITE
    short = held.eigen._replace(status=jnp.int32(Status.BUDGET_SPENT))
    assert status(eigen=short) == Status.BUDGET_SPENT
    assert int(constrained.verdict(held._replace(eps=number(0.2)), ETA, Domain(eps=0.3))) == Status.CONVERGED


@pytest.fixture(scope="module")
def runs():
    go = jax.jit(lambda start, eta, kick: track(valley, start, eta, steps=120, kick=kick))
    return lambda kick=0.7, eta=ETA: go(jnp.asarray(START), eta, kick)


def test_the_prediction_follows_gradient_descent_through_its_oscillations(runs):
    seen = runs()
    assert int(seen.status) == Status.CONVERGED
    assert int(seen.inside) == 120
    found = agreement(seen)
    assert float(found.x) > 0.99
    assert float(found.y) > 0.98
    assert float(found.loss) > 0.97
    assert float(found.amplitude) == pytest.approx(1, abs=0.2)
    # x turns its sign at every step, and y cycles: it is above and below zero.
    assert np.all(np.diff(np.sign(seen.x)) != 0)
    assert min(np.sum(seen.y > 0), np.sum(seen.y < 0)) > 20


def test_its_constrained_trajectory_stays_at_the_edge_while_plain_descent_goes_beyond(runs):
    seen = runs()
    assert np.max(np.abs(ETA * seen.sharpness_constrained - 2)) < 1e-5
    assert np.max(seen.tangency) < 1e-5
    assert np.max(ETA * seen.sharpness) > 2.01


def test_what_forces_the_sharpness_up_is_delta(held):
    v = predicted.kicked(held, 0.7)
    with_delta = predicted.step("simple", valley, held, held, v, ETA)
    without = predicted.step("simple", valley, held._replace(delta=jnp.zeros(())), held, v, ETA)
    push = ETA * float(held.delta**2 / 2 * held.beta)
    assert float(held.b @ (with_delta - without)) == pytest.approx(push, rel=1e-9)


def test_all_forms_agree_to_second_order(both):
    held, following = both(START, ETA)
    v = predicted.kicked(held, 0.1)
    ends = [predicted.step(form, valley, held, following, v, ETA) for form in predicted.FORMS]
    size = float(jnp.linalg.norm(v))
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], atol=2 * size**2)
    assert float(ends[0] @ v) < 0


def test_prediction_of_loss_and_sharpness_are_those_of_the_formulas(held):
    v = jnp.array([0.1, 0.02, 0.0])
    said = predicted.predict(held, v, ETA)
    assert abs(float(said.x)) == pytest.approx(0.1, rel=1e-5)
    assert float(said.y) == pytest.approx(0.04, rel=1e-4)
    assert float(said.loss) == pytest.approx(float(held.loss) + 0.1**2 / ETA, rel=1e-5)
    assert float(said.sharpness) == pytest.approx(20.04, rel=1e-5)


def test_divergence_is_a_status_and_not_an_exception(runs):
    seen = runs(kick=1e6)
    assert int(seen.status) == Status.NOT_FINITE
    assert int(seen.inside) < 120


def test_where_the_sharpness_never_rises_there_is_no_edge_and_onset_says_so():
    def of(sign, theta):
        """A bowl, a hill, or a slope without curvature: the sharpness is 2 sign everywhere."""
        return sign * jnp.sum(theta**2) + theta[0]

    find = jax.jit(lambda sign: onset(functools.partial(of, sign), jnp.array([0.3, 0.2]), steps=5))
    for sign, eta in ((1.0, 1 / 0.97), (0.0, np.inf), (-1.0, np.inf)):
        met = find(sign)
        assert int(met.status) == Status.OUT_OF_DOMAIN
        assert float(met.eta) == pytest.approx(eta)


def test_onset_finds_the_peak_of_the_sharpness_and_where_the_edge_is_met():
    def rise(theta):
        """Sharpness 1 + b along a, with b going to 2 by gradient flow."""
        return (1 + theta[1]) * theta[0] ** 2 / 2 + 0.25 * (theta[1] - 2) ** 2

    met = jax.jit(lambda start: onset(rise, start, 0.9, steps=150))(jnp.array([0.0, 0.0]))
    assert int(met.status) == Status.BUDGET_SPENT  # still rising, though by very little
    assert float(met.peak) == pytest.approx(3, rel=1e-3)
    assert float(met.eta) == pytest.approx(2 / (0.9 * 3), rel=1e-3)
    assert float(met.sharpness[met.steps]) >= 0.9 * float(met.peak) > float(met.sharpness[met.steps - 1])
    assert float(1 + met.theta[1]) == pytest.approx(float(met.sharpness[met.steps]), rel=1e-9)


def test_the_period_tends_to_that_of_the_linearised_map_and_is_that_of_the_iterated_one():
    eps, delta = 0.01, 1.0
    assert float(predicted.period(0.5 + 1e-6, eps)) == pytest.approx(np.sqrt(2) * np.pi / eps, rel=1e-5)
    eta, beta = 1.0, 2 * eps**2  # alpha = beta delta^2 / 2
    h = float(predicted.level(0.7, 0.0))

    def step(carry, _):
        return predicted.reduced(*carry, eta, beta, delta), carry

    _, (x, y) = jax.lax.scan(step, (jnp.asarray(0.7), jnp.asarray(0.0)), None, length=1200)
    up = np.flatnonzero((np.asarray(y[:-1]) < 0) & (np.asarray(y[1:]) >= 0))  # once a turn
    assert np.mean(np.diff(up)) == pytest.approx(float(predicted.period(h, eps)), rel=0.01)
    levels = predicted.level(jnp.abs(x) / delta, y / eps)
    assert np.max(np.abs(levels - h)) < 0.1 * h
    # Over whole turns x^2 averages delta^2.
    assert float(jnp.mean(x[up[0] : up[-1]] ** 2)) == pytest.approx(delta**2, rel=2e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: track(valley, START, ETA, steps=0), "steps must be a whole number of at least 1: got 0"),
        (
            lambda: track(valley, START, ETA, steps=2, form="exact"),
            "form must be one of simple, full, generalised: got 'exact'",
        ),
        (lambda: constrained.project(valley, START, ETA, sweeps=0), "sweeps must be at least 1: got 0"),
        (lambda: onset(valley, START, steps=0), "steps must be a whole number of at least 1: got 0"),
        (lambda: track(valley, START, -0.1, steps=2), "eta .* must be positive and finite: got -0.1"),
        (lambda: onset(valley, START, 1.2), "f .* must be above 0 and at most 1: got 1.2"),
    ],
)
def test_bad_input_is_a_clear_error(call, says):
    with pytest.raises(ValueError, match=says):
        call()
