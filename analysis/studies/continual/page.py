"""The page of `sweeps/continual.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from analysis.evidence.load import StudyData
from analysis.page.document import Page, Section, WrittenPage, write_page
from analysis.page.figure_spec import FigureSpec
from analysis.studies.continual.figure import draw_stages, stage_panels
from analysis.studies.continual.learned import Learned, against, best_of, learned_of
from analysis.studies.continual.tables import (
    continual_answer,
    continual_rows,
    continual_table,
    stage_rows,
    stage_table,
)
from grit.config.sections import Regime
from grit.config.sequence import SequenceConfig


def _reference(settings: list[Learned], sequence: SequenceConfig) -> Learned | None:
    """LoRA that keeps of earlier tasks what all do (mostly nothing), in 4 bits where it was trained so."""
    for one in settings:
        if one.point.method in ("lora", "qlora") and one.point.config.sequence == sequence:
            return one
    return None


def _unlike_tasks(settings: list[Learned]) -> list[str]:
    """What a mean over tasks hides, where each has a metric of its own."""
    if not settings or settings[0].point.config.evaluation.quality != "primary":
        return []
    return [
        "Each task's quality is by its own metric, and the mean over tasks mixes them; tolerances are the "
        "last task's. `--set quality=answer_logprob` measures all alike."
    ]


def build(data: StudyData, folder: Path) -> WrittenPage:
    """Writes the page, its tables and figures in the study's folder."""
    every = learned_of(data)
    settings = best_of(every)
    reference = _reference(settings, data.study.config.sequence)
    rows = continual_rows(settings, against(settings, reference)) if reference is not None else []
    verdicts: dict[tuple[str, Regime], str] = {}
    for row in rows:
        verdicts[row.point.point_id, "step"] = row.words() or "the reference"
    sections = [
        Section(
            name="continual",
            title="All tasks in the end, and what was lost on the way",
            sentences=[
                "Final quality: the mean over all tasks after the last. Backward transfer: what a task that "
                "was learned earlier has gained since (below zero: lost), a mean over tasks. Every task "
                "counts alike. General forgetting is measured on text of no task.",
                "Each method is at the learning rate whose final quality is best on the even half of the "
                "examples; what is shown is of the odd half.",
                "Differences are of the noise of all methods together, and their words are corrected by "
                "Holm's method for the number of methods.",
            ],
            table=continual_table(rows),
        ),
        Section(
            name="over_stages",
            title="Task by task",
            figure=FigureSpec(
                name="over_stages",
                caption="Every task's quality after each stage from its own on, and what was forgotten of "
                "general text.",
                compute=partial(stage_panels, settings),
                draw=draw_stages,
            ),
        ),
        Section(name="stages", title="After every stage", table=stage_table(stage_rows(every))),
    ]
    page = Page(
        title="Continual: one adapter, one task after the other",
        answer=continual_answer(rows)
        or ["No method has all its trials yet." if not rows else "No method differs from LoRA beyond noise."],
        sections=sections,
        limits=[
            "One order of tasks, one grid of learning rates for all methods, and as many steps for each "
            "task; the rate rises and falls anew for each.",
            *_unlike_tasks(settings),
            "The penalty of LoRA + EWC is by the curvature of general text, that of EWC of tasks by each "
            "task's own once it is learned; OSF decomposes the weights once, not before each task.",
        ],
    )
    return write_page(page, [data], folder, verdicts=verdicts)
