"""Claims about rank-one measurements, real and complex, and about quadratic networks trained by minibatches."""

from __future__ import annotations

import collections
import importlib
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.experiments.recovery import experiment
from pruneft.random import normals
from pruneft.sensing import PathRecipe, quadratic
from pruneft.sensing.field import factor_of, stored_of
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.rank_one import RankOne
from pruneft.sensing.operators.rank_one_draw import RANK_ONE, RANK_ONE_COMPLEX
from pruneft.trial import wrap_key
from tests.claims.trials import refuted, rows_of

pytestmark = pytest.mark.claims

_SEEDS = 6
_FAMILIES = {"real": RANK_ONE, "complex": RANK_ONE_COMPLEX}
# field, d, r, n/dof -> success asked for without noise, rank unknown.
_BARS = {
    **{("real", d, r, ratio): bar for d, r in ((16, 2), (24, 3)) for ratio, bar in ((1.5, 0.85), (2.0, 0.95))},
    **{("real", 12, 1, ratio): bar for ratio, bar in ((2.0, 0.85), (3.0, 0.95))},
    **{
        ("complex", d, r, ratio): bar
        for d, r in ((8, 1), (12, 2), (16, 3))
        for ratio, bar in ((1.2, 0.85), (1.5, 0.95))
    },
}
_NOISY = (("real", 16), ("complex", 12))  # r = 2, sigma .01 and .1, n/dof 2 and 5


def _rows(field, grids, seeds=_SEEDS, recipe=PathRecipe()):
    return rows_of(
        [{"k": 8, **axes, "method": "path"} for axes in grids], seeds, experiment(_FAMILIES[field], path=recipe)
    )


def _grids(field, ratios=None):
    found = collections.defaultdict(list)
    for kind, d, r, ratio in _BARS:
        if kind == field and (ratios is None or ratio in ratios):
            found[d, r].append(ratio)
    return [{"d": d, "r": r, "n_per_dof": tuple(ratios)} for (d, r), ratios in found.items()]


@pytest.fixture(scope="module")
def noiseless():
    return {field: _rows(field, _grids(field)) for field in _FAMILIES}


@pytest.mark.parametrize("field", list(_FAMILIES))
@pytest.mark.parametrize("bar", [0.85, 0.95])
def test_rank_one_data_without_noise_are_enough(noiseless, field, bar):
    # Pooled over the cells of a bar. Would break: training on the plain mean square, whose mean hides all but the trace; a wrong adjoint.
    cells = {
        (d, r, round(ratio * _FAMILIES[field].dof(d, r)))
        for (kind, d, r, ratio), asked in _BARS.items()
        if (kind, asked) == (field, bar)
    }
    rows = [row for row in noiseless[field] if (row["d"], row["r"], row["n"]) in cells]
    recovered = sum(bool(row["success"] and row["rank_exact"]) for row in rows)
    assert len(rows) == 3 * _SEEDS
    assert not refuted(recovered, len(rows), bar), f"{recovered} of {len(rows)}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Unconjugated(RankOne):
    """Complex measurements whose derivative forgets a conjugate, as is easily done."""

    def jacobian(self, factor):
        return RankOne(self.vectors, -self.imaginary, self.level, None, "complex").jacobian(factor)


def _unconjugated(*arguments, **settings):
    drawn = RANK_ONE_COMPLEX.make(*arguments, **settings)
    right = drawn.operator
    return drawn._replace(operator=_Unconjugated(right.vectors, right.imaginary, right.level, right.unmix, right.kind))


def test_with_a_derivative_that_forgets_a_conjugate_they_are_not():
    """The broken twin."""
    wrong = replace(RANK_ONE_COMPLEX, make=_unconjugated)
    grid = {"d": 8, "k": 8, "r": 1, "n_per_dof": 1.5, "method": "path"}
    rows = rows_of([grid], 12, experiment(wrong, path=PathRecipe()))
    assert refuted(sum(bool(row["success"]) for row in rows), len(rows), 0.95)


@pytest.fixture(scope="module")
def noisy():
    grid = {"r": 2, "n_per_dof": (2.0, 5.0), "sigma": (0.01, 0.1)}
    return {field: _rows(field, [{"d": d, **grid}]) for field, d in _NOISY}


def _oracle(field, row):
    """Relative error of least squares on the tangent space of the truth, with the noise of this very instance."""
    family, made = _FAMILIES[field], experiment(_FAMILIES[field])
    n, d, r = row["n"], row["d"], row["r"]
    names = [axis.name for axis in made.axes]
    key = wrap_key(made.key_data({name: row[name] for name in names if name in row}, row["seed"]))
    sizes = {"rows": n, "d": d, "live_n": n, "live_d": d, "dtype": jnp.float64}
    drawn = family.make(
        normals(key, *family.blocks(n, d)), r=r, kappa=row["kappa"], scale=row["scale"], sigma=row["sigma"], **sizes
    )
    factor = drawn.factor[:, :r]
    stored, operator = stored_of(factor, field), cast(drawn.operator, jnp.float64)
    slopes = np.asarray(operator.jacobian(stored)).reshape(n, -1)
    moved = np.linalg.lstsq(slopes, np.asarray(drawn.y - operator.image(stored)), rcond=1e-10)[0]
    moved = np.asarray(factor_of(jnp.asarray(moved.reshape(stored.shape)), field))
    change = moved @ np.asarray(factor).conj().T
    return np.linalg.norm(change + change.conj().T) / np.linalg.norm(drawn.truth)


@pytest.mark.parametrize("field", list(_FAMILIES))
def test_with_noise_the_rank_is_found_and_the_error_is_the_oracles(noisy, field):
    # Cell by cell: rank at 90%, median error over the oracle's at most 1.10. Would break: a noise edge off by a factor of two.
    cells = collections.defaultdict(list)
    for row in noisy[field]:
        cells[row["n"], row["sigma"]].append(row)
    assert len(cells) == 4
    for cell, rows in cells.items():
        found = sum(bool(row["rank_exact"]) for row in rows)
        assert not refuted(found, len(rows), 0.9), f"{cell}: rank in {found} of {len(rows)}"
        ratio = np.median([row["error"] / _oracle(field, row) for row in rows])
        assert ratio <= 1.10, f"{cell}: {ratio}"


def test_with_the_residual_alone_to_choose_by_the_rank_is_lost(monkeypatch):
    """The broken twin: no penalty on rank."""
    module = importlib.import_module("pruneft.sensing.rank_path")  # the package has a function of that name
    monkeypatch.setattr(module, "edge_penalties", lambda n, dof, *others: jnp.zeros(dof.shape, n.dtype))
    rows = _rows(
        "real", [{"d": 16, "r": 2, "n_per_dof": 2.0, "sigma": 0.1}], _SEEDS, PathRecipe(beyond=2)
    )  # a recipe of its own: no program compiled with the penalty is found again
    assert refuted(sum(bool(row["rank_exact"]) for row in rows), len(rows), 0.9)


_D, _R, _N, _BATCH = 20, 3, 2000, 200


def _network(seed, lam=None, sigma=0.0):
    """A network of 20 neurons from 2000 samples of a teacher with 3: the fit, its error, and that of least squares from the teacher."""
    rng = np.random.default_rng(seed)
    teacher = np.linalg.qr(rng.standard_normal((_D, _R)))[0] / _R**0.25
    inputs = rng.standard_normal((_N, _D))
    noise = sigma * rng.standard_normal(_N)
    outputs = np.sum((inputs @ teacher) ** 2, axis=1) + noise
    # The last threshold: the noise edge of real rank-one measurements, sigma sqrt(d / n), the teacher's norm being one.
    threshold = sigma * (_D / _N) ** 0.5 if sigma else None
    batches = quadratic.shuffled(inputs.astype("float32"), outputs.astype("float32"), _BATCH, seed=seed)
    found = quadratic.fit(batches, width=_D, steps=1000, lam=lam, threshold=threshold, seed=seed)
    slopes = (2 * inputs[:, :, None] * (inputs @ teacher)[:, None, :]).reshape(_N, -1)
    moved = np.linalg.lstsq(slopes, noise, rcond=1e-10)[0].reshape(_D, _R)
    limit = float(quadratic.population_error(jnp.asarray(teacher + moved), jnp.asarray(teacher)))
    return found, float(quadratic.population_error(found.weights, jnp.asarray(teacher, jnp.float32))), limit


@pytest.fixture(scope="module")
def networks():
    return {sigma: [_network(seed, sigma=sigma) for seed in range(8)] for sigma in (0.0, 0.1)}


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_exactly_as_many_neurons_stay_as_the_teacher_has(networks, sigma):
    # By pruning alone, before neurons that share a direction would be merged. Would break: pruning in the parabola of the penalty.
    exact = sum(found.columns == found.neurons == _R for found, _, _ in networks[sigma])
    assert not refuted(exact, 8, 0.9), f"{exact} of 8"


def test_the_error_falls_to_the_limit(networks):
    # Without noise to the digits of float32; with noise to the error of least squares from the teacher itself.
    assert max(error for _, error, _ in networks[0.0]) < 1e-4
    shares = [error / limit for _, error, limit in networks[0.1]]
    assert np.median(shares) <= 1.10, shares


def test_without_the_penalty_pruning_fails():
    """The broken twin: more neurons stay than the teacher has, although the data are fitted."""
    found = [_network(seed, lam=0.0)[0] for seed in range(6)]
    assert all(one.train_history.losses[-1] < 1e-3 for one in found)
    assert refuted(sum(one.columns == _R for one in found), len(found), 0.9)


def test_a_network_trained_without_the_penalty_is_spoiled_by_keeping_only_as_many_neurons(networks):
    """Even told how many neurons to keep: the largest columns of the factor are not the teacher."""
    errors = []
    for seed in range(6):
        trained = _network(seed, lam=0.0)[0].trained
        kept = trained[:, jnp.argsort(-jnp.linalg.norm(trained, axis=0))[:_R]]
        rng = np.random.default_rng(seed)
        teacher = np.linalg.qr(rng.standard_normal((_D, _R)))[0] / _R**0.25
        errors.append(float(quadratic.population_error(kept, jnp.asarray(teacher, jnp.float32))))
    assert np.median(errors) > 0.1
    assert max(error for _, error, _ in networks[0.0]) < min(errors)
