"""The page of `sweeps/baselines.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import REGIMES, PointSummary, summarize_points
from analysis.page.document import Page, Section, WrittenPage, write_page
from analysis.page.figure_spec import FigureSpec
from analysis.studies.baselines.areas import AreaRow, area_answer, area_rows, area_table
from analysis.studies.baselines.field_figure import draw_field, field_of
from analysis.studies.baselines.frontier import draw_frontiers, frontiers
from analysis.studies.baselines.tables import (
    REFERENCE,
    ReachedRow,
    cost_rows,
    cost_table,
    path_rows,
    path_table,
    reached_answer,
    reached_rows,
    reached_table,
)
from analysis.studies.baselines.tuning import TunedMethod, is_baseline, path_of, tune
from grit.config.registry import METHODS, Method
from grit.config.sections import Regime


def build(data: StudyData, folder: Path) -> WrittenPage:
    """Writes the page, its tables and figures in the study's folder."""
    points = summarize_points(data.records)
    sections: list[Section] = []
    answer: list[str] = []
    verdicts: dict[tuple[str, Regime], str] = {}
    for regime in REGIMES:
        tuned = tune(data, points, regime)
        if tuned:
            rows = reached_rows(data, tuned)
            areas = area_rows(data, tuned)
            answer.append(reached_answer(rows, regime, _without_a_rate(data, tuned, regime)))
            answer += [text for text in (area_answer(areas),) if text]
            sections += _sections(data, points, tuned, rows, areas, regime)
            sections += _paths(data, tuned, regime)
            for row in rows:
                if (word := row.shown_verdict()) is not None:
                    verdicts[row.point.point_id, regime] = word
    page = Page(
        title="Baselines: each at its own learning rate",
        answer=answer or ["No method has all its trials yet."],
        sections=sections,
        limits=[
            "One rank and one schedule for all, published settings for what is each method's own "
            "(grit/config/registry.py, grit/methods/): tuning these too may change the "
            "order.",
            "Shampoo's roots are found by Newton's iteration every 10 steps, grafted to a signed step's "
            "size.",
        ],
    )
    return write_page(page, [data], folder, verdicts=verdicts)


def _paths(data: StudyData, tuned: dict[Method, TunedMethod], regime: str) -> list[Section]:
    rows = path_rows(data, tuned)
    if not rows:
        return []
    sentence = (
        "A trained update multiplied by less than one forgets less and fits less, and costs no training: "
        "each run gives a path."
    )
    settings = tuned[REFERENCE].settings if REFERENCE in tuned else ()
    followed = sum(bool(path_of(data, setting)) for setting in settings)
    if followed:
        sentence += (
            f" The frontier that others are laid beside has the paths of {followed} of LoRA's "
            f"{len(settings)} learning rates."
        )
    return [
        Section(
            name=f"paths_{regime}",
            title=f"Scaled after training, {regime}-matched",
            sentences=[sentence],
            table=path_table(rows, regime),
        )
    ]


def _without_a_rate(data: StudyData, tuned: Mapping[Method, TunedMethod], regime: str) -> list[str]:
    """Methods that were planned, and of which every learning rate lost a seed."""
    planned = dict.fromkeys(
        record.method for record in data.records if record.plan.regime == regime and is_baseline(record)
    )
    return [METHODS[method].title for method in planned if method not in tuned]


def _multiples(methods: Iterable[Method]) -> str:
    """Of which methods the grid is times a multiple, in brackets; nothing where of none."""
    specs = [METHODS[method] for method in methods]
    times = [f"{spec.title} {spec.rate_multiple:g}" for spec in specs if spec.rate_multiple != 1]
    return f" (times a multiple where rates are of another size: {', '.join(times)})" if times else ""


def _sections(
    data: StudyData,
    points: Sequence[PointSummary],
    tuned: dict[Method, TunedMethod],
    rows: Sequence[ReachedRow],
    areas: Sequence[AreaRow],
    regime: str,
) -> list[Section]:
    same = "steps" if regime == "step" else "training seconds"
    reached = Section(
        name=f"tuned_{regime}",
        title=f"Each method at its best learning rate, {regime}-matched",
        sentences=[
            f"All have the same {same}, seeds, examples and grid of learning rates{_multiples(tuned)}. The "
            "rate was chosen on the even half of the evaluation examples, quality and its difference are "
            "those of the odd half; forgetting is measured on text that chose nothing.",
            "Against LoRA's frontier: quality minus what LoRA reaches at the same forgetting by another "
            "learning rate, or with its trained update scaled down where that was scored (linear between its "
            "points, from the untuned model; flat beyond its best). "
            "Between two points the frontier lies above their chord, by an unknown amount: `above` asks "
            "that LoRA's next harsher point is beaten too. At the grid's edge, better may lie beyond.",
        ],
        table=reached_table(rows, regime),
    )
    curves = Section(
        name=f"frontier_{regime}",
        title=f"Quality against forgetting over learning rates, {regime}-matched",
        figure=FigureSpec(
            name=f"frontier_{regime}",
            caption="Each method's curve over the learning rate beside LoRA's (squares) and GRIT's "
            "(triangles), the paths of its scaled updates, and what all seeds and the best seed attain. "
            "Up and to the left is better.",
            compute=partial(frontiers, data, tuned, regime),
            draw=draw_frontiers,
        ),
    )
    costs = Section(
        name=f"counts_{regime}",
        title=f"What each costs, {regime}-matched",
        sentences=[
            "Counted alike: parameters that are trained, those that act at the end, the peak of resident "
            "(or GPU) memory over a few steps in a fresh process, step times of the chosen rate, and what "
            "tuning cost in trials and training seconds."
        ],
        table=cost_table(cost_rows(tuned, points), regime),
    )
    return [reached, *_whole_field(data, tuned, areas, regime), curves, costs]


def _whole_field(
    data: StudyData, tuned: dict[Method, TunedMethod], areas: Sequence[AreaRow], regime: str
) -> list[Section]:
    field = Section(
        name=f"field_{regime}",
        title=f"The whole field, {regime}-matched",
        figure=FigureSpec(
            name=f"field_{regime}",
            caption="Each method at its best learning rate; the area of a dot is the number of parameters "
            "that act. Above the dashed line is what LoRA reaches by no learning rate and no scaling.",
            compute=partial(field_of, data, tuned, regime),
            draw=draw_field,
        ),
    )
    whole = Section(
        name=f"areas_{regime}",
        title=f"Whole frontiers against LoRA's, {regime}-matched",
        sentences=[
            "The mean quality by which a method's frontier (its learning rates and, where they were scored, "
            "their scaled updates) lies above LoRA's at equal forgetting, from none to that of LoRA's last "
            "corner. The even half of the examples chooses the corners, the odd half says how high they lie. "
            "An adapter that is no plain LoRA has no such path (`with paths`: no), and lies lower for that "
            "reason too. Intervals are of the noise of all frontiers together; a method whose seeds stray "
            "far more than the others' is compared on its own."
        ],
        table=area_table(areas, regime),
    )
    return [field, whole]
