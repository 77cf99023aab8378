r"""Networks trained by AdamW on planted data, pruned and fine-tuned: what gradient descent makes of them, beside the convex programs.

The networks have m neurons :math:`u_j, a_j`, and a linear part for skip connections::

    plain  f(x) = sum_j (x u_j)_+ a_j        skip  f(x) = x v b + plain        normalised  f(X) = sum_j NM((X u_j)_+) a_j

with :math:`NM(z) = g z / \|z\|`, g trained, over the training samples. Full batch; half the squared misfit, and weight decay on every
parameter: lam times half their squares in the loss, which is the penalty of the convex programs, and AdamW's decoupled kind. The rate
falls to zero along a cosine. Then neurons are pruned by what they contribute, at the widest gap or below a share of the largest, and the
others are trained on without decay, which shrinks what it weighs.

The two kinds differ: of a linear neuron in a skip connection network (n = 40, d = 10, 8 instances) the penalty found the linear part and
nothing else every time at every lam from .001 to .03; with decoupled decay of .02 to 3 alone it never did, because pairs of neurons u
and -u took its place.

All of it is one pure function of arrays, safe under jit and vmap: pruned neurons are zero and stay zero.

Source: AdamW, Loshchilov, Hutter, arXiv:1711.05101; the models, Wang, Hua, Candes, Pilanci, arXiv:2209.15265; pruning ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from pruneft.prune import keep_gap, keep_share
from pruneft.random import Block, normals
from pruneft.relu.planted.models import Planted


@dataclass(frozen=True, kw_only=True)
class Training:
    """Constants of training.

    Attributes:
      neurons: width at the start.
      steps: of AdamW with decay; fine: without, after pruning.
      rate: largest step; fine_rate: of fine-tuning.
      decay: decoupled weight decay, per unit of the rate; lam: weight of half the squared parameters in the loss.
      start: standard deviation of the first weights, over the root of their number.
      share: neurons that contribute less than this share of the largest part go; least_ratio: a gap as wide as this is cut at.
      alive: neurons that contribute more than this share count as staying, before pruning.
      chunk: steps of one call of `advance`; divides both numbers of steps.
    """

    neurons: int = 32
    steps: int = 4000
    fine: int = 2000
    rate: float = 0.02
    fine_rate: float = 0.005
    decay: float = 0.0
    lam: float = 0.003
    start: float = 0.5
    share: float = 0.1
    least_ratio: float = 5.0
    alive: float = 1e-3
    chunk: int = 100

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.steps < 1 or self.steps % self.chunk or self.fine % self.chunk:
            raise ValueError(
                f"chunk must divide steps and fine: got chunk={self.chunk}, steps={self.steps}, fine={self.fine}. Round them."
            )


class Parameters(NamedTuple):
    """Weights of a network; parts that a model does not have are zero.

    Attributes:
      u: [d, m] first layer; a: [m] second layer; g: [m] gain of the normalisation.
      v: [d], b: first and second layer of the linear part.
    """

    u: Float[Array, "d m"]
    a: Float[Array, " m"]
    g: Float[Array, " m"]
    v: Float[Array, " d"]
    b: Float[Array, ""]


class Trained(NamedTuple):
    """What a network came to; a pytree, with one leading axis more under vmap.

    Attributes:
      parameters: of the network.
      keep: [m] neurons that are not pruned.
      neurons: how many.
      distance: between the planted weights and the network's for the same job, Frobenius norm: those of the linear part, or, for each
        planted neuron, the sum over all neurons with its pattern on the data.
      error: relative, on fresh samples. misfit: relative, on the noisy labels.
    """

    parameters: Parameters
    keep: Bool[Array, " m"]
    neurons: Int[Array, ""]
    distance: Float[Array, ""]
    error: Float[Array, ""]
    misfit: Float[Array, ""]


def begin(
    key: Array, d: int, model: str, constants: Training = Training(), dtype: jnp.dtype | str = "float64"
) -> Parameters:
    """Random first weights, drawn by counter."""
    m = constants.neurons
    u, rest = (part.astype(dtype) for part in normals(key, Block(32, m, d), Block(33, 2, max(m, d))))
    small = constants.start
    skip = 1.0 if model == "skip" else 0.0
    return Parameters(
        u=u.T * small / math.sqrt(d),
        a=rest[0, :m] * small / math.sqrt(m),
        g=jnp.full(m, 1.0 if model == "normalised" else 0.0, dtype),
        v=rest[1, :d] * skip * small / math.sqrt(d),
        b=jnp.full((), skip * small, dtype),
    )


def effective(
    p: Parameters, X: Float[Array, "n d"], model: str
) -> tuple[Float[Array, "d m"], Float[Array, " m"], Float[Array, " d"]]:
    """The same function as ``sum_j (x u_j)_+ c_j + x w``: c holds second layer, gain and normalisation over the samples X."""
    c = p.a
    if model == "normalised":
        square = jnp.sum(jax.nn.relu(X @ p.u) ** 2, axis=0)
        there = square > 0  # a neuron that no sample switches on says nothing
        c = jnp.where(there, c * p.g / jnp.sqrt(jnp.where(there, square, 1)), 0)
    return p.u, c, p.v * p.b


def predict(p: Parameters, X: Float[Array, "n d"], samples: Float[Array, "m d"], model: str) -> Float[Array, " m"]:
    """Of samples, by a network that was trained on X."""
    u, c, w = effective(p, X, model)
    return jax.nn.relu(samples @ u) @ c + samples @ w


def contributions(p: Parameters, X: Float[Array, "n d"], model: str) -> Float[Array, " k"]:
    """The norm of what every neuron says on X, and that of the linear part behind them."""
    u, c, w = effective(p, X, model)
    return jnp.append(jnp.linalg.norm(jax.nn.relu(X @ u) * c, axis=0), jnp.linalg.norm(X @ w))


class State(NamedTuple):
    """Where a training is.

    Attributes:
      parameters: now; before: at the end of training with decay.
      adam: moments of the optimiser.
      keep: [m] neurons that are not pruned.
      step: int32.
    """

    parameters: Parameters
    before: Parameters
    adam: Any
    keep: Bool[Array, " m"]
    step: Int[Array, ""]


_ADAM = optax.scale_by_adam()


def init(key: Array, d: int, model: str, constants: Training = Training(), dtype: jnp.dtype | str = "float64") -> State:
    """The first state; its weights are drawn by counter."""
    p = begin(key, d, model, constants, dtype)
    return State(p, p, _ADAM.init(p), jnp.ones(constants.neurons, bool), jnp.zeros((), jnp.int32))


def advance(
    planted: Planted,
    state: State,
    model: str,
    constants: Training = Training(),
    decay: Float[Array, ""] | None = None,
    lam: Float[Array, ""] | None = None,
) -> State:
    """``constants.chunk`` steps, pruning before them where training with decay has ended; safe under jit and vmap.

    ``decay``, ``lam``: instead of those of the constants, so that lanes may differ in them.
    """
    weight = jnp.asarray(constants.decay if decay is None else decay, planted.X.dtype)
    penalty = jnp.asarray(constants.lam if lam is None else lam, planted.X.dtype)
    X, y = planted.X, planted.y
    pruned = _pruned(state, X, model, constants)
    now = state.step == constants.steps
    state = jax.tree.map(lambda new, old: jnp.where(now, new, old), pruned, state)

    def loss(p: Parameters, lam: Array) -> Array:
        misfit = predict(_masked(p, state.keep), X, X, model) - y
        square = sum((jnp.sum(part**2) for part in p), jnp.zeros((), X.dtype))
        return (jnp.sum(misfit**2) + lam * square) / 2

    def step(_: Array, carry: tuple[Parameters, Any, Array]) -> tuple[Parameters, Any, Array]:
        p, adam, count = carry
        fine = count >= constants.steps
        share = jnp.where(fine, (count - constants.steps) / max(constants.fine, 1), count / constants.steps)
        rate = jnp.where(fine, constants.fine_rate, constants.rate) * (1 + jnp.cos(jnp.pi * share)) / 2
        pull = jnp.where(fine, 0, weight)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies Python floats with counters
            rate, pull = rate.astype(X.dtype), pull.astype(X.dtype)
            slope = jax.grad(loss)(p, jnp.where(fine, 0, penalty))
            updates, adam = _ADAM.update(slope, adam)
        return jax.tree.map(lambda p, update: p - rate * (update + pull * p), p, updates), adam, count + 1

    carry = (state.parameters, state.adam, state.step)
    p, adam, count = jax.lax.fori_loop(0, constants.chunk, step, carry)
    p = _masked(p, state.keep)
    before = jax.tree.map(lambda new, old: jnp.where(count <= constants.steps, new, old), p, state.before)
    return state._replace(parameters=p, before=before, adam=adam, step=count)


def over(state: State, constants: Training = Training()) -> Bool[Array, ""]:
    """Whether training and fine-tuning have ended."""
    return state.step >= constants.steps + constants.fine


def finish(
    planted: Planted, state: State, *, model: str, linear: bool, constants: Training = Training()
) -> tuple[Trained, Trained]:
    """What a state amounts to: before pruning, and now."""
    live = keep_share(contributions(state.before, planted.X, model), constants.alive)[:-1]
    return (
        _measured(state.before, live, planted, model, linear),
        _measured(state.parameters, state.keep, planted, model, linear),
    )


def train(
    key: Array, planted: Planted, *, model: str, linear: bool, constants: Training = Training()
) -> tuple[Trained, Trained]:
    """A network before pruning, and after pruning and fine-tuning; safe under jit and vmap over keys and instances.

    Args:
      key: of the start.
      planted: the instance.
      model: of the network, that which the instance was planted for.
      linear: whether a linear neuron is planted.
      constants: of training.
    """
    state = init(key, planted.X.shape[1], model, constants, planted.X.dtype.name)
    chunks = (constants.steps + constants.fine) // constants.chunk
    state = jax.lax.fori_loop(0, chunks, lambda _, state: advance(planted, state, model, constants), state)
    return finish(planted, state, model=model, linear=linear, constants=constants)


def _pruned(state: State, X: Float[Array, "n d"], model: str, constants: Training) -> State:
    """Without the neurons that contribute little; the optimiser begins anew."""
    size = contributions(state.parameters, X, model)
    # The linear part counts for what is large, but is no neuron, and stays.
    keep = (keep_gap(size, least_ratio=constants.least_ratio) & keep_share(size, constants.share))[:-1]
    p = _masked(state.parameters, keep)
    return state._replace(parameters=p, adam=_ADAM.init(p), keep=keep)


def _masked(p: Parameters, keep: Bool[Array, " m"]) -> Parameters:
    return p._replace(u=jnp.where(keep, p.u, 0), a=jnp.where(keep, p.a, 0), g=jnp.where(keep, p.g, 0))


def _measured(p: Parameters, keep: Bool[Array, " m"], planted: Planted, model: str, linear: bool) -> Trained:
    X = planted.X
    u, c, w = effective(p, X, model)
    if linear:
        found = w[:, None]
    else:
        on = (X @ u > 0).astype(X.dtype)
        patterns = (X @ planted.w > 0).astype(X.dtype)
        same = jnp.all(on[:, None, :] == patterns[:, :, None], axis=0).astype(X.dtype)  # [K, m]
        found = (u * c) @ same.T

    def relative(got: Array, wanted: Array) -> Array:
        size = jnp.linalg.norm(wanted)
        return jnp.linalg.norm(got - wanted) / jnp.where(size > 0, size, 1)

    return Trained(
        parameters=p,
        keep=keep,
        neurons=jnp.sum(keep).astype(jnp.int32),
        distance=jnp.linalg.norm(found - planted.theta),
        error=relative(predict(p, X, planted.fresh, model), planted.target),
        misfit=relative(predict(p, X, X, model), planted.y),
    )
