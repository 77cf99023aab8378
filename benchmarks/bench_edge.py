"""Sharpness, monitoring and tracking at the edge of stability, in units of a gradient step; float32 beside float64.

Run: ``python -m benchmarks.collect edge``; some minutes. With PRUNEFT_BENCH_BRIEF=1 in the environment fewer rounds, a minute.
"""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from benchmarks.alone import tell
from benchmarks.table import Table
from benchmarks.timing import Case, interleave, ratio
from pruneft import dynamics
from pruneft.dynamics import constrained

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
ROUNDS = 3 if BRIEF else 11
STEPS = 100  # gradient steps in one call
EVERY = 10
TRACKED = 5  # tracked steps in one call
WARM = 30  # steps of gradient descent before anything is measured, so that the sharpness moves as it does in training


class Setting(NamedTuple):
    """A problem over one vector, at a point on the way to its edge, with its step size."""

    loss: Any
    theta: jax.Array
    eta: jax.Array


PROBLEMS = {
    "sensing, n = 100": lambda dtype: dynamics.sensing(jax.random.key(9), dtype=dtype),
    "digits, n = 975": lambda dtype: dynamics.digits(jax.random.key(3), dtype=dtype),
    "digits, n = 54 203": lambda dtype: dynamics.digits(jax.random.key(3), widths=(200, 200), dtype=dtype),
}
FLOW = {"sensing, n = 100": 400, "digits, n = 975": 300, "digits, n = 54 203": 60}


@functools.cache
def setting(name: str, dtype: str = "float64") -> Setting:
    """The point of float64, so that both precisions are measured at the same."""
    made = PROBLEMS[name](jnp.dtype("float64"))
    flat, back = ravel_pytree(made.params)
    found = jax.jit(lambda start: dynamics.onset(lambda v: made.loss(back(v)), start, 0.97, steps=FLOW[name]))(flat)
    here = PROBLEMS[name](jnp.dtype(dtype))
    _, back = ravel_pytree(here.params)
    return Setting(lambda v: here.loss(back(v)), found.theta.astype(dtype), found.eta.astype(dtype))


def waited(function: Any, *args: Any) -> Any:
    """A call that waits for its result."""
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*args))


def descent(case: Setting, watch: dynamics.Monitor | None = None) -> Any:
    """`STEPS` steps of gradient descent by optax in one scan, watched or not."""
    rule = optax.sgd(case.eta)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        theta, state, seen = carry
        change, state = rule.update(jax.grad(case.loss)(theta), state)
        theta = optax.apply_updates(theta, change)
        return (theta, state, seen if watch is None else watch.update(seen, theta)), None

    def run(theta: jax.Array) -> Any:
        seen = () if watch is None else watch.init(theta)
        return jax.lax.scan(step, (theta, rule.init(theta), seen), None, length=STEPS)[0]

    return run


def later(case: Setting) -> jax.Array:
    """The point one gradient step on."""
    return case.theta - case.eta * jax.grad(case.loss)(case.theta)


def costs() -> Table:
    """Single calls over one gradient step."""
    rows, says = [], []
    for name in PROBLEMS:
        tell(f"edge: {name}")
        case = setting(name)
        first = jax.jit(lambda v, case=case: dynamics.sharpness(case.loss, v, 2))(case.theta)
        one = first._replace(
            eigenvalues=first.eigenvalues[:1], eigenvectors=first.eigenvectors[:1], residuals=first.residuals[:1]
        )
        then, loss = later(case), case.loss
        calls = {
            "product": (lambda v, u, loss=loss: dynamics.hessian_product(loss, v, u), then, first.eigenvectors[0]),
            "gradient of S": (
                lambda v, u, loss=loss: dynamics.sharpness_gradient(loss, v, u),
                then,
                first.eigenvectors[0],
            ),
            "cold, k = 1": (lambda v, loss=loss: dynamics.sharpness(loss, v), then),
            "warm, k = 1": (lambda v, old, loss=loss: dynamics.sharpness(loss, v, previous=old), then, one),
            "warm, k = 1, tol 1e-4": (
                lambda v, old, loss=loss: dynamics.sharpness(loss, v, previous=old, tol=1e-4),
                then,
                one,
            ),
            "warm, k = 2": (
                lambda v, old, loss=loss: dynamics.sharpness(loss, v, 2, previous=old, check=False),
                then,
                first,
            ),
        }
        runs = {label: waited(*call) for label, call in calls.items()}
        times = interleave(
            {"plain": Case(waited(descent(case), case.theta), STEPS)}
            | {label: Case(run) for label, run in runs.items()},
            rounds=ROUNDS,
        )
        exact = None
        if case.theta.size < 2000:
            exact = float(np.linalg.eigvalsh(jax.hessian(loss)(then))[-1])
        for label, run in runs.items():
            found = run()
            solved = isinstance(found, dynamics.Sharpness)
            off = "" if exact is None or not solved else f"{abs(float(found.eigenvalues[0]) / exact - 1):.0e}"
            rows.append(
                [name, label, f"{ratio(times, label, 'plain'):.1f}", str(int(found.products)) if solved else "", off]
            )
        says.append(
            f"{ratio(times, 'warm, k = 1, tol 1e-4', 'plain'):.1f} at {name.partition('=')[2].strip()} parameters"
        )
    return Table(
        title="Cost in gradient steps",
        columns=["problem", "call", "gradient steps", "products", "relative error of S"],
        rows=rows,
        says=f"A sharpness as the monitor takes it costs {', '.join(says)}.",
    )


def monitoring() -> Table:
    """A run that is watched over a plain one."""
    rows = []
    for name in PROBLEMS:
        tell(f"edge: monitoring {name}")
        case = setting(name)
        begin = jax.lax.fori_loop(
            0, WARM, lambda _, v, case=case: v - case.eta / 2 * jax.grad(case.loss)(v), case.theta
        )
        watch = dynamics.monitor(case.loss, every=EVERY, capacity=64)
        times = interleave(
            {
                "plain": Case(waited(descent(case), begin), STEPS),
                "watched": Case(waited(descent(case, watch), begin), STEPS),
            },
            rounds=ROUNDS,
        )
        history = watch.history(jax.jit(descent(case, watch))(begin)[2])
        good = int(np.sum(history.status == 1))
        rows.append([name, f"{ratio(times, 'watched', 'plain'):.2f}", f"{good} of {len(history.step)}"])
    worst = max(float(row[1]) for row in rows)
    return Table(
        title=f"Sharpness every {EVERY} steps, over a plain run of optax",
        columns=["problem", "time", "records that converged"],
        rows=rows,
        says=f"At most {worst:.2f} times a plain run.",
    )


def tracking() -> Table:
    """Gradient descent with constrained trajectory and prediction over plain steps, in both precisions."""
    rows = []
    for name in list(PROBLEMS)[:2]:
        tell(f"edge: tracking {name}")
        cases, plain = {}, {}
        seen = {}
        for dtype in ("float64", "float32"):
            case = setting(name, dtype)

            def run(theta: jax.Array, case: Setting = case) -> dynamics.Track:
                return dynamics.track(case.loss, theta, case.eta, steps=TRACKED)

            call = waited(run, case.theta)
            seen[dtype] = call()
            cases[dtype] = Case(call, TRACKED)
            plain[f"plain {dtype}"] = Case(waited(descent(case), case.theta), STEPS)
        times = interleave(cases | plain, rounds=ROUNDS)
        for dtype in cases:
            case, found = setting(name, dtype), seen[dtype]
            rows.append(
                [
                    name,
                    dtype,
                    f"{ratio(times, dtype, f'plain {dtype}'):.0f}",
                    f"{ratio(times, dtype, 'float64'):.2f}",
                    f"{float(jnp.max(jnp.abs(case.eta * found.sharpness_constrained - 2))):.0e}",
                    f"{float(jnp.max(found.tangency)):.0e}",
                ]
            )
    return Table(
        title="Full tracking (three sweeps, prediction, sharpness of the run)",
        columns=["problem", "type", "gradient steps a step", "over float64", "|eta S - 2|", "|u . grad L| / |grad L|"],
        rows=rows,
        says="A tracked step makes five eigen-solves and four third derivatives.",
    )


def precision() -> Table:
    """What float32 gives of the quantities of one point, against float64 at the same point."""
    rows = []
    for name in list(PROBLEMS)[:2]:
        points = {}
        for dtype in ("float64", "float32"):
            case = setting(name, dtype)
            points[dtype] = jax.jit(lambda v, case=case: constrained.look(case.loss, v, case.eta))(case.theta)
        good, rough = points["float64"], jax.tree.map(lambda part: np.asarray(part, np.float64), points["float32"])

        def off(field: str, good: Any = good, rough: Any = rough) -> str:
            a, b = np.asarray(getattr(good, field)), getattr(rough, field)
            return f"{np.linalg.norm(np.abs(a) - np.abs(b)) / np.linalg.norm(a):.0e}"

        rows.append([name, *(off(field) for field in ("sharpness", "second", "u", "slope", "alpha", "delta"))])
    return Table(
        title="Relative error of float32 at the same point",
        columns=["problem", "S", "lambda_2", "u", "grad S", "alpha", "delta"],
        rows=rows,
        says="Vectors are compared by the sizes of their entries, because their sign is free.",
    )


def measure() -> list[Table]:
    """The tables of this file."""
    return [costs(), monitoring(), tracking(), precision()]


def main() -> None:
    """Print the tables."""
    jax.config.update("jax_enable_x64", True)
    for table in measure():
        print(table.markdown(), end="\n\n")


if __name__ == "__main__":
    main()
