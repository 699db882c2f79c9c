"""Which settings of a knob are safe: every setting of its sweep with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, paired_quality
from analysis.stats.estimates import Estimate, holm
from analysis.studies.sensitivity.criteria import Criterion, CriterionOutcome, Judged, criteria_of
from analysis.studies.sensitivity.failures import FailureMode, failure_modes
from analysis.studies.sensitivity.one_at_a_time import default_point, knob_value, sweep_of
from grit.config.method import KNOBS


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
    modes: tuple[FailureMode, ...] = ()

    @property
    def outcome(self) -> CriterionOutcome:
        """`fail` if any criterion fails, `pass` if all pass, else `inconclusive`."""
        outcomes = {criterion.outcome for criterion in self.criteria}
        if "fail" in outcomes:
            return "fail"
        return "inconclusive" if "inconclusive" in outcomes else "pass"

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the criteria that failed."""
        return tuple(criterion.name for criterion in self.criteria if criterion.outcome == "fail")

    def shown_value(self) -> str:
        """The knob's value, marked where it is the default."""
        text = KNOBS[self.knob].shown(self.value)
        return f"{text} (default)" if self.is_default else text

    def shown_modes(self) -> str:
        """The failure modes with their evidence."""
        modes = [f"{mode.name} ({mode.evidence})" for mode in self.modes]
        return "; ".join(modes) or "none seen"


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
        return "partly robust" if self.safe else "undecided"


def band_of(data: StudyData, points: Sequence[PointSummary], knob: str, regime: str) -> Band | None:
    """The verdicts on a knob's settings; None when the study has no usable sweep of it."""
    sweep, center = sweep_of(points, knob, regime), default_point(points, regime)
    if center is None or not center.records or len(sweep) < 2:
        return None
    best = max((p for p in sweep if p.records), key=lambda p: p.mean("quality"))
    deltas = {p.point_id: paired_quality(data, p, center) for p in sweep if p.records}
    others = {name: d for name, d in deltas.items() if name != center.point_id and d is not None}
    adjusted = dict(zip(others, holm([delta.p_value for delta in others.values()]), strict=True))
    settings = []
    for point in sweep:
        judged = Judged(data=data, point=point, center=center, best=best)
        settings.append(
            SettingVerdict(
                knob=knob,
                value=knob_value(point, knob),
                is_default=point.point_id == center.point_id,
                point=point,
                criteria=criteria_of(judged),
                quality_delta=deltas.get(point.point_id),
                p_holm=adjusted.get(point.point_id),
                modes=failure_modes(data, point, center, knob),
            )
        )
    return Band(knob=knob, regime=regime, settings=tuple(settings))
