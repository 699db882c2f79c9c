"""The ways at equal k, and at the ranks that GRIT's rule finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from analysis.evidence.corrected import (
    CorrectedContrast,
    contrast_of,
    shown_words,
    unlike_score_differences,
    words_of,
)
from analysis.page.table import Column, Table
from analysis.stats.pooled_noise import SettingScores
from analysis.studies.compression.arms import ALL_DIRECTIONS, AT_K, BY_TAU, GRIT, Arm, BestArms, ScoredWay

Way = TypeVar("Way", bound=ScoredWay)


@dataclass(frozen=True, kw_only=True)
class ArmRow(Generic[Way]):
    """One arm against the reference of its k; the gaps are None for the reference itself.

    They are of the noise of all arms that are alike (analysis/stats/unlike.py), corrected for all that are
    compared.
    """

    arm: Way
    is_reference: bool
    quality: CorrectedContrast | None
    forgetting: CorrectedContrast | None

    def words(self) -> tuple[str, str] | None:
        """Of quality and of forgetting; None for the reference, or where there is none."""
        return words_of(self.quality, self.forgetting)

    def verdict(self) -> str | None:
        """Both differences in words."""
        return "the reference" if self.is_reference else shown_words(self.words())


def arm_rows(arms: Sequence[Way], reference_of: Mapping[str, Way | None]) -> list[ArmRow[Way]]:
    """Each against the reference of its k."""
    pairs = []
    for arm in arms:
        reference = reference_of.get(arm.k)
        if reference is not None and reference is not arm:
            pairs.append((arm.name, reference.name))
    quality, forgetting = _differences(arms, [*reference_of.values()], pairs)
    return [
        ArmRow(
            arm=arm,
            is_reference=arm is reference_of.get(arm.k),
            quality=quality.get(arm.name),
            forgetting=forgetting.get(arm.name),
        )
        for arm in arms
    ]


def _differences(
    arms: Sequence[Way], references: Sequence[Way | None], pairs: Sequence[tuple[str, str]]
) -> tuple[dict[str, CorrectedContrast], dict[str, CorrectedContrast]]:
    """Quality on the odd examples, and forgetting, of every pair, by the name of its first."""
    if not pairs:
        return {}, {}
    by_name = {arm.name: arm for arm in (*arms, *references) if arm is not None}
    return unlike_score_differences(
        pairs,
        {name: SettingScores(seeds=arm.seeds, values=arm.quality[:, 1::2]) for name, arm in by_name.items()},
        {name: SettingScores(seeds=arm.seeds, values=arm.forgetting) for name, arm in by_name.items()},
        metric=arms[0].metric,
        tokens=arms[0].weights,
    )


def compression_rows(best: BestArms) -> list[ArmRow[Arm]]:
    """At fixed k: against what was trained at k."""
    arms = [arm for k in best.sizes() for arm in best.at(k)]
    return arm_rows(arms, {k: best.get(k, AT_K) for k in best.sizes()})


def compression_table(best: BestArms) -> Table[ArmRow[Arm]]:
    """One row per way and k."""
    columns: list[Column[ArmRow[Arm]]] = [
        Column(header="k", value=lambda row: row.arm.k, terminal=True),
        Column(header="way", value=lambda row: row.arm.way, terminal=True),
        Column(header="n", value=lambda row: len(row.arm.quality)),
        Column(header="learning rate", value=lambda row: row.arm.shown_rate, terminal=True),
        Column(header="parameters", value=lambda row: row.arm.parameters, style=",.0f", terminal=True),
        Column(header="file (bytes)", value=lambda row: row.arm.size, style=",.0f"),
        Column(header="quality (test half)", value=lambda row: row.arm.test, style=".3f", terminal=True),
        Column(
            header="quality vs trained at k [95%]", value=lambda row: contrast_of(row.quality), terminal=True
        ),
        Column(header="answer loss", value=lambda row: row.arm.answer_loss, style=".3f"),
        Column(header="forgetting", value=lambda row: row.arm.mean_forgetting, style="+.3f", terminal=True),
        Column(
            header="forgetting vs trained at k [95%]",
            value=lambda row: contrast_of(row.forgetting),
            terminal=True,
        ),
        Column(header="verdict", value=lambda row: row.verdict()),
    ]
    return Table(name="compression", columns=columns, rows=compression_rows(best))


def rank_rows(best: BestArms) -> list[ArmRow[Arm]]:
    """GRIT as it is, and what is left of a trained LoRA at the ranks that GRIT's rule finds in it."""
    arms = [arm for arm in best.all() if arm.k in (BY_TAU, ALL_DIRECTIONS)]
    grit = best.get(BY_TAU, GRIT)
    return arm_rows(arms, {BY_TAU: grit, ALL_DIRECTIONS: grit})


def rank_table(best: BestArms) -> Table[ArmRow[Arm]]:
    """One row per adapter."""
    columns: list[Column[ArmRow[Arm]]] = [
        Column(header="adapter", value=lambda row: row.arm.way),
        Column(header="learning rate", value=lambda row: row.arm.shown_rate),
        Column(header="parameters", value=lambda row: row.arm.parameters, style=",.0f"),
        Column(header="file (bytes)", value=lambda row: row.arm.size, style=",.0f"),
        Column(header="quality (test half)", value=lambda row: row.arm.test, style=".3f"),
        Column(header="quality vs GRIT [95%]", value=lambda row: contrast_of(row.quality)),
        Column(header="forgetting", value=lambda row: row.arm.mean_forgetting, style="+.3f"),
        Column(header="forgetting vs GRIT [95%]", value=lambda row: contrast_of(row.forgetting)),
    ]
    return Table(name="ranks", columns=columns, rows=rank_rows(best))


def compression_answer(best: BestArms) -> list[str]:
    """How much is decided; per k which ways are better or worse than training at k, or equivalent."""
    rows = [row for row in compression_rows(best) if row.words() is not None]
    if not rows:
        return []
    words = [word for row in rows for word in row.words() or ()]
    decided = sum(word != "inconclusive" for word in words)
    sentences = [f"{decided} of {len(words)} comparisons (quality, and forgetting) are decided."]
    for k in best.sizes():
        of_k = [row for row in rows if row.arm.k == k]
        if not of_k:
            continue
        quality = _told_apart({row.arm.way: (row.words() or ("", ""))[0] for row in of_k})
        forgetting = _told_apart({row.arm.way: (row.words() or ("", ""))[1] for row in of_k})
        sentences.append(
            f"k = {k}: {len(of_k)} ways to have {k} directions of more, against LoRA trained at {k} with "
            f"a learning rate of its own: quality {quality}; forgetting {forgetting}."
        )
    return sentences


def _told_apart(words: Mapping[str, str]) -> str:
    phrases = []
    for word in ("better", "worse", "equivalent"):
        ways = [way for way, its_word in words.items() if its_word == word]
        if ways:
            phrases.append(f"{word}: {', '.join(ways)}")
    return "; ".join(phrases) or "told apart for none"
