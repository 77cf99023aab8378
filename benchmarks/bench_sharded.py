"""One problem over 1, 2 and 8 devices: a gradient step, one recovery, and the memory of each device.

Run: ``python -m benchmarks.bench_sharded``. The devices are forced CPU devices of one machine that share its cores, so there
is nothing to win here: the times show what the splitting costs, the memory what it saves. Each count has a process of its
own, because the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.table import Table, seconds, times

COUNTS = (1, 2, 8)
D, R, N = 32, 2, 512  # 1.1 MB of packed measurements in float32; below the length where one device takes the Gram form
_STEPS = 50
_ROUNDS = 5


def measure() -> list[Table]:
    """The tables of this file."""
    found = {count: _in_process(count) for count in COUNTS}
    one = found[COUNTS[0]]
    rows = [
        [
            str(count),
            f"{values['held'] / 1e6:.3g} MB",
            f"{values['peak'] / 1e6:.3g} MB",
            seconds(values["step"]),
            seconds(values["recovery"]),
            times(values["step"] / one["step"]),
            times(values["recovery"] / one["recovery"]),
        ]
        for count, values in found.items()
    ]
    return [
        Table(
            title=f"One problem over several devices, d = {D}, r = {R}, n = {N}, float32",
            columns=[
                "devices",
                "measurements, each",
                "training program, each",
                "step",
                "recovery",
                "step / 1",
                "recovery / 1",
            ],
            rows=rows,
            says=(
                "Memory of each device falls with their number; 'training program' is arguments, results and temporaries of one "
                "compiled segment. Forced CPU devices share the cores of one machine, so the times only show the overhead. "
                f"Largest relative error of the recovered matrices: {max(v['difference'] for v in found.values()):.1e}."
            ),
        )
    ]


def _in_process(count: int) -> dict[str, float]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "NPROC": "32",  # threads of XLA's pools: with few, forced devices can wait for one another for ever
    }
    command = [sys.executable, "-m", "benchmarks.bench_sharded", str(count)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=1200)
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def _on(count: int) -> dict[str, float]:
    import jax
    import numpy as np

    from pruneft import PathRecipe, Problem, recover
    from pruneft.pipeline import Penalty
    from pruneft.sensing import draw_split, sharded
    from pruneft.sensing import lane as lanes

    mesh = jax.make_mesh((count,), ("n",))
    drawn, n = draw_split(jax.random.key(0), mesh, n=N, d=D, r=R)
    problem = Problem(drawn.operator, drawn.y, n)
    sharding = problem.sharding
    begin = lanes.draw_starts(jax.random.key(1), 1, 4, D, D, live_d=D, live_k=D, norm=2.0, dtype=np.dtype("float32"))
    penalty = Penalty(*(np.full((1, 1, 1), 1e-3, "float32") for _ in Penalty._fields))
    lane = sharded.split_lane(problem.operator, problem.y, begin, penalty, sharding, n=n, sigma=None, rank=0)

    @jax.jit
    def go(lane: Any, factor: Any) -> Any:
        return jax.lax.fori_loop(0, _STEPS, lambda _, u: u - 1e-3 * lanes.gradient(lane, u), factor)

    compiled = go.lower(lane, lane.starts[0]).compile()
    memory = compiled.memory_analysis()
    step = _median(lambda: jax.block_until_ready(go(lane, lane.starts[0]))) / _STEPS
    arguments: dict[str, Any] = {"k": R, "rank": R, "recipe": PathRecipe(attempts=(150,))}
    result = recover(problem, **arguments)
    truth = np.asarray(drawn.truth)
    return {
        "held": problem.operator.rows.addressable_shards[0].data.nbytes,
        "peak": memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes,
        "step": step,
        "recovery": _median(lambda: recover(problem, **arguments), 3),
        "difference": float(np.linalg.norm(result.matrix - truth) / np.linalg.norm(truth)),
    }


def _median(run: Callable[[], Any], rounds: int = _ROUNDS) -> float:
    run()
    took = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        took.append(time.perf_counter() - begin)
    return sorted(took)[rounds // 2]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_on(int(sys.argv[1]))))
    else:
        print("\n\n".join(table.markdown() for table in measure()))
