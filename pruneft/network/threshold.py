"""Narrower while training: gradual hard thresholding of whole groups, and pruning by rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from pruneft.network.criteria import Scores, scores
from pruneft.network.families import Families
from pruneft.network.remove import Removal, remove
from pruneft.network.select import Share, counts, select
from pruneft.network.surgery import leaf_masks
from pruneft.network.trees import map_arrays, named_arrays
from pruneft.prune import keep_count


class ThresholdState(NamedTuple):
    """What is carried.

    Attributes:
      step: int32.
      keep: {family: boolean [n]}, the groups that are not zero; what `remove` is given at the end.
    """

    step: Int[Array, ""]
    keep: dict[str, Bool[Array, " n"]]


def gradual_threshold(
    families: Families,
    keep: Share,
    steps: int | Int[Array, ""],
    *,
    begin: float = 0.1,
    length: float = 0.5,
    every: int = 10,
    score: Callable[[Any, Families], Scores] | None = None,
) -> optax.GradientTransformation:
    r"""Sets all but the largest groups to zero while training, more and more of them, down to the width asked for.

    At step t, :math:`round(n (1 - q (1 - (1 - z)^3)))` groups of a family stay, with
    :math:`z = clip((t - begin T) / (length T), 0, 1)`, n the width and q the share that goes. From z = 1 on the width is exact,
    and `remove` changes nothing. The last place of a chain::

        optax.chain(optax.adam(1e-3), gradual_threshold(families, 0.5, steps=1000))

    At equal numbers of steps this was the best way to a width on the digits (dense network, three widths), before one-shot pruning and
    small networks trained from scratch, by half a percent.

    Args:
      families: of the model.
      keep: share of the original width that stays at the end, for all or by name.
      steps: T, of the whole training.
      begin, length: as shares of T: when it begins, and how long it takes. The rest is fine-tuning.
      every: steps from one look at the norms to the next; between them the groups that are zero stay zero. Looking costs a pass over
        the weights and a sort; under vmap it is paid at every step.
      score: (params, families) -> scores; the Euclidean norm over all members.

    Returns:
      A transformation that needs ``params``; safe under jit and vmap. Its state has the masks.

    Raises:
      ValueError: a share, begin, length, steps or every is out of range; at update, that there are no parameters.

    Source: the course of the width is that of Zhu and Gupta (2017), arXiv:1710.01878; thresholding whole groups at every step is ours.
    """
    if not (0 <= begin < 1 and 0 < length <= 1 and begin + length <= 1):
        raise ValueError(
            f"begin and length are shares of the training whose sum is at most 1: got begin={begin}, length={length}."
        )
    if every < 1 or (isinstance(steps, int) and steps < 1):
        raise ValueError(f"steps and every must be at least 1: got steps={steps}, every={every}.")
    final = counts(families, keep)
    measure = score or (lambda params, families: scores("norm", params, families))

    def init(params: Any) -> ThresholdState:
        families.check(params)
        return ThresholdState(jnp.zeros((), jnp.int32), {f.name: jnp.ones(f.width, jnp.bool_) for f in families})

    def update(updates: Any, state: ThresholdState, params: Any = None) -> tuple[Any, ThresholdState]:
        if params is None:
            raise ValueError("gradual_threshold needs the parameters: call update(updates, state, params).")

        def look() -> dict[str, Array]:
            # At the weights before this step: those after it would have to be written to memory for the branch to read them.
            found = measure(params, families)
            return {
                f.name: keep_count(found[f.name], width_at(state.step, f.width, final[f.name], steps, begin, length))
                for f in families
            }

        keep = look() if every == 1 else jax.lax.cond(state.step % every == 0, look, lambda: state.keep)
        weights = named_arrays(params)
        masked = leaf_masks(families, keep, weights)

        def move(name: str, change: Any) -> Any:
            # Minus the weight, so that what goes is zero to the last bit.
            for stays in masked.get(name, []):
                change = jnp.where(stays, change, -weights[name])
            return change

        return map_arrays(move, updates), ThresholdState(state.step + 1, keep)

    return optax.GradientTransformation(init, update)


def width_at(
    step: Int[Array, ""],
    width: int,
    final: int | Int[Array, ""],
    steps: int | Int[Array, ""],
    begin: float = 0.1,
    length: float = 0.5,
) -> Int[Array, ""]:
    """How many of ``width`` groups stay at a step, when ``final`` are to stay in the end: arguments as for `gradual_threshold`."""
    # In float32 whatever the default: a count is a small number.
    along = (step.astype(jnp.float32) / jnp.asarray(steps, jnp.float32) - jnp.float32(begin)) / jnp.float32(length)
    gone = jnp.asarray(width - final, jnp.float32) * (1 - (1 - jnp.clip(along, 0, 1)) ** 3)
    return jnp.round(width - gone).astype(jnp.int32)


def prune_in_rounds(
    params: Any,
    families: Families,
    keep: float,
    rounds: int,
    tune: Callable[[Any, Families], Any],
    *,
    score: Callable[[Any, Families], Mapping[str, Float[Array, " n"]]] | None = None,
    scope: Any = "layer",
    **options: Any,
) -> Removal:
    """The model pruned in rounds: score, select, remove, tune, each with the same share of what was there before; on the host.

    Args:
      params, families: of the model.
      keep: share of the original width in the end. rounds: 1 is one-shot pruning.
      tune: (params, families) -> params, trains between removals and after the last.
      score: (params, families) -> scores; the Euclidean norm over all members.
      scope: of `select`. options: of `remove`.

    Returns:
      The last removal, with the parameters as tuned.

    Raises:
      ValueError: rounds is below 1, or what `select` and `remove` raise.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1: got {rounds}.")
    measure = score or (lambda params, families: scores("norm", params, families))
    for turn in range(1, rounds + 1):
        masks = select(measure(params, families), families, keep ** (turn / rounds), scope=scope)
        removal = remove(params, families, masks, **options)
        params, families = tune(removal.params, removal.families), removal.families
    return removal._replace(params=params)
