"""Tables in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tabulate import tabulate

from analysis.stats.estimates import Estimate


def to_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Comma-separated, with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def to_latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs table; what means something to LaTeX is escaped."""
    return (
        str(
            tabulate(
                [[str(cell).replace("±", "+-") for cell in row] for row in rows],
                headers=list(header),
                tablefmt="latex_booktabs",
                disable_numparse=True,
            )
        ).replace("+-", r"$\pm$")
        + "\n"
    )


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; bars in cells are escaped."""
    return (
        str(
            tabulate(
                [[str(cell).replace("|", "\\|") for cell in row] for row in rows],
                headers=list(header),
                tablefmt="github",
                disable_numparse=True,
            )
        )
        + "\n"
    )


def tables(name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """File names with the table in each of the three forms."""
    return {
        f"{name}.md": to_markdown(header, rows),
        f"{name}.tex": to_latex(header, rows),
        f"{name}.csv": to_csv(header, rows),
    }


def shown(found: Estimate | None) -> str:
    """A difference with its interval, as tables have it."""
    return "-" if found is None else f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
