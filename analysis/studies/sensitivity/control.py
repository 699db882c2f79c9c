"""GRIT at its default setting against the first-order control with the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.evidence.noise import RegimeNoise
from analysis.evidence.point_summary import PointSummary, control_of
from analysis.page.table import shown
from analysis.stats.estimates import Verdict, holm
from analysis.stats.pooled_noise import Contrast, verdict_of
from grit.config.registry import METHODS, Method
from grit.config.sections import Regime
from grit.tasks.metrics import metric_label

_WORDS: dict[Verdict, str] = {
    "better": "is better than",
    "worse": "is worse than",
    "inconclusive": "cannot be told from",
}
_FORGETS: dict[Verdict, str] = {
    "better": "forgets less",
    "worse": "forgets more",
    "inconclusive": "cannot be told from it in forgetting",
}


@dataclass(frozen=True, kw_only=True)
class ControlComparison:
    """Differences on the same seeds and examples, from the noise of all settings of the regime.

    `metric` is the label of quality; `answers` the finer second measure, the log-likelihood of the answers.
    The words follow the p-values of quality and forgetting, corrected for there being two of them.
    """

    regime: Regime
    control: Method
    method: Method
    metric: str
    quality: Contrast
    answers: Contrast
    forgetting: Contrast
    overhead: float
    footprint: float

    @property
    def verdicts(self) -> tuple[Verdict, Verdict]:
        """Of quality and of forgetting."""
        quality, forgetting = holm([self.quality.p_value, self.forgetting.p_value])
        less = -self.forgetting.mean
        return verdict_of(self.quality.mean, quality), verdict_of(less, forgetting)

    def headline(self) -> str:
        """The first thing to know."""
        method, control = METHODS[self.method].title, METHODS[self.control].title
        quality, forgetting = self.verdicts
        return (
            f"{self.regime.capitalize()}-matched, {method} at its default {_WORDS[quality]} {control} in "
            f"quality and {_FORGETS[forgetting]}{self._caution()}."
        )

    def _caution(self) -> str:
        """What one seed cannot say."""
        return " (one seed: how much seeds differ is not known)" if self.quality.seeds < 2 else ""

    def sentence(self) -> str:
        """The comparison in words."""
        same = "steps" if self.regime == "step" else "seconds"
        quality, forgetting = self.verdicts
        return (
            f"Against {METHODS[self.control].title} with the same {same}: {self.metric} "
            f"{shown(self.quality)} "
            f"({quality}), {self._second()}forgetting "
            f"{shown(self.forgetting)} nats/token ({forgetting}); it "
            f"spends {self.overhead:.1%} of a step on geometry and keeps {self.footprint:.0%} of the "
            "parameters."
        )

    def _second(self) -> str:
        """The finer second measure, where it is another one."""
        if self.metric == metric_label("answer_logprob"):
            return ""
        return f"log-likelihood of the answers {shown(self.answers)} nats/token, "

    def as_data(self) -> dict[str, Any]:
        """For `recommendation.json`."""
        quality, forgetting = self.verdicts
        return {
            "regime": self.regime,
            "control": self.control,
            "quality": {**self.quality.as_data(), "verdict": quality},
            "answers": self.answers.as_data(),
            "forgetting": {**self.forgetting.as_data(), "verdict": forgetting},
            "overhead": self.overhead,
            "footprint": self.footprint,
        }


def compare_with_control(
    noise: RegimeNoise, points: Sequence[PointSummary], center: PointSummary
) -> ControlComparison | None:
    """None when the control has no usable trial."""
    control = control_of(points, center.regime)
    if control is None or not center.records:
        return None
    own, other = center.point_id, control.point_id
    return ControlComparison(
        regime=center.regime,
        control=control.method,
        method=center.method,
        metric=center.quality_label,
        quality=noise.quality.difference(own, other),
        answers=noise.answers.difference(own, other),
        forgetting=noise.forgetting.difference(own, other),
        overhead=center.mean("overhead"),
        footprint=center.mean("footprint"),
    )
