"""What each method knows of every task after every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.evidence.corrected import FORGETTING_TOLERANCE, CorrectedContrast, unlike_differences
from analysis.evidence.load import StudyData
from analysis.evidence.noise import quality_bounds
from analysis.evidence.point_summary import PointSummary, summarize_points
from analysis.page.columns import shown_choice
from analysis.stats.arrays import Floats
from analysis.stats.pooled_noise import SettingScores
from grit.config.registry import METHODS
from grit.io.files import Row
from grit.tasks.metrics import tolerance_of

#: Of the study's own points, and of LoRA, which every study has.
DESIGNS = {"continual", "control"}
#: The measures of a sequence, by name.
FINAL, BACKWARD, GENERAL = "final quality", "backward transfer", "general forgetting"


@dataclass(frozen=True, kw_only=True)
class Learned:
    """One method at one learning rate, over its seeds.

    The even half of each task's examples chooses a rate, the odd half says what is known.

    Attributes:
        tasks: in the order in which they are learned.
        quality: (seeds, examples) of the task `learned` after stage `after`, both from 1; odd examples.
        chosen_by: mean quality over all tasks in the end, of the even examples.
        untuned: (examples,) of each task before training, in order.
        forgetting: (seeds, documents) after every stage, in nats per token. tokens: (documents,).
        grid: the learning rates that it was chosen from.
    """

    point: PointSummary
    tasks: tuple[str, ...]
    quality: Mapping[tuple[int, int], Floats]
    chosen_by: float
    untuned: tuple[Floats, ...]
    forgetting: tuple[Floats, ...]
    tokens: Floats
    grid: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """The method, and what it keeps of the tasks before."""
        sequence, title = self.point.config.sequence, METHODS[self.point.method].title
        if sequence.replay:
            title += f", replay {sequence.replay:.0%}"
        if sequence.earlier_penalty:
            title += ", EWC of tasks"
        return title

    @property
    def stages(self) -> int:
        """How many tasks there are."""
        return len(self.tasks)

    @property
    def rate(self) -> float:
        """Its learning rate."""
        return self.point.config.optimization.learning_rate

    def shown_rate(self) -> str:
        """Its learning rate, marked where it is the grid's lowest or highest: a better one may lie beyond."""
        return shown_choice(self.rate, self.grid)

    def final(self) -> Floats:
        """Of all tasks' examples in the end, (seeds, examples), task after task."""
        return np.concatenate([self.quality[self.stages, task + 1] for task in range(self.stages)], axis=1)

    def backward(self) -> Floats:
        """Of earlier tasks' examples: in the end, less right after the task was learned; likewise."""
        changes = []
        for task in range(1, self.stages):
            changes.append(self.quality[self.stages, task] - self.quality[task, task])
        return np.concatenate(changes, axis=1)

    def weights(self, tasks: int) -> Floats:
        """Of the examples of the first `tasks` tasks: tasks count alike, and examples within a task."""
        parts = []
        for task in range(1, tasks + 1):
            count = self.quality[self.stages, task].shape[1]
            parts.append(np.full(count, 1 / (tasks * count)))
        return np.concatenate(parts)


def best_of(settings: Sequence[Learned]) -> list[Learned]:
    """Every method at the learning rate that is best in the end over all tasks."""
    by_method: dict[str, list[Learned]] = {}
    for one in settings:
        by_method.setdefault(one.title, []).append(one)
    best = []
    for rates in by_method.values():
        grid = tuple(sorted(one.rate for one in rates))
        best.append(replace(max(rates, key=lambda one: one.chosen_by), grid=grid))
    return best


def learned_of(data: StudyData) -> list[Learned]:
    """Every setting with all its trials whole; one of which a trial has no such table is left out."""
    settings = []
    for point in summarize_points(data.records):
        if not DESIGNS & set(point.designs) or point.lost or point.planned or not point.records:
            continue
        tables = [data.table("stages", record) for record in point.records]
        if all(tables):
            settings.append(_learned(point, tables))
    return settings


def _learned(point: PointSummary, tables: list[list[Row]]) -> Learned:
    names = {row["learned"]: row["task"] for row in tables[0] if row["kind"] == "task"}
    tasks = tuple(names[number] for number in sorted(names))
    quality, chosen_by = {}, []
    for after in range(1, len(tasks) + 1):
        for task in range(1, after + 1):
            values = _of_all(tables, after, task)
            quality[after, task] = values[:, 1::2]
            if after == len(tasks):
                chosen_by.append(float(values[:, ::2].mean()))
    stages = range(1, len(tasks) + 1)
    untuned = [np.array(_values(tables[0], len(tasks), task, "base_value"))[1::2] for task in stages]
    return Learned(
        point=point,
        tasks=tasks,
        quality=quality,
        chosen_by=float(np.mean(chosen_by)),
        untuned=tuple(untuned),
        forgetting=tuple(_of_all(tables, after, None) for after in stages),
        tokens=np.array(_values(tables[0], len(tasks), None, "tokens"), dtype=float),
    )


def _of_all(tables: list[list[Row]], after: int, learned: int | None) -> Floats:
    """(seeds, examples or documents)."""
    return np.array([_values(rows, after, learned, "value") for rows in tables])


def _values(rows: list[Row], after: int, learned: int | None, column: str) -> list[float]:
    return [row[column] for row in rows if row["after"] == after and row["learned"] == learned]


def against(settings: Sequence[Learned], reference: Learned) -> dict[str, dict[str, CorrectedContrast]]:
    """Every other method against the reference: by measure, then by the setting's id.

    Of the noise of all methods but erratic ones, corrected for their number.
    """
    metric = reference.point.quality_metric
    low, high = quality_bounds(metric)
    own, tolerance = reference.point.point_id, tolerance_of(metric)
    final = {one.point.point_id: _scores(one, one.final()) for one in settings}
    backward = {one.point.point_id: _scores(one, one.backward()) for one in settings}
    general = {one.point.point_id: _scores(one, one.forgetting[-1]) for one in settings}
    return {
        FINAL: unlike_differences(
            own, final, weights=reference.weights(reference.stages), bounds=(low, high), tolerance=tolerance
        ),
        BACKWARD: unlike_differences(
            own,
            backward,
            weights=reference.weights(reference.stages - 1),
            bounds=(low - high, high - low),
            tolerance=tolerance,
        ),
        GENERAL: unlike_differences(
            own, general, weights=reference.tokens / reference.tokens.sum(), tolerance=FORGETTING_TOLERANCE
        ),
    }


def _scores(one: Learned, values: Floats) -> SettingScores:
    return SettingScores(seeds=one.point.seeds, values=values)
