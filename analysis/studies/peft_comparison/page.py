"""`python -m analysis.report peft DIR RESULTS`: a study on the frontier that PEFT publishes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.evidence.load import StudyData, load_study
from analysis.evidence.point_summary import PointSummary, summarize_points
from analysis.page.document import Page, Section, write_page
from analysis.page.figure_spec import FigureSpec
from analysis.page.table import Column, Table
from analysis.studies.peft_comparison.figures import draw_planes, frontier_planes
from analysis.studies.peft_comparison.placed import Placed, example_noise, other_settings, placed
from analysis.studies.peft_comparison.published import PublishedResults, read_results
from grit.errors import ConfigError
from grit.tasks.metrics import is_share, metric_label

#: The page's folder, within the study's.
FOLDER = "peft_comparison"
_GIBIBYTE = 1 << 30


def build(study: Path, results: Path) -> Path:
    """Writes the page into the study's folder and returns its path.

    Raises:
        ConfigError: a folder holds no study or no results, or quality is no share of right answers.
    """
    published, data = read_results(results), load_study(study)
    points = [p for p in summarize_points(data.records) if p.regime == "step" and p.records]
    if not points:
        raise ConfigError("peft", str(study), "holds no step-matched trial that completed")
    metric = points[0].quality_metric
    if not is_share(metric):
        raise ConfigError(
            "peft",
            str(study),
            f"measures {metric_label(metric)}, and PEFT publishes the share of right answers: run it with "
            "--set quality=primary",
        )
    folder = study / FOLDER
    folder.mkdir(exist_ok=True)
    write_page(_page(data, points, published), [data], folder)
    return folder / "report.html"


def _page(data: StudyData, points: Sequence[PointSummary], published: PublishedResults) -> Page:
    everything = placed(data, points, published)
    cell = _cell_sentences(points[0], published)
    section = Section(
        name="peft_comparison",
        title="Ours on their frontier",
        sentences=_how_to_read(everything, published),
        table=comparison_table(everything),
        figure=FigureSpec(
            name="peft_comparison",
            caption="Accuracy against forgetting, parameters and training time. Filled: this study, with "
            "95% intervals over seeds and examples; rings: PEFT's published runs, one seed each; the line: "
            "the best of theirs.",
            compute=partial(frontier_planes, everything),
            draw=draw_planes,
        ),
    )
    return Page(
        title="This study beside PEFT's method comparison",
        answer=[*cell, *_answer(everything)],
        sections=[section],
        limits=[
            "Their runs have one seed each: how much another seed would move them is not known, and which "
            "of two close ones is better cannot be told."
        ],
    )


def _cell_sentences(point: PointSummary, published: PublishedResults) -> list[str]:
    """Whether both are of one cell; that comes first where they are not."""
    reference = published.reference
    if reference is None:
        return [
            "Their LoRA of rank 32 is not in the folder: whether this study has their settings is not known."
        ]
    others = other_settings(point.config, reference)
    if not others:
        return []
    named = "; ".join(f"{name} {ours} (theirs {theirs})" for name, theirs, ours in others)
    return [
        "This study is not of their cell: the numbers stand beside each other and cannot be compared. It "
        f"differs in {named}."
    ]


def _answer(everything: Sequence[Placed]) -> list[str]:
    theirs = [item for item in everything if not item.ours]
    sentences = []
    for item in (item for item in everything if item.ours):
        above = sum(other.beats(item) for other in theirs)
        below = sum(item.beats(other) for other in theirs)
        sentences.append(
            f"{item.name}: accuracy {item.accuracy:.3f} at {item.forgetting:+.3f} nats per token of "
            f"forgetting; of {len(theirs)} published runs {above} are more accurate and forget less, and "
            f"{below} are less accurate and forget more."
        )
    return sentences


def _how_to_read(everything: Sequence[Placed], published: PublishedResults) -> list[str]:
    devices = ", ".join(sorted({run.device for run in published.runs}))
    noise = max(example_noise(item.accuracy) for item in everything if not item.ours)
    sentences = [
        "Fronts are at face value: on the front of a cost is what no other row beats in accuracy and in "
        "that cost.",
        f"The test questions alone leave their accuracies uncertain by up to ±{noise:.3f} (95%); what "
        "another seed adds is not known.",
        f"Their seconds and memory are of {devices}; they compare with ours where that is our device too.",
    ]
    if published.unfinished:
        sentences.append(f"Left out, since they did not end: {', '.join(published.unfinished)}.")
    return sentences


def comparison_table(everything: Sequence[Placed]) -> Table[Placed]:
    """Ours first, then theirs by falling accuracy."""
    columns: list[Column[Placed]] = [
        Column(header="run", value=lambda row: row.name, terminal=True, wide=True),
        Column(header="whose", value=lambda row: "this study" if row.ours else "PEFT", terminal=True),
        Column(header="seeds", value=lambda row: row.seeds, terminal=True),
        Column(
            header="accuracy [95%]",
            value=lambda row: row.accuracy_interval or row.accuracy,
            style=".3f",
            terminal=True,
        ),
        Column(
            header="forgetting (nats/token) [95%]",
            value=lambda row: row.forgetting_interval or row.forgetting,
            style="+.3f",
            terminal=True,
        ),
        Column(header="parameters", value=lambda row: row.parameters, style=",.0f"),
        Column(header="training (s)", value=lambda row: row.seconds, style=",.0f"),
        Column(header="memory (GiB)", value=_gibibytes, style=".1f"),
        Column(header="on the front of", value=lambda row: ", ".join(row.fronts) or None, terminal=True),
    ]
    return Table(name="peft_comparison", columns=columns, rows=everything)


def _gibibytes(row: Placed) -> float | None:
    return None if row.memory_bytes is None else row.memory_bytes / _GIBIBYTE
