"""GRIT at its default setting against the first-order control with the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, control_of, paired_forgetting, paired_quality
from analysis.page.table import shown
from analysis.stats.estimates import Estimate
from grit.config.registry import METHODS, Method
from grit.config.sections import Regime

_WORDS = {"better": "is better than", "worse": "is worse than", "inconclusive": "cannot be told from"}


@dataclass(frozen=True, kw_only=True)
class ControlComparison:
    """Differences on the same seeds and examples; `metric` is the label of quality."""

    regime: Regime
    control: Method
    method: Method
    metric: str
    quality: Estimate
    forgetting: Estimate
    overhead: float
    footprint: float

    def headline(self) -> str:
        """The first thing to know."""
        method, control = METHODS[self.method].title, METHODS[self.control].title
        verdict = _WORDS[self.quality.verdict()]
        return f"{self.regime.capitalize()}-matched, {method} at its default {verdict} {control} in quality."

    def sentence(self) -> str:
        """The comparison in words."""
        same = "steps" if self.regime == "step" else "seconds"
        forgetting = self.forgetting.verdict(higher_is_better=False)
        return (
            f"Against {METHODS[self.control].title} with the same {same}: {self.metric} "
            f"{shown(self.quality)} "
            f"({self.quality.verdict()}), forgetting {shown(self.forgetting)} nats/token ({forgetting}); it "
            f"spends {self.overhead:.1%} of a step on geometry and keeps {self.footprint:.0%} of the "
            "parameters."
        )

    def as_data(self) -> dict[str, Any]:
        """For `recommendation.json`."""
        forgetting = self.forgetting.verdict(higher_is_better=False)
        return {
            "regime": self.regime,
            "control": self.control,
            "quality": {**asdict(self.quality), "verdict": self.quality.verdict()},
            "forgetting": {**asdict(self.forgetting), "verdict": forgetting},
            "overhead": self.overhead,
            "footprint": self.footprint,
        }


def compare_with_control(
    data: StudyData, points: Sequence[PointSummary], center: PointSummary
) -> ControlComparison | None:
    """None when the control has no usable trial."""
    control = control_of(points, center.regime)
    if control is None or not center.records:
        return None
    quality, forgetting = paired_quality(data, center, control), paired_forgetting(data, center, control)
    if quality is None or forgetting is None:
        return None
    return ControlComparison(
        regime=center.regime,
        control=control.method,
        method=center.method,
        metric=center.quality_label,
        quality=quality,
        forgetting=forgetting,
        overhead=center.mean("overhead"),
        footprint=center.mean("footprint"),
    )
