"""Short anneal, scan over ranks, edge rule: recovery that needs neither rank nor noise level. Ours, not the published algorithm.

A few starts of a short annealed training share the data. Then for q = 1, 2, ... Levenberg-Marquardt at rank q starts
from the leading eigen-part of each start and from the best rank q-1 fit with one column added along the top eigenvector
of the residual, and the edge rule chooses among the fits. Columns need not have become sharp, so a tenth of the
training steps will do. The penalty still matters: it shapes the iterate that the scan starts from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.pipeline import Method, OptimizerOrFactory, Pipeline
from pruneft.sensing import lane as lanes
from pruneft.sensing.column_pruning import ladder
from pruneft.sensing.lane import Answer, Lane
from pruneft.sensing.recipe import PathRecipe
from pruneft.sensing.selection import edge_penalties
from pruneft.status import Status


class Candidate(NamedTuple):
    """A fit on the path, with what its selection needs."""

    answer: Answer
    score: Float[Array, ""]


class Memory(NamedTuple):
    """The scan of this round, and what all rounds found.

    Attributes:
      roots: [starts, d, q] eigen-parts of the trained factors, columns by falling norm.
      rank: the rank that is scanned next.
      previous: [d, q] the best fit of this round at the rank before.
      scores: [q] least score of every rank over all rounds, NaN where none.
      least: [q] least RSS of every rank over all rounds; ``fits``, ``agree``: [q] how many fits there were, and
        how many of them agree with it.
      safe, any: the best candidate that keeps the safe margin (or fits exactly), and the best of all, over all rounds.
      best: the answer, with its predicted relative error, how far the score of the second-best rank lies above its own
        (``gap``), and its status.
      rounds: how many were scanned.
    """

    roots: Float[Array, "starts d q"]
    rank: Int[Array, ""]
    previous: Float[Array, "d q"]
    scores: Float[Array, "q"]
    least: Float[Array, "q"]
    fits: Int[Array, "q"]
    agree: Int[Array, "q"]
    safe: Candidate
    any: Candidate
    best: Answer
    predicted: Float[Array, ""]
    gap: Float[Array, ""]
    status: Int[Array, ""]
    rounds: Int[Array, ""]


def rank_path(
    recipe: PathRecipe, *, width: int, largest_rank: int | None = None, optimizer: OptimizerOrFactory | None = None
) -> Pipeline:
    """The pipeline of the rank path.

    Args:
      recipe: the constants.
      width: k, padded.
      largest_rank: scan no further than this; ``width`` if not given.
      optimizer: for training, instead of the recipe's.
    """
    largest = width if largest_rank is None else min(largest_rank, width)
    return Pipeline(
        method=_method(recipe, largest),
        attempts=recipe.attempts,
        ladder=ladder(largest),
        optimizer=recipe.anneal.optimizer if optimizer is None else optimizer,
    )


def _method(recipe: PathRecipe, largest: int) -> Method:
    def degrees(lane: Lane, rank: Array) -> Array:
        return lane.operator.dof(rank.astype(lane.n.dtype), lane.d)

    def empty_answer(lane: Lane) -> Answer:
        dtype = lane.y.dtype
        return Answer(
            factor=jnp.zeros((lane.operator.d, largest), dtype),
            rank=jnp.zeros((), jnp.int32),
            columns=jnp.zeros((), jnp.int32),
            rss=jnp.sum(jnp.square(lane.y)),
            trace=jnp.full((recipe.lm.max_steps + 1,), jnp.nan, dtype),
        )

    def fresh(lane: Lane, roots: Array) -> dict[str, Any]:
        previous = jnp.zeros((lane.operator.d, largest), lane.y.dtype)
        return {"roots": roots, "rank": jnp.ones((), jnp.int32), "previous": previous}

    def memory(lane: Lane) -> Memory:
        starts = lane.starts.shape[1]
        dtype = lane.y.dtype
        none = Candidate(empty_answer(lane), jnp.asarray(jnp.inf, dtype))
        return Memory(
            **fresh(lane, jnp.zeros((starts, lane.operator.d, largest), dtype)),
            scores=jnp.full((largest,), jnp.nan, dtype),
            least=jnp.full((largest,), jnp.inf, dtype),
            fits=jnp.zeros((largest,), jnp.int32),
            agree=jnp.zeros((largest,), jnp.int32),
            safe=none,
            any=none,
            best=empty_answer(lane),
            predicted=jnp.asarray(jnp.inf, dtype),
            gap=jnp.asarray(jnp.nan, dtype),
            status=jnp.asarray(Status.NOT_FINITE, jnp.int32),
            rounds=jnp.zeros((), jnp.int32),
        )

    def prune(lane: Lane, factor: Float[Array, "starts d k"], memory: Memory) -> tuple[Array, Memory, Array]:
        finite = lanes.finite(factor)
        roots = jax.vmap(lambda u: lanes.canonical(u, merge=0.0)[0])(factor.astype(lane.y.dtype))
        identifiable = scannable(lane, jnp.maximum(lane.rank, 1))
        worth = jnp.any(finite) & identifiable
        status = jnp.where(identifiable, memory.status, Status.NOT_IDENTIFIABLE).astype(jnp.int32)
        memory = memory._replace(
            **fresh(lane, lanes.pad_columns(roots, largest)),
            status=status,
            rounds=memory.rounds + worth.astype(jnp.int32),
        )
        return factor, memory, worth

    def scannable(lane: Lane, rank: Int[Array, ""]) -> Bool[Array, ""]:
        p = degrees(lane, rank)
        limit = jnp.where(lane.rank > 0, lane.rank, largest)
        return (rank <= limit) & (lane.n > p)

    def refine(size: int):  # type: ignore[no-untyped-def]  # the type stands in Method
        def run(lane: Lane, factor: Array, memory: Memory) -> Memory:
            live = jnp.arange(size, dtype=jnp.int32) < memory.rank
            cold = jnp.where(live, memory.roots[..., :size], 0)
            warm = grown(lane, memory.previous[:, :size], memory.rank)
            result = lanes.fit(lane, jnp.concatenate([cold, warm[None]]), recipe.lm)
            errors = jnp.where(jnp.isfinite(result.rss), result.rss, jnp.inf)
            best = jnp.argmin(errors)
            fitted = jnp.where(jnp.isfinite(errors[best]), result.x[best].reshape(warm.shape), 0)
            tidy, _ = lanes.canonical(fitted, merge=0.0)
            tidy = lanes.pad_columns(tidy, largest)
            answer = Answer(tidy, memory.rank, jnp.zeros((), jnp.int32), errors[best], result.trace[best])
            return advance(lane, compare(lane, memory, errors)._replace(previous=tidy), answer)

        return run

    def grown(lane: Lane, previous: Float[Array, "d q"], rank: Int[Array, ""]) -> Float[Array, "d q"]:
        values, vectors = jnp.linalg.eigh(-lanes.residual_matrix(lane, previous))
        column = vectors[:, -1] * jnp.sqrt(jnp.maximum(values[-1], 1e-6))
        return jnp.where(jnp.arange(previous.shape[-1], dtype=jnp.int32) == rank - 1, column[:, None], previous)

    def compare(lane: Lane, memory: Memory, errors: Float[Array, "starts"]) -> Memory:
        # Over the rounds: what agreed with the least RSS of earlier rounds counts on unless this round went below it.
        index = memory.rank - 1
        before, least = memory.least[index], jnp.minimum(memory.least[index], jnp.min(errors))
        same = jnp.maximum((1 + recipe.agree) * least, recipe.exact * lane.n)
        agreeing = jnp.sum(errors <= same, dtype=jnp.int32) + jnp.where(before <= same, memory.agree[index], 0)
        return memory._replace(
            least=memory.least.at[index].set(least),
            fits=memory.fits.at[index].add(errors.shape[0]),
            agree=memory.agree.at[index].set(agreeing),
        )

    def at(counts: Int[Array, "q"], answer: Answer) -> Int[Array, ""]:
        return jnp.where(answer.rank > 0, counts[jnp.maximum(answer.rank, 1) - 1], 0)

    def advance(lane: Lane, memory: Memory, answer: Answer) -> Memory:
        p = degrees(lane, answer.rank)
        penalties = edge_penalties(lane.n, lane.d, largest, lane.operator.d)
        index = answer.rank - 1
        score = jnp.log(answer.rss / lane.n + 1e-9) + penalties[index]
        # With the rank given there is nothing to select: only that rank is a candidate.
        score = jnp.where((lane.rank > 0) & (answer.rank != lane.rank), jnp.inf, score)
        # Near interpolation, and with a single degree of freedom left over, only an exact fit says anything. That one does even
        # at n = p + 1: matrices of rank at most q that fit by accident form a set that measurements of that number miss. Noise is
        # fitted almost exactly there, though, so that the bound is that of rounding.
        roomy = (lane.n >= recipe.margin * p) & (p < lane.n - 1)
        rounding = max(recipe.exact**2, (64 * float(jnp.finfo(lane.y.dtype).eps)) ** 2)
        exact = answer.rss <= jnp.where(roomy | (lane.rank > 0), recipe.exact, rounding) * lane.n
        judgeable = exact | roomy | (lane.rank > 0)
        score = jnp.where(jnp.isfinite(score) & judgeable, score, jnp.inf)
        candidate = Candidate(answer, score)
        safe = exact | (lane.n >= recipe.safe_margin * p) | (lane.rank > 0)
        memory = memory._replace(
            rank=answer.rank + 1,
            scores=memory.scores.at[index].set(jnp.fmin(score, memory.scores[index])),
            any=_better(candidate, memory.any),
            safe=_better(candidate._replace(score=jnp.where(safe, score, jnp.inf)), memory.safe),
        )
        best = jnp.maximum(memory.any.answer.rank, 1)
        # An exact fit ends the scan: any higher rank fits exactly too.
        # Nor does the scan stop short of an answer that could be accepted: below a high rank every fit is bad, and the scores
        # of bad fits say little about where the good one will be.
        poor = ~(expected(lane, memory.any) <= recipe.limit)
        near = ((memory.rank <= best + recipe.beyond) | poor) & ~exact
        onward = scannable(lane, memory.rank) & (near | (lane.rank > 0))
        judged = judge(lane, memory._replace(rank=jnp.full_like(memory.rank, largest + 1)))
        return jax.tree.map(lambda a, b: jnp.where(onward, a, b), memory, judged)

    def expected(lane: Lane, candidate: Candidate) -> Float[Array, ""]:
        error = lanes.expected_error(lane, candidate.answer)
        # n = p + 1 leaves no degree of freedom for the formula; an exact fit there still predicts no error.
        exact = candidate.answer.rss <= recipe.exact * lane.n
        return jnp.where(jnp.isfinite(candidate.score), jnp.where(exact & ~jnp.isfinite(error), 0.0, error), jnp.inf)

    def judge(lane: Lane, memory: Memory) -> Memory:
        safe, loose = expected(lane, memory.safe), expected(lane, memory.any)
        use_safe = jnp.isfinite(memory.safe.score) & ((safe <= recipe.doubtful) | (safe <= loose))
        chosen = jax.tree.map(lambda a, b: jnp.where(use_safe, a, b), memory.safe, memory.any)
        predicted = jnp.where(use_safe, safe, loose)
        answer = chosen.answer
        exact = answer.rss <= recipe.exact * lane.n
        rejected = ~(predicted <= recipe.limit) | (~exact & (at(memory.agree, answer) < 2))
        others = jnp.where(jnp.arange(largest, dtype=jnp.int32) == answer.rank - 1, jnp.inf, memory.scores)
        gap = jnp.nanmin(jnp.where(jnp.isnan(others), jnp.inf, others)) - chosen.score
        weak = lanes.edge_ratio(lane, answer) < recipe.edge_ratio
        uncertain = (lane.rank <= 0) & ~exact & ((gap < recipe.score_gap) | weak)
        verdict = jnp.where(rejected, Status.REJECTED, jnp.where(uncertain, Status.RANK_UNCERTAIN, Status.CONVERGED))
        better = (predicted < memory.predicted) | ~rejected
        return memory._replace(
            best=jax.tree.map(lambda new, old: jnp.where(better, new, old), answer, memory.best),
            predicted=jnp.where(better, predicted, memory.predicted),
            gap=jnp.where(better, gap, memory.gap),
            status=verdict.astype(jnp.int32),
        )

    def accepted(lane: Lane, memory: Memory) -> Bool[Array, ""]:
        answer, twice = memory.best, memory.rounds > 1
        # Near interpolation a wrong fit can look like weak noise, with few degrees of freedom left to tell. A second round would
        # find the exact fit if there is one, so such an answer waits for it.
        exact = answer.rss <= recipe.exact * lane.n
        sure = exact | (lane.n >= recipe.safe_margin * degrees(lane, answer.rank)) | (lane.rank > 0)
        found = (memory.status == Status.CONVERGED) | (memory.status == Status.RANK_UNCERTAIN)
        # And what most starts found, but noise makes too uncertain to accept, no further round will make better.
        common = 2 * at(memory.agree, answer) > memory.rounds * (memory.roots.shape[0] + 1)
        hopeless = (memory.status == Status.REJECTED) & (memory.predicted <= recipe.settled) & common
        return (found & (sure | twice)) | (hopeless & twice)

    def report(lane: Lane, memory: Memory, answered: Array, steps: Array) -> dict[str, Array]:
        values = lanes.report(lane, memory.best, memory.status, steps)
        return {
            **values,
            "predicted_error": memory.predicted,
            "agreeing": at(memory.agree, memory.best),
            "fits": at(memory.fits, memory.best),
            "score_gap": memory.gap,
        }

    return Method(
        first=lambda lane: jnp.zeros((), jnp.int32),
        start=lanes.start,
        gradient=lanes.gradient,
        penalty=lambda lane: lane.penalty,
        memory=memory,
        prune=prune,
        settle=lambda lane, factor, memory: memory,
        refine=refine,
        width=lambda lane, factor, memory: jnp.minimum(memory.rank, largest),
        pending=lambda lane, memory: memory.rank <= largest,
        accepted=accepted,
        report=report,
    )


def _better(new: Candidate, old: Candidate) -> Candidate:
    return jax.tree.map(lambda a, b: jnp.where(new.score < old.score, a, b), new, old)
