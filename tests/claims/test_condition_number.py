"""Claims about fine-tuning: its steps do not depend on the condition number, and what becomes of surplus columns.

From 10 percent error to 1e-6 relative, noiseless, d = 16. A bar on steps is a bar on the share of instances that keep to
it: at least .9 of them, pooled over r = 2 and 4 (16 instances each), for every condition number on its own.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruneft import FirstOrder, Problem, PruneRecipe, optim, recover
from pruneft.optim import LMConfig
from pruneft.sensing import finetune, theory
from pruneft.sensing import lane as lanes
from tests.claims.nearby import draw_lane, errors, nearby, steps_to
from tests.claims.trials import refuted

pytestmark = pytest.mark.claims

D, SEEDS, KAPPAS = 16, 16, (1.0, 10.0, 100.0)
SHARE = 0.9
_fit_factors = jax.jit(lanes.fit, static_argnames="config")


def _steps(
    make, *, ratio: float, r: int, kappa: float, limit: int, surplus: int = 0, seeds: int = SEEDS
) -> list[float]:
    """Steps to 1e-6 of ``make(n, p)(values)``, an optimiser, values the largest and smallest eigenvalue."""
    p = theory.dof(D, r)
    n = round(ratio * p)
    found = []
    for seed in range(seeds):
        _, lane, factor = draw_lane(seed, n=n, d=D, r=r, kappa=kappa)
        sizes = np.sum(factor**2, axis=0)
        start = jnp.asarray(nearby(factor, seed, surplus))
        values = (float(sizes.max()), float(sizes.min()))
        found.append(steps_to(errors(lane, start, factor @ factor.T, values, make=make(n, p), steps=limit)))
    return found


@functools.cache
def _tangent(n, p):
    return lambda values: finetune.tangent_nesterov(n, p)


@functools.cache
def _plain(n, p):
    return lambda values: finetune.nesterov(n, p, values[0], kappa=100.0)


def _kept(steps: list[float], bar: float) -> tuple[int, int]:
    return sum(step <= bar for step in steps), len(steps)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_accelerated_tangent_steps_are_at_most_100_whatever_the_condition_number(kappa):
    # n = 2 dof. Would break: a step or momentum of another spectrum, a preconditioner that is not the tangent step.
    steps = [step for r in (2, 4) for step in _steps(_tangent, ratio=2, r=r, kappa=kappa, limit=300)]
    assert not refuted(*_kept(steps, 100), SHARE), steps


def test_accelerated_steps_without_preconditioner_need_more_at_condition_number_100():
    """The broken twin."""
    steps = _steps(_plain, ratio=2, r=2, kappa=100.0, limit=300)
    assert refuted(*_kept(steps, 100), SHARE), steps


@pytest.mark.parametrize("ratio", [1.3, 2.0])
def test_levenberg_marquardt_takes_at_most_8_iterations_whatever_the_condition_number(ratio):
    kept = []
    for r in (2, 4):
        p = theory.dof(D, r)
        n = round(ratio * p)
        # The residual is at least the root of the least eigenvalue times the error.
        goal = 1e-6 * np.sqrt(theory.tangent_spectrum(n, p)[0])
        for kappa in KAPPAS:
            for seed in range(SEEDS // 2):
                _, lane, factor = draw_lane(seed, n=n, d=D, r=r, kappa=kappa)
                result = _fit_factors(lane, jnp.asarray(nearby(factor, seed))[None], config=LMConfig(max_steps=20))
                kept.append(steps_to(np.sqrt(np.asarray(result.trace[0][1:]) / n), goal) <= 8)
    assert not refuted(sum(kept), len(kept), SHARE), kept


def test_levenberg_marquardt_with_ever_heavier_damping_needs_more():
    """The broken twin: damping that hardly falls makes it gradient descent."""
    p = theory.dof(D, 2)
    n = round(1.3 * p)
    goal = 1e-6 * np.sqrt(theory.tangent_spectrum(n, p)[0])
    heavy = LMConfig(max_steps=20, damping=1.0, lower=1.01)
    kept = []
    for seed in range(8):
        _, lane, factor = draw_lane(seed, n=n, d=D, r=2, kappa=100.0)
        result = _fit_factors(lane, jnp.asarray(nearby(factor, seed))[None], config=heavy)
        kept.append(steps_to(np.sqrt(np.asarray(result.trace[0][1:]) / n), goal) <= 8)
    assert refuted(sum(kept), len(kept), SHARE), kept


@pytest.mark.parametrize("name", ["tangent steps, accelerated", "Gauss-Newton"])
def test_pruning_by_norm_with_these_for_fine_tuning_recovers(name):
    # 4 instances, n = 2.6 dof, rank unknown, a last penalty that leaves a bias: all end at the floor of float32. Would break:
    # fine-tuning that sees the penalty, starts with the momentum of training, or counts pruned columns.
    chosen = {"tangent steps, accelerated": finetune.tangent_nesterov(80), "Gauss-Newton": finetune.gauss_newton()}[
        name
    ]
    tuned = FirstOrder(optimizer=chosen, steps=150, tolerance=1e-6)
    assert max(_pruned(tuned)) < 2e-5


def test_pruning_by_norm_without_fine_tuning_does_not():
    """The broken twin."""
    assert min(_pruned(FirstOrder(optimizer=optax.set_to_zero(), steps=1))) > 2e-4


def _pruned(tuned: FirstOrder) -> list[float]:
    found = []
    for seed in range(4):
        drawn = draw_lane(seed, n=80, d=D, r=2)[0]
        recipe = PruneRecipe(attempts=(1000,))
        problem = Problem(drawn.operator, drawn.y)
        result = recover(problem, method="prune", sigma=0.0, lam=1e-3, recipe=recipe, finetune=tuned)
        truth = np.asarray(drawn.truth)
        found.append(float(np.linalg.norm(result.matrix - truth) / np.linalg.norm(truth)))
    return found


# Two columns more than the rank, n = 5 dof: method and the steps that .9 of 16 instances keep to.
SURPLUS = {
    "PrecGD": (lambda n, p: lambda values: finetune.precgd(n, _wide(p)), 200),
    "PrecGD by the gradient": (
        lambda n, p: (
            lambda values: optim.precgd(0.9 / (4 * theory.tangent_spectrum(n, _wide(p))[1]), by="gradient", scale=0.25)
        ),
        200,
    ),
    "noisy PrecGD": (lambda n, p: lambda values: finetune.noisy_precgd(n, _wide(p)), 250),
    "tangent steps, accelerated": (lambda n, p: lambda values: finetune.tangent_nesterov(n, _wide(p)), 100),
    "ScaledGD with fixed damping": (lambda n, p: lambda values: finetune.scaled_gd(n, _wide(p), values[1]), 1000),
}


def _wide(p: int) -> int:
    return theory.dof(D, 4) if p == theory.dof(D, 2) else p


@functools.cache
def _maker(name, n, p):
    return SURPLUS[name][0](n, p)


@pytest.mark.parametrize("name", [name for name in SURPLUS if "fixed" not in name])
def test_surplus_columns_do_not_stop_damping_that_vanishes(name):
    limit = SURPLUS[name][1]
    steps = _steps(functools.partial(_maker, name), ratio=5, r=2, kappa=10.0, limit=limit + 50, surplus=2)
    assert not refuted(*_kept(steps, limit), SHARE), steps


def test_surplus_columns_stop_fixed_damping():
    """The broken twin of all of them."""
    name = "ScaledGD with fixed damping"
    limit = SURPLUS[name][1]
    steps = _steps(functools.partial(_maker, name), ratio=5, r=2, kappa=10.0, limit=limit, surplus=2)
    assert refuted(*_kept(steps, limit), SHARE), steps
