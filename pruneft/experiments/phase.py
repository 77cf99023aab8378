"""The figure of a recovery run: success probability over (r, n) with the theory curves, one panel per setting."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pruneft.plot import Curve, phase_diagram, phase_panels
from pruneft.plot.phase import ROW_LABEL, X_LABEL
from pruneft.report import Panel
from pruneft.sensing import theory
from pruneft.sensing.draw import GAUSSIAN
from pruneft.sensing.family import Family
from pruneft.sweep import CellSummary, summarise

_PANEL_AXES = ("method", "d", "k", "kappa", "sigma", "scale", "lam", "beta")
_MOST_PANELS = 12


def draw(rows: Sequence[Mapping[str, Any]], family: Family = GAUSSIAN) -> Any:
    """A matplotlib Figure of every setting in a run's rows; the first twelve where there are more, with a warning.

    Args:
      rows: of a run.
      family: of its measurements; the curves of trace minimisation and feasibility are of Gaussian ones alone.

    Raises:
      ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("the run holds no finished trial yet, so there is nothing to draw.")
    panels = _settings(rows)
    settings = list(panels)
    if len(settings) > _MOST_PANELS:
        warnings.warn(f"{len(settings)} settings in this run: only the first {_MOST_PANELS} are drawn.", stacklevel=2)
        settings = settings[:_MOST_PANELS]
    drawn = {_title(setting, settings): _panel(panels[setting], family) for setting in settings}
    if len(drawn) == 1:
        ((title, panel),) = drawn.items()
        return phase_diagram(**panel, title=title).figure
    return phase_panels(drawn).figure


def panels(rows: Sequence[Mapping[str, Any]], family: Family = GAUSSIAN) -> list[Panel]:
    """The panels of the report page: every setting in a run's rows, over (r, n / dof)."""
    found = _settings(rows)
    made = []
    for setting, summaries in found.items():
        numbers = _panel(summaries, family)
        made.append(
            Panel(
                title=_title(setting, list(found)),
                row=numbers["row"],
                x=numbers["x"],
                cells=summaries,
                row_label=ROW_LABEL,
                x_label=X_LABEL,
                curves=numbers["curves"],
            )
        )
    return made


def theory_curves(d: int, ranks: Sequence[int]) -> tuple[Curve, ...]:
    """The three curves in units of n / dof: degrees of freedom, trace minimisation, PSD feasibility."""
    share = {r: theory.dof(d, r) for r in ranks}
    return (
        Curve("n = dof", dict.fromkeys(share, 1.0)),
        Curve("trace minimisation", {r: theory.trace_minimisation(d, r) / p for r, p in share.items()}),
        Curve("PSD feasibility", {r: theory.psd_feasibility(d, r) / p for r, p in share.items()}),
    )


def _settings(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[CellSummary]]:
    """The cells of each setting of the axes that are not drawn, in a fixed order of the settings."""
    found: dict[tuple[Any, ...], list[CellSummary]] = {}
    for summary in summarise(rows, ("r", "n", *_PANEL_AXES)):
        found.setdefault(tuple(summary.cell.get(name) for name in _PANEL_AXES), []).append(summary)
    return {setting: found[setting] for setting in sorted(found, key=str)}


def _panel(summaries: Sequence[CellSummary], family: Family) -> dict[str, Any]:
    d = summaries[0].cell["d"]
    ranks = [summary.cell["r"] for summary in summaries]
    return {
        "row": ranks,
        "x": [summary.cell["n"] / family.dof(d, summary.cell["r"]) for summary in summaries],
        "successes": [summary.successes for summary in summaries],
        "trials": [summary.trials for summary in summaries],
        "curves": theory_curves(d, sorted(set(ranks)))[: None if family is GAUSSIAN else 1],
    }


def _title(setting: tuple[Any, ...], settings: Sequence[tuple[Any, ...]]) -> str:
    """What tells this panel from the others; method and d always."""
    shown = []
    for place, name in enumerate(_PANEL_AXES):
        value = setting[place]
        differs = len({other[place] for other in settings}) > 1
        usual = {"kappa": 1, "sigma": 0, "scale": 1, "lam": None, "beta": None, "k": setting[1]}
        if name in ("method", "d") or differs or value != usual[name]:
            shown.append(str(value) if name == "method" else f"{name} = {'recipe' if value is None else value}")
    return ", ".join(shown)
