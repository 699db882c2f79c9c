"""What to use, in the paper's tuning order (H.8).

Lambda for stability, then the largest T near the best, then tau under the footprint cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.evidence.point_summary import PointSummary
from analysis.studies.sensitivity.bands import Band, SettingVerdict
from analysis.studies.sensitivity.control import ControlComparison
from analysis.studies.sensitivity.criteria import Criterion, CriterionOutcome
from grit.config.method import KNOBS
from grit.config.sections import Regime
from grit.tasks.metrics import tolerance_of

#: The order in which the knobs are decided (paper H.8); one that the paper does not have comes last.
TUNING_ORDER = tuple(dict.fromkeys(("lambda", "T", "tau", *KNOBS)))
CONFIDENCE: dict[CriterionOutcome, str] = {
    "pass": "safe",
    "inconclusive": "not excluded, but not proven safe",
    "fail": "no recommendation: no tested setting passes, and this is merely the default",
}
NOT_MEASURED = "not measured"
#: Spread in the steps of time-matched trials that is still taken for a quiet clock, beyond what overhead
#: explains.
CLOCK_TOLERANCE = 0.15


@dataclass(frozen=True, kw_only=True)
class KnobAdvice:
    """What to use for one knob; without a band it was not swept, and nothing is advised."""

    knob: str
    band: Band | None
    pick: SettingVerdict | None

    @property
    def value(self) -> float | int | None:
        """The advised value; None is a cadence that never comes, or no advice."""
        return None if self.pick is None else self.pick.value

    @property
    def confidence(self) -> str:
        """How sure that is."""
        return NOT_MEASURED if self.pick is None else CONFIDENCE[self.pick.outcome]

    @property
    def evidence(self) -> tuple[Criterion, ...]:
        """The criteria on the advised value."""
        return () if self.pick is None else self.pick.criteria

    def shown(self) -> str:
        """The value as people write it; a dash without one."""
        return "-" if self.pick is None else KNOBS[self.knob].shown(self.pick.value)

    def listed(self, settings: Sequence[SettingVerdict]) -> str:
        """Values of some settings in a row."""
        return ", ".join(KNOBS[self.knob].shown(setting.value) for setting in settings)

    def summary(self) -> str:
        """What was tested and what came of it; empty where nothing was."""
        if self.band is None:
            return ""
        return (
            f"Tested {self.listed(self.band.settings)}; proven safe: "
            f"{self.listed(self.band.safe) or 'none of them'}; "
            f"not excluded: {self.listed(self.band.not_excluded) or 'none'}. The knob is "
            f"{self.band.verdict} here."
        )

    def as_data(self) -> dict[str, Any]:
        """For `recommendation.json`."""
        if self.band is None:
            return {"value": None, "confidence": NOT_MEASURED}
        return {
            "value": self.value,
            "confidence": self.confidence,
            "safe": [s.value for s in self.band.safe],
            "not_excluded": [s.value for s in self.band.not_excluded],
            "tested": [s.value for s in self.band.settings],
            "band": self.band.verdict,
            "evidence": [asdict(criterion) for criterion in self.evidence],
        }


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The recommended knobs with their evidence.

    Attributes:
        regime: whose trials decided.
        clock: why time-matched trials were not trusted; None where they were.
        combination_tested: whether the recommended values were run together.
        knobs: in the order in which they are decided.
    """

    regime: Regime
    clock: str | None
    combination_tested: bool
    knobs: tuple[KnobAdvice, ...]
    comparisons: tuple[ControlComparison, ...]

    def sentences(self) -> list[str]:
        """The recommendation in words, with the evidence of each knob."""
        parts = []
        for advice in self.knobs:
            if advice.pick is None:
                parts.append(f"{advice.knob} was not swept.")
                continue
            evidence = "; ".join(f"{c.name}: {c.outcome} ({c.detail})" for c in advice.evidence)
            parts.append(f"{advice.knob} = {advice.shown()} is {advice.confidence} [{evidence}].")
        return parts

    def as_data(self) -> dict[str, Any]:
        """For `recommendation.json`."""
        return {
            "regime": self.regime,
            "clock": self.clock,
            "combination_tested": self.combination_tested,
            "knobs": {advice.knob: advice.as_data() for advice in self.knobs},
            "against_control": [comparison.as_data() for comparison in self.comparisons],
            "paragraph": f"On the {self.regime}-matched trials: {' '.join(self.sentences())}",
        }


def recommend(
    bands: Sequence[Band], comparisons: Sequence[ControlComparison], points: Sequence[PointSummary]
) -> Recommendation:
    """Time-matched bands decide where the study has them and its clock was quiet (`clock_noise`).

    Else the step-matched ones do, and it is said.
    """
    noise = clock_noise(points)
    regime = _deciding_regime(bands, noise)
    by_knob = {band.knob: band for band in bands if band.regime == regime}
    advice = tuple(_advice(knob, by_knob.get(knob)) for knob in TUNING_ORDER)
    values = {one.knob: one.value for one in advice}
    combination = tuple(values[knob] for knob in KNOBS)
    tested = any(p.records and p.regime == regime and p.knob_values() == combination for p in points)
    return Recommendation(
        regime=regime, clock=noise, combination_tested=tested, knobs=advice, comparisons=tuple(comparisons)
    )


def _deciding_regime(bands: Sequence[Band], noise: str | None) -> Regime:
    measured = {band.regime for band in bands}
    trusted = not (noise and "step" in measured)
    return "time" if "time" in measured and trusted else "step"


def _advice(knob: str, band: Band | None) -> KnobAdvice:
    pick = None if band is None else _PICKS.get(knob, _steadiest)(_preferred(band))
    return KnobAdvice(knob=knob, band=band, pick=pick)


def _preferred(band: Band) -> list[SettingVerdict]:
    """Settings to choose among: the safe ones; without any, those that nothing excludes.

    Without any, the default. Only settings that were measured with as many seeds as any of the band count:
    what has not been run cannot be advised.
    """
    most = max(len(s.point.seeds) for s in band.settings)
    measured = [s for s in band.settings if len(s.point.seeds) == most]
    for outcome in ("pass", "inconclusive"):
        members = [s for s in measured if s.outcome == outcome]
        if members:
            return members
    return [s for s in band.settings if s.is_default]


def _steadiest(settings: Sequence[SettingVerdict]) -> SettingVerdict:
    """The least spread over seeds; the default at a tie."""
    return min(settings, key=lambda s: (s.point.spread("quality") or 0.0, not s.is_default))


def _rarest_near_best(settings: Sequence[SettingVerdict]) -> SettingVerdict:
    """The largest cadence within the metric's tolerance of the best score per hour."""
    best = max(settings, key=lambda s: score_per_hour(s.point)).point
    # The tolerance is in units of the metric: per hour, it is spread over the hours that the best setting
    # took.
    allowed = tolerance_of(best.quality_metric) / (best.mean("train_seconds") / 3600)
    near = [s for s in settings if score_per_hour(s.point) >= score_per_hour(best) - allowed]
    return max(near, key=lambda s: float("inf") if s.value is None else float(s.value))


def _smallest(settings: Sequence[SettingVerdict]) -> SettingVerdict:
    """The smallest footprint."""
    return min(settings, key=lambda s: s.point.mean("footprint"))


#: The paper's choice for each knob (H.8); the steadiest setting of any other.
_PICKS = {"lambda": _steadiest, "T": _rarest_near_best, "tau": _smallest}


def score_per_hour(point: PointSummary) -> float:
    """Quality per hour of training; of a log-likelihood, what was gained over the untuned model."""
    start = point.mean("base_quality") if point.quality_metric == "answer_logprob" else 0.0
    return (point.mean("quality") - start) / (point.mean("train_seconds") / 3600)


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
        f"the same seconds bought between {min(steps):.0f} and {max(steps):.0f} steps, while geometry costs "
        f"at most {explained:.1%} of one: time-matched results of this study carry the machine's noise"
    )
