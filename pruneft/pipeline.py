r"""Train, prune, fine-tune: one state machine over optax transformations, for any subject that can say what its factor's gradient is.

    TRAIN --(budget spent)--> turn: prune --> TUNE (optax, in the lane) --> turn: settle --> DONE, or TRAIN again
                                         \-> REFINE (second order, a stage) --------------> DONE, or TRAIN again

The training phase anneals: penalty weight and smoothing fall geometrically from their start to their end values while
the learning rate follows a cosine, all as functions of the lane's own step count and budget, so that attempts of any
length share one compiled program. The schedule is ours; the published method (arXiv:2303.11453) trains at fixed weight
and smoothing, which `Anneal` gives too when start and end values agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from pruneft.penalty import group_norms, smoothed_group_norm_gradient
from pruneft.trial import Stage, Trial

Factor = Float[Array, "*starts d k"]
Optimizer: TypeAlias = optax.GradientTransformation
OptimizerOrFactory: TypeAlias = Optimizer | Callable[[Any], Optimizer]


class Phase(IntEnum):
    """What a lane is doing."""

    TRAIN = 0
    TUNE = 1
    REFINE = 2
    DONE = 3


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """Constants of the training phase, for a problem normalised to unit data.

    Measured on matrix sensing, d from 10 to 32. With b1 = 0.95 and b2 = 0.999 training succeeded .21 of the time where
    these reach .58; learning rate 0.1 fails near the transition; a start that is not small (Frobenius norm 2) needs no
    tuning.

    Attributes:
      lam_start, lam_end: penalty weight at the first and last step (geometric in between).
      beta_start, beta_end: smoothing of the group norm, likewise, in squared units of the factor.
      learning_rate, final_rate: Adam's, cosine from the first to the given share of it.
      b1, b2: Adam's decay rates.
      start_norm: Frobenius norm of the random start.
    """

    lam_start: float = 0.3
    lam_end: float = 1e-6
    beta_start: float = 1e-2
    beta_end: float = 1e-3
    learning_rate: float = 0.03
    final_rate: float = 0.01
    b1: float = 0.9
    b2: float = 0.99
    start_norm: float = 2.0

    def optimizer(self, steps: Any) -> Optimizer:
        """Adam with the cosine schedule over ``steps`` steps, which may be traced."""

        def rate(count: Any) -> Array:
            progress = jnp.minimum(jnp.asarray(count, jnp.float32) / jnp.asarray(steps, jnp.float32), 1)
            return self.learning_rate * (
                self.final_rate + (1 - self.final_rate) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
            )

        return optax.adam(rate, b1=self.b1, b2=self.b2)


@dataclass(frozen=True, kw_only=True)
class FirstOrder:
    """Fine-tuning inside the lane by an optax optimiser.

    Attributes:
      optimizer: any gradient transformation, or a function of the number of steps that makes one. It sees the gradient
        of the data term alone, and as extra arguments what the subject's ``Method.tuning`` offers.
      steps: at most so many.
      tolerance: stop when the gradient's norm has fallen to this (normalised units); 0 uses up the steps.
    """

    optimizer: OptimizerOrFactory
    steps: int = 2000
    tolerance: float = 1e-6


class Penalty(NamedTuple):
    """The ends of the schedule of one problem.

    Arrays broadcast against the factor with its last two axes as length 1.
    """

    lam_start: Array
    lam_end: Array
    beta_start: Array
    beta_end: Array


class PipelineState(NamedTuple):
    """What a lane carries.

    Attributes:
      phase, attempt: `Phase` code, and which attempt of the ladder.
      taken: steps taken in this phase; ``steps``: steps taken in all, every phase and attempt.
      factor: [..., d, k], leading axes are starts that share the data.
      slope: norm of the last gradient of the data term.
      train_state, tune_state: of the two optimisers.
      memory: the subject's own: its best answer so far, and what its refinement needs.
      answered: the last attempt was accepted.
    """

    phase: Int[Array, ""]
    attempt: Int[Array, ""]
    taken: Int[Array, ""]
    steps: Int[Array, ""]
    factor: Factor
    slope: Float[Array, ""]
    train_state: PyTree
    tune_state: PyTree
    memory: PyTree
    answered: Bool[Array, ""]


@dataclass(frozen=True, kw_only=True)
class Method:
    """What the pipeline has to know of a subject. Every function is pure and sees one lane.

    Attributes:
      first: (problem,) -> int32 [], the attempt to begin with.
      start: (problem, attempt) -> factor of a fresh attempt.
      gradient: (problem, factor) -> gradient of the data term.
      penalty: (problem,) -> `Penalty`; a weight of zero trains without the penalty.
      memory: (problem,) -> what is carried from attempt to attempt, empty.
      prune: (problem, factor, memory) -> (factor, memory, go): called when training ends; ``go`` says whether
        fine-tuning is worth its price.
      settle: (problem, factor, memory) -> memory, after first-order fine-tuning.
      refine: size -> ((problem, factor, memory) -> memory), one call of second-order fine-tuning.
      width: (problem, factor, memory) -> int32 [], the size that ``refine`` needs now.
      pending: (problem, memory) -> bool [], ``refine`` is to be called again.
      accepted: (problem, memory) -> bool [], no further attempt is needed.
      report: (problem, memory, answered, steps) -> dict of scalars with ``status``.
      tuning: (problem, factor) -> extra arguments for the optimiser of first-order fine-tuning, by optax's names:
        ``value``, the loss of each start, and ours: ``curvature``, (factor, direction) -> Gauss-Newton Hessian times
        direction. What the optimiser does not use is not computed.
    """

    first: Callable[[PyTree], Int[Array, ""]]
    start: Callable[[PyTree, Array], Factor]
    gradient: Callable[[PyTree, Factor], Factor]
    penalty: Callable[[PyTree], Penalty]
    memory: Callable[[PyTree], PyTree]
    prune: Callable[[PyTree, Factor, PyTree], tuple[Factor, PyTree, Bool[Array, ""]]]
    settle: Callable[[PyTree, Factor, PyTree], PyTree]
    refine: Callable[[int], Callable[[PyTree, Factor, PyTree], PyTree]]
    width: Callable[[PyTree, Factor, PyTree], Int[Array, ""]]
    pending: Callable[[PyTree, PyTree], Bool[Array, ""]]
    accepted: Callable[[PyTree, PyTree], Bool[Array, ""]]
    report: Callable[[PyTree, PyTree, Array, Array], dict[str, Array]]
    tuning: Callable[[PyTree, Factor], dict[str, Any]] = lambda problem, factor: {}


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A `Method` with its optimisers and budgets; `trial` makes the Trial of it.

    Attributes:
      method: the subject.
      attempts: steps of each training attempt; a fresh start for each, until one is accepted.
      ladder: the sizes that refinement programs are compiled for, rising.
      optimizer: for training; an optax transformation, or a function of the number of steps. Default:
        `Anneal.optimizer`.
      finetune: `FirstOrder` to fine-tune by optax in the lane; None for the subject's second-order refinement.
    """

    method: Method
    attempts: tuple[int, ...]
    ladder: tuple[int, ...]
    optimizer: OptimizerOrFactory = field(default_factory=lambda: Anneal().optimizer)
    finetune: FirstOrder | None = None

    def __post_init__(self) -> None:
        if not self.attempts or any(steps < 1 for steps in self.attempts):
            raise ValueError(f"attempts must be one or more positive step counts: got {self.attempts}.")
        if self.finetune is not None and self.finetune.steps < 1:
            raise ValueError(f"fine-tuning needs at least one step: got {self.finetune.steps}.")

    def trial(self, draw: Callable[..., PyTree]) -> Trial:
        """The Trial of this pipeline on the problems that ``draw`` makes."""
        stage = None
        if self.finetune is None:
            stage = Stage(
                ready=lambda problem, state: state.phase == Phase.REFINE,
                size=lambda problem, state: self.method.width(problem, state.factor, state.memory),
                ladder=self.ladder,
                run=self._refine,
            )
        return Trial(
            draw=draw,
            init=self._init,
            step=self._step,
            finished=lambda problem, state: state.phase == Phase.DONE,
            report=lambda problem, state: self.method.report(problem, state.memory, state.answered, state.steps),
            at_turn=self._at_turn,
            turn=self._turn,
            stage=stage,
        )

    def _budget(self, attempt: Int[Array, ""]) -> Int[Array, ""]:
        return jnp.asarray(self.attempts, jnp.int32)[jnp.minimum(attempt, len(self.attempts) - 1)]

    def _trainer(self, attempt: Int[Array, ""]) -> Optimizer:
        return _bind(self.optimizer, self._budget(attempt))

    def _tuner(self) -> Optimizer:
        return optax.set_to_zero() if self.finetune is None else _bind(self.finetune.optimizer, self.finetune.steps)

    def _init(self, problem: PyTree) -> PipelineState:
        zero = jnp.zeros((), jnp.int32)
        attempt = self.method.first(problem)
        factor = self.method.start(problem, attempt)
        return PipelineState(
            phase=zero,
            attempt=attempt,
            taken=zero,
            steps=zero,
            factor=factor,
            slope=jnp.full((), jnp.inf, factor.dtype),
            train_state=self._trainer(attempt).init(factor),
            tune_state=self._tuner().init(factor),
            memory=self.method.memory(problem),
            answered=jnp.zeros((), jnp.bool_),
        )

    def _step(self, problem: PyTree, state: PipelineState) -> PipelineState:
        training = state.phase == Phase.TRAIN
        gradient = self.method.gradient(problem, state.factor)
        slope = jnp.sqrt(jnp.sum(jnp.square(gradient)))
        budget = self._budget(state.attempt)
        progress = state.taken.astype(gradient.dtype) / budget.astype(gradient.dtype)
        pull = penalty_gradient(self.method.penalty(problem), progress, state.factor)
        updates, train_state = self._trainer(state.attempt).update(gradient + pull, state.train_state, state.factor)
        tune_state = state.tune_state
        if self.finetune is not None:
            tuner = optax.with_extra_args_support(self._tuner())
            extra = self.method.tuning(problem, state.factor)
            # While training the result is not used; nothing to descend ends an inner loop before its first product.
            seen = jnp.where(training, 0, gradient)
            tuning, tuned = tuner.update(seen, state.tune_state, state.factor, **extra)
            updates = _choose(training, updates, tuning)
            # Only the phase at work moves its state, or the other one would start with a history that is not its own.
            train_state = _choose(training, train_state, state.train_state)
            tune_state = _choose(training, state.tune_state, tuned)
        return state._replace(
            taken=state.taken + 1,
            steps=state.steps + 1,
            factor=optax.apply_updates(state.factor, updates),
            slope=slope,
            train_state=train_state,
            tune_state=tune_state,
        )

    def _at_turn(self, problem: PyTree, state: PipelineState) -> Bool[Array, ""]:
        turning = (state.phase == Phase.TRAIN) & (state.taken >= self._budget(state.attempt))
        if self.finetune is not None:
            spent = (state.taken >= self.finetune.steps) | (
                (state.taken > 0) & (state.slope <= self.finetune.tolerance)
            )
            turning |= (state.phase == Phase.TUNE) & (spent | ~jnp.isfinite(state.slope))
        return turning

    def _turn(self, problem: PyTree, state: PipelineState) -> PipelineState:
        factor, memory, go = self.method.prune(problem, state.factor, state.memory)
        refining = state._replace(
            phase=jnp.asarray(Phase.REFINE if self.finetune is None else Phase.TUNE, jnp.int32),
            taken=jnp.zeros((), jnp.int32),
            factor=factor,
            tune_state=self._tuner().init(factor),
            memory=memory,
        )
        pruned = _choose(go, refining, self._next_attempt(problem, state._replace(memory=memory)))
        if self.finetune is None:
            return pruned
        settled = state._replace(memory=self.method.settle(problem, state.factor, state.memory))
        return _choose(state.phase == Phase.TRAIN, pruned, self._judge(problem, settled))

    def _refine(self, size: int) -> Callable[[PyTree, PipelineState], PipelineState]:
        refine = self.method.refine(size)

        def run(problem: PyTree, state: PipelineState) -> PipelineState:
            state = state._replace(memory=refine(problem, state.factor, state.memory))
            return _choose(self.method.pending(problem, state.memory), state, self._judge(problem, state))

        return run

    def _judge(self, problem: PyTree, state: PipelineState) -> PipelineState:
        accepted = self.method.accepted(problem, state.memory)
        done = state._replace(phase=jnp.asarray(Phase.DONE, jnp.int32), answered=jnp.ones((), jnp.bool_))
        return _choose(accepted, done, self._next_attempt(problem, state))

    def _next_attempt(self, problem: PyTree, state: PipelineState) -> PipelineState:
        attempt = state.attempt + 1
        last = attempt >= len(self.attempts)
        factor = self.method.start(problem, jnp.minimum(attempt, len(self.attempts) - 1))
        return state._replace(
            phase=jnp.where(last, Phase.DONE, Phase.TRAIN).astype(jnp.int32),
            attempt=attempt,
            taken=jnp.zeros((), jnp.int32),
            factor=jnp.where(last, state.factor, factor),
            slope=jnp.full_like(state.slope, jnp.inf),
            train_state=self._trainer(attempt).init(factor),
            tune_state=self._tuner().init(factor),
        )


def penalty_gradient(penalty: Penalty, progress: Float[Array, ""], factor: Factor) -> Factor:
    """Gradient of the annealed penalty at ``progress`` in [0, 1).

    Weight and smoothing geometric between their ends, weight 0 stays 0.
    """
    weight = _geometric(penalty.lam_start, penalty.lam_end, progress)
    smoothing = _geometric(penalty.beta_start, penalty.beta_end, progress)
    return weight * smoothed_group_norm_gradient(factor, smoothing)


def columns_kept(factor: Factor) -> Int[Array, "*starts"]:
    """Number of nonzero columns of each start."""
    return jnp.sum(group_norms(factor) > 0, axis=-1, dtype=jnp.int32)


def _geometric(start: Array, end: Array, progress: Array) -> Array:
    live = (start > 0) & (end > 0)
    ratio = jnp.where(live, end, 1) / jnp.where(live, start, 1)
    return jnp.where(live, start * ratio**progress, 0)


def _bind(optimizer: OptimizerOrFactory, steps: Any) -> Optimizer:
    # An optax transformation is a named tuple of two functions, hence not callable; a factory is.
    return optimizer(steps) if callable(optimizer) else optimizer


def _choose(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
