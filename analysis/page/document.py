"""A page: the answer first, then sections of sentences, a table and a figure each.

Written as HTML and Markdown with its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.evidence.load import StudyData
from analysis.evidence.study_marks import marks_of
from analysis.page.figure_spec import FigureSpec
from analysis.page.render import render
from analysis.page.table import Table
from grit.config.sections import Regime
from grit.io.files import own_folder, write_atomically
from ray_jobs.records.study_file import StudyFile
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import StudyMarks

#: Seeds below which the spread over them is hardly known.
FEW_SEEDS = 3
#: A page's words on a setting of which too little is known.
UNDECIDED = ("inconclusive",)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question and what was measured of it.

    Attributes:
        name: its anchor on the page.
        sentences: above the table, the answer first.
    """

    name: str
    title: str
    sentences: Sequence[str] = ()
    table: Table[Any] | None = None
    figure: FigureSpec[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page.

    Attributes:
        answer: what it comes to, in a few sentences.
        limits: what it does not show, beside what holds for every study.
    """

    title: str
    answer: Sequence[str]
    sections: Sequence[Section]
    limits: Sequence[str] = ()

    def terminal(self) -> str:
        """What stands on the terminal at the end of the study."""
        parts = list(self.answer)
        for section in self.sections:
            table = "" if section.table is None else section.table.terminal()
            if table:
                parts.append(f"\n{section.title}\n{table}")
        return "\n".join(parts)


#: What a page says first whose study has one.
OF_ONE_SEED = (
    "One seed: how much seeds differ is not known. Intervals are of the examples alone, and narrow; what is "
    "told of a setting is told of that seed."
)


@dataclass(frozen=True, kw_only=True)
class WrittenPage:
    """A page with its figures as SVG, by name, and what the templates show of its studies.

    `verdicts` are the page's words on single settings, by point_id and regime.
    """

    page: Page
    context: dict[str, Any]
    figures: dict[str, str] = field(default_factory=dict)
    records: Sequence[TrialRecord] = ()
    verdicts: Mapping[tuple[str, Regime], str] = field(default_factory=dict)

    def terminal(self) -> str:
        """What stands on the terminal at the end of the study."""
        first = [OF_ONE_SEED] if len(self.context["seeds"]) == 1 else []
        return "\n".join([*first, self.page.terminal()])

    def marks(self) -> StudyMarks:
        """Its settings' means, fronts and verdicts."""
        marks = marks_of(self.records)
        if not self.verdicts:
            return marks
        settings = []
        for setting in marks.settings:
            word = self.verdicts.get((setting.point_id, setting.regime))
            settings.append(replace(setting, verdict=word))
        undecided = sum(word in UNDECIDED for word in self.verdicts.values())
        return replace(
            marks, settings=tuple(settings), decided=len(self.verdicts) - undecided, undecided=undecided
        )


def write_page(
    page: Page,
    studies: Sequence[StudyData],
    folder: Path,
    *,
    verdicts: Mapping[tuple[str, Regime], str] | None = None,
) -> WrittenPage:
    """Writes `report.html`, `report.md`, `tables/` and `figures/` into `folder`.

    It is the study's own where there is one study. `verdicts` are the page's words on single settings.
    """
    figures = write_parts(page.sections, folder)
    records = [record for data in studies for record in data.records]
    written = WrittenPage(
        page=page,
        context=page_context(page, studies),
        figures=figures,
        records=records,
        verdicts=verdicts or {},
    )
    context = {**written.context, "page": page, "figures": figures}
    write_atomically(folder / "report.html", render("page.html.j2", **context))
    write_atomically(folder / "report.md", render("page.md.j2", **context))
    return written


def write_parts(sections: Sequence[Section], folder: Path) -> dict[str, str]:
    """Writes the files of all tables and figures; returns the SVG of each figure that there is, by name."""
    for section in sections:
        if section.table:
            write_table(section.table, folder)
    return write_figures([section.figure for section in sections if section.figure is not None], folder)


def write_table(table: Table[Any], folder: Path) -> None:
    """Into `tables/`, in every form."""
    tables = own_folder(folder, "tables")
    for name, text in table.files().items():
        write_atomically(tables / name, text)


def write_figures(figures: Sequence[FigureSpec[Any]], folder: Path) -> dict[str, str]:
    """Into `figures/`, those that the records support; their SVG by name, in the same order."""
    pictures = own_folder(folder, "figures")
    progress = tqdm(figures, desc="drawing figures", leave=False, disable=None)  # on a terminal alone
    drawn = {figure.name: figure.save(pictures) for figure in progress}
    return {name: svg for name, svg in drawn.items() if svg is not None}


def page_context(page: Page, studies: Sequence[StudyData]) -> dict[str, Any]:
    """What the templates show of one study, or of several that share a page."""
    records = [record for data in studies for record in data.records]
    seeds = sorted({record.plan.seed for record in records})
    shared = list(dict.fromkeys(each for data in studies for each in shared_gpu_limits(data.study)))
    damage = [sentence for data in studies for sentence in data.damage]
    return {
        "studies": [data.study for data in studies],
        "seeds": seeds,
        "total": len(records),
        "backbones": _named(studies, "model"),
        "tasks": _named(studies, "task"),
        "lost": [record for record in records if record.status != "completed"],
        "limits": [*_limits(studies, seeds), *shared, *damage, *page.limits],
    }


def _named(studies: Sequence[StudyData], what: str) -> list[str]:
    """The backbones or tasks of some studies, each once, in order."""
    configs = [data.study.config for data in studies]
    names = {"model": [c.backbone.model for c in configs], "task": [c.task_title for c in configs]}
    return list(dict.fromkeys(names[what]))


def shared_gpu_limits(study: StudyFile) -> list[str]:
    """What sharing GPUs means for the study's seconds; nothing where its trials had theirs alone."""
    if study.trials_per_gpu == 1:
        return []
    return [
        f"{study.trials_per_gpu} trials shared a GPU: seconds, and the shares of a step's time, are those of "
        "a shared device."
    ]


def _limits(studies: Sequence[StudyData], seeds: Sequence[int]) -> list[str]:
    models, tasks = _named(studies, "model"), _named(studies, "task")
    count = "One backbone" if len(models) == 1 else f"{len(models)} backbones"
    sentences = [
        f"{count} ({', '.join(sorted(models))}) and one task ({', '.join(sorted(tasks))}): nothing here "
        "speaks "
        "of others."
    ]
    if len(seeds) == 1:
        sentences.append(OF_ONE_SEED)
    elif len(seeds) < FEW_SEEDS:
        sentences.append(
            f"{len(seeds)} seeds: their spread is hardly known, and intervals are wide wherever seeds differ."
        )
    return sentences
