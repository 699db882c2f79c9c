"""Do the defaults travel?

One (tau, T, lambda) on every task against the best setting of each (paper H.8, default portability test).

The best of k settings looks better than it is, because it was chosen for its luck. So it is chosen on one
half of the examples, and compared with the default on the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.evidence.corrected import held_out_differences
from analysis.evidence.load import StudyData, load_study
from analysis.evidence.point_summary import PointSummary, quality_matrix, summarize_points
from analysis.page.document import FEW_SEEDS, write_table
from analysis.page.render import render
from analysis.page.table import Column, Table
from analysis.stats.pooled_noise import Contrast
from analysis.studies.sensitivity.one_at_a_time import default_point
from grit.errors import ConfigError
from grit.io.files import write_atomically
from grit.tasks.metrics import metric_label, tolerance_of
from ray_jobs.records.study_file import STUDY_FILE
from ray_jobs.tracking.marks import StudyMarks

PortabilityVerdict = Literal["portable", "tuning-sensitive", "undecided"]
PAGE_FILE = "portability.html"


@dataclass(frozen=True, kw_only=True)
class TaskPortability:
    """One task: what tuning gains over the default, on examples that did not choose the setting.

    Attributes:
        settings: how many the best was chosen from.
        gain: of the best over the default, of the noise of all settings that are alike.
        forgetting: likewise, in nats per token.
    """

    task: str
    metric: str
    default: PointSummary
    best: PointSummary
    settings: int
    gain: Contrast
    forgetting: Contrast

    @property
    def tolerance(self) -> float:
        """The gain that matters, in the metric's units."""
        return tolerance_of(self.metric)

    @property
    def verdict(self) -> PortabilityVerdict:
        """`portable` where the gain is at most the tolerance, `tuning-sensitive` where it is more.

        `undecided` where the interval holds the tolerance.
        """
        if self.gain.high <= self.tolerance:
            return "portable"
        return "tuning-sensitive" if self.gain.low > self.tolerance else "undecided"


def judge(data: StudyData, regime: str = "step") -> TaskPortability | None:
    """The verdict on one study's task; None where its default, or everything else, has no usable trial.

    Examples with an even number choose among the settings that have every seed of the default; those with an
    odd number judge.
    """
    points = summarize_points(data.records)
    default = default_point(points, regime)
    if default is None or not default.records:
        return None
    settings = [p for p in points if p.regime == regime and not p.is_control and p.seeds == default.seeds]
    best = max(settings, key=lambda p: float(quality_matrix(data, p)[:, ::2].mean()))
    pair = (best.point_id, default.point_id)
    quality, forgetting = held_out_differences(data, {p.point_id: p for p in settings}, [pair])
    return TaskPortability(
        task=data.study.config.task.name,
        metric=default.quality_metric,
        default=default,
        best=best,
        settings=len(settings),
        gain=quality[best.point_id].contrast,
        forgetting=forgetting[best.point_id].contrast,
    )


def portability_table(tasks: Sequence[TaskPortability]) -> Table[TaskPortability]:
    """One row per task."""
    columns: list[Column[TaskPortability]] = [
        Column(header="task", value=lambda row: row.task, terminal=True),
        Column(header="metric", value=lambda row: metric_label(row.metric), terminal=True),
        Column(header="n", value=lambda row: len(row.default.seeds), terminal=True),
        Column(header="settings", value=lambda row: row.settings),
        Column(header="default", value=lambda row: row.default.mean("quality"), style=".3f", terminal=True),
        Column(header="chosen on one half", value=lambda row: row.best.label(), terminal=True),
        Column(header="gain of tuning on the other [95%]", value=lambda row: row.gain, terminal=True),
        Column(header="forgetting of the chosen [95%]", value=lambda row: row.forgetting),
        Column(header="epsilon", value=lambda row: row.tolerance, style="g"),
        Column(header="verdict", value=lambda row: row.verdict, terminal=True),
    ]
    return Table(name="portability", columns=columns, rows=tasks)


@dataclass(frozen=True, kw_only=True)
class PortabilityPage:
    """What was found, task by task."""

    tasks: tuple[TaskPortability, ...]

    def terminal(self) -> str:
        """The table."""
        return portability_table(self.tasks).terminal()

    def marks(self) -> StudyMarks:
        """Each task's study has its own."""
        return StudyMarks()


def build(folder: Path) -> PortabilityPage:
    """Reads the studies below `folder`, one per task, and writes `portability.html` and its table there.

    Raises:
        ConfigError: there is no study that can be judged.
    """
    studies = [load_study(path.parent) for path in sorted(folder.glob(f"*/{STUDY_FILE}"))]
    judged = [judge(data) for data in studies]
    tasks = tuple(task for task in judged if task is not None)
    if not tasks:
        raise ConfigError("portability", str(folder), "holds no study whose default was measured")
    table = portability_table(tasks)
    write_table(table, folder)
    context = {
        "table": table,
        "defaults": sorted({task.default.label() for task in tasks}),
        "counts": Counter(task.verdict for task in tasks),
        "studies": [data.folder.name for data in studies],
        "missing": len(studies) - len(tasks),
        "few_seeds": min(len(task.default.seeds) for task in tasks) < FEW_SEEDS,
        "damage": [sentence for data in studies for sentence in data.damage],
    }
    write_atomically(folder / PAGE_FILE, render("portability.html.j2", **context))
    return PortabilityPage(tasks=tasks)
