"""What to use, in the paper's tuning order (H.8).

Every knob keeps its default, unless another setting is safe and better beyond noise in what the knob is tuned
for: lambda for steadiness, T for less overhead, tau for a smaller footprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from scipy.stats import f

from analysis.evidence.noise import RegimeNoise
from analysis.evidence.point_summary import PointSummary
from analysis.stats.decisions import ERROR_RATE, Outcome
from analysis.studies.sensitivity.bands import Band, SettingVerdict, count_verdicts
from analysis.studies.sensitivity.control import ControlComparison
from analysis.studies.sensitivity.criteria import CRITERIA, Criterion
from analysis.studies.sensitivity.one_at_a_time import default_point
from grit.config.declared_knobs import KNOBS
from grit.config.sections import Regime
from ray_jobs.records.describe import duration

#: The order in which the knobs are decided (paper H.8); one that the paper does not have comes last.
TUNING_ORDER = tuple(dict.fromkeys(("lambda", "T", "tau", *KNOBS)))
CONFIDENCE: dict[Outcome, str] = {
    "pass": "safe",
    "open": "not excluded, but not proven safe",
    "out of reach": "not excluded; closer to a tolerance than this design can tell",
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

    def headline(self) -> str:
        """The knob with its value; its name alone without one."""
        return self.knob if self.pick is None else f"{self.knob} = {self.shown()}"

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
            "evidence": [criterion.as_data() for criterion in self.evidence],
        }


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The recommended knobs with their evidence.

    Attributes:
        regime: whose trials decided.
        clock: why time-matched trials were not trusted; None where they were.
        tested: point_ids of the settings that have the recommended values together; none where they were
            not run together.
        verdicts: per regime, how many (setting x criterion) verdicts stand how.
        needs: what this design tells, and what more would decide what is open, in words.
        idle: settings that never acted, in words.
        silent: regimes of which nothing is judged, since their default has not been run.
        knobs: in the order in which they are decided.
    """

    regime: Regime
    clock: str | None
    tested: frozenset[str]
    knobs: tuple[KnobAdvice, ...]
    comparisons: tuple[ControlComparison, ...]
    verdicts: dict[str, dict[str, int]]
    needs: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    silent: tuple[Regime, ...] = ()

    @property
    def combination_tested(self) -> bool:
        """Whether the recommended values were run together."""
        return bool(self.tested)

    def recommends(self, point_id: str) -> bool:
        """Whether a setting, in whatever regime, has the recommended values and changes nothing else.

        None is recommended where some knob has no setting that passes.
        """
        failed = any(one.pick is not None and one.pick.outcome == "fail" for one in self.knobs)
        return point_id in self.tested and not failed

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

    def openings(self) -> list[str]:
        """What is to be known before the advice is followed: what is not decided, not run, not trusted."""
        sentences = []
        criteria = ", ".join(CRITERIA)
        for regime, count in self.verdicts.items():
            sentences.append(
                f"{regime.capitalize()}-matched, {count['decided']} of {count['total']} verdicts (settings x "
                f"{criteria}) are decided, {count['open']} open, {count['out_of_reach']} out of reach."
            )
            criteria = "criteria"
        for regime in self.silent:
            sentences.append(
                f"{regime.capitalize()}-matched, nothing is judged: no trial of the default has ended."
            )
        sentences += [*self.needs, *self.idle]
        if not self.combination_tested and any(one.pick is not None for one in self.knobs):
            sentences.append("This combination itself was not run: each knob was moved alone.")
        if self.clock is not None:
            sentences.append(f"Caution: {self.clock}.")
        return sentences

    def as_data(self) -> dict[str, Any]:
        """For `recommendation.json`."""
        data = {
            "regime": self.regime,
            "clock": self.clock,
            "combination_tested": self.combination_tested,
            "knobs": {advice.knob: advice.as_data() for advice in self.knobs},
            "verdicts": self.verdicts,
            "against_control": [comparison.as_data() for comparison in self.comparisons],
            "paragraph": f"On the {self.regime}-matched trials: {' '.join(self.sentences())}",
        }
        plain: dict[str, Any] = _rounded(data)
        return plain


#: What a study with one seed can say of what it needs.
ONE_SEED = (
    "One seed of every setting: how much seeds differ is not known, and nothing that depends on it is "
    "decided. More seeds would: the same command with --decide and another --output, which takes these "
    "trials over."
)
#: The same, where the trials that are planned will have another seed.
NOT_YET_TWO = "No setting has two seeds yet: how much seeds differ is not known before the study has gone on."


def _needs(bands: Sequence[Band], designed_seeds: int) -> list[str]:
    """What the design tells of each criterion, and what would decide what is open."""
    smallest: dict[str, list[float]] = {}
    more: dict[str, float] = {}
    settings = [setting for band in bands for setting in band.settings]
    if all(len(setting.point.seeds) < 2 for setting in settings):
        sentence = ONE_SEED if designed_seeds < 2 else NOT_YET_TWO
        return [sentence] if settings else []
    for setting in settings:
        point = setting.point
        for criterion in setting.criteria:
            decision = criterion.decision
            if decision is None:
                continue
            smallest.setdefault(criterion.name, []).append(decision.smallest)
            if criterion.more_seeds is not None:
                seconds = criterion.more_seeds * point.trial_seconds
                more[point.point_id] = max(more.get(point.point_id, 0.0), seconds)
    each = [f"{median(values):.2g} in {name}" for name, values in smallest.items()]
    sentences = [f"Differences from a tolerance that it tells: {', '.join(each)}."] if each else []
    if more:
        took = duration(sum(more.values()))
        sentences.append(f"About {took} of further trials would decide what is open here.")
    return sentences


def _idle(bands: Sequence[Band]) -> list[str]:
    """Cadences that no trial lived to see: what they are judged by is training without reprojection."""
    sentences = []
    for band in bands:
        idle = [s for s in band.settings if band.knob == "T" and s.point.never_reprojected]
        if not idle:
            continue
        values = ", ".join(KNOBS["T"].shown(setting.value) for setting in idle)
        steps = [count for setting in idle for count in setting.point.values("steps")]
        sentences.append(
            f"T = {values} never acted in the {band.regime}-matched trials, which had at most "
            f"{max(steps):.0f} steps: what is said of it there is said of no reprojection at all."
        )
    return sentences


def _rounded(value: Any) -> Any:
    """Numbers to ten significant digits: how many threads a library uses shows in those behind them."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def recommend(
    bands: Sequence[Band],
    comparisons: Sequence[ControlComparison],
    points: Sequence[PointSummary],
    noises: Mapping[Regime, RegimeNoise],
    designed_seeds: int,
) -> Recommendation:
    """Time-matched bands decide where the study has them and its clock was quiet (`clock_noise`).

    Else the step-matched ones do, and where these have a safe setting of every knob and the others have not;
    it is said which.
    """
    noise = clock_noise(points)
    regime = _deciding_regime(bands, noise)
    by_knob = {band.knob: band for band in bands if band.regime == regime}
    advice = tuple(_advice(knob, by_knob.get(knob), noises) for knob in TUNING_ORDER)
    values = {one.knob: one.value for one in advice}
    swept = {one.knob for one in advice if one.pick is not None}
    tested = [p for p in points if p.regime == regime and _runs(p, values, swept)]
    verdicts = {}
    for each in dict.fromkeys(band.regime for band in bands):
        verdicts[str(each)] = asdict(count_verdicts([band for band in bands if band.regime == each]))
    regimes = sorted({point.regime for point in points})
    silent = [regime for regime in regimes if _owes_default(points, regime)]
    return Recommendation(
        regime=regime,
        clock=noise,
        tested=frozenset(point.point_id for point in tested),
        knobs=advice,
        comparisons=tuple(comparisons),
        verdicts=verdicts,
        needs=tuple(_needs([band for band in bands if band.regime == regime], designed_seeds)),
        idle=tuple(_idle(bands)),
        silent=tuple(silent),
    )


def _owes_default(points: Sequence[PointSummary], regime: Regime) -> bool:
    center = default_point(points, regime)
    return center is not None and not center.records


def _runs(point: PointSummary, values: Mapping[str, float | int | None], swept: Set[str]) -> bool:
    """Whether a setting was measured with these values of the swept knobs, and changes nothing else."""
    if not (point.records and point.config.uses_grit and swept) or point.other_changes():
        return False
    return all(point.config.setting(knob) == values[knob] for knob in swept)


def _deciding_regime(bands: Sequence[Band], noise: str | None) -> Regime:
    measured = {band.regime for band in bands}
    trusted = "time" in measured and not (noise and "step" in measured)
    ordered: list[Regime] = ["time", "step"] if trusted else ["step"]
    for regime in ordered:
        its_bands = [band for band in bands if band.regime == regime]
        if its_bands and all(band.safe for band in its_bands):
            return regime
    return ordered[0]


def _advice(knob: str, band: Band | None, noises: Mapping[Regime, RegimeNoise]) -> KnobAdvice:
    pick = None if band is None else picked(band, noises[band.regime])
    return KnobAdvice(knob=knob, band=band, pick=pick)


def picked(band: Band, noise: RegimeNoise) -> SettingVerdict:
    """The default, unless a safe setting is better beyond noise, or the default is unsafe and another is not.

    The gains' p-values are corrected for the knob's settings and for the number of knobs. Of several better
    ones, the best.
    """
    gain = _GAINS.get(band.knob, _steadier)
    default = next(setting for setting in band.settings if setting.is_default)
    others = [setting for setting in band.safe if not setting.is_default]
    if default.outcome == "fail" and others:
        return max(others, key=lambda setting: gain(noise, setting.point, default.point)[0])
    level = ERROR_RATE / (max(1, len(others)) * len(KNOBS))
    better = []
    for setting in others:
        size, p_value = gain(noise, setting.point, default.point)
        if p_value <= level:
            better.append((size, setting))
    return max(better, key=lambda pair: pair[0])[1] if better else default


#: How much better one setting is than another in what a knob is tuned for, and the one-sided p-value of its
#: not being better.
Gain = Callable[[RegimeNoise, PointSummary, PointSummary], tuple[float, float]]


def _steadier(noise: RegimeNoise, point: PointSummary, reference: PointSummary) -> tuple[float, float]:
    """Less deviation over seeds, by the ratio of the two variances."""
    if noise.quality.variances.pooled:
        return 0.0, 1.0  # all settings are equally steady, as far as can be told
    own, freedom = noise.quality.deviation(point.point_id)
    other, its_freedom = noise.quality.deviation(reference.point_id)
    if min(own, freedom, its_freedom) <= 0:
        return 0.0, 1.0
    return other - own, float(f.sf((other / own) ** 2, its_freedom, freedom))


def _cheaper(noise: RegimeNoise, point: PointSummary, reference: PointSummary) -> tuple[float, float]:
    """Less of a step spent on geometry."""
    saved = noise.overhead.difference(reference.point_id, point.point_id)
    return saved.mean, saved.p_above(0.0)


def _smaller(noise: RegimeNoise, point: PointSummary, reference: PointSummary) -> tuple[float, float]:
    """Fewer parameters kept."""
    saved = noise.footprint.difference(reference.point_id, point.point_id)
    return saved.mean, saved.p_above(0.0)


#: What each knob is tuned for (H.8); any other knob for steadiness.
_GAINS: dict[str, Gain] = {"lambda": _steadier, "T": _cheaper, "tau": _smaller}


def clock_noise(points: Sequence[PointSummary]) -> str | None:
    """Says so when the same seconds bought numbers of steps that the method's own cost cannot explain.

    Processor time cannot show all of it (shared caches and hyper-threads slow a trial that never waits), so
    steps are compared: of trials whose steps hold equally much, the same batch at the same rank.
    """
    alike: dict[tuple[int, int, int], list[PointSummary]] = {}
    for point in points:
        if point.regime == "time" and point.records:
            optimization, rank = point.config.optimization, point.config.adapter.rank
            work = (optimization.micro_batch, optimization.accumulation, rank)
            alike.setdefault(work, []).append(point)
    return next(filter(None, map(_unexplained_steps, alike.values())), None)


def _unexplained_steps(timed: Sequence[PointSummary]) -> str | None:
    steps = [value for p in timed for value in p.values("steps")]
    explained = max(p.mean("overhead") for p in timed)
    if max(steps) / max(1.0, min(steps)) - 1 <= explained + CLOCK_TOLERANCE:
        return None
    return (
        f"the same seconds bought between {min(steps):.0f} and {max(steps):.0f} steps, while geometry costs "
        f"at most {explained:.1%} of one: time-matched results of this study carry the machine's noise"
    )
