"""Draws docs/images/architecture.svg: every room of the four packages, and which imports which.

    python docs/draw_architecture.py

Rooms and arrows are read off the source. An arrow that others imply is left out, so that the order can be
seen; within a package, a room stands left of those that it imports.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from import_graph import arrows, room  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "architecture.svg"
#: The bands of the picture, the top one first.
BANDS = (("sweeps", "analysis"), ("ray_jobs",), ("grit",))
WIDTH, ROW, COLUMN, BOX_WIDTH, BOX_HEIGHT, HEAD = 1142, 46, 122, 108, 30, 34
COLOURS = {"sweeps": "#fde9c9", "analysis": "#dcecd5", "ray_jobs": "#d6e4f5", "grit": "#eadff2"}


def rooms() -> dict[str, set[str]]:
    """Which room imports which; scripts of one package are one room, and packages' own doors are left out."""
    edges: dict[str, set[str]] = {}
    for name, others in arrows(_drawn).items():
        if name:
            edges[name] = {other for other in others if other and other != name}
    return edges


def _drawn(name: str) -> str:
    """The box of a module."""
    parts = name.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return ""
    if parts[0] == "sweeps" and parts[1] != "common":
        return "sweeps.scripts"
    return room(name)


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that no chain of others implies."""
    below = {name: _all_below(edges, name) for name in edges}
    return {
        name: {other for other in others if not any(other in below[mid] for mid in others - {other})}
        for name, others in edges.items()
    }


def _all_below(edges: dict[str, set[str]], name: str) -> set[str]:
    below: set[str] = set()
    for other in edges.get(name, set()):
        below |= {other} | _all_below(edges, other)
    return below


def depth(edges: dict[str, set[str]], name: str) -> int:
    """How many rooms of its own package stand below one, at the most."""
    inside = [other for other in edges[name] if other.split(".")[0] == name.split(".")[0]]
    return 1 + max((depth(edges, other) for other in inside), default=-1)


def places(
    edges: dict[str, set[str]],
) -> tuple[dict[str, tuple[int, int]], list[tuple[str, int, int, int, int]], int]:
    """The upper left corner of every box, frames (package, x, y, width, height), and the height of it all."""
    boxes: dict[str, tuple[int, int]] = {}
    frames = []
    top = 10
    for band in BANDS:
        left, height = 10, 0
        for package in band:
            own = sorted(name for name in edges if name.split(".")[0] == package)
            columns: dict[int, list[str]] = {}
            for name in own:
                columns.setdefault(depth(edges, name), []).append(name)
            deepest = max(columns)
            tallest = max(len(column) for column in columns.values())
            for level, column in columns.items():
                for row, name in enumerate(column):
                    boxes[name] = (left + 14 + (deepest - level) * COLUMN, top + HEAD + row * ROW)
            frames.append((package, left, top, (deepest + 1) * COLUMN + 14, HEAD + tallest * ROW))
            left += (deepest + 1) * COLUMN + 34
            height = max(height, HEAD + tallest * ROW)
        top += height + 44
    return boxes, frames, top - 34


def picture() -> str:
    """The whole picture as SVG."""
    edges = rooms()
    boxes, frames, height = places(edges)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13"><title>Rooms of the four packages and which imports which</title>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#888"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for package, x, y, width, tall in frames:
        lines.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{tall}" rx="8" fill="{COLOURS[package]}"/>'
            f'<text x="{x + 12}" y="{y + 21}" font-weight="bold">{package}</text>'
        )
    for name, others in sorted(reduced(edges).items()):
        lines += [_arrow(boxes[name], boxes[other]) for other in sorted(others)]
    for name, (x, y) in sorted(boxes.items()):
        label = escape(name.split(".", 1)[1])
        lines.append(
            f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" fill="white" '
            'stroke="#666"/>'
            f'<text x="{x + BOX_WIDTH / 2:g}" y="{y + 20}" text-anchor="middle">{label}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From one box to another: to the right within a band, downwards between bands."""
    if end[1] > start[1] + 3 * ROW or end[0] <= start[0]:
        x1, y1 = start[0] + BOX_WIDTH / 2, start[1] + BOX_HEIGHT
        x2, y2 = end[0] + BOX_WIDTH / 2, end[1] - 1
        bend = f"C{x1:g},{y1 + 40:g} {x2:g},{y2 - 40:g} {x2:g},{y2:g}"
    else:
        x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
        x2, y2 = end[0] - 1, end[1] + BOX_HEIGHT / 2
        bend = f"C{x1 + 14:g},{y1:g} {x2 - 14:g},{y2:g} {x2:g},{y2:g}"
    return f'<path d="M{x1:g},{y1:g} {bend}" fill="none" stroke="#888" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf8")
    print(PICTURE.relative_to(ROOT))
