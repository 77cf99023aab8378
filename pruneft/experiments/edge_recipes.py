"""The figures on the edge of stability as recipes: single runs beside their prediction, and sweeps.

Source: Damian, Nichani and Lee, arXiv:2209.15594; problems, step sizes and numbers of trials are ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from pruneft import dynamics


class Run(NamedTuple):
    """One run of gradient descent beside its prediction.

    Attributes:
      help: what it shows.
      problem: ``"sensing"``, ``"quadratic"`` or ``"digits"``.
      f: 2 / eta over the peak of the sharpness.
      steps, flow: of gradient descent, and of gradient flow before it.
    """

    help: str
    problem: str
    f: float
    steps: int
    flow: int


class Sweep(NamedTuple):
    """Cells that are swept, and the function of `pruneft.experiments.edge_figure` that draws them.

    Attributes:
      help: what it shows.
      figure: the function.
      axes: values of the axes.
      seeds: trials of a cell.
    """

    help: str
    figure: str
    axes: dict[str, tuple[Any, ...]]
    seeds: int


RUNS = {
    "edge-sensing": Run("matrix sensing with 25 measurements", "sensing", 0.97, 120, 1000),
    "edge-quadratic": Run("a two-layer network with quadratic activation", "quadratic", 0.97, 120, 1000),
    "edge-digits": Run("a tanh network on handwritten digits", "digits", 0.95, 120, 1000),
}
SWEEPS = {
    "edge-step-size": Sweep(
        "correlations of measured and predicted values over the step size",
        "step_size",
        {"problem": ("sensing", "quadratic"), "f": (0.9, 0.93, 0.95, 0.97, 0.98)},
        8,
    ),
    "edge-columns": Sweep(
        "columns that share the weight, at the edge and by gradient flow, over the weight of the penalty",
        "columns",
        {"lam": (0.0, 0.001, 0.003, 0.01), "f": (0.97,)},
        8,
    ),
}


def run(recipe: Run, *, seed: int = 0, f: float | None = None, steps: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of `pruneft.dynamics.Track`, NumPy, by name; needs float64.

    Args:
      recipe: of `RUNS`.
      seed: of the problem.
      f, steps: others than the recipe's.
    """
    key = jax.random.key(seed)
    if recipe.problem == "digits":
        problem = dynamics.digits(key)
    else:
        problem = dynamics.sensing(key, rank_one=recipe.problem == "quadratic")
    flat, back = ravel_pytree(problem.params)
    share = recipe.f if f is None else f

    @jax.jit
    def compute(problem: dynamics.Problem, start: jax.Array) -> dynamics.Track:
        def loss(vector: jax.Array) -> jax.Array:
            return problem.loss(back(vector))

        met = dynamics.onset(loss, start, share, steps=recipe.flow)
        return dynamics.track(loss, met.theta, met.eta, steps=recipe.steps if steps is None else steps)

    return {name: np.asarray(value) for name, value in compute(problem, flat)._asdict().items()}
