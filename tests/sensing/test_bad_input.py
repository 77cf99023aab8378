"""Data that something is wrong with: recovered all the same, or refused in plain words, and the certificate says what it saw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft import Problem, Verdict, certify, recover
from pruneft.sensing import PackedOperator, PathRecipe, draw_instance
from pruneft.sensing.data import prepare
from pruneft.sensing.operator import cast
from pruneft.status import Status

D, N, SIGMA = 8, 24, 0.02  # rank 1 has 8 degrees of freedom
RECIPE = PathRecipe(starts=2, attempts=(100,))


@pytest.fixture(autouse=True)
def _lenient():
    # optax's Adam multiplies Python floats with int32 counters, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def _drawn():
    draw = jax.jit(functools.partial(draw_instance, n=N, d=D, r=1, sigma=SIGMA, dtype=jnp.float64))
    drawn = draw(jax.random.key(2))
    return np.asarray(drawn.operator.rows, np.float64), np.asarray(drawn.y), np.asarray(drawn.truth)


def _solve(rows, y, **arguments):
    problem = Problem(PackedOperator(jnp.asarray(rows)), y)
    result = recover(problem, recipe=RECIPE, **arguments)
    certificate = certify(problem, result, recipe=RECIPE, weights=arguments.get("weights"))
    return result, certificate


@functools.cache
def _sound():
    rows, y, _ = _drawn()
    return _solve(rows, y)


def test_sound_data_have_no_complaints():
    result, found = _sound()
    assert (result.status, found.verdict, found.outliers, found.repeated) == (Status.CONVERGED, Verdict.ACCEPT, (), 0)
    assert (result.fits, result.rank_given) == (3, False)
    assert 2 <= result.agreeing <= 3
    np.testing.assert_allclose(found.average_error, result.predicted_error, rtol=1e-6)
    np.testing.assert_allclose(found.edge_ratio, result.edge_ratio, rtol=1e-6)
    np.testing.assert_allclose(found.sigma, result.sigma_estimate, rtol=1e-6)
    # At the end of training 1e-6 / (2 sqrt(1e-3)) in normalised units, and y has root mean square about 1.
    assert 0.5 < result.growth_threshold / 1.58e-5 < 2
    assert result.prunability_gap > -1e-6


@pytest.mark.parametrize(
    ("of_y", "of_a"),
    [
        pytest.param(1e300, 1.0, marks=pytest.mark.claims),
        pytest.param(1e-300, 1.0, marks=pytest.mark.claims),
        (1.0, 1e200),
        (1e30, 1e-30),
    ],
)
def test_units_beyond_float32_are_brought_within_its_reach(of_y, of_a):
    rows, y, truth = _drawn()
    result, found = _solve(of_a * rows, of_y * y, dtype="float32")
    assert (result.ok, result.rank, result.dtype, found.verdict) == (True, 1, "float32", Verdict.ACCEPT)
    unit = of_y / of_a
    np.testing.assert_allclose(result.matrix / unit, _sound()[0].matrix, atol=1e-4)
    np.testing.assert_allclose(result.eigenvalues / unit, _sound()[0].eigenvalues, rtol=1e-4)
    np.testing.assert_allclose(found.sigma / of_y, _sound()[1].sigma, rtol=1e-3)
    assert np.linalg.norm(result.matrix / unit - truth) < 0.2


def test_measurements_beyond_float32_are_refused_where_it_is_all_there_is():
    rows, y, _ = _drawn()
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"A holds numbers beyond the range of float32: .*x64"):
        Problem.from_arrays(1e300 * rows, y)


def test_fewer_measurements_than_degrees_of_freedom_are_rejected_with_the_reason():
    rows, y, _ = _drawn()
    result, found = _solve(rows[:7], y[:7])
    assert (result.status, result.rank, found.verdict) == (Status.NOT_IDENTIFIABLE, 0, Verdict.REJECT)
    assert "n = 7" in found.reasons[0]
    assert "too many degrees of freedom" in " ".join(found.reasons)


def test_one_measurement_is_not_enough_and_does_not_crash():
    rows, y, _ = _drawn()
    result, found = _solve(rows[:1], y[:1])
    assert (result.ok, found.ok, found.constant) == (False, False, False)
    assert (result.status, result.rank) == (Status.NOT_IDENTIFIABLE, 0)


def test_constant_data_are_called_that():
    rows, _, _ = _drawn()
    result, found = _solve(rows, np.ones(N))
    assert (result.ok, found.verdict, found.constant) == (False, Verdict.REJECT, True)
    assert any(reason.startswith("Every measurement has the same value") for reason in found.reasons)


def test_a_rank_above_what_the_measurements_identify_is_not_identifiable():
    # Rank 4 has 26 degrees of freedom, two more than there are measurements.
    rows, y, _ = _drawn()
    result, found = _solve(rows, y, rank=4)
    assert (result.status, found.verdict) == (Status.NOT_IDENTIFIABLE, Verdict.REJECT)
    assert "the rank asked for" in result.message


def test_repeated_measurements_count_once_and_are_averaged():
    rows, y, _ = _drawn()
    noise = SIGMA * np.random.default_rng(0).standard_normal(10)
    result, found = _solve(np.r_[rows, rows[:10]], np.r_[y, y[:10] + noise])
    assert (found.n, found.repeated) == (N, 10)
    assert "10 measurements repeat others and were averaged with them: 24 distinct ones are left" in " ".join(
        found.reasons
    )
    # The same as weight 2 and the mean.
    mean, weights = y + np.r_[noise / 2, np.zeros(N - 10)], np.r_[np.full(10, 2.0), np.ones(N - 10)]
    weighted, as_weighted = _solve(rows, mean, weights=weights)
    np.testing.assert_allclose(result.matrix, weighted.matrix, atol=1e-9)
    np.testing.assert_allclose(found.error_interval, as_weighted.error_interval, rtol=1e-6)


def test_repetition_does_not_make_a_matrix_identifiable():
    # Seven measurements, each four times: 28 numbers, and rank 1 has 8 degrees of freedom.
    rows, y, _ = _drawn()
    result, found = _solve(np.tile(rows[:7], (4, 1)), np.tile(y[:7], 4))
    assert (result.status, found.n, found.repeated) == (Status.NOT_IDENTIFIABLE, 7, 21)


def test_merged_data_are_weighted_means_and_know_where_they_came_from():
    rows = np.array([[1.0, 2, 3], [4, 5, 6], [1, 2, 3], [0, 0, 0], [0, 0, 0], [-0.0, 2, 3], [0.0, 2, 3]])
    data = prepare(Problem(PackedOperator(jnp.asarray(rows)), np.arange(1.0, 8)), [1, 1, 3, 1, 1, 0, 2])
    assert data.groups == ((0, 2), (1,), (3,), (4,), (6,))
    assert (data.repeated, data.n, data.place(0)) == (1, 5, (0, 2))
    np.testing.assert_allclose(data.y / np.sqrt(data.weight), [2.5, 2, 4, 5, 7])
    np.testing.assert_allclose(np.asarray(data.operator.rows)[0], 2 * rows[0])


@pytest.mark.claims
def test_gross_errors_are_found_and_named_and_without_them_the_answer_is_better():
    rows, y, truth = _drawn()
    wrong = np.array(y)
    wrong[[3, 17]] += np.array([1.0, -0.8])  # 50 and 40 standard deviations
    result, found = _solve(rows, wrong, rank=1)
    assert set(found.outliers) == {3, 17}
    assert min(found.deviations) > 6
    assert "2 measurements do not belong to the others; index (standard deviations): " in " ".join(found.reasons)
    np.testing.assert_allclose(found.clean_sigma, SIGMA, rtol=0.6)
    assert found.sigma > 3 * found.clean_sigma
    weights = np.ones(N)
    weights[list(found.outliers)] = 0
    better, clean = _solve(rows, wrong, rank=1, weights=weights)
    assert (clean.verdict, clean.outliers) == (Verdict.ACCEPT, ())
    assert np.linalg.norm(better.matrix - truth) < np.linalg.norm(result.matrix - truth) / 2


def test_a_file_of_the_former_format_is_still_read(tmp_path):
    import json

    path = _sound()[0].save(tmp_path / "new.npz")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    scalars = json.loads(str(arrays["scalars"]))
    for name in ("rank_given", "fits", "agreeing", "score_gap", "edge_ratio", "prunability_gap", "growth_threshold"):
        assert name in scalars
        del scalars[name]
    arrays["scalars"] = np.array(json.dumps(scalars | {"format": 1}))
    np.savez(tmp_path / "old.npz", **arrays)
    old = type(_sound()[0]).load(tmp_path / "old.npz")
    assert (old.fits, old.rank) == (0, 1)
    assert certify(Problem(PackedOperator(jnp.asarray(_drawn()[0])), _drawn()[1]), old).verdict is Verdict.ACCEPT


def test_an_operator_of_ones_own_is_certified_through_its_methods():
    class Own:
        """Everything but the rows."""

        def __init__(self, inner):
            parts = "n d dtype field apply adjoint image pull jacobian linearised whiten size noise_edge dof canonical"
            for name in parts.split():
                setattr(self, name, getattr(inner, name))

    rows, y, _ = _drawn()
    jax.tree_util.register_pytree_node(Own, lambda own: ((), own), lambda own, _: own)
    result, expected = _sound()
    found = certify(Problem(Own(cast(PackedOperator(jnp.asarray(rows)), "float64")), y), result, recipe=RECIPE)
    np.testing.assert_allclose(found.error_interval, expected.error_interval, rtol=1e-7)
    assert np.isnan(found.eigenvalue_test)  # its law is that of Gaussian measurements, which these need not be
    assert found.verdict is Verdict.ACCEPT
