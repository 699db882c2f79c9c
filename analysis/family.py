"""One page for a family of trials: sections of sentences, a table and a figure each. Every study but the sensitivity study reports so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate

from analysis.load import StudyData
from analysis.page import render
from analysis.sensitivity import tables
from analysis.style import save_figure
from grit.disk import write_atomically

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question and what was measured of it.

    Attributes:
        name: of its table's and figure's files, and its anchor on the page.
        said: sentences above the table, the answer first.
        header, rows: its table; no rows: none.
        figure: makes its figure, or returns None where the records cannot support it.
        caption: of the figure.
        columns: which of the table's columns stand on the terminal; empty: the table does not.
    """

    name: str
    title: str
    said: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Rows = ()
    figure: Callable[[], Figure | None] | None = None
    caption: str = ""
    columns: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class FamilyReport:
    """A whole page. `answer` is what it comes to, in a few sentences; `limits` what it does not show, beside what holds for every study."""

    title: str
    answer: Sequence[str]
    sections: Sequence[Section]
    limits: Sequence[str] = ()
    figures: dict[str, str] = field(default_factory=dict)

    def terminal(self) -> str:
        """What stands on the terminal at the end of the study."""
        parts = list(self.answer)
        for section in self.sections:
            if section.columns and section.rows:
                table = tabulate([[row[i] for i in section.columns] for row in section.rows], headers=[section.header[i] for i in section.columns],
                                 disable_numparse=True)
                parts.append(f"\n{section.title}\n{table}")
        return "\n".join(parts)


def write_family(report: FamilyReport, data: StudyData, folder: Path) -> FamilyReport:
    """Writes `report.html`, `report.md`, `tables/` and `figures/` into the study's folder."""
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "figures").mkdir(exist_ok=True)
    markdown: dict[str, str] = {}
    for section in report.sections:
        if section.rows:
            written = tables(section.name, section.header, section.rows)
            markdown[section.name] = written[f"{section.name}.md"]
            for file, text in written.items():
                write_atomically(folder / "tables" / file, text)
        made = None if section.figure is None else save_figure(section.figure, folder / "figures", section.name)
        if made is not None:
            report.figures[section.name] = made
    context = page_context(report, data)
    write_atomically(folder / "report.html", render("family.html.j2", **context))
    write_atomically(folder / "report.md", render("family.md.j2", **context, markdown=markdown))
    return report


def page_context(report: FamilyReport, data: StudyData) -> dict[str, Any]:
    """What the templates show of one study."""
    records = data.records
    seeds = sorted({r.seed for r in records})
    return {"report": report, "study": data.study, "seeds": seeds, "total": len(records), "lost": [r for r in records if r.status != "completed"],
            "limits": [*_limits(data, seeds), *report.limits]}


def _limits(data: StudyData, seeds: Sequence[int]) -> list[str]:
    said = [f"One backbone ({data.study['config']['model']}) and one task ({data.study['config']['task']['name']}): nothing here speaks of others."]
    if len(seeds) < 3:
        said.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}: their spread is hardly known, and intervals are wide wherever seeds differ.")
    return said
