"""What the actions of `pruneft relu` share: the file with the data, and flags about the output."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from pruneft.cli._common import DTYPES, CommandError, check_archive, check_memory
from pruneft.cli._files import Kind, named_arrays

FILE_HELP = "arrays X, n x d, and y, n or n x K; D, n x P, for patterns of your own; X_test and y_test, to measure on"
_FILE = Kind(
    (("X", "y"),),
    "X (n x d, samples in rows) and y (n, or n x K), and perhaps patterns D (n x P), and X_test and y_test",
    lambda *_: None,
)


def add_output(parser: argparse.ArgumentParser) -> None:
    """The flags of every action about what is said."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no remarks on stderr")
    parser.add_argument("--dtype", choices=DTYPES, default="float64", help="of everything (float64)")


def read(file: str, *, patterns: int | None, default: int, dtype: str) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Args:
      file: its name.
      patterns: how many the user asked for; default: how many are sampled if he did not.
      dtype: of the fit.

    Raises:
      CommandError: it holds other arrays, contradicts the flags, or is too large for the machine.
    """
    check_memory(check_archive(file, f"what numpy.savez({file!r}, X=X, y=y) writes"), f"the data of {file}")
    arrays = named_arrays(file, _FILE)
    if "D" in arrays and patterns is not None:
        raise CommandError(f"--patterns samples patterns, but {file} holds patterns D: leave out one of them.")
    if ("X_test" in arrays) != ("y_test" in arrays):
        there, absent = ("X_test", "y_test") if "X_test" in arrays else ("y_test", "X_test")
        raise CommandError(f"{file} holds {there} but not {absent}: give both, or neither.")
    X, y = arrays["X"], arrays["y"]
    if "X_test" in arrays and X.ndim == 2 and y.ndim > 0:
        samples, labels = arrays["X_test"], arrays["y_test"]
        if samples.ndim != 2 or samples.shape[1] != X.shape[1] or labels.shape != (len(samples), *y.shape[1:]):
            raise CommandError(
                f"X_test must be m x {X.shape[1]} and y_test have one row for each: got shapes {samples.shape} and {labels.shape}."
            )
    if X.ndim == 2:
        n, d = X.shape
        P = arrays["D"].shape[-1] if arrays.get("D", np.zeros(0)).ndim == 2 else patterns or default
        blocks, bytes_each = 2 * P, 8 if dtype == "float64" else 4
        # Measured: about eight arrays of the size of the cone rows and four of n x n are alive at once.
        check_memory(
            bytes_each * (8.0 * n * blocks + 4.0 * n * n + 2.0 * n * d), f"a fit of n={n}, d={d} with {P} patterns"
        )
    return arrays


def test_samples(arrays: dict[str, np.ndarray]) -> tuple[Any, Any] | None:
    """The samples to measure on, if the file has any."""
    return (arrays["X_test"], arrays["y_test"]) if "X_test" in arrays else None
