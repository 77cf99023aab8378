import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import least_squares

from pruneft import Problem, Verdict, certify
from pruneft.sensing import PackedOperator, PathRecipe, Recovery, draw_instance, smat
from pruneft.sensing.operator import cast
from pruneft.status import Status

D, R, N, P = 8, 2, 40, 15
SIGMA = 0.05


@functools.cache
def _drawn(seed=0):
    draw = functools.partial(draw_instance, n=N, d=D, r=R, kappa=2.0, sigma=SIGMA, dtype=jnp.float64)
    drawn = jax.jit(draw)(jax.random.key(seed))
    return drawn._replace(operator=cast(drawn.operator, jnp.float64))


def _fitted(rows, y, start, weights=None):
    """The least-squares fit of rank R by SciPy."""
    dense = np.asarray(smat(jnp.asarray(rows)))
    root = np.ones(len(y)) if weights is None else np.sqrt(weights)

    def errors(x):
        return root * (np.einsum("nij,ik,jk->n", dense, *(2 * [x.reshape(D, R)])) - y)

    def slopes(x):
        return (root[:, None, None] * 2 * (dense @ x.reshape(D, R))).reshape(len(y), -1)

    return least_squares(errors, start.ravel(), slopes, xtol=1e-15, ftol=1e-15, gtol=1e-15).x.reshape(D, R)


@functools.cache
def _case(seed=0):
    """A noisy problem, its least-squares fit, and the certificate of it."""
    drawn = _drawn(seed)
    problem = Problem(drawn.operator, drawn.y)
    U = _fitted(drawn.operator.rows, np.asarray(drawn.y), np.asarray(drawn.factor)[:, :R])
    return problem, U, certify(problem, U)


def _recovery(U, **values):
    return Recovery(**{
        "U": U, "status": Status.CONVERGED, "residual": 0.1, "sigma_estimate": SIGMA, "predicted_error": 0.1, "columns": 0, "steps": 1,
        "method": "path", "dtype": "float64", "fits": 5, "agreeing": 5, "score_gap": 3.0, "growth_threshold": 1e-5, **values,
    })  # fmt: skip


def _said(certificate):
    return " ".join(certificate.reasons)


def test_a_good_fit_is_accepted_with_its_numbers():
    _, U, found = _case()
    assert (found.verdict, found.ok, found.rank, found.dof, found.n, found.repeated) == (
        Verdict.ACCEPT,
        True,
        2,
        15,
        N,
        0,
    )
    assert np.linalg.norm(U @ U.T - _drawn().truth) < 3 * found.error
    assert found.sigma_interval[0] < SIGMA < found.sigma_interval[1]
    assert "relative error to expect" in _said(found)
    assert "Whether other starts agree is not known" in _said(found)
    assert not found.exact


def test_sigma_and_its_interval_are_the_classical_ones():
    problem, U, found = _case()
    rss = float(np.sum((np.asarray(problem.operator.apply(jnp.asarray(U @ U.T))) - problem.y) ** 2))
    np.testing.assert_allclose(found.sigma, math.sqrt(rss / (N - P)), rtol=1e-9)
    ends = np.sqrt(rss / stats.chi2.ppf([0.975, 0.025], N - P))
    np.testing.assert_allclose(found.sigma_interval, ends, rtol=1e-9)


def test_predicted_error_is_that_of_least_squares_on_the_tangent_space():
    # By the generalised inverse of the Jacobian with respect to the factor, whose null space are the rotations.
    problem, U, found = _case()
    dense = np.asarray(smat(problem.operator.rows))
    jacobian = 2 * np.einsum("nij,jk->nik", dense, U).reshape(N, -1)
    to_matrix = np.stack([np.outer(E, u) + np.outer(u, E) for E in np.eye(D) for u in U.T]).reshape(D, R, D, D)
    covariance = np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-10)
    change = to_matrix.reshape(D * R, D * D)
    expected = found.sigma * math.sqrt(np.trace(change.T @ covariance @ change))
    np.testing.assert_allclose(found.error, expected, rtol=1e-6)
    np.testing.assert_allclose(found.relative_error, expected / np.linalg.norm(U @ U.T), rtol=1e-6)
    assert found.error_interval[0] < found.error < found.error_interval[1]
    by_row = np.einsum("pij,pq,qij->i", change.reshape(-1, D, D), covariance, change.reshape(-1, D, D))
    sizes = np.linalg.norm(U @ U.T, axis=1)
    np.testing.assert_allclose(found.row_errors, found.sigma * np.sqrt(by_row) / sizes, rtol=1e-6)


def test_rows_that_the_noise_hides_are_named_although_the_matrix_is_accepted():
    drawn, shares = _drawn(), np.array([1, 1, 1, 0.01, 1, 1, 1, 0.01])
    factor = shares[:, None] * np.asarray(drawn.factor)[:, :R]
    noise = np.asarray(drawn.y - drawn.operator.apply(drawn.truth))
    y = np.asarray(drawn.operator.apply(jnp.asarray(factor @ factor.T))) + noise
    found = certify(Problem(drawn.operator, y), _fitted(drawn.operator.rows, y, factor))
    assert found.verdict is Verdict.ACCEPT
    assert [row for row, share in enumerate(found.row_errors) if share > 0.5] == [3, 7]
    assert "2 of the 8 rows" in _said(found)
    assert "hardly known: 3, 7" in _said(found)
    assert "hardly known" not in _said(_case()[2])


def test_residual_tests_are_their_definitions():
    problem, U, found = _case()
    errors = np.asarray(problem.operator.apply(jnp.asarray(U @ U.T)) - problem.y)
    gain = math.sqrt(np.mean(np.square(problem.operator.rows)))
    normal = np.linalg.svd(U)[0][:, R:]
    W = normal.T @ np.asarray(problem.operator.adjoint(jnp.asarray(errors))) @ normal / (gain * np.linalg.norm(errors))
    np.testing.assert_allclose(found.eigenvalue_test, np.linalg.eigvalsh(-W)[-1], rtol=1e-8)
    np.testing.assert_allclose(found.energy_test, np.sum(W**2), rtol=1e-8)
    np.testing.assert_allclose(found.energy_p, stats.chi2.sf(found.energy_test, 21), rtol=1e-9)
    assert 0.001 < found.eigenvalue_p <= 1


def test_least_curvature_is_that_of_the_whole_hessian():
    problem, U, found = _case()
    canonical = np.linalg.svd(U)[0][:, :R] * np.linalg.svd(U)[1]
    dense = jnp.asarray(smat(problem.operator.rows))

    def loss(x):
        u = x.reshape(D, R)
        return jnp.mean((jnp.einsum("nij,ik,jk->n", dense, u, u) - problem.y) ** 2)

    values = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(loss))(jnp.asarray(canonical.ravel()))))
    order = np.argsort(np.abs(values))  # one rotation: one null direction
    np.testing.assert_allclose(found.curvature, values[order[1]] / values[-1], rtol=1e-6)
    gradient = jax.grad(loss)
    turn = jax.jit(lambda v: jax.jvp(gradient, (jnp.asarray(canonical.ravel()),), (v.ravel(),))[1])
    by_product = certify(problem, U, hessian=lambda v: turn(jnp.asarray(v)))
    np.testing.assert_allclose(by_product.curvature, found.curvature, rtol=1e-5)


def test_units_change_units_only():
    problem, U, found = _case()
    scaled = certify(Problem(PackedOperator(1e-20 * problem.operator.rows), 1e200 * problem.y), 1e110 * U)
    assert (scaled.verdict, scaled.reasons) == (found.verdict, found.reasons)
    for name in ("eigenvalue_p", "relative_error", "edge_ratio", "curvature", "residual_eigenvalue"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(found, name), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(np.array(scaled.sigma_interval) / 1e200, found.sigma_interval, rtol=1e-9)
    np.testing.assert_allclose(scaled.error / 1e220, found.error, rtol=1e-9)


def test_the_certificate_is_that_of_the_matrix_not_of_the_factor_and_float32_will_do():
    problem, U, found = _case()
    turned = U @ np.array([[0.6, -0.8], [0.8, 0.6]])
    np.testing.assert_allclose(certify(problem, np.c_[turned, np.zeros(D)]).error, found.error, rtol=1e-7)
    single = Problem(cast(problem.operator, jnp.float32), np.asarray(problem.y, np.float32))
    narrow = certify(single, U.astype(np.float32))
    assert (narrow.verdict, narrow.rank) == (Verdict.ACCEPT, 2)
    np.testing.assert_allclose(narrow.error, found.error, rtol=1e-4)
    np.testing.assert_allclose(narrow.curvature, found.curvature, rtol=1e-3)


def test_weights_are_those_of_the_fit():
    problem, U, _ = _case()
    weights = np.repeat([2.0, 0.0, 1.0], [10, 5, 25])
    fitted = _fitted(problem.operator.rows, np.asarray(problem.y), U, weights)
    found = certify(problem, fitted, weights=weights)
    assert (found.n, found.verdict) == (35, Verdict.ACCEPT)
    assert found.unfinished < 1e-6
    assert certify(problem, fitted).unfinished > 1e-3  # it is the fit of no other weights


def test_padding_rows_change_nothing():
    problem, U, found = _case()
    rows = jnp.concatenate([problem.operator.rows, jnp.zeros((3, 36))])
    padded = certify(Problem(PackedOperator(rows), np.r_[problem.y, 0, 0, 0], live_n=N), U)
    np.testing.assert_allclose(padded.error_interval, found.error_interval, rtol=1e-9)
    assert (padded.n, padded.eigenvalue_p) == (N, found.eigenvalue_p)


def test_a_summary_is_json_and_has_no_numbers_that_json_lacks():
    _, _, found = _case()
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert set(summary) == {field.name for field in dataclasses.fields(found)}
    assert (summary["verdict"], summary["score_gap"], summary["fits"]) == ("accept", None, None)


def test_what_the_run_knows_is_taken_over():
    problem, U, _ = _case()
    found = certify(problem, _recovery(U))
    assert (found.verdict, found.agreeing, found.fits, found.score_gap) == (Verdict.ACCEPT, 5, 5, 3.0)
    assert found.growth_threshold == 1e-5
    assert "5 of 5 fits agree" in _said(found)


@pytest.mark.parametrize(
    ("values", "recipe", "verdict", "words"),
    [
        ({"agreeing": 1}, PathRecipe(), Verdict.REJECT, "Only 1 of 5 fits reaches the least residual"),
        ({}, PathRecipe(limit=1e-3), Verdict.REJECT, "above the limit of 0.001"),
        ({"score_gap": 0.1}, PathRecipe(), Verdict.RANK_UNCERTAIN, "lies only 0.1 above that of rank 2 (limit 0.15)"),
        ({}, PathRecipe(edge_ratio=1e4), Verdict.RANK_UNCERTAIN, "times the noise edge (limit 10000)"),
        ({"score_gap": 0.1, "rank_given": True}, PathRecipe(), Verdict.ACCEPT, "5 of 5 fits agree"),
        ({"status": Status.BUDGET_SPENT, "fits": 0}, PathRecipe(), Verdict.REJECT, "The run ended with: step budget spent"),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_limits_of_the_recipe(values, recipe, verdict, words):
    problem, U, _ = _case()
    found = certify(problem, _recovery(U, **values), recipe=recipe)
    assert found.verdict is verdict
    assert words in _said(found)


def test_too_few_measurements_for_the_rank_are_rejected_with_the_reason():
    problem, U, _ = _case()
    found = certify(Problem(PackedOperator(problem.operator.rows[:P]), problem.y[:P]), U)
    assert found.verdict is Verdict.REJECT
    assert (found.average_error, found.error) == (math.inf, math.inf)
    assert "15 measurements cannot identify a matrix of rank 2, which has 15 degrees of freedom" in found.reasons[0]


def test_an_exact_fit_is_called_that():
    drawn = _drawn()
    problem = Problem(drawn.operator, np.asarray(drawn.operator.apply(drawn.truth)))
    found = certify(problem, np.asarray(drawn.factor)[:, :R])
    assert (found.exact, found.verdict) == (True, Verdict.ACCEPT)
    assert math.isnan(found.eigenvalue_p)
    assert found.relative_error < 1e-12
    assert "fitted exactly, at n = 40 for 15 degrees of freedom" in _said(found)


def test_a_factor_that_is_no_least_squares_fit_is_rejected():
    problem, U, found = _case()
    moved = certify(problem, 1.03 * U)
    assert moved.verdict is Verdict.REJECT
    assert "no least-squares fit" in _said(moved)
    assert found.unfinished < 1e-9
    assert moved.gradient_norm > 1e-3 > found.gradient_norm


def test_a_missing_component_shows_in_the_residual():
    drawn = _drawn()
    U = _fitted(drawn.operator.rows, np.asarray(drawn.y), np.asarray(drawn.factor)[:, :R])
    alone = least_squares(
        lambda u: np.einsum("nij,i,j->n", np.asarray(smat(drawn.operator.rows)), u, u) - np.asarray(drawn.y),
        np.linalg.svd(U)[0][:, 0] * np.linalg.svd(U)[1][0],
    ).x
    found = certify(Problem(drawn.operator, drawn.y), alone[:, None], recipe=PathRecipe(limit=1.0))
    assert found.eigenvalue_p < 1e-3
    assert found.residual_eigenvalue < found.residual_limit < 0
    assert found.verdict is Verdict.RANK_UNCERTAIN
    assert "a component is missing" in _said(found)


def test_an_empty_answer_and_a_bad_one():
    problem, _, _ = _case()
    empty = certify(problem, np.zeros((D, 0)))
    assert (empty.verdict, empty.rank) == (Verdict.REJECT, 0)
    assert "No rank could be fitted (n = 40)" in empty.reasons[0]
    with pytest.raises(ValueError, match=r"factor of shape \[d, r\] with d=8: got \(7, 2\)"):
        certify(problem, np.ones((7, 2)))
    with pytest.raises(ValueError, match="factor must be finite"):
        certify(problem, np.full((D, 1), np.nan))
