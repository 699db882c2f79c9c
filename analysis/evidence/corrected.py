"""Differences corrected for being many, and one word for quality and forgetting together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.noise import UNBOUNDED, quality_bounds
from analysis.evidence.point_summary import PointSummary, forgetting_matrix, quality_matrix
from analysis.stats.arrays import Floats
from analysis.stats.estimates import LEVEL, Verdict, holm
from analysis.stats.pooled_noise import Contrast, NoiseModel, SettingScores, verdict_of
from analysis.stats.unlike import unlike_contrasts
from grit.tasks.metrics import tolerance_of

JointVerdict = Literal["better", "worse", "mixed", "equivalent", "inconclusive", "changed nothing"]

#: Quality, or nats per token of forgetting, by which an inconclusive difference may lean against a verdict.
LEAN = 0.02
#: Nats per token by which settings may differ in forgetting (0.02 nats lower retention by about 2%): within
#: it they are equivalent, and more than the default's by no more than it is tolerated.
FORGETTING_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class CorrectedContrast:
    """A contrast with its p-values corrected for all that are made beside it, which decide the word.

    Attributes:
        p_value: of no difference. not_equivalent: of a difference of at least the tolerance, either way.
    """

    contrast: Contrast
    p_value: float
    not_equivalent: float = 1.0

    def word(self, *, higher_is_better: bool = True) -> Verdict | Literal["equivalent"]:
        """By the corrected p-values: `better` or `worse`, else `equivalent` where that is shown."""
        gain = self.contrast.mean if higher_is_better else -self.contrast.mean
        differs = verdict_of(gain, self.p_value)
        if differs == "inconclusive" and self.not_equivalent <= 1 - LEVEL:
            return "equivalent"
        return differs

    @property
    def changed_nothing(self) -> bool:
        """Whether every value is the same."""
        return self.contrast.mean == 0 and self.contrast.error == 0


def contrast_of(difference: CorrectedContrast | None) -> Contrast | None:
    """The contrast alone; None of nothing."""
    return None if difference is None else difference.contrast


def words_of(
    quality: CorrectedContrast | None, forgetting: CorrectedContrast | None
) -> tuple[str, str] | None:
    """A word for each; None where there is nothing to say, as of a reference."""
    if quality is None or forgetting is None:
        return None
    return quality.word(), forgetting.word(higher_is_better=False)


def shown_words(words: tuple[str, str] | None) -> str | None:
    """Both as tables have them: one where they are the same."""
    if words is None:
        return None
    quality, forgetting = words
    return quality if quality == forgetting else f"quality {quality}, forgetting {forgetting}"


def differences(
    model: NoiseModel, names: Sequence[str], references: Sequence[str], tolerance: float
) -> dict[str, CorrectedContrast]:
    """Each setting against its reference, corrected by Holm's method for there being so many.

    Whether one differs and whether it is equivalent, by two one-sided tests, are a family each.
    """
    contrasts = [model.difference(name, other) for name, other in zip(names, references, strict=True)]
    return corrected_for_number(names, contrasts, tolerance)


def corrected_for_number(
    names: Sequence[str], contrasts: Sequence[Contrast], tolerance: float
) -> dict[str, CorrectedContrast]:
    """Each contrast by its name, corrected by Holm's method as `differences` does."""
    differs = holm([contrast.p_value for contrast in contrasts])
    equivalent = holm([contrast.p_not_within(tolerance) for contrast in contrasts])
    corrected = {}
    for name, contrast, p_value, not_equivalent in zip(names, contrasts, differs, equivalent, strict=True):
        corrected[name] = CorrectedContrast(contrast=contrast, p_value=p_value, not_equivalent=not_equivalent)
    return corrected


def unlike_differences(
    reference: str,
    scores: Mapping[str, SettingScores],
    *,
    weights: Floats,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    tolerance: float,
) -> dict[str, CorrectedContrast]:
    """Every other setting against the reference, corrected as `differences` does; settings may be unlike.

    Args:
        reference: one of `scores`.
        scores: by name.
        weights: of the examples, summing to 1.
        bounds: the range of a score.
        tolerance: within which a difference is equivalence.
    """
    others = [name for name in scores if name != reference]
    contrasts = unlike_contrasts([(name, reference) for name in others], scores, weights, bounds)
    return corrected_for_number(others, contrasts, tolerance)


#: Contrasts in quality and in forgetting.
Contrasts = tuple[list[Contrast], list[Contrast]]


def unlike_score_contrasts(
    pairs: Sequence[tuple[str, str]],
    quality: Mapping[str, SettingScores],
    forgetting: Mapping[str, SettingScores],
    *,
    metric: str,
    tokens: Floats,
) -> Contrasts:
    """The first of each pair less the second; settings may be unlike.

    Examples count alike, documents by their `tokens`; `metric` says what a quality can be.
    """
    examples = next(iter(quality.values())).values.shape[1]
    uniform = np.full(examples, 1 / examples)
    return (
        unlike_contrasts(pairs, quality, uniform, quality_bounds(metric)),
        unlike_contrasts(pairs, forgetting, tokens / tokens.sum(), UNBOUNDED),
    )


def corrected_scores(
    names: Sequence[str], contrasts: Contrasts, metric: str
) -> tuple[dict[str, CorrectedContrast], dict[str, CorrectedContrast]]:
    """Contrasts in quality and in forgetting by their names, each corrected for its number."""
    quality, forgetting = contrasts
    return (
        corrected_for_number(names, quality, tolerance_of(metric)),
        corrected_for_number(names, forgetting, FORGETTING_TOLERANCE),
    )


def unlike_score_differences(
    pairs: Sequence[tuple[str, str]],
    quality: Mapping[str, SettingScores],
    forgetting: Mapping[str, SettingScores],
    *,
    metric: str,
    tokens: Floats,
) -> tuple[dict[str, CorrectedContrast], dict[str, CorrectedContrast]]:
    """The first of each pair against the second in quality and in forgetting, by its name."""
    contrasts = unlike_score_contrasts(pairs, quality, forgetting, metric=metric, tokens=tokens)
    return corrected_scores([name for name, _ in pairs], contrasts, metric)


def score_differences(
    models: tuple[NoiseModel, NoiseModel], names: Sequence[str], references: Sequence[str], metric: str
) -> tuple[dict[str, CorrectedContrast], dict[str, CorrectedContrast]]:
    """Each setting against its reference in quality and in forgetting, given the noise of both."""
    quality, forgetting = models
    return (
        differences(quality, names, references, tolerance_of(metric)),
        differences(forgetting, names, references, FORGETTING_TOLERANCE),
    )


def point_contrasts(
    data: StudyData,
    points: Mapping[str, PointSummary],
    pairs: Sequence[tuple[str, str]],
    *,
    examples: slice = slice(None),
) -> Contrasts:
    """As `unlike_score_contrasts` of these points; quality on these `examples`."""
    quality: dict[str, SettingScores] = {}
    forgetting: dict[str, SettingScores] = {}
    for name, point in points.items():
        forgotten, tokens = forgetting_matrix(data, point)
        quality[name] = SettingScores(seeds=point.seeds, values=quality_matrix(data, point)[:, examples])
        forgetting[name] = SettingScores(seeds=point.seeds, values=forgotten)
    metric = next(iter(points.values())).quality_metric
    return unlike_score_contrasts(pairs, quality, forgetting, metric=metric, tokens=tokens)


def point_differences(
    data: StudyData,
    points: Mapping[str, PointSummary],
    pairs: Sequence[tuple[str, str]],
    *,
    examples: slice = slice(None),
) -> tuple[dict[str, CorrectedContrast], dict[str, CorrectedContrast]]:
    """The same, by the first of each pair and corrected for their number."""
    contrasts = point_contrasts(data, points, pairs, examples=examples)
    metric = next(iter(points.values())).quality_metric
    return corrected_scores([name for name, _ in pairs], contrasts, metric)


def held_out_differences(
    data: StudyData, points: Mapping[str, PointSummary], pairs: Sequence[tuple[str, str]]
) -> tuple[dict[str, CorrectedContrast], dict[str, CorrectedContrast]]:
    """As `point_differences`; quality on the odd examples, for the even ones chose."""
    return point_differences(data, points, pairs, examples=slice(1, None, 2))


def joint_verdict(quality: CorrectedContrast | None, forgetting: CorrectedContrast | None) -> JointVerdict:
    """`better` or `worse` where quality or forgetting says so, by its corrected p-value.

    Unless the other, if it is inconclusive, leans the other way by more than `LEAN`; `mixed` where they
    disagree; `changed nothing` where every value is the same; `equivalent` where neither says so and both
    are shown to differ by less than their tolerance; else `inconclusive`.
    """
    if quality is None or forgetting is None:
        return "inconclusive"
    if quality.changed_nothing and forgetting.changed_nothing:
        return "changed nothing"
    # less forgetting is better: turned round, higher is better in both
    gains = [quality.contrast.mean, -forgetting.contrast.mean]
    words = [
        verdict_of(gain, difference.p_value)
        for gain, difference in zip(gains, (quality, forgetting), strict=True)
    ]
    decided = set(words) - {"inconclusive"}
    if not decided:
        shown = max(quality.not_equivalent, forgetting.not_equivalent) <= 1 - LEVEL
        return "equivalent" if shown else "inconclusive"
    if len(decided) == 2:
        return "mixed"
    better = "better" in decided
    against = -1.0 if better else 1.0
    leans = [gain for gain, word in zip(gains, words, strict=True) if word == "inconclusive"]
    if any(against * lean > LEAN for lean in leans):
        return "inconclusive"
    return "better" if better else "worse"
