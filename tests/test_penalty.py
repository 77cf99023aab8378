import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize

from pruneft.penalty import (
    group_norm,
    group_norms,
    prox_group_norm,
    prunability_gap,
    smoothed_group_norm,
    smoothed_group_norm_gradient,
)

AXES = [(-2, (5, 3)), (-1, (5, 3)), (0, (5, 3)), ((0, 1, 2), (2, 3, 2, 4)), (-2, (2, 5, 3))]


_gap = jax.jit(prunability_gap)
_absolute_gap = jax.jit(lambda factor: prunability_gap(factor, relative=False))


def _groups(shape, dtype="float64", seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def _orthonormal(d, k, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, k)))[0]


@pytest.mark.parametrize(("axis", "shape"), AXES)
def test_group_norms_are_numpys(axis, shape, dtype, tolerance):
    groups = _groups(shape, dtype)
    norms, total = jax.jit(lambda g: (group_norms(g, axis=axis), group_norm(g, axis=axis)))(groups)
    expected = np.sqrt(np.sum(np.asarray(groups, np.float64) ** 2, axis=axis))
    assert norms.dtype == dtype
    np.testing.assert_allclose(norms, expected, rtol=tolerance)
    np.testing.assert_allclose(total, expected.sum(), rtol=tolerance)


@pytest.mark.parametrize(("axis", "shape"), AXES)
def test_smoothed_norm_and_its_gradient_follow_the_formula_on_every_axis(axis, shape, dtype, tolerance):
    groups, beta = _groups(shape, dtype), 0.3
    u = np.asarray(groups, np.float64)
    q = np.sum(u**2, axis=axis, keepdims=True)
    value, slope, traced = jax.jit(
        lambda g: (
            smoothed_group_norm(g, beta, axis=axis),
            smoothed_group_norm_gradient(g, beta, axis=axis),
            jax.grad(lambda x: smoothed_group_norm(x, beta, axis=axis))(g),
        )
    )(groups)
    assert (value.dtype, slope.dtype) == (dtype, dtype)
    np.testing.assert_allclose(value, np.sum(q / np.sqrt(q + beta)), rtol=tolerance)
    np.testing.assert_allclose(slope, u * (q + 2 * beta) / (q + beta) ** 1.5, rtol=10 * tolerance)
    chex.assert_trees_all_close(slope, traced, rtol=10 * tolerance)


def test_smoothed_gradient_agrees_with_finite_differences():
    groups, beta, h = _groups((4, 3)), 0.05, 1e-6
    slope = np.asarray(smoothed_group_norm_gradient(groups, beta))
    steps = h * jnp.eye(12).reshape(12, 4, 3)
    value = jax.jit(jax.vmap(lambda step: smoothed_group_norm(groups + step, beta)))
    np.testing.assert_allclose(slope.ravel(), (value(steps) - value(-steps)) / (2 * h), atol=1e-8)


def test_smoothed_norm_tends_to_the_norm_from_below_and_misses_at_most_root_beta_per_group():
    groups = _groups((6, 4)) * jnp.asarray([1e-4, 1e-2, 0.3, 5.0])
    exact, betas = float(group_norm(groups)), (1.0, 1e-2, 1e-4, 1e-8, 1e-16)
    smoothed = jax.jit(smoothed_group_norm)
    shortfalls = [exact - float(smoothed(groups, beta)) for beta in betas]
    assert all(0 <= miss <= 4 * beta**0.5 for miss, beta in zip(shortfalls, betas))
    assert shortfalls == sorted(shortfalls, reverse=True)
    assert shortfalls[-1] < 1e-10


def test_small_groups_feel_weight_decay_and_large_ones_a_unit_pull():
    beta = 1e-2
    small, large = _groups((5, 1)) * 1e-6, _groups((5, 1)) * 1e4
    chex.assert_trees_all_close(smoothed_group_norm_gradient(small, beta), 2 * small / beta**0.5, rtol=1e-6)
    chex.assert_trees_all_close(
        smoothed_group_norm_gradient(large, beta), large / jnp.linalg.norm(large), rtol=1e-8, atol=0
    )


def test_zero_columns_get_a_finite_zero_gradient_from_autodiff(dtype):
    factor = _groups((5, 4), dtype).at[:, 2].set(0)
    penalties = (group_norm, lambda u: smoothed_group_norm(u, 1e-3), lambda u: jnp.sum(group_norms(u) ** 3))
    slopes, at_zero = jax.jit(
        lambda u: ([jax.grad(penalty)(u) for penalty in penalties], jax.grad(group_norm)(jnp.zeros_like(u)))
    )(factor)
    for slope in slopes:
        assert np.isfinite(slope).all()
        assert not np.any(slope[:, 2])
        assert np.all(np.any(np.asarray(slope)[:, [0, 1, 3]], axis=0))
    assert not np.any(at_zero)
    assert not np.any(smoothed_group_norm_gradient(factor, 1e-3)[:, 2])


def test_second_derivative_of_the_smoothed_norm_at_zero_is_weight_decay():
    beta = 0.04
    hessian = jax.jit(jax.hessian(lambda u: smoothed_group_norm(u[:, None], beta)))(jnp.zeros(3))
    chex.assert_trees_all_close(hessian, 2 / beta**0.5 * jnp.eye(3), rtol=1e-12)


def test_gradient_of_the_gap_is_finite_at_a_zero_column_of_a_tall_factor():
    # Norms and singular values must both stay differentiable; distinct singular values, one column exactly zero.
    factor = jnp.zeros((6, 3)).at[:, 0].set(_groups((6,))).at[:, 1].set(_groups((6,), seed=1))
    slope = jax.jit(jax.grad(lambda u: prunability_gap(u, relative=False)))(factor)
    assert np.isfinite(slope).all()


def test_penalties_are_the_same_under_jit_and_lane_by_lane_under_vmap():
    lanes, betas = _groups((3, 5, 4)), jnp.asarray([1e-3, 1e-1, 2.0])
    value, gap = jax.jit(smoothed_group_norm), jax.jit(prunability_gap)
    values = jax.jit(jax.vmap(smoothed_group_norm))(lanes, betas)
    np.testing.assert_allclose(values, [value(u, b) for u, b in zip(lanes, betas)], rtol=1e-13)
    # The same beta per lane by broadcasting instead of vmap.
    slopes = jax.jit(smoothed_group_norm_gradient)(lanes, betas[:, None, None])
    chex.assert_trees_all_close(slopes, jax.jit(jax.vmap(smoothed_group_norm_gradient))(lanes, betas), rtol=1e-13)
    np.testing.assert_allclose(gap(lanes), [gap(u) for u in lanes], rtol=1e-10)


@pytest.mark.parametrize("function", [smoothed_group_norm, smoothed_group_norm_gradient])
@pytest.mark.parametrize("beta", [0, 0.0, -1e-3, float("nan")])
def test_a_smoothing_that_is_not_positive_is_refused(function, beta):
    with pytest.raises(ValueError, match=r"beta .* must be positive: got"):
        function(jnp.ones((2, 2)), beta)


@pytest.mark.parametrize("step", [0.3, 1.0, 4.0])
def test_prox_is_the_minimiser_that_scipy_finds(step):
    groups = np.array([[2.0, 0.1, 0.7], [1.0, -0.2, 0.7], [-1.0, 0.1, 0.2]])

    def goal(flat):
        x = flat.reshape(groups.shape)
        return 0.5 * np.sum((x - groups) ** 2) + step * np.sum(np.linalg.norm(x, axis=0))

    found = np.asarray(prox_group_norm(jnp.asarray(groups), step))
    searched = minimize(goal, groups.ravel(), method="Powell", options={"xtol": 1e-10, "ftol": 1e-14, "maxiter": 20000})
    assert goal(found.ravel()) <= searched.fun + 1e-9
    np.testing.assert_allclose(found, searched.x.reshape(groups.shape), atol=1e-4)


@pytest.mark.parametrize(("axis", "shape"), AXES)
def test_prox_satisfies_the_optimality_conditions_on_every_axis(axis, shape, dtype, tolerance):
    groups, step = _groups(shape, dtype), 1.5
    result = np.asarray(jax.jit(lambda g: prox_group_norm(g, step, axis=axis))(groups), np.float64)
    u = np.asarray(groups, np.float64)
    sizes = np.sqrt(np.sum(u**2, axis=axis, keepdims=True))
    left = np.sqrt(np.sum(result**2, axis=axis, keepdims=True))
    live = np.broadcast_to(left > 0, u.shape)
    assert live.any()
    assert np.all(sizes[left == 0] <= step)
    # x - u + step x/||x|| = 0 where x is not zero.
    defect = result - u + step * result / np.where(left > 0, left, 1)
    np.testing.assert_allclose(np.where(live, defect, 0), 0, atol=10 * tolerance)


def test_prox_sets_small_groups_to_exactly_zero_and_step_zero_changes_nothing():
    groups = _groups((4, 3)).at[:, 1].multiply(1e-3).at[:, 2].set(0)
    shrunk = prox_group_norm(groups, 0.5)
    assert not np.any(shrunk[:, 1:])
    assert np.any(shrunk[:, 0])
    chex.assert_trees_all_equal(prox_group_norm(groups, 0), groups)
    with pytest.raises(ValueError, match=r"must not be negative: got -0\.1"):
        prox_group_norm(groups, -0.1)


@given(hnp.arrays(np.float64, (4, 3), elements=st.sampled_from([0.0, 1e-4, -0.5, 1.0, 3.0])), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_gap_is_never_negative_and_does_not_depend_on_units(factor, unit):
    gap = float(_gap(factor))
    assert gap >= -1e-12
    np.testing.assert_allclose(_gap(unit * factor), gap, atol=1e-10)
    total = np.linalg.svd(factor, compute_uv=False).sum()
    np.testing.assert_allclose(_absolute_gap(unit * factor), unit * gap * total, atol=1e-10 * unit)


def test_gap_is_zero_for_orthogonal_columns_and_positive_once_they_are_not(dtype, tolerance):
    basis = _orthonormal(6, 3)
    orthogonal = np.zeros((6, 5))
    orthogonal[:, [0, 2, 3]] = basis * [3.0, 1.0, 0.2]
    assert abs(float(_gap(jnp.asarray(orthogonal, dtype)))) < 5 * tolerance
    tilted = orthogonal.copy()
    tilted[:, 2] += 0.1 * tilted[:, 0]
    assert float(_gap(jnp.asarray(tilted, dtype))) > 1e-3


@pytest.mark.parametrize("angle", [0.0, 0.2, np.pi / 4, 1.3])
def test_gap_of_a_rotated_factor_has_its_closed_form(angle):
    # V diag(a, b) Q: singular values stay a and b, the columns become sqrt(a²c² + b²s²) and sqrt(a²s² + b²c²).
    a, b, c, s = 2.0, 0.5, np.cos(angle), np.sin(angle)
    factor = _orthonormal(5, 2) @ np.diag([a, b]) @ np.array([[c, -s], [s, c]])
    expected = np.hypot(a * c, b * s) + np.hypot(a * s, b * c) - (a + b)
    np.testing.assert_allclose(_absolute_gap(factor), expected, atol=1e-12)
    np.testing.assert_allclose(_gap(jnp.asarray(factor)), expected / (a + b), atol=1e-12)


def test_padded_columns_and_rows_change_nothing():
    factor = _groups((5, 3))
    padded = jnp.zeros((7, 6)).at[:5, :3].set(factor)
    chex.assert_trees_all_close(prunability_gap(padded), prunability_gap(factor), rtol=1e-11)
    chex.assert_trees_all_close(smoothed_group_norm(padded, 0.1), smoothed_group_norm(factor, 0.1), rtol=1e-13)
    slope = smoothed_group_norm_gradient(padded, 0.1)
    chex.assert_trees_all_close(slope[:5, :3], smoothed_group_norm_gradient(factor, 0.1), rtol=1e-13)
    assert not np.any(slope[5:])
    assert not np.any(slope[:, 3:])
    assert float(prunability_gap(jnp.zeros((3, 2)))) == 0
