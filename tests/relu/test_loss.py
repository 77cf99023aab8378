import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from pruneft.relu import LOSSES, loss_named

Y = np.array([1.0, -1.0, 1.0, -1.0])
C = np.array([0.3, 2.0, 1.0, 0.0])  # the last row is padding


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("tau", [1e-3, 1.0, 50.0, 1e4])
def test_the_prox_is_the_minimiser(name, tau):
    loss, r = LOSSES[name], np.array([0.3, 2.0, -40.0, 0.7])
    found = np.asarray(loss.prox(jnp.asarray(r), jnp.asarray(Y), jnp.asarray(C * tau)))
    for k in range(4):

        def goal(f, k=k):
            one = [jnp.asarray([v]) for v in (f, Y[k], C[k] * tau)]
            return float(loss.value(*one)) + (f - r[k]) ** 2 / 2

        reach = 60 + 2 * tau
        best = minimize_scalar(goal, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-9})
        assert goal(found[k]) <= goal(best.x) + 1e-9 * abs(goal(best.x))
    assert found[3] == r[3]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("limit", [0.2, 1.0, 30.0])
def test_the_dual_value_is_the_best_over_scalings_and_below_what_any_prediction_costs(name, limit):
    loss, rng = LOSSES[name], np.random.default_rng(0)
    y, c = jnp.asarray(Y), jnp.asarray(C)
    nu = loss.dual_point(jnp.asarray(0.7 * rng.standard_normal(4)), y, c)
    value, t = loss.dual_value(nu, y, c, jnp.asarray(limit))
    assert 0 <= float(t) <= limit

    def conjugate(scaled):  # max over f of nu f - l(f), row by row
        f = np.linspace(-60, 60, 120_001)
        total = 0.0
        for k in range(3):
            row = [np.asarray(part) for part in (f, np.full_like(f, Y[k]), np.full_like(f, C[k]))]
            each = {
                "squared": lambda f, y, c: c * (f - y) ** 2 / 2,
                "hinge": lambda f, y, c: c * np.maximum(1 - y * f, 0),
                "bce": lambda f, y, c: c * np.logaddexp(0, -2 * y * f),
            }[name](*row)
            total += np.max(scaled[k] * f - each)
        return total

    assert -float(value) == pytest.approx(conjugate(float(t) * np.asarray(nu)), abs=2e-3)
    inside = [
        s
        for s in np.linspace(0, limit, 41)
        if np.all(np.abs(s * np.asarray(loss.dual_point(s * nu, y, c) - s * nu)) < 1e-12)
    ]
    assert float(value) >= max(-conjugate(s * np.asarray(nu)) for s in inside) - 2e-3


@pytest.mark.parametrize("name", LOSSES)
def test_padded_rows_cost_nothing(name):
    loss = LOSSES[name]
    f, y = jnp.asarray([0.3, -0.2]), jnp.asarray([1.0, -1.0])
    padded = [jnp.concatenate([part, jnp.asarray([9.0])]) for part in (f, y)]
    one, weights = jnp.ones(2), jnp.asarray([1.0, 1.0, 0.0])
    assert float(loss.value(*padded, weights)) == float(loss.value(f, y, one))
    np.testing.assert_array_equal(loss.slope(*padded, weights), [*np.asarray(loss.slope(f, y, one)), 0])


def test_an_unknown_loss_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="one of squared, hinge, bce: got 'l2'"):
        loss_named("l2")
