"""One gradient step of matrix sensing: against memory bandwidth, dense storage, and the Gram form.

Run: ``pytest benchmarks/bench_gradient.py``. Steps are timed inside a compiled loop, as training runs them, so what it
costs to call a compiled program is not in them. Everything is float32, as training is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from benchmarks.table import Table, seconds, times
from benchmarks.timing import LEVEL, Case, interleave, median, ratio
from pruneft.pipeline import Penalty
from pruneft.sensing import lane as lanes
from pruneft.sensing import row_blocks, smat, svec
from pruneft.sensing.draw import draw_instance
from pruneft.sensing.operator import Gram
from pruneft.sensing.packing import packed_size

SHAPES = ((16, 2, 46), (64, 4, 750), (128, 4, 1518))  # d, r, n: from one core's cache to main memory
GRAM_SHAPES = ((16, 68), (16, 136), (16, 272), (32, 264), (32, 1056))  # d, n: D/2, D, 2D; D/2, 2D
STARTS = (1, 4)  # how many factors share the data: one in `prune`, four in `path`
LANES = 8
PASSES = ((64, 4, 750), (128, 4, 1518), (256, 8, 1518))  # d, r, n: 6, 50 and 200 MB
FACTORS = (1, 2, 4, 8)
SHARED = ((16, 2, 46), (16, 2, 87), (32, 3, 183), (64, 4, 750), (128, 4, 1518))
_STEP = 1e-3
_LOOP_WORK = 2e8  # multiplications in one compiled loop, about 50 ms


def make_lane(d: int, r: int, n: int, starts: int = 1, *, seed: int = 0) -> lanes.Lane:
    """A drawn, normalised problem, without Gram form."""
    key = jax.random.key(seed)
    drawn = draw_instance(key, n=n, d=d, r=r, dtype=jnp.float32)
    begin = lanes.draw_starts(key, 1, starts, d, d, live_d=d, live_k=d, norm=2.0, dtype=jnp.float32)
    penalty = Penalty(*(jnp.full((1, 1, 1), 1e-3, jnp.float32) for _ in Penalty._fields))
    return lanes.make_lane(drawn.operator, drawn.y, begin, penalty)._replace(fast=None)


def with_gram(lane: lanes.Lane) -> lanes.Lane:
    """The same problem in Gram form."""
    return lane._replace(fast=Gram.of(lane.operator, lane.y * lane.gain, lane.n * lane.gain**2))


def steps_per_call(d: int, n: int, factors: int = 1) -> int:
    """As many steps as make a call long beside its overhead; the same for all cases of a comparison."""
    return int(np.clip(_LOOP_WORK / (2 * n * packed_size(d) * factors), 3, 2000))


def loop(gradient: Callable[[Any, Array], Array], problem: Any, factor: Array, count: int) -> Case:
    """Gradient steps in a compiled loop."""

    @jax.jit
    def go(problem: Any, factor: Array) -> Array:
        return jax.lax.fori_loop(0, count, lambda _, u: u - _STEP * gradient(problem, u), factor)

    return Case(lambda: jax.block_until_ready(go(problem, factor)), units=count)


def bandwidth_cases(d: int, r: int, n: int, starts: int) -> dict[str, Case]:
    """A step, a plain copy of the same measurements, and one read of them."""
    lane = make_lane(d, r, n, starts)
    rows = np.asarray(lane.operator.rows)
    target = np.empty_like(rows)
    count = steps_per_call(d, n, starts)
    return {
        "step": loop(lanes.gradient, lane, lane.starts[0], count),
        "copy": _repeated(lambda: np.copyto(target, rows), count),
        "read": _repeated(lambda: np.max(rows), count),
    }


def _repeated(run: Callable[[], Any], count: int) -> Case:
    def call() -> None:
        for _ in range(count):
            run()

    return Case(call, units=count)


def dense_gradient(problem: tuple[Array, Array], factor: Array) -> Array:
    """``4 G U`` from measurements stored as symmetric n x d x d, by contractions over them as a matrix n x d²."""
    matrices, y = problem
    n, d, _ = matrices.shape
    errors = jnp.tensordot(matrices, factor @ factor.T, axes=2) - y
    residual = (errors @ matrices.reshape(n, d * d)).reshape(d, d) / n
    return 4 * residual @ factor


def einsum_gradient(problem: tuple[Array, Array], factor: Array) -> Array:
    """The same, as one would write it first."""
    matrices, y = problem
    errors = jnp.einsum("nij,ik,jk->n", matrices, factor, factor, optimize=True) - y
    return 4 * jnp.einsum("n,nij,jk->ik", errors / y.shape[0], matrices, factor, optimize=True)


def dense_cases(d: int, r: int, n: int) -> dict[str, Case]:
    """A step on packed and on dense measurements, the same problem."""
    lane = make_lane(d, r, n)
    factor = lane.starts[0]
    dense = (smat(lane.operator.rows) / lane.gain, lane.y)
    count = steps_per_call(d, n)
    return {
        "packed": loop(lanes.gradient, lane, factor, count),
        "dense (tensordot)": loop(dense_gradient, dense, factor[0], count),
        "dense (einsum)": loop(einsum_gradient, dense, factor[0], count),
    }


def gram_cases(d: int, n: int, width: int) -> dict[str, Case]:
    """A step in Gram form and direct, one lane or several under vmap."""
    count = steps_per_call(d, n, width)
    if width == 1:
        lane = make_lane(d, 2, n)
        direct, gram, gradient, factor = lane, with_gram(lane), lanes.gradient, lane.starts[0]
    else:
        every = [make_lane(d, 2, n, seed=seed) for seed in range(width)]
        direct, gram = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *v) for v in (every, map(with_gram, every)))
        gradient, factor = jax.vmap(lanes.gradient), direct.starts[:, 0]
    return {"gram": loop(gradient, gram, factor, count), "direct": loop(gradient, direct, factor, count)}


def twice(lane: Any, factor: Array) -> Array:
    """The gradient by two passes over the measurements, whatever the library would take."""
    errors = lane.operator.apply(factor @ jnp.swapaxes(factor, -1, -2)) / lane.gain - lane.y
    return 4 * lane.operator.adjoint(errors) / (lane.n * lane.gain) @ factor


def once(lane: Any, factor: Array) -> Array:
    """The gradient by one pass in blocks of rows."""
    packed = svec(factor @ jnp.swapaxes(factor, -1, -2))
    total = row_blocks.residual_sum(lane.operator.rows, packed, lane.y, lane.gain)
    return 4 * smat(total) / (lane.n * lane.gain) @ factor


def pass_cases(d: int, r: int, n: int, factors: int) -> dict[str, Case]:
    """A step by two passes and by one, and one read of the measurements."""
    lane = make_lane(d, r, n, factors)
    rows = np.asarray(lane.operator.rows)
    count = max(2, steps_per_call(d, n, factors))
    return {
        "two": loop(twice, lane, lane.starts[0], count),
        "one": loop(once, lane, lane.starts[0], count),
        "read": _repeated(lambda: np.max(rows), 3),
    }


def shared_cases(d: int, r: int, n: int) -> dict[str, Case]:
    """Steps of 1, 4 and 8 factors that share the measurements; times are per factor."""
    cases = {}
    for width in (1, 4, LANES):
        lane = make_lane(d, r, n, width)
        count = steps_per_call(d, n, width)
        case = loop(lanes.gradient, lane, lane.starts[0], count)
        cases[str(width)] = Case(case.run, units=count * width)
    return cases


@pytest.mark.parametrize("case", ["two", "one", "read"])
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize(("d", "r", "n"), PASSES)
def bench_one_pass_against_two(d: int, r: int, n: int, factors: int, case: str, measure_case: Any) -> None:
    measure_case(f"passes d={d} n={n} factors={factors}", pass_cases(d, r, n, factors)[case])


@pytest.mark.parametrize("case", ["step", "copy", "read"])
@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize(("d", "r", "n"), SHAPES)
def bench_step_against_bandwidth(d: int, r: int, n: int, starts: int, case: str, measure_case: Any) -> None:
    measure_case(f"bandwidth d={d} n={n} starts={starts}", bandwidth_cases(d, r, n, starts)[case])


@pytest.mark.parametrize("case", ["packed", "dense (tensordot)", "dense (einsum)"])
@pytest.mark.parametrize(("d", "r", "n"), SHAPES)
def bench_packed_against_dense(d: int, r: int, n: int, case: str, measure_case: Any) -> None:
    measure_case(f"storage d={d} n={n}", dense_cases(d, r, n)[case])


@pytest.mark.parametrize("case", ["gram", "direct"])
@pytest.mark.parametrize("width", [1, LANES])
@pytest.mark.parametrize(("d", "n"), GRAM_SHAPES)
def bench_gram_against_direct(d: int, n: int, width: int, case: str, measure_case: Any) -> None:
    measure_case(f"gram d={d} n={n} lanes={width}", gram_cases(d, n, width)[case])


def measure() -> list[Table]:
    """The tables of this file."""
    return [_bandwidth(), _passes(), _shared(), _storage(), _gram()]


def _passes() -> Table:
    rows, right, asked = [], [], {}
    for d, r, n in PASSES:
        for factors in FACTORS:
            found = interleave(pass_cases(d, r, n, factors), rounds=9)
            share = ratio(found, "one", "two")
            size = 4 * n * packed_size(d)
            taken = row_blocks.pays(size, factors)
            level = 1 - LEVEL <= share <= 1 + LEVEL
            right.append(level or taken == (share < 1))
            if d == 128:
                asked[factors] = share
            rows.append(
                [
                    f"{d}, {r}, {n}",
                    f"{size / 1e6:.3g} MB",
                    str(factors),
                    *(seconds(median(found, name)) for name in ("two", "one", "read")),
                    times(share),
                    times(ratio(found, "one" if taken else "two", "read")),
                    "one" if taken else "two",
                ]
            )
    return Table(
        title="One pass over the measurements by blocks of rows against two, one step",
        columns=[
            "d, r, n",
            "size",
            "factors",
            "two passes",
            "one pass",
            "read",
            "one / two",
            "taken / read",
            "the library takes",
        ],
        rows=rows,
        says=(
            f"One read is the floor. At d = 128 one pass takes {', '.join(f'{times(v)} (factors {k})' for k, v in asked.items())} of the "
            "time of two: XLA copies each block before it multiplies it, which a product with one vector does not earn back. The "
            f"library's choice is the faster form, or level, in {sum(right)} of {len(right)} rows."
        ),
    )


def _shared() -> Table:
    rows, shares = [], []
    for d, r, n in SHARED:
        found = interleave(shared_cases(d, r, n))
        shares.append((ratio(found, str(LANES), "1"), d, n))
        rows.append(
            [
                f"{d}, {r}, {n}",
                *(seconds(median(found, str(width))) for width in (1, 4, LANES)),
                times(ratio(found, "4", "1")),
                times(shares[-1][0]),
            ]
        )
    held = [f"d = {d}, n = {n} ({times(share)})" for share, d, n in shares if share <= 0.7]
    return Table(
        title="Factors that share their measurements: a step, per factor",
        columns=["d, r, n", "1", "4", str(LANES), "4 / 1", f"{LANES} / 1"],
        rows=rows,
        says=f"At {LANES} factors a step per factor takes at most .7 of that of one at {', '.join(held) or 'no size'}.",
    )


def _bandwidth() -> Table:
    rows, shares = [], []
    for d, r, n in SHAPES:
        for starts in STARTS:
            found = interleave(bandwidth_cases(d, r, n, starts))
            size = 4 * n * packed_size(d)
            per_step = 2 * size  # the measurements are read twice in a step
            rows.append(
                [
                    f"{d}, {r}, {n}",
                    f"{size / 1e6:.3g} MB",
                    str(starts),
                    *(seconds(median(found, name)) for name in ("step", "copy", "read")),
                    f"{per_step / median(found, 'step') / 1e9:.3g} GB/s",
                    *(times(ratio(found, "step", name)) for name in ("copy", "read")),
                ]
            )
            shares.append((ratio(found, "step", "copy"), d, starts))
    worst, best = max(shares), min(shares)
    return Table(
        title="A step against a copy and a read of the same measurements",
        columns=["d, r, n", "size", "starts", "step", "copy", "read", "step moves", "step / copy", "step / read"],
        rows=rows,
        says=(
            f"A step has to read the measurements twice, so about one copy is the floor: it takes {times(best[0])} copies "
            f"at best (d = {best[1]}, {_starts(best[2])}) and {times(worst[0])} at worst (d = {worst[1]}, {_starts(worst[2])})."
        ),
    )


def _starts(count: int) -> str:
    return "1 start" if count == 1 else f"{count} starts"


def _storage() -> Table:
    rows, ratios = [], []
    for d, r, n in SHAPES:
        found = interleave(dense_cases(d, r, n))
        rivals = ("dense (tensordot)", "dense (einsum)")
        gains = [ratio(found, name, "packed") for name in rivals]
        rows.append(
            [
                f"{d}, {r}, {n}",
                f"{4 * n * packed_size(d) / 1e6:.3g} MB",
                f"{4 * n * d * d / 1e6:.3g} MB",
                *(seconds(median(found, name)) for name in ("packed", *rivals)),
                *(times(gain) for gain in gains),
            ]
        )
        ratios.append((min(gains), d))
    lost = [f"d = {d} ({times(1 / gain)} times)" for gain, d in ratios if gain < 1 - LEVEL]
    won = [f"d = {d} ({times(gain)} times)" for gain, d in ratios if gain > 1 + LEVEL]
    parts = [
        "Packed measurements take half the memory",
        f"they are faster than the better dense form at {', '.join(won)}" if won else "they are faster nowhere",
    ]
    if lost:
        parts.append(f"**dense wins** at {', '.join(lost)}")
    return Table(
        title="Packed against dense measurements, one step, one start",
        columns=[
            "d, r, n",
            "packed",
            "dense",
            "packed step",
            "tensordot step",
            "einsum step",
            "tensordot / packed",
            "einsum / packed",
        ],
        rows=rows,
        says="; ".join(parts) + ".",
    )


def _gram() -> Table:
    rows, right = [], []
    for d, n in GRAM_SHAPES:
        for width in (1, LANES):
            found = interleave(gram_cases(d, n, width))
            gain = ratio(found, "direct", "gram")
            chosen = "Gram" if Gram.pays(n, d) else "direct"
            level = 1 - LEVEL <= gain <= 1 + LEVEL
            rows.append(
                [
                    f"{d}, {n}",
                    f"{n / packed_size(d):.1f} D",
                    str(width),
                    *(seconds(median(found, name)) for name in ("direct", "gram")),
                    times(gain),
                    chosen,
                ]
            )
            right.append(level or chosen == ("Gram" if gain > 1 else "direct"))
    return Table(
        title="Gram form against direct, one step, one start",
        columns=["d, n", "n", "lanes", "direct", "Gram", "direct / Gram", "the library takes"],
        rows=rows,
        says=(
            f"The rule n >= D picks the faster form, or one that is level, in {sum(right)} of {len(right)} rows; "
            "times are of all lanes together."
        ),
    )
