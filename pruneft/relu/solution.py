"""What every solver of a `Program` returns, and the record that it keeps while it runs.

A solver's rigour lies in two numbers: the objective of a point that satisfies every constraint, which is never below the
optimum, and the value of a dual point, which is never above it. `Best` keeps the best of each and the history of both;
`finish` makes the `Solution` of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.relu.program import Program
from pruneft.status import Status


class History(NamedTuple):
    """Bounds along the iterations, in arrays of fixed length; rows that were not reached have iteration -1 and NaN.

    Attributes:
      iteration: [T] int32, after how many iterations the bounds were taken.
      objective: [T] least objective of a feasible point so far.
      dual: [T] largest dual value so far.
    """

    iteration: Int[Array, " T"]
    objective: Float[Array, " T"]
    dual: Float[Array, " T"]


class Solution(NamedTuple):
    """The answer of a solver; a pytree, with one leading axis more under vmap.

    Attributes:
      U: [d, p] blocks in the order of `Program.S`, feasible: every cone holds as computed.
      objective: loss and penalty at ``U``; an upper bound of the optimum.
      dual: a lower bound of the optimum; minus infinity where no dual point was found.
      gap: ``(objective - dual) / |objective|``, relative.
      iterations: int32.
      status: int32, a `pruneft.status.Status`: converged, budget spent, not finite, or all zero.
      history: both bounds along the iterations.
    """

    U: Float[Array, "d p"]
    objective: Float[Array, ""]
    dual: Float[Array, ""]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]
    status: Int[Array, ""]
    history: History


class Best(NamedTuple):
    """The best feasible point and the best dual value that a solver has met, and the history of both; part of its state."""

    U: Float[Array, "d p"]
    objective: Float[Array, ""]
    dual: Float[Array, ""]
    rows: Int[Array, ""]
    history: History

    @classmethod
    def start(cls, program: Program, length: int) -> Best:
        """Nothing met but the zero point, which is always feasible. ``length``: how many bounds the history can hold."""
        dtype = program.X.dtype
        nothing = jnp.full(length, jnp.nan, dtype)
        U = jnp.zeros((program.d, program.coned.size), dtype)
        return cls(
            U=U,
            objective=program.at_zero(),
            dual=jnp.asarray(-jnp.inf, dtype),
            rows=jnp.zeros((), jnp.int32),
            history=History(jnp.full(length, -1, jnp.int32), nothing, nothing),
        )

    @property
    def gap(self) -> Float[Array, ""]:
        """The relative gap between the two."""
        return relative_gap(self.objective, self.dual)

    def seen(
        self, iteration: Int[Array, ""], U: Float[Array, "d p"], objective: Float[Array, ""], dual: Float[Array, ""]
    ) -> Best:
        """With a feasible point and a dual value more; values that are not finite change nothing.

        A history that is full overwrites its last row.
        """
        better = objective < self.objective  # False for NaN
        least = jnp.where(better, objective, self.objective)
        largest = jnp.where(dual > self.dual, dual, self.dual)
        row = jnp.minimum(self.rows, self.history.iteration.size - 1)
        history = History(
            self.history.iteration.at[row].set(jnp.asarray(iteration, jnp.int32)),
            self.history.objective.at[row].set(least),
            self.history.dual.at[row].set(largest),
        )
        return Best(jnp.where(better, U, self.U), least, largest, self.rows + 1, history)


def relative_gap(objective: Float[Array, ""], dual: Float[Array, ""]) -> Float[Array, ""]:
    """``(objective - dual) / |objective|``; 0 where both are zero."""
    return (objective - dual) / jnp.maximum(jnp.abs(objective), jnp.finfo(objective.dtype).tiny)


def finish(best: Best, iterations: Int[Array, ""], tol: Float[Array, ""], broken: Bool[Array, ""]) -> Solution:
    """The solution that the best of a run amounts to.

    Args:
      best: what was met.
      iterations: how many were taken.
      tol: the relative gap that was asked for.
      broken: whether the iterates stopped being finite.
    """
    zero = ~jnp.any(best.U)
    reached = jnp.where(zero, Status.ALL_ZERO, Status.CONVERGED)
    missed = jnp.where(broken, Status.NOT_FINITE, Status.BUDGET_SPENT)
    status = jnp.where(best.gap <= tol, reached, missed)
    return Solution(
        U=best.U,
        objective=best.objective,
        dual=best.dual,
        gap=best.gap,
        iterations=jnp.asarray(iterations, jnp.int32),
        status=jnp.asarray(status, jnp.int32),
        history=best.history,
    )


class Rounds(NamedTuple):
    """A solver's loop in its parts, so that a device runs it (`run`) and a host that watches runs the same one.

    Attributes:
      begin: () -> state; every state has ``best`` and ``iteration``.
      going: state -> bool [], whether another round is due.
      advance: state -> state, one round.
      end: state -> `Solution`.
    """

    begin: Callable[[], Any]
    going: Callable[[Any], Bool[Array, ""]]
    advance: Callable[[Any], Any]
    end: Callable[[Any], Solution]

    def run(self) -> tuple[Solution, Any]:
        """The solution and the last state, in one loop on the device."""
        state = jax.lax.while_loop(self.going, self.advance, self.begin())
        return self.end(state), state
