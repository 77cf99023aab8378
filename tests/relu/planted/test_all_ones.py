"""Whether the pattern of ones exists: certificates hold as computed, the linear program agrees, Wendel's law counts."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from pruneft.relu.planted.all_ones import FEASIBLE, INFEASIBLE, all_ones, wendel

RNG = np.random.default_rng(0)
N, D = 9, 4


def _padded(X):
    """Rows with positive and large scales, and a zero row, around the samples: none of it matters."""
    out = np.zeros((N + 3, D + 1))
    out[1 : len(X) + 1, : X.shape[1]] = X
    return out


SOME = np.stack([_padded(X) for X in RNG.standard_normal((40, N, D)) * RNG.uniform(0.01, 100, (40, N, 1))])
PAIR = RNG.standard_normal((N, D))
PAIR[3] = -2 * PAIR[5]
SPECIAL = {
    "one half-space": (_padded(np.abs(RNG.standard_normal((N, D)))), FEASIBLE),
    "a sample and its negative": (_padded(PAIR), INFEASIBLE),
    "duplicates": (_padded(np.repeat(RNG.standard_normal((3, D)), 3, axis=0)), FEASIBLE),
    "fewer than features": (_padded(RNG.standard_normal((3, D))), FEASIBLE),
    "no sample": (_padded(np.zeros((N, D))), FEASIBLE),
    "a line": (_padded(np.array([[1.0, 0, 0, 0], [-3.0, 0, 0, 0], [2.0, 0, 0, 0]])), INFEASIBLE),
}
answer = jax.jit(jax.vmap(all_ones))


@pytest.fixture(scope="module")
def answers():
    """Of all instances, in one program."""
    X = np.concatenate([SOME, np.stack([X for X, _ in SPECIAL.values()])])
    return X, jax.tree.map(np.asarray, answer(jnp.asarray(X)))


def _linear_program(X):
    X = X[np.any(X != 0, axis=1)]
    if not len(X):
        return FEASIBLE
    found = linprog(np.zeros(X.shape[1]), A_ub=-X, b_ub=-np.ones(len(X)), bounds=(None, None), method="highs")
    return FEASIBLE if found.status == 0 else INFEASIBLE


def test_it_agrees_with_a_linear_program_on_every_instance(answers):
    X, found = answers
    wanted = [_linear_program(each) for each in X]
    assert {FEASIBLE, INFEASIBLE} == set(wanted[:40])
    np.testing.assert_array_equal(found.verdict, wanted)


def test_special_cases_are_decided(answers):
    np.testing.assert_array_equal(answers[1].verdict[40:], [verdict for _, verdict in SPECIAL.values()])


def test_certificates_hold_row_by_row(answers):
    X, found = answers
    for each, verdict, h, w, margin, residual in zip(X, *found[:5], strict=True):
        rows = np.any(each != 0, axis=1)
        unit = each[rows] / np.linalg.norm(each[rows], axis=1, keepdims=True)
        if verdict == FEASIBLE and rows.any():
            assert np.all(each[rows] @ h > 0)
            assert margin == pytest.approx(np.min(unit @ h), rel=1e-6)
        elif verdict == INFEASIBLE:
            assert np.all(w >= 0)
            assert np.all(w[~rows] == 0)
            assert np.sum(w) == pytest.approx(1)
            # Any unit h has sum_k w_k x_k h / ||x_k|| = residual . h, so no margin is above the residual.
            assert np.linalg.norm(w[rows] @ unit) == pytest.approx(residual, abs=1e-15)
            assert residual < 1e-14


def test_without_an_iteration_hard_instances_stay_undecided():
    none = jax.jit(jax.vmap(lambda X: all_ones(X, most=0)))(jnp.asarray(SOME))
    assert np.any(np.asarray(none.verdict) == -1)


def test_wendels_law_is_that_of_all_sign_vectors():
    # Turning samples round leaves the law of a symmetric X, so the law is the share of sign vectors that some h attains.
    X = RNG.standard_normal((6, 3))
    turned = np.stack([np.array(signs)[:, None] * X for signs in itertools.product((-1, 1), repeat=6)])
    share = np.mean(np.asarray(answer(jnp.asarray(turned)).verdict) == FEASIBLE)
    assert share == pytest.approx(wendel(6, 3), abs=1e-12)


def test_wendels_law_is_one_half_at_two_samples_a_feature_and_one_up_to_one():
    assert wendel(40, 20) == pytest.approx(0.5)
    assert wendel(20, 20) == wendel(3, 20) == 1
    assert wendel(400, 100) < 1e-20
    assert math.isfinite(wendel(4000, 1000))
    with pytest.raises(ValueError, match="n and d of at least 1"):
        wendel(0, 3)


def test_float32_says_undecided_and_not_wrong(answers):
    X, found = answers
    single = np.asarray(answer(jnp.asarray(X, jnp.float32)).verdict)
    told = single != -1
    assert np.mean(told) > 0.8
    np.testing.assert_array_equal(single[told], found.verdict[told])
