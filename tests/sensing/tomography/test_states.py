import numpy as np
import pytest
import scipy.linalg

from pruneft.sensing.tomography import (
    all_strings,
    check_state,
    depolarised,
    draw_shots,
    expectations_of,
    fidelity,
    ghz,
    measured,
    random_state,
    random_strings,
    w_state,
)


def _values(state, strings):
    return dict(zip(strings, np.round(expectations_of(state, strings), 12).tolist(), strict=True))


def test_ghz_states_have_the_values_of_their_stabilisers():
    found = _values(ghz(3), ["III", "ZZI", "IZZ", "XXX", "XYY", "YXY", "ZII", "XXI"])
    assert list(found.values()) == [1, 1, 1, 1, -1, -1, 0, 0]
    assert np.sum(np.abs(expectations_of(ghz(4), all_strings(4))) > 1e-9) == 16


def test_w_states_have_one_excitation():
    # <Z> of each qubit is (q - 2)/q, and <XX> of each pair 2/q.
    found = _values(w_state(4), ["ZIII", "IIIZ", "XXII", "IYYI", "ZZZZ"])
    np.testing.assert_allclose(list(found.values()), [0.5, 0.5, 0.5, 0.5, -1])


@pytest.mark.parametrize("rank", [1, 3])
def test_random_states_have_equal_eigenvalues_and_their_rank(rank):
    state = check_state(random_state(3, rank, 1))
    np.testing.assert_allclose(np.linalg.eigvalsh(state)[::-1], [1 / rank] * rank + [0] * (8 - rank), atol=1e-12)
    assert np.abs(random_state(3, rank, 2) - state).max() > 0.05


def test_depolarising_shrinks_every_expectation_but_that_of_the_identity():
    strings = all_strings(2)
    before, after = (expectations_of(one, strings) for one in (w_state(2), depolarised(w_state(2), 0.3)))
    np.testing.assert_allclose(after[1:], 0.7 * before[1:], atol=1e-12)
    np.testing.assert_allclose(after[0], 1)


def test_fidelity_is_that_of_the_defining_formula_and_of_vectors():
    first, second = random_state(3, 3, 1), depolarised(random_state(3, 2, 2), 0.1)
    root = scipy.linalg.sqrtm(first)
    expected = np.trace(scipy.linalg.sqrtm(root @ second @ root)).real ** 2
    np.testing.assert_allclose([fidelity(first, second), fidelity(second, first)], expected, rtol=1e-6)
    np.testing.assert_allclose(fidelity(ghz(3), w_state(3)), 0, atol=1e-12)
    np.testing.assert_allclose(fidelity(ghz(3), depolarised(ghz(3), 0.2)), 0.8 + 0.2 / 8)


def test_shots_are_binomial():
    # 500 draws of 10 shots of one observable with <P> = .6: mean .6 and variance (1 - .36)/10 = .064.
    state = depolarised(ghz(2), 0.4)
    draws = np.array([draw_shots(state, ["XX", "ZI"], [10, 40], seed) for seed in range(500)])
    assert np.all(np.abs(draws) <= 1)
    np.testing.assert_allclose(draws[:, 0] * 5, np.round(draws[:, 0] * 5), atol=1e-12)
    assert np.abs(draws.mean(0) - [0.6, 0]).max() < 5 * np.sqrt(0.064 / 500)
    np.testing.assert_allclose(draws.var(0), [0.064, 1 / 40], rtol=0.35)
    np.testing.assert_array_equal(draw_shots(state, ["II"], 7), [1.0])


def test_random_strings_are_distinct_and_begin_with_the_identity():
    strings = random_strings(3, 40, 1)
    assert (len(set(strings)), strings[0]) == (40, "III")
    assert sorted(random_strings(2, 16, 0)) == sorted(all_strings(2))
    assert random_strings(3, 20, 1) == strings[:20]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: random_state(2, 5), "lies between 1 and 4: got 5"),
        (lambda: ghz(0), "qubits must be a whole number from 1 to 12: got 0"),
        (lambda: depolarised(ghz(2), 1.5), "lies between 0 and 1: got 1.5"),
        (lambda: fidelity(ghz(2), 2 * ghz(2)), "trace 2"),
        (lambda: fidelity(ghz(2), ghz(3)), "as many qubits"),
        (lambda: check_state(np.eye(3) / 3), r"side 2\^q: got shape \(3, 3\)"),
        (lambda: expectations_of(ghz(2), ["XXX"]), "strings have 3 letters, but the state has 2 qubits"),
        (lambda: random_strings(2, 17), r"4\^q = 16 observables of 2 qubits: got n=17"),
        (lambda: measured(["XX"], [0.1, 0.2]), "one entry for each of 1 strings"),
        (lambda: measured(["XX"], [-1.1]), "between -1 and 1: got -1.1 for XX"),
        (lambda: measured(["II"], [0.9]), "identity has expectation 1: got 0.9"),
        (lambda: measured(["XX", "ZZ", "XX"], [0, 0, 0.1]), "XX is repeated"),
        (lambda: measured(["XX"], [0.5], 0), "whole numbers of at least 1: got 0"),
        (lambda: measured(["XX", "ZZ"], [0.5, 0], [10, -3]), "got -3"),
        (lambda: measured(["XX", "ZZ"], [0.5, 0], [10, 10, 10]), "one for each of 2 strings"),
        (lambda: measured(["XQ"], [0.5]), "letters I, X, Y and Z only"),
        (lambda: draw_shots(ghz(2), ["XX"], 2.5), "got 2.5"),
    ],
)
def test_bad_input_is_refused_with_what_came(call, says):
    with pytest.raises(ValueError, match=says):
        call()
