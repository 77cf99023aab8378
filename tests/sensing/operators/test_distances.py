import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.random import normals
from pruneft.sensing import Operator, check_adjoint
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.distances import Distances, assemble
from pruneft.sensing.operators.distances_data import PlainDistances
from pruneft.sensing.operators.distances_draw import DISTANCES, DISTANCES_NEAREST

N, R, COUNT = 7, 2, 15
RNG = np.random.default_rng(0)
PAIRS = np.array([(i, j) for j in range(N) for i in range(j)])[RNG.permutation(N * (N - 1) // 2)[:COUNT]]
PAIRS[::2] = PAIRS[::2, ::-1]  # the order within a pair does not matter
U, E = RNG.standard_normal((N, R)), RNG.standard_normal(COUNT)
X = RNG.standard_normal((N, N))
X = X + X.T
INCIDENCE = np.eye(N)[PAIRS[:, 0]] - np.eye(N)[PAIRS[:, 1]]
A = np.einsum("ni,nj->nij", INCIDENCE, INCIDENCE)


def _operator(dtype="float64"):
    return Distances.from_pairs(PAIRS, N, dtype=dtype)


def _listed(dtype="float64"):
    """Few pairs of many points: the products that go by the list."""
    pairs = np.stack([np.arange(39), np.arange(1, 40)], axis=1)
    return Distances.from_pairs(pairs, 40, dtype=dtype)


def _everything(operator, factor, residual, n, d):
    """Each product in one program: compilation is what tests pay for."""
    return {
        "image": operator.image(factor),
        "apply": operator.apply(factor @ jnp.swapaxes(factor, -1, -2)),
        "pull": operator.pull(residual, factor),
        "adjoint": operator.adjoint(residual),
        "jacobian": operator.jacobian(factor),
        "whiten": operator.whiten(residual, n, d),
        "canonical": operator.canonical(factor, d),
    }


COMPILED = jax.jit(_everything)


def _projection():
    """On the node effects of the measured pairs, by a decomposition of the dense matrix."""
    basis, values, _ = np.linalg.svd(np.abs(INCIDENCE), full_matrices=False)
    basis = basis[:, values > 1e-9]
    return basis @ basis.T


def test_products_are_those_of_the_dense_matrices(dtype, tolerance):
    found = COMPILED(_operator(dtype), jnp.asarray(U, dtype), jnp.asarray(E, dtype), COUNT, N)
    expected = {
        "image": np.einsum("nij,ij->n", A, U @ U.T),
        "apply": np.einsum("nij,ij->n", A, U @ U.T),
        "pull": np.einsum("n,nij->ij", E, A) @ U,
        "adjoint": np.einsum("n,nij->ij", E, A),
        "jacobian": 2 * A @ U,
        "whiten": N * (N - 1) / 4 * (E - (1 - 2 / N) * _projection() @ E),
        "canonical": U - U.mean(axis=0),
    }
    for name, value in expected.items():
        assert found[name].dtype == dtype
        np.testing.assert_allclose(found[name], value, rtol=40 * tolerance, atol=40 * tolerance, err_msg=name)


def test_a_list_of_few_pairs_gives_the_same_products_as_dense_matrices():
    operator = _listed()
    factor, residual = jnp.asarray(np.random.default_rng(1).standard_normal((40, 3))), jnp.linspace(-1.0, 1.0, 39)
    rows = np.eye(40)[:-1] - np.eye(40)[1:]
    slopes = rows @ np.asarray(factor)
    np.testing.assert_allclose(operator.image(factor), np.sum(slopes**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        operator.pull(residual, factor), rows.T @ (np.asarray(residual)[:, None] * slopes), atol=1e-12
    )
    # A path has no cycle, so that node effects explain all and only 2/N of every residual is left.
    np.testing.assert_allclose(operator.whiten(residual, 39, 40), 40 * 39 / 4 * (2 / 40) * residual, atol=1e-9)


def test_the_parts_belong_together_and_meet_the_contract():
    assert isinstance(_operator(), Operator)
    assert check_adjoint(_operator()) < 1e-12
    assert (_operator().n, _operator().d, _operator().pair_kind) == (COUNT, N, "distances")
    np.testing.assert_array_equal(_operator().pairs(), PAIRS)


def test_whitened_full_sampling_weighs_everything_alike_but_one_direction():
    # On centred matrices: 1 for all, 2 for the direction of the identity; 0 for what distances do not see.
    pairs = np.array([(i, j) for j in range(N) for i in range(j)])
    full = Distances.from_pairs(pairs, N)
    basis = jnp.asarray(np.eye(N * N).reshape(-1, N, N))
    basis = (basis + jnp.swapaxes(basis, -1, -2)) / 2
    images = full.apply(basis)
    form = np.asarray(images @ full.whiten(images, len(pairs), N).T) / len(pairs)
    values = np.sort(np.linalg.eigvalsh(form))[::-1]
    np.testing.assert_allclose(values[: N * (N - 1) // 2], [2.0] + [1.0] * (N * (N - 1) // 2 - 1), atol=1e-12)
    np.testing.assert_allclose(values[N * (N - 1) // 2 :], 0, atol=1e-12)


def test_whitening_is_right_where_the_signless_laplacian_is_singular():
    # A cycle of four is bipartite, nodes 4 and 5 have no pair: node effects are fitted all the same, the alternating rest is left.
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0)]
    for operator in (Distances.from_pairs(pairs, 6), _traced(pairs, 6)):
        np.testing.assert_allclose(
            operator.node_effects(jnp.array([1.0, 0.0, 0.0, 0.0])), [0.75, 0.25, -0.25, 0.25], atol=1e-6
        )


def _traced(pairs, points):
    first, second = np.array(pairs, np.int32).T
    return cast(
        assemble(jnp.asarray(first), jnp.asarray(second), jnp.ones(len(pairs), bool), points, points), "float64"
    )


def test_the_size_of_data_and_the_edge_of_noise_are_those_of_the_matrix():
    # 30 draws of N = 16, r = 2: E (1/n) <A X, W A X> is ||X||_F^2 within a few percent, and the largest eigenvalue of
    # whitened noise is near the edge (.9 of it on average; 1.2 at most).
    def look(key):
        drawn = DISTANCES.make(normals(key, *DISTANCES.blocks(58, 16)), rows=58, d=16, r=2, dtype="float64")
        noise = jax.random.normal(jax.random.fold_in(key, 1), (58,), "float64")
        operator = cast(drawn.operator, "float64")
        pulled = operator.adjoint(operator.whiten(noise, 58, 16)) / 58
        edge = jnp.max(jnp.abs(jnp.linalg.eigvalsh(pulled))) / operator.noise_edge(1.0, 58, 16)
        return operator.size(drawn.y, 58, 16), edge

    sizes, edges = jax.jit(jax.vmap(look))(jax.random.split(jax.random.key(3), 30))
    assert abs(np.mean(np.asarray(sizes) ** 2) - 1) < 0.1
    assert 0.75 < np.mean(edges) < 1.05
    assert np.max(edges) < 1.3


@pytest.mark.parametrize(("r", "p"), [(1, 15), (2, 29), (3, 42)])
def test_degrees_of_freedom_count_neither_rotations_nor_translations(r, p):
    assert float(_operator().dof(r, 16)) == p == DISTANCES.dof(16, r)
    points = np.random.default_rng(r).standard_normal((16, r))
    pairs = [(i, j) for j in range(16) for i in range(j)]
    slopes = np.asarray(Distances.from_pairs(pairs).jacobian(jnp.asarray(points))).reshape(len(pairs), -1)
    assert np.linalg.matrix_rank(slopes) == p


DRAWERS = {}


def _draw(family, rows=20, d=8, live=(20, 8), dtype="float64", sigma=0.1, key=0):
    where = (family.name, rows, d, dtype)
    if where not in DRAWERS:
        DRAWERS[where] = jax.jit(
            lambda key, n, points, r, sigma: family.make(
                normals(key, *family.blocks(rows, d)),
                **{"rows": rows, "d": d, "r": r, "kappa": 3.0, "scale": 2.0, "sigma": sigma},
                **{"dtype": dtype, "live_n": n, "live_d": points},
            )
        )
    return DRAWERS[where](jax.random.key(key), *live, 2, sigma)


@pytest.mark.parametrize("family", [DISTANCES, DISTANCES_NEAREST], ids=lambda family: family.name)
def test_padding_changes_no_live_number_and_is_exactly_zero(family):
    plain, padded = _draw(family), _draw(family, rows=25, d=11)
    for name in ("first", "second"):
        np.testing.assert_array_equal(getattr(padded.operator, name)[:20], getattr(plain.operator, name))
        assert not np.any(getattr(padded.operator, name)[20:])
    np.testing.assert_allclose(padded.y[:20], plain.y, atol=1e-12)
    np.testing.assert_allclose(padded.factor[:8, :8], plain.factor, atol=1e-12)
    for part in (padded.y[20:], padded.truth[8:], padded.operator.live[20:], padded.operator.inverse[8:]):
        assert not np.any(part)
    rng = np.random.default_rng(5)
    factor, residual = np.zeros((11, 3)), np.zeros(25)
    factor[:8], residual[:20] = rng.standard_normal((8, 3)), rng.standard_normal(20)
    wide = COMPILED(padded.operator, jnp.asarray(factor), jnp.asarray(residual), 20, 8)
    live = COMPILED(plain.operator, jnp.asarray(factor[:8]), jnp.asarray(residual[:20]), 20, 8)
    for name, cut in {"image": 20, "whiten": 20, "pull": 8, "canonical": 8, "jacobian": 20}.items():
        assert not np.any(np.asarray(wide[name])[cut:])
        np.testing.assert_allclose(
            np.asarray(wide[name])[:cut, ..., *([slice(8), slice(3)] if name == "jacobian" else [])],
            live[name],
            atol=2e-5,
        )
    warm = [np.asarray(one.operator.warm_starts(one.y, 20, 8, 2)[0]) for one in (plain, padded)]
    assert not np.any(warm[1][8:])
    assert not np.any(warm[1][:, 2:])
    np.testing.assert_allclose(warm[1][:8, :2] @ warm[1][:8, :2].T, warm[0][:, :2] @ warm[0][:, :2].T, atol=1e-10)


@pytest.mark.parametrize("family", [DISTANCES, DISTANCES_NEAREST], ids=lambda family: family.name)
def test_draws_have_the_truth_and_the_noise_they_say(family):
    clean, noisy, single = _draw(family, sigma=0.0), _draw(family), _draw(family, sigma=0.0, dtype="float32")
    values = np.sort(np.linalg.eigvalsh(clean.truth))[::-1]
    np.testing.assert_allclose(np.linalg.norm(clean.truth), 2.0, rtol=1e-12)
    np.testing.assert_allclose(values[0] / values[1], 3.0, rtol=1e-10)
    np.testing.assert_allclose(values[2:], 0, atol=1e-12)
    np.testing.assert_allclose(np.sum(clean.factor, axis=0), 0, atol=1e-12)
    points, pairs = np.asarray(clean.factor), clean.operator.pairs()
    assert len(np.unique(np.sort(pairs, axis=1), axis=0)) == 20
    np.testing.assert_allclose(np.sum((points[pairs[:, 0]] - points[pairs[:, 1]]) ** 2, axis=1), clean.y, rtol=1e-10)
    assert 0.05 < np.std(noisy.y - clean.y) < 0.16
    np.testing.assert_array_equal(single.operator.first, clean.operator.first)


def test_the_nearest_pairs_are_the_shortest_and_random_ones_are_not():
    for family, shortest in ((DISTANCES_NEAREST, True), (DISTANCES, False)):
        drawn = _draw(family, sigma=0.0)
        points = np.asarray(drawn.factor)
        every = np.sort(np.sum((points[:, None] - points[None]) ** 2, axis=-1)[np.triu_indices(8, 1)])
        assert np.allclose(np.sort(drawn.y), every[:20]) == shortest


def test_warm_starts_give_back_points_on_a_line_from_neighbours_alone():
    # On a line shortest paths are the distances themselves.
    places = np.cumsum(np.random.default_rng(2).uniform(0.5, 2, 9))
    pairs = np.stack([np.arange(8), np.arange(1, 9)], axis=1)
    start = np.asarray(Distances.from_pairs(pairs).warm_starts(jnp.asarray(np.diff(places) ** 2), 8, 9, 1))
    assert start.shape == (1, 9, 9)
    np.testing.assert_allclose(np.abs(start[0, :, 0]), np.abs(places - places.mean()), rtol=1e-10)
    assert not np.any(start[0, :, 1:])


def test_a_matrix_gives_its_upper_triangle_and_takes_a_pair_from_either_side():
    points = np.random.default_rng(4).standard_normal((5, 2))
    D = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
    holes = D.copy()
    holes[0, 3] = holes[1, 2] = holes[2, 1] = np.nan
    operator, y = Distances.from_matrix(holes)
    assert operator.n == 9
    np.testing.assert_allclose(operator.image(jnp.asarray(points)), y, rtol=1e-12)
    assert Distances.from_matrix(D, np.isfinite(holes))[0].n == 9


SQUARES = np.array([[0.0, 1, 4], [1, 0, 1], [4, 1, 0]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Distances.from_pairs([(0, 1), (2, 2)]), "pair 1 is \\(2, 2\\)"),
        (lambda: Distances.from_pairs([(0, 1), (1, 2), (1, 0)]), "comes 2 times, as pairs 0, 2"),
        (lambda: Distances.from_pairs([(0, 5)], 5), "from 0 to N - 1 = 4"),
        (lambda: Distances.from_pairs([(-1, 2)]), "count from 0"),
        (lambda: Distances.from_pairs([(0.5, 2.0)]), "whole numbers"),
        (lambda: Distances.from_pairs([0, 1, 2]), "shape \\[n, 2\\]"),
        (lambda: Distances.from_matrix(SQUARES[:2]), "square matrix"),
        (lambda: Distances.from_matrix(SQUARES + np.eye(3)), "diagonal of D must be 0"),
        (lambda: Distances.from_matrix(SQUARES + np.triu(np.ones((3, 3)), 1)), "contradicts itself"),
        (lambda: Distances.from_matrix(np.diag([0.0, 0, 0]) / np.eye(3)), "nothing|no distance"),
        (lambda: Distances.from_matrix(SQUARES, np.ones((2, 2))), "shape of D"),
    ],
)
def test_pairs_and_matrices_that_make_no_sense_are_refused(call, words):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=words):
        call()


def test_negative_data_are_refused_and_plain_distances_are_noticed():
    points = np.random.default_rng(6).standard_normal((12, 2))
    pairs = np.array([(i, j) for j in range(12) for i in range(j)])
    squares = np.sum((points[pairs[:, 0]] - points[pairs[:, 1]]) ** 2, axis=1)
    operator = Distances.from_pairs(pairs)
    operator.check_data(squares, len(pairs))  # no warning: warnings are errors here
    with pytest.warns(PlainDistances, match="Pass their squares"):
        operator.check_data(np.sqrt(squares), len(pairs))
    with pytest.raises(ValueError, match="not negative"):
        operator.check_data(-squares, len(pairs))


def test_cells_that_have_too_few_points_are_refused():
    DISTANCES.check({"d": 8, "r": 2, "n": 28})
    with pytest.raises(ValueError, match="d\\(d-1\\)/2 = 28"):
        DISTANCES.check({"d": 8, "r": 2, "n": 29})
    with pytest.raises(ValueError, match="at most d - 1"):
        DISTANCES.check({"d": 3, "r": 3, "n": 2})


def test_a_step_costs_what_its_products_do():
    assert _operator().step_cost(6)[0] > _operator().step_cost(3)[0] > 4 * N * N * 3
    assert _listed().step_cost(8)[0] < 4 * 40 * 40 * 8
