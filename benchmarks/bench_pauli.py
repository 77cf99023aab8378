"""Pauli observables: the forms of a training step, and tomography against its peers on the same instances.

Run: ``python -m benchmarks.collect pauli``; with PRUNEFT_BENCH_BRIEF=1 in the environment four instances a cell instead of
twelve. qiskit-experiments takes part where it is installed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tomography_peers as peers
from benchmarks.alone import tell
from benchmarks.table import Table, seconds, times
from benchmarks.timing import Case, interleave, median, ratio
from pruneft.sensing.field import to_complex, to_stored
from pruneft.sensing.operators.pauli import Pauli
from pruneft.sensing.tomography import (
    all_strings,
    complete,
    depolarised,
    draw_shots,
    expectations_of,
    fidelity,
    ghz,
    linear_inversion,
    maximum_likelihood,
    nearest_state,
    random_state,
    random_strings,
    tomography,
)

INSTANCES = 4 if os.environ.get("PRUNEFT_BENCH_BRIEF") else 12
# qubits, rank, shots, share of white noise, measured share of the observables (rows are n of the noiseless cells)
NOISY = ((3, 1, 100, 0.0), (3, 2, 1000, 0.0), (3, 1, 1000, 0.1), (3, 1, 1000, 0.3), (4, 1, 1000, 0.0))
EXACT = ((3, 1, 23), (4, 1, 46), (4, 2, 90))
STEPS = ((3, 8, 64), (4, 16, 93), (5, 16, 256), (5, 16, 1024), (6, 16, 4096))
_SHARE = 1e-2  # of the largest eigenvalue: smaller ones do not count for the rank


class Outcome(NamedTuple):
    """One estimate: its error, fidelity, rank and time."""

    error: float
    fidelity: float
    rank: int
    seconds: float


def _judge(run: Callable[[], Any], truth: np.ndarray) -> Outcome:
    begin = time.perf_counter()
    found = run()
    took = time.perf_counter() - begin
    state, rank = (found.state, found.rank) if hasattr(found, "recovery") else (found, None)
    if rank is None:
        values = np.linalg.eigvalsh(state)
        rank = int(np.sum(values > _SHARE * values[-1]))
    error = float(np.linalg.norm(state - truth) / np.linalg.norm(truth))
    return Outcome(error, fidelity(nearest_state(state), truth), rank, took)


def noisy_cell(q: int, r: int, shots: int, share: float) -> dict[str, list[Outcome]]:
    """Every method on the same instances, all observables measured."""
    strings = all_strings(q)[1:]
    matrices = peers.dense(strings)
    least = peers.TraceMinimisation(len(strings), 1 << q, noisy=True)
    likeliest = peers.Likelihood(matrices)

    def methods(values: np.ndarray) -> dict[str, Callable[[], Any]]:
        found: dict[str, Callable[[], Any]] = {
            "pruneft": lambda: tomography(strings, values, shots=shots),
            "linear inversion": lambda: linear_inversion(strings, values),
            "projected inversion": lambda: nearest_state(linear_inversion(strings, values)),
            "likelihood, R rho R": lambda: maximum_likelihood(strings, values, shots).state,
        }
        if q == 3:  # minutes each on four qubits
            found["likelihood, CVXPY"] = lambda: likeliest(values)
            found["trace minimisation"] = lambda: least(matrices, values, float(np.sqrt(len(strings) / shots)))
        if q == 3 and peers.QISKIT:
            found["qiskit-experiments"] = lambda: peers.qiskit_least_squares(matrices, values, shots)
        return found

    def draw(seed: int) -> tuple[np.ndarray, dict[str, Callable[[], Any]]]:
        truth = depolarised(random_state(q, r, seed + 100), share)
        return truth, methods(draw_shots(truth, strings, shots, seed + 200))

    return _compared(draw)


def exact_cell(q: int, r: int, n: int) -> dict[str, list[Outcome]]:
    """Exact values of random observables."""
    least = peers.TraceMinimisation(n, 1 << q, noisy=False)

    def draw(seed: int) -> tuple[np.ndarray, dict[str, Callable[[], Any]]]:
        truth, strings = random_state(q, r, seed + 100), random_strings(q, n, seed + 300)
        values = expectations_of(truth, strings)
        found: dict[str, Callable[[], Any]] = {
            "pruneft": lambda: tomography(strings, values),
            "projected inversion": lambda: nearest_state(linear_inversion(strings, values)),
        }
        if q == 3:
            matrices = peers.dense(strings)
            found["trace minimisation"] = lambda: least(matrices, values)
        return truth, found

    return _compared(draw)


def _compared(draw: Callable[[int], tuple[np.ndarray, dict[str, Callable[[], Any]]]]) -> dict[str, list[Outcome]]:
    results: dict[str, list[Outcome]] = {}
    for seed in range(-1, INSTANCES):  # the first compiles and is not counted
        truth, methods = draw(seed)
        for name, run in methods.items():
            outcome = _judge(run, truth)
            if seed >= 0:
                results.setdefault(name, []).append(outcome)
    return results


def noisy_table() -> Table:
    """Shots, pure and mixed, with and without white noise."""
    rows, ahead, behind = [], 0, []
    for cell in NOISY:
        tell(f"pauli: shots {cell}")
        found = noisy_cell(*cell)
        medians = {name: statistics.median(one.error for one in outcomes) for name, outcomes in found.items()}
        q, r, shots, share = cell
        better = [name for name in medians if name != "pruneft" and medians[name] < medians["pruneft"]]
        ahead += not better
        behind += [f"{name} at q {q}, r {r}, {shots} shots, white {share:g}" for name in better]
        rows += [_row(f"{q}, {r}, {shots}, {share:g}", name, outcomes, r) for name, outcomes in found.items()]
    says = (
        f"Medians of {INSTANCES} states, all observables but the identity measured. pruneft has the smallest error in {ahead} of "
        f"{len(NOISY)} cells" + (f"; smaller than its are those of {', '.join(behind)}." if behind else ".")
    )
    says += (
        " A fidelity is that of the nearest state. A rank counts eigenvalues above a hundredth of the largest; that of pruneft is the one "
        "it reports."
    )
    says += "" if peers.QISKIT else " qiskit-experiments: not installed."
    return Table(
        title="Tomography with shots",
        columns=("q, r, shots, white", "method", "error", "fidelity", "rank right", "time"),
        rows=rows,
        says=says,
    )


def exact_table() -> Table:
    """Exact values of few observables."""
    rows = []
    for cell in EXACT:
        tell(f"pauli: exact {cell}")
        rows += [
            _row(f"{cell[0]}, {cell[1]}, {cell[2]}", name, outcomes, cell[1])
            for name, outcomes in exact_cell(*cell).items()
        ]
    return Table(
        title="Exact values of a random subset",
        columns=("q, r, n", "method", "error", "fidelity", "rank right", "time"),
        rows=rows,
        says=f"Medians of {INSTANCES} states at 1.5 times the degrees of freedom; the identity is one of the n.",
    )


def ghz_table() -> Table:
    """How often a random subset determines a GHZ state at all, and how often it is found then."""
    rows = []
    for share in (1.2, 1.5, 2.0, 3.0, 4.0):
        n, right, known = round(share * 31), 0, 0
        tell(f"pauli: GHZ {n}")
        for seed in range(4 * INSTANCES):
            strings = random_strings(4, n, seed + 400)
            values = expectations_of(ghz(4), strings)
            if complete(strings, values).generators == 4:
                known += 1
                right += np.linalg.norm(tomography(strings, values).state - ghz(4)) < 1e-3
        rows.append((f"{share:g}", str(n), f"{known}/{4 * INSTANCES}", f"{right}/{known}"))
    return Table(
        title="GHZ states of four qubits from a random subset",
        columns=("n/dof", "n", "determined by the data", "found of these"),
        rows=rows,
        says=(
            "Determined: the measured values of ±1 generate all sixteen. Elsewhere either sign of a missing generator fits the data, "
            "and no method can tell."
        ),
    )


def _row(cell: str, name: str, outcomes: list[Outcome], rank: int) -> tuple[str, ...]:
    error, close, took = (
        statistics.median(getattr(one, part) for one in outcomes) for part in ("error", "fidelity", "seconds")
    )
    right = sum(one.rank == rank for one in outcomes)
    return cell, name, f"{error:.2g}", f"{close:.4f}", f"{right}/{len(outcomes)}", seconds(took)


def step_table() -> Table:
    """One gradient of four starts by both forms and by dense matrices, beside the limits of arithmetic and traffic."""
    peak, traffic = _peaks()
    rows, gains = [], []
    for q, k, n in STEPS:
        tell(f"pauli: steps q {q} n {n}")
        d = 1 << q
        chosen = np.random.default_rng(q).permutation(d * d)[:n]
        y = jnp.asarray(np.random.default_rng(1).standard_normal(n), jnp.float32)
        factor = jnp.asarray(np.random.default_rng(2).standard_normal((4, 2 * d, k)), jnp.float32)
        both = {
            form: jax.tree.map(
                lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf,
                Pauli.from_masks(chosen // d, chosen % d, q, form=form),
            )
            for form in ("rows", "transform")
        }
        cases = {form: _case(_step, operator, y, factor) for form, operator in both.items()}
        if n * d * d <= 2**22:
            strings = both["rows"].strings
            matrices = jnp.asarray(np.sqrt(d) * peers.dense(strings).reshape(n, d * d), jnp.complex64)
            cases["dense"] = _case(_dense_step, matrices, y, factor)
        taken = interleave(cases, rounds=7)
        flops, size = both["transform"].step_cost(k)
        limit = 4 * max(flops / peak, size / traffic)
        against = f"{times(ratio(taken, 'dense', 'transform'))}" if "dense" in cases else "too large"
        gains.append(ratio(taken, "rows", "transform"))
        rows.append(
            (
                f"{q}, {k}, {n}",
                seconds(median(taken, "transform")),
                times(gains[-1]),
                against,
                times(median(taken, "transform") / limit),
                "arithmetic" if flops / peak > size / traffic else "traffic",
            )
        )
    return Table(
        title="A training step of four starts",
        columns=("q, k, n", "transform", "rows / transform", "dense / transform", "transform / limit", "limited by"),
        rows=rows,
        says=(
            f"Limits: {peak / 1e9:.0f} GFLOP/s of a float32 product of 512 x 512 matrices and {traffic / 1e9:.1f} GB/s of a copy, "
            f"measured in the same run. The rows take {times(min(gains))} to {times(max(gains))} times as long as the transform; "
            "small sizes are overhead of the call."
        ),
    )


def _step(operator: Pauli, y: jax.Array, factor: jax.Array) -> jax.Array:
    return operator.pull(operator.image(factor) - y, factor)


def _dense_step(matrices: jax.Array, y: jax.Array, factor: jax.Array) -> jax.Array:
    d = factor.shape[1] // 2
    columns = to_complex(factor)
    square = columns @ jnp.conj(jnp.swapaxes(columns, -1, -2))
    errors = (square.reshape(-1, d * d) @ jnp.conj(matrices).T).real - y
    total = (errors.astype(matrices.dtype) @ matrices).reshape(-1, d, d)
    return to_stored(total @ columns)


def _case(step: Callable[..., jax.Array], *arguments: Any) -> Case:
    compiled = jax.jit(step)
    return Case(lambda: jax.block_until_ready(compiled(*arguments)))


def _peaks() -> tuple[float, float]:
    """FLOP/s of a product and bytes/s of a copy (read and write), as this machine gives them."""
    square = jnp.ones((512, 512), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    long = np.ones(1 << 24, np.float32)
    target = np.empty_like(long)
    taken = interleave(
        {
            "product": Case(lambda: jax.block_until_ready(product(square))),
            "copy": Case(lambda: np.copyto(target, long)),
        },
        rounds=7,
    )
    return 2 * 512**3 / median(taken, "product"), 2 * long.nbytes / median(taken, "copy")


def measure() -> list[Table]:
    """All tables."""
    return [step_table(), noisy_table(), exact_table(), ghz_table()]


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for table in measure():
        print(table.markdown(), end="\n\n")
