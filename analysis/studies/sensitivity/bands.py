"""Which settings of a knob are safe.

The paper's robustness criteria (H.5), each judged with its uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import chi2

from analysis.data.load import StudyData
from analysis.data.points import PointSummary, paired_forgetting, paired_quality
from analysis.stats.estimates import Estimate, holm
from analysis.studies.sensitivity.failures import Mode, failure_modes
from grit.config.method import KNOBS

Outcome = Literal["pass", "fail", "inconclusive"]

#: Near-best tolerance by quality metric, in that metric's units (nats per token for answer_logprob).
EPSILON = {
    "accuracy": 0.02,
    "exact_match": 0.02,
    "gsm8k_exact_match": 0.02,
    "rougeL": 0.01,
    "answer_logprob": 0.05,
}
#: More forgetting than the default's that is tolerated, in nats per token (0.02 nats lower retention by about
#: 2%).
FORGETTING_TOLERANCE = 0.02
#: Footprint relative to the default's.
FOOTPRINT_CAP = 1.1
#: Standard deviation of quality over seeds that is still called stable, in epsilons. A setting fails only
#: when the 95% interval of the deviation (chi-square) lies above it: with two seeds that interval reaches
#: from 0.4 to 32 times what was seen.
SPREAD_CAP = 3.0


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One criterion on one setting: its outcome, and the numbers behind it as text."""

    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, kw_only=True)
class SettingVerdict:
    """All criteria on one setting of one knob.

    `quality_delta` is against the default; `p_holm` its p-value after Holm's correction over the knob's
    settings (None for the default); `modes` are the failure modes that its telemetry shows.
    """

    knob: str
    value: float | int | None
    is_default: bool
    point: PointSummary
    criteria: tuple[Criterion, ...]
    quality_delta: Estimate | None
    p_holm: float | None
    modes: tuple[Mode, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """`fail` if any criterion fails, `pass` if all pass, else `inconclusive`."""
        outcomes = {criterion.outcome for criterion in self.criteria}
        return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the criteria that failed."""
        return tuple(criterion.name for criterion in self.criteria if criterion.outcome == "fail")


@dataclass(frozen=True, kw_only=True)
class Band:
    """One knob in one regime: its settings in order, each with a verdict."""

    knob: str
    regime: str
    settings: tuple[SettingVerdict, ...]

    @property
    def safe(self) -> tuple[SettingVerdict, ...]:
        """Settings that pass every criterion."""
        return tuple(s for s in self.settings if s.outcome == "pass")

    @property
    def not_excluded(self) -> tuple[SettingVerdict, ...]:
        """Settings that no criterion fails."""
        return tuple(s for s in self.settings if s.outcome != "fail")

    @property
    def verdict(self) -> str:
        """`robust` (all pass), `tuning-sensitive` (fewer than half are not excluded).

        `undecided` (the data cannot tell), else `partly robust`.
        """
        if len(self.safe) == len(self.settings):
            return "robust"
        if 2 * len(self.not_excluded) < len(self.settings):
            return "tuning-sensitive"
        return "undecided" if not self.safe else "partly robust"


def knob_value(point: PointSummary, knob: str) -> float | int | None:
    """The point's value of a knob."""
    return {"tau": point.tau, "T": point.T, "lambda": point.lambda_}[knob]


def default_point(points: Sequence[PointSummary], regime: str) -> PointSummary | None:
    """The center of the one-at-a-time design: its first point, by the order of planning."""
    return next((p for p in points if p.regime == regime and "oat" in p.designs), None)


def sweep_of(points: Sequence[PointSummary], knob: str, regime: str) -> list[PointSummary]:
    """The one-at-a-time settings of a knob, the default among them, in ascending order (T none last)."""
    center = default_point(points, regime)
    if center is None:
        return []
    others = [k for k in KNOBS if k != knob]
    chosen = [
        p
        for p in points
        if p.regime == regime
        and "oat" in p.designs
        and all(knob_value(p, k) == knob_value(center, k) for k in others)
    ]
    return sorted(chosen, key=lambda p: (knob_value(p, knob) is None, knob_value(p, knob) or 0))


def band(data: StudyData, points: Sequence[PointSummary], knob: str, regime: str) -> Band | None:
    """The verdicts on a knob's settings; None when the study has no usable sweep of it."""
    sweep, center = sweep_of(points, knob, regime), default_point(points, regime)
    if center is None or not center.records or len(sweep) < 2:
        return None
    best = max((p for p in sweep if p.records), key=lambda p: p.mean("quality"))
    deltas = [paired_quality(data, p, center) if p.records else None for p in sweep]
    others = [i for i, p in enumerate(sweep) if p.point_id != center.point_id and deltas[i] is not None]
    adjusted = dict(
        zip(others, holm([delta.p_value for i in others if (delta := deltas[i]) is not None]), strict=True)
    )
    settings = tuple(
        SettingVerdict(
            knob=knob,
            value=knob_value(p, knob),
            is_default=p.point_id == center.point_id,
            point=p,
            criteria=_criteria(data, p, center, best),
            quality_delta=deltas[i],
            p_holm=adjusted.get(i),
            modes=failure_modes(data, p, center, knob),
        )
        for i, p in enumerate(sweep)
    )
    return Band(knob=knob, regime=regime, settings=settings)


def _criteria(
    data: StudyData, point: PointSummary, center: PointSummary, best: PointSummary
) -> tuple[Criterion, ...]:
    stability = Criterion(
        name="stability",
        outcome="fail" if point.lost else "inconclusive" if point.planned else "pass",
        detail=f"{point.lost} of {point.lost + len(point.records)} trials lost",
    )
    if not point.records:
        return (stability,)
    epsilon = EPSILON[point.quality_metric]
    found = [stability]
    near = paired_quality(data, point, best)
    if near is not None:
        against = (
            f"{near.mean:+.3f} [{near.low:+.3f}, {near.high:+.3f}] against this sweep's best, "
            f"{knob_texts(best)}; epsilon {epsilon:g}"
        )
        found.append(
            Criterion(
                name="near-best quality",
                outcome=_at_least(near, -epsilon),
                detail="it is this sweep's best" if point.point_id == best.point_id else against,
            )
        )
    worse = paired_forgetting(data, point, center)
    if worse is not None:
        flipped = Estimate(
            mean=-worse.mean, low=-worse.high, high=-worse.low, seeds=worse.seeds, items=worse.items
        )
        found.append(
            Criterion(
                name="retention",
                outcome=_at_least(flipped, -FORGETTING_TOLERANCE),
                detail="it is the default"
                if point.point_id == center.point_id
                else f"{worse.mean:+.3f} [{worse.low:+.3f}, {worse.high:+.3f}] nats/token against the "
                "default",
            )
        )
    share = point.mean("footprint") / center.mean("footprint")
    found.append(
        Criterion(
            name="footprint",
            outcome="pass" if share <= FOOTPRINT_CAP else "fail",
            detail=f"{share:.2f} x the default's",
        )
    )
    found.append(_spread(point, SPREAD_CAP * epsilon))
    return tuple(found)


def _spread(point: PointSummary, cap: float) -> Criterion:
    """Passes when the deviation over seeds is within the cap, fails when even its lower bound is above.

    Else says that seeds are too few.
    """
    freedom, deviation = len(point.seeds) - 1, point.spread("quality")
    if freedom == 0:
        return Criterion(name="seed spread", outcome="inconclusive", detail="one seed")
    lowest = deviation * math.sqrt(freedom / float(chi2.ppf(0.975, freedom)))
    outcome: Outcome = "pass" if deviation <= cap else "fail" if lowest > cap else "inconclusive"
    return Criterion(
        name="seed spread",
        outcome=outcome,
        detail=f"standard deviation {deviation:.3f} over {freedom + 1} seeds; cap {cap:g}",
    )


def knob_texts(point: PointSummary) -> str:
    """A setting as `(tau, T, lambda)`."""
    return f"({', '.join(point.knob_texts())})"


def _at_least(delta: Estimate, bound: float) -> Outcome:
    if delta.low >= bound:
        return "pass"
    return "fail" if delta.high < bound else "inconclusive"
