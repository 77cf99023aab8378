import itertools

import cvxpy
import numpy as np
import pytest

from pruneft.sensing.tomography import (
    all_strings,
    complete,
    depolarised,
    draw_shots,
    expectations_of,
    fidelity,
    ghz,
    linear_inversion,
    maximum_likelihood,
    nearest_state,
    project_simplex,
    random_state,
    random_strings,
)

STRINGS = all_strings(2)
MATRICES = {"I": np.eye(2), "X": np.array([[0, 1], [1, 0]]), "Y": np.array([[0, -1j], [1j, 0]]), "Z": np.diag([1, -1])}


def test_linear_inversion_of_exact_values_is_the_state():
    state = random_state(3, 2, 0)
    np.testing.assert_allclose(
        linear_inversion(all_strings(3), expectations_of(state, all_strings(3))), state, atol=1e-12
    )
    # What was not measured is taken as zero, and the trace as one.
    np.testing.assert_allclose(linear_inversion(["ZI"], [1.0]), np.diag([1, 1, 0, 0]) / 2)


def test_projection_on_the_simplex_meets_its_optimality_conditions():
    for seed in range(20):
        values = np.random.default_rng(seed).standard_normal(6)
        found = project_simplex(values)
        np.testing.assert_allclose(found.sum(), 1)
        shift = values - found
        # One multiplier on the support, at least as large elsewhere: the conditions of Karush, Kuhn and Tucker.
        level = shift[found > 0][0]
        assert np.all(found >= 0)
        np.testing.assert_allclose(shift[found > 0], level)
        assert np.all(values[found == 0] <= level + 1e-12)


def test_nearest_state_leaves_states_alone_and_makes_states():
    state = random_state(2, 2, 1)
    np.testing.assert_allclose(nearest_state(state), state, atol=1e-12)
    noisy = nearest_state(linear_inversion(STRINGS, draw_shots(ghz(2), STRINGS, 20, 0)))
    assert 0.5 < fidelity(noisy, ghz(2)) <= 1 + 1e-9


@pytest.fixture(scope="module")
def counted():
    """Two qubits, 50 shots of each observable, and the likeliest state."""
    values = draw_shots(depolarised(random_state(2, 1, 3), 0.1), STRINGS, 50, 4)
    return values, maximum_likelihood(STRINGS, values, 50, tolerance=1e-4)


def test_maximum_likelihood_agrees_with_an_interior_point_solver(counted):
    values, found = counted
    unknown = cvxpy.Variable((4, 4), hermitian=True)
    terms = []
    for one, value in zip(STRINGS[1:], values[1:], strict=True):
        mean = cvxpy.real(cvxpy.trace(np.kron(MATRICES[one[0]], MATRICES[one[1]]) @ unknown))
        terms += [(1 + value) / 2 * cvxpy.log((1 + mean) / 2), (1 - value) / 2 * cvxpy.log((1 - mean) / 2)]
    problem = cvxpy.Problem(
        cvxpy.Maximize(50 * cvxpy.sum(cvxpy.hstack(terms))), [unknown >> 0, cvxpy.real(cvxpy.trace(unknown)) == 1]
    )
    best = problem.solve(solver=cvxpy.CLARABEL)
    assert -1e-3 < best - found.log_likelihood < 1e-3
    np.testing.assert_allclose(found.state, unknown.value, atol=2e-3)


def test_gap_bounds_what_is_left_of_the_likelihood(counted):
    values, found = counted
    early = maximum_likelihood(STRINGS, values, 50, most=3)
    assert early.iterations == 3
    assert 0 < found.log_likelihood - early.log_likelihood <= early.gap
    assert found.gap <= 1e-4


def test_maximum_likelihood_weighs_observables_by_their_shots():
    # Z is measured often and X seldom: the state follows the values of Z, although both cannot hold.
    often = maximum_likelihood(["Z", "X"], [0.9, 0.9], [10_000, 10], most=300).state
    np.testing.assert_allclose(often[0, 0] - often[1, 1], 0.9, atol=0.01)
    with pytest.raises(ValueError, match="needs shots"):
        maximum_likelihood(["Z"], [0.5], None)


def _stabilised(strings, state):
    return complete(strings, expectations_of(state, strings))


def test_completion_adds_only_values_that_the_state_has():
    for seed, qubits in itertools.product(range(6), (3, 4)):
        found = _stabilised(random_strings(qubits, 4**qubits // 3, seed), ghz(qubits))
        np.testing.assert_allclose(found.expectations, expectations_of(ghz(qubits), found.strings), atol=1e-12)
        assert len(set(found.strings)) == len(found.strings)


def test_generators_of_a_stabiliser_state_give_all_of_its_values():
    found = _stabilised(["XXX", "ZZI", "IZZ"], ghz(3))
    assert (found.generators, len(found.strings)) == (3, 64)
    np.testing.assert_allclose(linear_inversion(found.strings, found.expectations), ghz(3), atol=1e-12)


def test_completion_carries_ordinary_values_along():
    # |0> times a mixed state: <ZI> = 1, so <ZX> = <IX>, and what anticommutes with ZI is zero.
    state = np.kron(np.diag([1, 0]), depolarised(random_state(1, 1, 2), 0.3))
    found = _stabilised(["ZI", "IX"], state)
    known = dict(zip(found.strings, found.expectations, strict=True))
    assert (known["ZX"], known["XX"], "IY" in known, found.generators) == (known["IX"], 0, False, 1)


def test_values_below_one_imply_nothing_and_contradictions_are_errors():
    strings = all_strings(2)
    state = random_state(2, 1, 0)
    found = _stabilised(strings[:9], state)
    assert (found.strings, found.generators) == (strings[:9], 0)
    with pytest.raises(ValueError, match=r"(XI and ZI|ZI and XI) do not commute"):
        complete(["XI", "ZI"], [1, -1])
    with pytest.raises(ValueError, match=r"YY is a product .* -1: got 1"):
        complete(["XX", "ZZ", "YY"], [1, 1, 1])
