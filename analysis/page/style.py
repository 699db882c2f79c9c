"""One look for all figures.

Colours that colour-blind readers tell apart (Okabe and Ito), and shapes that survive grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

matplotlib.use("Agg")

COLOURS = {
    "step": "#0072B2",
    "time": "#D55E00",
    "control": "#000000",
    "neutral": "#999999",
    "accent": "#009E73",
}
#: Several of a kind: colours and strokes to be used together. Perceptually even, and monotone in grey.
SHADES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STROKES = ("-", "--", "-.", ":", "-", "--", "-.")
SEQUENTIAL = "cividis"
PIXELS_PER_INCH = 200
MARKERS = {"step": "o", "time": "s", "control": "X"}
LINES = {"step": "-", "time": "--", "control": ":"}

_RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.dpi": 150,
    "svg.hashsalt": "grit",
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
}


@contextmanager
def styled() -> Iterator[None]:
    """Applies the look within the block."""
    with matplotlib.rc_context(_RC):
        yield


def new_figure(
    columns: int, *, rows: int = 1, width: float = 3.1, height: float = 2.7
) -> tuple[Figure, list[matplotlib.axes.Axes]]:
    """A figure with a row of panels; sizes in inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [axis for row in axes for axis in row]


def plain_log_axis(axis: Any) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5 of each decade."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
