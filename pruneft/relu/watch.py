"""A solver driven round by round from the host: bounds, errors and seconds after each round.

The rounds are those of the loop on the device, so the answer is the same; what it costs is a call and a wait for each. Seconds are
of the solver alone: neither compiling nor the errors count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.relu.inputs import Fresh
from pruneft.relu.neurons import predict
from pruneft.relu.program import Program
from pruneft.relu.solution import Best, Rounds, Solution


def watched(
    program: Program,
    prepare: Callable[[Program], Any],
    rounds: Callable[[Program, Any], Rounds],
    fresh: Fresh | None = None,
) -> tuple[Solution, dict[str, np.ndarray]]:
    """Solve a program, and the record of how.

    Args:
      program: to be solved.
      prepare: what is computed of it once.
      rounds: the solver's loop, of the program and what was prepared.
      fresh: samples to predict, too.

    Returns:
      The solution, and arrays [T] by name: ``iteration``, ``objective``, ``dual`` (bounds so far), ``seconds``, ``error`` on the
      training data and, with ``fresh``, ``fresh_error``: the share of wrong signs for labels -1 and 1, else the relative error in the
      Euclidean norm.
    """
    seconds = 0.0
    compiled: dict[Any, Any] = {}

    def timed(function: Callable[..., Any], *inputs: Any) -> Any:
        nonlocal seconds
        if function not in compiled:
            compiled[function] = jax.jit(function).lower(*inputs).compile()
        began = time.perf_counter()
        found = jax.block_until_ready(compiled[function](*inputs))
        seconds += time.perf_counter() - began
        return found

    def begin(program: Program, prepared: Any) -> Any:
        return rounds(program, prepared).begin()

    def advance(program: Program, prepared: Any, state: Any) -> Any:
        state = rounds(program, prepared).advance(state)
        return state, rounds(program, prepared).going(state)

    def end(program: Program, prepared: Any, state: Any) -> Solution:
        return rounds(program, prepared).end(state)

    rows: list[dict[str, float]] = []

    def note(iteration: Any, best: Best | Solution) -> None:
        row = {"iteration": int(iteration), "objective": float(best.objective), "dual": float(best.dual)}
        row |= {"seconds": seconds, "error": float(_error(program, program.predict(best.U), program.y))}
        if fresh is not None:
            row["fresh_error"] = float(_error(program, predict(program, best.U, fresh.X), fresh.y))
        rows.append(row)

    prepared = timed(prepare, program)
    state = timed(begin, program, prepared)
    going = True
    while going:
        note(state.iteration, state.best)
        state, more = timed(advance, program, prepared, state)
        going = bool(more)
    solution: Solution = timed(end, program, prepared, state)
    note(solution.iterations, solution)
    return solution, {name: np.array([row[name] for row in rows]) for name in rows[0]}


@jax.jit
def _error(program: Program, f: Float[Array, " m"], y: Float[Array, " m"]) -> Float[Array, ""]:
    if program.losses.labels == "sign":
        return jnp.mean(((f > 0) != (y > 0)).astype(f.dtype))
    return jnp.linalg.norm(f - y) / jnp.maximum(jnp.linalg.norm(y), jnp.finfo(f.dtype).tiny)
