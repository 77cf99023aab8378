"""Claims about certificates: intervals cover, tests have their size, and the verdict finds the bad answers."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft import Problem, Verdict, certify, recover
from pruneft.optim import LMConfig
from pruneft.pipeline import Penalty
from pruneft.sensing import PackedOperator, PathRecipe, draw_instance
from pruneft.sensing import lane as lanes
from pruneft.sensing.pivots import largest_eigenvalue_tail
from pruneft.status import Status
from tests.claims.trials import refuted, rows_of

pytestmark = pytest.mark.claims

# d, r, n/dof, sigma, kappa; the eigenvalues of a truth of norm 1 are well above the noise edge.
_NEAR = ((16, 2, 1.25, 0.03, 1.0), (12, 3, 1.5, 0.05, 2.0))
_FAR = ((16, 4, 1.75, 0.05, 1.0), (12, 2, 2.5, 0.1, 3.0))
_EACH = 100


@functools.partial(jax.jit, static_argnames=("d", "n", "r"))
def _fits(keys, sigma, kappa, *, d, n, r):
    """Least-squares fits of the right rank, from the truth."""
    none = Penalty(*(jnp.zeros((1, 1, 1), jnp.float32),) * 4)

    def one(key):
        drawn = draw_instance(key, n=n, d=d, r=r, kappa=kappa, sigma=sigma, dtype=jnp.float64)
        lane = lanes.make_lane(drawn.operator, drawn.y, jnp.zeros((1, 1, d, r)), none)
        found = lanes.fit(lane, drawn.factor[None, :, :r] / jnp.sqrt(lane.scale), LMConfig(max_steps=12))
        return drawn.operator.rows, drawn.y, drawn.truth, found.x[0].reshape(d, r) * jnp.sqrt(lane.scale)

    return jax.vmap(one)(keys)


@functools.cache
def _certified(cells):
    """(certificate, true sigma, true error) of 100 instances of every cell."""
    found = []
    for place, (d, r, ratio, sigma, kappa) in enumerate(cells):
        n = round(ratio * (r * d - r * (r - 1) // 2))
        keys = jax.random.split(jax.random.key(place), _EACH)
        for rows, y, truth, U in zip(*map(np.asarray, _fits(keys, sigma, kappa, d=d, n=n, r=r)), strict=True):
            certificate = certify(Problem(PackedOperator(rows), y), U)
            found.append((certificate, sigma, float(np.linalg.norm(U @ U.T - truth)), d))
    return found


def test_the_interval_of_sigma_covers():
    cases = [*_certified(_NEAR), *_certified(_FAR)]
    covered = sum(low <= sigma <= high for (low, high), sigma in ((c.sigma_interval, s) for c, s, *_ in cases))
    assert not refuted(covered, len(cases), 0.90), f"{covered} of {len(cases)}"
    # The broken twin: RSS/n, as if the fit had cost no degrees of freedom.
    shrunk = [(math.sqrt(1 - c.dof / c.n), c.sigma_interval, sigma) for c, sigma, *_ in cases]
    wrong = sum(by * low <= sigma <= by * high for by, (low, high), sigma in shrunk)
    assert refuted(wrong, len(cases), 0.90), f"without the correction {wrong} of {len(cases)}"


@pytest.mark.parametrize(("cells", "bar"), [(_NEAR, 0.84), (_FAR, 0.90)])
def test_the_interval_of_the_error_covers(cells, bar):
    cases = _certified(cells)
    covered = sum(c.error_interval[0] <= error <= c.error_interval[1] for c, _, error, _ in cases)
    assert not refuted(covered, len(cases), bar), f"{covered} of {len(cases)}"
    # The broken twin: the error of a design without spread, sigma sqrt(p/n), instead of the design's own.
    naive = [(c.sigma * math.sqrt(c.dof / c.n) / c.error, c.error_interval, error) for c, _, error, _ in cases]
    wrong = sum(by * low <= error <= by * high for by, (low, high), error in naive)
    assert refuted(wrong, len(cases), bar), f"{wrong} of {len(cases)}"


@pytest.mark.parametrize("name", ["eigenvalue", "energy"])
def test_the_tests_of_the_residual_have_their_size(name):
    cases = [*_certified(_NEAR), *_certified(_FAR)]
    called = sum(getattr(c, f"{name}_p") < 0.05 for c, *_ in cases)
    assert not refuted(called, len(cases), 0.02), f"{called} of {len(cases)}"
    assert not refuted(len(cases) - called, len(cases), 1 - 0.08), f"{called} of {len(cases)}"


def test_with_the_law_of_a_smaller_matrix_the_eigenvalue_test_has_not():
    """The broken twin: W of half the side."""
    cases = [*_certified(_NEAR), *_certified(_FAR)]
    called = sum(largest_eigenvalue_tail(c.eigenvalue_test, (d - c.rank) // 2) < 0.05 for c, _, _, d in cases)
    assert refuted(len(cases) - called, len(cases), 1 - 0.08), f"{called} of {len(cases)}"


def test_sound_data_are_seldom_called_contaminated_and_gross_errors_are_found():
    # At n = 2.5 dof: every twentieth measurement off by 10 sigma. What hides is what the fit leans on (high leverage).
    (d, r, ratio, sigma, kappa), count = _FAR[1], 60
    sound = [c for c, *_ in _certified(_FAR)]
    clean = sum(not c.outliers for c in sound)
    assert not refuted(clean, len(sound), 0.97), f"{clean} of {len(sound)}"
    n = round(ratio * (r * d - r * (r - 1) // 2))
    rows, y, _, U = map(np.asarray, _fits(jax.random.split(jax.random.key(9), _EACH), sigma, kappa, d=d, n=n, r=r))
    generator = np.random.default_rng(0)
    hit = wrong = 0
    for one in range(count):
        places = set(generator.choice(n, 3, replace=False).tolist())
        spoiled = y[one].copy()
        spoiled[list(places)] += 10 * sigma * generator.choice([-1, 1], 3)
        found = set(certify(Problem(PackedOperator(rows[one]), spoiled), U[one]).outliers)
        hit, wrong = hit + len(found & places), wrong + bool(found - places)
    assert not refuted(hit, 3 * count, 0.90), f"{hit} of {3 * count}"
    assert not refuted(count - wrong, count, 0.95), f"{wrong} of {count}"


@functools.cache
def _verdicts():
    """288 runs of the rank path: rank and noise unknown, from below the degrees of freedom to far above."""
    grid = {
        "d": 12,
        "r": 2,
        "kappa": 3.0,
        "n_per_dof": (0.85, 0.95, 1.1, 1.3, 1.7, 2.5),
        "sigma": (0.0, 0.01, 0.1),
        "method": "path",
    }
    return rows_of([grid], seeds=16)


def _accepted(row, limit=PathRecipe().limit):
    exact = row["residual"] ** 2 <= PathRecipe().exact
    return row["rank"] > 0 and row["predicted_error"] <= limit and (exact or row["agreeing"] >= 2)


def _ok(row):
    return row["status"] in (Status.CONVERGED, Status.RANK_UNCERTAIN)


def test_the_verdict_finds_the_bad_answers():
    # Bad: relative error above 1e-3 without noise, above 3 times the oracle's with, above .3 where it has none.
    rows = _verdicts()
    assert [_accepted(row) for row in rows] == [_ok(row) for row in rows]
    bad = [row for row in rows if not row["success"]]
    found = sum(not _ok(row) for row in bad)
    assert len(bad) > 50
    assert not refuted(found, len(bad), 0.95), f"{found} of {len(bad)}"
    accepted = [row for row in rows if _ok(row)]
    good = sum(row["success"] for row in accepted)
    assert not refuted(good, len(accepted), 1 - 0.03), f"{good} of {len(accepted)}"
    # The broken twin: no limit on the predicted error.
    missed = sum(not _accepted(row, math.inf) for row in bad)
    assert refuted(missed, len(bad), 0.95), f"without the limit {missed} of {len(bad)}"


def test_the_verdict_does_not_refuse_good_answers_where_noise_is_weak():
    good = [row for row in _verdicts() if row["success"] and row["sigma"] <= 0.03]
    kept = sum(map(_ok, good))
    assert len(good) > 100
    assert not refuted(kept, len(good), 1 - 0.10), f"{kept} of {len(good)}"
    # The broken twin: a tenth of the limit refuses what is right.
    strict = sum(_accepted(row, PathRecipe().limit / 10) for row in good)
    assert refuted(strict, len(good), 1 - 0.10), f"{strict} of {len(good)}"


def test_below_the_degrees_of_freedom_everything_is_rejected():
    below = [row for row in _verdicts() if row["n"] <= 22]  # of 23
    rejected = sum(not _ok(row) for row in below)
    assert len(below) == 96
    assert not refuted(rejected, len(below), 0.95), f"{rejected} of {len(below)}"
    assert sum(not _ok(row) for row in _verdicts() if row["n"] > 50) < 10  # not because everything is


def test_the_certificate_says_what_the_run_says():
    recipe = PathRecipe(attempts=(150,))
    seen = set()
    for seed in range(30):
        sigma = (0.0, 0.03, 0.1)[seed % 3]
        drawn = draw_instance(jax.random.key(seed), n=32, d=12, r=2, kappa=4.0, sigma=sigma, dtype=jnp.float64)
        problem = Problem(drawn.operator, drawn.y)
        result = recover(problem, recipe=recipe)
        verdict = {Status.CONVERGED: Verdict.ACCEPT, Status.RANK_UNCERTAIN: Verdict.RANK_UNCERTAIN}
        found = certify(problem, result, recipe=recipe)
        assert found.verdict is verdict.get(result.status, Verdict.REJECT), (seed, found.reasons)
        seen.add(found.verdict)
    assert {Verdict.ACCEPT, Verdict.REJECT} <= seen
