import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from pruneft.sensing import Operator, field
from pruneft.sensing.operator import cast
from pruneft.sensing.operators import pauli_code
from pruneft.sensing.operators.pauli import Pauli, SuspiciousExpectations, quicker, string_of

LETTERS = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]),
}
Q, D, R = 3, 8, 2
RNG = np.random.default_rng(0)
ALL = ["".join(letters) for letters in itertools.product("IXYZ", repeat=Q)]
SOME = [ALL[0], *RNG.permutation(ALL[1:])[:29].tolist()]
MATRICES = np.sqrt(D) * np.stack([functools.reduce(np.kron, [LETTERS[c] for c in one]) for one in SOME])
HALF = RNG.standard_normal((2, D, D)) + 1j * RNG.standard_normal((2, D, D))
HERMITIAN = HALF + np.conj(np.swapaxes(HALF, -1, -2))
STORED = RNG.standard_normal((2, 2 * D, R))
FACTOR = field.to_complex(STORED)
E = RNG.standard_normal((2, len(SOME)))
FORMS = ["rows", "transform"]


def _operator(form, strings=SOME):
    made = Pauli.from_strings(strings)
    return Pauli(made.x, made.z, made.side, made.d, form)


@pytest.fixture(scope="module")
def found():
    """Every product of both forms and precisions on a batch of two, each compiled once under jit and vmap."""

    def products(operator, matrix, stored, e):
        each = (operator.apply(matrix), operator.adjoint(e), operator.image(stored), operator.pull(e, stored))
        return (*each, operator.jacobian(stored))

    compiled = jax.jit(jax.vmap(products, in_axes=(None, 0, 0, 0)))
    wide = {"float32": "complex64", "float64": "complex128"}
    return {
        (form, dtype): compiled(
            cast(_operator(form), dtype), HERMITIAN.astype(wide[dtype]), STORED.astype(dtype), E.astype(dtype)
        )
        for form in FORMS
        for dtype in wide
    }


@pytest.mark.parametrize("form", FORMS)
def test_products_are_those_of_the_dense_matrices(found, form, dtype, tolerance):
    apply, adjoint, image, pull, jacobian = found[form, dtype]
    combined = np.einsum("bn,nij->bij", E, MATRICES)
    expected = (
        np.einsum("nij,bji->bn", MATRICES, HERMITIAN).real,
        combined,
        np.einsum("nij,bjk,bik->bn", MATRICES, FACTOR, FACTOR.conj()).real,
        field.to_stored(combined @ FACTOR),
        field.to_stored(2 * np.einsum("nij,bjk->bnik", MATRICES, FACTOR)),
    )
    for got, wanted in zip((apply, adjoint, image, pull, jacobian), expected, strict=True):
        assert got.dtype in (np.dtype(dtype), np.dtype("complex64" if dtype == "float32" else "complex128"))
        np.testing.assert_allclose(got, wanted, atol=tolerance * np.abs(wanted).max() * 5)


def test_both_forms_agree_to_rounding(found, dtype):
    for rows, transform in zip(found["rows", dtype], found["transform", dtype], strict=True):
        limit = {"float32": 1e-5, "float64": 1e-12}[dtype] * float(np.abs(rows).max())
        np.testing.assert_allclose(rows, transform, atol=limit)


def test_products_without_vmap_take_a_batch_in_front(found):
    operator = _operator("transform")
    np.testing.assert_allclose(operator.image(jnp.asarray(STORED)), found["transform", "float64"][2], rtol=1e-12)
    np.testing.assert_allclose(
        operator.pull(jnp.asarray(E), jnp.asarray(STORED)), found["transform", "float64"][3], atol=1e-11
    )


def test_operator_meets_the_contract():
    operator = _operator("rows")
    assert isinstance(operator, Operator)
    assert (operator.n, operator.d, operator.field, operator.qubits) == (30, D, "complex", Q)
    assert operator.strings == SOME
    np.testing.assert_array_equal(operator.whiten(jnp.asarray(E), 30, D), E)
    np.testing.assert_allclose(operator.canonical(jnp.asarray(STORED), D), STORED)


def test_with_all_observables_the_measurements_keep_the_norm():
    # E (1/n) <A, X>^2 = ||X||_F^2 exactly: a wrong power of d in A shows here.
    y = np.asarray(_operator("transform", ALL).apply(jnp.asarray(HERMITIAN[0])))
    np.testing.assert_allclose(np.mean(y**2), np.linalg.norm(HERMITIAN[0]) ** 2, rtol=1e-12)
    size = _operator("transform", ALL).size(jnp.asarray(y), 64, D)
    np.testing.assert_allclose(size, np.linalg.norm(HERMITIAN[0]), rtol=1e-12)


@pytest.mark.parametrize("qubits", [1, 6])
def test_table_of_all_values_is_right_for_few_and_many_qubits(qubits):
    # Six qubits take two products of three each: a wrong order of the bits shows there only.
    d = 1 << qubits
    half = np.random.default_rng(1).standard_normal((d, d, 2)) @ np.array([1, 1j])
    matrix = half + half.conj().T
    table = pauli_code.values(pauli_code.code(matrix))
    row = np.arange(d)
    for x, z in np.random.default_rng(2).integers(0, d, (20, 2)):
        ones = bin(x & z).count("1")
        signs = np.array([(-1) ** bin(z & b).count("1") for b in row])
        value = np.sum(1j**ones * signs * matrix[row, row ^ x])
        np.testing.assert_allclose(table[x, z], value, atol=1e-11)
    np.testing.assert_allclose(pauli_code.decode(pauli_code.combination(table)) / d, matrix, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("d", [16, 12])
def test_padding_is_exactly_zero_and_the_live_block_is_that_of_the_unpadded_problem(found, form, d):
    # Twelve is no power of two: buckets of a sweep may have any size.
    plain = _operator(form)
    padded = Pauli(*(jnp.pad(leaf, (0, 5)) for leaf in (plain.x, plain.z, plain.side)), d, form)
    stored = np.pad(STORED[0], ((0, 2 * (d - D)), (0, 3)))
    e = np.pad(E[0], (0, 5))
    image, pull, adjoint, jacobian = (
        np.asarray(part)
        for part in jax.jit(lambda p, u, e: (p.image(u), p.pull(e, u), p.adjoint(e), p.jacobian(u)))(padded, stored, e)
    )
    for part in (image[30:], pull[2 * D :], pull[:, R:], adjoint[D:], adjoint[:, D:], jacobian[30:], jacobian[:, 16:]):
        assert not np.any(part)
    expected = [one[0] for one in found[form, "float64"]]
    np.testing.assert_allclose(image[:30], expected[2], atol=1e-12)
    np.testing.assert_allclose(pull[:16, :R], expected[3], atol=1e-12)
    np.testing.assert_allclose(adjoint[:D, :D], expected[1], atol=1e-12)
    np.testing.assert_allclose(jacobian[:30, :16, :R], expected[4], atol=1e-12)


def test_no_product_makes_an_array_of_n_times_d_squared():
    # At n = d² = 1024 such an array has d^4 numbers; the largest that is allowed is the Jacobian's.
    x, z = (part.ravel() for part in np.divmod(np.arange(1024), 32))
    for form, most in (("transform", 1024), ("rows", 1024 * 32)):
        operator = Pauli.from_masks(x, z, 5, form=form)
        stored = jnp.ones((64, 2))
        traced = jax.make_jaxpr(lambda p, u: p.pull(p.image(u), u))(operator, stored)
        assert max(v.aval.size for v in _variables(traced.jaxpr)) <= 2 * most


def _variables(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jaxprs_in_params(equation.params):
            yield from _variables(inner)


def test_quicker_form_is_the_rows_only_while_they_are_few():
    assert [quicker(n, 8) for n in (5, 16, 17, 64)] == ["rows", "rows", "transform", "transform"]
    assert Pauli.from_strings(ALL).form == "transform"


def test_degrees_of_freedom_and_edge_are_the_complex_ones():
    operator = _operator("rows")
    assert [operator.dof(r) for r in (1, 2, 8)] == [15, 28, 64]
    assert operator.dof(2, 4) == 12
    # Jacobian rank at a generic point is the degrees of freedom, once there are enough observables.
    jacobian = np.asarray(_operator("transform", ALL).jacobian(jnp.asarray(STORED[0]))).reshape(64, -1)
    assert np.linalg.matrix_rank(jacobian) == 28
    np.testing.assert_allclose(operator.noise_edge(0.1, 64, 8), 0.2 * np.sqrt(8 / 64))


def test_noise_of_all_observables_has_its_largest_eigenvalue_near_the_edge():
    operator = _operator("transform", ALL)
    noise = np.random.default_rng(3).standard_normal((200, 64))
    largest = np.linalg.eigvalsh(np.asarray(operator.adjoint(jnp.asarray(noise))) / 64)[:, -1]
    # Tracy and Widom (1994): the mean of the largest eigenvalue of the 8 x 8 unitary ensemble is 1 - 1.771/(2 * 8^(2/3)) = .779
    # times the edge, to some percent at this size. A real edge, sqrt 2 smaller, would be at 1.10.
    assert abs(np.mean(largest) / float(operator.noise_edge(1.0, 64, 8)) - 0.779) < 0.04


def test_step_costs_grow_with_columns_and_observables():
    few, many = _operator("rows"), _operator("transform", ALL)
    assert few.step_cost(4)[0] - few.step_cost(2)[0] == 12 * 64 * 2
    assert few.step_cost(2)[0] == 12 * 64 * 2 + 4 * 30 * 8
    assert many.step_cost(2)[0] == 12 * 64 * 2 + 4 * 64 * 8
    assert many.step_cost(4)[1] > many.step_cost(2)[1] > 8 * 64


def test_expectations_become_data_in_units_of_the_root_of_d():
    operator = Pauli.from_strings(["II", "XX", "ZZ"])
    np.testing.assert_allclose(operator.data([1, 0.5, -1]), [2, 1, -2])
    bell = np.outer([1, 0, 0, 1], [1, 0, 0, 1]) / 2
    np.testing.assert_allclose(operator.apply(jnp.asarray(bell)), operator.data([1, 1, 1]), atol=1e-12)


def test_strings_and_masks_are_inverse_and_the_first_letter_is_the_highest_bit():
    operator = Pauli.from_strings(["XIZ", "IYI"])
    assert (operator.x.tolist(), operator.z.tolist()) == ([4, 2], [1, 2])
    assert [string_of(4, 1, 3), string_of(2, 2, 3)] == ["XIZ", "IYI"] == operator.strings


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Pauli.from_strings(["XI", "XZZ"]), "one letter for each qubit, 2 .* got 'XZZ' at place 1"),
        (lambda: Pauli.from_strings(["XI", "xz"]), "letters I, X, Y and Z only: got 'xz'"),
        (lambda: Pauli.from_strings("XIZ"), "must be a sequence"),
        (lambda: Pauli.from_strings([]), "at least one Pauli string"),
        (lambda: Pauli.from_strings(["XX", "ZZ", "XX"]), "1 observables are repeated, XX"),
        (lambda: Pauli.from_masks([0, 4], [0, 1], 2), "between 0 and 3: got x from 0 to 4"),
        (lambda: Pauli.from_masks([0, 1], [0], 2), "one shape"),
        (lambda: Pauli.from_masks([0.0], [0.0], 2), "whole numbers"),
        (lambda: Pauli.from_masks([0], [0], 0), "qubits must be a whole number from 1 to 15"),
        (lambda: Pauli.from_masks([0], [0], 2, form="dense"), "form must be"),
        (lambda: Pauli.from_strings(["XX"]).data([1.2]), "between -1 and 1: got 1.2 for XX"),
        (lambda: Pauli.from_strings(["XX"]).data([float("nan")]), "got nan for XX"),
        (lambda: Pauli.from_strings(["II"]).data([0.5]), "identity has expectation 1: got 0.5"),
        (lambda: Pauli.from_strings(["II"]).data([1, 1]), "one entry for each of 1"),
        (lambda: Pauli.from_strings(["II", "XX"]).check_data(np.array([-1.0, 0]), 2), "positive"),
    ],
)
def test_bad_input_is_refused_with_what_came(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_values_beyond_the_trace_are_pointed_out_and_others_are_not():
    operator = Pauli.from_strings(["XX", "II", "ZZ"])
    with pytest.warns(SuspiciousExpectations, match="ZZ has 1.5 times"):
        operator.check_data(np.array([0.1, 2.0, -3.0]), 3)
    operator.check_data(np.array([0.1, 2.0, -2.0]), 3)  # warnings are errors
    Pauli.from_strings(["XX", "ZZ"]).check_data(np.array([0.1, 7.0]), 2)
