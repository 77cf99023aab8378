"""Recovery of a low-rank matrix from measurements of any family: the phase diagram over (r, n)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pruneft.pipeline import OptimizerOrFactory, Penalty, Pipeline
from pruneft.random import normals
from pruneft.sensing import answer as answers
from pruneft.sensing import lane as lanes
from pruneft.sensing import theory
from pruneft.sensing.column_pruning import column_pruning
from pruneft.sensing.draw import GAUSSIAN
from pruneft.sensing.family import Family
from pruneft.sensing.field import height
from pruneft.sensing.rank_path import rank_path
from pruneft.sensing.recipe import PathRecipe, PruneRecipe, schedule
from pruneft.trial import Axis, Bucket, Cell, Experiment, Trial, filled

METHODS = ("prune", "path")
# An error counts as recovery below this, relative in Frobenius norm; with noise, below so many times the oracle's root
# mean square error.
EXACT_ERROR = 1e-3
ORACLE_FACTOR = 3.0

_AXES = (
    Axis(name="d", default=16, kind="data", type=int, help="ambient dimension: M* is d x d (points, or 2**qubits)"),
    Axis(name="r", default=2, kind="data", type=int, help="true rank"),
    Axis(name="n", default=None, kind="data", type=int, help="number of measurements (or give n_per_dof)"),
    Axis(
        name="n_per_dof", default=1.5, kind="derived", help="measurements per degree of freedom of a matrix of rank r"
    ),
    Axis(name="kappa", default=1.0, kind="data", help="condition number of M*, eigenvalues geometric between"),
    Axis(name="scale", default=1.0, kind="data", help="Frobenius norm of M*"),
    Axis(name="sigma", default=0.0, kind="data", help="noise standard deviation, in units of y"),
    Axis(name="k", default=None, kind="method", type=int, help="columns trained; d if not given"),
    Axis(
        name="method",
        default="prune",
        kind="method",
        type=str,
        choices=METHODS,
        help="prune by column norm, or the rank path",
    ),
    Axis(
        name="lam",
        default=None,
        kind="method",
        help="last penalty weight of the normalised problem; the recipe's if not given, 0 trains without the penalty",
    ),
    Axis(
        name="beta",
        default=None,
        kind="method",
        help="last smoothing of the group norm, normalised problem; the recipe's if not given",
    ),
)


def resolve(cell: Cell, *, family: Family = GAUSSIAN) -> dict[str, Any]:
    """A cell with every axis filled in, n from n_per_dof and k from d where they are not given.

    Raises:
      ValueError: the cell makes no sense; the message says what was expected, what came and what to do.
    """
    given = filled(_AXES, cell)
    if cell.get("n") is not None and cell.get("n_per_dof") is not None:
        raise ValueError(f"give n or n_per_dof, not both: got n={cell['n']}, n_per_dof={cell['n_per_dof']}.")
    for name in ("d", "r", "n", "k"):
        if isinstance(given[name], np.integer):
            given[name] = int(given[name])
    for name in ("d", "r"):
        _whole(name, given[name])
    d, r = int(given["d"]), int(given["r"])
    if r > d:
        raise ValueError(f"r (true rank) must not exceed d (ambient dimension): got r={r}, d={d}. Lower r, or raise d.")
    if cell.get("n") is None:
        ratio = float(given["n_per_dof"])
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(f"n_per_dof (measurements per degree of freedom) must be positive: got {ratio}.")
        given["n"] = max(1, round(ratio * family.dof(d, r)))
    if given["k"] is None:
        given["k"] = d
    for name in ("n", "k"):
        _whole(name, given[name])
    most = family.most(d)
    if most is not None and given["n"] > most:
        raise ValueError(
            f"n (measurements) must be at most {most}, all that there are at d={d}: got n={given['n']}. Lower n, or raise d."
        )
    if given["k"] < r:
        raise ValueError(
            f"k (columns trained) must be at least r (true rank): got k={given['k']}, r={r}. Raise k, or lower r."
        )
    if not (math.isfinite(given["kappa"]) and given["kappa"] >= 1):
        raise ValueError(f"kappa (condition number) must be at least 1: got {given['kappa']}.")
    if not (math.isfinite(given["scale"]) and given["scale"] > 0):
        raise ValueError(f"scale (Frobenius norm of the truth) must be positive: got {given['scale']}.")
    if not (math.isfinite(given["sigma"]) and given["sigma"] >= 0):
        raise ValueError(f"sigma (noise standard deviation) must not be negative: got {given['sigma']}.")
    if given["lam"] is not None and not (math.isfinite(given["lam"]) and given["lam"] >= 0):
        raise ValueError(
            f"lam (penalty weight) must not be negative: got {given['lam']}. Use 0 to train without the penalty."
        )
    if given["beta"] is not None and not (math.isfinite(given["beta"]) and given["beta"] > 0):
        raise ValueError(f"beta (smoothing of the group norm) must be positive: got {given['beta']}.")
    del given["n_per_dof"]
    family.check(given)
    return given


def _whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}.")


def sizes(cell: Cell) -> dict[str, int]:
    """What sets the shapes of a cell's arrays."""
    return {"n": cell["n"], "d": cell["d"], "k": cell["k"]}


def inputs(
    cell: Cell, *, family: Family = GAUSSIAN, prune: PruneRecipe = PruneRecipe(), path: PathRecipe = PathRecipe()
) -> dict[str, float]:
    """The numbers that a lane of this cell is given.

    With noise, ``prune`` is told sigma; ``path`` is told neither rank nor noise.
    """
    pruning = cell["method"] == "prune"
    noise = cell["sigma"] / math.hypot(cell["scale"], cell["sigma"])
    threshold, more = None, {}
    if pruning and family is GAUSSIAN:
        threshold = prune.noise_edge * theory.noise_edge(cell["n"], cell["d"], noise)
    elif pruning:  # the operator knows its edge, once it is drawn
        more["edges"] = prune.noise_edge if cell["lam"] is None else 0.0
    ends = schedule(prune.anneal if pruning else path.anneal, lam=cell["lam"], beta=cell["beta"], threshold=threshold)
    numbers = {name: float(cell[name]) for name in ("n", "d", "r", "k", "kappa", "scale", "sigma")}
    return {**numbers, **ends._asdict(), **more}


def expected_steps(
    cell: Cell, *, family: Family = GAUSSIAN, prune: PruneRecipe = PruneRecipe(), path: PathRecipe = PathRecipe()
) -> float:
    """A guess at the steps of a cell's trials, from runs at d = 16.

    Long where n is near the degrees of freedom, because attempt follows attempt; one short attempt elsewhere.
    """
    ratio = cell["n"] / family.dof(cell["d"], cell["r"])
    attempts = path.attempts if cell["method"] == "path" else prune.attempts
    first = min(prune.noisy_first, len(attempts) - 1) if cell["method"] == "prune" and cell["sigma"] > 0 else 0
    if ratio < prune.margin:
        return float(sum(attempts[first:]))
    # About half of the attempts' steps at the transition, falling by a factor e each .08 dof.
    return float(attempts[first] + sum(attempts[first + 1 :]) * min(1.0, 0.4 * math.exp((1.05 - ratio) / 0.08)))


def trial(
    bucket: Bucket,
    *,
    family: Family = GAUSSIAN,
    prune: PruneRecipe = PruneRecipe(),
    path: PathRecipe = PathRecipe(),
    optimizer: OptimizerOrFactory | None = None,
) -> Trial:
    """The Trial of a bucket: draws an instance of its padded sizes and recovers it by the bucket's method.

    ``optimizer`` is for training, instead of the recipe's.
    """
    n, d, k = bucket["n"], bucket["d"], bucket["k"]
    pipeline: Pipeline
    if bucket.option("method") == "prune":
        starts, anneal = 1, prune.anneal
        pipeline = column_pruning(prune, width=k, optimizer=optimizer)
    else:
        starts, anneal = path.starts, path.anneal
        pipeline = rank_path(path, width=min(k, d), optimizer=optimizer)
    attempts = len(pipeline.attempts)

    def draw(key: Array, values: Mapping[str, Any]) -> lanes.Lane:
        dtype = values["n"].dtype
        whole = {name: jnp.round(values[name]).astype(jnp.int32) for name in ("n", "d", "k", "r")}
        rows, tall = family.rows(n, d), height(d, family.field)
        *instance_draws, columns = normals(key, *family.blocks(rows, d), lanes.starts_block(attempts, starts, tall, k))
        instance = family.make(
            instance_draws,
            rows=rows,
            d=d,
            r=whole["r"],
            kappa=values["kappa"],
            scale=values["scale"],
            sigma=values["sigma"],
            dtype=dtype,
            live_n=whole["n"],
            live_d=whole["d"],
        )
        live = height(whole["d"], family.field)
        begin = lanes.make_starts(
            columns, attempts, live_d=live, live_k=whole["k"], norm=anneal.start_norm, dtype=jnp.float32
        )
        penalty = Penalty(*(values[name].astype(jnp.float32).reshape(1, 1, 1) for name in Penalty._fields))
        lane = lanes.make_lane(
            instance.operator,
            instance.y,
            begin,
            penalty,
            n=whole["n"],
            d=whole["d"],
            sigma=values["sigma"],
            truth=lanes.Truth(instance.truth, whole["r"]),
        )
        if "edges" in values:
            edge = answers.noise_edge(lane, lane.noise) * values["edges"]
            lane = lane._replace(penalty=above_the_edge(penalty, edge))
        return lane

    made = pipeline.trial(draw)

    def report(lane: lanes.Lane, state: Any) -> dict[str, Array]:
        found = made.report(lane, state)
        truth = lane.truth
        assert truth is not None  # drawn above
        p = lane.operator.dof(truth.rank.astype(lane.n.dtype), lane.d)
        left = lane.n - p - 1
        noise = lane.noise * answers.equivalent(lane) * (lane.unit if family is GAUSSIAN else lane.scale)
        oracle = noise * jnp.sqrt(p / jnp.where(left > 0, left, 1)) / jnp.linalg.norm(truth.matrix)
        oracle = jnp.where(left > 0, oracle, jnp.where(lane.noise > 0, jnp.inf, 0.0))
        success = found["error"] < jnp.maximum(EXACT_ERROR, jnp.minimum(ORACLE_FACTOR * oracle, 0.3))
        return {**found, "success": success, "rank_exact": found["rank"] == truth.rank, "oracle_error": oracle}

    return Trial(**{**made.__dict__, "report": report})


def above_the_edge(penalty: Penalty, edge: Array) -> Penalty:
    """The penalty with its last weight raised so that no column grows on eigenvalues below ``edge``."""
    end = jnp.maximum(penalty.lam_end, (2 * jnp.sqrt(penalty.beta_end) * edge).astype(penalty.lam_end.dtype))
    return penalty._replace(lam_end=end, lam_start=jnp.maximum(penalty.lam_start, end))


def experiment(
    family: Family = GAUSSIAN,
    *,
    module: str = __name__,
    prune: PruneRecipe = PruneRecipe(),
    path: PathRecipe = PathRecipe(),
    default_grid: Mapping[str, tuple[Any, ...]] | None = None,
) -> Experiment:
    """The recovery experiment of a family of measurements, with recipes of one's own.

    Args:
      family: the law of measurements and truths.
      module: ``__name__`` of the module that names the experiment, where its content hash begins.
      prune, path: recipes.
      default_grid: of a sweep that names none; that of the first figure if not given.
    """
    known: dict[str, Any] = {"family": family}
    recipes: dict[str, Any] = {"prune": prune, "path": path}
    gaussian = family is GAUSSIAN
    suffix = "" if gaussian else "_" + family.name.replace("-", "_")
    figures = "pruneft.experiments.phase" if gaussian else "pruneft.experiments.phases"
    return Experiment(
        name="recovery" if gaussian else f"recovery-{family.name}",
        subject=family.subject,
        axes=_AXES,
        resolve=resolve if gaussian else functools.partial(resolve, **known),
        sizes=sizes,
        inputs=functools.partial(inputs, **known, **recipes),
        trial=functools.partial(trial, **known, **recipes),
        module=module,
        default_grid=_GRID if default_grid is None else default_grid,
        default_seeds=8,
        settings=f"{prune!r} {path!r}" + ("" if gaussian else f" {family.name}"),
        expected_steps=functools.partial(expected_steps, **known, **recipes),
        figure=f"{figures}:draw{suffix}",
        panels=f"{figures}:panels{suffix}",
    )


_GRID = {"d": (16,), "r": (1, 2, 3, 4, 6), "n_per_dof": (1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0)}

RECOVERY = experiment()
