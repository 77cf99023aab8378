import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu import adversarial

RNG = np.random.default_rng(0)
X, FRESH = RNG.standard_normal((16, 2)), RNG.standard_normal((9, 2))
Y, HIDDEN = (np.where(points[:, 0] > 0.3 * points[:, 1], 1.0, -1.0) for points in (X, FRESH))
COMMON = {"n_patterns": 6, "bias": True, "tol": 1e-2}


def test_rows_hold_the_accuracies_of_the_networks_at_the_radius_of_training():
    rows = adversarial.trade_off(X, Y, (0.0, 0.2), fresh=(FRESH, HIDDEN), **COMMON)
    assert [(row.eps, row.training, row.attack) for row in rows] == [(0.0, "convex", 0.0), (0.2, "convex", 0.2)]
    network = adversarial.fit_robust(X, Y, eps=0.2, **COMMON).network
    last, data, hidden = rows[1], jnp.asarray(FRESH), jnp.asarray(HIDDEN)
    moved = adversarial.pgd(network, data, hidden, jax.random.key(0), eps=0.2)
    assert last.clean == float(adversarial.accuracy(network, data, hidden))
    assert last.attacked == float(adversarial.accuracy(network, moved, hidden))
    assert last.certified == float(adversarial.certified_accuracy(network, data, hidden, eps=0.2))
    assert last.certified <= last.attacked <= last.clean
    assert (last.neurons, last.status) == (network.neurons, "converged")
    assert rows[0].clean == rows[0].attacked == rows[0].certified  # no attack


def test_networks_by_descent_stand_beside_and_one_attack_may_measure_all():
    rows = adversarial.trade_off(X, Y, (0.1,), attack=0.3, compare=True, width=5, steps=300, **COMMON)
    assert [row.training for row in rows] == ["convex", "AdamW", "AdamW on PGD samples"]
    assert {row.attack for row in rows} == {0.3}
    assert [row.neurons for row in rows[1:]] == [5, 5]
    assert rows[0].gap <= 1e-2
    assert np.isnan(rows[1].gap)
    assert min(row.clean for row in rows) > 0.6  # all have learnt something


@pytest.mark.parametrize(
    ("radii", "more", "text"),
    [
        ((), {}, "at least one radius"),
        ((0.1,), {"loss": "squared"}, "loss must be hinge or bce"),
        ((0.1,), {"attack": -1.0}, "zero or more: got -1.0"),
        ((-0.1,), {}, "eps"),
        ((0.1,), {"fresh": (FRESH[:, :1], HIDDEN)}, "expected X with 2 columns"),
    ],
)
def test_what_makes_no_sense_is_refused(radii, more, text):
    with pytest.raises(ValueError, match=text):
        adversarial.trade_off(X, Y, radii, **{**COMMON, **more})
