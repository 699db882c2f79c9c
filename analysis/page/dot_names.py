"""Names beside the dots of a scatter, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

#: Points: of the names' letters, from a dot to its name, and of a dot itself.
LETTERS, GAP, DOT = 6.0, 6.0, 5.0
#: A letter's width as a share of its height, on average.
_WIDTH = 0.55
POINTS_PER_INCH = 72.0


@dataclass(frozen=True)
class Box:
    """A rectangle, in points from the panel's lower left corner."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.top <= other.bottom or other.top <= self.bottom)


@dataclass(frozen=True, kw_only=True)
class PlacedName:
    """The name of the dot of that `number` (from 0): its offset in points, which of its sides lies there."""

    number: int
    name: str
    dot: tuple[float, float]
    offset: tuple[float, float]
    side: str
    box: Box


def name_dots(axis: Axes, names: Sequence[str], across: Sequence[float], along: Sequence[float]) -> None:
    """Writes every name for which there is room.

    Args:
        axis: on which the dots are drawn, with its scales set.
        names: one per dot; those that come first are placed first.
        across: their x.
        along: their y.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    axis.autoscale_view()  # which is put off until something is drawn
    per_point = figure.dpi / POINTS_PER_INCH
    corner = axis.transAxes.transform((0, 0))
    places = (axis.transData.transform(np.column_stack([across, along])) - corner) / per_point
    width, height = (axis.transAxes.transform((1, 1)) - corner) / per_point
    panel = Box(0.0, 0.0, float(width), float(height))
    for placed in place_names(names, [(float(x), float(y)) for x, y in places], panel):
        axis.annotate(
            placed.name,
            (across[placed.number], along[placed.number]),
            xytext=placed.offset,
            textcoords="offset points",
            ha=placed.side,
            va="center",
            fontsize=LETTERS,
        )


def place_names(names: Sequence[str], dots: Sequence[tuple[float, float]], panel: Box) -> list[PlacedName]:
    """Each name right of its dot, left, above or below: where it meets no other dot or name, nor the edge.

    A name that finds no room is left out. Dots are in points, as the panel is.
    """
    taken = [Box(x - DOT / 2, y - DOT / 2, x + DOT / 2, y + DOT / 2) for x, y in dots]
    placed: list[PlacedName] = []
    for number, (name, dot) in enumerate(zip(names, dots, strict=True)):
        others = [*taken[:number], *taken[number + 1 :], *(one.box for one in placed)]
        free = (one for one in _candidates(number, name, dot) if _fits(one.box, others, panel))
        if (one := next(free, None)) is not None:
            placed.append(one)
    return placed


def _fits(box: Box, others: Sequence[Box], panel: Box) -> bool:
    inside = box.left >= 0 and box.right <= panel.right and box.bottom >= 0 and box.top <= panel.top
    return inside and not any(map(box.overlaps, others))


def _candidates(number: int, name: str, dot: tuple[float, float]) -> list[PlacedName]:
    width, (x, y) = len(name) * LETTERS * _WIDTH, dot
    half = LETTERS / 2
    sides = (
        ((GAP, 0.0), "left", x + GAP),
        ((-GAP, 0.0), "right", x - GAP - width),
        ((0.0, GAP + 2), "center", x - width / 2),
        ((0.0, -GAP - 2), "center", x - width / 2),
    )
    return [
        PlacedName(
            number=number,
            name=name,
            dot=dot,
            offset=offset,
            side=side,
            box=Box(left, y + offset[1] - half, left + width, y + offset[1] + half),
        )
        for offset, side, left in sides
    ]
