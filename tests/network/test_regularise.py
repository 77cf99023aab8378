"""The prox is the minimiser that it should be, and the smooth penalty has its limits and its gradient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from pruneft import network
from pruneft.network import Pattern
from tests.network import models

CASE = models.PLAIN["residual"]
FAMILIES = network.groups(CASE.fn, CASE.params, *CASE.inputs)


def wide(tree):
    return {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}


def groups(tree):
    """Rows of producer entries: the residual stream's and the inner units'."""
    stream = np.concatenate([tree["in"], tree["w"], tree["b"][None], tree["d"]]).T
    return [*stream, *tree["u"].T]


PROXIMAL = network.proximal_groups(FAMILIES, 1.0, 0.1)
PROX = jax.jit(lambda tree, step: network.prox_groups(tree, FAMILIES, step))


def test_prox_is_the_numerical_minimiser():
    tree, step = wide(CASE.params), 1.0
    found = groups(wide(PROX(tree, step)))
    for before, after in zip(groups(tree), found, strict=True):
        weight = step * np.sqrt(before.size)

        def objective(x, before=before, weight=weight):
            # Smoothed by 1e-18, so that a quasi-Newton method may be used; the minimiser moves by far less than the bar.
            norm = np.sqrt(x @ x + 1e-18)
            return (x - before) @ (x - before) / 2 + weight * norm, x - before + weight * x / norm

        # The minimiser lies on the ray of the group, but the search does not know.
        best = minimize(objective, before * 0.5, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 500}).x
        np.testing.assert_allclose(after, best, atol=1e-6)
    assert any(not row.any() for row in found)
    assert any(row.any() for row in found)


def test_prox_is_firmly_non_expansive():
    rng = np.random.default_rng(0)
    for _ in range(50):
        pair = [
            {name: rng.normal(size=leaf.shape) * rng.uniform(0, 2) for name, leaf in CASE.params.items()} for _ in "ab"
        ]
        step = rng.uniform(0, 1)
        moved = [wide(PROX(tree, step)) for tree in pair]
        difference, change = ({n: a[n] - b[n] for n in a} for a, b in (pair, moved))
        inner = sum(np.vdot(change[n], difference[n]) for n in change)
        assert sum(np.vdot(c, c) for c in change.values()) <= inner * (1 + 1e-12) + 1e-12


def test_what_is_no_producer_stays_as_it_is():
    tree = wide(CASE.params)
    np.testing.assert_array_equal(PROX(tree, 0.4)["out"], tree["out"])


def test_prox_of_zero_groups_is_zero_and_has_no_nan():
    nothing = {name: np.zeros_like(leaf) for name, leaf in wide(CASE.params).items()}
    slope = jax.jit(jax.grad(lambda t: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(PROX(t, 0.1)))))(nothing)
    assert all(not np.any(leaf) for leaf in PROX(nothing, 0.1).values())
    assert all(np.all(np.isfinite(leaf)) for leaf in slope.values())


def test_penalty_tends_to_the_weighted_sum_of_norms():
    tree = wide(CASE.params)
    exact = sum(np.sqrt(row.size) * np.linalg.norm(row) for row in groups(tree))
    np.testing.assert_allclose(network.smoothed_group_penalty(tree, FAMILIES, 1e-14), exact, rtol=1e-10)
    assert network.smoothed_group_penalty(tree, FAMILIES) < exact
    np.testing.assert_allclose(network.smoothed_group_penalty(tree, FAMILIES), exact, rtol=1e-5)


def test_penalty_has_the_gradient_of_the_smoothed_norm():
    tree, beta = wide(CASE.params), 0.3
    slope = jax.grad(lambda t: network.smoothed_group_penalty(t, FAMILIES, beta))(tree)
    for row, found in zip(groups(tree), groups(wide(slope)), strict=True):
        q = row @ row
        np.testing.assert_allclose(found, np.sqrt(row.size) * row * (q + 2 * beta) / (q + beta) ** 1.5, rtol=1e-10)
    assert not np.any(slope["out"])


def test_proximal_step_after_gradient_descent_is_its_prox():
    tree = {name: jnp.asarray(leaf) for name, leaf in wide(CASE.params).items()}
    optimiser = optax.chain(
        optax.sgd(0.1), network.proximal_groups(FAMILIES, 2.0, lambda step: 0.1 / (1.0 + step.astype(float)))
    )
    slope = jax.tree.map(jnp.sin, tree)
    state = optimiser.init(tree)
    for turn in (1, 2):
        updates, state = optimiser.update(slope, state, tree)
        new = optax.apply_updates(tree, updates)
        expected = PROX(jax.tree.map(lambda w, g: w - 0.1 * g, tree, slope), 0.2 / turn)
        for name, leaf in new.items():
            np.testing.assert_allclose(leaf, expected[name], atol=1e-14)
        assert int(state[1].step) == turn
        # Zeros are zeros to the last bit, so that the groups can be counted.
        zero = [not row.any() for row in groups(wide(new))]
        assert zero == [not row.any() for row in groups(wide(expected))]


def test_overlapping_groups_are_an_error():
    case = models.PLAIN["mlp"]
    rules = {"f": [Pattern(path="w2", axis=0)], "g": [Pattern(path="w2", axis=1)]}
    written = network.families_of(case.params, rules)
    with pytest.raises(ValueError, match="w2 makes units of f along axis 0 and of g along axis 1"):
        network.prox_groups(case.params, written, 0.1)
    one = written.replace([dataclasses.replace(written[0])])
    assert network.prox_groups(case.params, one, 0.1)["w2"].shape == (8, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: network.smoothed_group_penalty(CASE.params, FAMILIES, 0.0), "beta .* must be positive: got 0.0"),
        (lambda: network.proximal_groups(FAMILIES, -1.0, 0.1), "lam must not be negative: got -1.0"),
        (
            lambda: PROXIMAL.update(CASE.params, PROXIMAL.init(CASE.params)),
            "needs the parameters",
        ),
    ],
)
def test_settings_out_of_range_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
