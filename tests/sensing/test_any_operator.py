"""Everything that is built on operators, over one instance of every family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft import Problem, certify, recover
from pruneft.pipeline import Anneal, Penalty
from pruneft.random import normals
from pruneft.sensing import Verdict
from pruneft.sensing import lane as lanes
from pruneft.sensing.families import FAMILIES, draw, family_of
from pruneft.sensing.field import gram, height
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.entries import Entries
from pruneft.sensing.operators.rank_one import RankOne
from pruneft.sensing.recipe import schedule
from pruneft.status import Status

# (d, n, r): small, and well above the degrees of freedom; distances of 8 points have 28 pairs.
SIZES = dict.fromkeys(FAMILIES, (8, 32, 2)) | {
    "pauli": (8, 56, 2),
    "distances": (8, 28, 2),
    "distances-nearest": (8, 28, 2),
}
PENALTY = Penalty(*(jnp.full((1, 1, 1), end, jnp.float32) for end in schedule(Anneal())))


def _drawn(name, sigma=0.0, seed=0):
    d, n, r = SIZES[name]
    make = jax.jit(lambda key: draw(name, key, n=n, d=d, r=r, sigma=sigma, dtype=jnp.float64))
    return make(jax.random.key(seed))


@pytest.fixture(autouse=True)
def _standard_promotion():
    # optax's Adam multiplies Python floats with int32 counters, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def _recovered(name):
    return recover(_problem(name)[0], k=2)


def _problem(name, sigma=0.0):
    drawn = _drawn(name, sigma)
    return Problem(drawn.operator, drawn.y, SIZES[name][1]), np.asarray(drawn.truth)


@functools.cache
def _lane(name):
    """A drawn instance in a lane with its loss, gradient and curvature, and those of data in another unit; one program for each family."""
    d, n, r = SIZES[name]
    tall = height(d, family_of(name).field)

    @jax.jit
    def look(key):
        drawn = draw(name, key, n=n, d=d, r=r, sigma=0.1, dtype=jnp.float64)
        clean = draw(name, key, n=n, d=d, r=r, dtype=jnp.float64)
        operator = cast(drawn.operator, jnp.float64)
        starts = lanes.draw_starts(key, 1, 2, tall, 3, live_d=tall, live_k=3, norm=2.0, dtype=jnp.float64)
        lane, other = (lanes.make_lane(operator, unit * drawn.y, starts, PENALTY, n=n) for unit in (1.0, 1e12))
        factor, direction = starts[0], starts[0][::-1]

        def loss(factor):
            errors = operator.image(factor) / lane.gain - lane.y
            return jnp.sum(errors * operator.whiten(errors, lane.n, lane.d)) * lane.gain**2 / lane.n

        def bent(factor, along):  # (2/n) Jᵀ W J D
            _, change = jax.jvp(operator.image, (factor,), (along,))
            return 2 * jax.vjp(operator.image, factor)[1](operator.whiten(change, lane.n, lane.d))[0] / lane.n

        return {
            "misfit": jnp.max(jnp.abs(operator.apply(clean.truth) - clean.y)),
            "norm": jnp.linalg.norm(clean.truth),
            "truth": clean.truth,
            "gradient": lanes.gradient(lane, factor),
            "wanted gradient": jax.vmap(jax.grad(loss))(factor),
            "gradient in another unit": lanes.gradient(other, factor),
            "curvature": lanes.curvature(lane, factor, direction),
            "wanted curvature": jax.vmap(bent)(factor, direction),
            "scale": lane.scale,
            "scale in another unit": other.scale,
        }

    return jax.tree.map(np.asarray, look(jax.random.key(0)))


@pytest.mark.parametrize("name", FAMILIES)
def test_data_are_the_image_of_a_truth_of_that_rank_and_size(name):
    seen = _lane(name)
    assert seen["misfit"] < 1e-10
    np.testing.assert_allclose(seen["norm"], 1, rtol=1e-6)
    assert np.linalg.matrix_rank(seen["truth"], tol=1e-6) == SIZES[name][2]


@pytest.mark.parametrize("name", FAMILIES)
def test_training_descends_the_whitened_loss(name):
    seen = _lane(name)
    np.testing.assert_allclose(seen["gradient"], seen["wanted gradient"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(seen["curvature"], seen["wanted curvature"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
def test_units_of_the_data_do_not_reach_the_training(name):
    seen = _lane(name)
    np.testing.assert_allclose(seen["scale in another unit"], 1e12 * seen["scale"], rtol=1e-9)
    np.testing.assert_allclose(seen["gradient in another unit"], seen["gradient"], rtol=1e-8, atol=1e-10)
    # About the Frobenius norm of the truth, 1, or the constants of the recipe would not fit.
    assert 0.5 < seen["scale"] < 2


@pytest.mark.parametrize("name", ["rank-one-complex", "pauli", "entries"])
def test_padding_an_instance_changes_no_live_number(name):
    law = family_of(name)
    d, n, r = SIZES[name]
    more_n, more_d = n + 5, d if name == "pauli" else d + 2

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def make(rows_for, side):
        rows = law.rows(rows_for, side)
        draws = normals(jax.random.key(3), *law.blocks(rows, side))
        whole = {"live_n": jnp.asarray(n, jnp.int32), "live_d": jnp.asarray(d, jnp.int32)}
        law_of = {"r": jnp.asarray(r, jnp.int32), "kappa": 2.0, "scale": 1.0, "sigma": 0.1}
        return law.make(draws, rows=rows, d=side, dtype=jnp.float64, **law_of, **whole)

    plain, padded = make(n, d), make(more_n, more_d)
    np.testing.assert_allclose(padded.truth[:d, :d], plain.truth, atol=1e-12)
    assert not np.any(np.asarray(padded.truth)[d:])
    live = np.asarray(padded.y)[np.asarray(padded.y) != 0]
    np.testing.assert_allclose(np.sort(live), np.sort(np.asarray(plain.y)[np.asarray(plain.y) != 0]), atol=1e-10)


# Programs are compiled for each: two of them with the tests that take long.
@pytest.mark.parametrize(
    "name", ["rank-one-complex", *(pytest.param(name, marks=pytest.mark.claims) for name in ("distances", "entries"))]
)
def test_recover_and_certify(name):
    problem, truth = _problem(name)
    result = _recovered(name)
    assert (result.rank, result.status) == (2, Status.CONVERGED)
    np.testing.assert_allclose(result.matrix, truth, atol=1e-6)
    assert np.iscomplexobj(result.U) == (family_of(name).field == "complex")
    found = certify(problem, result)
    assert found.verdict is Verdict.ACCEPT, found.reasons
    assert found.jacobian_rank == found.dof == round(float(problem.operator.dof(2)))


def test_a_noisy_complex_answer_has_an_error_within_its_interval():
    problem, truth = _problem("rank-one-complex", sigma=0.02)
    result = recover(problem, k=2)
    found = certify(problem, result)
    low, high = found.error_interval
    error = float(np.linalg.norm(result.matrix - truth))
    assert 0.3 * low < error < 3 * high
    # The predicted error by its definition, the derivative taken by differences of the matrix along an orthonormal basis.
    assert found.unfinished < 1e-6
    assert found.curvature > 0


def test_saving_a_complex_answer_keeps_it(tmp_path):
    result = _recovered("rank-one-complex")
    loaded = type(result).load(result.save(tmp_path / "state"))
    np.testing.assert_array_equal(loaded.U, result.U)
    np.testing.assert_allclose(loaded.matrix, loaded.matrix.conj().T)
    np.testing.assert_allclose(loaded.eigenvalues.sum(), np.trace(loaded.matrix).real)


def test_entries_of_two_blocks_are_not_unique_and_both_answers_are_returned():
    # Rank 1, two blocks that no entry connects: each has its own sign, although the Jacobian has full rank.
    u = np.array([1.0, 2.0, -1.0, 0.5, 1.5, 1.0])
    pairs = [(i, j) for block in ((0, 1, 2), (3, 4, 5)) for i in block for j in block if i <= j]
    y = np.array([u[i] * u[j] for i, j in pairs])
    problem = Problem(Entries.from_pairs(pairs, 6), y)
    result = recover(problem, k=2)
    found = certify(problem, result)
    assert found.verdict is Verdict.NOT_CERTIFIED
    assert any("groups of nodes" in reason for reason in found.reasons)
    assert result.status is Status.NOT_UNIQUE
    assert result.apart > 0.1
    for factor in (result.U, result.rival):
        matrix = factor @ factor.T
        np.testing.assert_allclose([matrix[i, j] for i, j in pairs], y, atol=1e-5)


@pytest.mark.claims
def test_weights_take_a_gross_error_out_of_structured_measurements():
    drawn = draw("rank-one", jax.random.key(5), n=40, d=8, r=1, dtype=jnp.float64)
    y = np.array(drawn.y)
    y[7] += 5.0
    weights = np.ones(40)
    weights[7] = 0.0
    plain = recover(Problem(drawn.operator, y), k=1)
    weighted = recover(Problem(drawn.operator, y), k=1, weights=weights)
    truth = np.asarray(drawn.truth)
    assert np.linalg.norm(plain.matrix - truth) > 0.05
    np.testing.assert_allclose(weighted.matrix, truth, atol=1e-6)
    assert weighted.status is Status.CONVERGED


@pytest.mark.claims
def test_weights_of_structured_measurements_are_weighted_least_squares():
    drawn = draw("rank-one", jax.random.key(6), n=60, d=6, r=1, sigma=0.05, dtype=jnp.float64)
    weights = np.linspace(0.2, 3, 60)
    problem = Problem(drawn.operator, drawn.y)
    result = recover(problem, weights=weights, rank=1, k=1)
    # At the minimum the weighted residual is orthogonal to the tangent space.
    operator = cast(drawn.operator, jnp.float64)
    u = jnp.asarray(result.U)
    errors = operator.image(u) - drawn.y
    slope = operator.pull(jnp.asarray(weights) * errors, u)
    assert float(jnp.linalg.norm(slope)) < 1e-6 * float(jnp.linalg.norm(weights)) * float(jnp.linalg.norm(drawn.y))
    left = 60 - 6
    np.testing.assert_allclose(result.sigma_estimate, np.sqrt(np.sum(weights * np.square(errors)) / left), rtol=1e-4)
    np.testing.assert_allclose(certify(problem, result, weights=weights).sigma, result.sigma_estimate, rtol=1e-4)


def test_a_complex_start_is_taken_and_one_of_the_wrong_field_is_refused():
    problem, truth = _problem("rank-one-complex")
    values, vectors = np.linalg.eigh(truth)
    init = np.zeros((8, 2), np.complex128)
    init[:, :2] = vectors[:, -2:] * np.sqrt(values[-2:])
    assert recover(problem, k=2, init=init).status is Status.CONVERGED
    real = Problem(RankOne.from_vectors(np.random.default_rng(0).standard_normal((20, 8))), np.ones(20) + np.arange(20))
    with pytest.raises(ValueError, match="init must be real"):
        recover(real, k=2, init=init)
    with pytest.raises(ValueError, match="complex, but these measurements are of a real matrix"):
        certify(real, init)


def test_complex_stored_gram_is_hermitian():
    stored = jax.random.normal(jax.random.key(0), (8, 2), jnp.float64)
    matrix = np.asarray(gram(stored, "complex"))
    np.testing.assert_allclose(matrix, matrix.conj().T)
    np.testing.assert_allclose(np.trace(matrix).real, float(jnp.sum(jnp.square(stored))))
