import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from pruneft.relu import all_patterns, centred, pattern_bound, sample_patterns
from pruneft.relu.patterns import directions_of, draw_directions, first_of_each, switches

RNG = np.random.default_rng(0)
DATA = {
    "general position": RNG.standard_normal((7, 3)),
    "small integers": RNG.integers(-1, 2, (7, 3)).astype(float),
    "one column and a bias": np.c_[np.array([-2.0, -1, -1, 0, 1, 2]), np.ones(6)],
    "d = 1": RNG.standard_normal((6, 1)),
    "deficient in rank": RNG.standard_normal((5, 2)) @ RNG.standard_normal((2, 4)),
    "d above n": RNG.standard_normal((4, 6)),
    "duplicate rows": np.repeat(RNG.standard_normal((3, 2)), 2, axis=0),
    "opposite rows": np.array([[1.0, 2.0], [-1.0, -2.0], [0.5, 1.0], [1.0, 0.0]]),
    "a zero row and a zero column": np.array([[0.0, 0.0], [1.0, 0.0], [-2.0, 0.0]]),
    "only zeros": np.zeros((3, 2)),
}


def _by_brute_force(X):
    """Every column of switches for which a linear program finds a direction with a margin in the rows that are not zero."""
    live = np.any(X != 0, axis=1)
    found = set()
    for bits in itertools.product([0.0, 1.0], repeat=len(X)):
        column = np.array(bits)
        if np.any(column[~live] == 0):
            continue
        signs = 2 * column[live, None] - 1
        if (
            not live.any()
            or linprog(np.zeros(X.shape[1]), -signs * X[live], -np.ones(live.sum()), bounds=(None, None)).status == 0
        ):
            found.add(bits)
    return found


@pytest.mark.parametrize("X", DATA.values(), ids=DATA)
def test_all_patterns_are_those_that_brute_force_finds_each_once_with_a_direction(X):
    found = all_patterns(X)
    assert found.complete
    assert {tuple(column) for column in found.D.T} == _by_brute_force(X)
    assert len({tuple(column) for column in found.D.T}) == found.D.shape[1]
    inside = (2 * found.D - 1) * (X @ found.H)
    assert np.all(inside[np.any(X != 0, axis=1)] > 0)


def test_rows_in_general_position_have_as_many_patterns_as_the_count_says():
    assert all_patterns(RNG.standard_normal((12, 4))).D.shape[1] == 2 * sum(math.comb(11, k) for k in range(4))


def test_too_many_patterns_are_not_enumerated():
    with pytest.raises(ValueError, match="may have more than 100 patterns: sample some"):
        all_patterns(RNG.standard_normal((20, 5)), most=100)


def test_sampled_patterns_are_different_and_a_larger_sample_begins_with_a_smaller_one():
    X = RNG.standard_normal((30, 4))
    few, many = (sample_patterns(jax.random.key(1), X, count) for count in (20, 40))
    assert many.D.shape == (30, 40)
    assert len({tuple(column) for column in many.D.T}) == 40
    np.testing.assert_array_equal(few.D, many.D[:, :20])
    assert np.all((2 * many.D - 1) * (X @ many.H) > 0)
    assert (many.note, many.complete) == ("", False)


def test_where_more_patterns_are_asked_for_than_exist_all_are_used_and_it_is_said():
    X = RNG.standard_normal((5, 2))
    found = sample_patterns(jax.random.key(0), X, 20)
    assert (found.D.shape[1], found.complete) == (10, True)
    assert found.note == "20 patterns were asked for and there are 10: all are used."
    exact = sample_patterns(jax.random.key(0), X, 10)
    assert (exact.D.shape[1], exact.note) == (10, "")


def test_patterns_of_perturbed_data_come_with_directions_that_they_have_on_the_data_itself():
    X = RNG.standard_normal((12, 3))
    plain, moved = (sample_patterns(jax.random.key(0), X, 25, perturb=eps) for eps in (0.0, 0.3))
    assert {tuple(c) for c in moved.D.T} != {tuple(c) for c in plain.D.T}
    assert np.all((2 * moved.D - 1) * (X @ moved.H) > 0)


def test_the_mask_of_fixed_shape_keeps_each_pattern_once():
    X = jnp.asarray(RNG.standard_normal((6, 2)))
    D = switches(X, draw_directions(jax.random.key(0), 2, 50).astype(X.dtype))
    mask = np.asarray(jax.jit(first_of_each)(D))
    kept = np.asarray(D)[:, mask]
    assert len({tuple(c) for c in kept.T}) == kept.shape[1] == len({tuple(c) for c in np.asarray(D).T})
    assert mask[0]


def test_centred_directions_have_the_largest_margin():
    X = RNG.standard_normal((40, 3))
    chosen = sample_patterns(jax.random.key(0), X, 10)

    def margin(H):
        rows = (2 * chosen.D - 1) * (X @ H) / np.linalg.norm(X, axis=1)[:, None]
        return np.min(rows, axis=0) / np.max(np.abs(H), axis=0)

    H = centred(X, chosen.D, chosen.H)
    assert np.all(margin(H) >= margin(chosen.H))
    for _ in range(20):
        assert np.all(margin(H) >= margin(H + 0.01 * RNG.standard_normal(H.shape)))


def test_a_pattern_that_no_direction_has_is_named():
    X = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    D = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match=r"1 of 2 patterns have no direction .*columns 1 of D"):
        directions_of(X, D)
    assert np.all(X @ directions_of(X, D[:, :1]) > 0)


def test_the_sample_bound_is_linear_in_n_and_whatever_d_is():
    assert (pattern_bound(100, 0.1, 0.1), pattern_bound(1000, 0.05, 0.05)) == (2067, 40160)
    with pytest.raises(ValueError, match="psi and xi between 0 and 1"):
        pattern_bound(100, 0.0, 0.1)
