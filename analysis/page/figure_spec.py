"""Figures: first computed into an object that holds the numbers, then drawn. Tests look at the object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from matplotlib.figure import Figure

from analysis.page.style import FORMATS, styled

Info = TypeVar("Info")


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
        with styled():
            figure = self.draw(info)
            figure.draw_without_rendering()  # lays it out, once for all forms
            figure.set_layout_engine("none")
            for kind in FORMATS:
                _write(figure, folder / f"{self.name}.{kind}", kind)
        return inline_svg(folder / f"{self.name}.svg")


def _write(figure: Figure, path: Path, kind: str) -> None:
    """In one step, and onto a file of its own: a link of that name is replaced, not followed."""
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    figure.savefig(partial, format=kind, metadata=metadata)
    partial.replace(path)


def inline_svg(path: Path) -> str:
    """An SVG file's root element, for embedding."""
    text = path.read_text(encoding="utf8")
    return text[text.index("<svg") :]
