"""Planted data: laws and scales, labels as their formulas say, padding inert, patterns once each, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu.planted import models

N, D, P = 12, 4, 9
KEY = jax.random.key(5)
CASES = {
    "linear": {},
    "smallest": {"weights": "smallest", "data": "cubed"},
    "antipodal": {
        "model": "normalised",
        "planted": "three",
        "weights": "antipodal",
        "signs": "alternating",
        "data": "whitened",
    },
    "basis": {"model": "plain", "planted": "two", "weights": "basis", "data": "cubed-whitened"},
}


@functools.cache
def _made(case, n=N, d=D, P=P):
    return jax.tree.map(
        np.asarray,
        jax.jit(lambda: models.plant(KEY, n=n, d=d, P=P, sigma=0.1, live_n=N, live_d=D, live_P=9, **CASES[case]))(),
    )


@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_of_the_planted_network(case):
    options, made = CASES[case], _made(case)
    relu = 0.0 if options.get("planted") else -np.inf
    said = np.maximum(made.X @ made.w, relu)
    second = np.array([1, -1, 1])[: said.shape[1]] if options.get("signs") else np.ones(said.shape[1])
    if options.get("model") == "normalised":
        second = second / np.linalg.norm(said, axis=0)
    np.testing.assert_allclose(made.clean, said @ second, atol=1e-13)
    np.testing.assert_allclose(made.theta, made.w * second, atol=1e-13)
    np.testing.assert_allclose(made.target, np.maximum(made.fresh @ made.w, relu) @ second, atol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(made.w, axis=0), 1, rtol=1e-6)
    noise = made.y - made.clean
    assert 0.01 < np.linalg.norm(noise) < 0.3  # about sigma


def test_data_and_weights_follow_their_laws():
    cubed, whitened, both = _made("smallest"), _made("antipodal"), _made("basis")
    for made in (whitened, both):
        np.testing.assert_allclose(made.X.T @ made.X, np.eye(D), atol=1e-12)
    np.testing.assert_allclose(np.abs(cubed.w[:, 0] @ np.linalg.svd(cubed.X)[2][-1]), 1, atol=1e-9)
    np.testing.assert_array_equal(whitened.w[:, 0], -whitened.w[:, 1])
    np.testing.assert_array_equal(both.w, np.eye(D, 2))
    # The same Gaussian numbers stand behind all of them: cubes, and whitening, of one draw.
    plain = _made("linear").X * np.sqrt(N)
    np.testing.assert_allclose(cubed.X * np.sqrt(15 * N), plain**3, rtol=1e-12)
    values, vectors = np.linalg.eigh(plain.T @ plain)
    np.testing.assert_allclose(whitened.X, plain @ vectors @ np.diag(values**-0.5) @ vectors.T, atol=1e-12)


@pytest.mark.parametrize("case", ["linear", "antipodal"])
def test_padding_changes_nothing(case):
    one, two = _made(case), _made(case, N + 3, D + 2, P + 4)
    for name in ("X", "y", "clean", "w", "theta", "fresh", "target", "H", "D"):
        small, large = getattr(one, name), getattr(two, name)
        inner = large[tuple(slice(size) for size in small.shape)]
        np.testing.assert_allclose(inner, small, rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.abs(large).sum() == pytest.approx(np.abs(small).sum(), rel=1e-5), name
    assert (one.there, one.ones.verdict) == (two.there, two.ones.verdict)


@pytest.mark.parametrize("case", CASES)
def test_every_pattern_stands_once_with_its_direction_and_planted_ones_first(case):
    made, k = _made(case), models.NEURONS[CASES[case].get("planted", "linear")]
    live = np.any(made.D, axis=0)
    np.testing.assert_array_equal(made.D[:, live], (made.X @ made.H >= 0)[:, live])
    assert len(np.unique(made.D[:, live], axis=1).T) == live.sum()
    np.testing.assert_array_equal(made.D[:, :k], made.X @ made.w[:, :k] >= 0)
    assert made.there
    assert np.any(np.all(made.D == 1, axis=0)) == (made.ones.verdict == 1)


def test_two_neurons_with_one_pattern_or_a_dead_one_are_not_there():
    def there(X, w):
        said = jax.nn.relu(X @ w)
        ones = models.all_ones(X)
        distinct = models._patterns(X, jnp.ones(2), w, ones, jnp.eye(2), jnp.ones(2))[2]
        return bool(distinct & jnp.all(jnp.linalg.norm(said, axis=0) > 0))

    X = jnp.eye(2)
    assert there(X, jnp.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert not there(X, jnp.array([[1.0, 2.0], [-1.0, -1.0]]))
    assert not there(X, jnp.array([[1.0, -1.0], [1.0, -1.0]]))


GOOD = {"n": 12, "d": 4, "model": "skip", "planted": "linear"}
BAD = [
    ({"model": "deep"}, "model must be one of plain, skip, normalised: got 'deep'"),
    ({"n": 0}, "n must be a whole number of at least 1: got 0"),
    ({"d": 0}, "d must be a whole number of at least 1: got 0"),
    ({"model": "plain"}, "a linear neuron is planted in a network with a skip connection"),
    ({"planted": "three", "d": 2}, "must not be more than features: got 3 neurons, d=2"),
    ({"model": "normalised", "planted": "one", "n": 3}, "at least as many samples as features: got n=3, d=4"),
    ({"weights": "antipodal"}, "of two neurons at least"),
    ({"weights": "smallest", "data": "whitened"}, "whitened data have no smallest singular vector"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_cannot_be_planted_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        models.check(**{**GOOD, **change})
