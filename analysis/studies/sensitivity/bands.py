"""Which settings of a knob are safe: every setting of its sweep with a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.evidence.corrected import score_differences
from analysis.evidence.load import StudyData
from analysis.evidence.noise import RegimeNoise
from analysis.evidence.point_summary import PointSummary, paired_quality
from analysis.stats.decisions import Looks, Outcome
from analysis.stats.estimates import Estimate
from analysis.stats.pooled_noise import Contrast
from analysis.studies.sensitivity.criteria import Criterion, Judged, criteria_of
from analysis.studies.sensitivity.failures import AgainstDefault, FailureMode, failure_modes
from analysis.studies.sensitivity.one_at_a_time import knob_value
from grit.config.declared_knobs import KNOBS
from grit.config.sections import Regime

#: What a setting is called none of whose trials has run.
NOT_RUN = "not run"
#: What a setting's outcome is called in reports.
WORDS: dict[Outcome, str] = {"pass": "safe", "fail": "unsafe", "open": "open", "out of reach": "out of reach"}


@dataclass(frozen=True, kw_only=True)
class SettingVerdict:
    """All criteria on one setting of one knob.

    `quality_delta`, `answers_delta` and `forgetting_delta` are against the default, from the model of all
    settings' noise; `own_delta` is the quality's interval from this contrast's values alone. All are None for
    the default. `p_holm` is quality's p-value after Holm's correction over the regime's settings; `modes` are
    the failure modes that its telemetry shows.
    """

    knob: str
    value: float | int | None
    is_default: bool
    point: PointSummary
    criteria: tuple[Criterion, ...]
    quality_delta: Contrast | None = None
    answers_delta: Contrast | None = None
    forgetting_delta: Contrast | None = None
    own_delta: Estimate | None = None
    p_holm: float | None = None
    modes: tuple[FailureMode, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """`fail` if any criterion fails, `pass` if all pass, else `open` while one of them is open."""
        outcomes = {criterion.outcome for criterion in self.criteria}
        for outcome in ("fail", "open", "out of reach"):
            if outcome in outcomes:
                return outcome
        return "pass"

    @property
    def word(self) -> str:
        """The outcome as people say it."""
        return NOT_RUN if self.is_owed else WORDS[self.outcome]

    @property
    def is_owed(self) -> bool:
        """Whether none of its trials has run yet."""
        return not self.point.records and not self.point.lost

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the criteria that failed."""
        return tuple(criterion.name for criterion in self.criteria if criterion.outcome == "fail")

    @property
    def undecided(self) -> tuple[Criterion, ...]:
        """The criteria that are open or out of reach."""
        return tuple(c for c in self.criteria if c.outcome in ("open", "out of reach"))

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
    regime: Regime
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


@dataclass(frozen=True, kw_only=True)
class VerdictCounts:
    """How many (setting x criterion) verdicts of a regime there are, and how they stand."""

    total: int
    decided: int
    open: int
    out_of_reach: int


def count_verdicts(bands: Sequence[Band]) -> VerdictCounts:
    """Of every knob's settings: the default is judged beside each knob's other settings."""
    outcomes = Counter(c.outcome for band in bands for setting in band.settings for c in setting.criteria)
    return VerdictCounts(
        total=outcomes.total(),
        decided=outcomes["pass"] + outcomes["fail"],
        open=outcomes["open"],
        out_of_reach=outcomes["out of reach"],
    )


def bands_of(
    data: StudyData, points: Sequence[PointSummary], noise: RegimeNoise, regime: Regime, looks: Looks
) -> tuple[Band, ...]:
    """The verdicts on every knob's settings; none for a knob without a usable sweep."""
    judged = Judged.of_regime(points, noise, regime, looks)
    if judged is None:
        return ()
    criteria, against = criteria_of(judged), _against_default(judged)
    bands = []
    for knob, sweep in judged.sweeps.items():
        verdicts = []
        for point in sweep:
            of_point = criteria[knob, point.point_id]
            verdicts.append(_verdict(data, judged, knob, point, of_point, against.get(point.point_id)))
        bands.append(Band(knob=knob, regime=regime, settings=tuple(verdicts)))
    return tuple(bands)


def _against_default(judged: Judged) -> dict[str, AgainstDefault]:
    """Every other measured setting, by its name; corrected over all of the regime."""
    center = judged.center
    others = {p.point_id: p for p in judged.measured if p.point_id != center.point_id}
    if not others:
        return {}
    models = (judged.noise.quality, judged.noise.forgetting)
    references = [center.point_id] * len(others)
    quality, forgetting = score_differences(models, list(others), references, center.quality_metric)
    against = {}
    for name, point in others.items():
        against[name] = AgainstDefault(
            point=point, center=center, quality=quality[name], forgetting=forgetting[name]
        )
    return against


def _verdict(
    data: StudyData,
    judged: Judged,
    knob: str,
    point: PointSummary,
    criteria: tuple[Criterion, ...],
    against: AgainstDefault | None,
) -> SettingVerdict:
    value, center = knob_value(point, knob), judged.center
    verdict = SettingVerdict(
        knob=knob,
        value=value,
        is_default=point.point_id == center.point_id,
        point=point,
        criteria=criteria,
        modes=failure_modes(data, point, knob, against),
    )
    if against is None:
        return verdict
    return replace(
        verdict,
        quality_delta=against.quality.contrast,
        answers_delta=judged.noise.answers.difference(point.point_id, center.point_id),
        forgetting_delta=against.forgetting.contrast,
        own_delta=paired_quality(data, point, center),
        p_holm=against.quality.p_value,
    )
