import numpy as np
import pytest

from pruneft.sensing.localisation import _weights, align, localise
from pruneft.sensing.mirror_images import mirror_images

N = 8
RNG = np.random.default_rng(3)
PLANE = RNG.uniform(0, 10, (N, 2))
PAIRS = np.array([(i, j) for j in range(N) for i in range(j)])[RNG.permutation(28)[:24]]


def _squares(points, pairs=PAIRS):
    return np.sum((points[pairs[:, 0]] - points[pairs[:, 1]]) ** 2, axis=1)


@pytest.fixture(scope="module")
def located():
    """Standard promotion, as in a user's program; the plane is not told."""
    import jax

    with jax.numpy_dtype_promotion("standard"):
        free = localise(PAIRS, _squares(PLANE))
        anchors = {0: PLANE[0], 3: PLANE[3], 5: PLANE[5]}
        anchored = localise(PAIRS, _squares(PLANE), N=N, anchors=anchors)
    return free, anchored


def test_the_dimension_is_found_and_the_points_up_to_a_rigid_motion(located):
    free, _ = located
    assert (free.dimension, free.positions.shape, free.ok) == (2, (N, 2), True)
    moved, error = align(free.positions, PLANE)
    assert error < 1e-6
    np.testing.assert_allclose(moved, PLANE, atol=1e-5)
    np.testing.assert_allclose(free.positions.mean(axis=0), 0, atol=1e-9)
    assert free.identifiability.jacobian_rank == free.identifiability.dof == 13
    assert free.recovery.message in free.message


def test_anchors_fix_the_frame(located):
    _, anchored = located
    np.testing.assert_allclose(anchored.positions, PLANE, atol=1e-5)
    assert anchored.anchor_error < 1e-6
    assert anchored.recovery.rank_given


def test_weights_are_one_over_the_variance_of_the_squares_with_a_floor():
    y = np.array([1.0, 4.0, 0.001, 2.999])  # of mean 2
    assert _weights(y, "squares") is None
    np.testing.assert_allclose(_weights(y, "ranges"), 2 / np.maximum(y, 0.04))
    np.testing.assert_allclose(_weights(y, "relative"), (2 / np.maximum(y, 0.04)) ** 2)


def test_alignment_finds_rotation_reflection_and_translation():
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    for improper in (turn, turn * [1, 1, -1]):
        points = np.random.default_rng(1).standard_normal((6, 3))
        moved, error = align(points @ improper + [1.0, -2, 5], points)
        np.testing.assert_allclose(moved, points, atol=1e-12)
        assert error < 1e-12
    partly, _ = align(points @ turn, points[:4], [0, 1, 2, 3])
    np.testing.assert_allclose(partly, points, atol=1e-12)
    with pytest.raises(ValueError, match="one row per point"):
        align(points, points[:3])


def test_what_alignment_leaves_is_what_does_not_fit():
    # Stretched by 1 + s about the mean: nothing rigid mends that.
    points = np.random.default_rng(2).standard_normal((9, 2))
    points -= points.mean(axis=0)
    _, error = align(1.1 * points, points)
    np.testing.assert_allclose(error, 0.1 * np.sqrt(np.mean(np.sum(points**2, axis=1))), rtol=1e-9)


def test_a_point_whose_neighbours_lie_on_a_line_has_a_mirror_image():
    points = np.array([[0.0, 0], [1, 0], [2, 0.001], [3, 0], [1.5, 1.2], [1.4, -2]])
    pairs = np.array(
        [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (4, 0), (4, 1), (4, 2), (4, 3), (5, 0), (5, 1), (5, 3), (5, 4)]
    )
    y = _squares(points, pairs)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(pairs))
    # With the distance to the other side of the line a point has no image.
    assert mirror_images(pairs, y + noise, points) == ()
    assert set(mirror_images(pairs[:-1], (y + noise)[:-1], points)) == {4, 5}
    # Without noise the bend of the line by .001 is seen.
    assert 4 not in mirror_images(pairs[:-1], y[:-1], points)


SQUARE = {0: [0.0, 0], 1: [1, 0], 2: [1, 1]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pairs": [(0, 1), (1, 2)], "N": 4}, "no distance was measured to 1 of the 4 points: 3"),
        ({"pairs": [(0, 1), (2, 3)]}, "2 groups"),
        ({"pairs": [(0, 1), (1, 1)]}, "two different points"),
        ({"pairs": [(0, 1), (1, 0)]}, "comes 2 times"),
        ({"squared_distances": [1.0, np.nan]}, "pair 1 is not"),
        ({"squared_distances": [1.0]}, "one real number per pair"),
        ({"squared_distances": [1.0, -1.0], "sigma": 0.1}, "below -4 sigma"),
        ({"squared_distances": [0.1, -1.0]}, "not negative"),
        ({"noise": "loud"}, "noise must be one of"),
        ({"anchors": {0: [0.0, 0], 1: [1, 0]}}, "3 are needed"),
        ({"anchors": {0: [0.0, 0], 1: [1, 1], 2: [2, 2]}}, "3 anchors do not fix a frame"),
        ({"anchors": SQUARE, "dimension": 3}, "make them agree"),
        ({"anchors": {**SQUARE, 9: [0, 0]}}, "points from 0 to 2: got 9"),
        ({"anchors": {0: [0.0, 0], 1: [1]}}, "same number of coordinates"),
    ],
)
def test_calls_that_make_no_sense_are_refused(arguments, words):
    call = {"pairs": [(0, 1), (1, 2)], "squared_distances": [1.0, 2.0], **arguments}
    with pytest.raises(ValueError, match=words):
        localise(call.pop("pairs"), call.pop("squared_distances"), **call)
