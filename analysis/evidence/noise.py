"""The noise of a regime's settings, metric by metric: one model for all of them.

The model is analysis/stats/pooled_noise.py. Settings are named by their `point_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, forgetting_matrix, quality_matrix
from analysis.stats.arrays import Floats
from analysis.stats.pooled_noise import NoiseModel, SettingScores
from grit.tasks.metrics import METRICS

#: Without bounds: a difference in nats per token, or of anything that a share cannot hold.
UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True, kw_only=True)
class RegimeNoise:
    """The fitted models of one regime.

    Attributes:
        quality: of the measure that decides.
        answers: of the finer second measure, the log-likelihood of the reference answers in nats per token.
        forgetting: in nats per token; documents count by their tokens.
        overhead, footprint: shares, one value per trial.
    """

    quality: NoiseModel
    answers: NoiseModel
    forgetting: NoiseModel
    overhead: NoiseModel
    footprint: NoiseModel


def regime_noise(data: StudyData, points: Sequence[PointSummary]) -> RegimeNoise | None:
    """Fitted to all settings of one regime that have a usable trial; None without any."""
    measured = [point for point in points if point.records]
    if not measured:
        return None
    examples = quality_matrix(data, measured[0]).shape[1]
    _, tokens = forgetting_matrix(data, measured[0])
    even = np.full(examples, 1 / examples)
    quality, forgetting = score_models(
        {p.point_id: _scores(p, quality_matrix(data, p)) for p in measured},
        {p.point_id: _scores(p, forgetting_matrix(data, p)[0]) for p in measured},
        metric=measured[0].quality_metric,
        tokens=tokens,
    )
    return RegimeNoise(
        quality=quality,
        answers=NoiseModel(
            scores={p.point_id: _scores(p, _answers(data, p)) for p in measured}, weights=even
        ),
        forgetting=forgetting,
        overhead=_of_trials(measured, "overhead"),
        footprint=_of_trials(measured, "footprint"),
    )


def score_models(
    quality: Mapping[str, SettingScores],
    forgetting: Mapping[str, SettingScores],
    *,
    metric: str,
    tokens: Floats,
) -> tuple[NoiseModel, NoiseModel]:
    """The noise of quality and of forgetting, given the scores of settings by name.

    Examples count alike, documents by their `tokens`; `metric` says what a quality can be.
    """
    examples = next(iter(quality.values())).values.shape[1]
    return (
        NoiseModel(scores=quality, weights=np.full(examples, 1 / examples), bounds=quality_bounds(metric)),
        NoiseModel(scores=forgetting, weights=tokens / tokens.sum()),
    )


def quality_bounds(metric: str) -> tuple[float, float]:
    """The lowest and highest value that a quality can have."""
    return (METRICS[metric].low, METRICS[metric].high) if metric in METRICS else UNBOUNDED


def _scores(point: PointSummary, values: np.ndarray) -> SettingScores:
    return SettingScores(seeds=point.seeds, values=values)


def _answers(data: StudyData, point: PointSummary) -> np.ndarray:
    return np.stack([data.answer_values(record).values for record in point.records])


def _of_trials(points: Sequence[PointSummary], quantity: str) -> NoiseModel:
    """One value per trial: there are no examples to vary."""
    values = {p.point_id: _scores(p, np.array(p.values(quantity))[:, None]) for p in points}
    return NoiseModel(scores=values, weights=np.ones(1))
