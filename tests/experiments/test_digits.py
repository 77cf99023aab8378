"""Digits and small networks for them: the data as scikit-learn has them, convolution against SciPy's, starts of the right size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from pruneft.experiments import digits


def test_the_pictures_are_those_of_scikit_learn():
    found = digits.load()
    assert found.images.shape == (digits.PICTURES, 8, 8)
    assert abs(found.images.mean()) < 1e-6
    assert abs(found.images.std() - 1) < 1e-6
    assert len(np.unique(found.images)) == 17  # levels of brightness
    assert np.bincount(found.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.load() is found


def test_a_split_holds_every_picture_once():
    train, test = digits.split(jax.random.key(0))
    assert (train.size, test.size) == (1300, 497)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(digits.PICTURES))


def test_starts_are_uniform_within_the_bound_of_their_fan_in():
    for params in (digits.init_mlp(jax.random.key(0)), digits.init_cnn(jax.random.key(0))):
        for layer in params.values():
            bound = np.sqrt(6 / np.prod(layer["w"].shape[:-1]))
            assert 0.9 * bound < float(jnp.max(jnp.abs(layer["w"]))) <= bound
            assert not np.any(layer["b"])
            assert layer["b"].shape == layer["w"].shape[-1:]


def test_a_convolution_is_the_correlation_with_zeros_around():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 4, 6, 3)), rng.standard_normal((3, 3, 3, 5))
    found = digits._convolution(jnp.asarray(x), jnp.asarray(kernel))
    for picture in range(2):
        for out in range(5):
            expected = sum(correlate(x[picture, :, :, c], kernel[:, :, c, out], mode="same") for c in range(3))
            np.testing.assert_allclose(found[picture, :, :, out], expected, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_networks_score_every_class_of_every_picture(name):
    init, model = digits.MODELS[name]
    images = jnp.asarray(digits.load().images[:3])
    scores = model(init(jax.random.key(1)), images)
    assert scores.shape == (3, 10)
    # A picture's scores do not depend on what it is scored with.
    np.testing.assert_allclose(model(init(jax.random.key(1)), images[1:2])[0], scores[1], atol=1e-5)


def test_loss_and_accuracy_are_those_of_the_definition():
    scores = jnp.asarray([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
    labels = jnp.asarray([0, 1], jnp.int32)
    chances = np.exp(np.asarray(scores)) / np.exp(np.asarray(scores)).sum(axis=1, keepdims=True)
    expected = -np.mean(np.log(chances[[0, 1], [0, 1]]))
    assert float(digits.cross_entropy(scores, labels)) == pytest.approx(expected)
    assert float(digits.accuracy(scores, labels)) == 0.5
