"""The page of `sweeps/overhead.py`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, summarize_points
from analysis.page.document import Page, Section, WrittenPage, write_page
from analysis.page.figure_spec import FigureSpec
from analysis.studies.overhead.cadence_and_scaling import (
    cadence_rows,
    cadence_table,
    scaling_of,
    scaling_table,
)
from analysis.studies.overhead.figures import (
    breakdown_of,
    draw_breakdown,
    draw_scores,
    draw_time_distributions,
    score_panels,
    time_distributions,
)
from analysis.studies.overhead.long_run import long_run, long_table
from analysis.studies.overhead.method_costs import (
    component_table,
    method_cost_table,
    report_table,
    session_answer,
    step_table,
)
from analysis.studies.overhead.score import score_table
from analysis.studies.overhead.session import Session, measured_session, peak_memory


def build(data: StudyData, folder: Path) -> WrittenPage:
    """Writes the page, its tables and figures in the study's folder."""
    points = summarize_points(data.records)
    answer: list[str] = []
    sections: list[Section] = []
    main = next((p for p in points if "session" in p.designs and p.records), None)
    session = None if main is None else measured_session(data, main, 0)
    if main is not None and session is not None:
        answer += session_answer(session)
        sections += _session_sections(session, peak_memory(main.records))
    sections += _setting_sections(data, points)
    run = long_run(data, points)
    if run is not None:
        answer.append(run.sentence())
        sections.append(
            Section(name="long", title="A long run", sentences=[run.sentence()], table=long_table(run))
        )
    call = data.study.made_by
    page = Page(
        title="What geometry costs: the runtime audit",
        answer=answer or ["No session of methods has ended yet."],
        sections=[*sections, _score_section(points)],
        limits=[
            f"Times are of this machine ({call.platform or 'not recorded'}), {call.execution.concurrent} "
            "trial(s) at once; the paper's are of an A100 with an 8B model. Compare ratios, not "
            "milliseconds.",
            "Resident memory of a CPU process holds its libraries too: read differences, and those of a "
            "few MB as noise.",
        ],
    )
    return write_page(page, [data], folder)


def _session_sections(session: Session, memory: dict[str, float]) -> list[Section]:
    """What the session of all methods shows."""
    steps = Section(
        name="steps",
        title="Step times",
        sentences=[
            "All methods took turns step by step in one process; the first and the last tenth of the steps "
            "are not measured. Of fewer than 100 steps the P99 is their maximum."
        ],
        table=step_table(session),
        figure=FigureSpec(
            name="steps",
            caption="How step times are distributed, and where reprojection steps lie.",
            compute=partial(time_distributions, session),
            draw=draw_time_distributions,
        ),
    )
    costs = Section(
        name="costs",
        title="Memory and the paper's Table 8",
        sentences=["Memory is the peak over a few training steps in a fresh process for each method."],
        table=method_cost_table(session, memory),
    )
    report = Section(name="table14", title="The paper's Table 14", table=report_table(session, memory))
    components = Section(
        name="components",
        title="Where a step's time goes",
        table=component_table(session),
        figure=FigureSpec(
            name="components",
            caption="Mean milliseconds by component, over all steady steps and over those that reprojected.",
            compute=partial(breakdown_of, session),
            draw=draw_breakdown,
        ),
    )
    return [steps, costs, report, components]


def _setting_sections(data: StudyData, points: Sequence[PointSummary]) -> list[Section]:
    scaling = scaling_of(data, points)
    cadence = Section(
        name="cadence",
        title="Reprojection over its cadence",
        sentences=[
            "Event / T is what the definition of the amortized cost predicts from the mean event; beside "
            "it, what was measured over all steps."
        ],
        table=cadence_table(cadence_rows(data, points)),
    )
    cells = Section(
        name="scaling",
        title="Over rank and adapted layers",
        sentences=[scaling.sentence()],
        table=scaling_table(scaling),
    )
    return [cadence, cells]


def _score_section(points: Sequence[PointSummary]) -> Section:
    return Section(
        name="score",
        title="Score for time",
        table=score_table(points),
        figure=FigureSpec(
            name="score",
            caption="Quality over training time at equal seconds, and over steps at equal steps.",
            compute=partial(score_panels, points),
            draw=draw_scores,
        ),
    )
