import dataclasses
import functools
import importlib
import inspect
import math
import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import least_squares

from pruneft import Problem, recover
from pruneft.pipeline import FirstOrder, Phase
from pruneft.sensing import PackedOperator, PathRecipe, PruneRecipe, Recovery, draw_instance, mean_squared_error, smat
from pruneft.sensing.operator import cast
from pruneft.status import Status

# One size throughout, so that each method is compiled once: dof 8, n = 2.5 dof.
D, N = 8, 20
PATH = PathRecipe(starts=2, attempts=(100,))
PRUNE = PruneRecipe(attempts=(1000,))
ARGUMENTS = {"path": {"method": "path", "recipe": PATH}, "prune": {"method": "prune", "recipe": PRUNE, "sigma": 0.0}}
METHODS = pytest.mark.parametrize("method", ["path", "prune"])


@pytest.fixture(autouse=True)
def _lenient():
    # optax's Adam multiplies Python floats with int32 counters, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def _drawn(r=1, n=N, sigma=0.0, seed=1):
    drawn = draw_instance(jax.random.key(seed), n=n, d=D, r=r, sigma=sigma, dtype=jnp.float64)
    return drawn._replace(operator=cast(drawn.operator, jnp.float64))


def _problem(by_y=1.0, **instance):
    drawn = _drawn(**instance)
    return Problem(drawn.operator, by_y * drawn.y)


@functools.cache
def _recovered(method):
    return recover(_problem(), **ARGUMENTS[method])


@METHODS
def test_a_rank_one_matrix_is_recovered_from_two_and_a_half_measurements_per_degree_of_freedom(method):
    result = _recovered(method)
    truth = np.asarray(_drawn().truth)
    assert (result.ok, result.status, result.rank) == (True, Status.CONVERGED, 1)
    np.testing.assert_allclose(result.matrix, truth, atol=1e-7)
    np.testing.assert_allclose(result.eigenvalues, [1.0], atol=1e-7)
    assert result.residual < 1e-7
    assert (result.method, result.dtype) == (method, "float64")
    assert result.columns >= 1 if method == "prune" else result.columns == 0


@METHODS
def test_history_follows_the_training(method):
    result = _recovered(method)
    history = result.history
    times = len(history["step"])
    assert times == result.steps // 25
    assert np.all(np.diff(history["step"]) > 0)
    assert history["step"][-1] == result.steps
    assert history["column_norms"].shape == (times, D)
    assert history["residual"][-1] < history["residual"][0]
    assert set(history["phase"]) <= {int(phase) for phase in Phase}
    assert np.all(np.diff(history["finetune"]) <= 1e-12)
    np.testing.assert_allclose(history["finetune"][-1], result.residual, atol=1e-6)
    # In units of U: the one eigenvalue is 1, so the largest column is near norm 1 at the end.
    assert 0.3 < history["column_norms"][-1].max() < 1.5


@METHODS
@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_units_of_y_only_change_the_units_of_the_answer(method, unit):
    scaled, plain = recover(_problem(by_y=unit), **ARGUMENTS[method]), _recovered(method)
    np.testing.assert_allclose(scaled.matrix / unit, plain.matrix, atol=1e-8)
    assert (scaled.rank, scaled.status, scaled.steps) == (plain.rank, plain.status, plain.steps)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_units_of_the_measurements_divide_the_answer(unit):
    drawn, plain = _drawn(), _recovered("path")
    scaled = recover(Problem(PackedOperator(unit * drawn.operator.rows), drawn.y), **ARGUMENTS["path"])
    np.testing.assert_allclose(unit * scaled.matrix, plain.matrix, atol=1e-8)
    assert (scaled.rank, scaled.status, scaled.steps) == (plain.rank, plain.status, plain.steps)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_noise_known_scales_with_y(unit):
    arguments = {"method": "prune", "recipe": PRUNE}
    plain = recover(_problem(sigma=0.05), sigma=0.05, **arguments)
    scaled = recover(_problem(by_y=unit, sigma=0.05), sigma=0.05 * unit, **arguments)
    assert (plain.ok, plain.rank) == (True, scaled.rank)
    np.testing.assert_allclose(scaled.matrix / unit, plain.matrix, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scaled.sigma_estimate / unit, plain.sigma_estimate, rtol=1e-5)
    # 12 degrees of freedom are left over: sigma_estimate/sigma is sqrt(chi2_12/12), within .3 and 1.8 but for 1e-4.
    assert 0.3 < plain.sigma_estimate / 0.05 < 1.8


@METHODS
def test_a_known_rank_is_kept(method):
    result = recover(_problem(), rank=1, **ARGUMENTS[method])
    assert (result.rank, result.ok) == (1, True)
    np.testing.assert_allclose(result.matrix, _drawn().truth, atol=1e-7)


def test_a_known_rank_is_fitted_by_least_squares():
    # With noise and the rank given, the answer is a stationary point of the loss itself: 4 G U = 0, no penalty left.
    drawn = _drawn(sigma=0.1)
    result = recover(_problem(sigma=0.1), rank=1, **ARGUMENTS["path"])
    operator = drawn.operator
    slope = jax.grad(mean_squared_error)(jnp.asarray(result.U), operator, drawn.y)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    np.testing.assert_allclose(
        result.residual, np.linalg.norm(operator.apply(jnp.asarray(result.matrix)) - drawn.y) / np.linalg.norm(drawn.y)
    )
    left = N - 8
    np.testing.assert_allclose(result.sigma_estimate, result.residual * np.linalg.norm(drawn.y) / left**0.5, rtol=1e-9)


def test_weights_of_one_are_no_weights():
    weighted = recover(_problem(), weights=np.ones(N), **ARGUMENTS["path"])
    np.testing.assert_allclose(weighted.matrix, _recovered("path").matrix, atol=1e-9)


def _least_squares(weights):
    """The rank-one least-squares fit by SciPy, from the truth, measurement i repeated weights[i] times."""
    drawn = _drawn(sigma=0.2)
    dense = np.repeat(np.asarray(smat(drawn.operator.rows)), weights, axis=0)
    y = np.repeat(np.asarray(drawn.y), weights)
    start = np.asarray(drawn.factor)[:, 0]
    u = least_squares(lambda u: np.einsum("nij,i,j->n", dense, u, u) - y, start, xtol=1e-14, ftol=1e-14, gtol=1e-14).x
    return np.outer(u, u)


def test_a_doubled_weight_counts_as_the_measurement_taken_twice():
    weights = np.repeat([2, 1], N // 2)
    plain, weighted = _least_squares(np.ones(N, int)), _least_squares(weights)
    assert np.linalg.norm(plain - weighted) > 1e-3  # noisy, so that weights matter
    arguments = {"rank": 1, **ARGUMENTS["path"]}
    np.testing.assert_allclose(recover(_problem(sigma=0.2), **arguments).matrix, plain, atol=1e-6)
    np.testing.assert_allclose(recover(_problem(sigma=0.2), weights=weights, **arguments).matrix, weighted, atol=1e-6)


def test_measurements_of_weight_zero_do_not_count():
    # 20 good measurements and 10 of nonsense with weight 0 give what the 20 give alone, sizes and estimates included.
    drawn = _drawn(sigma=0.1)
    rows = jnp.concatenate([drawn.operator.rows, 3 * drawn.operator.rows[:10]])
    padded = Problem(PackedOperator(rows), jnp.concatenate([drawn.y, 7 * jnp.ones(10)]))
    alone = recover(_problem(sigma=0.1), **ARGUMENTS["path"])
    found = recover(padded, weights=np.r_[np.ones(N), np.zeros(10)], **ARGUMENTS["path"])
    np.testing.assert_allclose(found.matrix, alone.matrix, atol=1e-8)
    np.testing.assert_allclose(found.sigma_estimate, alone.sigma_estimate, rtol=1e-6)
    np.testing.assert_allclose(found.predicted_error, alone.predicted_error, rtol=1e-6)


def test_a_start_of_ones_own_is_used():
    # The best start shows in the history: from the truth itself, training begins (after 25 steps) from elsewhere than
    # from a random factor, and the answer is the truth all the same.
    truth = np.zeros((D, D))
    truth[:, 0] = np.asarray(_drawn().factor)[:, 0]
    result = recover(_problem(), init=truth, **ARGUMENTS["prune"])
    np.testing.assert_allclose(result.matrix, _drawn().truth, atol=1e-7)
    plain = _recovered("prune")
    # Columns that start at exactly zero stay there; those of a random start do not.
    assert not np.any(result.history["column_norms"][:, 1:])
    assert np.all(plain.history["column_norms"][0] > 0)


@METHODS
def test_too_few_measurements_end_in_a_plain_status(method):
    # Rank 4 has 26 degrees of freedom, more than the 20 measurements.
    result = recover(_problem(r=4), **ARGUMENTS[method])
    assert not result.ok
    assert result.status == (Status.REJECTED if method == "path" else Status.BUDGET_SPENT)
    assert "more measurements" in result.message
    assert np.isfinite(result.U).all()


def test_fewer_measurements_than_a_rank_one_matrix_has_degrees_of_freedom_are_called_that():
    result = recover(_problem(n=7), **ARGUMENTS["path"])
    assert (result.status, result.ok, result.rank) == (Status.NOT_IDENTIFIABLE, False, 0)


def test_first_order_fine_tuning_runs_in_the_lane():
    # Step length 0.1 of the normalised problem; rank one at n = 2.5 dof converges linearly.
    finetune = FirstOrder(optimizer=optax.sgd(0.1), steps=200, tolerance=0.0)
    result = recover(_problem(), finetune=finetune, rank=1, **ARGUMENTS["prune"])
    assert (result.ok, result.rank) == (True, 1)
    np.testing.assert_allclose(result.matrix, _drawn().truth, atol=1e-4)
    assert result.steps == 1000 + 200
    assert Phase.TUNE in result.history["phase"]
    assert result.history["finetune"].size == 0


def test_other_seeds_give_the_same_answer_another_way():
    other = recover(_problem(), seed=5, **ARGUMENTS["path"])
    np.testing.assert_allclose(other.matrix, _recovered("path").matrix, atol=1e-7)
    assert not np.array_equal(other.history["residual"], _recovered("path").history["residual"])


BAD = [
    ({"method": "magic"}, "method must be 'path' or 'prune': got 'magic'"),
    ({"k": 0}, r"k \(columns trained\) must be a whole number of at least 1: got 0"),
    ({"k": 2, "rank": 3}, "k .* must be at least the rank: got k=2, rank=3. Raise k, or lower rank"),
    ({"rank": 0}, "rank must be a whole number of at least 1: got 0"),
    ({"rank": True}, "rank must be a whole number of at least 1: got True"),
    ({"rank": D + 1, "k": D + 1}, "rank must not exceed d .*: got rank=9, d=8"),
    ({"sigma": -0.1}, r"sigma \(noise standard deviation\) must be finite and not negative: got -0.1"),
    ({"sigma": math.nan}, "sigma .* must be finite and not negative: got nan"),
    ({"lam": -1e-3}, r"lam \(penalty weight\) must be finite and not negative: got -0.001"),
    ({"lam": math.inf}, "lam .* must be finite"),
    ({"beta": 0.0}, r"beta .* must be positive: got 0.0"),
    ({"beta": -1.0}, "beta .* must be positive"),
    ({"beta": math.inf}, "beta .* must be finite"),
    ({"weights": np.ones(N - 1)}, r"weights must have one entry per measurement, shape \(20,\): got \(19,\)"),
    ({"weights": -np.ones(N)}, "weights must be finite and not negative, and not all zero"),
    ({"weights": np.full(N, np.nan)}, "weights must be finite"),
    ({"weights": np.zeros(N)}, "not all zero"),
    ({"init": np.ones((D, 3))}, r"init must be a factor of shape \[d, k\] = \[8, 8\]: got \[8, 3\]"),
    ({"init": np.full((D, D), np.nan)}, "init must be finite"),
    ({"dtype": "float16"}, "dtype must be float32 or float64: got float16"),
    ({"dtype": "int32"}, "dtype must be float32 or float64: got int32"),
    ({"recipe": PRUNE}, "method 'path' takes a PathRecipe: got a PruneRecipe"),
    ({"method": "prune", "recipe": PATH}, "method 'prune' takes a PruneRecipe: got a PathRecipe"),
    (
        {"finetune": FirstOrder(optimizer=optax.sgd(0.1))},
        "the rank path refines by Levenberg-Marquardt only: use method",
    ),
    ({"method": "prune", "finetune": FirstOrder(optimizer=optax.sgd(0.1), steps=0)}, "fine-tuning needs at least one"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_a_call_that_makes_no_sense_is_refused_with_what_was_expected(arguments, words, monkeypatch):
    def ran(*args, **kwargs):
        raise AssertionError("training started")

    monkeypatch.setattr(importlib.import_module("pruneft.sensing.recover"), "run", ran)
    with pytest.raises(ValueError, match=words):
        inspect.unwrap(recover)(_problem(), **arguments)  # as a user without type checks calls it


def test_float64_without_64_bit_mode_is_refused_with_how_to_enable_it():
    problem = _problem()
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="dtype float64 needs JAX's 64-bit mode: call jax"),
    ):
        recover(problem, dtype="float64", **ARGUMENTS["path"])


def test_a_recovery_comes_back_from_disk_as_it_was(tmp_path):
    result = _recovered("path")
    path = result.save(tmp_path / "new" / "answer")
    assert path == tmp_path / "new" / "answer.npz"
    loaded = Recovery.load(path)
    for name in (field.name for field in dataclasses.fields(Recovery)):
        if name not in ("U", "history"):
            np.testing.assert_equal(getattr(loaded, name), getattr(result, name))
    np.testing.assert_array_equal(loaded.U, result.U)
    assert loaded.U.dtype == result.U.dtype
    assert set(loaded.history) == set(result.history)
    for name, values in result.history.items():
        np.testing.assert_array_equal(loaded.history[name], values)
    assert loaded.status is Status.CONVERGED
    with np.load(path) as file:
        np.testing.assert_allclose(file["eigenvalues"], result.eigenvalues)


def test_numbers_that_are_not_finite_survive_the_disk_and_are_none_in_a_summary(tmp_path):
    odd = dataclasses.replace(_recovered("path"), sigma_estimate=math.nan, predicted_error=math.inf)
    loaded = Recovery.load(odd.save(tmp_path / "odd.npz"))
    assert math.isnan(loaded.sigma_estimate)
    assert loaded.predicted_error == math.inf
    summary = loaded.summary()
    assert (summary["sigma_estimate"], summary["predicted_error"]) == (None, None)
    assert (summary["status"], summary["ok"], summary["rank"]) == ("converged", True, 1)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = _recovered("path").save(tmp_path / "answer.npz")
    before = path.read_bytes()

    def half(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="no space left"):
        _recovered("prune").save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["answer.npz"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_a_saved_file_has_the_permissions_of_any_other(tmp_path):
    path = _recovered("path").save(tmp_path / "answer.npz")
    (tmp_path / "other").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_file_that_is_no_recovery_is_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    if content is None:
        np.savez(path, x=np.ones(3))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a saved recovery"):
        Recovery.load(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Recovery.load(tmp_path / "none.npz")
