"""What to use, in the paper's tuning order (H.8): lambda for stability, then the largest T near the best, then tau under the footprint cap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.bands import Band, SettingVerdict
from analysis.load import StudyData
from analysis.points import PointSummary, paired_forgetting, paired_quality
from analysis.statistics import Estimate

CONFIDENCE = {"pass": "safe", "inconclusive": "not excluded, but not proven safe", "fail": "nothing passed"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """GRIT at its default setting against the first-order control at the same budget, on the same seeds and examples."""

    regime: str
    control: str
    method: str
    quality: Estimate
    forgetting: Estimate
    overhead: float
    footprint: float

    def sentence(self, metric: str) -> str:
        """The comparison in words."""
        quality, forgetting = self.quality.verdict(), self.forgetting.verdict(higher_is_better=False)
        return (f"{self.regime}-matched, {self.method} at its default against {self.control}: {metric} {quality} "
                f"({self.quality.mean:+.3f} [{self.quality.low:+.3f}, {self.quality.high:+.3f}]), forgetting {forgetting} "
                f"({self.forgetting.mean:+.3f} [{self.forgetting.low:+.3f}, {self.forgetting.high:+.3f}] nats/token), "
                f"overhead {self.overhead:.1%} of a step, effective parameters {self.footprint:.0%} of the control's.")


def compare_with_control(data: StudyData, points: Sequence[PointSummary], center: PointSummary) -> Comparison | None:
    """None when the control has no usable trial."""
    control = next((p for p in points if p.is_control and p.regime == center.regime and p.records), None)
    if control is None:
        return None
    quality, forgetting = paired_quality(data, center, control), paired_forgetting(data, center, control)
    if quality is None or forgetting is None:
        return None
    return Comparison(regime=center.regime, control=control.method, method=center.method, quality=quality, forgetting=forgetting,
                      overhead=center.mean("overhead"), footprint=center.mean("footprint"))


def _preferred(band: Band) -> list[SettingVerdict]:
    """Settings to choose among: the safe ones; without any, those that nothing excludes; without any, the default.

    Only settings that were measured with as many seeds as any of the band count: what has not been run cannot be advised.
    """
    most = max(len(s.point.seeds) for s in band.settings)
    measured = [s for s in band.settings if len(s.point.seeds) == most]
    by_outcome = [[s for s in measured if s.outcome == outcome] for outcome in ("pass", "inconclusive")]
    return by_outcome[0] or by_outcome[1] or [s for s in band.settings if s.is_default]


def recommend(bands: Sequence[Band], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The recommended knobs with their evidence, JSON-serializable. Time-matched bands decide where the study has them."""
    by_knob = {(band.knob, band.regime): band for band in bands}
    regime = "time" if any(band.regime == "time" for band in bands) else "step"
    chosen: dict[str, Any] = {}
    for knob in ("lambda", "T", "tau"):
        band = by_knob.get((knob, regime))
        if band is None:
            chosen[knob] = {"value": None, "confidence": "not measured"}
            continue
        pick = _pick(knob, _preferred(band))
        chosen[knob] = {
            "value": pick.value, "confidence": CONFIDENCE[pick.outcome],
            "safe": [s.value for s in band.safe], "not_excluded": [s.value for s in band.not_excluded], "tested": [s.value for s in band.settings],
            "band": band.verdict, "evidence": [asdict(criterion) for criterion in pick.criteria]}
    return {"regime": regime, "knobs": chosen, "against_control": [
        {"regime": c.regime, "control": c.control, "quality": {**asdict(c.quality), "verdict": c.quality.verdict()},
         "forgetting": {**asdict(c.forgetting), "verdict": c.forgetting.verdict(higher_is_better=False)},
         "overhead": c.overhead, "footprint": c.footprint} for c in comparisons]}


def _pick(knob: str, settings: list[SettingVerdict]) -> SettingVerdict:
    """lambda: the steadiest over seeds, the default at a tie; T: the largest cadence; tau: the smallest footprint."""
    if knob == "T":
        return max(settings, key=lambda s: float("inf") if s.value is None else float(s.value))
    if knob == "tau":
        return min(settings, key=lambda s: s.point.mean("footprint"))
    return min(settings, key=lambda s: (s.point.spread("quality"), not s.is_default))
