"""Every setting's differences in units of its tolerances: one strip per knob, computed once.

Drawn as a figure (figures/strip_figure.py) and as text on the terminal. Zero is the setting that it is
compared with, and -1 is the tolerance: what lies to the right of it is good enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.page.table import Column, Table
from analysis.stats.decisions import Outcome
from analysis.stats.pooled_noise import Contrast
from analysis.studies.sensitivity.bands import Band, SettingVerdict
from analysis.studies.sensitivity.criteria import NEAR_BEST, RETENTION
from grit.config.sections import Regime

#: The criteria that strips show, by what they are called there.
SHOWN = {"quality": NEAR_BEST, "retention": RETENTION}
#: The terminal's strip: its ends in tolerances, and how many characters it has.
LOW, HIGH, WIDTH = -3.0, 2.0, 26
#: Where the tolerance is, on the strip.
TOLERANCE = "|"
#: The header of the strip of quality.
QUALITY_STRIP = "quality vs rival"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A difference and its 95% interval, in tolerances."""

    mean: float
    low: float
    high: float

    def text(self) -> str:
        """`..---|-o--...`: the bar `|` is the tolerance; `<` and `>` reach beyond the strip."""
        cells = ["."] * WIDTH
        for place in range(_cell(self.low), _cell(self.high) + 1):
            cells[place] = "-"
        cells[_cell(-1.0)] = TOLERANCE
        cells[_cell(self.mean)] = "o"
        if self.low < LOW:
            cells[0] = "<"
        if self.high > HIGH:
            cells[-1] = ">"
        return "".join(cells)


def _cell(value: float) -> int:
    share = (min(max(value, LOW), HIGH) - LOW) / (HIGH - LOW)
    return min(WIDTH - 1, int(share * WIDTH))


@dataclass(frozen=True, kw_only=True)
class StripRow:
    """One setting of one knob in one regime; no bar where it was not compared, as the default with itself."""

    knob: str
    value: str
    regime: Regime
    outcome: Outcome
    seeds: int
    quality: Bar | None
    retention: Bar | None
    word: str
    reason: str


def strip_rows(bands: Sequence[Band]) -> list[StripRow]:
    """Knob by knob, regime by regime."""
    ordered = sorted(bands, key=lambda band: [b.knob for b in bands].index(band.knob))
    return [_row(band, setting) for band in ordered for setting in band.settings]


def _row(band: Band, setting: SettingVerdict) -> StripRow:
    bars: dict[str, Bar | None] = dict.fromkeys(SHOWN)
    for name, criterion in SHOWN.items():
        judged = next((c for c in setting.criteria if c.name == criterion), None)
        if judged is not None and judged.contrast is not None and judged.bound:
            bars[name] = _bar(judged.contrast, abs(judged.bound))
    return StripRow(
        knob=band.knob,
        value=setting.shown_value(),
        regime=band.regime,
        outcome=setting.outcome,
        seeds=len(setting.point.seeds),
        word=setting.word,
        reason=_reason(setting),
        quality=bars["quality"],
        retention=bars["retention"],
    )


def _bar(contrast: Contrast, tolerance: float) -> Bar | None:
    scaled = [value / tolerance for value in (contrast.mean, contrast.low, contrast.high)]
    if not all(math.isfinite(value) for value in scaled):
        return None
    return Bar(mean=scaled[0], low=scaled[1], high=scaled[2])


def _reason(setting: SettingVerdict) -> str:
    """What it failed, or what is not decided; empty for a safe setting, or one that was not run."""
    if setting.is_owed:
        return ""
    return ", ".join(setting.failed) or ", ".join(criterion.name for criterion in setting.undecided)


def strip_table(rows: Sequence[StripRow]) -> Table[StripRow]:
    """The strips as text: `|` is the tolerance, `o` the difference, `-` its 95% interval."""
    columns: list[Column[StripRow]] = [
        Column(header="knob", value=lambda row: row.knob, terminal=True),
        Column(header="setting", value=lambda row: row.value, terminal=True),
        Column(header="regime", value=lambda row: row.regime, terminal=True),
        Column(header="n", value=lambda row: row.seeds, terminal=True, spare=True),
        Column(header="verdict", value=lambda row: row.word, terminal=True),
        Column(
            header=QUALITY_STRIP.ljust(WIDTH),
            value=lambda row: None if row.quality is None else row.quality.text(),
            terminal=True,
            spare=True,
        ),
        Column(
            header="retention vs default".ljust(WIDTH),
            value=lambda row: None if row.retention is None else row.retention.text(),
            terminal=True,
            spare=True,
        ),
        Column(header="why", value=lambda row: row.reason or None, terminal=True),
    ]
    return Table(name="strips", columns=columns, rows=rows)
