"""Convex training against attacks: iterations to a certified gap, and robust against clean accuracy beside AdamW, plain and on PGD samples.

Run: ``python -m benchmarks.collect relu_robust``. With PRUNEFT_BENCH_BRIEF=1 in the environment one seed, two radii and a gap of 1e-3.
"""

from __future__ import annotations

import os

import numpy as np
from sklearn.datasets import load_breast_cancer

from benchmarks.table import Table
from pruneft.relu import adversarial
from tests.relu.adversarial.instances import instance

BRIEF = bool(os.environ.get("PRUNEFT_BENCH_BRIEF"))
SEEDS = range(1) if BRIEF else range(3)
GAPS = (1e-3,) if BRIEF else (1e-3, 1e-4, 1e-6)
RADII = (0.0, 0.2) if BRIEF else (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
TRAIN = 60 if BRIEF else 150
FEATURES = 10
WIDTH = 50
STEPS = 200 if BRIEF else 2000


def iterations() -> Table:
    """ADMM to a certified relative gap, (n, d, P) = (40, 5, 20), radius .05 in l_inf."""
    rows = []
    for loss in ("hinge", "bce", "squared"):
        counts = []
        for gap in GAPS:
            found = [
                adversarial.solve(instance(loss, eps=0.05, n=40, d=5, P=20, seed=seed), tol=gap, max_iterations=20_000)
                for seed in SEEDS
            ]
            counts.append(", ".join(f"{int(one.iterations)}" + "+" * (float(one.gap) > gap) for one in found))
        rows.append([loss, *counts])
    return Table(
        title="Iterations of the robust ADMM to a certified relative gap, (n, d, P) = (40, 5, 20), radius .05, three seeds",
        columns=["loss", *(f"{gap:g}" for gap in GAPS)],
        rows=rows,
        says="A plus marks runs that ended at 20 000 iterations above the gap.",
    )


def accuracies() -> Table:
    """Breast cancer, ten features, standardised: accuracy on fresh samples, clean, under PGD, and certified."""
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.data))
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    X, y = X[order, :FEATURES], np.where(data.target[order] == 1, 1.0, -1.0)
    A, b, fresh, hidden = X[:TRAIN], y[:TRAIN], X[TRAIN:], y[TRAIN:]

    found = adversarial.trade_off(
        A, b, RADII, fresh=(fresh, hidden), compare=True, width=WIDTH, steps=STEPS, n_patterns=50, bias=True, tol=1e-3
    )
    rows = [
        [
            f"{one.eps:g}",
            one.training,
            f"{one.neurons}",
            *(f"{x:.3f}" for x in (one.clean, one.attacked, one.certified)),
        ]
        for one in found
    ]
    return Table(
        title=f"Breast cancer, {FEATURES} features, {TRAIN} training samples, hinge: accuracy on fresh samples at the radius of training",
        columns=["radius", "training", "neurons", "clean", "under PGD", "certified"],
        rows=rows,
        says="Certified: no attack of that radius can turn the sample, proven for the network at hand. All minimise the same objective "
        "with the same penalty weight. Convex training asks that no neuron turns on or off anywhere in the box around any training "
        "sample: at small radii it is ahead, at large ones few patterns are left and it falls behind.",
    )


def measure() -> list[Table]:
    """The tables of this file."""
    return [iterations(), accuracies()]
