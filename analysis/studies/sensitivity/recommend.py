"""What to use, in the paper's tuning order (H.8).

Lambda for stability, then the largest T near the best, then tau under the footprint cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.data.load import StudyData
from analysis.data.points import PointSummary, paired_forgetting, paired_quality
from analysis.stats.estimates import Estimate
from analysis.studies.sensitivity.bands import EPSILON, Band, SettingVerdict
from grit.config.registry import METHODS, Method

CONFIDENCE = {
    "pass": "safe",
    "inconclusive": "not excluded, but not proven safe",
    "fail": "no recommendation: no tested setting passes, and this is merely the default",
}


#: Spread in the steps of time-matched trials that is still taken for a quiet clock, beyond what overhead
#: explains.
CLOCK_TOLERANCE = 0.15


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """GRIT at its default setting against the first-order control at the same budget.

    On the same seeds and examples.
    """

    regime: str
    control: Method
    method: Method
    quality: Estimate
    forgetting: Estimate
    overhead: float
    footprint: float

    def headline(self) -> str:
        """The first thing to know."""
        words = {"better": "is better than", "worse": "is worse than", "inconclusive": "cannot be told from"}
        method, control = METHODS[self.method].title, METHODS[self.control].title
        return (
            f"{self.regime.capitalize()}-matched, {method} at its default {words[self.quality.verdict()]} "
            f"{control} in quality."
        )

    def sentence(self, metric: str) -> str:
        """The comparison in words."""
        quality, forgetting = self.quality.verdict(), self.forgetting.verdict(higher_is_better=False)
        return (
            f"Against {METHODS[self.control].title} with the same "
            f"{'steps' if self.regime == 'step' else 'seconds'}: {metric} "
            f"{self.quality.mean:+.3f} [{self.quality.low:+.3f}, {self.quality.high:+.3f}] ({quality}), "
            "forgetting "
            f"{self.forgetting.mean:+.3f} [{self.forgetting.low:+.3f}, {self.forgetting.high:+.3f}] "
            f"nats/token ({forgetting}); "
            f"it spends {self.overhead:.1%} of a step on geometry and keeps {self.footprint:.0%} of the "
            "parameters."
        )


def compare_with_control(
    data: StudyData, points: Sequence[PointSummary], center: PointSummary
) -> Comparison | None:
    """None when the control has no usable trial."""
    control = next((p for p in points if p.is_control and p.regime == center.regime and p.records), None)
    if control is None:
        return None
    quality, forgetting = paired_quality(data, center, control), paired_forgetting(data, center, control)
    if quality is None or forgetting is None:
        return None
    return Comparison(
        regime=center.regime,
        control=control.method,
        method=center.method,
        quality=quality,
        forgetting=forgetting,
        overhead=center.mean("overhead"),
        footprint=center.mean("footprint"),
    )


def _preferred(band: Band) -> list[SettingVerdict]:
    """Settings to choose among: the safe ones; without any, those that nothing excludes.

    Without any, the default.

    Only settings that were measured with as many seeds as any of the band count: what has not been run cannot
    be advised.
    """
    most = max(len(s.point.seeds) for s in band.settings)
    measured = [s for s in band.settings if len(s.point.seeds) == most]
    by_outcome = [[s for s in measured if s.outcome == outcome] for outcome in ("pass", "inconclusive")]
    return by_outcome[0] or by_outcome[1] or [s for s in band.settings if s.is_default]


def clock_noise(points: Sequence[PointSummary]) -> str | None:
    """Says so when the same seconds bought numbers of steps that the method's own cost cannot explain.

    Processor time cannot show all of it (shared caches and hyper-threads slow a trial that never waits), so
    steps are compared.
    """
    timed = [p for p in points if p.regime == "time" and p.records]
    steps = [value for p in timed for value in p.values("steps")]
    if not steps:
        return None
    explained = max(p.mean("overhead") for p in timed)
    if max(steps) / max(1.0, min(steps)) - 1 <= explained + CLOCK_TOLERANCE:
        return None
    return (
        f"the same seconds bought between {min(steps):.0f} and {max(steps):.0f} steps, while geometry "
        f"costs at most {explained:.1%} of one: "
        "time-matched results of this study carry the machine's noise"
    )


def recommend(
    bands: Sequence[Band], comparisons: Sequence[Comparison], points: Sequence[PointSummary]
) -> dict[str, Any]:
    """The recommended knobs with their evidence, JSON-serializable.

    Time-matched bands decide where the study has them and its clock was quiet (`clock_noise`), else the
    step-matched ones, and it is said.
    """
    by_knob = {(band.knob, band.regime): band for band in bands}
    noise = clock_noise(points)
    measured = {band.regime for band in bands}
    regime = "time" if "time" in measured and not (noise and "step" in measured) else "step"
    chosen: dict[str, Any] = {}
    for knob in ("lambda", "T", "tau"):
        band = by_knob.get((knob, regime))
        if band is None:
            chosen[knob] = {"value": None, "confidence": "not measured"}
            continue
        pick = _pick(knob, _preferred(band))
        chosen[knob] = {
            "value": pick.value,
            "confidence": CONFIDENCE[pick.outcome],
            "safe": [s.value for s in band.safe],
            "not_excluded": [s.value for s in band.not_excluded],
            "tested": [s.value for s in band.settings],
            "band": band.verdict,
            "evidence": [asdict(criterion) for criterion in pick.criteria],
        }
    values = tuple(chosen[knob]["value"] for knob in ("tau", "T", "lambda"))
    tested = any(p.records and p.regime == regime and (p.tau, p.T, p.lambda_) == values for p in points)
    advice: dict[str, Any] = {
        "regime": regime,
        "clock": noise,
        "combination_tested": tested,
        "knobs": chosen,
        "against_control": [
            {
                "regime": c.regime,
                "control": c.control,
                "quality": {**asdict(c.quality), "verdict": c.quality.verdict()},
                "forgetting": {
                    **asdict(c.forgetting),
                    "verdict": c.forgetting.verdict(higher_is_better=False),
                },
                "overhead": c.overhead,
                "footprint": c.footprint,
            }
            for c in comparisons
        ],
    }
    return {**advice, "paragraph": paragraph(advice)}


def score_per_hour(point: PointSummary) -> float:
    """Quality per hour of training; of a log-likelihood, what was gained over the untuned model."""
    gained = point.mean("quality") - (
        point.mean("base_quality") if point.quality_metric == "answer_logprob" else 0.0
    )
    return gained / (point.mean("train_seconds") / 3600)


def paragraph(advice: dict[str, Any]) -> str:
    """The recommendation in words, with the evidence of each knob."""
    parts = []
    for knob in ("lambda", "T", "tau"):
        chosen = advice["knobs"][knob]
        if chosen["confidence"] == "not measured":
            parts.append(f"{knob} was not swept.")
            continue
        value = "none" if chosen["value"] is None else f"{chosen['value']:g}"
        evidence = "; ".join(
            f"{item['name']}: {item['outcome']} ({item['detail']})" for item in chosen["evidence"]
        )
        parts.append(f"{knob} = {value} is {chosen['confidence']} [{evidence}].")
    return f"On the {advice['regime']}-matched trials: " + " ".join(parts)


def _pick(knob: str, settings: list[SettingVerdict]) -> SettingVerdict:
    """The paper's choice (H.8) among these settings.

    lambda: the steadiest over seeds, the default at a tie; T: the largest cadence within epsilon of the best
    score per hour; tau: the smallest
    footprint.
    """
    if knob == "T":
        best = max(settings, key=lambda s: score_per_hour(s.point))
        # Epsilon is in units of the metric: per hour, it is spread over the hours that the best setting took.
        near = score_per_hour(best.point) - EPSILON[best.point.quality_metric] / (
            best.point.mean("train_seconds") / 3600
        )
        return max(
            (s for s in settings if score_per_hour(s.point) >= near),
            key=lambda s: float("inf") if s.value is None else float(s.value),
        )
    if knob == "tau":
        return min(settings, key=lambda s: s.point.mean("footprint"))
    return min(settings, key=lambda s: (s.point.spread("quality"), not s.is_default))
