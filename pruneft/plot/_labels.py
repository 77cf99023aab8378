"""Fractions written into the cells of a phase diagram: where they fit, in which ink, and clear of the lines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pruneft.plot._cells import Cells
from pruneft.plot._style import Axes, Line2D, Rectangle, Text, figure_of

# Points. Below the first a fraction is not legible in print; two digits and a point are about 1.5 font sizes wide.
_SMALLEST_FONT, _LARGEST_FONT, _WIDTH_IN_FONTS, _HEIGHT_IN_FONTS = 5.5, 7.0, 1.85, 1.35


def _fraction(p: float) -> str:
    """``1`` and ``0`` for all and none only: 299 of 300 is not certainty."""
    if p in (0.0, 1.0):
        return f"{p:.0f}"
    return f"{min(max(p, 0.01), 0.99):.2f}".removeprefix("0")


def _luminance(colour: Any) -> float:
    """Relative luminance of an sRGB colour, as in the WCAG contrast rule."""
    channel = np.asarray(colour[:3])
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def _clear_of(lines: Sequence[float], low: float, high: float, half: float, margin: float) -> float:
    """The middle of a word of half-width ``half`` between ``low`` and ``high``: as central as the lines let it be.

    Where no place is free of lines it stays in the centre, where its ground parts them from the digits.
    """
    centre = (low + high) / 2
    reach = half + margin
    places = [centre, *(line + side * reach for line in lines for side in (-1, 1))]
    free = [p for p in places if low + half <= p <= high - half and all(abs(p - v) >= reach - 1e-6 for v in lines)]
    return min(free, key=lambda p: abs(p - centre), default=centre)


def label_cells(ax: Axes, cells: Cells, rectangles: Sequence[Rectangle], lines: Sequence[Line2D]) -> tuple[Text, ...]:
    """Fractions in the cells with room for them, once the layout says how wide the cells come out."""
    figure = figure_of(ax)
    figure.draw_without_rendering()
    points = 72.0 / figure.dpi
    corners = [ax.transData.transform(np.column_stack([edge, cells.row])) for edge in (cells.low, cells.high)]
    width = (corners[1][:, 0] - corners[0][:, 0]) * points
    height = ax.get_window_extent().height * points / len(cells.rows)
    run = ~np.isnan(cells.probability)
    if not run.any() or height < _SMALLEST_FONT * _HEIGHT_IN_FONTS:
        return ()
    room = run & (width >= _SMALLEST_FONT * _WIDTH_IN_FONTS)
    if room.sum() < run.sum() / 2:
        return ()
    # One size for all: the largest at which every labelled cell still holds its fraction.
    font = min(_LARGEST_FONT, width[room].min() / _WIDTH_IN_FONTS, height / _HEIGHT_IN_FONTS)
    # Lines stand upright within a band: where they do, in pixels, for the words to keep clear of.
    upright: list[list[float]] = [[] for _ in cells.rows]
    for line in lines:
        path = np.asarray(line.get_xydata(), dtype=np.float64)
        for (x, y), (_, above) in pairwise(path):
            if above - y == 1.0:
                upright[int(y + 0.5)].append(float(ax.transData.transform((x, y))[0]))
    texts = []
    for i in np.flatnonzero(room).tolist():
        face = rectangles[i].get_facecolor()
        light = _luminance(face)
        # The better of the two contrasts (L1 + .05) / (L2 + .05) against white (1) and black (0).
        ink = "white" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "black"
        word = _fraction(cells.probability[i])
        # A digit of the default face is 0.64 font sizes wide, the point half of that.
        half = (0.32 * len(word) - 0.16 * word.count(".")) * font / points
        pixel = _clear_of(upright[cells.row[i]], corners[0][i, 0], corners[1][i, 0], half, 2.2 / points)
        middle = ax.transData.inverted().transform((pixel, corners[0][i, 1]))[0]
        text = ax.text(middle, cells.row[i], word, color=ink, fontsize=font, zorder=5)
        # A ground in the cell's own colour interrupts a line that would otherwise run through the digits.
        text.set(ha="center", va="center_baseline")
        text.set_bbox({"boxstyle": "square,pad=0.08", "facecolor": face, "linewidth": 0.0})
        text.set_in_layout(False)
        texts.append(text)
    return tuple(texts)
