"""What a table of results holds: its columns, with the kind of their cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


#: What a cell may hold; `?` behind the word allows nothing as well.
CELLS: dict[str, Callable[[Any], bool]] = {
    "word": lambda value: isinstance(value, str),
    "count": lambda value: isinstance(value, int),
    "number": _is_number,
    "finite": _is_finite,
    "vector": lambda value: isinstance(value, list) and all(map(_is_finite, value)),
}


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One of a result's tables.

    Attributes:
        what: a row is.
        columns: those that readers rely on, with what their cells hold; there may be more.
    """

    what: str
    columns: Mapping[str, str]

    def problem(self, columns: Mapping[str, Sequence[Any]]) -> str | None:
        """Why a table by columns is none of this kind; None where it is one."""
        for name, kind in self.columns.items():
            if name not in columns:
                return f"lacks the column {name!r}"
            holds = CELLS[kind.rstrip("?")]
            optional = kind.endswith("?")
            if not all((value is None and optional) or holds(value) for value in columns[name]):
                return f"holds something else than a {kind.rstrip('?')} in the column {name!r}"
        return None
