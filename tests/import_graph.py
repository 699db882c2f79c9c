"""Which module imports which, read off the source: for the tests of the house and for its picture."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("grit", "ray_jobs", "sweeps", "analysis")


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


#: Every module of the packages by its dotted name.
MODULES = _modules()


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf8"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, by dotted name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def vendors(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.split(".")[0] for name in imported(path)}


def room(name: str) -> str:
    """The sub-package a module lies in; a module that lies in none is a room of its own."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else name


def arrows(key: Callable[[str], str]) -> dict[str, set[str]]:
    """Which rooms (or modules) import which, without arrows to themselves."""
    found = defaultdict(set)
    for name, path in MODULES.items():
        found[key(name)].update(key(other) for other in imported(path) if other in MODULES)
    return {name: others - {name} for name, others in found.items()}
