import jax.numpy as jnp
import numpy as np
import pytest

from pruneft import relu

RNG = np.random.default_rng(0)
X, FRESH = RNG.standard_normal((20, 3)), RNG.standard_normal((7, 3))
TEACHER = RNG.standard_normal(3)


def _labels(X, loss):
    f = np.maximum(X @ TEACHER, 0) - 0.5
    return f if loss == "squared" else np.where(f >= 0, 1.0, -1.0)


@pytest.mark.parametrize(
    ("method", "form", "loss"),
    [
        ("admm", "exact", "squared"),
        pytest.param("admm", "relaxed", "hinge", marks=pytest.mark.claims),
        pytest.param("interior", "exact", "hinge", marks=pytest.mark.claims),
    ],
)
def test_the_recorded_fit_is_the_fit_and_its_record_ends_in_its_numbers(method, form, loss):
    y, common = _labels(X, loss), {"n_patterns": 8, "loss": loss, "form": form, "method": method, "bias": True}
    plain = relu.fit(X, y, **common)
    found = relu.fit(X, y, **common, record=True, fresh=(FRESH, _labels(FRESH, loss)))
    assert found.iterations == plain.iterations
    assert found.objective == pytest.approx(plain.objective, rel=1e-9)
    history = found.history
    assert history["iteration"][-1] == found.iterations
    assert len({len(values) for values in history.values()}) == 1
    assert np.all(np.diff(history["seconds"]) > 0)
    assert np.all(np.diff(history["objective"]) <= 0)
    assert np.all(np.diff(history["dual"][1:]) >= 0)

    def error(X, f):
        y = _labels(X, loss)
        return np.mean((f > 0) != (y > 0)) if loss == "hinge" else np.linalg.norm(f - y) / np.linalg.norm(y)

    assert (history["objective"][-1], history["dual"][-1]) == (found.objective, found.dual)
    assert history["fresh_error"][-1] == pytest.approx(error(FRESH, found.predict(FRESH)))
    assert history["error"][-1] == pytest.approx(error(X, found.predict(X)))
    assert history["error"][0] == pytest.approx(error(X, np.zeros(len(X))))


def test_a_budget_ends_the_record_too():
    found = relu.fit(X, _labels(X, "squared"), n_patterns=8, method="admm", tol=1e-12, max_iterations=40, record=True)
    assert found.history["iteration"].tolist() == [0, 20, 40]
    assert not found.ok
    assert "fresh_error" not in found.history


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"fresh": (FRESH, FRESH[:, 0])}, "used by record=True alone"),
        ({"record": True, "fresh": (FRESH[:, :2], FRESH[:, 0])}, r"fresh must be \(X \[m, 3\], y \[m\]\)"),
        ({"record": True, "fresh": (FRESH, FRESH[:3, 0])}, "got shapes"),
        ({"record": True, "fresh": (np.full((7, 3), np.nan), FRESH[:, 0])}, "X of fresh must be finite"),
    ],
)
def test_samples_that_do_not_fit_are_refused(more, text):
    with pytest.raises(ValueError, match=text):
        relu.fit(X, _labels(X, "squared"), n_patterns=8, **more)


def test_labels_of_fresh_samples_are_checked_and_several_outputs_refused():
    y = _labels(X, "hinge")
    with pytest.raises(ValueError, match="y of fresh holds others"):
        relu.fit(X, y, loss="hinge", n_patterns=8, record=True, fresh=(FRESH, jnp.zeros(7)))
    with pytest.raises(ValueError, match="record follows one output: y has 2 columns"):
        relu.fit(X, np.stack([y, y], axis=1), n_patterns=8, record=True)
