"""The page of `sweeps/ablation.py`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.evidence.collapses import without_collapses
from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import of_one_regime, summarize_points
from analysis.page.document import Page, Section, WrittenPage, write_page
from analysis.page.figure_spec import FigureSpec
from analysis.studies.ablation.claims import claim_rows, claim_table
from analysis.studies.ablation.family import FamilyRow, family_answer, family_rows, family_table
from analysis.studies.ablation.heatmap import draw_metric_map, metric_map
from analysis.studies.ablation.switches import SwitchRow, switch_rows, switch_sentence, switch_table
from grit.config.sections import Regime


def build(data: StudyData, folder: Path) -> WrittenPage:
    """Writes the page, its tables and figures in the study's folder."""
    points, left_out = of_one_regime(summarize_points(without_collapses(data).records))
    measured = [point for point in points if point.records]
    family, switches = family_rows(data, measured), switch_rows(data, measured)
    sections = [
        Section(
            name="family",
            title="One-sided against two-sided",
            sentences=[
                "Differences are paired by seed and by example (or document), with 95% intervals "
                "of all settings' noise together, but for those that stray over seeds far more than the "
                "median one, which are compared on their own (docs/reference/verdicts.md); words follow the "
                "corrected p-values. "
                '"-uni" projects B by A\'s basis.',
                "The verdict joins quality and forgetting: it is mixed where one is better and the other "
                "worse, and inconclusive as well where the one that is better stands beside another that "
                "may be much worse.",
            ],
            table=family_table(family),
        ),
        Section(
            name="switches",
            title="Each switch alone, against the default",
            sentences=[
                "Equivalent: by two one-sided tests within the metric's tolerance in quality and within 0.02 "
                "nats per token in forgetting."
            ],
            table=switch_table(switches),
        ),
        Section(
            name="heatmap",
            title="Every metric of every setting",
            figure=FigureSpec(
                name="heatmap",
                caption="As the paper's A.13: every metric's mean over seeds, each column shaded from its "
                "worst value to its best.",
                compute=partial(metric_map, measured),
                draw=draw_metric_map,
            ),
        ),
        Section(
            name="claims",
            title="Paper against measured",
            sentences=["On this backbone and task alone, and at one learning rate."],
            table=claim_table(claim_rows(data, measured)),
        ),
    ]
    config = data.study.config
    page = Page(
        title=f"Ablations: {config.method} on {config.task.name}",
        answer=[*family_answer(family), *([switch_sentence(switches)] if switches else [])],
        sections=sections,
        limits=[
            "One learning rate for all: a method may look gentle by learning less. Compare quality and "
            "forgetting together.",
            *left_out,
        ],
    )
    return write_page(page, [data], folder, verdicts=_verdicts(family, switches))


def _verdicts(family: Sequence[FamilyRow], switches: Sequence[SwitchRow]) -> dict[tuple[str, Regime], str]:
    """By setting; a member of the family that is a switch as well has the family's."""
    verdicts: dict[tuple[str, Regime], str] = {}
    for switch in switches:
        verdicts[switch.point.point_id, switch.point.regime] = switch.verdict
    for member in family:
        verdicts[member.point.point_id, member.point.regime] = member.shown_verdict()
    return verdicts
