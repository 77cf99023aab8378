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
from pruneft.sensing import answer as answers
from pruneft.sensing import lane as lanes
from pruneft.sensing.answer import Answer, make_answer
from pruneft.sensing.column_pruning import ladder
from pruneft.sensing.field import stored_of
from pruneft.sensing.lane import Lane
from pruneft.sensing.operator import cast
from pruneft.sensing.recipe import PathRecipe
from pruneft.sensing.selection import edge_penalties, sure_gap
from pruneft.status import Status


class Candidate(NamedTuple):
    """A fit on the path, with what its selection needs."""

    answer: Answer
    score: Float[Array, ""]


class Memory(NamedTuple):
    """The scan of this round, and what all rounds found.

    Attributes:
      roots: [starts, h, q] eigen-parts of the trained factors (and of other starts), columns by falling norm.
      rank: the rank that is scanned next.
      previous: [h, q] the best fit of this round at the rank before.
      scores: [q] least score of every rank over all rounds, NaN where none.
      least: [q] least RSS of every rank over all rounds; ``fits``, ``agree``: [q] how many fits there were, and
        how many of them agree with it.
      safe, any: the best candidate that keeps the safe margin (or fits exactly), and the best of all, over all rounds.
      best: the answer, with its predicted relative error, how far the score of the second-best rank lies above its own
        (``gap``), and its status.
      rounds: how many were scanned.
      descending: the scan is over, and the best fit without its weakest direction is tried at the rank below.
    """

    roots: Float[Array, "starts h q"]
    rank: Int[Array, ""]
    previous: Float[Array, "h q"]
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
    descending: Bool[Array, ""]


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
        return make_answer(
            jnp.zeros((lane.starts.shape[-2], largest), dtype),
            jnp.zeros((), jnp.int32),
            jnp.sum(jnp.square(lane.y)),
            jnp.full((recipe.lm.max_steps + 1,), jnp.nan, dtype),
        )

    def fresh(lane: Lane, roots: Array) -> dict[str, Any]:
        previous = jnp.zeros((lane.starts.shape[-2], largest), lane.y.dtype)
        no = jnp.zeros((), jnp.bool_)
        return {"roots": roots, "rank": jnp.ones((), jnp.int32), "previous": previous, "descending": no}

    def others(lane: Lane, round_: Int[Array, ""]) -> list[Array]:
        """Starts of the scan that were not trained: random ones, and those that the operator knows of."""
        dtype, columns = lane.y.dtype, lane.starts.shape[-1]
        found = []
        if recipe.untrained:
            place = jnp.minimum(round_, lane.starts.shape[0] - 1)
            found.append(lane.starts[place, : recipe.untrained].astype(dtype))
        if hasattr(lane.operator, "warm_starts"):
            known = cast(lane.operator, dtype).warm_starts(lane.y * lane.unit, lane.n, lane.d, largest)
            found.append(lanes.pad_columns(known.astype(dtype) / jnp.sqrt(lane.scale), columns))
        return found

    def memory(lane: Lane) -> Memory:
        starts = lane.starts.shape[1]
        if recipe.untrained:
            starts += min(recipe.untrained, lane.starts.shape[1])
        if hasattr(lane.operator, "warm_starts"):
            shapes = jax.eval_shape(lane.operator.warm_starts, lane.y, lane.n, lane.d, largest)
            starts += shapes.shape[0]
        dtype = lane.y.dtype
        none = Candidate(empty_answer(lane), jnp.asarray(jnp.inf, dtype))
        return Memory(
            **fresh(lane, jnp.zeros((starts, lane.starts.shape[-2], largest), dtype)),
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

    def prune(lane: Lane, factor: Float[Array, "starts h k"], memory: Memory) -> tuple[Array, Memory, Array]:
        finite = lanes.finite(factor)
        given = jnp.concatenate([factor.astype(lane.y.dtype), *others(lane, memory.rounds)])
        roots = jax.vmap(lambda u: lanes.canonical(lane, u, merge=0.0)[0])(given)
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
            lower = jnp.where(live, memory.any.answer.factor[:, :size], 0)
            starts = jnp.where(memory.descending, lower, jnp.concatenate([cold, warm[None]]))
            result = lanes.fit(lane, starts, recipe.lm)
            errors = jnp.where(jnp.isfinite(result.rss), result.rss, jnp.inf)
            best = jnp.argmin(errors)
            fitted = jnp.where(jnp.isfinite(errors[best]), result.x[best].reshape(warm.shape), 0)
            tidy, _ = lanes.canonical(lane, fitted, merge=0.0)
            tidy = lanes.pad_columns(tidy, largest)
            answer = make_answer(tidy, memory.rank, errors[best], result.trace[best])
            answer = with_rival(lane, answer, result.x.reshape(-1, *warm.shape), errors)
            return advance(lane, compare(lane, memory, errors)._replace(previous=tidy), answer)

        return run

    def with_rival(lane: Lane, answer: Answer, factors: Float[Array, "starts h q"], errors: Array) -> Answer:
        same = errors <= jnp.maximum((1 + recipe.agree) * answer.rss, recipe.exact * lane.n)
        seen = lane.operator.canonical(jnp.where(jnp.isfinite(factors), factors, 0), lane.d)
        apart = jnp.where(same, answers.distance(lane, answer.factor, seen), 0)
        farthest = jnp.argmax(apart)
        return answer._replace(rival=lanes.pad_columns(seen[farthest], largest), apart=apart[farthest])

    def grown(lane: Lane, previous: Float[Array, "h q"], rank: Int[Array, ""]) -> Float[Array, "h q"]:
        values, vectors = jnp.linalg.eigh(-lanes.residual_matrix(lane, previous))
        column = stored_of(vectors[:, -1:], lane.operator.field) * jnp.sqrt(jnp.maximum(values[-1], 1e-6))
        return jnp.where(jnp.arange(previous.shape[-1], dtype=jnp.int32) == rank - 1, column, previous)

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

    def rises(lane: Lane) -> Float[Array, "q"]:
        ranks = degrees(lane, jnp.arange(1, largest + 1, dtype=jnp.int32))
        return edge_penalties(lane.n, ranks, lane.operator.d, lane.operator.field)

    def advance(lane: Lane, memory: Memory, answer: Answer) -> Memory:
        p = degrees(lane, answer.rank)
        penalties = rises(lane)
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
        onward = scannable(lane, memory.rank) & (near | (lane.rank > 0)) & ~memory.descending
        # With a direction too many Levenberg-Marquardt converges slowly and stops short, at what looks like weak noise: the best
        # fit goes down, too, until that makes it worse. A fit at rounding level has the right rank already.
        top = memory.any.answer
        stuck = (top.rank > 1) & (top.rss > rounding * lane.n) & jnp.isfinite(memory.any.score) & (lane.rank <= 0)
        down = stuck & (~memory.descending | (top.rank == answer.rank))
        judged = judge(lane, memory._replace(rank=jnp.full_like(memory.rank, largest + 1)))
        lower = memory._replace(rank=top.rank - 1, descending=jnp.ones((), jnp.bool_))
        after = jax.tree.map(lambda a, b: jnp.where(down, a, b), lower, judged)
        return jax.tree.map(lambda a, b: jnp.where(onward, a, b), memory, after)

    def expected(lane: Lane, candidate: Candidate) -> Float[Array, ""]:
        error = answers.expected_error(lane, candidate.answer)
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
        weak = answers.edge_ratio(lane, answer) < recipe.edge_ratio
        sure = sure_gap(rises(lane), answer.rank, most=recipe.score_gap, share=recipe.gap_share)
        uncertain = (lane.rank <= 0) & ~exact & ((gap < sure) | weak)
        verdict = jnp.where(rejected, Status.REJECTED, jnp.where(uncertain, Status.RANK_UNCERTAIN, Status.CONVERGED))
        verdict = jnp.where(exact & (answer.apart > recipe.same), Status.NOT_UNIQUE, verdict)
        better = (predicted < memory.predicted) | ~rejected
        return memory._replace(
            best=jax.tree.map(lambda new, old: jnp.where(better, new, old), answer, memory.best),
            predicted=jnp.where(better, predicted, memory.predicted),
            gap=jnp.where(better, gap, memory.gap),
            status=verdict.astype(jnp.int32),
        )

    def accepted(lane: Lane, memory: Memory) -> Bool[Array, ""]:
        answer, twice = memory.best, memory.rounds > 1
        # Near interpolation a wrong fit can look like weak noise, with few degrees of freedom left to tell. Further rounds
        # would find the exact fit if there is one, so such an answer waits for them.
        p = degrees(lane, answer.rank)
        clear = (lane.n >= recipe.safe_margin * p) & (lane.n >= p + recipe.spare)
        exact = answer.rss <= recipe.exact * lane.n
        sure = exact | clear | (lane.rank > 0) | (memory.rounds >= recipe.patience)
        found = (memory.status == Status.CONVERGED) | (memory.status == Status.RANK_UNCERTAIN)
        found |= memory.status == Status.NOT_UNIQUE  # no further start makes it unique
        # And what most starts found, but noise makes too uncertain to accept, no further round will make better.
        common = 2 * at(memory.agree, answer) > memory.rounds * (memory.roots.shape[0] + 1)
        hopeless = (memory.status == Status.REJECTED) & (memory.predicted <= recipe.settled) & common
        return (found & sure) | (hopeless & jnp.where(clear, twice, memory.rounds >= recipe.patience))

    def report(lane: Lane, memory: Memory, answered: Array, steps: Array) -> dict[str, Array]:
        values = answers.report(lane, memory.best, memory.status, steps)
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
