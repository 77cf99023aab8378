"""What a lane costs: bytes of its problem and state, operations of its step, counted without compiling anything."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.trial import Bucket, Cell, Experiment, Problem, State, Trial, wrap_key

# Seconds of a lane-step, 8 lanes on one CPU core: what a step costs at least, and per floating point operation.
# Measured in matrix sensing (d = 16, n = 32 to 320): 2.7 us and .021 us per measurement, whose 136 packed entries take
# 4 operations each, so about 26 GFLOP/s.
STEP_SECONDS = (2.7e-6, 0.021e-6 / (4 * 136))
_LANES = 8  # lanes of the step that is looked at


class LaneCost(NamedTuple):
    """Cost of one lane.

    Attributes:
      bytes: of its problem and state.
      flops: floating point operations of one step.
      moved: bytes that one step reads and writes, counted before operations are fused, so an upper bound.
      counted: whether the compiler counted; if not, every number of problem and state is taken to be multiplied and
        added once, and read once.
    """

    bytes: float
    flops: float
    moved: float
    counted: bool = True

    def seconds(self, step_seconds: tuple[float, float] = STEP_SECONDS) -> float:
        """Seconds of one step: a fixed part, and a part for each operation."""
        return step_seconds[0] + step_seconds[1] * self.flops


def lane_shapes(trial: Trial, inputs: Mapping[str, Any], dtype: Any = None) -> tuple[Problem, State]:
    """Shapes and dtypes of one lane's problem and state.

    Args:
      trial: whose lane it is.
      inputs: the names of its inputs; their values do not matter.
      dtype: of the inputs; JAX's widest float if None.
    """

    def begin(words: Any, values: Mapping[str, Any]) -> tuple[Problem, State]:
        problem = trial.draw(wrap_key(words), values)
        return problem, trial.init(problem)

    kind = jax.dtypes.canonicalize_dtype(np.float64 if dtype is None else dtype)
    scalars = {name: jax.ShapeDtypeStruct((), kind) for name in inputs}
    shapes: tuple[Problem, State] = jax.eval_shape(begin, jax.ShapeDtypeStruct((2,), jnp.uint32), scalars)
    return shapes


def lane_cost(experiment: Experiment, bucket: Bucket, cell: Cell, dtype: Any = None) -> LaneCost:
    """What a lane of a bucket costs.

    Args:
      experiment: whose trial it is.
      bucket: its padded sizes.
      cell: any resolved cell of the bucket; it only says which inputs there are.
      dtype: of the inputs; JAX's widest float if None.

    Raises:
      Whatever the trial raises when it is traced.
    """
    kind = jax.dtypes.canonicalize_dtype(np.float64 if dtype is None else dtype)
    return _counted(experiment.trial, bucket, tuple(sorted(experiment.inputs(cell))), kind.name)


@functools.lru_cache(maxsize=256)
def _counted(make: Callable[[Bucket], Trial], bucket: Bucket, names: tuple[str, ...], dtype: str) -> LaneCost:
    trial = make(bucket)
    one = lane_shapes(trial, dict.fromkeys(names), dtype)
    leaves = jax.tree.leaves(one)
    held = float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((_LANES, *leaf.shape), leaf.dtype), one)
    return _read(jax.jit(jax.vmap(trial.step)).lower(*many).cost_analysis(), held, leaves)


def _read(analysis: Any, held: float, leaves: list[Any]) -> LaneCost:
    """The compiler's count for all lanes, per lane; some backends give none, or a list with one for each device."""
    if isinstance(analysis, list | tuple):
        analysis = analysis[0] if analysis else None
    if not analysis or not math.isfinite(analysis.get("flops", math.nan)):
        numbers = float(sum(math.prod(leaf.shape) for leaf in leaves))
        return LaneCost(held, 2 * numbers, held, counted=False)
    flops, moved = max(analysis["flops"], 0.0), max(analysis.get("bytes accessed", held), 0.0)
    return LaneCost(held, flops / _LANES, moved / _LANES)


class CostModel:
    """The cost of any bucket of an experiment, from that of a few.

    For each combination of static axes two buckets are looked at for every size that varies, the least and the largest;
    between them the logarithms of bytes and operations are taken as linear in those of the sizes.

    Args:
      experiment: whose buckets they are.
      buckets: those that will be asked for, each with one of its cells.
      dtype: of the inputs; JAX's widest float if None.
    """

    def __init__(self, experiment: Experiment, buckets: Mapping[Bucket, Cell], dtype: Any = None) -> None:
        self._fits: dict[Any, _Fit] = {}
        kinds: dict[Any, dict[Bucket, Cell]] = {}
        for bucket, cell in buckets.items():
            kinds.setdefault(_kind(bucket), {})[bucket] = cell
        for kind, members in kinds.items():
            looked = {
                bucket: lane_cost(experiment, bucket, members[bucket], dtype) for bucket in _extremes(list(members))
            }
            self._fits[kind] = _Fit(looked)

    def __call__(self, bucket: Bucket) -> LaneCost:
        """The cost of a lane of the bucket."""
        return self._fits[_kind(bucket)](bucket)


def largest(buckets: list[Bucket]) -> Bucket:
    """The bucket with the largest product of sizes; the first of equals."""
    return max(buckets, key=lambda bucket: math.prod(size for _, size in bucket.sizes))


def _kind(bucket: Bucket) -> Any:
    return tuple(name for name, _ in bucket.sizes), bucket.static


def _extremes(buckets: list[Bucket]) -> list[Bucket]:
    found = [largest(buckets)]
    for name, _ in buckets[0].sizes:
        sizes = {bucket[name] for bucket in buckets}
        if len(sizes) > 1:
            found += [largest([one for one in buckets if one[name] == size]) for size in (min(sizes), max(sizes))]
    return list(dict.fromkeys(found))


class _Fit:
    """Power laws in the sizes through the costs of some buckets; what they say is exact at those."""

    def __init__(self, looked: Mapping[Bucket, LaneCost]) -> None:
        self._known = dict(looked)
        self._counted = all(cost.counted for cost in looked.values())
        places = np.array([_logs(bucket) for bucket in looked])
        costs = np.log1p(np.array([[cost.bytes, cost.flops, cost.moved] for cost in looked.values()]))
        self._place, self._cost = places[0], costs[0]
        # The least-norm solution: where two sizes vary together each gets half of what they do.
        self._powers = np.linalg.lstsq(places - places[0], costs - costs[0], rcond=None)[0]

    def __call__(self, bucket: Bucket) -> LaneCost:
        if bucket not in self._known:
            found = np.expm1(self._cost + (np.array(_logs(bucket)) - self._place) @ self._powers)
            held, flops, moved = (max(float(value), 0.0) for value in found)
            self._known[bucket] = LaneCost(held, flops, moved, counted=self._counted)
        return self._known[bucket]


def _logs(bucket: Bucket) -> list[float]:
    return [math.log(max(size, 1)) for _, size in bucket.sizes]
