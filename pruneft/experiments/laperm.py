"""Training by permutation on handwritten digits: LaPerm around Adam, and Adam alone from the same start, over period, rate and sparsity.

A step of a lane is one step of the optimiser on a batch drawn anew; a sync is a turn, so it is paid when it comes. Every trial ends with
a sync, and what is reported are the weights there: a rearrangement of the initial ones. Seeds draw the split into 1300 pictures for
training and 497 for testing, the start, the zeros in it and the batches; methods of one seed share all of these.

Source: Qiu and Suda (2020), arXiv:2003.02570; the digits, the networks and the schedule are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from pruneft.experiments import digits
from pruneft.optim import LaPermState, laperm, sparse_init, sync
from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Cell, Experiment, Trial, filled, wrap_key

BATCH = 50
GOOD = 0.95  # accuracy that counts as success
METHODS = ("adam", "laperm")

_AXES = (
    Axis(name="model", default="mlp", kind="method", type=str, choices=tuple(digits.MODELS), help="the network"),
    Axis(name="method", default="laperm", kind="method", type=str, choices=METHODS, help="with syncs, or Adam alone"),
    Axis(name="period", default=100, kind="method", type=int, help="steps from sync to sync; Adam alone has none"),
    Axis(name="lr", default=3e-3, kind="method", help="learning rate at the start; falls to 0 as a half cosine"),
    Axis(name="removed", default=0.0, kind="method", help="share of zeros at the start; at most .2 in the first layer"),
    Axis(name="steps", default=1500, kind="method", type=int, help=f"of training, on {BATCH} pictures each"),
)


class Task(NamedTuple):
    """One instance.

    Attributes:
      train, test: numbers of pictures.
      start: initial weights.
      words: of the key of the batches.
      period, lr, steps: as the axes.
    """

    train: Int[Array, " 1300"]
    test: Int[Array, " 497"]
    start: digits.Params
    words: UInt32[Array, "2"]
    period: Int[Array, ""]
    lr: Float[Array, ""]
    steps: Int[Array, ""]


class State(NamedTuple):
    """What is carried.

    Attributes:
      params: weights now.
      before: those right before the last sync.
      optimiser: of LaPerm around Adam.
      syncs: how many there were.
    """

    params: digits.Params
    before: digits.Params
    optimiser: LaPermState
    syncs: Int[Array, ""]


def resolve(cell: Cell) -> dict[str, Any]:
    """A cell with every axis filled in; Adam alone has the period 0.

    Raises:
      ValueError: the cell makes no sense; the message says what was expected, what came and what to do.
    """
    given = filled(_AXES, cell)
    if given["method"] == "adam":
        given["period"] = 0
    for name, least in (("period", int(given["method"] == "laperm")), ("steps", 1)):
        value = given[name]
        if isinstance(value, bool) or int(value) != value or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}: got {value!r}.")
        given[name] = int(value)
    if not (math.isfinite(given["lr"]) and given["lr"] > 0):
        raise ValueError(f"lr (learning rate) must be positive: got {given['lr']}.")
    if not 0 <= given["removed"] < 1:
        raise ValueError(f"removed is a share of the weights, at least 0 and below 1: got {given['removed']}.")
    return given


def sizes(cell: Cell) -> dict[str, int]:
    """Nothing but the network sets shapes."""
    return {}


def inputs(cell: Cell) -> dict[str, float]:
    """The numbers that a lane of this cell is given."""
    return {name: float(cell[name]) for name in ("period", "lr", "removed", "steps")}


def expected_steps(cell: Cell) -> float:
    """Steps of the optimiser; exact."""
    return float(cell["steps"])


def trial(bucket: Bucket) -> Trial:
    """The Trial of a bucket: trains one network, with syncs at turns."""
    init_params, model = digits.MODELS[bucket.option("model")]
    permuting = bucket.option("method") == "laperm"

    def optimiser(task: Task) -> optax.GradientTransformationExtraArgs:
        def rate(count: Array) -> Array:
            share = count.astype(task.lr.dtype) / task.steps.astype(task.lr.dtype)
            return task.lr * (1 + jnp.cos(math.pi * share)) / 2

        return laperm(optax.adam(rate), period=None)

    def pictures(places: Array, dtype: Any) -> tuple[Array, Array]:
        images, labels = digits.load()
        return jnp.asarray(images, dtype)[places], jnp.asarray(labels)[places]

    def draw(key: Array, values: Mapping[str, Any]) -> Task:
        dtype = values["lr"].dtype
        train, test = digits.split(jax.random.fold_in(key, 0))
        start = init_params(jax.random.fold_in(key, 1), dtype)
        start = sparse_init(jax.random.fold_in(key, 2), start, values["removed"], first="['layer0']")
        words = jax.random.key_data(jax.random.fold_in(key, 3))
        whole = {name: jnp.round(values[name]).astype(jnp.int32) for name in ("period", "steps")}
        return Task(train, test, start, words, lr=values["lr"], **whole)

    def init(task: Task) -> State:
        return State(task.start, task.start, optimiser(task).init(task.start), jnp.zeros((), jnp.int32))

    def step(task: Task, state: State) -> State:
        key = jax.random.fold_in(wrap_key(task.words), state.optimiser.steps)
        places = task.train[jax.random.randint(key, (BATCH,), 0, digits.TRAIN)]
        images, labels = pictures(places, task.lr.dtype)
        gradient = jax.grad(lambda params: digits.cross_entropy(model(params, images), labels))(state.params)
        updates, inside = optimiser(task).update(gradient, state.optimiser, state.params)
        return state._replace(params=optax.apply_updates(state.params, updates), optimiser=inside)

    def over(task: Task, state: State) -> Array:
        return state.optimiser.steps >= task.steps

    def at_turn(task: Task, state: State) -> Array:
        count = state.optimiser.steps
        due = (count % jnp.maximum(task.period, 1) == 0) | over(task, state)
        return due & (count > state.optimiser.synced_at)

    def turn(task: Task, state: State) -> State:
        params, inside = sync(state.params, state.optimiser)
        return State(params, state.params, inside, state.syncs + 1)

    def finished(task: Task, state: State) -> Array:
        return over(task, state) & ~at_turn(task, state) if permuting else over(task, state)

    def report(task: Task, state: State) -> dict[str, Array]:
        images, labels = pictures(task.test, task.lr.dtype)

        def right(params: digits.Params) -> Array:
            return digits.accuracy(model(params, images), labels)

        found = right(state.params)
        kept = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1]
        begun = [leaf for leaf in jax.tree.leaves(task.start) if leaf.ndim > 1]
        moved = sum(jnp.sum(now != then) for now, then in zip(kept, begun, strict=True)) / sum(
            leaf.size for leaf in kept
        )
        zeros = sum(jnp.sum(leaf == 0) for leaf in kept) / sum(leaf.size for leaf in kept)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]))
        status = jnp.where(over(task, state), Status.CONVERGED, Status.UNFINISHED)
        return {
            "status": jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32),
            "success": (found >= GOOD) & finite,
            "accuracy": found,
            "accuracy_before": right(state.before) if permuting else found,
            "loss": digits.cross_entropy(model(state.params, images), labels),
            "moved": moved,
            "zeros": zeros,
            "syncs": state.syncs,
        }

    alone = Trial(draw=draw, init=init, step=step, finished=finished, report=report)
    return dataclasses.replace(alone, at_turn=at_turn, turn=turn) if permuting else alone


LAPERM = Experiment(
    name="laperm",
    subject="digits",
    axes=_AXES,
    resolve=resolve,
    sizes=sizes,
    inputs=inputs,
    trial=trial,
    module=__name__,
    default_grid={"method": METHODS, "lr": (1e-3, 3e-3)},
    default_seeds=5,
    padded=(),
    settings=f"{BATCH} {GOOD} {digits.TRAIN} {digits.WIDTHS} {digits.CHANNELS}",
    expected_steps=expected_steps,
    figure="pruneft.experiments.laperm_figure:draw",
)
