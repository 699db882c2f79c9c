"""Everything that a sensitivity study says, as numbers: fronts, bands, comparisons and the recommendation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.evidence.collapses import without_collapses
from analysis.evidence.fronts import (
    Placing,
    costs,
    dominated_beyond_noise,
    front,
    placings,
    replicated_costs,
    study_hypervolume,
    two_stage,
    within_caps,
)
from analysis.evidence.load import StudyData
from analysis.evidence.noise import RegimeNoise, regime_noise
from analysis.evidence.point_summary import PointSummary, measured_regimes, summarize_points
from analysis.evidence.study_marks import marks_of
from analysis.stats.decisions import Looks, looks_of
from analysis.stats.pareto import knee
from analysis.studies.knob_axes.rungs import Ladder, ladder_of
from analysis.studies.sensitivity.bands import Band, SettingVerdict, bands_of
from analysis.studies.sensitivity.control import ControlComparison, compare_with_control
from analysis.studies.sensitivity.one_at_a_time import default_point
from analysis.studies.sensitivity.recommend import Recommendation, recommend
from grit.config.sections import Regime
from ray_jobs.records.study_file import Caps
from ray_jobs.tracking.marks import StudyMarks


@dataclass(frozen=True, kw_only=True)
class RegimeResult:
    """One regime.

    Attributes:
        points: all its settings; `front` those that no other dominates.
        placings: by point_id, of the settings with every seed.
        knee: the front's setting nearest to the ideal, under the caps; None where nothing keeps below them.
        cheapest: the settings that none beats in quality and retention beyond noise, cheapest first.
        noise: of all its settings together.
        comparison: the default against the control; None where either was not measured.
        ladder: thresholds read off one training; None where no trial has any.
    """

    regime: Regime
    points: tuple[PointSummary, ...]
    front: tuple[PointSummary, ...]
    placings: dict[str, Placing]
    knee: PointSummary | None
    cheapest: tuple[PointSummary, ...]
    hypervolume: float
    noise: RegimeNoise
    bands: tuple[Band, ...]
    comparison: ControlComparison | None
    ladder: Ladder | None

    @property
    def dominated(self) -> int:
        """Settings that one other dominates beyond noise."""
        return sum(placing.dominated_by is not None for placing in self.placings.values())


@dataclass(frozen=True, kw_only=True)
class SensitivityResult:
    """The whole study, regime by regime."""

    data: StudyData
    points: tuple[PointSummary, ...]
    regimes: tuple[RegimeResult, ...]
    caps: Caps
    recommendation: Recommendation

    @property
    def front(self) -> list[PointSummary]:
        """The fronts of all regimes."""
        return [point for result in self.regimes for point in result.front]

    @property
    def ladders(self) -> list[Ladder]:
        """Of the regimes that have one."""
        return [result.ladder for result in self.regimes if result.ladder is not None]

    @property
    def bands(self) -> list[Band]:
        """Of all regimes."""
        return [band for result in self.regimes for band in result.bands]

    def marks(self) -> StudyMarks:
        """What every setting is marked with: its front, its verdict, and whether it is recommended.

        A setting that stands in several sweeps has the worst of its verdicts.
        """
        worst: dict[tuple[str, str], SettingVerdict] = {}
        order = ("pass", "out of reach", "open", "fail")
        for band in self.bands:
            for setting in band.settings:
                key = (setting.point.point_id, band.regime)
                if key not in worst or order.index(setting.outcome) > order.index(worst[key].outcome):
                    worst[key] = setting
        placed = {result.regime: result.placings for result in self.regimes}
        marked = []
        for plain in marks_of(self.data.records).settings:
            judged = worst.get((plain.point_id, plain.regime))
            placing = placed[plain.regime].get(plain.point_id)
            setting_marks = replace(
                plain,
                verdict=None if judged is None else judged.word,
                recommended=self.recommendation.recommends(plain.point_id),
                front_probability=None if placing is None else placing.probability,
            )
            marked.append(setting_marks)
        counts = self.recommendation.verdicts.values()
        return StudyMarks(
            settings=tuple(marked),
            hypervolume={result.regime: result.hypervolume for result in self.regimes},
            decided=sum(count["decided"] for count in counts),
            undecided=sum(count["open"] + count["out_of_reach"] for count in counts),
            open=sum(_is_within_reach(setting) for band in self.bands for setting in band.settings),
        )

    @property
    def usable(self) -> list[PointSummary]:
        """Settings with a usable trial."""
        return [point for point in self.points if point.records]

    @property
    def metric(self) -> str:
        """The label of quality."""
        return self.usable[0].quality_label if self.usable else "quality"


def _is_within_reach(setting: SettingVerdict) -> bool:
    """Whether some seeds are predicted to decide a criterion of it."""
    return any(criterion.more_seeds is not None for criterion in setting.criteria)


def analyse(data: StudyData, caps: Caps | None = None) -> SensitivityResult:
    """All numbers of the report; a cap that is not given is that of the study's last call."""
    points = summarize_points(without_collapses(data).records)
    asked, before = caps or Caps(), data.study.last_call.caps
    caps = Caps(
        overhead=before.overhead if asked.overhead is None else asked.overhead,
        footprint=before.footprint if asked.footprint is None else asked.footprint,
    )
    looks = looks_of(sequential=data.study.sequential is not None, seeds=len(data.study.seeds))
    regimes = [_regime_result(data, points, regime, caps, looks) for regime in measured_regimes(points)]
    bands = [band for result in regimes for band in result.bands]
    comparisons = [result.comparison for result in regimes if result.comparison is not None]
    return SensitivityResult(
        data=data,
        points=tuple(points),
        regimes=tuple(regimes),
        caps=caps,
        recommendation=recommend(
            bands,
            comparisons,
            points,
            {result.regime: result.noise for result in regimes},
            designed_seeds=len(data.study.seeds),
        ),
    )


def _regime_result(
    data: StudyData, all_points: list[PointSummary], regime: Regime, caps: Caps, looks: Looks
) -> RegimeResult:
    points = [point for point in all_points if point.regime == regime]
    on_front = front(points)
    replicated = replicated_costs(data, points)
    allowed = [point for point in on_front if within_caps(point, caps)]
    bend = knee(costs(allowed))
    noise = regime_noise(data, points)
    assert noise is not None  # something was measured in this regime
    center = default_point(points, regime)
    return RegimeResult(
        regime=regime,
        points=tuple(points),
        front=tuple(on_front),
        placings=placings(replicated, dominated_beyond_noise(points, noise)),
        knee=None if bend is None else allowed[bend],
        cheapest=tuple(point for point in two_stage(points, noise) if within_caps(point, caps)),
        hypervolume=study_hypervolume(points),
        noise=noise,
        bands=bands_of(data, points, noise, regime, looks),
        comparison=None if center is None else compare_with_control(noise, points, center),
        ladder=ladder_of(data, points, regime),
    )
