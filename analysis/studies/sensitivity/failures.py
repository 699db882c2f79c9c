"""Failure modes of a setting, named from its telemetry (paper H.1).

What goes wrong, not only that something does.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.data.load import StudyData
from analysis.data.points import PointSummary, paired_forgetting, paired_quality

#: A step that spends more than this share on geometry is dominated by its overhead.
OVERHEAD_SHARE = 0.15
#: Rank changes in both directions in more than this share of the looks: noise decides, not the spectrum.
NOISY_SHARE = 0.5
#: Effective parameters that another setting of tau must differ by to have triggered more or less.
FOOTPRINT_STEP = 0.05
#: A damping above this share of a factor's largest eigenvalue flattens even its leading directions.
WASHED_OUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One failure mode with the numbers it was read from."""

    name: str
    evidence: str


def failure_modes(data: StudyData, point: PointSummary, center: PointSummary, knob: str) -> tuple[Mode, ...]:
    """The modes that the trials of `point` show; `center` is the default.

    None is a good sign, not a proof.
    """
    found: list[Mode] = []
    if point.lost:
        found.append(
            Mode(
                name="instability",
                evidence=f"{point.lost} of {point.lost + len(point.records)} trials failed or diverged",
            )
        )
    if not point.records:
        return tuple(found)
    skipped = sum(r.measured.skipped_steps or 0 for r in point.records)
    if skipped:
        found.append(
            Mode(name="instability", evidence=f"{skipped} steps skipped for gradients that were not finite")
        )
    if point.mean("overhead") > OVERHEAD_SHARE:
        found.append(
            Mode(
                name="overhead domination",
                evidence=f"{point.mean('overhead'):.0%} of a step is spent on geometry",
            )
        )
    looks = [look for record in point.records for look in rank_looks(data.telemetry(record)["events"])]
    both = sum(up > 0 and down > 0 for up, down in looks)
    if len(looks) >= 4 and both / len(looks) > NOISY_SHARE:
        found.append(
            Mode(
                name="noisy triggering",
                evidence=f"{both} of {len(looks)} rank changes went up and down at once",
            )
        )
    if point.point_id != center.point_id and center.records:
        found += {"tau": _triggering, "T": _drift, "lambda": _washed_out}[knob](data, point, center)
    return tuple(found)


def rank_looks(events: Sequence[str | None]) -> list[tuple[int, int]]:
    """(modules whose rank grew, modules whose rank shrank) at every rank change but the first.

    Which starts from the full rank.
    """
    parsed: list[dict[str, Any]] = [event for text in events if text for event in json.loads(text)]
    return [(event["up"], event["down"]) for event in parsed if event["kind"] == "rank"][1:]


def _triggering(data: StudyData, point: PointSummary, center: PointSummary) -> list[Mode]:
    """More parameters without better quality, or fewer with worse."""
    quality = paired_quality(data, point, center)
    change = point.mean("footprint") - center.mean("footprint")
    if quality is None:
        return []
    if change > FOOTPRINT_STEP and quality.verdict() != "better":
        return [
            Mode(
                name="over-triggering",
                evidence=f"{change:+.0%} footprint for {quality.mean:+.3f} quality ({quality.verdict()})",
            )
        ]
    if change < -FOOTPRINT_STEP and quality.verdict() == "worse":
        return [
            Mode(
                name="under-triggering", evidence=f"{change:+.0%} footprint costs {quality.mean:+.3f} quality"
            )
        ]
    return []


def _drift(data: StudyData, point: PointSummary, center: PointSummary) -> list[Mode]:
    """A larger cadence that forgets more."""
    rarer = point.T is None or (center.T is not None and point.T > center.T)
    worse = paired_forgetting(data, point, center)
    if rarer and worse is not None and worse.verdict(higher_is_better=False) == "worse":
        return [
            Mode(
                name="drift",
                evidence=f"forgets {worse.mean:+.3f} nats/token more than at T = {center.knob_texts()[1]}",
            )
        ]
    return []


def _washed_out(data: StudyData, point: PointSummary, center: PointSummary) -> list[Mode]:
    """A larger damping that is no longer small against the spectrum: the factors hardly act any more."""
    if point.lambda_ is None or center.lambda_ is None or point.lambda_ <= center.lambda_:
        return []
    ratios = []
    for record in point.records:
        tops = [row["fisher_a"][0] for row in data.geometry(record) if row["fisher_a"]]
        ratios += [point.lambda_ / top for top in tops if top > 0]
    if ratios and statistics.median(ratios) > WASHED_OUT:
        return [
            Mode(
                name="washed-out geometry",
                evidence=f"the damping is {statistics.median(ratios):.2g} times the activation factor's "
                "largest eigenvalue (median of modules)",
            )
        ]
    return []
