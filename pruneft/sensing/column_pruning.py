"""Prune by column norm, then fine-tune: the published method as a `pruneft.pipeline.Method`, with our schedule, attempts and selection.

Published (Rajaraman et al. 2023, arXiv:2303.11453): train on the mean squared error plus a smooth group Lasso norm of
the columns, prune the small columns by an explicit threshold, fine-tune what is left. Ours: the decaying weight and
smoothing, Adam, the attempts, Levenberg-Marquardt, the merging of parallel columns, and the choice between fits when
the noise level is unknown.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.penalty import group_norms
from pruneft.pipeline import FirstOrder, Method, OptimizerOrFactory, Pipeline, columns_kept
from pruneft.prune import keep_count, keep_share, zero_groups
from pruneft.sensing import answer as answers
from pruneft.sensing import lane as lanes
from pruneft.sensing.answer import Answer, make_answer
from pruneft.sensing.lane import Lane
from pruneft.sensing.recipe import PruneRecipe
from pruneft.sensing.selection import criterion
from pruneft.status import Status

# Added to the score of a fit that is not admissible: any admissible one is better, the least residual wins among the rest.
_HOPELESS = 1e6
# Added where several columns share a direction: training was too short to make them sharp. With noise they fit it.
_BLURRED = 1e3


class Memory(NamedTuple):
    """The best answer so far.

    Attributes:
      best: of all attempts and starts.
      score: its criterion, infinite while there is none.
      finite: some attempt ended with finite numbers.
      nonzero: some attempt ended with a column left.
      tried: attempts that have ended.
      lower: [h, k] the best factor without its weakest direction, and ``descending``: whether it is to be fine-tuned next.
    """

    best: Answer
    score: Float[Array, ""]
    finite: Bool[Array, ""]
    nonzero: Bool[Array, ""]
    tried: Int[Array, ""]
    lower: Float[Array, "h k"]
    descending: Bool[Array, ""]


def column_pruning(
    recipe: PruneRecipe,
    *,
    noise_known: bool = True,
    optimizer: OptimizerOrFactory | None = None,
    finetune: FirstOrder | None = None,
    width: int,
) -> Pipeline:
    """The pipeline that prunes by column norm.

    Args:
      recipe: the constants.
      noise_known: the lane's ``noise`` is the truth (0 for none): attempts stop at the first fit that explains the
        data. Otherwise one attempt whose starts were given different final thresholds, and the fit with the least
        criterion.
      optimizer: for training, instead of the recipe's.
      finetune: by optax instead of Levenberg-Marquardt.
      width: k, padded.
    """
    steps = recipe.attempts if noise_known else (recipe.tau_steps,)
    return Pipeline(
        method=_method(recipe, noise_known),
        attempts=steps,
        ladder=ladder(width),
        optimizer=recipe.anneal.optimizer if optimizer is None else optimizer,
        finetune=finetune,
    )


def ladder(width: int) -> tuple[int, ...]:
    """Ranks that programs are compiled for.

    2, 4, 8, ... and the full width. A rank 1 problem padded to 2 costs less than one more program.
    """
    powers: list[int] = []
    while 2 ** (len(powers) + 1) < width:
        powers.append(2 ** (len(powers) + 1))
    return (*powers, width)


def _method(recipe: PruneRecipe, noise_known: bool) -> Method:
    def degrees(lane: Lane, rank: Int[Array, "..."]) -> Float[Array, "..."]:
        return lane.operator.dof(rank.astype(lane.n.dtype), lane.d)

    def admissible(lane: Lane, rank: Int[Array, "..."]) -> Bool[Array, "..."]:
        p = degrees(lane, rank)
        # With the noise unknown a fit needs a residual to be judged by; with it known, one measurement more than
        # unknowns will do.
        return (rank > 0) & (lane.n >= recipe.margin * p) & (p < lane.n - (0 if noise_known else 1))

    def memory(lane: Lane) -> Memory:
        width, dtype = lane.starts.shape[-1], lane.y.dtype
        empty = make_answer(
            jnp.zeros((lane.starts.shape[-2], width), dtype),
            jnp.zeros((), jnp.int32),
            jnp.sum(jnp.square(lane.y)),
            jnp.full((recipe.lm.max_steps + 1,), jnp.nan, dtype),
        )
        no = jnp.zeros((), jnp.bool_)
        return Memory(empty, jnp.asarray(jnp.inf, dtype), no, no, jnp.zeros((), jnp.int32), empty.factor, no)

    def first(lane: Lane) -> Int[Array, ""]:
        if not noise_known:
            return jnp.zeros((), jnp.int32)
        noisy = min(recipe.noisy_first, len(recipe.attempts) - 1)
        return jnp.where(lane.noise > 0, noisy, 0).astype(jnp.int32)

    def keep(lane: Lane, factor: Float[Array, "starts h k"]) -> Bool[Array, "starts k"]:
        norms = group_norms(factor)
        if not noise_known:
            mask = keep_share(norms, recipe.tau_share)
        else:
            edge = 2 * jnp.sqrt(lane.penalty.beta_end[..., 0, 0]).astype(norms.dtype)
            largest = jnp.max(norms, axis=-1, keepdims=True)
            quiet = keep_share(norms, recipe.share)
            noisy = keep_share(norms, recipe.noisy_share) & (norms > jnp.minimum(edge[..., None], largest / 2))
            mask = jnp.where(lane.noise > 0, noisy, quiet)
        return jnp.where(lane.rank > 0, keep_count(norms, lane.rank) & (norms > 0), mask)

    def prune(lane: Lane, factor: Float[Array, "starts h k"], memory: Memory) -> tuple[Array, Memory, Array]:
        finite = lanes.finite(factor)
        factor = jnp.where(finite[:, None, None], factor, 0)
        pruned = zero_groups(factor, keep(lane, factor))
        columns = columns_kept(pruned)
        worth = admissible(lane, columns)
        if noise_known:
            gate = recipe.gate + 2 * lane.noise
            worth &= lanes.rss(lane, pruned) < jnp.square(gate) * lane.n
            # Columns that share directions would be refused after fine-tuning too, and as there are many of them it would
            # be the dearest of all; only when no further attempt comes is the blurred fit fine-tuned for an answer.
            sharp = jax.vmap(lambda one: lanes.canonical(lane, one, merge=recipe.merge)[1])(pruned) == columns
            worth &= sharp | (first(lane) + memory.tried >= len(recipe.attempts) - 1)
        memory = memory._replace(
            finite=memory.finite | jnp.any(finite),
            nonzero=memory.nonzero | jnp.any(columns > 0),
            tried=memory.tried + 1,
            descending=jnp.zeros((), jnp.bool_),
        )
        # What is not fine-tuned is remembered all the same, or an early failure would leave nothing to report.
        memory = settle(lane, pruned, memory)
        return jnp.where(worth[:, None, None], pruned, 0), memory, jnp.any(worth)

    def settle(lane: Lane, factor: Float[Array, "starts h k"], memory: Memory) -> Memory:
        trace = jnp.full((factor.shape[0], recipe.lm.max_steps + 1), jnp.nan, lane.y.dtype)
        return consider(lane, factor.astype(lane.y.dtype), columns_kept(factor), trace, memory)

    def consider(lane: Lane, factors: Array, columns: Array, traces: Array, memory: Memory) -> Memory:
        tidy, ranks = jax.vmap(lambda factor: lanes.canonical(lane, factor, merge=recipe.merge, limit=lane.rank))(
            factors
        )
        errors = lanes.rss(lane, tidy)
        score = criterion(errors, ranks, degrees(lane, ranks), lane.n, weight=recipe.criterion)
        fallback = _HOPELESS + jnp.log(errors / lane.n + 1e-9)
        if noise_known:
            score = score + jnp.where(columns == ranks, 0, _BLURRED)
        score = jnp.where(
            admissible(lane, ranks), score, jnp.where((ranks > 0) & jnp.isfinite(fallback), fallback, jnp.inf)
        )
        best = jnp.argmin(score)
        width = memory.best.factor.shape[-1]
        wide = lanes.pad_columns(tidy[best], width)
        found = make_answer(wide, ranks[best], errors[best], traces[best], columns[best])
        better = score[best] < memory.score
        answer = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, memory.best)
        return memory._replace(best=answer, score=jnp.where(better, score[best], memory.score))

    def refine(size: int):  # type: ignore[no-untyped-def]  # the type stands in Method
        def run(lane: Lane, factor: Float[Array, "starts h k"], memory: Memory) -> Memory:
            narrow = lanes.largest_columns(factor, size)
            narrow = jnp.where(memory.descending, memory.lower[:, :size].astype(narrow.dtype), narrow)
            result = lanes.fit(lane, narrow, recipe.lm)
            found = result.x.reshape(narrow.shape)
            fresh = consider(lane, found, columns_kept(factor), result.trace, memory)
            down, better = descend(lane, found[0], result.trace[0], memory)
            memory = jax.tree.map(lambda a, b: jnp.where(memory.descending, a, b), down, fresh)
            return look_down(lane, memory, better | ~memory.descending)

        return run

    def descend(lane: Lane, factor: Array, trace: Array, memory: Memory) -> tuple[Memory, Bool[Array, ""]]:
        """The fit with one direction less, if the criterion does not rise by it."""
        tidy, rank = lanes.canonical(lane, factor, merge=recipe.merge)
        rss = lanes.rss(lane, tidy)
        score = criterion(rss, rank, degrees(lane, rank), lane.n, weight=recipe.criterion)
        now = memory.best
        before = criterion(now.rss, now.rank, degrees(lane, now.rank), lane.n, weight=recipe.criterion)
        better = score <= before
        found = make_answer(lanes.pad_columns(tidy, now.factor.shape[-1]), rank, rss, trace, now.columns)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, now)
        return memory._replace(best=best, score=jnp.where(better, score, memory.score)), better

    def look_down(lane: Lane, memory: Memory, go_on: Bool[Array, ""]) -> Memory:
        # With a direction too many Levenberg-Marquardt converges slowly and stops short, at residuals that look exact.
        best = memory.best
        rounding = (64 * float(jnp.finfo(lane.y.dtype).eps)) ** 2
        open_ = (lane.rank <= 0) & (best.rank > 1) & (best.rss > rounding * lane.n) & (memory.score < _HOPELESS / 2)
        kept = jnp.arange(best.factor.shape[-1], dtype=jnp.int32) < best.rank - 1
        return memory._replace(lower=jnp.where(kept, best.factor, 0), descending=go_on & open_)

    def explained(lane: Lane, memory: Memory) -> Bool[Array, ""]:
        sound = memory.score < _HOPELESS / 2
        if not noise_known:
            return sound
        left = jnp.maximum(lane.n - degrees(lane, memory.best.rank), 1)
        # Wilson-Hilferty: the chi-square quantile at so many standard deviations.
        quantile = left * (1 - 2 / (9 * left) + recipe.discrepancy * jnp.sqrt(2 / (9 * left))) ** 3
        return sound & (memory.best.rss <= jnp.square(recipe.accept) * lane.n + jnp.square(lane.noise) * quantile)

    def accepted(lane: Lane, memory: Memory) -> Bool[Array, ""]:
        # A fit with parallel columns is worth another, longer attempt; if none is sharp, it is the answer all the same.
        return explained(lane, memory) & (memory.score < _BLURRED / 2)

    def report(lane: Lane, memory: Memory, answered: Array, steps: Array) -> dict[str, Array]:
        failure = jnp.where(
            memory.finite, jnp.where(memory.nonzero, Status.BUDGET_SPENT, Status.PRUNED_TO_NOTHING), Status.NOT_FINITE
        )
        return answers.report(lane, memory.best, jnp.where(explained(lane, memory), Status.CONVERGED, failure), steps)

    return Method(
        first=first,
        start=lanes.start,
        gradient=lanes.gradient,
        penalty=lambda lane: lane.penalty,
        memory=memory,
        prune=prune,
        settle=settle,
        refine=refine,
        width=lambda lane, factor, memory: jnp.where(
            memory.descending, memory.best.rank, jnp.max(columns_kept(factor))
        ).astype(jnp.int32),
        pending=lambda lane, memory: memory.descending,
        accepted=accepted,
        report=report,
        tuning=lanes.tuning,
    )
