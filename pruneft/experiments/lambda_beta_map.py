"""The figure of a run of lambda-beta: penalty weight against smoothing, and the line above which no component grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruneft.experiments.lambda_beta import line
from pruneft.plot import Curve, phase_panels
from pruneft.report import Panel
from pruneft.sweep import CellSummary, summarise

ROW_LABEL = r"smoothing $\beta$"
X_LABEL = r"penalty weight $\lambda$"
LINE = r"$\lambda / (2\sqrt{\beta}) = \lambda_r$"

_SETTING = ("d", "r", "n", "k", "kappa", "sigma", "scale")
_MOST_SETTINGS = 4


def draw(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A matplotlib Figure: how often exactly r columns are left, and how often M* is recovered, over weight and smoothing.

    Raises:
      ValueError: there are no rows, or a row has no weight or smoothing of its own.
    """
    found = _panels(rows)
    if not found:
        raise ValueError("the run holds no finished trial yet, so there is nothing to draw.")
    drawn = {title: {**numbers, "scale": "log"} for title, (numbers, _) in found.items()}
    return phase_panels(drawn, columns=2, row_label=ROW_LABEL, x_label=X_LABEL).figure


def panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The panels of the report page: the same two maps for every setting."""
    return [
        Panel(
            title=title,
            row=numbers["row"],
            x=numbers["x"],
            cells=cells,
            row_label="smoothing beta",
            x_label="penalty weight lam",
            curves=tuple(Curve("lam / (2 sqrt(beta)) = l_r", curve.values) for curve in numbers["curves"]),
        )
        for title, (numbers, cells) in _panels(rows).items()
    ]


def _panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[dict[str, Any], list[CellSummary]]]:
    fixed = [row for row in rows if row["method"] == "prune"]
    if any(row["lam"] is None or row["beta"] is None for row in fixed):
        raise ValueError(
            "a map of weight and smoothing needs both in every cell: sweep with --lam and --beta, several values each."
        )
    fixed = [row for row in fixed if row["lam"] > 0]  # no weight, no place on a logarithmic axis
    settings = sorted({tuple(row[name] for name in _SETTING) for row in fixed}, key=str)[:_MOST_SETTINGS]
    found = {}
    for setting in settings:
        mine = [row for row in fixed if tuple(row[name] for name in _SETTING) == setting]
        cell = dict(zip(_SETTING, setting, strict=True))
        also = "" if len(settings) == 1 else f", {_differences(setting, settings)}"
        for success, title in (("columns_exact", f"r columns left{also}"), ("success", f"recovered{also}")):
            cells = summarise(mine, ("beta", "lam", *_SETTING), success)
            betas = [summary.cell["beta"] for summary in cells]
            numbers = {
                "row": betas,
                "x": [summary.cell["lam"] for summary in cells],
                "successes": [summary.successes for summary in cells],
                "trials": [summary.trials for summary in cells],
                "curves": (Curve(LINE, line(cell, sorted(set(betas)))),),
            }
            found[title] = (numbers, cells)
    return found


def _differences(setting: tuple[Any, ...], settings: Sequence[tuple[Any, ...]]) -> str:
    shown = (
        f"{name} = {setting[place]:g}"
        for place, name in enumerate(_SETTING)
        if len({other[place] for other in settings}) > 1
    )
    return ", ".join(shown)
