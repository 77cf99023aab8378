import numpy as np
import pytest

from pruneft.sensing.phase import align_phase, phase_error

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal(6)
COMPLEX = REAL + 1j * RNG.standard_normal(6)


@pytest.mark.parametrize(("signal", "phase"), [(REAL, -1.0), (COMPLEX, np.exp(2.1j)), (COMPLEX, -1j)])
def test_a_global_phase_is_taken_out(signal, phase):
    np.testing.assert_allclose(align_phase(phase * signal, signal), signal, rtol=1e-12)
    assert align_phase((phase * signal)[:, None], signal).shape == (6,)
    assert phase_error(phase * signal, signal) < 1e-12


def test_no_other_phase_is_nearer():
    other = COMPLEX + 0.3 * (RNG.standard_normal(6) + 1j * RNG.standard_normal(6))
    best = np.linalg.norm(align_phase(other, COMPLEX) - COMPLEX)
    turned = [np.linalg.norm(np.exp(1j * angle) * other - COMPLEX) for angle in np.linspace(0, 2 * np.pi, 400)]
    assert best <= min(turned) + 1e-12
    np.testing.assert_allclose(phase_error(other, COMPLEX), best / np.linalg.norm(COMPLEX))


def test_a_signal_without_overlap_stays_as_it_is():
    np.testing.assert_array_equal(align_phase(np.array([1.0, 0]), np.array([0, 1.0])), [1, 0])


@pytest.mark.parametrize(
    ("estimate", "reference", "message"),
    [
        (np.ones((6, 2)), REAL, "not of rank 1"),
        (np.ones(5), REAL, "one length"),
        (np.full(6, np.nan), REAL, "finite"),
        (REAL, np.zeros(6), "not be zero"),
    ],
)
def test_input_that_makes_no_sense_is_refused(estimate, reference, message):
    with pytest.raises(ValueError, match=message):
        phase_error(estimate, reference)
