"""The paper's robustness criteria (H.5), each judged on one setting with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.stats import chi2

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, paired_forgetting, paired_quality
from analysis.page.table import shown
from analysis.stats.estimates import Estimate
from analysis.studies.sensitivity.one_at_a_time import shown_knobs
from grit.tasks.metrics import tolerance_of

CriterionOutcome = Literal["pass", "fail", "inconclusive"]

#: More forgetting than the default's that is tolerated, in nats per token (0.02 nats lower retention by about
#: 2%).
FORGETTING_TOLERANCE = 0.02
#: Footprint relative to the default's.
FOOTPRINT_CAP = 1.1
#: Standard deviation of quality over seeds that is still called stable, in tolerances of the metric. A
#: setting fails only when the 95% interval of the deviation (chi-square) lies above it: with two seeds that
#: interval reaches from 0.4 to 32 times what was seen.
SPREAD_CAP = 3.0


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One criterion on one setting: its outcome, and the numbers behind it as text."""

    name: str
    outcome: CriterionOutcome
    detail: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A setting of a knob with what it is judged against.

    Attributes:
        center: the default.
        best: the setting with the highest mean quality in the knob's sweep.
    """

    data: StudyData
    point: PointSummary
    center: PointSummary
    best: PointSummary


def criteria_of(judged: Judged) -> tuple[Criterion, ...]:
    """All that can be judged: a setting without a usable trial has its stability alone."""
    stability = _stability(judged.point)
    if not judged.point.records:
        return (stability,)
    paired = (_near_best(judged), _retention(judged))
    compared = tuple(criterion for criterion in paired if criterion is not None)
    return (stability, *compared, _footprint(judged), _seed_spread(judged.point))


def _stability(point: PointSummary) -> Criterion:
    outcome: CriterionOutcome = "pass"
    if point.lost:
        outcome = "fail"
    elif point.planned:
        outcome = "inconclusive"
    tried = point.lost + len(point.records)
    return Criterion(name="stability", outcome=outcome, detail=f"{point.lost} of {tried} trials lost")


def _near_best(judged: Judged) -> Criterion | None:
    difference = paired_quality(judged.data, judged.point, judged.best)
    if difference is None:
        return None
    epsilon = tolerance_of(judged.point.quality_metric)
    detail = f"{shown(difference)} against this sweep's best, {shown_knobs(judged.best)}; epsilon {epsilon:g}"
    if judged.point.point_id == judged.best.point_id:
        detail = "it is this sweep's best"
    return Criterion(name="near-best quality", outcome=at_least(difference, -epsilon), detail=detail)


def _retention(judged: Judged) -> Criterion | None:
    more = paired_forgetting(judged.data, judged.point, judged.center)
    if more is None:
        return None
    detail = f"{shown(more)} nats/token against the default"
    if judged.point.point_id == judged.center.point_id:
        detail = "it is the default"
    return Criterion(name="retention", outcome=at_least(more.negated(), -FORGETTING_TOLERANCE), detail=detail)


def _footprint(judged: Judged) -> Criterion:
    share = judged.point.mean("footprint") / judged.center.mean("footprint")
    outcome: CriterionOutcome = "pass" if share <= FOOTPRINT_CAP else "fail"
    return Criterion(name="footprint", outcome=outcome, detail=f"{share:.2f} x the default's")


def _seed_spread(point: PointSummary) -> Criterion:
    """Passes when the deviation over seeds is within the cap, fails when even its lower bound is above.

    Else says that seeds are too few.
    """
    deviation, freedom = point.spread("quality"), len(point.seeds) - 1
    if deviation is None:
        return Criterion(name="seed spread", outcome="inconclusive", detail="one seed")
    cap = SPREAD_CAP * tolerance_of(point.quality_metric)
    lowest = deviation * math.sqrt(freedom / float(chi2.ppf(0.975, freedom)))
    outcome: CriterionOutcome = "inconclusive"
    if deviation <= cap:
        outcome = "pass"
    elif lowest > cap:
        outcome = "fail"
    detail = f"standard deviation {deviation:.3f} over {freedom + 1} seeds; cap {cap:g}"
    return Criterion(name="seed spread", outcome=outcome, detail=detail)


def at_least(difference: Estimate, bound: float) -> CriterionOutcome:
    """Whether the whole interval lies at or above a bound, none of it, or some."""
    if difference.low >= bound:
        return "pass"
    return "fail" if difference.high < bound else "inconclusive"
