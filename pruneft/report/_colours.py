"""Colours of the page: the ramp of the figures without matplotlib, and their curves on a dark ground."""

from __future__ import annotations

# Evenly spaced colours of matplotlib's "cividis" (Nunez, Anderton and Renslow, 2018), perceptually uniform and made for
# colour-blind readers; straight lines between them stay within 6 of 255 of it.
CIVIDIS = (
    "#00224e", "#00285b", "#002e6a", "#053371", "#1a386f", "#273e6e", "#32436d", "#3b496c", "#434e6c", "#4b546c", "#535a6d",
    "#5a5f6e", "#61656f", "#686a71", "#6f7073", "#767676", "#7d7c78", "#848279", "#8c8878", "#938e78", "#9b9476", "#a39a74",
    "#aba072", "#b4a76f", "#bcae6c", "#c4b468", "#cdbb63", "#d5c25e", "#dec958", "#e7d150", "#f0d846", "#f9e03a", "#fee838",
)  # fmt: skip

# The hues of the figures' curves, light enough for a dark ground; in the same order.
ON_DARK = ("#FF9D5C", "#F2F2F2", "#E58BCB", "#45C49C", "#FF8A6B", "#B99BFF")
