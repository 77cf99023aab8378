"""Constants of fine-tuning, the choice of a method, and optimisers that ask for more than the gradient inside `recover`."""

import functools
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruneft import FirstOrder, Problem, PruneRecipe, optim, recover
from pruneft.pipeline import Penalty
from pruneft.sensing import draw_instance, finetune, theory
from pruneft.sensing import lane as lanes
from pruneft.sensing.column_pruning import column_pruning
from pruneft.sensing.finetune import choose, tangent_nesterov

D, R, N = 8, 2, 45
LOW, HIGH = theory.tangent_spectrum(N, theory.dof(D, R))


@functools.cache
@functools.partial(jax.jit, static_argnums=0)
def _lane(n=N):
    drawn = draw_instance(jax.random.key(3), n=n, d=D, r=R, dtype=jnp.float64)
    none = jnp.zeros((1, 1, 1))
    starts = jax.random.normal(jax.random.key(4), (1, 3, D, R), jnp.float64)
    return lanes.make_lane(drawn.operator, drawn.y, starts, Penalty(none, none, none, none))


STACK = np.random.default_rng(4).standard_normal((3, D, R))


@pytest.mark.parametrize(
    ("made", "spelled"),
    [
        (finetune.scaled_gd(N, 15), optim.scaled_gd(0.9 / (4 * HIGH))),
        (finetune.scaled_gd(N, 15, 0.5), optim.scaled_gd(0.9 / (4 * HIGH), damping=0.05)),
        (finetune.precgd(N, 15), optim.precgd(0.9 / (4 * HIGH))),
        (finetune.noisy_precgd(N, 15), optim.noisy_precgd(0.9 / (4 * HIGH), decay=0.9, start=1.0, floor=1e-8)),
        (finetune.tangent_descent(N, 15), optim.tangent_descent(0.45 / (HIGH + LOW))),
        (
            tangent_nesterov(N, 15),
            optim.tangent_nesterov(1 / (4 * HIGH), (np.sqrt(HIGH / LOW) - 1).item() / (np.sqrt(HIGH / LOW) + 1).item()),
        ),
        (tangent_nesterov(N), tangent_nesterov(N, 15)),
    ],
    ids=["scaled", "scaled, damped", "precgd", "noisy precgd", "tangent", "accelerated", "accelerated, dof counted"],
)
def test_steps_and_damping_come_from_the_spectrum_on_the_tangent_space(made, spelled):
    factor = jnp.asarray(STACK)
    gradient = 4 * factor

    def second(transformation):
        transformation = optax.with_extra_args_support(transformation)
        state = transformation.init(factor)
        for _ in range(2):
            updates, state = transformation.update(gradient, state, factor, value=jnp.ones(3))
        return updates

    np.testing.assert_allclose(second(made), second(spelled), rtol=1e-12)


def test_degrees_of_freedom_are_counted_for_every_start_from_what_is_not_zero():
    factor = jnp.zeros((2, D + 3, 4)).at[0, :D, :3].set(1.0).at[1, :D, 1].set(1.0)
    state = tangent_nesterov(60).init(factor)
    np.testing.assert_allclose(np.square(state.momentum), [theory.dof(D, 3) / 60, theory.dof(D, 1) / 60])
    np.testing.assert_allclose(state.learning_rate, 1 / (4 * np.square(1 + np.asarray(state.momentum))))
    # More unknowns than measurements, as while training: finite all the same.
    assert np.all(np.asarray(tangent_nesterov(5).init(factor).momentum) < 1)


@pytest.mark.parametrize("n", [N, 12])  # in Gram form and from the rows
def test_curvature_and_loss_of_a_lane_are_those_of_its_residual(n):
    direction = np.random.default_rng(5).standard_normal(STACK.shape)

    @jax.jit
    def look(lane, stack):
        offered = lanes.tuning(lane, stack)
        slopes = jax.vmap(jax.jacobian(lambda u: lanes.residual(lane, u)))(stack)
        return (
            offered["value"],
            offered["curvature"](stack, jnp.asarray(direction)),
            lanes.residual(lane, stack),
            slopes,
        )

    values, bent, residuals, slopes = map(np.asarray, look(_lane(n), jnp.asarray(STACK)))
    np.testing.assert_allclose(values, np.mean(np.square(residuals), axis=-1), rtol=1e-12)
    for index in range(3):
        jacobian = slopes[index].reshape(n, -1)
        dense = 2 / n * jacobian.T @ (jacobian @ direction[index].ravel())
        np.testing.assert_allclose(bent[index].ravel(), dense, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("n", "d", "rank", "second_order"),
    [
        (1000, 64, 4, True),  # 256 unknowns
        (1000, 64, 5, False),
        (500, 64, 5, True),  # 310 degrees of freedom: n below twice of them
        (10**5, 256, None, True),
        (10**5, 257, None, False),
        (500, 257, None, True),
    ],
)
def test_levenberg_marquardt_is_chosen_for_small_factors_and_few_measurements(n, d, rank, second_order):
    assert (choose(n, d, rank) is None) == second_order


def test_equal_choices_are_the_same_object_and_take_enough_steps_for_eight_digits():
    chosen = choose(1000, 64, 5)
    assert chosen is choose(1000, 64, 5)
    low, high = theory.tangent_spectrum(1000, theory.dof(64, 5))
    assert (1 - np.sqrt(low / high)) ** chosen.steps < 1e-8
    assert choose(1000, 64, 5, dof=500).steps > chosen.steps


RECIPE = PruneRecipe(attempts=(1000,), noisy_first=0)


def test_the_pipeline_hands_loss_and_curvature_to_fine_tuning():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return jax.tree.map(lambda g: g + extra["value"][:, None, None], updates), state

    tuner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    pipeline = column_pruning(RECIPE, width=R, finetune=FirstOrder(optimizer=tuner, steps=1))
    trial = pipeline.trial(lambda key, inputs: None)
    lane = _lane()
    # Shapes only: nothing is compiled. Adam's counters are not strict about dtypes.
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(trial.init, lane)
        after = jax.eval_shape(trial.step, lane, state)
    assert set(seen) == {"value", "curvature"}
    assert seen["value"].shape == (3,)
    assert after.factor.shape == (3, D, R)


@pytest.mark.parametrize("method", ["prune", "path"])
def test_recover_chooses_by_size_when_asked_to(method, monkeypatch):
    class Asked(Exception):
        pass

    def trial(*arguments):
        raise Asked(arguments[-1])

    monkeypatch.setattr(finetune, "DENSE_UNKNOWNS", 0)
    monkeypatch.setattr(importlib.import_module("pruneft.sensing.recover"), "_trial", trial)
    choose.cache_clear()
    drawn = draw_instance(jax.random.key(0), n=N, d=D, r=1)
    for rank, dof in ((1, D), (None, None)):
        with pytest.raises(Asked) as caught:
            recover(Problem(drawn.operator, drawn.y), method=method, rank=rank, finetune="auto")
        # The rank path knows Levenberg-Marquardt only.
        assert caught.value.args[0] is (choose(N, D, rank, dof) if method == "prune" else None)
    choose.cache_clear()


def test_a_word_that_is_no_choice_and_counts_that_make_no_sense_are_refused():
    drawn = draw_instance(jax.random.key(0), n=N, d=D, r=1)
    with pytest.raises(ValueError, match="finetune must be a FirstOrder, 'auto' or None: got 'best'"):
        inspect.unwrap(recover)(Problem(drawn.operator, drawn.y), method="prune", finetune="best")
    with pytest.raises(ValueError, match=r"n \(measurements\) must be at least 1: got 0"):
        tangent_nesterov(0)
    with pytest.raises(ValueError, match="must exceed the degrees of freedom: got n=15, dof=15"):
        tangent_nesterov(15, 15)
