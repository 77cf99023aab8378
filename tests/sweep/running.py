"""What the tests of the lanes share: experiments around a single trial, and trials run in lanes and alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pruneft.sweep.lanes import Layout
from pruneft.sweep.local import taker
from pruneft.sweep.loop import Usage, run_lanes
from pruneft.sweep.plan import Planned
from pruneft.sweep.programs import Programs
from pruneft.trial import Axis, Bucket, Experiment, Trial, run, wrap_key

BUCKET = Bucket(sizes=(("n", 8),), static=(("mode", "plain"),))


def changed(trial: Trial, **functions: Any) -> Trial:
    """The trial with other functions."""
    return Trial(**{**trial.__dict__, **functions})


def around(make: Any, name: str = "one", **functions: Any) -> Experiment:
    """An experiment of one trial, or of what ``make`` gives for a bucket; its cells are {"x": number}."""
    return Experiment(
        **{
            "name": name,
            "subject": name,
            "axes": (Axis(name="x", default=0.0, kind="data"),),
            "resolve": dict,
            "sizes": lambda cell: {"n": 8},
            "inputs": lambda cell: {"x": cell["x"]},
            "trial": (lambda bucket: make) if isinstance(make, Trial) else make,
            "module": __name__,
            **functions,
        }
    )


def many(count: int, **cell: Any) -> list[Planned]:
    """The first seeds of one cell."""
    return [(cell or {"x": 0.0}, seed) for seed in range(count)]


def programs_of(
    experiment: Experiment,
    trials: Sequence[Planned],
    lanes: int = 4,
    *,
    bucket: Bucket = BUCKET,
    queue: int | None = None,
    max_steps: int = 100_000,
    devices: Sequence[Any] | None = None,
    dtype: str = "float32",
) -> Programs:
    """Programs of one bucket; ``queue`` slots in a window instead of the usual number."""
    layout = Layout.of(lanes, devices)
    if queue is not None:
        layout = Layout(**{**layout.__dict__, "queue": queue})
    names = tuple(experiment.inputs(trials[0][0]))
    return Programs(experiment.trial(bucket), names, dtype, layout, max_steps=max_steps)


def reports(
    programs: Programs, experiment: Experiment, trials: Sequence[Planned], **options: Any
) -> tuple[list[dict[str, Any]], Usage]:
    """What each trial reports, in the order of ``trials`` whatever the order in which they end; every one exactly once."""
    found: list[Any] = []
    options = {"segment_steps": 30, **options}
    usage = run_lanes(programs, experiment, taker(iter(trials)), lambda rows, usage: found.extend(rows), **options)
    mine = {(tuple(sorted(row.cell.items())), row.seed): dict(row.report) for row in found}
    assert len(mine) == len(found) == len(trials)
    return [mine[tuple(sorted(cell.items())), seed] for cell, seed in trials], usage


def alone(
    experiment: Experiment, trials: Sequence[Planned], bucket: Bucket = BUCKET, dtype: str = "float32"
) -> list[dict[str, Any]]:
    """What each trial reports when `pruneft.trial.run` runs it."""
    trial = experiment.trial(bucket)
    draw, report = _jitted(trial)
    found = []
    for cell, seed in trials:
        inputs = {name: np.dtype(dtype).type(value) for name, value in experiment.inputs(cell).items()}
        problem = draw(wrap_key(experiment.key_data(cell, seed)), inputs)
        ended = report(problem, run(trial, problem))
        found.append({name: value.item() for name, value in ended.items()})
    return found


@functools.lru_cache(maxsize=8)
def _jitted(trial: Trial) -> tuple[Any, Any]:
    return jax.jit(trial.draw), jax.jit(trial.report)


def assert_close(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]], rtol: float = 1e-5) -> None:
    """The same whole numbers and truths, the same floats up to rounding."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert {name: type(value) for name, value in mine.items()} == {n: type(v) for n, v in theirs.items()}
        for name, value in mine.items():
            if isinstance(value, float):
                np.testing.assert_allclose(value, theirs[name], rtol=rtol, err_msg=name)
            else:
                assert value == theirs[name], name
