"""What the solvers of minimum-norm programs share: the bounds that a run has proven, when it ends, and the answer.

An interpolant is never cheaper than the optimum, and a dual point never proves more than it. `Bounds` keeps the best of each; a run
goes on until they agree, so a slow lane does not pass for one that converged to something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pruneft.relu.planted.blocks import Blocks
from pruneft.relu.solution import relative_gap
from pruneft.status import Status


class Bounds(NamedTuple):
    """What a run has proven so far; the part ``best`` of every solver's state.

    Attributes:
      iteration: int32.
      W: [d, p] the best point so far.
      objective: at W; an upper bound of the optimum.
      nu: [n] the best dual point so far.
      dual: its value; a lower bound of the optimum.
      infeasible: nothing interpolates y.
      broken: the next iterate was not finite, and the run ends.
    """

    iteration: Int[Array, ""]
    W: Float[Array, "d p"]
    objective: Float[Array, ""]
    nu: Float[Array, " n"]
    dual: Float[Array, ""]
    infeasible: Bool[Array, ""]
    broken: Bool[Array, ""]

    @property
    def gap(self) -> Float[Array, ""]:
        """The relative gap between the two."""
        return relative_gap(self.objective, self.dual)

    def seen(
        self,
        W: Float[Array, "d p"],
        objective: Float[Array, ""],
        nu: Float[Array, " n"],
        dual: Float[Array, ""],
        *,
        iterations: int = 1,
        broken: Bool[Array, ""],
    ) -> Bounds:
        """With a point and a dual point more, after so many iterations; values that are not finite change nothing."""
        lower, higher = objective < self.objective, dual > self.dual  # False for NaN
        return self._replace(
            iteration=self.iteration + iterations,
            W=jnp.where(lower, W, self.W),
            objective=jnp.where(lower, objective, self.objective),
            nu=jnp.where(higher, nu, self.nu),
            dual=jnp.where(higher, dual, self.dual),
            broken=broken,
        )

    def over(self, budget: int | Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the run can go no further, whatever the gap."""
        return (self.iteration >= budget) | self.infeasible | self.broken


class Interpolant(NamedTuple):
    """The answer; a pytree, with one leading axis more under vmap.

    Attributes:
      W: [d, p] blocks; ``A W = y`` to rounding if there is no misfit.
      objective: the sum of their norms, and the misfit over 2 lam if that is positive; an upper bound of the optimum.
      dual: a lower bound of the optimum.
      gap: ``(objective - dual) / objective``.
      iterations: int32.
      status: int32, a `pruneft.status.Status`: converged, budget spent, infeasible, all zero, or not finite.
      nu: [n] the dual point that proves the lower bound.
    """

    W: Float[Array, "d p"]
    objective: Float[Array, ""]
    dual: Float[Array, ""]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]
    status: Int[Array, ""]
    nu: Float[Array, " n"]


def run(
    begin: Any, advance: Callable[[Any], Any], tol: float | Float[Array, ""], budget: int | Int[Array, ""]
) -> Interpolant:
    """The answer of a solver: ``advance`` from the state ``begin`` on, until the gap is ``tol`` or the run can go no further."""
    state = jax.lax.while_loop(lambda state: ~(state.best.gap <= tol) & ~state.best.over(budget), advance, begin)
    best: Bounds = state.best
    reached = jnp.where(jnp.any(best.W), Status.CONVERGED, Status.ALL_ZERO)
    missed = jnp.where(best.broken & ~jnp.isfinite(best.gap), Status.NOT_FINITE, Status.BUDGET_SPENT)
    status = jnp.where(best.infeasible, Status.INFEASIBLE, jnp.where(best.gap <= tol, reached, missed))
    return Interpolant(
        W=best.W,
        objective=best.objective,
        dual=best.dual,
        gap=best.gap,
        iterations=best.iteration,
        status=jnp.asarray(status, jnp.int32),
        nu=best.nu,
    )


def settings(
    blocks: Blocks,
    y: Float[Array, " n"],
    lam: float | Float[Array, ""],
    tol: float | Float[Array, ""],
    budget: int | Int[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    """``lam``, ``tol`` and the budget as arrays; numbers that make no sense are refused, traced ones cannot be looked at.

    Raises:
      ValueError: y has another length than the data have rows, lam is negative, or tol or the budget not positive.
    """
    if y.ndim != 1 or y.shape[0] != blocks.n:
        raise ValueError(f"y must have one number for each of the {blocks.n} rows of X: got shape {tuple(y.shape)}.")
    for name, value, wanted in (
        ("lam", lam, "not be negative"),
        ("tol", tol, "be positive"),
        ("max_iterations", budget, "be positive"),
    ):
        if not isinstance(value, jax.core.Tracer):
            least = np.min(np.asarray(value))
            if not (least >= 0 if name == "lam" else least > 0):  # nor NaN
                raise ValueError(f"{name} must {wanted}: got {value}.")
    dtype = blocks.X.dtype
    return jnp.asarray(lam, dtype), jnp.asarray(tol, dtype), jnp.asarray(budget, jnp.int32)
