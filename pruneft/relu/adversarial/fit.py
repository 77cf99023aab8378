"""`fit_robust`: training against attacks, for somebody with data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.relu import gap, inputs, neurons
from pruneft.relu.adversarial import admm, losses
from pruneft.relu.adversarial.norms import ball_named
from pruneft.relu.adversarial.patterns import RobustPatterns, robust_direction, robust_patterns
from pruneft.relu.adversarial.program import RobustProgram
from pruneft.relu.adversarial.result import RobustFit
from pruneft.relu.neurons import Network
from pruneft.relu.program import Program
from pruneft.relu.solution import Solution
from pruneft.status import Status

PATTERNS = 50  # of a call that names no number
LAM_SHARE = 0.05  # of lam_max, of a call that names no lam


def fit_robust(
    X: Any,
    y: Any,
    *,
    eps: float,
    norm: str | float = "inf",
    loss: str = "hinge",
    lam: float | None = None,
    patterns: Any = None,
    n_patterns: int = PATTERNS,
    perturbations: int = 4,
    bias: bool = False,
    tol: float = 1e-4,
    max_iterations: int = 20_000,
    seed: int | jax.Array = 0,
    weights: Any = None,
    reduction: str | None = None,
    dtype: Any = None,
) -> RobustFit:
    """Train a two-layer ReLU network against attacks on its samples, to the global optimum of a convex program.

    Every sample may be moved by eps in the norm of the attack. The returned network's worst loss over all such attacks on the training data
    is known exactly and is what was minimised, together with the penalty.

    Args:
      X: [n, d] samples in rows, in the units in which eps is meant.
      y: [n]; real numbers for ``squared``, -1 and 1 for ``hinge`` and ``bce``.
      eps: radius of the attack; 0 is plain training.
      norm: of the attack: ``inf``, ``2`` or ``1``.
      loss: ``squared`` ``(f - y)^2 / 2``, ``hinge`` ``(1 - y f)_+``, or ``bce`` ``log(1 + exp(-2 y f))``, each at the worst attack.
      lam: weight of ``sum_j (||u_j||^2 + alpha_j^2) / 2``; a twentieth of ``lam_max`` if not given.
      patterns: D [n, P] to use; sampled if not given. Those without a robust cone are dropped.
      n_patterns: how many to sample.
      perturbations: attacked copies of the data whose patterns are sampled too.
      bias: append a column of ones to X, here and in predictions. No attack moves it; its weights are penalised as all others.
      tol: relative gap to reach.
      max_iterations: budget.
      seed: of the sampled patterns; a number or a JAX key.
      weights: [n] weights of the samples in the loss.
      reduction: ``sum`` or ``mean`` of the loss over samples; the mean for ``hinge``, the sum otherwise.
      dtype: ``float32`` or ``float64``; that of X, as far as JAX allows, if not given. Gaps below 1e-4 want float64.

    Raises:
      ValueError: an argument makes no sense; the message says what was expected, what came and what to do.

    Source: Bai, Gautam, Sojoudi, arXiv:2201.01965; certified gap, repair and the prox of the squared loss derived (ours).
    """
    data = inputs.data(X, y, loss=loss, bias=bias, weights=weights, reduction=reduction, dtype=dtype)
    wanted = data.X.dtype
    inputs.check_options(form="exact", lam=lam, tol=tol, max_iterations=max_iterations, dtype=wanted)
    _check(eps, n_patterns, perturbations, data.y.shape[1])
    ball = ball_named(norm)
    mask = np.ones(data.X.shape[1])
    mask[-1] = 1 - bias
    found = _patterns(data.X, patterns, n_patterns, eps, mask, ball.name, perturbations, seed)
    program = RobustProgram(
        plain=Program(
            X=jnp.asarray(data.X),
            y=jnp.asarray(data.y[:, 0]),
            D=jnp.asarray(found.D),
            H=jnp.asarray(found.H),
            lam=jnp.ones((), wanted),
            weights=jnp.asarray(data.weights),
            loss=loss,
        ),
        radius=jnp.full(len(data.X), eps, wanted),
        mask=jnp.asarray(mask, wanted),
        norm=ball.name,
    )
    limit = float(gap.lam_max(program.plain))
    lam = LAM_SHARE * limit if lam is None else lam
    if not lam > 0:
        lam = 1.0  # no pattern is left, or X or y is zero: every weight is zero whatever lam is
    program = with_lam(program, lam)
    solution = admm.solve(program, tol=tol, max_iterations=int(max_iterations))
    return _result(program, solution, found, float(eps), limit, bias)


def with_lam(program: RobustProgram, lam: float | jax.Array) -> RobustProgram:
    """The same program with another penalty weight."""
    plain = dataclasses.replace(program.plain, lam=jnp.asarray(lam, program.plain.X.dtype))
    return dataclasses.replace(program, plain=plain)


def network_value(program: RobustProgram, network: Network) -> tuple[float, float]:
    """The network's worst loss with its penalty, and the least slack of its neurons in the robust half-spaces.

    Exact where the slack is not negative: then the network is one linear model in the ball around each sample, which is read off its own
    neurons here, not off the blocks of the program.
    """
    value, slack = _network_value(program, network)
    return float(value), float(slack)


@jax.jit
def _network_value(program: RobustProgram, network: Network) -> tuple[jax.Array, jax.Array]:
    plain, u = program.plain, network.u
    on = (plain.X @ u > 0).astype(u.dtype)
    local = (on * network.alpha) @ u.T
    value = losses.value(plain.losses, program.ball, program.data, local, plain.weights) + plain.lam * network.penalty()
    reach = program.radius[:, None] * program.ball.dual(u.T, program.mask)
    return value, jnp.min(jnp.abs(plain.X @ u) - reach, initial=jnp.inf)


@jax.jit
def _block_losses(program: RobustProgram, U: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss at the worst attack, and at the data as they are."""
    plain = program.plain
    return program.loss(U), plain.losses.value(plain.predict(U), plain.y, plain.weights)


def _check(eps: Any, n_patterns: Any, perturbations: Any, outputs: int) -> None:
    if isinstance(eps, bool) or not isinstance(eps, int | float | np.number) or not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps (radius of the attack) must be a finite number, zero or more: got {eps!r}.")
    for name, value, least in (("n_patterns", n_patterns, 1), ("perturbations", perturbations, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}: got {value!r}.")
    if outputs > 1:
        raise ValueError(f"y must be a vector [n]: got {outputs} columns. Fit one network for each.")


def _patterns(
    X: np.ndarray,
    given: Any,
    count: int,
    eps: float,
    mask: np.ndarray,
    norm: str,
    perturbations: int,
    seed: int | jax.Array,
) -> RobustPatterns:
    if given is None:
        key = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
        return robust_patterns(key, X, count, eps=eps, mask=mask, norm=norm, perturbations=perturbations)
    D = inputs.own_patterns(given, len(X), X.dtype)
    radius = np.full(len(X), eps)
    found = [robust_direction((2 * column - 1)[:, None] * X, radius, mask, norm) for column in D.T]
    margins = np.array([margin for _, margin in found])
    H = np.stack([h for h, _ in found], axis=1).astype(X.dtype)
    lost = int(np.sum(margins == 0))
    note = (
        f"{lost} of {D.shape[1]} patterns have no robust cone at eps = {eps:g}: their neurons are zero." if lost else ""
    )
    return RobustPatterns(D * (margins > 0), H, D.shape[1], lost, note)


def _result(
    program: RobustProgram, solution: Solution, found: RobustPatterns, eps: float, limit: float, bias: bool
) -> RobustFit:
    plain, U = program.plain, solution.U
    network = neurons.network([plain], [U], bias=bias)
    assert network is not None  # of the exact form
    value, slack = network_value(program, network)
    objective = float(solution.objective)
    worst, clean = (float(each) for each in _block_losses(program, U))
    history = {name: np.asarray(values) for name, values in solution.history._asdict().items()}
    reached = history["iteration"] >= 0
    notes = [found.note] if found.note else []
    if float(plain.lam) >= limit > 0:
        notes.append(
            f"lam = {float(plain.lam):.6g} is at or above {limit:.6g}, from where on every weight is zero: lower it."
        )
    allowed = 1e-8 if U.dtype == jnp.float64 else 1e-4
    if abs(value - objective) > allowed * abs(objective):
        notes.append(f"the network's objective {value:.9g} differs from that of the blocks, {objective:.9g}: rounding.")
    return RobustFit(
        objective=objective,
        dual=float(solution.dual),
        gap=float(solution.gap),
        iterations=int(solution.iterations),
        status=Status(int(solution.status)),
        V=np.asarray(U[:, : plain.P]),
        W=np.asarray(U[:, plain.P :]),
        network=network,
        network_objective=value,
        slack=slack,
        robust_loss=worst,
        clean_loss=clean,
        patterns=found,
        eps=eps,
        norm=program.norm,
        lam=float(plain.lam),
        lam_max=limit,
        loss=plain.loss,
        dtype=str(U.dtype),
        bias=bias,
        history={name: values[reached] for name, values in history.items()},
        notes=tuple(notes),
    )
