import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import AsymmetricMeasurements, PackedOperator, Problem, svec

GENERATOR = np.random.default_rng(0)
A = GENERATOR.standard_normal((6, 3, 3))
A = A + np.swapaxes(A, 1, 2)
Y = GENERATOR.standard_normal(6)


def _with(array, index, value):
    changed = np.array(array, copy=True)
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("a", "y", "words"),
    [
        (A, Y[:5], r"same number of measurements: got 6 in A and \(5,\)"),
        (A, 1.0, r"same number of measurements: got 6 in A and \(\) as the shape of y"),
        (A, Y[:, None], r"y must be a vector of n measurements, n at least 1: got shape \(6, 1\)"),
        (A[:, :2], Y, "must hold square matrices: got 2 x 3. Rectangular problems"),
        (A[0, 0], Y, r"A must have shape \[n, d, d\] or, packed"),
        (A[None], Y, r"A must have shape \[n, d, d\]"),
        (A[:0], Y[:0], r"all sizes at least 1: got \(0, 3, 3\)"),
        (A[:, :0, :0], Y, r"all sizes at least 1: got \(6, 0, 0\)"),
        (A[:, 0, :2], Y, r"a packed symmetric matrix has d\(d\+1\)/2 entries .*: got 2\. The nearest are 1 .* and 3"),
        (_with(A, (1, 2, 0), np.nan), Y, r"A must be finite: 1 of its 54 entries .* the first at index \(1, 2, 0\)"),
        (_with(A, (0, 0, 0), np.inf), Y, "A must be finite"),
        (A, _with(Y, 3, np.nan), r"y must be finite: 1 of its 6 entries .* the first at index \(3,\)"),
        (A, _with(Y, 5, -np.inf), "y must be finite"),
        (A, 0 * Y, "y is all zero: the answer is M = 0"),
        (0 * A, Y, "A is all zero: the measurements say nothing about M"),
        (A + 0j, Y, "A must hold real numbers: got dtype complex128"),
        (A, Y + 0j, "y must hold real numbers: got dtype complex128"),
        (A.astype(str), Y, "A must hold real numbers: got dtype <U"),
        (A, Y.astype(str), "y must hold real numbers: got dtype <U"),
        (A.astype(object), Y, "A must hold real numbers: got dtype object"),
        (A > 0, Y, "A must hold real numbers: got dtype bool"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_before_anything_is_computed(a, y, words):
    with pytest.raises(ValueError, match=words):
        Problem.from_arrays(a, y)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (Y[:5], "same number of measurements: got 6 in A and 5 in y"),
        (Y[:0], "n at least 1"),
        (_with(Y, 0, np.nan), "y must be finite"),
        (0 * Y, "all zero"),
    ],
)
def test_data_beside_an_operator_are_checked_too(y, words):
    with pytest.raises(ValueError, match=words):
        Problem(PackedOperator.from_matrices(jnp.asarray(A)), jnp.asarray(y))


def test_matrices_and_packed_rows_are_the_same_problem():
    dense = Problem.from_arrays(A, Y)
    packed = Problem.from_arrays(svec(jnp.asarray(A)), jnp.asarray(Y))
    np.testing.assert_allclose(dense.operator.rows, packed.operator.rows, rtol=1e-14)
    np.testing.assert_array_equal(dense.y, packed.y)
    assert (dense.operator.n, dense.operator.d) == (6, 3)


def test_asymmetric_measurements_warn_and_count_by_their_symmetric_part():
    skew = np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 0]])
    with pytest.warns(AsymmetricMeasurements, match="only the symmetric part"):
        tilted = Problem.from_arrays(A + skew, Y)
    np.testing.assert_allclose(tilted.operator.rows, Problem.from_arrays(A, Y).operator.rows, rtol=1e-13)


def test_rounding_is_no_asymmetry():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounded = Problem.from_arrays(A * (1 + 1e-9 * GENERATOR.standard_normal(A.shape)), Y)
    np.testing.assert_allclose(rounded.operator.rows, Problem.from_arrays(A, Y).operator.rows, rtol=1e-6, atol=1e-6)


def test_asymmetry_is_judged_by_the_size_of_the_measurements():
    skew = np.zeros((3, 3))
    skew[0, 1] = 1
    with pytest.warns(AsymmetricMeasurements):
        Problem.from_arrays(1e-8 * (A + skew), Y)


def test_lists_and_whole_numbers_are_taken():
    problem = Problem.from_arrays([[[1, 0], [0, 2]], [[0, 3], [3, 1]]], [1, 2])
    np.testing.assert_allclose(problem.operator.rows, [[1, 0, 2], [0, 3 * 2**0.5, 1]])
    assert np.issubdtype(problem.operator.dtype, np.floating)
    assert problem.y.shape == (2,)


def test_float32_stays_float32():
    problem = Problem.from_arrays(A.astype("float32"), Y.astype("float32"))
    assert (problem.operator.dtype, problem.y.dtype) == (np.float32, np.float32)
