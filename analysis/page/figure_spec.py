"""Figures: first computed into an object that holds the numbers, then drawn. Tests look at the object."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from analysis.page.style import PIXELS_PER_INCH, styled

Info = TypeVar("Info")


def _svg(figure: Figure, path: Path) -> None:
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def _png(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(path)


def _pdf(figure: Figure, path: Path) -> None:
    FigureCanvasPdf(figure).print_pdf(path, metadata={"CreationDate": None})


#: How a figure is written in each form. (`savefig` would draw each of them twice.)
FORMATS: dict[str, Callable[[Figure, Path], None]] = {"svg": _svg, "png": _png, "pdf": _pdf}


@dataclass(frozen=True, kw_only=True)
class FigureSpec(Generic[Info]):
    """One figure.

    Attributes:
        name: of its files and its anchor.
        caption: what it shows, for somebody who sees nothing else.
        compute: the numbers, or None where the records cannot support it.
        draw: makes the figure of the numbers, and computes nothing.
    """

    name: str
    caption: str
    compute: Callable[[], Info | None]
    draw: Callable[[Info], Figure]

    def save(self, folder: Path) -> str | None:
        """Draws it in the common look and writes it in `FORMATS`.

        Returns:
            Its SVG for embedding, None where there is nothing to draw.
        """
        info = self.compute()
        if info is None:
            return None
        with styled(), warnings.catch_warnings():
            # the best place for a legend may take a busy machine more than a second to find
            warnings.filterwarnings("ignore", message="Creating legend with loc", category=UserWarning)
            figure = self.draw(info)
            _lay_out(figure)
            for kind, write in FORMATS.items():
                figure.set_dpi(PIXELS_PER_INCH)  # each form leaves its own
                _whole(folder / f"{self.name}.{kind}", partial(write, figure))
        return inline_svg(folder / f"{self.name}.svg")


def _lay_out(figure: Figure) -> None:
    """Once for all forms: laying out takes as long as drawing."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file in one step, and as a file of its own: a link of that name is replaced, not followed."""
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.unlink(missing_ok=True)
    write(unfinished)
    unfinished.replace(path)


def inline_svg(path: Path) -> str:
    """An SVG file's root element, for embedding."""
    text = path.read_text(encoding="utf8")
    return text[text.index("<svg") :]
