"""Amplitude and kind of the orbit of period 2 against iterated gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.dynamics.orbit import orbit
from pruneft.status import Status


def loss(theta, quartic=1.0, cubic=0.0, bend=0.0, flat=0.0, across=1.0):
    """Curvature 2 along a; b is bent by a^2, and c is flat unless a^2 pulls it."""
    a, b, c = theta
    return a**2 + cubic * a**3 / 6 - quartic * a**4 / 24 + across * b**2 / 2 + bend * a**2 * b / 2 + flat * a**2 * c / 2


CASES = {
    "quartic": {"quartic": 1.0},
    "cubic": {"quartic": 0.0, "cubic": 1.0},
    "transverse": {"quartic": 0.0, "bend": 1.0},
    "subcritical": {"quartic": -1.0},
    "all": {"quartic": 0.5, "cubic": 0.7, "bend": 0.8},
}


@pytest.fixture(scope="module")
def find():
    return jax.jit(lambda values, eta: orbit(lambda theta: loss(theta, *values), jnp.zeros(3), eta))


@pytest.fixture(scope="module")
def descend():
    def run(values, eta, start):
        def step(theta, _):
            return theta - eta * jax.grad(loss)(theta, *values), None

        theta = jax.lax.scan(step, start, None, length=20_000)[0]
        return theta, step(theta, None)[0]

    return jax.jit(run)


def values(name):
    given = {"quartic": 1.0, "cubic": 0.0, "bend": 0.0, "flat": 0.0, "across": 1.0} | CASES.get(name, {})
    return jnp.array(list(given.values()))


@pytest.mark.parametrize("name", [name for name in CASES if name != "subcritical"])
def test_the_amplitude_is_that_of_iterated_gradient_descent(name, find, descend):
    for mu in (0.002, 0.01):
        found = find(values(name), (2 + mu) / 2)
        assert int(found.status) == Status.CONVERGED
        assert float(found.mu) == pytest.approx(mu, rel=1e-9)
        one, other = descend(values(name), (2 + mu) / 2, jnp.array([0.01, 0.0, 0.0]))
        seen = float(jnp.linalg.norm(one - other)) / 2
        assert seen == pytest.approx(float(found.amplitude), rel=0.01)


def test_the_parts_are_those_of_closed_form(find):
    found = find(values("all"), 1.001)
    assert float(found.cubic) == pytest.approx((1.001 * 0.7 / 2) ** 2, rel=1e-9)
    assert float(found.quartic) == pytest.approx(1.001 * 0.5 / 6, rel=1e-9)
    assert float(found.transverse) == pytest.approx(1.001 / 2 * 0.8**2, rel=1e-9)
    np.testing.assert_allclose(np.abs(found.direction), [1, 0, 0], atol=1e-9)


def test_a_subcritical_minimiser_is_left(find, descend):
    found = find(values("subcritical"), 1.005)
    assert float(found.c) < 0
    assert np.isnan(found.amplitude)
    one, _ = descend(values("subcritical"), 1.005, jnp.array([0.01, 0.0, 0.0]))
    assert not np.all(np.abs(one) < 1)


def test_below_the_edge_a_supercritical_minimiser_has_no_orbit_and_a_subcritical_one_an_unstable_one(find, descend):
    assert float(find(values("quartic"), 0.99).amplitude) == 0
    size = float(find(values("subcritical"), 0.995).amplitude)
    assert size > 0
    ends = [descend(values("subcritical"), 0.995, jnp.array([share * size, 0.0, 0.0]))[0] for share in (0.95, 1.05)]
    assert abs(float(ends[0][0])) < 1e-6
    assert not abs(float(ends[1][0])) < 2 * size


def test_a_third_derivative_that_reaches_a_flat_direction_is_a_status(find):
    found = find(jnp.array([1.0, 0.0, 0.0, 1.0, 1.0]), 1.001)
    assert float(found.leak) > 0.5
    assert int(found.status) == Status.OUT_OF_DOMAIN


def test_a_repeated_sharpness_is_a_status(find):
    found = find(jnp.array([1.0, 0.0, 0.0, 0.0, 2.0]), 1.01)
    assert int(found.status) == Status.OUT_OF_DOMAIN
