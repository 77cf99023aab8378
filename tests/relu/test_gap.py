import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu import LOSSES, gap
from pruneft.relu.neurons import misplaced, network, network_objective, neurons
from tests.relu.conic import optimum, program, teacher

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=["float32", "float64"])
def exact(request):
    """A program, and blocks that break most cones."""
    made = teacher(24, 4, 10, "squared", dtype=request.param)
    return made, jnp.asarray(RNG.standard_normal((4, 20)), request.param)


def test_a_repaired_point_violates_nothing_however_its_products_are_summed(exact):
    made, U = exact
    fixed = gap.repair(made, U)
    assert not np.any(gap.holds(made, U).all())
    assert np.all(gap.holds(made, fixed))
    assert np.all(np.any(np.asarray(fixed) != 0, axis=0))
    E, X, F = (np.asarray(part) for part in (gap.cone_signs(made), made.X, fixed))
    assert np.all(E * (X @ F) >= 0)
    assert np.all(E[::-1] * (X[::-1, ::-1] @ F[::-1]) >= 0)
    u, _ = neurons(made, fixed)
    assert np.all(E * (X @ np.asarray(u)) >= 0)


def test_blocks_inside_their_cones_and_zero_blocks_hardly_move(exact):
    made, _ = exact
    inside = jnp.concatenate([made.H, 2 * made.H], axis=1).at[:, 3].set(0)
    fixed = np.asarray(gap.repair(made, inside))
    np.testing.assert_allclose(fixed, inside, rtol=1e-3 if made.X.dtype == jnp.float32 else 1e-12)
    assert not fixed[:, 3].any()


def test_a_block_whose_cone_has_no_usable_direction_becomes_zero(exact):
    made, U = exact
    blind = dataclasses.replace(made, H=made.H.at[:, 0].set(0))
    fixed = np.asarray(gap.repair(blind, U))
    assert not fixed[:, [0, 10]].any()
    assert fixed[:, 1:10].any(axis=0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", ["exact", "relaxed"])
def test_no_multipliers_whatever_give_a_dual_value_above_the_optimum(loss, form):
    made = teacher(12, 3, 5, loss, form=form)
    value = optimum(made)
    slope = made.losses.slope(jnp.zeros_like(made.y), made.y, made.weights)
    values, dual = [], jax.jit(gap.dual_value)
    for _ in range(30):
        nu = RNG.uniform(0.1, 30) * (slope + RNG.uniform(0, 2) * np.abs(slope).max() * RNG.standard_normal(12))
        mu = jnp.asarray(RNG.uniform(0, 1) * RNG.standard_normal(made.S.shape))
        values.append(float(dual(made, jnp.asarray(nu), mu)))
    assert max(values) <= value * (1 + 1e-9)
    assert max(values) > 0


def test_lam_max_is_where_the_relaxed_solution_becomes_zero():
    made = teacher(12, 3, 5, "squared", form="relaxed", lam=1.0)
    zero = float(jnp.sum(made.y**2)) / 2
    assert optimum(dataclasses.replace(made, lam=made.lam * 1.001)) == pytest.approx(zero, rel=1e-8)
    assert optimum(dataclasses.replace(made, lam=made.lam * 0.99)) < zero * (1 - 1e-6)


@pytest.mark.parametrize("skip", [False, True])
def test_the_network_of_feasible_blocks_has_their_predictions_and_objective(skip):
    made = teacher(24, 4, 10, "squared", skip=skip)
    U = gap.repair(made, jnp.asarray(RNG.standard_normal((4, 20 + skip)))).at[:, 5].set(0)
    found = network([made], [U])
    assert found.neurons == 19
    assert np.all(np.asarray(found.alpha) != 0)
    np.testing.assert_allclose(found(made.X), made.predict(U), rtol=1e-10, atol=1e-12)
    assert float(network_objective([made], found)) == pytest.approx(float(made.objective(U)), rel=1e-12)
    assert (np.abs(np.asarray(found.linear)).sum() > 0) == skip
    with pytest.raises(ValueError, match="expected X with 4 columns"):
        found(made.X[:, :3])


def test_blocks_outside_their_cones_are_no_network_and_would_have_another_objective():
    made = teacher(24, 4, 10, "squared")
    U = jnp.asarray(RNG.standard_normal((4, 20)))
    assert misplaced(made, U).any()
    assert network([made], [U]) is None
    u, alpha = neurons(made, U)
    wrong = jnp.maximum(made.X @ u, 0) @ alpha
    assert float(jnp.max(jnp.abs(wrong - made.predict(U)))) > 0.1


def test_a_relaxed_block_is_a_neuron_where_it_or_its_negative_lies_in_the_cone():
    X = RNG.standard_normal((10, 3))
    H = RNG.standard_normal((3, 2))
    made = program(X, RNG.standard_normal(10), (X @ H >= 0).astype(float), H, "squared", form="relaxed")
    U = jnp.asarray(np.stack([2 * H[:, 0], -3 * H[:, 1]], axis=1))
    found = network([made], [U])
    assert np.sign(np.asarray(found.alpha)).tolist() == [1, -1]
    np.testing.assert_allclose(found(made.X), made.predict(U), rtol=1e-10)
    assert network([made], [U.at[:, 0].set(H[:, 1])]) is None
