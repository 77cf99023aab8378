"""What `recover` returns, and its form on disk."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pruneft.files import save_arrays
from pruneft.status import Status, is_ok, message

_FORMAT = 2
_READABLE = (1, 2)  # the first lacks what has a default
_SCALARS = (
    "status",
    "residual",
    "sigma_estimate",
    "predicted_error",
    "columns",
    "steps",
    "method",
    "dtype",
    "devices",
    "rank_given",
    "fits",
    "agreeing",
    "score_gap",
    "edge_ratio",
    "apart",
    "prunability_gap",
    "growth_threshold",
)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """A recovered matrix ``M̂ = U Uᴴ``.

    Attributes:
      U: [d, rank], canonical: orthogonal columns ``sqrt(l_i) v_i`` by falling norm. In units of sqrt(y / A). Complex where
        M is.
      status: how it ended; ``ok`` and ``message`` follow from it.
      residual: relative, ``||A(M̂) - y|| / ||y||``; of the means, where measurements were repeated.
      sigma_estimate: noise standard deviation ``sqrt(RSS / (n - dof))`` in units of y; NaN where n <= dof.
      predicted_error: relative Frobenius error to expect if the rank is right; infinite where it cannot be predicted.
      columns: columns that pruning by norm left, before parallel ones were merged (method ``prune``; 0 otherwise).
      steps: training and first-order fine-tuning steps over all attempts.
      history: named arrays: ``step`` [t], ``attempt``, ``phase`` (`pruneft.pipeline.Phase`), ``residual`` (relative, of
        the best start), ``columns`` (above the pruning threshold) and ``column_norms`` [t, k] (of the best start, in
        units of U) along the training, and ``finetune`` [iterations + 1], the relative residual along the last
        refinement of the chosen fit.
      method, dtype: what computed it.
      devices: how many devices the measurements were split over; 1 where they were not.
      rank_given: the rank was asked for, not found.
      rival, apart: of the fits that explain the data as well the one that differs most, [d, rank] in units of U, and its relative
        distance in Frobenius norm; None and 0 where nothing differs, or nothing was compared. Method ``path``.
      fits, agreeing: fits at this rank, from every start and from the rank below, and how many of them agree with the best in
        their residual. Method ``path``; else 0.
      score_gap: how far the score of the second-best rank lies above that of this one. Method ``path``; else NaN.
      edge_ratio: least eigenvalue over the noise edge ``sigma sqrt(2d/n)``.
      prunability_gap: `pruneft.penalty.prunability_gap` of the trained factor (of the best start of the last attempt): 0
        where its columns are as sharp as pruning by norm wants them. The path does not need sharp columns.
      growth_threshold: ``lam / (2 sqrt(beta))`` at the end of training, in units of M: a dead column grew where an
        eigenvalue of the residual exceeded it. NaN where the starts had different ones.
    """

    U: np.ndarray
    status: Status
    residual: float
    sigma_estimate: float
    predicted_error: float
    columns: int
    steps: int
    method: str
    dtype: str
    devices: int = 1
    rank_given: bool = False
    fits: int = 0
    agreeing: int = 0
    score_gap: float = math.nan
    edge_ratio: float = math.nan
    prunability_gap: float = math.nan
    growth_threshold: float = math.nan
    apart: float = 0.0
    rival: np.ndarray | None = field(default=None, repr=False)
    history: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def rank(self) -> int:
        """The rank found."""
        return self.U.shape[1]

    @property
    def ok(self) -> bool:
        """Whether the answer may be used."""
        return is_ok(self.status)

    @property
    def message(self) -> str:
        """What the status means and what to do about it."""
        return message(self.status)

    @property
    def eigenvalues(self) -> np.ndarray:
        """[rank] nonzero eigenvalues of M̂, falling."""
        wide = self._wide
        return np.sum(np.square(wide.real) + np.square(wide.imag), axis=0)

    @property
    def matrix(self) -> np.ndarray:
        """[d, d], M̂, in float64 (complex128)."""
        wide = self._wide
        return wide @ wide.conj().T

    @property
    def _wide(self) -> np.ndarray:
        return self.U.astype(np.complex128 if np.iscomplexobj(self.U) else np.float64)  # squares may be beyond float32

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an .npz file: array ``U`` [d, rank], ``eigenvalues``, the scalars and the histories. Whole or not at all.

        Raises:
          OSError: the file cannot be written; whatever stood there before is untouched.
        """
        scalars = {name: getattr(self, name) for name in _SCALARS} | {"format": _FORMAT, "status": int(self.status)}
        arrays = {f"history_{name}": values for name, values in self.history.items()}
        if self.rival is not None:
            arrays["rival"] = self.rival
        arrays |= {"U": self.U, "eigenvalues": self.eigenvalues, "scalars": np.array(json.dumps(scalars))}
        return save_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recovery:
        """Read what `save` wrote.

        Raises:
          ValueError: the file is not one, or of another format.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise
        except Exception as error:  # zipfile, format and dtype errors of every kind mean one thing here
            raise ValueError(f"{path} is not a saved recovery (an .npz that Recovery.save wrote): {error}") from error
        if "scalars" not in arrays or "U" not in arrays:
            raise ValueError(
                f"{path} is not a saved recovery: it holds {', '.join(arrays) or 'nothing'}, expected U and scalars."
            )
        scalars: dict[str, Any] = json.loads(str(arrays["scalars"]))
        if scalars.pop("format", None) not in _READABLE:
            raise ValueError(f"{path} has another format than {_FORMAT}: it was saved by another version of pruneft.")
        scalars["status"] = Status(scalars["status"])
        history = {
            name.removeprefix("history_"): values for name, values in arrays.items() if name.startswith("history_")
        }
        return cls(U=arrays["U"], rival=arrays.get("rival"), history=history, **scalars)

    def summary(self) -> dict[str, Any]:
        """Everything but the arrays of size d and the histories, as JSON-able values; what is not finite is None."""
        values = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("U", "rival", "history", "status")
        }
        clean = {name: (None if isinstance(v, float) and not np.isfinite(v) else v) for name, v in values.items()}
        return {
            "status": self.status.name.lower(),
            "ok": self.ok,
            "message": self.message,
            "rank": self.rank,
            "eigenvalues": [float(v) for v in self.eigenvalues],
            **clean,
        }
