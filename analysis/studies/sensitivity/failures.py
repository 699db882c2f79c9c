"""Failure modes of a setting, named from its telemetry (paper H.1).

What goes wrong, not only that something does.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from analysis.evidence.corrected import CorrectedContrast
from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from grit.config.declared_knobs import KNOBS
from grit.geometry.events import RankChange
from ray_jobs.records.trial_record import TrialRecord

#: A step that spends more than this share on geometry is dominated by its overhead.
OVERHEAD_SHARE = 0.15
#: Deviation over seeds of the parameters that the same rank change keeps, relative to their mean, above which
#: noise decides and not the spectrum.
NOISY_SHARE = 0.1
#: Rank changes that all seeds had, below which nothing is said of noise.
MIN_LOOKS = 4
#: Effective parameters that another setting of tau must differ by to have triggered more or less.
FOOTPRINT_STEP = 0.05
#: A damping above this share of a factor's largest eigenvalue flattens even its leading directions.
WASHED_OUT = 0.1


@dataclass(frozen=True, kw_only=True)
class FailureMode:
    """One failure mode with the numbers it was read from."""

    name: str
    evidence: str


@dataclass(frozen=True, kw_only=True)
class AgainstDefault:
    """A measured setting and the default.

    Attributes:
        quality, forgetting: the setting's less the default's, of the noise of all settings and corrected for
            their number.
    """

    point: PointSummary
    center: PointSummary
    quality: CorrectedContrast
    forgetting: CorrectedContrast


def failure_modes(
    data: StudyData, point: PointSummary, knob: str, against: AgainstDefault | None
) -> tuple[FailureMode, ...]:
    """The modes that the trials of `point` show; `against` the default, None where that cannot be said.

    None is a good sign, not a proof.
    """
    candidates = [_lost_trials(point)]
    if point.records:
        candidates += [_skipped_steps(point), _overhead(point), _noisy_triggering(data, point)]
    if against is not None:
        candidates += [look(data, against) for look in _OF_KNOB.get(knob, ())]
    return tuple(mode for mode in candidates if mode is not None)


def _lost_trials(point: PointSummary) -> FailureMode | None:
    if not point.lost:
        return None
    tried = point.lost + len(point.records)
    return FailureMode(name="instability", evidence=f"{point.lost} of {tried} trials failed or diverged")


def _skipped_steps(point: PointSummary) -> FailureMode | None:
    skipped = sum(record.measured.skipped_steps or 0 for record in point.records)
    if not skipped:
        return None
    evidence = f"{skipped} steps skipped for gradients that were not finite"
    return FailureMode(name="instability", evidence=evidence)


def _overhead(point: PointSummary) -> FailureMode | None:
    share = point.mean("overhead")
    if share <= OVERHEAD_SHARE:
        return None
    return FailureMode(name="overhead domination", evidence=f"{share:.0%} of a step is spent on geometry")


def _noisy_triggering(data: StudyData, point: PointSummary) -> FailureMode | None:
    """Rank events that fluctuate across seeds (H.1): the same look keeps other numbers of parameters."""
    by_step: dict[int, list[int]] = {}
    for record in point.records:
        for event in later_rank_events(data, record):
            by_step.setdefault(event.step, []).append(event.effective_parameters)
    seeds = len(point.records)
    looks = [kept for kept in by_step.values() if len(kept) == seeds]
    if seeds < 2 or len(looks) < MIN_LOOKS:
        return None
    fluctuation = statistics.median(statistics.stdev(kept) / statistics.fmean(kept) for kept in looks)
    if fluctuation <= NOISY_SHARE:
        return None
    evidence = (
        f"over {seeds} seeds the parameters kept at the same rank change differ by {fluctuation:.0%} "
        f"(standard deviation over mean, median of {len(looks)} changes)"
    )
    return FailureMode(name="noisy triggering", evidence=evidence)


def later_rank_events(data: StudyData, record: TrialRecord) -> list[RankChange]:
    """Every rank change of a trial but the first, which starts from the full rank."""
    return [event for event in data.events(record) if isinstance(event, RankChange)][1:]


def _triggering(_data: StudyData, against: AgainstDefault) -> FailureMode | None:
    """More parameters without better quality, or fewer with worse."""
    change = against.point.mean("footprint") - against.center.mean("footprint")
    gain, word = against.quality.contrast.mean, against.quality.word()
    if change > FOOTPRINT_STEP and word != "better":
        evidence = f"{change:+.0%} footprint for {gain:+.3f} quality ({word})"
        return FailureMode(name="over-triggering", evidence=evidence)
    if change < -FOOTPRINT_STEP and word == "worse":
        evidence = f"{change:+.0%} footprint costs {gain:+.3f} quality"
        return FailureMode(name="under-triggering", evidence=evidence)
    return None


def _drift(_data: StudyData, against: AgainstDefault) -> FailureMode | None:
    """A larger cadence that forgets more."""
    point, center = against.point, against.center
    rarer = point.T is None or (center.T is not None and point.T > center.T)
    if not rarer or against.forgetting.word(higher_is_better=False) != "worse":
        return None
    cadence, more = KNOBS["T"].shown(center.T), against.forgetting.contrast.mean
    return FailureMode(name="drift", evidence=f"forgets {more:+.3f} nats/token more than at T = {cadence}")


def _washed_out(data: StudyData, against: AgainstDefault) -> FailureMode | None:
    """A larger damping that is no longer small against the spectrum: the factors hardly act any more."""
    point, center = against.point, against.center
    if point.lambda_ is None or center.lambda_ is None or point.lambda_ <= center.lambda_:
        return None
    rows = [row for record in point.records for row in data.geometry(record)]
    largest = [row["fisher_a"][0] for row in rows if row["fisher_a"]]
    ratios = [point.lambda_ / top for top in largest if top > 0]
    if not ratios or statistics.median(ratios) <= WASHED_OUT:
        return None
    evidence = (
        f"the damping is {statistics.median(ratios):.2g} times the activation factor's largest eigenvalue "
        "(median of modules)"
    )
    return FailureMode(name="washed-out geometry", evidence=evidence)


#: What can go wrong with each knob.
_OF_KNOB: dict[str, tuple[Callable[[StudyData, AgainstDefault], FailureMode | None], ...]] = {
    "tau": (_triggering,),
    "T": (_drift,),
    "lambda": (_washed_out,),
}
