"""The figures on the edge of stability as recipes: single runs beside their prediction, sweeps, and the stability diagram of SGD.

Source: Damian, Nichani and Lee, arXiv:2209.15594; Wu and Su, arXiv:2305.17490, for SGD; problems, step sizes and numbers of trials are
ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from pruneft import dynamics
from pruneft.dynamics import sgd
from pruneft.random import Block, normals


class Run(NamedTuple):
    """One run of gradient descent beside its prediction.

    Attributes:
      help: what it shows.
      problem: ``"sensing"``, ``"quadratic"`` or ``"digits"``.
      f: 2 / eta over the peak of the sharpness.
      steps, flow: of gradient descent, and of gradient flow before it.
      seed: of a problem that shows it. Quadratic networks leave the domain of the theory at once, because the gradient of their sharpness
        is nearly parallel to the unstable direction (a share of .08 to .17 over 24 seeds); the figure says so.
    """

    help: str
    problem: str
    f: float
    steps: int
    flow: int
    seed: int


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
    "edge-sensing": Run("matrix sensing with 25 measurements", "sensing", 0.97, 120, 1000, 9),
    "edge-quadratic": Run("a two-layer network with quadratic activation", "quadratic", 0.98, 120, 1000, 19),
    "edge-digits": Run("a tanh network on handwritten digits", "digits", 0.95, 120, 1000, 3),
}
SWEEPS = {
    "edge-step-size": Sweep(
        "correlations of measured and predicted values over the step size",
        "step_size",
        {"problem": ("sensing", "quadratic", "digits"), "f": (0.9, 0.93, 0.95, 0.97, 0.98)},
        8,
    ),
    "edge-columns": Sweep(
        "columns that share the weight, at the edge and by gradient flow, over the weight of the penalty",
        "columns",
        {"lam": (0.0, 0.001, 0.003, 0.01), "f": (0.97,)},
        8,
    ),
}


def run(
    recipe: Run, *, seed: int | None = None, f: float | None = None, steps: int | None = None
) -> dict[str, np.ndarray]:
    """The arrays of `pruneft.dynamics.Track`, NumPy, by name; needs float64.

    Args:
      recipe: of `RUNS`.
      seed, f, steps: others than the recipe's.
    """
    key = jax.random.key(recipe.seed if seed is None else seed)
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


BATCHES = (1, 2, 4, 8, 16)
_INPUTS, _HIDDEN, _SAMPLES = 4, 5, 16


def network(weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """The output of a two-layer network with tanh activation."""
    return weights[1] @ jnp.tanh(weights[0] @ x)


def diagram(
    *, seed: int = 0, steps: int = 4000, runs: int = 16, places: int = 15, batches: tuple[int, ...] = BATCHES
) -> dict[str, np.ndarray]:
    """Where SGD leaves a minimum that fits every sample, over step size and batch, with the four thresholds; needs float64.

    A tanh network with 25 weights on 16 Gaussian samples, with labels of its own. Step sizes are spaced evenly in their logarithm, from
    half of the exact threshold of the smallest batch to 1.5 times what gradient descent bears.

    Args:
      seed: of the network, the samples and the batches.
      steps, runs, batches: as in `pruneft.dynamics.sgd.stability_diagram`.
      places: step sizes.

    Returns:
      The fields of `pruneft.dynamics.sgd.Diagram`, and those of `Thresholds`, each [batches], NumPy, by name.
    """
    key = jax.random.key(seed)
    first, second, inputs = normals(key, Block(0, _HIDDEN, _INPUTS), Block(1, 1, _HIDDEN), Block(2, _SAMPLES, _INPUTS))
    weights = (first / _INPUTS**0.5, second[0])
    gradients = sgd.output_gradients(network, weights, inputs)
    found = [sgd.thresholds(gradients, batch)._asdict() for batch in batches]
    bounds = {name: np.array([float(one[name]) for one in found]) for name in found[0]}
    etas = np.geomspace(bounds["exact"][batches.index(min(batches))] / 2, 1.5 * bounds["sharpness"][0], places)
    seen = sgd.stability_diagram(network, weights, inputs, etas, batches, key=key, steps=steps, runs=runs)
    return {name: np.asarray(value) for name, value in seen._asdict().items()} | bounds
