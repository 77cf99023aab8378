"""Rank-one measurements: against peers on the same instances, the cost of a step against its limits, and a large quadratic network.

Run: ``python -m benchmarks.collect rank_one``; with PRUNEFT_BENCH_BRIEF=1 in the environment fewer instances and smaller sizes.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rank_one_peers as peers
from benchmarks.alone import SETTINGS, tell
from benchmarks.inside import exponent
from benchmarks.table import Table, seconds, times
from benchmarks.timing import Case, interleave, median
from pruneft import Problem, recover
from pruneft.sensing import draw_family
from pruneft.sensing.operators.rank_one import RankOne, degrees

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
INSTANCES = 3 if BRIEF else 12
# field, d, r, sigma, n/p
SETTINGS_OF = (
    (("real", 12, 1, 0.0, (1.3, 2.0)),)
    if BRIEF
    else (
        ("real", 12, 1, 0.0, (1.5, 2.0)),
        ("real", 16, 2, 0.0, (1.2, 2.0)),
        ("real", 16, 2, 0.1, (3.0,)),
        ("complex", 8, 1, 0.0, (1.2, 2.0)),
    )
)
EXACT, ORACLE = 1e-3, 3.0
OWN = ("pruneft, path", "pruneft, prune")
TOLD = {OWN[0]: "nothing", OWN[1]: "noise", "trace minimisation, Clarabel": "noise", "trace minimisation, SCS": "noise"}
TOLD |= {"LM, 20 random starts": "rank", "Wirtinger flow": "rank"}
_STEP_SIZES = (
    {"n": (500, 1000), "d": (50, 100), "k": (10, 20)}
    if BRIEF
    else {"n": (1000, 2000, 4000, 8000), "d": (50, 100, 200, 400), "k": (5, 10, 20, 40)}
)
_AT = {"n": 500, "d": 50, "k": 10} if BRIEF else {"n": 4000, "d": 200, "k": 20}
_STEPS, _ROUNDS = 5, 5
LARGE = (50, 10, 2500, 3) if BRIEF else (1000, 100, 50_000, 5)  # d, k, n, r
_BATCH, _TRAIN, _TUNE = (250, 150, 50) if BRIEF else (2000, 1200, 150)


class Instance(NamedTuple):
    """One drawn problem; ``oracle``: relative error of least squares linearised at the truth, root mean square over the noise."""

    operator: RankOne
    vectors: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    sigma: float
    oracle: float


def measure() -> list[Table]:
    """The tables of this file."""
    return [*map(_peers, SETTINGS_OF), _steps("real"), _steps("complex"), _large()]


def draw(kind: Any, d: int, r: int, n: int, sigma: float, seed: int) -> Instance:
    """An instance with the error that noise makes unavoidable."""
    drawn = draw_family(
        "rank-one" if kind == "real" else "rank-one-complex",
        jax.random.key(seed),
        n=n,
        d=d,
        r=r,
        sigma=sigma,
        dtype=jnp.float64,
    )
    vectors = np.asarray(drawn.operator.vectors, np.float64)
    if kind == "complex":
        vectors = vectors + 1j * np.asarray(drawn.operator.imaginary, np.float64)
    factor = np.asarray(drawn.factor)[:, :r]
    oracle = 0.0
    if sigma > 0:  # E ||dM||² = sigma² tr(T G⁺ Tᵀ), G the Gram matrix of the measurements on the tangent space
        basis = [np.outer(row, col) for row in np.eye(d) for col in factor.T]
        tangent = np.stack([(b + b.T).ravel() for b in basis], axis=1)
        left, values, _ = np.linalg.svd(tangent, full_matrices=False)
        left = left[:, values > 1e-9 * values[0]]
        seen = (vectors[:, :, None] * vectors[:, None, :]).reshape(n, -1) @ left
        oracle = sigma * float(np.sqrt(np.trace(np.linalg.inv(seen.T @ seen)))) / float(np.linalg.norm(drawn.truth))
    return Instance(drawn.operator, vectors, np.asarray(drawn.y), np.asarray(drawn.truth), sigma, oracle)


def _methods(kind: Any, d: int, r: int, n: int, sigma: float) -> dict[str, Callable[[Instance], Any]]:
    rng = np.random.default_rng(0)
    hermitian = kind == "complex"
    convex = {
        solver: peers.TraceMinimisation(n, d, hermitian=hermitian, noisy=sigma > 0, solver=solver)
        for solver in ("CLARABEL", "SCS")
    }

    def own(method: Any, told: bool) -> Callable[[Instance], Any]:
        return lambda it: recover(Problem(it.operator, it.y), method=method, sigma=it.sigma if told else None).matrix

    return {
        OWN[0]: own("path", False),
        OWN[1]: own("prune", True),
        "trace minimisation, Clarabel": lambda it: convex["CLARABEL"](it.vectors, it.y, it.sigma),
        "trace minimisation, SCS": lambda it: convex["SCS"](it.vectors, it.y, it.sigma),
        "LM, 20 random starts": lambda it: peers.restarted_least_squares(it.vectors, it.y, r, rng),
        "Wirtinger flow": lambda it: peers.wirtinger_flow(it.vectors, it.y, r),
    }


def _peers(setting: tuple[Any, int, int, float, tuple[float, ...]]) -> Table:
    kind, d, r, sigma, ratios = setting
    shown: dict[str, list[str]] = {name: [] for name in TOLD}
    counts: dict[str, list[int]] = {name: [] for name in TOLD}
    for ratio in ratios:
        n = round(ratio * degrees(kind, d, r))
        tell(f"rank_one: {kind}, d {d}, r {r}, n/p {ratio:g}, noise {sigma:g}")
        instances = [draw(kind, d, r, n, sigma, seed) for seed in range(INSTANCES)]
        for name, solve in _methods(kind, d, r, n, sigma).items():
            if name in OWN or "trace" in name:
                _tried(solve, draw(kind, d, r, n, sigma, 1000))  # compiled, and set up, before it is timed
            found = [_tried(solve, instance) for instance in instances]
            errors = [error for error, _, _ in found]
            good = [error < max(EXACT, ORACLE * it.oracle) for error, it in zip(errors, instances, strict=True)]
            shares = [error / it.oracle if sigma else error for error, it in zip(errors, instances, strict=True)]
            exact = sum(rank == r for _, rank, _ in found)
            counts[name].append(sum(good))
            middle = statistics.median(shares)
            shown[name].append(
                f"{sum(good)} · {exact} · {f'{middle:.2f}' if sigma else f'{middle:.0e}'} · "
                f"{seconds(statistics.median(taken for *_, taken in found))}"
            )
    better = [
        f"at n/p {ratio:g} (`path` {counts[OWN[0]][place]}): "
        + ", ".join(f"{name} ({counts[name][place]}, told the {TOLD[name]})" for name in ahead)
        for place, ratio in enumerate(ratios)
        if (ahead := [name for name in TOLD if name not in OWN and counts[name][place] > counts[OWN[0]][place]])
    ]
    what = f"noise {sigma:g}" if sigma else "no noise"
    return Table(
        title=f"Rank-one, {kind}, d = {d}, r = {r}, {what}, {INSTANCES} instances: success · exact rank · median error"
        f"{' / oracle' if sigma else ''} · median time",
        columns=["method", "is told", *(f"n/p {ratio:g}" for ratio in ratios)],
        rows=[[name, TOLD[name], *shown[name]] for name in TOLD],
        says=f"**Peers with more successes than `path`** {'; '.join(better)}."
        if better
        else "No peer has more successes than `path`.",
    )


def _tried(solve: Callable[[Instance], Any], instance: Instance) -> tuple[float, int, float]:
    """Relative error, rank and seconds of one solver on one instance; infinite where it gives up."""
    begin = time.perf_counter()
    try:
        estimate = np.asarray(solve(instance))
    except Exception as error:  # a solver that gives up, or is not installed, has failed on this instance, and no other
        tell(f"rank_one: gave up: {type(error).__name__}: {error}")
        return float("inf"), 0, time.perf_counter() - begin
    taken = time.perf_counter() - begin
    if estimate.shape != instance.truth.shape or not np.isfinite(estimate).all():
        return float("inf"), 0, taken
    values = np.linalg.eigvalsh(estimate)
    error = float(np.linalg.norm(estimate - instance.truth) / np.linalg.norm(instance.truth))
    return error, int(np.sum(values > 1e-2 * values[-1])), taken


def _step_case(kind: Any, n: int, d: int, k: int) -> tuple[dict[str, Case], tuple[float, float]]:
    """A training step, and the bare product with the vectors that bounds it."""
    parts = 1 if kind == "real" else 2
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.standard_normal((n, d)), jnp.float32) for _ in range(2))
    ones = jnp.ones(n, jnp.float32)
    operator = RankOne(first, second, ones, None, "complex") if parts == 2 else RankOne(first, None, ones)
    start = jnp.asarray(rng.standard_normal((parts * d, k)) / np.sqrt(d * k), jnp.float32)
    wide = jnp.concatenate([start] * parts, axis=1)[:d]

    @jax.jit
    def go(operator: RankOne, factor: jax.Array) -> jax.Array:
        def step(_: Any, u: jax.Array) -> jax.Array:
            errors = operator.whiten(operator.image(u) - ones, n, d)
            return u - 1e-9 * operator.pull(errors, u)

        return jax.lax.fori_loop(0, _STEPS, step, factor)

    @jax.jit
    def product(vectors: jax.Array, factor: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, _STEPS, lambda _, u: u - 1e-9 * (vectors.T @ (vectors @ u)), factor)

    host = np.asarray(first)
    cases = {
        "step": Case(lambda: jax.block_until_ready(go(operator, start)), units=_STEPS),
        "product": Case(lambda: jax.block_until_ready(product(first, wide)), units=_STEPS),
        "read": Case(lambda: np.max(host)),
    }
    return cases, operator.step_cost(k)


def _steps(kind: Any) -> Table:
    rows, growth = [], []
    for axis, sizes in _STEP_SIZES.items():
        taken = []
        for size in sizes:
            at = {**_AT, axis: size}
            tell(f"rank_one: a {kind} step at {at}")
            cases, (flops, moved) = _step_case(kind, **at)
            found = interleave(cases, rounds=_ROUNDS)
            step, product, read = (median(found, name) for name in ("step", "product", "read"))
            # Two products are 4 n d k FLOPs (complex: both parts with twice the columns); a read is of one part once.
            parts = 1 if kind == "real" else 2
            rate = parts * 4 * at["n"] * at["d"] * at["k"] / product
            bandwidth = 4 * at["n"] * at["d"] / read
            limit = max(flops / rate, moved / bandwidth)
            taken.append(step)
            bound = "FLOPs" if flops / rate >= moved / bandwidth else "bytes"
            shown = [seconds(step), f"{flops / step / 1e9:.3g}", seconds(limit), times(step / limit), bound]
            rows.append([*(str(at[name]) for name in ("n", "d", "k")), *shown])
        slope, error = exponent(sizes, taken)
        growth.append(f"{axis}^{slope:.2f} (±{error:.2f})")
    return Table(
        title=f"A training step with {kind} rank-one measurements, float32: time against its limit",
        columns=["n", "d", "k", "step", "GFLOP/s", "limit", "step / limit", "bound by"],
        rows=rows,
        says=f"Limit: the longer of its FLOPs at the rate of the bare products XᵀXU and its bytes at the rate of one read of X, "
        f"all in this run. Growth: {', '.join(growth)}; counted, n d k.",
    )


def _large() -> Table:
    rows = []
    for way in ("minibatches", "full batch"):
        tell(f"rank_one: large network by {way}")
        command = [sys.executable, "-m", "benchmarks.bench_rank_one", way]
        environment = {**os.environ, **SETTINGS, "JAX_ENABLE_X64": "0"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=3600)
        found = json.loads(done.stdout.splitlines()[-1])
        told = [str(found["batch"]), f"{found['peak'] / 1e9:.2g} GB", seconds(found["step"]), str(found["steps"])]
        rows.append([way, *told, seconds(found["total"]), str(found["neurons"]), f"{found['error']:.1e}"])
    d, k, n, r = LARGE
    return Table(
        title=f"A quadratic network, d = {d}, k = {k}, n = {n}, teacher of {r} neurons, float32",
        columns=[
            "data come",
            "rows at a time",
            "peak memory",
            "step",
            "steps",
            "in all",
            "neurons left",
            "error on fresh inputs",
        ],
        rows=rows,
        says=f"The inputs alone take {4 * n * d / 1e9:.2g} GB; measurements as dense matrices would take "
        f"{4 * n * d * (d + 1) / 2 / 1e9:.3g} GB. The full batch is timed for a few steps of training only.",
    )


def _alone(way: str) -> dict[str, Any]:
    """A large network in this process."""
    from pruneft.sensing import quadratic

    d, k, n, r = LARGE
    rng = np.random.default_rng(0)
    teacher = np.linalg.qr(rng.standard_normal((d, r)))[0].astype(np.float32) / r**0.25
    inputs = rng.standard_normal((n, d), dtype=np.float32)
    outputs = np.sum((inputs @ teacher) ** 2, axis=1)
    full = way == "full batch"
    batch, steps, tune = (n, 4, 0) if full else (_BATCH, _TRAIN, _TUNE)
    marks: list[float] = []

    def timed() -> Any:
        for pair in quadratic.shuffled(inputs, outputs, batch) if not full else iter(lambda: (inputs, outputs), None):
            marks.append(time.perf_counter())
            yield pair

    begin = time.perf_counter()
    found = quadratic.fit(timed(), width=k, steps=steps, tune_steps=tune)
    total = time.perf_counter() - begin
    fresh = rng.standard_normal((2000, d), dtype=np.float32)
    error = quadratic.generalisation_error(found.weights, fresh, quadratic.predict(jnp.asarray(teacher), fresh))
    return {
        "batch": batch,
        "step": statistics.median(np.diff(marks[1:])),
        "steps": len(marks),
        "total": total,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "neurons": found.neurons,
        "error": float(error),
    }


if __name__ == "__main__":
    print(json.dumps(_alone(sys.argv[1])))
