"""One page for a family of trials: sections of sentences, a table and a figure each.

Every study but the sensitivity study reports so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate

from analysis.data.load import StudyData
from analysis.page.render import render
from analysis.page.style import save_figure
from analysis.page.tables import tables
from grit.io.files import write_atomically

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
    """A whole page.

    `answer` is what it comes to, in a few sentences; `limits` what it does not show, beside what holds for
    every study.
    """

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
                table = tabulate(
                    [[row[i] for i in section.columns] for row in section.rows],
                    headers=[section.header[i] for i in section.columns],
                    disable_numparse=True,
                )
                parts.append(f"\n{section.title}\n{table}")
        return "\n".join(parts)


def write_family(report: FamilyReport, studies: Sequence[StudyData], folder: Path) -> FamilyReport:
    """Writes `report.html`, `report.md`, `tables/` and `figures/` into `folder`.

    Which is the study's own where there is one study.
    """
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "figures").mkdir(exist_ok=True)
    markdown: dict[str, str] = {}
    for section in report.sections:
        if section.rows:
            written = tables(section.name, section.header, section.rows)
            markdown[section.name] = written[f"{section.name}.md"]
            for file, text in written.items():
                write_atomically(folder / "tables" / file, text)
        made = (
            None if section.figure is None else save_figure(section.figure, folder / "figures", section.name)
        )
        if made is not None:
            report.figures[section.name] = made
    context = page_context(report, studies)
    write_atomically(folder / "report.html", render("family.html.j2", **context))
    write_atomically(folder / "report.md", render("family.md.j2", **context, markdown=markdown))
    return report


def page_context(report: FamilyReport, studies: Sequence[StudyData]) -> dict[str, Any]:
    """What the templates show of one study, or of several that share a page."""
    records = [record for data in studies for record in data.records]
    seeds = sorted({r.plan.seed for r in records})
    return {
        "report": report,
        "studies": [data.study for data in studies],
        "seeds": seeds,
        "total": len(records),
        "backbones": list(dict.fromkeys(str(data.study["config"]["model"]) for data in studies)),
        "tasks": list(dict.fromkeys(str(data.study["config"]["task"]["name"]) for data in studies)),
        "lost": [r for r in records if r.status != "completed"],
        "limits": [*_limits(studies, seeds), *report.limits],
    }


def _limits(studies: Sequence[StudyData], seeds: Sequence[int]) -> list[str]:
    models = {str(data.study["config"]["model"]) for data in studies}
    tasks = {str(data.study["config"]["task"]["name"]) for data in studies}
    count = "One backbone" if len(models) == 1 else f"{len(models)} backbones"
    said = [
        f"{count} ({', '.join(sorted(models))}) and one task ({', '.join(sorted(tasks))}): nothing here "
        "speaks of others."
    ]
    if len(seeds) < 3:
        said.append(
            f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}: their spread is hardly known, and "
            "intervals are wide wherever seeds differ."
        )
    return said
