"""The paper's sensitivity table (Table 13) filled in from records: Markdown, LaTeX and CSV."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from analysis.data.points import PointSummary
from analysis.page.tables import shown
from analysis.studies.sensitivity.bands import Band, SettingVerdict

HEADER = (
    "knob",
    "regime",
    "setting",
    "n",
    "quality",
    "median [range]",
    "vs default [95%]",
    "p (Holm)",
    "retention",
    "forgetting",
    "overhead",
    "score/h",
    "footprint",
    "mean rank",
    "rank changes",
    "verdict",
    "failure modes",
)


def sensitivity_rows(bands: Sequence[Band]) -> list[list[str]]:
    """One row per setting of every swept knob, in the order of `HEADER`."""
    return [_row(band, setting) for band in bands for setting in band.settings]


def _row(band: Band, setting: SettingVerdict) -> list[str]:
    p = setting.point
    value = "none" if setting.value is None else f"{setting.value:.4g}"
    head = [band.knob, band.regime, value + (" (default)" if setting.is_default else ""), str(len(p.seeds))]
    modes = "; ".join(f"{mode.name} ({mode.evidence})" for mode in setting.modes) or "none seen"
    if not p.records:
        return [*head, *["-"] * 11, setting.outcome, modes]
    quality = p.values("quality")
    delta = setting.quality_delta
    against = shown(None if setting.is_default else delta)
    rate = p.mean("quality") / (p.mean("train_seconds") / 3600)
    ranks = [statistics.fmean(r.measured.final_ranks) for r in p.records if r.measured.final_ranks]
    return [
        *head,
        _plus_minus(p, "quality", 3),
        f"{statistics.median(quality):.3f} [{min(quality):.3f}, {max(quality):.3f}]",
        against,
        "-" if setting.p_holm is None else f"{setting.p_holm:.3f}",
        _plus_minus(p, "retention", 3),
        _plus_minus(p, "forgetting", 3),
        f"{p.mean('overhead'):.1%}",
        "-" if p.quality_metric == "answer_logprob" else f"{rate:.0f}",
        f"{p.mean('footprint'):.0%}",
        f"{statistics.fmean(ranks):.1f}" if ranks else "-",
        f"{p.mean('rank_events'):.1f}",
        setting.outcome,
        modes,
    ]


def _plus_minus(point: PointSummary, name: str, digits: int) -> str:
    """Mean and, of several seeds, standard deviation."""
    text = f"{point.mean(name):.{digits}f}"
    return text if len(point.seeds) < 2 else f"{text} ± {point.spread(name):.{digits}f}"
