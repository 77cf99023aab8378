import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import PackedOperator
from pruneft.sensing.identifiability import identifiability
from pruneft.sensing.operators.distances import Distances
from pruneft.sensing.pair_graph import PairGraph

SQUARE = np.array([[0.0, 0.0], [1.0, 0.1], [1.2, 1.0], [-0.1, 0.9]])
ALL = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def _at(pairs, points, **given):
    operator = Distances.from_pairs(pairs, len(points))
    return identifiability(operator, points, operator.n, **given)


def test_all_distances_of_four_points_determine_them():
    found = _at(ALL, SQUARE)
    assert (found.jacobian_rank, found.dof, found.unique, found.locally_unique) == (5, 5, True, True)
    assert 1 < found.condition < 100
    assert found.graph is not None
    assert found.graph.components == ((0, 1, 2, 3),)


def test_a_square_of_rods_is_not_rigid():
    found = _at([(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)][:4], SQUARE)
    assert not found.unique
    assert (found.jacobian_rank, found.condition) == (4, np.inf)
    assert "4 measurements are fewer than the 5 degrees of freedom" in found.reasons[0]


def test_a_node_with_two_distances_in_the_plane_has_a_mirror_image_though_the_jacobian_is_full():
    pairs = [pair for pair in ALL if pair != (1, 3)]
    found = _at(pairs, SQUARE)
    assert found.locally_unique
    assert not found.unique
    assert "2 nodes (1, 3) with just 2 measured distances: the mirror image fits as well" in found.reasons


def test_two_fits_of_equal_residual_that_disagree_are_both_returned():
    pairs = [pair for pair in ALL if pair != (1, 3)]
    axis = SQUARE[2] / np.linalg.norm(SQUARE[2])
    mirrored = SQUARE.copy()
    mirrored[3] = 2 * (SQUARE[3] @ axis) * axis - SQUARE[3]
    y = np.asarray(Distances.from_pairs(pairs, 4).image(jnp.asarray(SQUARE)))
    found = _at(pairs, SQUARE, y=y, other=mirrored)
    assert found.reasons[0].startswith("not unique: two fits of equal residual differ")
    np.testing.assert_array_equal(found.other, mirrored)
    # The same points moved rigidly are no second solution, nor are points that do not fit.
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    for same in (SQUARE @ turn + 3.0, SQUARE * 1.1):
        again = _at(pairs, SQUARE, y=y, other=same)
        assert again.other is None
        assert np.isnan(again.difference)


def test_isolated_loose_and_separate_nodes_are_named():
    rng = np.random.default_rng(0)
    pairs = [*ALL, *((i + 4, j + 4) for i, j in ALL), (8, 0)]
    found = _at(pairs, rng.standard_normal((10, 2)))
    text = " | ".join(found.reasons)
    assert "node 9 without any measured distance" in text
    assert "node 8 with fewer than 2 measured distances: free to move at rank 2" in text
    assert "2 groups of nodes without a measured distance between them (sizes 5, 4)" in text
    assert found.graph is not None
    assert found.graph.isolated == (9,)


def test_generic_measurements_beyond_the_degrees_of_freedom_determine_a_matrix():
    rng = np.random.default_rng(1)
    factor = rng.standard_normal((6, 2)) * [1.0, 1e-3]  # the condition of the factor is not that of the measurements
    for n, rank in ((11, 11), (10, 10)):
        matrices = rng.standard_normal((n, 6, 6))
        found = identifiability(PackedOperator.from_matrices(jnp.asarray(matrices)), factor, n)
        assert (found.dof, found.jacobian_rank, found.graph) == (11, rank, None)
        assert found.unique == (n == 11)
    assert found.condition == np.inf


def test_float32_operators_are_looked_at_in_float64():
    operator = Distances.from_pairs(ALL, 4, dtype="float32")
    found = identifiability(operator, SQUARE.astype(np.float32), 6)
    assert found.jacobian_rank == 5


@pytest.mark.parametrize(
    ("pairs", "rank", "words"),
    [
        (
            [(0, 0), (0, 1), (1, 1), (2, 2), (2, 3)],
            1,
            "2 groups of nodes without a measured entry between them (sizes 2, 2): each has its own sign",
        ),
        ([(0, 1), (1, 2), (2, 3), (0, 3)], 1, "one side may be multiplied by t, the other by 1/t"),
        ([(0, 0), (0, 1), (0, 2), (1, 2), (3, 3)], 2, "node 3 with fewer than 2 measured entries"),
    ],
)
def test_graphs_of_entries_say_what_they_leave_open(pairs, rank, words):
    graph = PairGraph.of(np.array(pairs), 4, "entries")
    assert any(words in reason for reason in graph.reasons(rank))


def test_a_graph_of_entries_with_all_it_needs_says_nothing():
    assert PairGraph.of(np.array([(0, 0), (0, 1), (1, 2), (2, 3), (0, 3)]), 4, "entries").reasons(1) == ()
    # An odd cycle without a diagonal entry determines the scale too.
    assert PairGraph.of(np.array([(0, 1), (1, 2), (0, 2)]), 3, "entries").reasons(1) == ()


def test_three_points_in_the_plane_have_no_mirror_image_of_their_own():
    assert PairGraph.of(np.array([(0, 1), (0, 2), (1, 2)]), 3, "distances").reasons(2) == ()


def test_a_factor_of_rank_zero_has_nothing_to_identify():
    found = _at(ALL, np.zeros((4, 2)))
    assert (found.dof, found.unique) == (0, True)


def test_impossible_calls_are_refused():
    with pytest.raises(ValueError, match="shape \\[4, r\\]"):
        identifiability(Distances.from_pairs(ALL), np.zeros((5, 2)), 6)
    with pytest.raises(ValueError, match="pass y too"):
        _at(ALL, SQUARE, other=SQUARE)
    with pytest.raises(ValueError, match="factor must be finite"):
        _at(ALL, SQUARE * np.nan)
