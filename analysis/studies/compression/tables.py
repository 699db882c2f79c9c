"""The ways at equal k, and at the ranks that GRIT's rule finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.page.table import Column, Table
from analysis.stats.estimates import Estimate
from analysis.studies.compression.arms import ALL_DIRECTIONS, AT_K, BY_TAU, GRIT, Arm, BestArms


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm against the reference of its table; the gaps are None for the reference itself."""

    arm: Arm
    is_reference: bool
    quality: Estimate | None
    forgetting: Estimate | None

    def verdict(self) -> str | None:
        """Both differences in words."""
        if self.is_reference:
            return "the reference"
        if self.quality is None or self.forgetting is None:
            return None
        quality, forgetting = self.quality.verdict(), self.forgetting.verdict(higher_is_better=False)
        if {quality, forgetting} == {"inconclusive"}:
            return "inconclusive"
        return f"quality {quality}, forgetting {forgetting}"


def arm_rows(arms: Sequence[Arm], reference: Arm | None) -> list[ArmRow]:
    """Each against the reference."""
    rows = []
    for arm in arms:
        other = None if arm is reference else reference
        rows.append(
            ArmRow(
                arm=arm,
                is_reference=arm is reference,
                quality=None if other is None else arm.quality_gap(other),
                forgetting=None if other is None else arm.forgetting_gap(other),
            )
        )
    return rows


def compression_rows(best: BestArms) -> list[ArmRow]:
    """At fixed k: against what was trained at k."""
    return [row for k in best.sizes() for row in arm_rows(best.at(k), best.get(k, AT_K))]


def compression_table(best: BestArms) -> Table[ArmRow]:
    """One row per way and k."""
    columns: list[Column[ArmRow]] = [
        Column(header="k", value=lambda row: row.arm.k, terminal=True),
        Column(header="way", value=lambda row: row.arm.way, terminal=True),
        Column(header="n", value=lambda row: len(row.arm.quality)),
        Column(header="learning rate", value=lambda row: row.arm.shown_rate, terminal=True),
        Column(header="parameters", value=lambda row: row.arm.parameters, style=",.0f", terminal=True),
        Column(header="file (bytes)", value=lambda row: row.arm.size, style=",.0f"),
        Column(header="quality (test half)", value=lambda row: row.arm.test, style=".3f", terminal=True),
        Column(header="quality vs trained at k [95%]", value=lambda row: row.quality, terminal=True),
        Column(header="answer loss", value=lambda row: row.arm.answer_loss, style=".3f"),
        Column(header="forgetting", value=lambda row: row.arm.mean_forgetting, style="+.3f", terminal=True),
        Column(header="forgetting vs trained at k [95%]", value=lambda row: row.forgetting, terminal=True),
        Column(header="verdict", value=lambda row: row.verdict()),
    ]
    return Table(name="compression", columns=columns, rows=compression_rows(best))


def rank_rows(best: BestArms) -> list[ArmRow]:
    """GRIT as it is, and what is left of a trained LoRA at the ranks that GRIT's rule finds in it."""
    arms = [arm for arm in best.all() if arm.k in (BY_TAU, ALL_DIRECTIONS)]
    return arm_rows(arms, best.get(BY_TAU, GRIT))


def rank_table(best: BestArms) -> Table[ArmRow]:
    """One row per adapter."""
    columns: list[Column[ArmRow]] = [
        Column(header="adapter", value=lambda row: row.arm.way),
        Column(header="learning rate", value=lambda row: row.arm.shown_rate),
        Column(header="parameters", value=lambda row: row.arm.parameters, style=",.0f"),
        Column(header="file (bytes)", value=lambda row: row.arm.size, style=",.0f"),
        Column(header="quality (test half)", value=lambda row: row.arm.test, style=".3f"),
        Column(header="quality vs GRIT [95%]", value=lambda row: row.quality),
        Column(header="forgetting", value=lambda row: row.arm.mean_forgetting, style="+.3f"),
        Column(header="forgetting vs GRIT [95%]", value=lambda row: row.forgetting),
    ]
    return Table(name="ranks", columns=columns, rows=rank_rows(best))


def compression_answer(best: BestArms) -> list[str]:
    """Per k: which ways are better or worse than training at k beyond noise, in quality and in forgetting."""
    sentences = []
    for k in best.sizes():
        reference = best.get(k, AT_K)
        if reference is None:
            continue
        rows = [row for row in arm_rows(best.at(k), reference) if not row.is_reference]
        quality = _told_apart({row.arm.way: row.quality for row in rows}, higher_is_better=True)
        forgetting = _told_apart({row.arm.way: row.forgetting for row in rows}, higher_is_better=False)
        sentences.append(
            f"k = {k}: {len(rows)} ways to have {k} directions of more, against LoRA trained at {k} with "
            f"a learning rate of its own: quality {quality}; forgetting {forgetting}."
        )
    return sentences


def _told_apart(gaps: dict[str, Estimate | None], *, higher_is_better: bool) -> str:
    verdicts = {
        way: gap.verdict(higher_is_better=higher_is_better) for way, gap in gaps.items() if gap is not None
    }
    phrases = []
    for word in ("better", "worse"):
        ways = [way for way, verdict in verdicts.items() if verdict == word]
        if ways:
            phrases.append(f"{word}: {', '.join(ways)}")
    return "; ".join(phrases) or "told apart for none"
