import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.optim import LMConfig
from pruneft.pipeline import Penalty
from pruneft.sensing import PackedOperator, draw_instance
from pruneft.sensing import answer as answers
from pruneft.sensing import lane as lanes
from pruneft.sensing.operator import Gram

D, K, R = 4, 3, 2
PENALTY = Penalty(*(jnp.full((1, 1, 1), value, jnp.float32) for value in (0.3, 1e-6, 1e-2, 1e-3)))
WIDE, NARROW = 14, 9  # the packed length is 10: the first is worth the Gram form, the second is not


@functools.cache
def _instance(n, sigma=0.05):
    return jax.jit(lambda key: draw_instance(key, n=n, d=D, r=R, kappa=3.0, sigma=sigma, dtype=jnp.float64))(
        jax.random.key(3)
    )


def _starts(train, d=D, k=K, live_k=K):
    return lanes.draw_starts(jax.random.key(1), 2, 2, d, k, live_d=D, live_k=live_k, norm=2.0, dtype=train)


@functools.partial(jax.jit, static_argnames=("train", "dtype"))
def _make(rows, y, n, d, sigma, *, train="float64", dtype="float64"):
    starts = jnp.ones((1, 1, 1, K), train)
    return lanes.make_lane(
        PackedOperator(rows.astype(dtype)), y.astype(dtype), starts, PENALTY, n=n, d=d, sigma=sigma, rank=0
    )


def _lane(n, *, by_y=1.0, by_a=1.0, **types):
    drawn = _instance(n)
    rows = jnp.asarray(drawn.operator.rows, jnp.float64)
    return _make(by_a * rows, by_y * drawn.y, float(n), float(D), 0.05 * by_y, **types)


GRADIENT = jax.jit(lanes.gradient)
FACTORS = jnp.asarray(np.random.default_rng(0).standard_normal((2, D, K)))


@pytest.mark.parametrize("unit", [1e-3, 1e3, 1e-30, 1e30])
def test_units_of_y_do_not_reach_the_normalised_problem(unit):
    plain, scaled = _lane(WIDE), _lane(WIDE, by_y=unit)
    chex.assert_trees_all_close(scaled.y, plain.y, rtol=1e-12)
    np.testing.assert_allclose(np.mean(np.asarray(scaled.y) ** 2), 1, rtol=1e-12)
    np.testing.assert_allclose(scaled.noise, plain.noise, rtol=1e-12)
    np.testing.assert_allclose(scaled.scale, unit * plain.scale, rtol=1e-12)
    chex.assert_trees_all_close(GRADIENT(scaled, FACTORS), GRADIENT(plain, FACTORS), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [WIDE, NARROW])
@pytest.mark.parametrize("unit", [1e-3, 1e3, 1e-24, 1e24])
@pytest.mark.parametrize("train", ["float32", "float64"])
def test_units_of_the_measurements_do_not_reach_the_normalised_problem(n, unit, train):
    # In float32 the squares of the larger units overflow: the gain must be divided out before they are formed.
    plain, scaled = _lane(n, train=train), _lane(n, by_a=unit, train=train)
    np.testing.assert_allclose(scaled.gain, unit * plain.gain, rtol=1e-12)
    np.testing.assert_allclose(scaled.scale * scaled.gain, plain.scale * plain.gain, rtol=1e-12)
    loose = {"float32": 1e-4, "float64": 1e-10}[train]
    factors = FACTORS.astype(train)
    chex.assert_trees_all_close(GRADIENT(scaled, factors), GRADIENT(plain, factors), rtol=loose, atol=loose)
    chex.assert_trees_all_close(RESIDUAL(scaled, FACTORS), RESIDUAL(plain, FACTORS), rtol=1e-9, atol=1e-10)


RESIDUAL = jax.jit(lanes.residual)


def test_the_answer_comes_back_in_the_units_of_the_data():
    # M = scale U Uᵀ: at the truth's factor over root scale the residual is the noise alone.
    drawn, lane = _instance(WIDE, sigma=0.0), None
    lane = _make(3.0 * jnp.asarray(drawn.operator.rows, jnp.float64), 5.0 * drawn.y, float(WIDE), float(D), 0.0)
    factor = drawn.factor * jnp.sqrt(5.0 / 3.0 / lane.scale)
    np.testing.assert_allclose(RESIDUAL(lane, factor[None])[0], 0, atol=1e-6)


@pytest.mark.parametrize(("n", "form"), [(WIDE, Gram), (NARROW, type(None))])
def test_gradient_is_that_of_the_mean_squared_error_in_both_forms(n, form):
    lane = _lane(n)
    assert isinstance(lane.fast, form)
    dense = np.zeros((n, D, D))
    upper = np.triu_indices(D)
    order = np.lexsort(upper)  # by column, then row
    rows = np.asarray(lane.operator.rows, np.float64)
    for place, e in enumerate(order):
        i, j = upper[0][e], upper[1][e]
        dense[:, i, j] = dense[:, j, i] = rows[:, place] / (1 if i == j else 2**0.5)
    dense, y = jnp.asarray(dense / float(lane.gain)), lane.y

    def loss(u):
        return jnp.mean((jnp.einsum("nij,ik,jk->n", dense, u, u) - y) ** 2)

    expected = jax.jit(jax.vmap(jax.grad(loss)))(FACTORS)
    chex.assert_trees_all_close(GRADIENT(lane, FACTORS), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [WIDE, NARROW])
def test_padding_is_inert_in_the_gradient(n):
    plain = _lane(n)
    drawn = _instance(n)
    d, k, more = D + 2, K + 2, n + 8
    rows = jnp.zeros((more, d * (d + 1) // 2)).at[:n, :10].set(drawn.operator.rows.astype(float))
    padded = _make(rows, jnp.zeros(more).at[:n].set(drawn.y), float(n), float(D), 0.05)
    factors = jnp.zeros((2, d, k)).at[:, :D, :K].set(FACTORS)
    slope = np.array(GRADIENT(padded, factors))
    np.testing.assert_allclose(slope[:, :D, :K], GRADIENT(plain, FACTORS), rtol=1e-9, atol=1e-11)
    slope[:, :D, :K] = 0
    assert not slope.any()
    np.testing.assert_allclose(padded.scale, plain.scale, rtol=1e-12)
    assert not np.any(np.asarray(RESIDUAL(padded, factors))[:, n:])


def test_training_form_is_in_the_dtype_of_the_starts():
    lane = _lane(NARROW, train="float32")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(lane.fast)} == {"float32"}
    assert GRADIENT(lane, FACTORS.astype("float32")).dtype == np.float32
    assert lane.y.dtype == np.float64


def test_unknown_noise_is_nan_and_data_that_are_all_zero_stay_finite():
    lane = lanes.make_lane(PackedOperator(jnp.zeros((3, 1))), jnp.zeros(3), jnp.ones((1, 1, 1, 1)), PENALTY)
    assert np.isnan(lane.noise)
    np.testing.assert_array_equal(lane.y, 0)


def test_residual_sum_of_squares_and_residual_matrix_belong_together():
    lane = _lane(WIDE)
    factor = FACTORS[0]
    slope = jax.jit(jax.grad(lambda u: lanes.rss(lane, u)))(factor)
    expected = 4 * WIDE * jax.jit(lanes.residual_matrix)(lane, factor) @ factor
    chex.assert_trees_all_close(slope, expected, rtol=1e-10)
    np.testing.assert_allclose(lanes.rss(lane, factor), np.sum(np.asarray(RESIDUAL(lane, FACTORS))[0] ** 2), rtol=1e-12)


CANONICAL = functools.partial(jax.jit(lanes.canonical, static_argnames="merge"), _lane(WIDE))


def test_canonical_form_keeps_the_matrix_and_has_orthogonal_columns_by_falling_norm(dtype, tolerance):
    factor = jnp.asarray(np.random.default_rng(1).standard_normal((6, 4)), dtype)
    tidy, rank = CANONICAL(factor, merge=0.0)
    assert (int(rank), tidy.dtype) == (4, dtype)
    np.testing.assert_allclose(tidy @ tidy.T, factor @ factor.T, atol=50 * tolerance)
    products = np.asarray(tidy.T @ tidy)
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=50 * tolerance)
    assert np.all(np.diff(np.diag(products)) < 0)


def test_canonical_form_merges_parallel_columns():
    u, v = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 2)))[0].T
    factor = jnp.asarray(np.stack([3 * u, v, 4 * u, -2 * v], axis=1))
    tidy, rank = CANONICAL(factor, merge=0.03)
    assert int(rank) == 2
    assert not np.any(tidy[:, 2:])
    np.testing.assert_allclose(
        np.abs(np.asarray(tidy[:, :2]).T @ np.stack([u, v], 1)), np.diag([5, 5**0.5]), atol=1e-12
    )


def test_canonical_form_drops_what_is_below_the_merging_share_and_beyond_the_limit():
    factor = jnp.asarray(np.diag([1.0, 0.5, 0.029, 0.0]))
    assert int(CANONICAL(factor, merge=0.03)[1]) == 2
    assert int(CANONICAL(factor, merge=0.0)[1]) == 3
    limit = jnp.asarray(1, jnp.int32)
    tidy, rank = CANONICAL(factor, merge=0.0, limit=limit)
    assert int(rank) == 1
    np.testing.assert_allclose(tidy @ tidy.T, np.diag([1.0, 0, 0, 0]), atol=1e-14)
    assert int(CANONICAL(factor, merge=0.0, limit=0 * limit)[1]) == 3  # 0 bounds nothing


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_canonical_form_of_nothing_is_zero_of_rank_zero(bad):
    tidy, rank = CANONICAL(jnp.full((4, 4), bad), merge=0.0)
    assert int(rank) == 0
    assert not np.any(tidy)


def test_fit_reaches_the_truth_from_near_it():
    drawn = _instance(NARROW, sigma=0.0)
    lane = _make(jnp.asarray(drawn.operator.rows, jnp.float64), drawn.y, float(NARROW), float(D), 0.0)
    exact = drawn.factor[:, :R] / jnp.sqrt(lane.scale)
    near = exact + 0.05 * jnp.asarray(np.random.default_rng(0).standard_normal((3, D, R)))
    result = jax.jit(lanes.fit, static_argnums=2)(lane, near, LMConfig())
    assert result.x.shape == (3, D * R)
    for x, start in zip(result.x, near):
        u = np.asarray(x).reshape(D, R)
        np.testing.assert_allclose(float(lane.scale) * u @ u.T, drawn.truth, atol=1e-6)
        assert np.linalg.norm(start @ start.T - exact @ exact.T) > 0.05
    # Sums of squares are in the units of the normalised data, not of the mean.
    np.testing.assert_allclose(result.trace[:, 0], jax.jit(lanes.rss)(lane, near), rtol=1e-9)
    np.testing.assert_allclose(result.rss, jax.jit(lanes.rss)(lane, result.x.reshape(3, D, R)), atol=1e-12)


def test_starts_do_not_change_when_the_factor_is_padded():
    plain = np.asarray(_starts("float64"))
    padded = np.array(_starts("float64", d=D + 3, k=K + 2))
    np.testing.assert_array_equal(padded[:, :, :D, :K], plain)
    padded[:, :, :D, :K] = 0
    assert not padded.any()


def test_starts_differ_between_attempts_starts_and_columns_and_have_the_norm_asked_for():
    starts = np.asarray(
        lanes.draw_starts(jax.random.key(1), 3, 20, 16, 16, live_d=16, live_k=16, norm=2.0, dtype=jnp.float32)
    )
    columns = np.swapaxes(starts, -1, -2).reshape(-1, 16)
    assert len({column.tobytes() for column in columns}) == 3 * 20 * 16
    # ||U||_F^2 is 4 chi2_256/256: mean 4, standard error 4 sqrt(2/256/60) = .046 over 60 starts.
    assert abs(np.mean(np.sum(starts.astype(float) ** 2, axis=(-1, -2))) - 4) < 5 * 0.046


def test_more_attempts_and_live_columns_leave_the_first_ones_direction_alone():
    fewer, more = np.asarray(_starts("float64", live_k=2)), np.asarray(_starts("float64"))
    np.testing.assert_allclose(fewer[..., :2] * (2 / 3) ** 0.5, more[..., :2], rtol=1e-6)
    assert not np.any(fewer[..., 2:])


def test_largest_columns_come_by_falling_norm():
    factor = jnp.asarray(np.diag([0.1, 3.0, 0.0, 2.0]))
    np.testing.assert_array_equal(lanes.largest_columns(factor, 2), np.eye(4)[:, [1, 3]] * [3.0, 2.0])


def test_columns_are_padded_with_zeros_or_cut():
    factor = jnp.ones((2, 3, 2))
    wide = np.asarray(lanes.pad_columns(factor, 4))
    assert wide.shape == (2, 3, 4)
    assert (wide[..., :2] == 1).all()
    assert not wide[..., 2:].any()
    assert lanes.pad_columns(factor, 1).shape == (2, 3, 1)


def test_finite_looks_at_every_start():
    factors = jnp.ones((3, 2, 2)).at[1, 0, 1].set(jnp.nan).at[2, 1, 1].set(-jnp.inf)
    assert np.asarray(lanes.finite(factors)).tolist() == [True, False, False]


def _answer(rank, rss):
    return answers.make_answer(
        jnp.zeros((D, K)), jnp.asarray(rank, jnp.int32), jnp.asarray(rss), jnp.full((2,), jnp.nan)
    )


def test_noise_is_estimated_from_what_is_left_over_and_nan_if_nothing_is():
    lane = _lane(WIDE, by_y=10.0)
    # n - dof = 14 - 7 at rank 2 of a 4 x 4 matrix.
    np.testing.assert_allclose(answers.sigma_estimate(lane, _answer(2, 0.7)), float(lane.unit) * 0.1**0.5, rtol=1e-12)
    assert np.isnan(answers.sigma_estimate(_lane(NARROW), _answer(4, 0.7)))  # dof 10 > 9


def test_report_compares_with_the_truth_in_its_own_units():
    drawn = _instance(WIDE)
    truth = lanes.Truth(drawn.truth, jnp.asarray(R, jnp.int32))
    lane = _lane(WIDE)._replace(truth=truth)
    half = drawn.factor[:, :K] * jnp.sqrt(0.5 / lane.scale)
    answer = _answer(2, 0.7)._replace(factor=half)
    values = jax.jit(answers.report)(lane, answer, jnp.asarray(1, jnp.int32), jnp.asarray(9, jnp.int32))
    np.testing.assert_allclose(values["error"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(values["residual"], (0.7 / WIDE) ** 0.5, rtol=1e-12)
    assert {name: int(values[name]) for name in ("status", "rank", "steps")} == {"status": 1, "rank": 2, "steps": 9}
    assert "error" not in answers.report(_lane(WIDE), answer, jnp.asarray(1, jnp.int32), jnp.asarray(9, jnp.int32))
