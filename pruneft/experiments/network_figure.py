"""Figure of the experiment on digits: accuracy against the share of the width that stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruneft.network import CRITERIA
from pruneft.plot import new_figure
from pruneft.plot._style import MARKERS, dress, legend_of_figure, open_frame, series_style

_TITLES = {"mlp": "dense", "cnn": "convolutional", "transformer": "transformer"}
_WAYS = ("gradual", "scratch", "one-shot")
_BASELINES = {
    "from scratch": (0, (4, 1.6)),
    "one-shot, random": (0, (1, 1.5)),
}  # line styles of what is there to be beaten
# Places in the list of styles, which has seven colours; the black one is for what is recommended.
_PLACES = {"norm": 0, "normalised": 0, "taylor": 1, "fisher": 2, "obd": 3, "hessian": 5, "obs": 6}
_APART = 1.025  # from one line's points to the next one's, so that bars do not cover one another


def draw(rows: Sequence[Mapping[str, Any]]) -> Any:
    """One panel for each network: means over seeds of every way to a width, bars of one standard deviation.

    Args:
      rows: of a run of the experiment.

    Raises:
      ValueError: there is none.
    """
    if not rows:
        raise ValueError("the run holds no finished trial yet, so there is nothing to draw.")
    models = [name for name in _TITLES if any(row["model"] == name for row in rows)]
    ways = list(dict.fromkeys(_label(row) for row in sorted(rows, key=_order)))
    figure = new_figure(2.6 * len(models) + 0.6, 3.1)
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    for ax, model in zip(panels, models, strict=True):
        mine = [row for row in rows if row["model"] == model]
        for place, way in enumerate(ways):
            _line(ax, [row for row in mine if _label(row) == way], place, way, _APART ** (place - (len(ways) - 1) / 2))
        keeps = sorted({row["keep"] for row in mine})
        ax.set_xscale("log")
        ax.set_xticks(keeps, [f"{keep:g}" for keep in keeps])
        ax.minorticks_off()
        dress(ax, x="share of the width", y="accuracy, percent" if ax is panels[0] else None, title=_TITLES[model])
        open_frame(ax)
    legend_of_figure(figure, panels[0].get_legend_handles_labels()[0], columns=1 + len(models))
    return figure


def _line(ax: Any, rows: Sequence[Mapping[str, Any]], place: int, label: str, aside: float) -> None:
    """One way to a width, its points moved by a factor; baselines are grey, gradual thresholding is black."""
    style: dict[str, Any] = {"color": "black", "linewidth": 1.8}
    if label in _BASELINES:
        style = {"color": "0.45", "linestyle": _BASELINES[label]}
    elif (criterion := label.removeprefix("one-shot, ")) in _PLACES:
        style = dict(series_style(_PLACES[criterion]))
        if criterion == "normalised":
            style["linestyle"] = (0, (1, 1))
    keeps = sorted({row["keep"] for row in rows})
    values = [np.array([100 * row["accuracy"] for row in rows if row["keep"] == keep]) for keep in keeps]
    spread = [part.std(ddof=1) if part.size > 1 else 0.0 for part in values]
    ax.errorbar(
        [keep * aside for keep in keeps],
        [part.mean() for part in values],
        spread,
        label=label,
        marker=MARKERS[place % len(MARKERS)],
        markersize=3,
        elinewidth=0.7,
        capsize=1.5,
        **{"linewidth": 1.1, **style},
    )


def _label(row: Mapping[str, Any]) -> str:
    if row["method"] == "one-shot":
        return f"one-shot, {row['criterion']}"
    return {"gradual": "gradual", "scratch": "from scratch"}[row["method"]]


def _order(row: Mapping[str, Any]) -> tuple[int, bool, int]:
    """Gradual first, then from scratch and chance, then the criteria."""
    return _WAYS.index(row["method"]), row["criterion"] != "random", CRITERIA.index(row["criterion"])
