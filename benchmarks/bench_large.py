"""One large problem: d = 256, r = 8, n = 3 dof, 0.8 GB of packed measurements, on one device and split over four.

Run: ``python -m benchmarks.collect large``; with PRUNEFT_BENCH_BRIEF=1 in the environment at d = 64. Each reading has a process of
its own, whose peak memory is then its own too. The recovery is by column pruning, one short attempt, fine-tuned by Nesterov's
method: Levenberg-Marquardt would unpack the measurements (1.6 GB more) and form a matrix of d r = 2048 unknowns, 50 GFLOP each
iteration, and the rank path would do it for every rank and start.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

from benchmarks.alone import SETTINGS, tell
from benchmarks.table import Table, seconds, times

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
D, R = (64, 4) if BRIEF else (256, 8)
K = 4 * R
TRAIN, TUNE = 300, 150  # steps at most
DEVICES = (1, 4)
_STEPS = 5  # gradient steps in one timed call
_ROUNDS = 5


def measure() -> list[Table]:
    """The tables of this file."""
    found = {}
    for count in DEVICES:
        tell(f"large: {count} device{'s' * (count > 1)}")
        found[count] = _in_process(count)
    one = found[1]
    steps = [
        [
            str(factors),
            seconds(one[f"step {factors}"]),
            seconds(one[f"once {factors}"]),
            times(one[f"once {factors} share"]),
            seconds(one[f"read {factors}"]),
            times(min(1.0, one[f"once {factors} share"]) / one[f"read {factors} share"]),
        ]
        for factors in (1, 4)
    ]
    rows = [
        [
            str(count),
            f"{values['bytes'] / count / 1e6:.4g} MB",
            f"{values['peak'] / 1e9:.3g} GB",
            f"{values['peak'] / values['bytes']:.2g}",
            seconds(values["step 1"]),
            seconds(values["recovery"]),
            f"{values['steps']:.0f}",
            f"{values['rank']:.0f}",
            f"{values['error']:.1e}",
            str(values["status"]),
        ]
        for count, values in found.items()
    ]
    size = f"d = {D}, n = {one['n']:.0f}, k = {K}"
    exact = all(values["rank"] == R and values["error"] < 1e-3 for values in found.values())
    return [
        Table(
            title=f"A gradient step at {size}: two passes over {one['bytes'] / 1e6:.0f} MB, or one",
            columns=["factors", "two passes", "one pass", "one / two", "one read", "better / read"],
            rows=steps,
            says="One read is NumPy's maximum of the same array, with one thread; a copy-free step needs one of it at least.",
        ),
        Table(
            title=f"Recovery at d = {D}, r = {R}, n = 3 dof, k = {K}, float32, at most {TRAIN} + {TUNE} steps",
            columns=[
                "devices",
                "measurements, each",
                "peak memory of the process",
                "peak / measurements",
                "step",
                "recovery",
                "steps",
                "rank",
                "error",
                "status",
            ],
            rows=rows,
            says=(
                f"The true rank {R} was {'found and the matrix recovered' if exact else '**missed, or the matrix not recovered,**'} "
                f"{'on' if exact else 'on some of'} {' and '.join(map(str, DEVICES))} devices. Forced CPU devices share the cores and "
                "the memory of one machine: their times show the overhead alone, and the recovery's contain compilation."
            ),
        ),
    ]


def _in_process(count: int) -> dict[str, Any]:
    environment = {**os.environ, **SETTINGS, "JAX_ENABLE_X64": "0"}
    if count > 1:
        environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={count}"
        environment["NPROC"] = (
            "32"  # threads of XLA's pools: with few, forced devices can wait for one another for ever
        )
    command = [sys.executable, "-m", "benchmarks.bench_large", str(count)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=3600)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def _on(count: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks.bench_gradient import loop, once, twice
    from benchmarks.timing import Case, interleave, median, ratio
    from pruneft import FirstOrder, Problem, PruneRecipe, recover
    from pruneft.pipeline import Penalty
    from pruneft.sensing import PackedOperator, nesterov, sharded, svec, theory
    from pruneft.sensing import lane as lanes
    from pruneft.sensing.packing import packed_size

    dof = theory.dof(D, R)
    n = 3 * dof
    rng = np.random.default_rng(0)
    factor = np.linalg.qr(rng.standard_normal((D, R)))[0].astype(np.float32) / R**0.25
    rows = rng.standard_normal((n, packed_size(D)), dtype=np.float32)
    y = rows @ svec(factor @ factor.T)
    if count == 1:
        problem = Problem(PackedOperator(jnp.asarray(rows)), y)
    else:
        problem = Problem.from_arrays(rows, y, mesh=jax.make_mesh((count,), ("n",)))
    found: dict[str, Any] = {"n": n, "bytes": rows.nbytes}
    del rows
    begin = time.perf_counter()
    result = recover(
        problem,
        k=K,
        sigma=0.0,
        method="prune",
        recipe=PruneRecipe(attempts=(TRAIN,)),
        # l_1 of the normalised problem: all eigenvalues of the truth are equal.
        finetune=FirstOrder(optimizer=nesterov(n, dof, R**-0.5, kappa=2.0), steps=TUNE, tolerance=1e-5),
    )
    found["recovery"] = time.perf_counter() - begin
    found["peak"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    truth = factor @ factor.T
    found |= {
        "error": float(np.linalg.norm(result.matrix - truth) / np.linalg.norm(truth)),
        "rank": result.rank,
        "steps": result.steps,
        "status": result.status.name.lower(),
    }
    penalty = Penalty(*(np.full((1, 1, 1), 1e-3, "float32") for _ in Penalty._fields))

    for factors in (1, 4) if count == 1 else (1,):
        begin_at = lanes.draw_starts(
            jax.random.key(1), 1, factors, D, K, live_d=D, live_k=K, norm=2.0, dtype=jnp.float32
        )
        cases: dict[str, Case] = {}
        if count == 1:
            lane = lanes.make_lane(problem.operator, jnp.asarray(y), begin_at, penalty)
            array = np.asarray(problem.operator.rows)
            cases = {"once": loop(once, lane, lane.starts[0], _STEPS), "read": Case(array.max)}
        else:
            lane = sharded.split_lane(
                problem.operator, problem.y, begin_at, penalty, problem.sharding, n=n, sigma=None, rank=0
            )
        cases["step"] = loop(twice if count == 1 else lanes.gradient, lane, lane.starts[0], _STEPS)
        taken = interleave(cases, rounds=_ROUNDS)
        for name in cases:
            found[f"{name} {factors}"] = median(taken, name)
            found[f"{name} {factors} share"] = ratio(taken, name, "step")
    return found


if __name__ == "__main__":
    print(json.dumps(_on(int(sys.argv[1]))))
