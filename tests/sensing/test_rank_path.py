"""The loop of the rank path: what is carried from round to round, and when it ends."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from pruneft.pipeline import Penalty
from pruneft.sensing import PathRecipe, draw_instance
from pruneft.sensing import lane as lanes
from pruneft.sensing.rank_path import rank_path
from pruneft.status import Status

D, N = 8, 16  # rank 2 has 15 degrees of freedom: one is left over, and n is below 1.15 of them
RECIPE = PathRecipe(starts=2, attempts=(1, 1, 1), patience=3)
METHOD = rank_path(RECIPE, width=D).method
REFINE = jax.jit(METHOD.refine(2))
STARTS = RECIPE.starts + 1  # of Levenberg-Marquardt: the trained ones, and one grown from the rank before


@pytest.fixture(scope="module")
def drawn():
    return draw_instance(jax.random.key(0), n=N, d=D, r=1, sigma=0.02, dtype=jnp.float64)


@pytest.fixture(scope="module")
def lane(drawn):
    starts = jnp.zeros((3, RECIPE.starts, D, D), jnp.float32)
    return lanes.make_lane(drawn.operator, drawn.y, starts, Penalty(*jnp.zeros((4, 1, 1, 1), jnp.float32)))


@pytest.fixture(scope="module")
def first(lane, drawn):
    """The memory after rank 1 of a first round whose starts are the truth."""
    factor = jnp.stack([drawn.factor] * RECIPE.starts).astype(jnp.float32)
    _, memory, go = METHOD.prune(lane, factor, METHOD.memory(lane))
    assert go
    return REFINE(lane, factor, memory)


def _with(lane, *, rank, rss, status, rounds, predicted=0.1, agreeing=0):
    memory = METHOD.memory(lane)
    answer = memory.best._replace(rank=jnp.asarray(rank, jnp.int32), rss=jnp.asarray(rss))
    return memory._replace(
        best=answer,
        status=jnp.asarray(status, jnp.int32),
        rounds=jnp.asarray(rounds, jnp.int32),
        predicted=jnp.asarray(predicted),
        agree=memory.agree.at[rank - 1].set(agreeing),
    )


def _ends(lane, **memory):
    return bool(METHOD.accepted(lane, _with(lane, **memory)))


def test_a_second_round_adds_to_what_the_first_one_found(lane, first):
    assert int(first.agree[0]) == STARTS  # the problem is easy: all of them find the fit
    # Starts at zero stay there; only the one that grows from the residual finds the fit again.
    zero = jnp.zeros((RECIPE.starts, D, D), jnp.float32)
    _, memory, _ = METHOD.prune(lane, zero, first)
    assert (int(memory.rounds), int(memory.rank)) == (2, 1)
    second = REFINE(lane, zero, memory)
    assert int(second.agree[0]) == STARTS + 1
    assert float(second.least[0]) <= float(first.least[0])
    assert int(second.any.answer.rank) == 1


def test_a_better_fit_in_a_later_round_makes_earlier_agreement_void(lane, first):
    worse = first._replace(least=first.least.at[0].multiply(2.0), agree=first.agree.at[0].set(9))
    zero = jnp.zeros((RECIPE.starts, D, D), jnp.float32)
    _, memory, _ = METHOD.prune(lane, zero, worse)
    second = REFINE(lane, zero, memory)
    assert int(second.agree[0]) == 1


@pytest.mark.parametrize("status", [Status.CONVERGED, Status.RANK_UNCERTAIN])
def test_near_interpolation_an_inexact_answer_waits_for_further_rounds(lane, status):
    near = {"rank": 2, "rss": 1e-3, "status": status}
    assert [_ends(lane, **near, rounds=rounds) for rounds in (1, 2, 3)] == [False, False, True]


def test_with_few_measurements_to_spare_an_inexact_answer_waits_too(lane):
    # Twice the degrees of freedom, but only 8 measurements more than that.
    wary = rank_path(dataclasses.replace(RECIPE, spare=9), width=D).method
    answer = _with(lane, rank=1, rss=1e-3, status=Status.CONVERGED, rounds=1)
    assert not bool(wary.accepted(lane, answer))
    assert bool(METHOD.accepted(lane, answer))


def test_an_exact_answer_and_one_far_from_interpolation_do_not_wait(lane):
    assert _ends(lane, rank=2, rss=0.0, status=Status.CONVERGED, rounds=1)
    assert _ends(lane, rank=1, rss=1e-3, status=Status.CONVERGED, rounds=1)  # 16 measurements for 8 unknowns


def test_a_mild_rejection_on_which_most_starts_agree_ends_the_search_after_two_rounds(lane):
    mild = {"rank": 1, "rss": 1e-1, "status": Status.REJECTED, "predicted": 0.9 * RECIPE.settled}
    most = STARTS + 1  # of two rounds
    assert _ends(lane, **mild, rounds=2, agreeing=most)
    assert not _ends(lane, **mild, rounds=1, agreeing=most)
    assert not _ends(lane, **mild, rounds=2, agreeing=STARTS)
    assert not _ends(lane, **{**mild, "predicted": 1.1 * RECIPE.settled}, rounds=2, agreeing=most)


def test_with_one_measurement_left_over_only_an_exact_fit_is_a_candidate(lane, drawn, first):
    # Rank 2 is scanned (15 < 16), but with noise it does not count, however low its residual.
    factor = jnp.stack([drawn.factor] * RECIPE.starts).astype(jnp.float32)
    second = REFINE(lane, factor, first._replace(rank=jnp.asarray(2, jnp.int32)))
    assert jnp.isinf(second.scores[1])
    assert int(second.best.rank) == 1
    rank_two = jnp.zeros((D, D)).at[:, 0].set(1.0).at[0, 1].set(1.0)
    exact = lane._replace(y=lanes.residual(lane, rank_two) + lane.y)
    _, memory, _ = METHOD.prune(exact, jnp.stack([rank_two] * RECIPE.starts).astype(jnp.float32), METHOD.memory(exact))
    for _ in range(2):
        memory = REFINE(exact, rank_two, memory)
    assert int(memory.best.rank) == 2
    assert int(memory.status) == Status.CONVERGED
