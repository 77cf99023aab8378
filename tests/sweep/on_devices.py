"""Run by `test_devices` in a process with several devices: the same trials on one of them and on all, as JSON."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.experiments.recovery import RECOVERY, experiment
from pruneft.sensing import PruneRecipe
from pruneft.sweep import local
from pruneft.sweep.programs import Programs
from pruneft.trial import Bucket, Experiment
from tests.sweep.running import BUCKET, around, changed, many
from tests.sweep.staged import BETWEEN
from tests.sweep.toy import TOY, resolve


def recovery() -> tuple[Experiment, Bucket, list[Any]]:
    """A small grid below and above the transition whose reports hold sums of what was drawn."""
    short = experiment(prune=PruneRecipe(attempts=(500, 1000)))

    def make(bucket: Bucket) -> Any:
        trial = short.trial(bucket)

        def report(lane: Any, state: Any) -> Any:
            drawn = {"rows": jnp.sum(lane.operator.rows), "starts": jnp.sum(lane.starts), "y": lane.y[0] * lane.unit}
            return {**trial.report(lane, state), **drawn}

        return changed(trial, report=report)

    cells = [RECOVERY.resolve({"d": 5, "r": 1, "n": n}) for n in (6, 15)]
    bucket = Bucket(sizes=(("d", 5), ("k", 5), ("n", 16)), static=(("method", "prune"),))
    return (
        Experiment(**{**short.__dict__, "trial": make}),
        bucket,
        [(cell, seed) for cell in cells for seed in range(8)],
    )


def main() -> None:
    """Print what each experiment reports on one device and on all, the work of each device, and the programs."""
    devices, segment, found, work = local.local_devices(), Programs.segment, {}, []

    def spy(self: Programs, *arguments: Any) -> Any:
        carry, outcome = segment(self, *arguments)
        work.append(np.asarray(outcome.used))
        return carry, outcome

    Programs.segment = spy  # type: ignore[method-assign]
    kinds = {
        "toy": (TOY, BUCKET, many(40, **resolve({"a": 5, "b": 5.0}))),
        "staged": (around(BETWEEN), BUCKET, many(30)),
        "few": (TOY, BUCKET, many(3, **resolve({"a": 5, "b": 5.0}))),
        "recovery": recovery(),
    }
    for kind, (one, bucket, trials) in kinds.items():
        for count in (1, len(devices)):
            local.local_devices = lambda count=count: devices[:count]
            rows: list[Any] = []
            work.clear()
            usage = local.run_bucket(
                one,
                bucket,
                len(trials),
                local.Settings("float32", 2, segment_steps=20),
                local.taker(iter(trials)),
                lambda new, usage, rows=rows: rows.extend(new),
                lambda: False,
            )
            reports = sorted((json.dumps(dict(row.cell), sort_keys=True), row.seed, dict(row.report)) for row in rows)
            found[f"{kind} {count}"] = {"reports": reports, "work": sum(work).tolist(), "programs": usage.programs}
    print(json.dumps(found))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
