"""Convex training of ReLU networks on real data against AdamW on the same architecture and the same objective.

Run: ``python -m benchmarks.collect relu_data``. With PRUNEFT_BENCH_BRIEF=1 in the environment fewer samples, seeds and steps.
Data are those that come with scikit-learn, standardised; 70 percent train, 30 percent test.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

from benchmarks.alone import tell
from benchmarks.table import Table, seconds
from pruneft.relu import fit
from pruneft.relu.adversarial import train_plain
from pruneft.relu.loss import loss_named

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
SAMPLES = 150 if BRIEF else 300  # at most, for training
SEEDS = 2 if BRIEF else 4
STEPS = 500 if BRIEF else 2000
RATES = (1e-2,) if BRIEF else (1e-3, 1e-2)
PATTERNS = 30 if BRIEF else 100
GAP = 1e-3


class Data(NamedTuple):
    """One task, standardised and split; y [n, K] real, or -1 and 1."""

    name: str
    loss: str
    X: np.ndarray
    y: np.ndarray
    fresh_X: np.ndarray
    fresh_y: np.ndarray


def _split(name: str, loss: str, X: np.ndarray, y: np.ndarray) -> Data:
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[: int(0.7 * len(X))][:SAMPLES], order[int(0.7 * len(X)) :]
    spread = X[train].std(axis=0)
    X = (X - X[train].mean(axis=0)) / np.where(spread > 0, spread, 1)
    if loss == "squared":
        y = (y - y[train].mean(axis=0)) / y[train].std(axis=0)
    return Data(name, loss, X[train], y[train], X[test], y[test])


def tasks() -> list[Data]:
    """Diabetes (regression), breast cancer and the digits 3 and 8 (two classes each), and all ten digits, each against the rest."""
    diabetes, cancer = (load(return_X_y=True) for load in (load_diabetes, load_breast_cancer))
    pixels, digits = load_digits(return_X_y=True)
    both = np.isin(digits, (3, 8))
    each = np.where(digits[:, None] == np.arange(10), 1.0, -1.0)
    return [
        _split("diabetes", "squared", diabetes[0], diabetes[1][:, None]),
        _split("breast cancer", "bce", cancer[0], np.where(cancer[1] == 1, 1.0, -1.0)[:, None]),
        _split("digits 3, 8", "bce", pixels[both], np.where(digits[both] == 8, 1.0, -1.0)[:, None]),
        _split("ten digits", "bce", pixels, each),
    ]


def _quality(data: Data, scores: np.ndarray) -> float:
    """On fresh samples: R² of a regression, accuracy of a classification."""
    if data.loss == "squared":
        left = np.sum(np.square(scores - data.fresh_y)) / np.sum(np.square(data.fresh_y - data.fresh_y.mean(axis=0)))
        return float(1 - left)
    if scores.shape[1] == 1:
        return float(np.mean(np.sign(scores) == data.fresh_y))
    return float(np.mean(np.argmax(scores, axis=1) == np.argmax(data.fresh_y, axis=1)))


def _timed(call: Callable[[], Any], compiled: bool = False) -> tuple[Any, float]:
    """What a compiled call returns, and its seconds; it is called twice where it is not compiled yet."""
    if not compiled:
        call()
    begin = time.perf_counter()
    found = call()
    return found, time.perf_counter() - begin


def _descended(data: Data, lam: float, neurons: int, rate: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Objective and quality of every seed, outputs summed, and the seconds of one of them."""
    objectives, scores, spent = np.zeros(SEEDS), [], 0.0
    for k, y in enumerate(data.y.T):
        asked: dict[str, Any] = {"loss": data.loss, "lam": lam, "neurons": neurons, "steps": STEPS, "rate": rate}
        train = functools.partial(train_plain, data.X, y, seeds=range(SEEDS), bias=True, **asked)
        networks, taken = _timed(lambda train=train: jax.block_until_ready(train()), compiled=k > 0)
        spent += taken / SEEDS
        column = []
        for seed in range(SEEDS):
            one = jax.tree.map(lambda part, seed=seed: part[seed], networks)
            value = loss_named(data.loss).value(one(jnp.asarray(data.X)), jnp.asarray(y), jnp.ones(len(y)))
            objectives[seed] += float(value + lam * one.penalty())
            column.append(np.asarray(one(jnp.asarray(data.fresh_X))))
        scores.append(column)
    by_seed = np.transpose(np.array(scores), (1, 2, 0))
    return objectives, np.array([_quality(data, each) for each in by_seed]), spent


def against_adamw() -> Table:
    """Objective reached over the convex optimum's, quality on fresh samples, and seconds."""
    rows = []
    for data in tasks():
        tell(f"relu_data: {data.name}")
        target = data.y[:, 0] if data.y.shape[1] == 1 else data.y
        options: dict[str, Any] = {"loss": data.loss, "n_patterns": PATTERNS, "bias": True, "tol": GAP}
        convex, taken = _timed(functools.partial(fit, data.X, target, **options))
        scores = np.asarray(convex.predict(data.fresh_X)).reshape(len(data.fresh_X), -1)
        shape = f"{len(data.X)} x {data.X.shape[1]}" + (f" x {data.y.shape[1]}" if data.y.shape[1] > 1 else "")
        width = max(1, round(convex.neurons / data.y.shape[1]))
        rows.append(
            [
                data.name,
                shape,
                f"convex, {convex.method}, P = {PATTERNS}",
                f"{width}",
                f"1 (gap {convex.gap:.0e})",
                f"{_quality(data, scores):.3f}",
                seconds(taken),
            ]
        )
        for neurons in sorted({width, 100}):
            for rate in RATES:
                tell(f"relu_data: {data.name}, AdamW on {neurons} neurons, rate {rate:g}")
                objectives, qualities, each = _descended(data, convex.lam, neurons, rate)
                ratios = np.sort(objectives) / convex.objective
                rows.append(
                    [
                        data.name,
                        shape,
                        f"AdamW, rate {rate:g}",
                        f"{neurons}",
                        f"{np.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
                        f"{np.median(qualities):.3f} ({qualities.min():.3f} to {qualities.max():.3f})",
                        seconds(each),
                    ]
                )
    return Table(
        title=f"Real data: objective over that of convex training, R² or accuracy on fresh samples; {SEEDS} seeds of {STEPS} steps",
        columns=["data", "n x d", "method", "neurons an output", "objective", "fresh samples", "seconds a network"],
        rows=rows,
        says="Median of the seeds and their range. Below 1: descent, whose neurons may have any pattern, found a better network than the "
        "best over the sampled patterns. AdamW minimises the same objective without decoupled decay, its rate falling along a cosine.",
    )


def measure() -> list[Table]:
    """The tables of this file."""
    return [against_adamw()]
