"""Problems from .npz files: which arrays each kind of measurement is made of."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pruneft.cli._common import CommandError, check_archive, check_memory, say, sensing_bytes


class Kind(NamedTuple):
    """How one kind of measurements stands in a file.

    Attributes:
      needs: names of the arrays, several choices.
      says: what they hold.
      make: arrays by name -> problem.
    """

    needs: tuple[tuple[str, ...], ...]
    says: str
    make: Callable[[Mapping[str, np.ndarray], str], Any]


def read(file: str, operator: str, dtype: str, k: int | None) -> Any:
    """The problem that a file holds.

    Raises:
      CommandError: there is no such file, it holds other arrays, or is too large for the machine.
      ValueError: the arrays make no sense.
    """
    kind = KINDS[next(name for name in KINDS if operator.startswith(name))]  # variants differ in what is drawn
    written = ", ".join(f"{name}={name}" for name in kind.needs[0])
    check_memory(check_archive(file, f"what numpy.savez({file!r}, {written}) writes"), f"the data of {file}")
    arrays = named_arrays(file, kind, operator)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        problem = kind.make(arrays, dtype)
    d, n = problem.operator.d, problem.operator.n
    if operator == "gaussian":
        check_memory(sensing_bytes(n, d, d if k is None else k, dtype), f"a recovery of n={n}, d={d}, k={k or d}")
    for remark in remarks:
        say(f"pruneft: note: {remark.message}")
    return problem


def named_arrays(file: str, kind: Kind, operator: str = "") -> dict[str, np.ndarray]:
    """The arrays of an .npz file that holds those of a kind.

    Raises:
      CommandError: it does not, or is no such file.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            there = archive.files
            if not any(set(names) <= set(there) for names in kind.needs):
                nearest = min(kind.needs, key=lambda names: len(set(names) - set(there)))
                absent = [name for name in nearest if name not in there]
                raise CommandError(
                    f"{file} has no array {' and no array '.join(absent)}: expected {kind.says}, found {', '.join(there) or 'none'}."
                    + (" Measurements of another kind want --operator." if operator == "gaussian" else "")
                )
            return {name: archive[name] for name in there}
    # NotImplementedError: zipfile's word for an archive that is encrypted or compressed in a way it does not know.
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise CommandError(f"{file} is not an .npz file of plain arrays: {error}") from error
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror or error}") from error


def _gaussian(arrays: Mapping[str, np.ndarray], dtype: str) -> Any:
    from pruneft.sensing import Problem

    return Problem.from_arrays(_real("A", arrays["A"], dtype), _real("y", arrays["y"], dtype))


def _rank_one(arrays: Mapping[str, np.ndarray], dtype: str) -> Any:
    from pruneft.sensing import Problem
    from pruneft.sensing.operators.rank_one import RankOne

    X = arrays["X"]
    wide = np.result_type(dtype, np.complex64) if np.iscomplexobj(X) else np.dtype(dtype)
    return Problem(RankOne.from_vectors(_cast("X", X, wide, dtype)), _real("y", arrays["y"], dtype))


def _pauli(arrays: Mapping[str, np.ndarray], dtype: str) -> Any:
    from pruneft.sensing import Problem
    from pruneft.sensing.operators.pauli import Pauli

    operator = Pauli.from_strings([str(string) for string in np.atleast_1d(arrays["paulis"])])
    return Problem(operator, operator.data(_real("values", arrays["values"], dtype)).astype(dtype))


def _distances(arrays: Mapping[str, np.ndarray], dtype: str) -> Any:
    from pruneft.sensing import Problem
    from pruneft.sensing.operators.distances import Distances

    if "pairs" in arrays:
        operator = Distances.from_pairs(arrays["pairs"], _side(arrays, "N"))
        return Problem(operator, _real("y", arrays["y"], dtype))
    operator, y = Distances.from_matrix(_real("D", arrays["D"], dtype), arrays.get("mask"))
    return Problem(operator, np.asarray(y).astype(dtype))


def _entries(arrays: Mapping[str, np.ndarray], dtype: str) -> Any:
    from pruneft.sensing import Problem
    from pruneft.sensing.operators.entries import Entries, entries_of

    if "pairs" in arrays:
        pairs = arrays["pairs"]
        side = _side(arrays, "d")
        d = side if side is not None else int(np.max(pairs, initial=0)) + 1
        return Problem(Entries.from_pairs(pairs, d), _real("y", arrays["y"], dtype))
    operator, y = entries_of(_real("Y", arrays["Y"], dtype), arrays.get("mask"))
    return Problem(operator, np.asarray(y).astype(dtype))


KINDS = {
    "gaussian": Kind((("A", "y"),), "A (n x d x d, or packed n x d(d+1)/2) and y (n)", _gaussian),
    "rank-one": Kind((("X", "y"),), "X (n x d, real or complex) and y (n), y_i = x_iᴴ M x_i", _rank_one),
    "pauli": Kind(
        (("paulis", "values"),),
        "paulis (n strings such as 'XIZ') and values (n expectation values, from -1 to 1)",
        _pauli,
    ),
    "distances": Kind(
        (("pairs", "y"), ("D",)),
        "pairs (n x 2, points counted from 0) and y (n squared distances), or D (N x N squared distances) with mask, or NaN where unknown",
        _distances,
    ),
    "entries": Kind(
        (("pairs", "y"), ("Y",)),
        "pairs (n x 2, rows and columns counted from 0) and y (n), with d for the side, or Y (d x d) with mask, or NaN where unknown",
        _entries,
    ),
}


def _side(arrays: Mapping[str, np.ndarray], name: str) -> int | None:
    if name not in arrays:
        return None
    value = np.asarray(arrays[name])
    if value.size != 1 or not np.issubdtype(value.dtype, np.integer):
        raise CommandError(f"{name} must be one whole number: got {value.dtype} of shape {value.shape}.")
    return int(value.reshape(()))


def _real(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise CommandError(f"{name} must hold real numbers: got dtype {array.dtype}.")
    return _cast(name, array, np.dtype(dtype), dtype)


def _cast(name: str, array: np.ndarray, wanted: Any, dtype: str) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.number):
        raise CommandError(f"{name} must hold numbers: got dtype {array.dtype}.")
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if np.any(np.isinf(cast) & np.isfinite(array)):
        raise CommandError(f"{name} holds numbers beyond the range of {dtype}: use --dtype float64, or other units.")
    return cast
