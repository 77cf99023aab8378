import jax
import numpy as np
import pytest

from pruneft.sensing.completion import TAUS, complete

D = 12
RNG = np.random.default_rng(0)
POINTS = RNG.standard_normal((D, 3))
KERNEL = np.exp(-np.sum((POINTS[:, None] - POINTS[None]) ** 2, axis=-1) / 8)
FACTOR = RNG.standard_normal((D, 1))
ONE = FACTOR @ FACTOR.T
ORDER = RNG.permutation(np.stack(np.triu_indices(D), axis=1))
MASK = np.zeros((D, D), bool)
MASK[tuple(ORDER[:52].T)] = True
FAST = {"taus": (0.02, 0.0005), "steps": 400, "k": 6, "splits": 2, "dtype": "float64"}


@pytest.fixture(scope="module", autouse=True)
def _standard_promotion():
    """Adam of optax needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def _error(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


@pytest.fixture(scope="module")
def smooth():
    return complete(np.where(MASK, KERNEL, np.nan), **FAST)


def test_a_kernel_matrix_is_completed_by_the_trace_norm(smooth):
    assert (smooth.chosen, smooth.recovery) == ("trace", None)
    assert smooth.tau in FAST["taus"]
    # Zeros in place of what is missing: what a completion has to beat by far.
    assert _error(smooth.matrix, KERNEL) < 0.25 * _error(np.where(MASK | MASK.T, KERNEL, 0), KERNEL)
    assert np.min(np.linalg.eigvalsh(smooth.matrix)) > -1e-10


def test_the_held_out_error_is_about_the_error(smooth):
    assert smooth.trace_errors.shape == smooth.low_rank_errors.shape == (2, 2)
    error = _error(smooth.matrix, KERNEL)
    assert error / 2 < smooth.expected_error < 4 * error


def test_a_matrix_of_low_rank_is_completed_exactly_and_the_choice_says_so():
    found = complete(np.where(MASK, ONE, np.nan), **FAST)
    assert found.chosen == "low rank"
    assert found.recovery is not None
    assert found.recovery.rank == 1
    assert np.isnan(found.tau)
    assert np.mean(found.fine_tuned_errors) < 0.1 * np.min(np.mean(found.trace_errors, axis=0))
    assert _error(found.matrix, ONE) < 1e-6


def test_a_kind_can_be_asked_for_and_units_do_not_matter():
    small, large = (complete(unit * np.where(MASK, ONE, np.nan), kind="trace", **FAST) for unit in (1e-3, 1e3))
    assert small.chosen == "trace"
    assert small.tau == large.tau
    # Equal to rounding of float32 at the start, which 400 steps of Adam pass on.
    np.testing.assert_allclose(1e3 * small.matrix, 1e-3 * large.matrix, atol=1e-3 * np.max(np.abs(ONE)))


def test_thresholds_fall():
    assert list(TAUS) == sorted(TAUS, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.diag([1] * 5 + [0] * 7)}, "ten at least: got 5"),
        ({"k": 13}, "k .columns trained. must be from 1 to d=12: got 13"),
        ({"taus": (0.1, -1.0)}, "taus must be"),
        ({"splits": 0}, "splits must be at least 1"),
        ({"share": 1.0}, "share between 0 and 1"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        complete(**{"Y": KERNEL, "mask": MASK, **arguments})
