"""The paper's robustness criteria (H.5), each judged on all settings of a regime together.

Every criterion is one family of questions whose error rate is kept (analysis/stats/decisions.py). What asks
for "not worse than" is a one-sided test against a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import chi2

from analysis.evidence.corrected import FORGETTING_TOLERANCE
from analysis.evidence.noise import RegimeNoise
from analysis.evidence.point_summary import PointSummary, control_of
from analysis.page.table import shown
from analysis.stats.decisions import Decision, Looks, Outcome, Question, decide
from analysis.stats.pooled_noise import Contrast, NoiseModel
from analysis.studies.sensitivity.one_at_a_time import default_point, shown_knobs, sweep_of
from grit.config.declared_knobs import KNOBS
from grit.config.sections import Regime
from grit.tasks.metrics import tolerance_of

#: Footprint relative to the default's.
FOOTPRINT_CAP = 1.1
#: Standard deviation over seeds, beyond the seeds' effect that all settings share, that is still called
#: stable: this many tolerances of the metric, or this many times the control's.
SPREAD_CAP, SPREAD_RATIO = 3.0, 2.0
STABILITY, NEAR_BEST, RETENTION = "stability", "near-best quality", "retention"
FOOTPRINT, SEED_SPREAD = "footprint", "seed spread"
#: What every setting of a knob is judged by.
CRITERIA = (STABILITY, NEAR_BEST, RETENTION, FOOTPRINT, SEED_SPREAD)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One criterion on one setting.

    Attributes:
        detail: the numbers behind the outcome, as text.
        contrast: the difference that was judged; `bound` what it must lie above; None where it is a count.
        decision: p-value, level, smallest difference and seeds needed; None where nothing random was judged.
        against: the point_id of the setting it was compared with.
    """

    name: str
    outcome: Outcome
    detail: str
    contrast: Contrast | None = None
    bound: float | None = None
    decision: Decision | None = None
    against: str | None = None

    @property
    def more_seeds(self) -> int | None:
        """Further seeds of the poorer side that are predicted to decide it; None if nothing is predicted."""
        if self.outcome != "open" or self.contrast is None or self.decision is None:
            return None
        needed = self.decision.seeds_needed
        return None if needed is None else needed - self.contrast.seeds

    def as_data(self) -> dict[str, Any]:
        """For `recommendation.json`."""
        data: dict[str, Any] = {"name": self.name, "outcome": self.outcome, "detail": self.detail}
        if self.contrast is not None:
            data |= {
                "difference": self.contrast.mean,
                "low": self.contrast.low,
                "high": self.contrast.high,
                "bound": self.bound,
            }
        if self.decision is not None:
            data |= {
                "p_value": self.decision.p_value,
                "level": self.decision.level,
                "smallest_difference": self.decision.smallest,
                "seeds_needed": self.decision.seeds_needed,
            }
        return data


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The settings of a regime that are judged, and what they are judged against.

    Attributes:
        sweeps: every knob's settings, the default among them.
        center: the default.
        control: the first-order method; None where it was not measured.
    """

    sweeps: Mapping[str, Sequence[PointSummary]]
    center: PointSummary
    control: PointSummary | None
    noise: RegimeNoise
    looks: Looks

    @classmethod
    def of_regime(
        cls, points: Sequence[PointSummary], noise: RegimeNoise, regime: Regime, looks: Looks
    ) -> Judged | None:
        """Every knob that was swept; None where the default was not measured."""
        center = default_point(points, regime)
        if center is None or not center.records:
            return None
        sweeps = {knob: sweep_of(points, knob, regime) for knob in KNOBS}
        return cls(
            sweeps={knob: sweep for knob, sweep in sweeps.items() if len(sweep) > 1},
            center=center,
            control=control_of(points, regime),
            noise=noise,
            looks=looks,
        )

    @property
    def points(self) -> list[PointSummary]:
        """All settings, each once."""
        return list({point.point_id: point for sweep in self.sweeps.values() for point in sweep}.values())

    @property
    def measured(self) -> list[PointSummary]:
        """Those with a usable trial."""
        return [point for point in self.points if point.records]


def criteria_of(judged: Judged) -> dict[tuple[str, str], tuple[Criterion, ...]]:
    """All criteria of every setting of every knob, by knob and point_id.

    A setting without a usable trial has its stability alone.
    """
    near_best, retention, spread = _near_best(judged), _retention(judged), _seed_spread(judged)
    criteria = {}
    for knob, sweep in judged.sweeps.items():
        for point in sweep:
            own, name = [_stability(point)], point.point_id
            if point.records:
                footprint = _footprint(point, judged.center)
                own += [near_best[knob, name], retention[name], footprint, spread[name]]
            criteria[knob, name] = tuple(own)
    return criteria


def _stability(point: PointSummary) -> Criterion:
    outcome: Outcome = "pass"
    if point.lost:
        outcome = "fail"
    elif not point.records:
        outcome = "open"
    tried = point.lost + len(point.records)
    return Criterion(name=STABILITY, outcome=outcome, detail=f"{point.lost} of {tried} trials lost")


def _near_best(judged: Judged) -> dict[tuple[str, str], Criterion]:
    """Within the metric's tolerance of every other setting of the knob (Hsu's comparisons with the best).

    To be near the best is to be near all: each of these must be shown, and none needs correction for the
    others. To be far from the best is to be far from some: that is corrected for the number of others. No
    setting is compared with itself, and one that lost a trial sets no standard. The settings of all knobs are
    one family.
    """
    epsilon = tolerance_of(judged.center.quality_metric)
    asked: dict[tuple[str, str], Question] = {}
    criteria: dict[tuple[str, str], Criterion] = {}
    for knob, sweep in judged.sweeps.items():
        measured = [point for point in sweep if point.records]
        standards = [point for point in measured if not point.lost] or measured
        for point in measured:
            others = [other for other in standards if other is not point]
            place = knob, point.point_id
            question = _far_from_none(judged.noise.quality, point, others, epsilon)
            if question is not None:
                asked[place] = question
            criteria[place] = Criterion(name=NEAR_BEST, outcome="open", detail="nothing to compare it with")
    names = {point.point_id: point for point in judged.points}
    decisions = decide(list(asked.values()), judged.looks)
    for (place, question), decision in zip(asked.items(), decisions, strict=True):
        rival = names[question.against or ""]
        against = f"{shown(question.contrast)} against its hardest rival, {shown_knobs(rival)}"
        criteria[place] = _criterion(NEAR_BEST, question, decision, f"{against}; epsilon {epsilon:g}")
    return criteria


def _far_from_none(
    noise: NoiseModel, point: PointSummary, others: Sequence[PointSummary], epsilon: float
) -> Question | None:
    if not others:
        return None
    contrasts = {other.point_id: noise.difference(point.point_id, other.point_id) for other in others}
    near = {name: contrast.p_above(-epsilon) for name, contrast in contrasts.items()}
    far = {name: contrast.p_below(-epsilon) for name, contrast in contrasts.items()}
    hardest, farthest = max(near, key=lambda name: near[name]), min(far, key=lambda name: far[name])
    p_below = min(1.0, far[farthest] * len(others))
    rival = farthest if p_below < near[hardest] else hardest
    return Question(
        p_above=near[hardest], p_below=p_below, contrast=contrasts[rival], bound=-epsilon, against=rival
    )


def _retention(judged: Judged) -> dict[str, Criterion]:
    """Forgetting at most the tolerance above the default's."""
    center = judged.center.point_id
    reference = Criterion(name=RETENTION, outcome="pass", detail="it is the default, the reference")
    criteria = {center: reference}
    others = [point for point in judged.measured if point.point_id != center]
    questions = []
    for point in others:
        kept = judged.noise.forgetting.difference(center, point.point_id)
        questions.append(Question.of(kept, -FORGETTING_TOLERANCE, against=center))
    for point, question, decision in zip(others, questions, decide(questions, judged.looks), strict=True):
        more = judged.noise.forgetting.difference(point.point_id, center)
        detail = f"{shown(more)} nats/token against the default; at most +{FORGETTING_TOLERANCE:g}"
        criteria[point.point_id] = _criterion(RETENTION, question, decision, detail)
    return criteria


def _footprint(point: PointSummary, center: PointSummary) -> Criterion:
    share = point.mean("footprint") / center.mean("footprint")
    outcome: Outcome = "pass" if share <= FOOTPRINT_CAP else "fail"
    return Criterion(name=FOOTPRINT, outcome=outcome, detail=f"{share:.2f} x the default's")


def _seed_spread(judged: Judged) -> dict[str, Criterion]:
    """The deviation over seeds that a setting adds to what all settings share, the control among them."""
    noise, points = judged.noise.quality, judged.measured
    cap = SPREAD_CAP * tolerance_of(judged.center.quality_metric)
    beside = ""
    if judged.control is not None:
        cap = max(cap, SPREAD_RATIO * noise.deviation(judged.control.point_id)[0])
        own = judged.control.spread("quality")
        beside = "" if own is None else f" (over the control's seeds {own:.4f})"
    criteria = {}
    for point in points:
        deviation, freedom = noise.deviation(point.point_id)
        criteria[point.point_id] = _spread_criterion(
            deviation, freedom, cap, judged.looks.spent_at(len(point.seeds)) / len(points), beside
        )
    return criteria


def _spread_criterion(deviation: float, freedom: float, cap: float, level: float, beside: str) -> Criterion:
    """Passes where even the upper bound is within the cap, fails where even the lower one is not."""
    if freedom == 0 or level == 0:
        return Criterion(name=SEED_SPREAD, outcome="open", detail="one seed")
    upper = deviation * math.sqrt(freedom / float(chi2.ppf(level, freedom)))
    lower = deviation * math.sqrt(freedom / float(chi2.isf(level, freedom)))
    outcome: Outcome = "open"
    if upper <= cap:
        outcome = "pass"
    elif lower > cap:
        outcome = "fail"
    detail = f"standard deviation {deviation:.4f}{beside}, at most {upper:.3f}; cap {cap:.3g}"
    return Criterion(name=SEED_SPREAD, outcome=outcome, detail=detail)


def _criterion(name: str, question: Question, decision: Decision, detail: str) -> Criterion:
    contrast = question.contrast
    if not contrast.over_seeds:
        decision = replace(decision, outcome="open", seeds_needed=None)
        detail = f"{detail}; one seed says nothing of seeds"
    return Criterion(
        name=name,
        outcome=decision.outcome,
        detail=f"{detail}; {_next_step(decision)}",
        contrast=contrast,
        bound=question.bound,
        decision=decision,
        against=question.against,
    )


def _next_step(decision: Decision) -> str:
    if decision.outcome == "open" and decision.seeds_needed is not None:
        return f"open: about {decision.seeds_needed} seeds would decide it"
    if decision.outcome == "out of reach":
        return f"this design tells {decision.smallest:.3g} from the bound, and this is closer"
    return f"p = {decision.p_value:.3g}"
