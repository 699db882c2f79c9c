"""Tables.

Rows of objects and typed columns until they are rendered, once, to HTML, Markdown, LaTeX, CSV or the
terminal.

A row is whatever object was computed; a column knows how to get its value from a row and how to show it.
Sentences are made of the same objects, never of cells.
"""

from __future__ import annotations

import csv
import html
import io
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from tabulate import tabulate

from analysis.page.glossary import heading
from analysis.stats.estimates import Interval
from analysis.stats.pooled_noise import Contrast

RowT = TypeVar("RowT")

#: What stands between two columns on the terminal, and the least that one of them may have there.
_BETWEEN, LEAST_WIDTH = "  ", 8
#: Stands where there is no value.
NOTHING = "-"


def shown_p(value: float) -> str:
    """A p-value; one that three digits do not show is said to be below what they show."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


class Spread(NamedTuple):
    """Mean and standard deviation over n seeds; one seed has no deviation."""

    mean: float
    deviation: float
    n: int


def shown(value: Any, style: str = "") -> str:
    """A value as people read it: numbers in `style`, estimates with their interval, nothing as a dash."""
    if value is None:
        return NOTHING
    if isinstance(value, Interval | Contrast):
        return shown_interval(value, style or (".3f" if type(value) is Interval else "+.3f"))
    if isinstance(value, Spread):
        return shown_spread(value, style or ".3f")
    if isinstance(value, float):
        return NOTHING if math.isnan(value) else format(value, style)
    if isinstance(value, int) and not isinstance(value, bool):
        return format(value, style)
    return str(value)


def shown_interval(value: Interval | Contrast, style: str) -> str:
    """A number with its interval; differences have their sign."""
    return f"{value.mean:{style}} [{value.low:{style}}, {value.high:{style}}]"


def shown_spread(value: Spread, style: str) -> str:
    """A mean and, of several seeds, its standard deviation."""
    mean = format(value.mean, style)
    return mean if value.n < 2 else f"{mean} ± {format(value.deviation, style.lstrip('+'))}"


@dataclass(frozen=True, kw_only=True)
class Column(Generic[RowT]):
    """One column.

    Attributes:
        header: with the unit where there is one.
        value: of a row.
        style: format of its numbers.
        show: overrules `style`, for what a style cannot say.
        terminal: whether it stands on the terminal, which is narrow.
        spare: whether it goes where the terminal is narrower still.
        wide: its text may be long, and wraps.
    """

    header: str
    value: Callable[[RowT], Any]
    style: str = ""
    show: Callable[[Any], str] | None = None
    terminal: bool = False
    spare: bool = False
    wide: bool = False

    def cell(self, row: RowT) -> str:
        """The value of a row, as people read it."""
        value = self.value(row)
        return shown(value, self.style) if self.show is None or value is None else self.show(value)


def column(
    header: str, value: Callable[[Any], Any], style: str = "", *, terminal: bool = False, **more: Any
) -> Column[Any]:
    """A column, in fewer words."""
    return Column(header=header, value=value, style=style, terminal=terminal, **more)


def terminal_width() -> int | None:
    """Characters of a line on standard output; None where it is no terminal."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None


def _is_too_wide(text: str, width: int | None) -> bool:
    return width is not None and max(map(len, text.splitlines())) > width


def _cells(row: RowT, columns: Sequence[Column[RowT]]) -> list[str]:
    return [column.cell(row) for column in columns]


def _ascii_plus_minus(cell: str) -> str:
    return cell.replace("±", "+-")


@dataclass(frozen=True, kw_only=True)
class Table(Generic[RowT]):
    """Rows and how they are shown. `name` is that of its files and its anchor."""

    name: str
    columns: Sequence[Column[RowT]]
    rows: Sequence[RowT] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.rows)

    @property
    def header(self) -> list[str]:
        """Of all columns."""
        return [column.header for column in self.columns]

    def cells(self) -> list[list[str]]:
        """Every value as people read it."""
        return [_cells(row, self.columns) for row in self.rows]

    def html(self) -> str:
        """A table element; everything in it is escaped."""
        head = "".join(map(heading, self.header))
        lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        for row in self.rows:
            lines.append(f"<tr>{''.join(_html_cell(column, row) for column in self.columns)}</tr>")
        return "\n".join([*lines, "</tbody>", "</table>"])

    def markdown(self) -> str:
        """A pipe table; what means something to Markdown or HTML is escaped."""
        rows = [list(map(markdown_text, row)) for row in self.cells()]
        table = tabulate(rows, headers=self.header, tablefmt="github", disable_numparse=True)
        return str(table) + "\n"

    def latex(self) -> str:
        """A booktabs table; what means something to LaTeX is escaped."""
        rows = [list(map(_ascii_plus_minus, row)) for row in self.cells()]
        table = tabulate(rows, headers=self.header, tablefmt="latex_booktabs", disable_numparse=True)
        return str(table).replace("+-", r"$\pm$") + "\n"

    def csv(self) -> str:
        """Comma-separated values: numbers as they are, an estimate or a spread as several columns."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        values = [list(map(column.value, self.rows)) for column in self.columns]
        spans = [
            _csv_columns(column.header, column_values)
            for column, column_values in zip(self.columns, values, strict=True)
        ]
        writer.writerow([name for names, _ in spans for name in names])
        for number in range(len(self.rows)):
            writer.writerow([cell for _, rows in spans for cell in rows[number]])
        return out.getvalue()

    def terminal(self, width: int | None = None) -> str:
        """The columns that stand on the terminal; empty where none does, or there are no rows.

        Args:
            width: of the terminal; None asks it, and where there is none, nothing is too wide. Where a row
                does not fit, columns that can be spared go, from the right; then cells break into lines.
        """
        columns = [column for column in self.columns if column.terminal]
        if not columns or not self.rows:
            return ""
        most = terminal_width() if width is None else width
        text, left_out = self._plain(columns), list[str]()
        for spare in [column for column in reversed(columns) if column.spare]:
            if len(columns) == 1 or not _is_too_wide(text, most):
                break
            columns.remove(spare)
            left_out.insert(0, spare.header.strip())
            text = self._plain(columns)
        if most is not None and _is_too_wide(text, most):
            text = self._plain(columns, each=max(LEAST_WIDTH, most // len(columns) - len(_BETWEEN)))
        if not left_out:
            return text
        note = f"(left out for width, in the report: {', '.join(left_out)})"
        return "\n".join([text, *textwrap.wrap(note, most or len(note))])

    def _plain(self, columns: Sequence[Column[RowT]], each: int | None = None) -> str:
        """As text, with columns of at most `each` characters."""
        rows = [_cells(row, columns) for row in self.rows]
        headers = [column.header for column in columns]
        widths = None if each is None else [each] * len(columns)
        return str(
            tabulate(
                rows, headers=headers, disable_numparse=True, maxcolwidths=widths, maxheadercolwidths=widths
            )
        )

    def files(self) -> dict[str, str]:
        """File names with the table in each form that a paper or a notebook takes."""
        return {
            f"{self.name}.md": self.markdown(),
            f"{self.name}.tex": self.latex(),
            f"{self.name}.csv": self.csv(),
        }


def _html_cell(column: Column[Any], row: Any) -> str:
    kind = ' class="text"' if column.wide else ""
    return f"<td{kind}>{html.escape(column.cell(row))}</td>"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, in a cell or a sentence."""
    escaped = html.escape(str(text), quote=False)
    for mark in ("\\", "|", "`", "*"):
        escaped = escaped.replace(mark, f"\\{mark}")
    return " ".join(escaped.splitlines())


def _csv_columns(header: str, values: Sequence[Any]) -> tuple[list[str], list[list[Any]]]:
    """The names and the cells that a column takes in a file of numbers."""
    if any(isinstance(value, Interval | Contrast) for value in values):
        return [header, f"{header} low", f"{header} high"], [_interval_cells(value) for value in values]
    if any(isinstance(value, Spread) for value in values):
        return [header, f"{header} sd"], [_spread_cells(value) for value in values]
    return [header], [[value] for value in values]


def _interval_cells(value: Any) -> list[Any]:
    return (
        [value.mean, value.low, value.high] if isinstance(value, Interval | Contrast) else [value, None, None]
    )


def _spread_cells(value: Any) -> list[Any]:
    return [value.mean, value.deviation] if isinstance(value, Spread) else [value, None]
