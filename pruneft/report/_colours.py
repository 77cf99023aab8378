"""Colours of the page: the ramp of the figures without matplotlib, and their curves on a dark ground."""

from __future__ import annotations

# Seventeen evenly spaced colours of matplotlib's "cividis" (Nunez, Anderton and Renslow, 2018), perceptually uniform and made
# for colour-blind readers. Straight lines between them leave it by less than a step of 2 in 255.
CIVIDIS = (
    "#00224e", "#002e6a", "#1a386f", "#32436d", "#434e6c", "#535a6d", "#61656f", "#6f7073", "#7d7c78",
    "#8c8878", "#9b9476", "#aba072", "#bcae6c", "#cdbb63", "#dec958", "#f0d846", "#fee838",
)  # fmt: skip

# The hues of the figures' curves, light enough for a dark ground; in the same order.
ON_DARK = ("#FF9D5C", "#F2F2F2", "#E58BCB", "#45C49C", "#FF8A6B", "#B99BFF")
