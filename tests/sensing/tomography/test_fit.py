import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import field
from pruneft.sensing.operators.pauli import Pauli
from pruneft.sensing.tomography import (
    all_strings,
    depolarised,
    draw_shots,
    expectations_of,
    fidelity,
    ghz,
    measured,
    random_state,
    tomography,
)
from pruneft.sensing.tomography.refit import jacobian, jacobian_rank, reweighed

STRINGS = all_strings(2)


@pytest.fixture(autouse=True, scope="module")
def _standard_promotion():
    # optax's Adam multiplies Python floats with int32 counters, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def noisy():
    """A depolarised pure state of two qubits, 4000 shots of every observable."""
    state = depolarised(random_state(2, 1, 0), 0.2)
    values = draw_shots(state, STRINGS, 4000, 1)
    return state, values, tomography(STRINGS, values, shots=4000)


def test_a_depolarised_pure_state_is_found_with_its_rank_and_its_white_share(noisy):
    state, _, found = noisy
    assert (found.rank, found.ok, found.used) == (1, True, 15)
    assert abs(found.white - 0.2) < 0.05  # 1/sqrt(4000) = .016 for each mean
    assert np.linalg.norm(found.state - state) < 0.06
    assert fidelity(found.state, state) > 0.995
    assert (found.jacobian_rank, found.dof, found.certified) == (7, 7, True)
    np.testing.assert_allclose(found.eigenvalues.sum(), 1)


def test_the_identity_and_the_order_of_observables_do_not_matter(noisy):
    _, values, found = noisy
    # The same problem to the solver up to the order of its rows, so the same answer up to rounding.
    turned = tomography(STRINGS[:0:-1], values[:0:-1], shots=[4000] * 15)
    np.testing.assert_allclose(turned.state, found.state, atol=1e-6)


def test_exact_values_give_the_state_itself_and_the_trace_is_kept():
    found = tomography(STRINGS, expectations_of(random_state(2, 1, 5), STRINGS))
    np.testing.assert_allclose(found.state, random_state(2, 1, 5), atol=1e-8)
    assert (found.rank, found.white, found.used, found.generators) == (1, 0.0, 16, 0)


def test_a_bell_state_follows_from_two_of_its_stabilisers():
    found = tomography(["XX", "ZZ"], [1, -1])
    bell = np.outer([0, 1, 1, 0], [0, 1, 1, 0]) / 2
    np.testing.assert_allclose(found.state, bell, atol=1e-8)
    assert (found.generators, found.used, found.remarks) == (2, 16, ())


def test_jacobian_is_that_of_the_operator_and_sees_too_little_of_a_stabiliser_state():
    draw = np.random.default_rng(0).standard_normal((2, 8, 2))
    factor = draw[0] + 1j * draw[1]
    strings = all_strings(3)[5:40]
    mine = jacobian(measured(strings, np.zeros(35)), factor)
    theirs = Pauli.from_strings(strings).jacobian(jnp.asarray(field.to_stored(factor))) / np.sqrt(8)
    np.testing.assert_allclose(mine[:, :16].reshape(35, 8, 2), theirs[:, 0::2], atol=1e-12)
    np.testing.assert_allclose(mine[:, 16:].reshape(35, 8, 2), theirs[:, 1::2], atol=1e-12)
    # Generators alone say all of GHZ, and yet their derivatives see next to nothing: values of ±1 are extreme.
    generators = measured(["XXX", "ZZI", "IZZ"], [1, 1, 1])
    vector = np.array([[1], [0], [0], [0], [0], [0], [0], [1]]) / np.sqrt(2)
    assert jacobian_rank(generators, vector.astype(complex)) == 1
    everything = measured(all_strings(3), expectations_of(ghz(3), all_strings(3)))
    assert jacobian_rank(everything, vector.astype(complex)) == 15


def test_reweighing_follows_the_observables_that_were_measured_well():
    # Two observables of one qubit: with 10^6 shots against 10 the first decides; with exact consistent values nothing moves.
    factor = np.array([[0.9], [0.3 + 0.2j]])
    values = expectations_of(factor @ factor.conj().T / np.linalg.norm(factor) ** 2, ["X", "Y", "Z"])
    unit = factor / np.linalg.norm(factor)
    same = reweighed(measured(["X", "Y", "Z"], values, 100), unit)
    np.testing.assert_allclose(same @ same.conj().T, unit @ unit.conj().T, atol=1e-9)
    moved = reweighed(measured(["Z", "X", "Y", "I"], [0.5, 0.66, 0.58, 1], [10**6, 10, 10, 10**6]), unit)
    state = moved @ moved.conj().T
    np.testing.assert_allclose([state[0, 0] - state[1, 1], np.trace(state)], [0.5, 1], atol=2e-3)
    assert reweighed(measured(["Z"], [0.5]), unit) is unit


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["II"], [1.0]), "at least one observable other than the identity"),
        ((["XX", "ZZ"], [0.0, 0.0], 10), "all expectations are zero"),
        ((["XX", "ZI"], [1.0, 1.0]), "do not commute"),
    ],
)
def test_data_without_an_answer_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        tomography(*arguments[:2], shots=arguments[2] if len(arguments) > 2 else None)
