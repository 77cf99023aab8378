"""What all figures share: sizes, colours, a legend that hides no data, and saving without half-written files.

Nothing here touches pyplot or the global rcParams: a figure is an object, needs no display, and two of them made at the
same time in two threads do not meet.
"""

from __future__ import annotations

import importlib
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle, StepPatch
    from matplotlib.text import Text
else:
    # Names for annotations only: importing this package must not import matplotlib.
    Artist = Axes = Collection = Colorbar = Figure = Legend = Line2D = Rectangle = StepPatch = Text = Any

# Inches: one and two columns of a journal page (89 mm and 183 mm).
ONE_COLUMN = 3.5
TWO_COLUMNS = 7.2

# Points: legible in print at the widths above.
LABEL_SIZE = 8.0
TICK_SIZE = 7.0

DPI = 160

# Okabe and Ito (2008), without the yellow, which is too light for a line on white paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
GREY = "#8C8C8C"
# Seven styles and seven colours, taken together: a series is told apart on a black-and-white print too.
LINE_STYLES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.2)),
    (0, (6, 2, 1, 2)),
    (0, (3, 1.2, 1, 1.2, 1, 1.2)),
    (0, (9, 3)),
    (0, (2, 3)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def mpl(name: str = "") -> ModuleType:
    """The module ``matplotlib`` or ``matplotlib.<name>``, imported when first asked for.

    Raises:
      ImportError: matplotlib is not installed.
    """
    try:
        return importlib.import_module(f"matplotlib.{name}" if name else "matplotlib")
    except ImportError as error:
        raise ImportError("plots need matplotlib: python -m pip install 'pruneft[cli]'") from error


def new_figure(width: float = ONE_COLUMN, height: float = 2.6) -> Figure:
    """An empty figure of ``width`` by ``height`` inches, laid out so that nothing overlaps, tied to no window."""
    figure: Figure = mpl("figure").Figure(figsize=(width, height), layout="constrained", dpi=DPI, facecolor="white")
    return figure


def figure_of(ax: Axes) -> Figure:
    """The whole figure an axes belongs to, also when it sits in a subfigure."""
    figure: Figure = ax.figure.canvas.figure
    return figure


def axes_or_new(
    axes: Sequence[Axes] | np.ndarray | None, rows: int, columns: int, size: tuple[float, float]
) -> list[Axes]:
    """The axes that were given, checked for their number, or ``rows`` x ``columns`` of them in a new figure.

    Raises:
      ValueError: another number of axes was given than the drawing needs.
    """
    wanted = rows * columns
    if axes is None:
        grid = new_figure(*size).subplots(rows, columns, squeeze=False, sharex=rows > 1)
        return list(grid.ravel())
    given = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(given) != wanted:
        raise ValueError(f"axes: expected {wanted}, got {len(given)}. Give {wanted} axes, or none to get a new figure.")
    return given


def dress(ax: Axes, *, x: str | None = None, y: str | None = None, title: str | None = None) -> None:
    """Axis labels, title and ticks in print sizes."""
    if x is not None:
        ax.set_xlabel(x, fontsize=LABEL_SIZE)
    if y is not None:
        ax.set_ylabel(y, fontsize=LABEL_SIZE)
    if title is not None:
        ax.set_title(title, fontsize=LABEL_SIZE)
    ax.tick_params(which="both", labelsize=TICK_SIZE, width=0.6)
    ax.tick_params(which="major", length=3.0)
    ax.tick_params(which="minor", length=1.8)
    for spine in ax.spines.values():
        spine.set_linewidth(0.6)


def open_frame(ax: Axes) -> None:
    """Take away the upper and right spine, which carry no scale."""
    ax.spines[["top", "right"]].set_visible(False)


def legend_below(ax: Axes, handles: Sequence[Artist], *, columns: int = 2, drop: float = 30.0) -> Legend:
    """A legend under the x label, ``drop`` points below the axes, where it cannot hide data."""
    shift = mpl("transforms").ScaledTranslation(0.0, -drop / 72.0, figure_of(ax).dpi_scale_trans)
    legend: Legend = ax.legend(
        handles=list(handles),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=ax.transAxes + shift,
        ncols=max(1, min(columns, len(handles))),
        fontsize=TICK_SIZE,
        frameon=False,
        handlelength=2.8,
        columnspacing=1.2,
        borderaxespad=0.0,
    )
    return legend


def legend_of_figure(figure: Figure, handles: Sequence[Artist], *, columns: int) -> Legend:
    """A legend along the lower edge of a figure, for all its panels."""
    legend: Legend = figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=max(1, min(columns, len(handles))),
        fontsize=TICK_SIZE,
        frameon=False,
        handlelength=2.8,
        columnspacing=1.2,
    )
    return legend


def series_style(index: int) -> dict[str, Any]:
    """Colour and line style of the series with this index, told apart in black and white too."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}


def log_axis(axis: Any, low: float, high: float) -> None:
    """Ticks in plain numbers for a logarithmic axis from ``low`` to ``high``, at most about seven of them.

    Matplotlib's own choice labels powers of ten only, of which a range such as 40 to 300 holds one.
    """
    ticker = mpl("ticker")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if math.log10(high / low) > 3.0:
        axis.set_major_locator(ticker.LogLocator(numticks=7))
        return
    ticks: list[float] = []
    for marks in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        found = [float(f"{m}e{e}") for e in decades for m in marks]
        found = [tick for tick in found if low <= tick <= high]
        if not ticks or len(found) <= 7:
            ticks = found
    if len(ticks) < 2:
        ticks = [float(t) for t in ticker.MaxNLocator(5).tick_values(low, high) if low <= t <= high and t > 0]
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def vector(name: str, values: Any) -> np.ndarray:
    """``values`` as a float64 array of one dimension.

    Raises:
      ValueError: another number of dimensions, or no entry.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected one dimension and at least one entry, got shape {array.shape}.")
    return array


def save(fig: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to ``path`` whole or not at all, and return the path.

    The picture is made in memory, written to a temporary file beside ``path`` and moved over it; a full disk or a kill
    leaves what stood there before. The same data give the same bytes with the same matplotlib: no date, a fixed name
    of the software.

    Args:
      fig: the figure, as in the ``figure`` field of what every drawing function returns.
      path: ends in ``.png`` (160 dots per inch) or ``.pdf``. Its folder must exist.

    Raises:
      ValueError: another ending.
      OSError: the file cannot be written: the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    kind = target.suffix.lower().lstrip(".")
    fixed: dict[str, dict[str, Any]] = {
        "png": {"Software": "pruneft"},
        "pdf": {"Creator": "pruneft", "Producer": "pruneft", "CreationDate": None},
    }
    if kind not in fixed:
        raise ValueError(f"path: expected a name ending in .png or .pdf, got {str(target)!r}. Rename the output.")
    picture = io.BytesIO()
    fig.savefig(picture, format=kind, dpi=DPI, metadata=fixed[kind], facecolor="white")
    # Beside the target, since a move is atomic only within one file system; the id keeps two writers apart.
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(picture.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise OSError(f"could not write the figure {target}: {reason}. Check the folder and the free space.") from error
    return target
