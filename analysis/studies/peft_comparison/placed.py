"""Our settings and their runs as points of one plane, and which of them no other beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, forgetting_estimate, quality_estimate
from analysis.stats.estimates import Estimate
from analysis.stats.pareto import non_dominated
from analysis.studies.peft_comparison.published import PublishedResults, PublishedRun
from grit.config.run_config import RunConfig

#: What accuracy is traded against, with the axis label of each; less is better.
COSTS = {"forgetting": "forgetting (nats/token)", "parameters": "parameters", "seconds": "training (s)"}
#: Questions of GSM8K's test split, behind every accuracy of theirs.
TEST_QUESTIONS = 1319


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One point: a setting of ours, or a run of theirs.

    Attributes:
        seeds: of ours; theirs has one.
        accuracy_interval, forgetting_interval: of ours, 95%; None for theirs, whose single seed has none.
        parameters: kept at the end; for theirs, trained.
        fronts: the costs in whose plane with accuracy no other point is better in both, at face value.
    """

    name: str
    ours: bool
    seeds: int
    accuracy: float
    forgetting: float
    parameters: float
    seconds: float
    memory_bytes: float | None
    accuracy_interval: Estimate | None = None
    forgetting_interval: Estimate | None = None
    fronts: tuple[str, ...] = ()

    def beats(self, other: Placed) -> bool:
        """Whether it is more accurate and forgets less, at face value."""
        return self.accuracy > other.accuracy and self.forgetting < other.forgetting


def placed(data: StudyData, points: Sequence[PointSummary], published: PublishedResults) -> list[Placed]:
    """Ours first, then theirs by falling accuracy, each with its fronts."""
    everything = [*(_of_ours(data, point) for point in points), *(_of_theirs(run) for run in published.runs)]
    fronts: dict[int, list[str]] = {}
    for cost in COSTS:
        costs = np.array([[-item.accuracy, getattr(item, cost)] for item in everything])
        for index in np.flatnonzero(non_dominated(costs)):
            fronts.setdefault(int(index), []).append(cost)
    return [replace(item, fronts=tuple(fronts.get(index, ()))) for index, item in enumerate(everything)]


def _of_ours(data: StudyData, point: PointSummary) -> Placed:
    accuracy, forgetting = quality_estimate(data, point), forgetting_estimate(data, point)
    memory = point.mean("peak_memory_bytes") if point.has("peak_memory_bytes") else None
    return Placed(
        name=f"{point.title}, {point.label()}" if point.config.uses_grit else point.title,
        ours=True,
        seeds=len(point.seeds),
        accuracy=accuracy.mean,
        forgetting=forgetting.mean,
        parameters=point.mean("effective_parameters"),
        seconds=point.mean("train_seconds"),
        memory_bytes=memory,
        accuracy_interval=accuracy,
        forgetting_interval=forgetting,
    )


def _of_theirs(run: PublishedRun) -> Placed:
    return Placed(
        name=run.name,
        ours=False,
        seeds=1,
        accuracy=run.accuracy,
        forgetting=run.forgetting,
        parameters=run.parameters,
        seconds=run.seconds,
        memory_bytes=run.memory_bytes,
    )


def example_noise(accuracy: float) -> float:
    """Half of a 95% interval of one of their accuracies, from the test questions alone."""
    return 1.96 * math.sqrt(accuracy * (1 - accuracy) / TEST_QUESTIONS)


def other_settings(config: RunConfig, reference: PublishedRun) -> list[tuple[str, Any, Any]]:
    """(setting, theirs, ours) wherever a run is not of their cell."""
    ours = {
        "model": config.backbone.model,
        "dtype": config.backbone.dtype,
        "steps": config.budget.amount,
        "max_length": config.optimization.max_length,
        "sequences per step": config.step_sequences,
        "learning_rate": config.optimization.learning_rate,
        "weight_decay": config.optimization.weight_decay,
    }
    pairs = [(name, value, ours[name]) for name, value in reference.settings.items()]
    pairs += [
        ("task", "metamathqa", config.task.name),
        ("loss_on", "text", config.optimization.loss_on),
        ("answers scored", TEST_QUESTIONS, config.evaluation.eval_examples),
    ]
    return [pair for pair in pairs if pair[1] != pair[2]]
