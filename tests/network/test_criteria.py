"""Every criterion against its definition, computed by other means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft import network
from pruneft.network import CRITERIA, trees
from tests.network import models

H, D = 4, 6
TARGET = jnp.asarray(models.draw((5, 2), 7))


def model(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]


def loss(p, batch):
    x, y = batch
    return jnp.mean(jnp.sum((model(p, x) - y) ** 2, axis=-1))


PARAMS = models.tree({"w": (D, H), "b": (H,), "v": (H, 2)})
BATCH = (models.ROWS, TARGET)
FAMILIES = network.groups(model, PARAMS, models.ROWS)
(NAME,) = FAMILIES.names


@pytest.fixture(scope="module")
def exact():
    """Gradient of every sample and Hessian with respect to (w, b, v) in one row, float64, and each group's producer entries."""
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(leaf, jnp.float64) for name, leaf in PARAMS.items()}
        order = ("w", "b", "v")
        flat = np.concatenate([np.ravel(wide[name]) for name in order])

        def whole(row):
            w, b, v = jnp.split(row, [D * H, D * H + H])
            return {"w": w.reshape(D, H), "b": b, "v": v.reshape(H, 2)}

        def of(row, x, y):
            return loss(whole(row), (x[None], y[None]))

        x, y = (jnp.asarray(part, jnp.float64) for part in BATCH)
        slopes = np.asarray(jax.jit(jax.vmap(jax.grad(of), (None, 0, 0)))(flat, x, y))
        hessian = np.asarray(jax.jit(jax.hessian(lambda row: loss(whole(row), (x, y))))(flat))
    groups = [np.array([*(i * H + j for i in range(D)), D * H + j]) for j in range(H)]
    return flat, slopes, hessian, groups


def scored(criterion, **options):
    return np.asarray(network.scores(criterion, PARAMS, FAMILIES, loss=loss, batch=BATCH, **options)[NAME])


def test_norms_are_over_all_members_or_producers():
    w, b, v = (np.asarray(PARAMS[name]) for name in ("w", "b", "v"))
    squares = (w**2).sum(0) + b**2
    np.testing.assert_allclose(scored("norm", members="producers"), np.sqrt(squares), rtol=1e-5)
    np.testing.assert_allclose(scored("norm"), np.sqrt(squares + (v**2).sum(1)), rtol=1e-5)
    sizes = np.abs(w).sum(0) + np.abs(b) + np.abs(v).sum(1)
    np.testing.assert_allclose(scored("norm", power=1), sizes, rtol=1e-5)
    np.testing.assert_allclose(scored("normalised"), scored("norm") / np.sqrt(D + 1 + 2), rtol=1e-5)


def test_taylor_is_the_sum_of_weights_times_slopes(exact):
    flat, slopes, _, groups = exact
    expected = [abs((flat[g] * slopes.mean(0)[g]).sum()) for g in groups]
    np.testing.assert_allclose(scored("taylor"), expected, rtol=1e-4, atol=1e-5)


def test_fisher_is_the_mean_square_over_samples(exact):
    flat, slopes, _, groups = exact
    expected = [((slopes[:, g] * flat[g]).sum(1) ** 2).mean() / 2 for g in groups]
    np.testing.assert_allclose(scored("fisher"), expected, rtol=1e-4)


def test_hessian_form_is_the_quadratic_term(exact):
    flat, _, hessian, groups = exact
    expected = [flat[g] @ hessian[np.ix_(g, g)] @ flat[g] / 2 for g in groups]
    np.testing.assert_allclose(scored("hessian"), expected, rtol=1e-3, atol=1e-4)


def test_diagonal_by_probes_tends_to_the_diagonal(exact):
    flat, _, hessian, groups = exact
    expected = np.array([(np.diag(hessian)[g] * flat[g] ** 2).sum() / 2 for g in groups])
    found = scored("obd", key=jax.random.key(0), probes=4000)
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


@pytest.fixture(scope="module", params=["hessian", "fisher"])
def curved(request, exact):
    """What the surgeon takes for the curvature, by name, and that matrix with 1 added on its diagonal."""
    flat, slopes, hessian, _ = exact
    matrix = hessian if request.param == "hessian" else slopes.T @ slopes / slopes.shape[0]
    return request.param, matrix + np.eye(flat.size)


def test_surgeon_saves_what_the_best_update_saves(exact, curved):
    flat, _, _, groups = exact
    name, matrix = curved
    inverse = np.linalg.inv(matrix)
    expected = [flat[g] @ np.linalg.solve(inverse[np.ix_(g, g)], flat[g]) / 2 for g in groups]
    np.testing.assert_allclose(scored("obs", damping=1.0, curvature=name), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("gone", [(1,), (0, 3)])
def test_update_of_the_surgeon_is_the_constrained_minimum(exact, curved, gone):
    flat, _, _, groups = exact
    name, matrix = curved

    def update(keep):
        return network.obs_update(PARAMS, FAMILIES, {NAME: keep}, loss=loss, batch=BATCH, curvature=name, damping=1.0)

    moved = jax.jit(update)(~np.isin(np.arange(H), gone))
    # Minimise dw^T C dw with the removed producers at zero and their consumers where they are, by its optimality conditions.
    removed = np.concatenate([groups[j] for j in gone])
    taken = np.concatenate([D * H + H + 2 * j + np.arange(2) for j in gone])
    fixed = np.concatenate([removed, taken])
    kkt = np.zeros((flat.size + fixed.size,) * 2)
    kkt[: flat.size, : flat.size] = matrix
    kkt[flat.size + np.arange(fixed.size), fixed] = kkt[fixed, flat.size + np.arange(fixed.size)] = 1
    wanted = np.concatenate([np.zeros(flat.size), -flat[removed], np.zeros(taken.size)])
    step = np.linalg.solve(kkt, wanted)[: flat.size]
    found = np.concatenate([np.ravel(moved[name]) for name in ("w", "b", "v")])
    np.testing.assert_allclose(found, flat + step, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(np.asarray(moved["w"])[:, list(gone)], 0)
    assert np.abs(step[np.setdiff1d(np.arange(flat.size), fixed)]).max() > 1e-2


@pytest.mark.parametrize("curvature", ["hessian", "fisher"])
def test_weights_of_half_precision_are_moved_too(curvature):
    narrow = {name: leaf.astype(jnp.bfloat16) for name, leaf in PARAMS.items()}

    def widened(p, batch):
        return loss({name: leaf.astype(jnp.float32) for name, leaf in p.items()}, batch)

    options = {"loss": widened, "batch": BATCH, "curvature": curvature, "damping": 1.0}
    scores = network.scores("obs", narrow, FAMILIES, **options)[NAME]
    np.testing.assert_allclose(scores, scored("obs", damping=1.0, curvature=curvature), rtol=0.1)
    moved = network.obs_update(narrow, FAMILIES, {NAME: np.arange(H) != 1}, **options)
    assert {leaf.dtype for leaf in moved.values()} == {jnp.dtype(jnp.bfloat16)}
    assert not np.any(np.asarray(moved["w"], np.float32)[:, 1])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"x": np.ones(H, bool)}, "no family is called 'x'"),
        ({NAME: np.ones(3, bool)}, r"expected a boolean mask of that length, got bool of shape \(3,\)"),
        ({NAME: np.array([0, 1, 2, 3])}, r"has 4 groups: expected a boolean mask of that length, got int64 of shape"),
    ],
)
def test_masks_that_do_not_fit_are_errors(keep, message):
    with pytest.raises(ValueError, match=message):
        network.zeroed(PARAMS, FAMILIES, keep)
    with pytest.raises(ValueError, match=message):
        network.obs_update(PARAMS, FAMILIES, keep, loss=loss, batch=BATCH)


def test_chance_depends_on_the_key_alone():
    first, again, other = (scored("random", key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_running_statistics_count_for_nothing():
    case = models.PLAIN["cnn"]
    families = network.groups(case.fn, case.params, *case.inputs)
    larger = {**case.params, "var": 100 * case.params["var"], "mean": 100 * case.params["mean"]}
    before, after = (network.scores("norm", p, families)["k1:3"] for p in (case.params, larger))
    np.testing.assert_array_equal(before, after)


def test_flattened_channels_count_every_row():
    case = models.PLAIN["cnn"]
    families = network.groups(case.fn, case.params, *case.inputs)
    p = {name: np.asarray(leaf, np.float64) for name, leaf in case.params.items()}
    expected = (p["k2"] ** 2).sum((0, 1, 2)) + p["b2"] ** 2 + (p["w"].reshape(4, 5, 3) ** 2).sum((0, 2))
    np.testing.assert_allclose(network.scores("norm", case.params, families)["k2:3"], np.sqrt(expected), rtol=1e-5)


def test_scores_are_safe_under_jit_and_vmap():
    stacked = trees.map_arrays(lambda _, leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    found = jax.jit(jax.vmap(lambda p: network.scores("fisher", p, FAMILIES, loss=loss, batch=BATCH)[NAME]))(stacked)
    np.testing.assert_allclose(found[0], scored("fisher"), rtol=1e-5)
    assert found.shape == (2, H)


BAD = {
    "unknown": ({"criterion": "size"}, "unknown criterion 'size': known are norm, normalised"),
    "no loss": ({"criterion": "taylor"}, "'taylor' needs loss and batch"),
    "no key": ({"criterion": "random"}, "'random' draws: give it a key"),
    "power": ({"criterion": "norm", "power": 3}, "must be 1 or 2: got 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_criterion_lacks_is_named(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        network.scores(**options, params=PARAMS, families=FAMILIES)


def test_large_hessian_is_an_error():
    wide = {"w": jnp.zeros((D, 2000)), "b": jnp.zeros(2000), "v": jnp.zeros((2000, 2))}
    families = network.groups(model, wide, jax.ShapeDtypeStruct((5, D), jnp.float64))
    with pytest.raises(ValueError, match="the Hessian of 18000 numbers is too large"):
        network.scores("obs", wide, families, loss=loss, batch=BATCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "diagonal"}, "curvature must be 'hessian' or 'fisher': got 'diagonal'"),
        ({"damping": -1.0}, "damping must not be negative: got -1.0"),
        ({"curvature": "fisher", "damping": 0.0}, "damping must be positive with curvature='fisher': got 0.0"),
    ],
)
def test_a_surgeon_that_makes_no_sense_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        scored("obs", **options)


def test_a_family_of_which_nothing_counts_has_scores_of_zero():
    case = models.PLAIN["cnn"]
    families = network.groups(case.fn, case.params, *case.inputs)
    found = network.scores(
        "obs",
        case.params,
        families,
        loss=lambda p, x: jnp.mean(case.fn(p, x) ** 2),
        batch=case.inputs[0],
        curvature="fisher",
        statistics=".",
    )
    for name, family in zip(families.names, families, strict=True):
        np.testing.assert_array_equal(found[name], np.zeros(family.width))


def test_running_averages_are_not_moved_by_the_surgeon():
    case = models.PLAIN["cnn"]
    families = network.groups(case.fn, case.params, *case.inputs)
    name = next(f.name for f in families if f.name.startswith("k1"))

    def squares(p, x):
        return jnp.mean(case.fn(p, x) ** 2)

    moved = network.obs_update(
        case.params,
        families,
        {name: np.arange(families[name].width) > 0},
        loss=squares,
        batch=case.inputs[0],
        curvature="fisher",
    )
    np.testing.assert_array_equal(moved["mean"], case.params["mean"])
    np.testing.assert_array_equal(moved["var"], case.params["var"])
    assert np.abs(np.asarray(moved["k1"])[..., 0]).max() == 0
    assert np.abs(np.asarray(moved["k2"]) - case.params["k2"]).max() > 0


def test_all_criteria_are_listed():
    assert set(CRITERIA) == {"norm", "normalised", "taylor", "fisher", "obd", "hessian", "obs", "random"}
