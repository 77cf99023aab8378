import math

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.sensing.selection import criterion, edge_constants, edge_penalties, predicted_error, sure_gap

_by_dof = jax.jit(edge_penalties, static_argnums=(2, 3))


def _dof(q, d):
    return q * d - q * (q - 1) / 2


def _penalties(n, d, largest, width):
    return _by_dof(n, _dof(jnp.arange(1, largest + 1, dtype=n.dtype), d), width)


def _by_hand(n, d, largest):
    constants, total, values = edge_constants(d), 0.0, []
    for q in range(1, largest + 1):
        if n <= _dof(q, d):
            values.append(math.inf)
            continue
        if q >= 2:
            total -= constants[d - q + 1] * math.log((n - _dof(q, d)) / (n - _dof(q - 1, d)))
        values.append(total)
    return values


def test_edge_penalties_telescope_as_stated():
    for n, d in ((60, 16), (31.5, 16), (16, 16), (200, 16), (40, 8)):
        found = _penalties(jnp.asarray(float(n)), jnp.asarray(float(d)), 6, 16)
        np.testing.assert_allclose(found, _by_hand(n, d, 6), rtol=1e-12)


def test_edge_penalties_rise_and_are_infinite_from_where_nothing_is_left_over():
    values = np.asarray(_penalties(jnp.asarray(60.0), jnp.asarray(16.0), 6, 16))
    assert values[0] == 0
    assert np.isfinite(values).tolist() == [_dof(q, 16) < 60 for q in range(1, 7)]
    assert np.all(np.diff(values[np.isfinite(values)]) > 0)
    # p(2) = 31 exactly: no degree of freedom is left.
    assert np.isinf(_penalties(jnp.asarray(31.0), jnp.asarray(16.0), 6, 16)[1])


def test_padding_the_table_of_constants_changes_nothing():
    narrow = _penalties(jnp.asarray(60.0), jnp.asarray(8.0), 6, 8)
    wide = _penalties(jnp.asarray(60.0), jnp.asarray(8.0), 6, 32)
    np.testing.assert_array_equal(narrow, wide)


def test_edge_constant_is_the_upper_quantile_of_the_largest_eigenvalue():
    # W: 8 x 8, diagonal variance 1, off-diagonal 1/2. 30000 draws leave 90 above the .3 percent point; the standard
    # error of the quantile of lambda_max^2/m is about 1.5 percent. The 1 percent point (2.94) is 12 percent away.
    gaussian = np.random.default_rng(0).standard_normal((30000, 8, 8))
    largest = np.linalg.eigvalsh((gaussian + np.swapaxes(gaussian, 1, 2)) / 2)[:, -1]
    quantile = np.quantile(np.maximum(largest, 0) ** 2 / 8, 0.997)
    assert abs(edge_constants(8)[8] / quantile - 1) < 0.1


def test_edge_constant_of_a_single_direction_is_that_of_a_normal_variable():
    # m = 1: W is N(0, 1), its upper .3 percent point 2.7478.
    assert abs(edge_constants(1)[1] - 2.7478**2) < 0.01


def test_edge_constants_fall_smoothly_to_two():
    values = edge_constants(3000)
    assert values[0] == values[1]
    assert np.all(np.diff(values[1:]) < 0)
    assert abs(values[49] - values[48]) < 0.02
    assert 2 < values[3000] < 2.05


def test_criterion_is_its_closed_form_where_it_exists_and_infinite_elsewhere():
    rss = jnp.asarray([0.5, 0.5, 0.5, 0.5, jnp.nan, 0.0])
    rank = jnp.asarray([2, 0, 3, 4, 2, 2], jnp.int32)
    dof = jnp.asarray([31.0, 0.0, 60.0, 70.0, 31.0, 31.0])
    found = jax.jit(lambda *args: criterion(*args, weight=3.0))(rss, rank, dof, jnp.asarray(60.0))
    expected = math.log(0.5 / 60 + 1e-9) - 3 * math.log(1 - 31 / 60)
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)
    assert np.isposinf(np.asarray(found)[1:5]).all()
    np.testing.assert_allclose(found[5], math.log(1e-9) - 3 * math.log(1 - 31 / 60), rtol=1e-12)


def test_criterion_prefers_the_smaller_rank_of_two_equal_fits():
    scores = criterion(
        jnp.asarray([0.1, 0.1]),
        jnp.asarray([2, 3], jnp.int32),
        jnp.asarray([31.0, 45.0]),
        jnp.asarray(60.0),
        weight=3.0,
    )
    assert scores[0] < scores[1]


def test_predicted_error_is_the_oracles_with_the_estimated_noise():
    n, rss, dof, size = 60.0, 0.7, 31.0, 2.5
    inputs = (jnp.asarray([rss] * 4), jnp.asarray([dof, 59.0, 60.0, 31.0]), jnp.asarray(n))
    found = np.asarray(jax.jit(predicted_error)(*inputs, jnp.asarray([size, size, size, 0.0])))
    np.testing.assert_allclose(found[0], math.sqrt(rss / (n - dof)) * math.sqrt(dof / (n - dof - 1)) / size, rtol=1e-12)
    assert np.isposinf(found[1:]).all()


def test_the_gap_that_is_asked_for_falls_with_the_rise_of_the_penalty_and_never_exceeds_the_most():
    sure = jax.jit(lambda penalties, rank: sure_gap(penalties, rank, most=0.2, share=0.15))
    rank = jnp.asarray(2, jnp.int32)
    few, many = (_penalties(jnp.asarray(n), jnp.asarray(16.0), 6, 16) for n in (50.0, 310.0))
    assert float(sure(few, rank)) == 0.2
    np.testing.assert_allclose(sure(many, rank), 0.15 * float(many[2] - many[1]), rtol=1e-12)
    assert float(sure(many, rank)) < 0.05
    # Nothing is known beyond the last rank, nor where no measurement is left over.
    assert float(sure(many, jnp.asarray(6, jnp.int32))) == 0.2
    assert float(sure(_penalties(jnp.asarray(40.0), jnp.asarray(16.0), 6, 16), rank)) == 0.2
