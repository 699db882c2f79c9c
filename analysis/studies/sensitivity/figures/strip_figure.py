"""The answer as a picture: one strip per knob, every setting against its tolerances."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.page.style import new_figure
from analysis.stats.decisions import Outcome
from analysis.studies.sensitivity.bands import WORDS, Band
from analysis.studies.sensitivity.strips import Bar, StripRow, strip_rows

#: Colour, marker and whether it is filled: told apart in grey by the shape.
LOOKS: dict[Outcome, tuple[str, str, bool]] = {
    "pass": ("#0072B2", "o", True),
    "fail": ("#D55E00", "X", True),
    "open": ("#E69F00", "D", False),
    "out of reach": ("#777777", "s", False),
}
#: Ends of the axes, in tolerances.
SPAN = (-4.0, 3.0)


def strips_of(bands: Sequence[Band]) -> dict[str, list[StripRow]] | None:
    """The rows of every knob; None of a study without bands."""
    by_knob: dict[str, list[StripRow]] = {}
    for row in strip_rows(bands):
        by_knob.setdefault(row.knob, []).append(row)
    return by_knob or None


def draw_strips(by_knob: dict[str, list[StripRow]]) -> Figure:
    """A row of two panels per knob, quality and retention."""
    tallest = max(len(rows) for rows in by_knob.values())
    figure, axes = new_figure(2, rows=len(by_knob), width=3.6, height=0.6 + 0.22 * tallest)
    for number, (knob, rows) in enumerate(by_knob.items()):
        quality, retention = axes[2 * number : 2 * number + 2]
        _draw_panel(quality, rows, [row.quality for row in rows])
        _draw_panel(retention, rows, [row.retention for row in rows])
        quality.set_yticks(range(len(rows)), [f"{row.value}, {row.regime}, n={row.seeds}" for row in rows])
        quality.set_ylabel(knob)
        retention.set_yticks(range(len(rows)), [row.word for row in rows])
        retention.yaxis.tick_right()
        if number == 0:
            quality.set_title("quality against its hardest rival")
            retention.set_title("retention against the default")
    for axis in axes[-2:]:
        axis.set_xlabel("difference in tolerances")
    _explain(figure)
    return figure


def _draw_panel(axis: Axes, rows: Sequence[StripRow], bars: Sequence[Bar | None]) -> None:
    for place, (row, bar) in enumerate(zip(rows, bars, strict=True)):
        colour, marker, filled = LOOKS[row.outcome]
        if bar is None:
            axis.text(0.0, place, "reference", fontsize=7, color="#555555", ha="center", va="center")
            continue
        low, high = max(bar.low, SPAN[0]), min(bar.high, SPAN[1])
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        mean = min(max(bar.mean, SPAN[0]), SPAN[1])
        face = colour if filled else "white"
        (dot,) = axis.plot([mean], [place], color=colour, marker=marker, markersize=6, markerfacecolor=face)
        dot.set(clip_on=False, zorder=4)
        if mean != bar.mean:
            _say_beyond(axis, bar.mean, mean, place)
    axis.axvline(-1.0, color="black", linewidth=1)
    axis.axvline(0.0, color="#bbbbbb", linewidth=0.8, linestyle=":")
    axis.set_xlim(*SPAN)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def _say_beyond(axis: Axes, value: float, edge: float, place: int) -> None:
    """The value of a marker that stands at the panel's edge for one that lies beyond."""
    shown = f"← {value:.1f}" if value < edge else f"{value:.1f} →"
    side, offset = ("left", 7) if value < edge else ("right", -7)
    axis.annotate(shown, (edge, place), xytext=(offset, 2), textcoords="offset points", ha=side, fontsize=6)


def _explain(figure: Figure) -> None:
    handles = []
    for outcome, (colour, marker, filled) in LOOKS.items():
        face = colour if filled else "white"
        handles.append(
            Line2D([], [], color=colour, marker=marker, markerfacecolor=face, label=WORDS[outcome])
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
