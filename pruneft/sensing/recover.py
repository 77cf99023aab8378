"""`recover`: the call for somebody with data."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.kept import kept
from pruneft.penalty import check_beta, group_norms
from pruneft.pipeline import FirstOrder, OptimizerOrFactory, Penalty, Phase, PipelineState
from pruneft.prune import keep_share
from pruneft.sensing import lane as lanes
from pruneft.sensing import sharded, theory
from pruneft.sensing.column_pruning import column_pruning
from pruneft.sensing.data import Data, prepare
from pruneft.sensing.defaults import root_mean_square
from pruneft.sensing.field import Field, factor_of, height, stored_of
from pruneft.sensing.finetune import choose
from pruneft.sensing.operator import PackedOperator, cast
from pruneft.sensing.pair_graph import PairGraph
from pruneft.sensing.problem import Problem
from pruneft.sensing.rank_path import rank_path
from pruneft.sensing.recipe import PathRecipe, PruneRecipe, schedule
from pruneft.sensing.result import Recovery
from pruneft.status import Status, is_ok
from pruneft.trial import Trial, run

Recipe = PruneRecipe | PathRecipe
_Call = TypeVar("_Call", bound=Callable[..., Recovery])
_SAME = 1e-6  # fits that lie closer (relative) are the same; distances below 1e-8 are rounding
_HISTORY_STEPS = 25  # training steps between two entries of the history


def _under_its_mesh(call: _Call) -> _Call:
    @functools.wraps(call)
    def under(problem: Problem, **arguments: Any) -> Recovery:
        with sharded.quiet(problem.sharding):
            return call(problem, **arguments)

    return under  # type: ignore[return-value]


@_under_its_mesh
def recover(
    problem: Problem,
    *,
    k: int | None = None,
    rank: int | None = None,
    sigma: float | None = None,
    weights: Any = None,
    init: Any = None,
    method: Literal["path", "prune"] = "path",
    lam: float | None = None,
    beta: float | None = None,
    seed: int = 0,
    dtype: Any = None,
    optimizer: OptimizerOrFactory | None = None,
    finetune: FirstOrder | Literal["auto"] | None = None,
    recipe: Recipe | None = None,
) -> Recovery:
    """Recover a symmetric (Hermitian) positive semidefinite low-rank M from linear measurements ``y_i = <A_i, M> + noise``.

    Scale-equivariant: multiplying y by c > 0 multiplies M̂ by c, with no constant to retune.

    A problem that is split over devices (`Problem.shard`) is solved where it lies. With several processes every one makes
    the same call, and every one gets the whole answer.

    Args:
      problem: measurements and data.
      k: columns trained, from ``rank`` up; d if not given.
      rank: the rank, if it is known; found otherwise.
      sigma: noise standard deviation in units of y, if it is known (0 for none). ``path`` does not need it and does not
        use it; ``prune`` stops at the first attempt that explains the data to within it, and otherwise compares fits at
        a grid of thresholds.
      weights: [n] non-negative; measurement i counts ``weights[i]`` times (1/variance for noise of unequal size; sigma
        is then that of weight 1). Of a padded problem with or without the padding. Structured operators (those that are not a
        `PackedOperator`) use them in fine-tuning and selection, not in training.
      init: [d, k] factor to start the first attempt from, in units of the answer; random if not given. Complex where M is.
      method: ``"path"``, a short anneal with a scan over ranks and the edge rule (ours, needs neither rank nor noise
        level), or ``"prune"``, training to the end and pruning by column norm (the published method with our recipe).
      lam, beta: last penalty weight and smoothing, for data normalised to mean y² = 1; the recipe's if not given.
        ``lam=0`` trains without the penalty.
      seed: of the random starts.
      dtype: of fine-tuning and selection; that of y if not given. Training runs in float32.
      optimizer: for training: an optax transformation, or a function of the number of steps that makes one.
      finetune: `pruneft.FirstOrder` to fine-tune by an optax optimiser (method ``prune``); Levenberg-Marquardt if not
        given; ``"auto"`` for whichever is quicker at this size, `pruneft.sensing.finetune.choose`.
      recipe: constants of one's own: a `PathRecipe` or `PruneRecipe`, as the method wants.

    Returns:
      A `Recovery`: the factor, its rank, a status that says plainly whether it may be used, and histories.

    Raises:
      ValueError: an argument makes no sense; the message says what was expected, what came and what to do.

    Example:
      >>> import jax
      >>> from pruneft import Problem, recover
      >>> from pruneft.sensing import draw_instance
      >>> drawn = draw_instance(jax.random.key(0), n=60, d=16, r=2)
      >>> result = recover(Problem(drawn.operator, drawn.y))
      >>> result.rank, result.ok
      (2, True)
    """
    d = problem.operator.d
    k = d if k is None else k
    recipe = _recipe(method, recipe, problem.operator)
    _check(method=method, d=d, k=k, rank=rank, sigma=sigma, lam=lam, beta=beta, finetune=finetune)
    placed, data = problem.sharding, prepare(problem, weights, dtype)
    operator, y, n = data.operator, data.y, data.n
    if finetune == "auto":
        finetune = _choose_finetune(method, operator, n, rank)

    noise_known = sigma is not None
    sigma = None if sigma is None else sigma / (data.y_unit * math.sqrt(data.typical))
    attempts, starts = _starts(recipe, noise_known)
    tall = height(d, operator.field)
    begin = lanes.draw_starts(
        jax.random.key(seed),
        attempts,
        starts,
        tall,
        k,
        live_d=tall,
        live_k=k,
        norm=recipe.anneal.start_norm,
        dtype=jnp.float32,
    )
    make = lanes.make_lane if placed is None else functools.partial(sharded.split_lane, sharding=placed)
    penalty = _penalty(recipe, noise_known, lam, beta, _edge(data, placed, sigma))
    root = None if data.root is None else jnp.asarray(data.root, y.dtype)
    lane = make(operator, y, begin, penalty, n=n, sigma=sigma, rank=0 if rank is None else rank, root=root)
    if init is not None:
        scale = float(lane.scale) * data.y_unit / data.a_unit
        begin = begin.at[0, 0].set(_normalised_init(init, (d, k), scale, operator.field))
        lane = lane._replace(starts=begin if placed is None else sharded.everywhere(begin, placed))

    trial = _trial(method, recipe, noise_known, k, d, optimizer, finetune)
    history = _History(recipe, operator.field)
    state: PipelineState = run(trial, lane, segment_steps=_HISTORY_STEPS, record=history)
    report = {name: value.item() for name, value in jax.block_until_ready(jax.jit(trial.report)(lane, state)).items()}
    answer = state.memory.best
    found = int(answer.rank)
    scale, unit = float(lane.scale), data.y_unit / data.a_unit
    length = math.sqrt(scale) * math.sqrt(unit)
    factor = factor_of(_times(np.asarray(answer.factor)[:, :found], length), operator.field)
    rival, apart = None, report["apart"]
    if apart > _SAME:
        rival = factor_of(_times(np.asarray(answer.rival)[:, :found], length), operator.field)
    status, (rival, apart) = Status(report["status"]), _another(problem.operator, factor, rival, apart)
    if is_ok(status) and report["residual"] ** 2 <= PathRecipe().exact and apart > PathRecipe().same:
        status = Status.NOT_UNIQUE
    trace = np.asarray(answer.trace, np.float64)
    return Recovery(
        U=factor,
        status=status,
        residual=report["residual"],
        sigma_estimate=report["sigma_estimate"] * data.y_unit * math.sqrt(data.typical),
        predicted_error=report["predicted_error"],
        columns=report["columns"],
        steps=report["steps"],
        method=method,
        dtype=str(y.dtype),
        devices=sharded.devices(placed),
        rank_given=rank is not None,
        fits=report.get("fits", 0),
        agreeing=report.get("agreeing", 0),
        score_gap=report.get("score_gap", math.nan),
        edge_ratio=report["edge_ratio"],
        apart=apart,
        rival=rival,
        prunability_gap=history.prunability_gap(),
        growth_threshold=_growth(penalty) * scale * unit,
        history=history.arrays(length) | {"finetune": np.sqrt(trace[np.isfinite(trace)] / n)},
    )


def _another(
    operator: Any, factor: np.ndarray, rival: np.ndarray | None, apart: float
) -> tuple[np.ndarray | None, float]:
    """Another answer that fits as well, and its relative distance: the one that was met, or one that the graph of pairs shows."""
    if rival is not None or not factor.size or not hasattr(operator, "pairs"):
        return rival, apart
    other = PairGraph.of(np.asarray(operator.pairs()), operator.d, operator.pair_kind).turned(factor)
    if other is None:
        return None, apart
    matrix = factor @ factor.T
    return other, float(np.linalg.norm(matrix - other @ other.T) / np.linalg.norm(matrix))


def _times(factor: np.ndarray, unit: float) -> np.ndarray:
    """In the dtype of the factor, unless it cannot hold the product."""
    exact = factor.astype(np.float64) * unit
    with np.errstate(over="ignore", under="ignore"):
        narrow = exact.astype(factor.dtype)
    return exact if np.any(~np.isfinite(narrow) | ((narrow == 0) & (factor != 0))) else narrow


def _growth(penalty: Penalty) -> float:
    thresholds = {
        theory.growth_threshold(float(lam), float(beta)) if lam > 0 else 0.0
        for lam, beta in zip(np.ravel(penalty.lam_end), np.ravel(penalty.beta_end), strict=True)
    }
    return thresholds.pop() if len(thresholds) == 1 else math.nan


def _recipe(method: str, recipe: Recipe | None, operator: Any) -> Recipe:
    kinds: dict[str, type] = {"path": PathRecipe, "prune": PruneRecipe}
    if method not in kinds:
        raise ValueError(f"method must be 'path' or 'prune': got {method!r}.")
    if recipe is None:
        if method == "prune":
            return PruneRecipe()
        own: PathRecipe = getattr(operator, "path_recipe", PathRecipe())
        return own
    if not isinstance(recipe, kinds[method]):
        raise ValueError(f"method {method!r} takes a {kinds[method].__name__}: got a {type(recipe).__name__}.")
    return recipe


def _choose_finetune(method: str, operator: Any, n: int, rank: int | None) -> FirstOrder | None:
    if method == "path":
        return None
    return choose(int(n), operator.d, rank, None if rank is None else round(operator.dof(rank)))


def _check(
    *,
    method: str,
    d: int,
    k: Any,
    rank: Any,
    sigma: float | None,
    lam: float | None,
    beta: float | None,
    finetune: FirstOrder | str | None,
) -> None:
    for name, value in (("k (columns trained)", k), ("rank", 1 if rank is None else rank)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}.")
    if rank is not None and rank > d:
        raise ValueError(f"rank must not exceed d (ambient dimension): got rank={rank}, d={d}.")
    if rank is not None and k < rank:
        raise ValueError(
            f"k (columns trained) must be at least the rank: got k={k}, rank={rank}. Raise k, or lower rank."
        )
    for name, number in (("sigma (noise standard deviation)", sigma), ("lam (penalty weight)", lam)):
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name} must be finite and not negative: got {number}.")
    if beta is not None:
        check_beta(beta)
        if not math.isfinite(beta):
            raise ValueError(f"beta (smoothing of the group norm) must be finite: got {beta}.")
    if isinstance(finetune, str) and finetune != "auto":
        raise ValueError(f"finetune must be a FirstOrder, 'auto' or None: got {finetune!r}.")
    if finetune is not None and finetune != "auto" and method == "path":
        raise ValueError(
            "the rank path refines by Levenberg-Marquardt only: use method='prune' to fine-tune by an optax optimiser."
        )


def _edge(data: Data, placed: Any, sigma: float | None) -> float:
    """The noise edge over the size of M; 0 where the noise is not known."""
    if not sigma:
        return 0.0
    operator, d = data.operator, data.operator.d
    if placed is not None:
        return theory.noise_edge(data.n, d, sigma / sharded.root_mean_square(data.y, data.n))
    if isinstance(operator, PackedOperator):
        return theory.noise_edge(data.n, d, sigma / float(root_mean_square(data.y, data.n)))
    whole = cast(operator, data.y.dtype)
    return float(whole.noise_edge(sigma, data.n, d) / whole.size(data.y, data.n, d))


def _starts(recipe: Recipe, noise_known: bool) -> tuple[int, int]:
    """Attempts, and starts of each."""
    if isinstance(recipe, PathRecipe):
        return len(recipe.attempts), recipe.starts
    return (len(recipe.attempts), 1) if noise_known else (1, len(recipe.taus) * recipe.tau_starts)


def _penalty(recipe: Recipe, noise_known: bool, lam: float | None, beta: float | None, edge: float) -> Penalty:
    thresholds: list[float | None]
    if isinstance(recipe, PathRecipe):
        thresholds = [None]
    elif noise_known:
        thresholds = [recipe.noise_edge * edge]
    else:
        thresholds = [tau for tau in recipe.taus for _ in range(recipe.tau_starts)]
    ends = [schedule(recipe.anneal, lam=lam, beta=beta, threshold=threshold) for threshold in thresholds]
    return Penalty(*(jnp.asarray(values, jnp.float32).reshape(-1, 1, 1) for values in zip(*ends, strict=True)))


def _normalised_init(init: Any, shape: tuple[int, int], scale: float, field: Field) -> jax.Array:
    given = np.asarray(init)
    if np.iscomplexobj(given) and field == "real":
        raise ValueError("init must be real: these measurements are of a real matrix. Pass init.real if that is meant.")
    array = given.astype(np.float64 if field == "real" else np.complex128)
    if array.shape != shape:
        raise ValueError(
            f"init must be a factor of shape [d, k] = {list(shape)}: got {list(array.shape)}. Pass k={array.shape[-1:]} if that is meant."
        )
    if not np.all(np.isfinite(array)):
        raise ValueError("init must be finite.")
    return jnp.asarray(stored_of(array / math.sqrt(scale), field), jnp.float32)


@kept(maxsize=32)
def _trial(
    method: str,
    recipe: Recipe,
    noise_known: bool,
    k: int,
    d: int,
    optimizer: OptimizerOrFactory | None,
    finetune: FirstOrder | None,
) -> Trial:
    """One Trial object per configuration, so that its compiled programs are found again by the next call."""
    if isinstance(recipe, PathRecipe):
        pipeline = rank_path(recipe, width=min(k, d), optimizer=optimizer)
    else:
        pipeline = column_pruning(recipe, noise_known=noise_known, width=k, optimizer=optimizer, finetune=finetune)
    return pipeline.trial(_not_drawn)


def _not_drawn(key: Any, inputs: Any) -> Any:
    raise TypeError("this trial works on data that were given, not drawn")


class _History:
    """Collects what a Recovery keeps of the way; called between segments."""

    def __init__(self, recipe: Recipe, field: Field) -> None:
        self._field: Field = field
        share = recipe.share if isinstance(recipe, PruneRecipe) else PruneRecipe().share
        self._look = _snapshot(share)
        self._rows: list[dict[str, np.ndarray]] = []
        self._trained: np.ndarray | None = None

    def __call__(self, lane: lanes.Lane, state: PipelineState) -> None:
        row = {name: np.asarray(value) for name, value in jax.block_until_ready(self._look(lane, state)).items()}
        best = row.pop("factor")
        if row["phase"] == Phase.TRAIN:
            self._trained = best
        # A stage call takes no step: what it did stands in the refinement's own trace.
        if not self._rows or row["step"] > self._rows[-1]["step"]:
            self._rows.append(row)

    def prunability_gap(self) -> float:
        """Of the trained factor that was seen last; relative, so in no unit. NaN if it was not finite."""
        if self._trained is None or not np.all(np.isfinite(self._trained)):
            return math.nan
        trained = factor_of(self._trained.astype(np.float64), self._field)
        least = float(np.sum(np.linalg.svd(trained, compute_uv=False)))
        return float(np.sum(np.linalg.norm(trained, axis=0)) / least - 1) if least > 0 else 0.0

    def arrays(self, unit: float) -> dict[str, np.ndarray]:
        columns = {name: np.stack([row[name] for row in self._rows]) for name in (self._rows[0] if self._rows else ())}
        if "column_norms" in columns:
            columns["column_norms"] = columns["column_norms"].astype(np.float64) * unit  # may be beyond float32
        return columns


@functools.lru_cache(maxsize=8)
def _snapshot(share: float) -> Any:
    def look(lane: lanes.Lane, state: PipelineState) -> dict[str, jax.Array]:
        errors = jnp.sqrt(lanes.rss(lane, state.factor) / lane.n)
        best = jnp.argmin(jnp.where(jnp.isfinite(errors), errors, jnp.inf))
        norms = group_norms(state.factor)[best]
        return {
            "step": state.steps,
            "attempt": state.attempt,
            "phase": state.phase,
            "residual": errors[best],
            "columns": jnp.sum(keep_share(norms, share)),
            "column_norms": norms,
            "factor": state.factor[best],
        }

    return jax.jit(look)
