"""Ledgers of the toy experiment for tests."""

from __future__ import annotations

from pathlib import Path

from pruneft.sweep.code import code_of
from pruneft.sweep.ledger import Ledger, Row
from tests.sweep.toy import TOY, resolve

CODE = code_of(TOY, {"dtype": "float32"})
MANIFEST = {"jax": "0.6", "device": "cpu", "dtype": "float32"}
CELL = resolve({})
REPORT = {"status": 1, "steps": 12, "value": 0.25, "success": True}


def begun(path: Path) -> Ledger:
    """An open ledger that takes trials of the toy."""
    ledger = Ledger.open(path)
    ledger.begin(CODE, "toy", MANIFEST)
    return ledger


def filled(path: Path, count: int = 20) -> Path:
    """A ledger with so many trials of one cell."""
    with begun(path) as ledger:
        assert ledger.write([Row(CELL, seed, REPORT) for seed in range(count)]) == count
    return path
