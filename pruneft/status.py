"""One int32 code per lane, and the sentence that says what it means and what to do.

A lane never raises and never lies: whatever happened to it, it ends with one of these codes. They are plain integers,
so they pass through ``jit`` and ``vmap``, and they are what a ledger stores; their numbers therefore never change their
meaning.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How a lane ended. ``is_ok`` says which of them a user may build on."""

    RUNNING = 0
    CONVERGED = 1
    RANK_UNCERTAIN = 2
    BUDGET_SPENT = 3
    NOT_FINITE = 4
    PRUNED_TO_NOTHING = 5
    REJECTED = 6
    NOT_IDENTIFIABLE = 7
    UNFINISHED = 8
    WORKER_LOST = 9
    NOT_UNIQUE = 10
    ALL_ZERO = 11
    INFEASIBLE = 12
    OUT_OF_DOMAIN = 13


_OK = frozenset({Status.CONVERGED, Status.RANK_UNCERTAIN})

_MESSAGES = {
    Status.RUNNING: "still running: the state was read before the trial had finished.",
    Status.CONVERGED: "converged: the data are explained at the rank that was found.",
    Status.RANK_UNCERTAIN: (
        "recovered, rank uncertain: the fit is good, but a component near the noise edge may be missing or surplus. "
        "More measurements, or rank=..., would settle it."
    ),
    Status.BUDGET_SPENT: (
        "step budget spent: no attempt explained the data at an identifiable rank. "
        "Take more measurements (n/dof above about 1.2), or give more attempts or steps."
    ),
    Status.NOT_FINITE: (
        "not finite: every attempt overflowed or met NaN. Lower the learning rate, or look for extreme values in the data."
    ),
    Status.PRUNED_TO_NOTHING: (
        "pruned to nothing: no column was left above the threshold. Lower lam, lower the threshold, or check that y is not pure noise."
    ),
    Status.REJECTED: (
        "rejected: the starts do not agree, or the predicted error exceeds 15 percent. Do not use this answer; take more "
        "measurements, or give more seeds and steps."
    ),
    Status.NOT_IDENTIFIABLE: (
        "not identifiable: the rank asked for, or even rank 1, has too many degrees of freedom for this number of (distinct) measurements. "
        "Take more measurements, or ask for a lower rank."
    ),
    Status.UNFINISHED: (
        "unfinished: the trial never said that it was finished, and the sweep ended it at its limit of steps, or its turn or stage left it "
        "where it was. Give the trial a step budget, or raise max_steps."
    ),
    Status.NOT_UNIQUE: (
        "not unique: two different matrices of the same rank fit the data exactly, so the measurements do not determine the answer. "
        "Take more measurements, or others."
    ),
    Status.ALL_ZERO: (
        "all zero: the penalty is so large that the optimum has no weight but zero, to within the tolerance: lam is at or above its zero "
        "threshold. Lower lam."
    ),
    Status.INFEASIBLE: (
        "infeasible: no weights interpolate the data, so there is no interpolant of minimal norm. "
        "Add patterns, remove contradicting duplicates of samples, or give lam > 0 to allow a misfit."
    ),
    Status.OUT_OF_DOMAIN: (
        "out of domain: the theory that was asked for a prediction does not hold there, so its numbers are not to be used. "
        "Take a smaller learning rate, or fewer steps."
    ),
    Status.WORKER_LOST: (
        "worker lost: the process that computed this trial died, twice, with nothing else to compute. "
        "Give it more memory, or choose smaller sizes."
    ),
}

_SUBJECTS = {
    "relu": {
        Status.CONVERGED: "converged: the certified gap between objective and dual bound is within the tolerance.",
        Status.BUDGET_SPENT: (
            "iteration budget spent: the certified gap is above the tolerance, and says how far the objective can be from the optimum. "
            "Give more iterations or a larger tol; in float32 use float64."
        ),
        Status.NOT_FINITE: (
            "not finite: the iterates overflowed or met NaN; what is returned is the best point before that. "
            "Standardise the columns of X, look for extreme values, or use float64."
        ),
        Status.NOT_IDENTIFIABLE: (
            "not identifiable: a planted neuron is switched on by no sample, or two by the same ones, so the data do not tell them apart. "
            "Take more samples."
        ),
    },
    "dynamics": {
        Status.CONVERGED: "converged: the eigenvalues are accurate to the tolerance, and the theory holds over the whole run.",
        Status.BUDGET_SPENT: (
            "budget spent: the residual of an eigenpair is above the tolerance, so the eigenvalue is not to be trusted. "
            "Give more products (most) or a larger tol; in float32 use float64."
        ),
        Status.NOT_FINITE: "not finite: the run diverged, or the loss or its curvature is infinite or NaN. Lower the learning rate.",
        Status.OUT_OF_DOMAIN: (
            "out of domain: the sharpness rises too fast for a slow oscillation (eps), its gradient is nearly parallel to the unstable "
            "direction (share), or a second direction is about to become unstable (second): take a smaller learning rate, or central_flow. "
            "From onset: the sharpness never rises, so there is no edge to meet. From orbit: the minimiser is not isolated, or its "
            "sharpness not simple. From central_flow: all k directions are at the edge; give a larger k."
        ),
    },
}


def is_ok(status: int) -> bool:
    """Whether an answer with this status may be used (`CONVERGED` or `RANK_UNCERTAIN`).

    Args:
      status: a concrete status code, not a traced one.
    """
    return int(status) in _OK


def message(status: int, subject: str = "sensing") -> str:
    """What a status means and what to do about it, in one or two sentences.

    Args:
      status: a concrete status code.
      subject: ``"sensing"``, ``"relu"`` or ``"dynamics"``; what to do differs.

    Raises:
      ValueError: no status has this code.
    """
    try:
        code = Status(int(status))
        return _SUBJECTS.get(subject, {}).get(code, _MESSAGES[code])
    except ValueError:
        known = ", ".join(f"{s.value} {s.name}" for s in Status)
        raise ValueError(f"unknown status code {status}; known are {known}.") from None
