import jax
import numpy as np
import pytest

from pruneft.relu import all_patterns, fit, sample_patterns
from pruneft.relu.result import Fit
from pruneft.status import Status
from tests.relu.conic import optimum, program

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
Y = np.abs(X[:, 0]) - np.maximum(X @ [1.0, -1.0, 0.5], 0) + 0.1 * RNG.standard_normal(20)
SIGNS = np.where(np.median(Y) <= Y, 1.0, -1.0)
COUNT = 12


@pytest.fixture(scope="module")
def squared():
    return fit(X, Y, n_patterns=COUNT, tol=1e-6)


def test_a_fit_is_certified_and_its_network_attains_the_objective(squared):
    assert (squared.status, squared.ok, squared.notes) == (Status.CONVERGED, True, ())
    assert squared.gap <= 1e-6
    chosen = squared.patterns
    value = optimum(program(X, Y, chosen.D, chosen.H, "squared", lam=squared.lam / squared.lam_max))
    assert squared.dual <= value * (1 + 1e-8)
    assert squared.objective == pytest.approx(value, rel=1e-5)
    assert squared.network_objective == pytest.approx(squared.objective, rel=1e-8)
    f = squared.predict(X)
    u, alpha = np.asarray(squared.network.u), np.asarray(squared.network.alpha)
    by_hand = np.sum((f - Y) ** 2) / 2 + squared.lam * (np.sum(u**2) + np.sum(alpha**2)) / 2
    assert by_hand == pytest.approx(squared.objective, rel=1e-8)
    assert 0 < squared.neurons <= np.sum(np.any(squared.U != 0, axis=0))


def test_blocks_satisfy_the_cones_of_the_reported_patterns(squared):
    E = 2 * squared.patterns.D - 1
    for blocks in (squared.V, squared.W):
        assert blocks.shape == (3, COUNT)
        assert np.all(E * (X @ blocks) >= 0)


def test_the_same_seed_gives_the_same_fit_and_a_key_is_as_good_as_a_number(squared):
    again = fit(X, Y, n_patterns=COUNT, tol=1e-6, seed=jax.random.key(0))
    np.testing.assert_array_equal(again.U, squared.U)
    assert set(map(tuple, sample_patterns(jax.random.key(1), X, COUNT).D.T)) != set(map(tuple, squared.patterns.D.T))


def test_patterns_of_ones_own_need_no_directions(squared):
    own = fit(X, Y, patterns=squared.patterns.D, tol=1e-6)
    assert own.objective == pytest.approx(squared.objective, rel=2e-6)
    with pytest.raises(ValueError, match=r"no direction inside their cone \(columns 1 of D"):
        fit(X, Y, patterns=_impossible())
    with pytest.raises(ValueError, match="zeros and ones with n=20 rows"):
        fit(X, Y, patterns=squared.patterns.D * 2)


def _impossible():
    """A pattern that there is, and one that no direction has."""
    there = (X[:, 0] >= 0).astype(float)
    known = {tuple(column) for column in all_patterns(X).D.T}
    other = next(column for column in np.eye(20) if tuple(column) not in known)
    return np.stack([there, other], axis=1)


def test_a_relaxed_fit_predicts_by_gates_and_says_that_it_is_no_network(squared):
    relaxed = fit(X, Y, form="relaxed", patterns=squared.patterns, lam=squared.lam, tol=1e-6)
    assert relaxed.network is None
    assert "no ReLU network" in relaxed.notes[0]
    assert relaxed.dual <= squared.objective
    wanted = np.sum(squared.patterns.D * (X @ relaxed.V), axis=1)
    np.testing.assert_allclose(relaxed.predict(X), wanted, atol=1e-12)
    assert relaxed.W.shape == (3, 0)


def test_several_outputs_are_one_network_with_the_sum_of_their_objectives(squared):
    both = fit(X, np.stack([Y, -2 * Y], axis=1), n_patterns=COUNT, lam=squared.lam, tol=1e-6)
    assert both.V.shape == (2, 3, COUNT)
    assert both.predict(X).shape == (20, 2)
    np.testing.assert_allclose(both.predict(X)[:, 0], squared.predict(X), atol=1e-2)
    assert both.network_objective == pytest.approx(both.objective, rel=1e-8)
    assert both.gap <= 1e-6
    assert set(both.history) == {"iteration", "objective", "dual"}


def test_a_bias_and_a_linear_part_are_fitted_and_predicted_with():
    line = X @ [1.0, 2.0, 3.0] + 5
    found = fit(X, line, bias=True, skip=True, n_patterns=COUNT, lam=1e-2, tol=1e-5)
    assert found.network.linear.shape == (4,)
    np.testing.assert_allclose(found.predict(X), line, atol=0.05)
    new = RNG.standard_normal((7, 3))
    np.testing.assert_allclose(found.predict(new), new @ [1.0, 2.0, 3.0] + 5, atol=0.3)
    assert found.network_objective == pytest.approx(found.objective, rel=1e-8)


def test_weights_of_samples_are_those_of_the_loss():
    weights = np.where(np.arange(20) < 5, 3.0, 1.0)
    found = fit(X, SIGNS, loss="hinge", n_patterns=COUNT, weights=weights, tol=1e-6)
    chosen = found.patterns
    made = program(X, SIGNS, chosen.D, chosen.H, "hinge", lam=found.lam / found.lam_max, weights=weights / 20)
    assert found.objective == pytest.approx(optimum(made), rel=1e-5)


def test_units_do_not_matter(squared):
    scaled = fit(1e3 * X, 1e-2 * Y, n_patterns=COUNT, tol=1e-6)
    assert scaled.iterations == squared.iterations
    np.testing.assert_allclose(scaled.U, 1e-5 * squared.U, atol=1e-9)


def test_a_saved_fit_holds_what_it_says_and_a_full_disk_leaves_the_old_file(squared, tmp_path, monkeypatch):
    target = squared.save(tmp_path / "kept")
    before = target.read_bytes()
    with np.load(target) as file:
        assert {"V", "W", "u", "alpha", "D", "objective", "dual", "gap", "iterations", "status"} <= set(file.files)
        np.testing.assert_array_equal(file["V"], squared.V)
        assert float(file["gap"]) == squared.gap

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        squared.save(target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]


BAD = {
    "labels 0 and 1": (
        (X, (SIGNS + 1) / 2),
        {"loss": "hinge"},
        r"expects labels -1 and 1: y holds 0, 1\. Labels 0 and 1 become",
    ),
    "real labels": ((X, Y), {"loss": "bce"}, "expects labels -1 and 1: y holds "),
    "one class": ((X, np.ones(20)), {"loss": "hinge"}, "needs both labels, -1 and 1: all 20 are 1"),
    "text": ((X, np.array(["a"] * 20)), {}, "y must hold real numbers: got dtype <U1"),
    "NaN": ((np.where(X[0, 0] == X, np.nan, X), Y), {}, "X must be finite: 1 of 60 entries are NaN"),
    "lengths": ((X, Y[:5]), {}, "one row for each of the 20 rows of X"),
    "no samples": ((X[:0], Y[:0]), {}, "neither empty"),
    "lam = 0": ((X, Y), {"lam": 0}, r"must be positive: got 0\. Without the penalty"),
    "lam < 0": ((X, Y), {"lam": -1.0}, "must be positive and finite: got -1"),
    "lam NaN": ((X, Y), {"lam": float("nan")}, "must be positive and finite: got nan"),
    "tol": ((X, Y), {"tol": 1e-16}, "at least 4.4e-15 in float64"),
    "tol of float32": ((X, Y), {"tol": 1e-7, "dtype": "float32"}, "at least 2.4e-06 in float32"),
    "budget": ((X, Y), {"max_iterations": 0}, "whole number of at least 1: got 0"),
    "form": ((X, Y), {"form": "gated"}, "one of exact, relaxed: got 'gated'"),
    "loss": ((X, Y), {"loss": "l1"}, "one of squared, hinge, bce"),
    "method": ((X, Y), {"method": "sgd"}, "method must be one of admm"),
    "count": ((X, Y), {"n_patterns": 0}, "at least 1: got 0"),
    "both": ((X, Y), {"n_patterns": 3, "patterns": "all"}, "twice"),
    "weights": ((X, Y), {"weights": -np.ones(20)}, "none negative"),
    "nothing to fit": ((X, np.zeros(20)), {}, "X or y is zero: there is nothing to fit"),
}


@pytest.mark.parametrize(("data", "options", "text"), BAD.values(), ids=BAD)
def test_what_makes_no_sense_is_refused_with_what_to_do(data, options, text):
    with pytest.raises(ValueError, match=text):
        fit(*data, **options)


ODD = {
    "one sample": (X[:1], Y[:1]),
    "d above n, duplicate rows, a zero row and a zero column": (
        np.array([[1.0, 0, 2, 0, 1, 3], [1, 0, 2, 0, 1, 3], [0, 0, 0, 0, 0, 0], [2, 0, -1, 0, 1, 1]]),
        np.array([1.0, 2.0, 3.0, -1.0]),
    ),
}


@pytest.mark.parametrize(("X", "y"), ODD.values(), ids=ODD)
def test_odd_data_are_fitted_with_all_the_patterns_there_are(X, y):
    found = fit(X, y, n_patterns=50)
    assert found.ok, found.message
    assert found.patterns.complete
    assert found.notes == (f"50 patterns were asked for and there are {found.patterns.D.shape[1]}: all are used.",)
    assert found.network_objective == pytest.approx(found.objective, rel=1e-8)


def test_a_lam_above_its_threshold_is_a_status_and_a_note():
    found = fit(X, SIGNS, loss="hinge", n_patterns=COUNT, lam=10.0)
    assert (found.status, found.ok, found.neurons) == (Status.ALL_ZERO, False, 0)
    assert "at or above" in found.notes[0]
    np.testing.assert_array_equal(found.predict(X), np.zeros(20))


def test_a_spent_budget_is_a_status_that_says_what_to_do():
    found = fit(X, Y, n_patterns=COUNT, tol=1e-9, max_iterations=20, method="admm")
    assert (found.status, found.ok) == (Status.BUDGET_SPENT, False)
    assert "Give more iterations" in found.message
    assert found.summary()["status"] == "budget_spent"


def test_single_precision_is_that_of_the_data():
    found = fit(X.astype(np.float32), Y, n_patterns=COUNT)
    assert isinstance(found, Fit)
    assert (found.dtype, found.U.dtype, found.ok) == ("float32", np.float32, True)
    assert found.network_objective == pytest.approx(found.objective, rel=1e-5)
