"""Networks on handwritten digits, pruned to a share of their width: accuracy on images that nothing was trained on.

Three ways to a width at the same number of steps: ``gradual`` thresholding while training; ``one-shot`` removal by a criterion after three
quarters of the steps, then fine-tuning; a small network trained from ``scratch``. A lane holds pruned groups at zero, which is the same
function as the smaller network; training is in float32 whatever the default. Test images, start and batches follow from the
seed alone, so that all ways meet the same ones. The optimal brain surgeon (``obs``) has the Fisher matrix for its curvature, and moves the
weights that stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from pruneft import network
from pruneft.experiments.network_models import MODELS, digits, families, weights
from pruneft.network import trees
from pruneft.network.threshold import width_at
from pruneft.prune import keep_count
from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Cell, Experiment, Trial, filled

METHODS = ("gradual", "one-shot", "scratch")
CRITERIA = network.CRITERIA


@dataclass(frozen=True, kw_only=True)
class Training:
    """Constants of training.

    Attributes:
      steps: of Adam in all; prune_at: after so many, one-shot pruning removes what goes. Both are multiples of chunk.
      rate: at first, then down to zero along a cosine; fine_rate: the same for the steps after one-shot pruning.
      batch: images of a step. chunk: steps of one step of a lane. every: steps between looks at the norms, divides chunk.
      test: images that are held back.
      scored: training images that criteria with gradients see.
    """

    steps: int = 1380
    prune_at: int = 1040
    rate: float = 0.003
    fine_rate: float = 0.003
    batch: int = 64
    chunk: int = 20
    every: int = 10
    test: int = 360
    scored: int = 256


_USUAL = Training()
_AXES = (
    Axis(name="model", default="mlp", kind="method", type=str, choices=tuple(MODELS), help="what is trained"),
    Axis(name="method", default="gradual", kind="method", type=str, choices=METHODS, help="how it becomes narrow"),
    Axis(
        name="criterion",
        default="norm",
        kind="method",
        type=str,
        choices=CRITERIA,
        help="of one-shot pruning: what stays",
    ),
    Axis(name="keep", default=0.5, kind="method", help="share of the width that stays"),
)


class Task(NamedTuple):
    """One trial's digits and start.

    Attributes:
      key: of batches and of the criteria that draw.
      order: [1797], places of the images: first those of the test.
      start: weights.
      final: {family: int32 []}, groups that stay.
    """

    key: Array
    order: Int[Array, " images"]
    start: Any
    final: dict[str, Int[Array, ""]]


class State(NamedTuple):
    """Where a training is.

    Attributes:
      params, adam: of the network.
      keep: {family: boolean [n]}, groups that are not zero.
      step: int32.
      pruned: whether one-shot pruning is behind it.
      before: accuracy on the test images right after one-shot pruning; NaN until then.
    """

    params: Any
    adam: Any
    keep: dict[str, Bool[Array, " n"]]
    step: Int[Array, ""]
    pruned: Bool[Array, ""]
    before: Float[Array, ""]


def resolve(cell: Cell) -> dict[str, Any]:
    """A cell with every axis filled in; only one-shot pruning has a criterion.

    Raises:
      ValueError: the cell makes no sense; the message says what was expected, what came and what to do.
    """
    given = filled(_AXES, cell)
    given["keep"] = float(given["keep"])
    if not (math.isfinite(given["keep"]) and 0 < given["keep"] <= 1):
        raise ValueError(f"keep is a share of the width and must lie in (0, 1]: got {given['keep']}.")
    if given["method"] != "one-shot":
        given["criterion"] = "norm"
    return given


def sizes(cell: Cell) -> dict[str, int]:
    """What sets the shapes of a cell's arrays."""
    return {"steps": _USUAL.steps}


def inputs(cell: Cell) -> dict[str, float]:
    """The numbers that a lane of this cell is given."""
    return {"keep": cell["keep"]}


def expected_steps(cell: Cell) -> float:
    """Chunks of a trial; exact."""
    return _USUAL.steps / _USUAL.chunk


def trial(bucket: Bucket, *, constants: Training = _USUAL) -> Trial:
    """The Trial of a bucket: trains a network on digits and prunes it on the way."""
    model, method, criterion = (bucket.option(name) for name in ("model", "method", "criterion"))
    apply, groups = MODELS[model], families(model)
    images, labels = (jnp.asarray(part) for part in digits())
    optimiser = optax.scale_by_adam()

    def loss(params: Any, batch: tuple[Array, Array]) -> Array:
        scores = jax.nn.log_softmax(apply(params, batch[0]))
        return -jnp.mean(jnp.take_along_axis(scores, batch[1][:, None], axis=-1))

    def accuracy(task: Task, params: Any) -> Array:
        seen = task.order[: constants.test]
        right = jnp.argmax(apply(params, images[seen]), axis=-1).astype(jnp.int32) == labels[seen]
        return jnp.mean(right.astype(jnp.float32))

    def rate(step: Array) -> Array:
        now = step.astype(jnp.float32)
        along, first = now / constants.steps, jnp.float32(constants.rate)
        if method == "one-shot":
            fine = now >= constants.prune_at
            first = jnp.where(fine, constants.fine_rate, constants.rate).astype(jnp.float32)
            late = (now - constants.prune_at) / (constants.steps - constants.prune_at)
            along = jnp.where(fine, late, now / constants.prune_at)
        return first * (1 + jnp.cos(jnp.pi * along).astype(jnp.float32)) / 2

    def draw(key: Array, values: Mapping[str, Any]) -> Task:
        order = jax.random.permutation(jax.random.fold_in(key, 0), images.shape[0]).astype(jnp.int32)
        start = weights(model, jax.random.fold_in(key, 1))
        share = values["keep"].astype(jnp.float32)
        final = {f.name: jnp.maximum(jnp.round(share * f.width), 1).astype(jnp.int32) for f in groups}
        return Task(jax.random.fold_in(key, 2), order, start, final)

    def init(task: Task) -> State:
        keep = {f.name: jnp.ones(f.width, jnp.bool_) for f in groups}
        params = task.start
        if method == "scratch":
            # The first groups are as good as any. What takes them in begins as wide as for a network of this width.
            keep = {f.name: jnp.arange(f.width, dtype=jnp.int32) < task.final[f.name] for f in groups}
            params = network.zeroed(params, groups, keep)
            for family in groups:
                params = _widened(params, family, task.final[family.name])
        with jax.numpy_dtype_promotion("standard"):
            adam = optimiser.init(params)
        none = jnp.full((), jnp.nan, jnp.float32)
        return State(params, adam, keep, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_), none)

    def one(task: Task, state: State, look: bool) -> State:
        """One step of Adam, with a look at the norms or without."""
        place = jax.random.randint(
            jax.random.fold_in(task.key, state.step), (constants.batch,), constants.test, images.shape[0]
        )
        seen = task.order[place]
        slope = jax.grad(loss)(state.params, (images[seen], labels[seen]))
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies Python floats with counters
            updates, adam = optimiser.update(slope, state.adam)
        params = jax.tree.map(lambda w, u: w - rate(state.step) * u, state.params, updates)
        keep = state.keep
        if look and method == "gradual":
            norms = network.scores("norm", params, groups)
            keep = {
                f.name: keep_count(norms[f.name], width_at(state.step, f.width, task.final[f.name], constants.steps))
                for f in groups
            }
        return state._replace(params=network.zeroed(params, groups, keep), adam=adam, keep=keep, step=state.step + 1)

    def step(task: Task, state: State) -> State:
        def some(_: Any, state: State) -> State:
            state = one(task, state, True)
            return jax.lax.fori_loop(1, constants.every, lambda _, now: one(task, now, False), state)

        return jax.lax.fori_loop(0, constants.chunk // constants.every, some, state)

    def at_turn(task: Task, state: State) -> Array:
        return (state.step >= constants.prune_at) & ~state.pruned & (method == "one-shot")

    def turn(task: Task, state: State) -> State:
        """One-shot pruning; the optimiser goes on with what it knows."""
        seen = task.order[constants.test : constants.test + constants.scored]
        batch, key = (images[seen], labels[seen]), jax.random.fold_in(task.key, constants.steps)
        found = network.scores(criterion, state.params, groups, loss=loss, batch=batch, key=key, curvature="fisher")
        keep = {f.name: keep_count(found[f.name], task.final[f.name]) for f in groups}
        params = state.params
        if criterion == "obs":
            params = network.obs_update(params, groups, keep, loss=loss, batch=batch, curvature="fisher")
        params = network.zeroed(params, groups, keep)
        done = jnp.ones((), jnp.bool_)
        return state._replace(params=params, keep=keep, pruned=done, before=accuracy(task, params))

    def finished(task: Task, state: State) -> Array:
        return state.step >= constants.steps

    def report(task: Task, state: State) -> dict[str, Array]:
        reached = accuracy(task, state.params)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]))
        kept = sum((jnp.sum(mask, dtype=jnp.int32) for mask in state.keep.values()), jnp.zeros((), jnp.int32))
        return {
            "status": jnp.where(finite, Status.CONVERGED, Status.NOT_FINITE).astype(jnp.int32),
            "success": finite & (reached >= 0.95),
            "accuracy": reached,
            "right": jnp.round(reached * constants.test).astype(jnp.int32),
            "before": state.before,
            "kept": kept,
        }

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report, at_turn=at_turn, turn=turn)


def _widened(params: Any, family: network.Family, final: Int[Array, ""]) -> Any:
    """First weights of what takes in a family, as large as for a network that has only so many of its units."""
    wider = jnp.sqrt(family.width / final.astype(jnp.float32))
    taken = {member.path for member in family.consumers}
    return trees.map_arrays(lambda name, leaf: leaf * wider if name in taken else leaf, params)


NETWORK = Experiment(
    name="network",
    subject="digits",
    axes=_AXES,
    resolve=resolve,
    sizes=sizes,
    inputs=inputs,
    trial=trial,
    module=__name__,
    # Chance is always among the ways; those that know no criterion are one cell for both.
    default_grid={"keep": (0.1, 0.25, 0.5, 1.0), "method": METHODS, "criterion": ("norm", "random")},
    default_seeds=4,
    padded=(),
    settings=f"{_USUAL!r}",
    expected_steps=expected_steps,
    figure="pruneft.experiments.network_figure:draw",
)
