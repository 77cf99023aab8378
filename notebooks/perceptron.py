"""When can n random points in d dimensions be separated from their labels by a plane? Cover (1965): up to n = 2 d."""

import jax
import jax.numpy as jnp

from pruneft import Axis, Experiment, Status, Trial
from pruneft.random import Block, normals

BUDGET = 20_000


def resolve(cell):
    d = cell.get("d", 20)
    return {"d": d, "n": cell["n"] if "n" in cell else round(cell.get("n_per_d", 1.5) * d)}


def trial(bucket):  # padded sizes: programs are compiled for few shapes, points that are not there are zero
    n, d = bucket["n"], bucket["d"]

    def draw(key, inputs):
        (points,) = normals(key, Block(0, n, d))  # labels are absorbed: a point with label -1 is its mirror image
        return jnp.where((jnp.arange(n) < inputs["n"])[:, None], points, 0)

    def init(points):
        return {"w": jnp.sum(points, axis=0), "steps": jnp.zeros((), jnp.int32)}

    def step(points, state):  # the perceptron rule on the point that is worst off
        worst = points[jnp.argmin(points @ state["w"])]
        return {"w": state["w"] + worst, "steps": state["steps"] + 1}

    def separated(points, state):
        there = jnp.any(points != 0, axis=1)
        return jnp.all((points @ state["w"] > 0) | ~there)

    def finished(points, state):
        return separated(points, state) | (state["steps"] >= BUDGET)

    def report(points, state):
        success = separated(points, state)
        status = jnp.where(success, Status.CONVERGED, Status.BUDGET_SPENT)
        return {"status": status, "success": success, "steps": state["steps"]}

    return Trial(draw=draw, init=init, step=step, finished=finished, report=report)


PERCEPTRON = Experiment(
    name="perceptron",
    subject="gaussian-points",  # with the data axes and the seed, what a trial's key is made of
    axes=(
        Axis(name="d", default=20, kind="data", type=int, help="dimension"),
        Axis(name="n", default=None, kind="data", type=int, help="points (or give n_per_d)"),
        Axis(name="n_per_d", default=1.5, kind="derived", help="points per dimension"),
    ),
    resolve=resolve,
    sizes=lambda cell: {"n": cell["n"], "d": cell["d"]},
    inputs=lambda cell: {"n": cell["n"]},
    trial=trial,
    expected_steps=lambda cell: 50.0 if cell["n"] < 1.4 * cell["d"] else BUDGET / 4,
    default_grid={"d": (10, 20, 30), "n_per_d": (1.0, 1.4, 1.8, 2.2)},
    module=__name__,
)
