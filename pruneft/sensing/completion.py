"""Completion of a positive semidefinite matrix from some of its entries, of low rank or only approximately so."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from pruneft.optim import LMConfig, levenberg_marquardt
from pruneft.pipeline import Anneal, Penalty, penalty_gradient
from pruneft.random import Block, normals
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.entries import Entries, entries_of
from pruneft.sensing.problem import Problem
from pruneft.sensing.recipe import schedule
from pruneft.sensing.recover import recover
from pruneft.sensing.result import Recovery

# At this smoothing R_beta(U) is ||U||_F^2 / sqrt(beta) to a percent for data of unit size: the trace norm of U Uᵀ.
_BETA = 100.0
_FIRST = 1.5  # threshold that trace lanes begin with, in units of the size of M
_START = 2  # stream of the starting factor; 0 and 1 draw instances
_COLUMNS = 0.05  # share of the largest singular value above which a direction of a low-rank lane counts
# Up to so many multiplications in an iteration of Levenberg-Marquardt low-rank lanes are fine-tuned before they are compared.
_AFFORDABLE = 1e8
# Where that is not affordable fine-tuning is taken to help from so many entries a degree of freedom on. A kernel matrix of 48 rows, 60%
# seen, has 1.3 for each of the rank that its lanes keep, and a fine-tuned fit is a third worse: 1.18 instead of .80 of soft-impute's error.
_SEARCHED = 2.0
_SPARE = 3  # columns that the low-rank fit may have above those that its lanes kept
TAUS = (0.02, 0.007, 0.002, 0.0007, 0.0002, 5e-5)

Kind = Literal["low rank", "trace"]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A completed matrix, and how it was chosen.

    Attributes:
      U: [d, k], the factor; in root units of Y.
      chosen: "low rank" or "trace". A low-rank fit is that of `recover` where fine-tuning predicts held-out entries better than the
        trained factor itself, as for matrices of exactly low rank; otherwise the trained factor.
      tau: threshold of the trained factor, in units of the size of M; NaN where the answer is `recover`'s.
      taus: [t] the thresholds that were compared.
      trace_errors, low_rank_errors: [splits, t], root mean square error on the entries that were held out, relative to that of the
        entries themselves, for each threshold of either kind; low rank without fine-tuning.
      fine_tuned_errors: [splits], that of the low-rank lanes at their best threshold after fine-tuning at the rank of their columns;
        infinite if that rank has as many degrees of freedom as there are entries. Where fine-tuning would cost more than 1e8
        multiplications an iteration: the errors without it from two entries a degree of freedom on, infinite below.
      recovery: of the low-rank fit on all entries; None if "trace" was chosen, or the low-rank fit is not `recover`'s.
    """

    U: np.ndarray
    chosen: Kind
    tau: float
    taus: np.ndarray
    trace_errors: np.ndarray
    low_rank_errors: np.ndarray
    fine_tuned_errors: np.ndarray
    recovery: Recovery | None

    @property
    def matrix(self) -> np.ndarray:
        """[d, d], ``U Uᵀ``."""
        found: np.ndarray = self.U @ self.U.T
        return found

    @property
    def expected_error(self) -> float:
        """Held-out error of what was chosen, mean over the splits."""
        if self.chosen == "low rank":
            untuned = np.min(np.mean(self.low_rank_errors, axis=0))
            return float(min(untuned, np.mean(self.fine_tuned_errors)))
        return float(np.min(np.mean(self.trace_errors, axis=0)))


def complete(
    Y: Any,
    mask: Any = None,
    *,
    kind: Kind | None = None,
    k: int | None = None,
    taus: Any = TAUS,
    splits: int = 4,
    share: float = 0.1,
    steps: int = 2000,
    seed: int = 0,
    dtype: Any = None,
) -> Completion:
    """Complete a positive semidefinite matrix of which some entries are known: by low rank or by trace norm, what predicts better.

    Entries are held out, several times; factors are trained on the others at each threshold tau with either penalty, all in one
    program, those of low rank fine-tuned too; what has the least error on what was held out is fitted to all entries.
    A kernel matrix is of low rank only approximately: there a fine-tuned fit is up to twice as far off as the trace norm's.

    Args:
      Y, mask: as in `entries_of`.
      kind: to fix it; chosen by hold-out if not given.
      k: columns trained; d/2 if not given.
      taus: thresholds to compare, in units of the size of M, falling.
      splits: how often entries are held out; ``share`` of them each time.
      steps: of training.
      seed: of starts and splits.
      dtype: of the low-rank fit, float32 or float64; JAX's default if not given. Training runs in float32.

    Returns:
      A `Completion`.

    Raises:
      ValueError: as `entries_of`; numbers out of range; fewer than ten entries.

    Source: the trace norm as the Frobenius norm of a factor, Srebro, Rennie and Jaakkola (2004); the annealed weight and the choice
    are ours.
    """
    operator, y = entries_of(Y, mask, dtype=dtype)
    n, d = operator.n, operator.d
    k = max(1, d // 2) if k is None else k
    thresholds = np.asarray(taus, np.float64).reshape(-1)
    _check(n, d, k, thresholds, splits, share, steps, kind)
    Problem(operator, y)  # its checks
    left_out = _splits(n, splits, max(1, round(share * n)), seed)
    lanes = [np.array([make(tau) for tau in thresholds]) for make in (_low_rank_schedule, _trace_schedule)]
    grid = np.concatenate(lanes)
    kept = np.repeat(~left_out, len(grid), axis=0)
    factors = train_lanes(operator, y, kept, np.tile(grid, (splits, 1)), k=k, steps=steps, seed=seed)
    errors = _held_out(operator, y, factors, ~kept).reshape(splits, 2, len(thresholds))
    low, trace = (int(np.argmin(row)) for row in np.mean(errors, axis=0))
    begin = factors.reshape(splits, 2, len(thresholds), d, k)[:, 0, low]
    rank = _columns(begin)
    untuned = errors[:, 0, low]
    fine = np.full(splits, np.inf)
    if float(operator.dof(rank)) < n - np.sum(left_out[0]):
        if n * (d * rank) ** 2 <= _AFFORDABLE:
            fine = _held_out(operator, y, _fine_tuned(operator, y, ~left_out, begin, rank), left_out)
        elif n >= _SEARCHED * float(operator.dof(rank)):
            fine = untuned
    low_rank_error = min(np.mean(fine), np.mean(untuned))
    chosen: Kind = kind or ("low rank" if low_rank_error <= np.mean(errors[:, 1, trace]) else "trace")
    common: dict[str, Any] = {
        "taus": thresholds,
        "low_rank_errors": errors[:, 0],
        "trace_errors": errors[:, 1],
        "fine_tuned_errors": fine,
    }
    if chosen == "low rank" and np.mean(fine) <= np.mean(untuned):
        fitted = recover(Problem(operator, y), k=min(d, rank + _SPARE), rank=rank, seed=seed, dtype=dtype)
        return Completion(U=np.asarray(fitted.U), chosen=chosen, tau=math.nan, recovery=fitted, **common)
    group, best = (0, low) if chosen == "low rank" else (1, trace)
    trained = train_lanes(operator, y, np.ones((1, n)), lanes[group][best][None], k=k, steps=steps, seed=seed)
    return Completion(U=trained[0], chosen=chosen, tau=float(thresholds[best]), recovery=None, **common)


def train_lanes(
    operator: Entries, y: np.ndarray, kept: np.ndarray, schedules: np.ndarray, *, k: int, steps: int, seed: int = 0
) -> np.ndarray:
    """A factor [d, k] for each lane, in root units of y: annealed training on the entries that the lane may see.

    Args:
      operator, y: all that was observed.
      kept: [lanes, n], 1 or 0, what each lane sees.
      schedules: [lanes, 4], ends of its penalty in the order of `pruneft.pipeline.Penalty`, normalised units.
      k: columns.
      steps: of Adam, as in `Anneal`.
      seed: of the start, which the lanes share.
    """
    values = np.asarray(y, np.float64)
    size = float(operator.size(jnp.asarray(values), operator.n, operator.d))
    factors = _trained(
        operator,
        jnp.asarray(values / size, jnp.float32),
        jnp.asarray(kept, jnp.float32),
        jnp.asarray(schedules, jnp.float32),
        jax.random.key(seed),
        k=k,
        steps=steps,
    )
    return np.asarray(factors, np.float64) * math.sqrt(size)


@functools.partial(jax.jit, static_argnames=("k", "steps"))
def _trained(
    operator: Entries, y: Array, kept: Array, schedules: Array, key: Array, *, k: int, steps: int
) -> Float[Array, "lanes d k"]:
    anneal = Anneal()
    optimizer = anneal.optimizer(steps)
    (drawn,) = normals(key, Block(_START, k, operator.d))
    begin = drawn.T * jnp.float32(anneal.start_norm / math.sqrt(operator.d * k))

    def lane(kept: Array, ends: Array) -> Array:
        n = jnp.sum(kept)

        def step(carry: tuple[Array, Any], count: Array) -> tuple[tuple[Array, Any], None]:
            factor, state = carry
            errors = operator.whiten((operator.image(factor) - y) * kept, n, operator.d)
            pull = penalty_gradient(Penalty(*ends), count / jnp.float32(steps), factor)
            updates, state = optimizer.update(4 / n * operator.pull(errors, factor) + pull, state, factor)
            return (optax.apply_updates(factor, updates), state), None

        return jax.lax.scan(step, (begin, optimizer.init(begin)), jnp.arange(steps, dtype=jnp.float32))[0][0]

    return jax.vmap(lane)(kept, schedules)


def _trace_schedule(tau: float) -> tuple[float, float, float, float]:
    weight = 2 * math.sqrt(_BETA)
    return weight * max(_FIRST, tau), weight * tau, _BETA, _BETA


def _low_rank_schedule(tau: float) -> tuple[float, float, float, float]:
    ends = schedule(Anneal(), threshold=tau)
    return ends.lam_start, ends.lam_end, ends.beta_start, ends.beta_end


def _splits(n: int, splits: int, count: int, seed: int) -> np.ndarray:
    """[splits, n], which entries are held out; disjoint as long as there are enough."""
    order = np.random.default_rng(seed).permutation(n)
    out = np.zeros((splits, n), bool)
    for row in range(splits):
        out[row, np.take(order, np.arange(row * count, (row + 1) * count), mode="wrap")] = True
    return out


def _held_out(operator: Entries, y: np.ndarray, factors: np.ndarray, out: np.ndarray) -> np.ndarray:
    """[lanes], relative root mean square error on held-out entries; those off the diagonal count twice, as in the matrix."""
    first, second = operator.pairs().T
    twice = np.where(first == second, 1.0, 2.0) * out
    found = np.einsum("lnk,lnk->ln", factors[:, first], factors[:, second])
    errors = np.sum(twice * np.square(found - y), axis=1) / np.sum(twice, axis=1)
    size = np.sum(np.where(first == second, 1.0, 2.0) * np.square(y)) / np.sum(np.where(first == second, 1.0, 2.0))
    relative: np.ndarray = np.sqrt(errors / size)
    return np.where(np.isfinite(relative), relative, np.inf)


def _columns(factors: np.ndarray) -> int:
    """Directions that count, median over the lanes."""
    values = np.linalg.svd(factors, compute_uv=False)
    return max(1, round(float(np.median(np.sum(values > _COLUMNS * values[:, :1], axis=-1)))))


def _fine_tuned(operator: Entries, y: np.ndarray, kept: np.ndarray, factors: np.ndarray, rank: int) -> np.ndarray:
    """[lanes, d, rank], Levenberg-Marquardt on the entries that each lane sees, from its largest directions."""
    left, values, _ = np.linalg.svd(factors, full_matrices=False)
    dtype = jnp.zeros(()).dtype
    size = float(np.sqrt(np.mean(np.square(y)))) or 1.0
    begin = (left * values[:, None])[..., :rank] / math.sqrt(size)
    found = _refined(cast(operator, dtype), *(jnp.asarray(part, dtype) for part in (y / size, kept, begin)))
    return np.asarray(found, np.float64) * math.sqrt(size)


@jax.jit
def _refined(operator: Entries, y: Array, kept: Array, begin: Float[Array, "lanes d r"]) -> Float[Array, "lanes d r"]:
    def lane(kept: Array, start: Array) -> Array:
        def errors(x: Array) -> Array:
            return kept * (operator.image(x.reshape(start.shape)) - y)

        def slopes(x: Array) -> Array:
            return (kept[:, None, None] * operator.jacobian(x.reshape(start.shape))).reshape(operator.n, -1)

        return levenberg_marquardt(errors, slopes, start.reshape(-1), config=LMConfig()).x.reshape(start.shape)

    return jax.vmap(lane)(kept, begin)


def _check(n: int, d: int, k: int, taus: np.ndarray, splits: int, share: float, steps: int, kind: str | None) -> None:
    if n < 10:
        raise ValueError(
            f"a tenth of the entries is held out, so there must be ten at least: got {n} observed entries."
        )
    if not 1 <= k <= d:
        raise ValueError(f"k (columns trained) must be from 1 to d={d}: got {k}.")
    if len(taus) == 0 or not np.all(np.isfinite(taus) & (taus > 0)):
        raise ValueError(f"taus must be one or more positive thresholds, in units of the size of M: got {taus}.")
    if splits < 1 or not 0 < share < 1:
        raise ValueError(f"splits must be at least 1 and share between 0 and 1: got {splits} and {share}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1: got {steps}.")
    if kind not in (None, "low rank", "trace"):
        raise ValueError(f"kind must be 'low rank', 'trace' or None: got {kind!r}.")
