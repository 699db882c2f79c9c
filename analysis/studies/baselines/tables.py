"""What each method reaches, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.evidence.corrected import CorrectedContrast, contrast_of, shown_words, words_of
from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.columns import mean_column, seeds_column
from analysis.page.table import Column, Table, shown, shown_p
from analysis.stats.estimates import holm
from analysis.stats.frontier_gap import Gap
from analysis.studies.baselines.tuning import (
    TunedMethod,
    best_differences,
    gaps_to_frontier,
    held_out_quality,
    path_of,
)
from grit.config.registry import METHODS, Method

#: Whose frontier the others are laid beside.
REFERENCE: Method = "lora"


@dataclass(frozen=True, kw_only=True)
class ReachedRow:
    """One method at its best learning rate.

    Attributes:
        quality: mean on the odd examples.
        against: quality minus the reference's best, on the odd examples, of the noise of all methods
            together and corrected for their number; `forgetting` likewise.
        gap: against the reference's frontier; `p_holm` its p-value, corrected by Holm's method.
    """

    tuned: TunedMethod
    quality: float
    against: CorrectedContrast | None
    forgetting: CorrectedContrast | None
    gap: Gap | None
    p_holm: float | None

    @property
    def point(self) -> PointSummary:
        """The best setting."""
        return self.tuned.best

    @property
    def verdict(self) -> str | None:
        """Where it stands against the frontier."""
        return None if self.gap is None or self.p_holm is None else self.gap.verdict(self.p_holm)

    def words(self) -> tuple[str, str] | None:
        """Quality and forgetting against the reference's best; None for itself."""
        return words_of(self.against, self.forgetting)

    def shown_verdict(self) -> str | None:
        """The verdict as the table has it."""
        return "the reference" if self.tuned.method == REFERENCE else self.verdict


def reached_rows(data: StudyData, tuned: dict[Method, TunedMethod]) -> list[ReachedRow]:
    """Every tuned method."""
    reference = tuned.get(REFERENCE)
    gaps = {} if reference is None else gaps_to_frontier(data, tuned, reference)
    adjusted = dict(zip(gaps, holm([gap.chord.p_value for gap in gaps.values()]), strict=True))
    quality, forgetting = best_differences(data, tuned, REFERENCE)
    rows = []
    for method, tuning in tuned.items():
        rows.append(
            ReachedRow(
                tuned=tuning,
                quality=held_out_quality(data, tuning.best),
                against=quality.get(method),
                forgetting=forgetting.get(method),
                gap=gaps.get(method),
                p_holm=adjusted.get(method),
            )
        )
    return rows


def reached_table(rows: Sequence[ReachedRow], regime: str) -> Table[ReachedRow]:
    """One row per method."""
    columns: list[Column[ReachedRow]] = [
        Column(header="method", value=lambda row: row.tuned.title, terminal=True),
        seeds_column(),
        Column(header="learning rate", value=lambda row: row.tuned.shown_rate(), terminal=True),
        Column(header="quality (test half)", value=lambda row: row.quality, style=".3f", terminal=True),
        Column(header="quality vs LoRA [95%]", value=lambda row: contrast_of(row.against), terminal=True),
        mean_column("forgetting", terminal=True),
        Column(header="forgetting vs LoRA [95%]", value=lambda row: contrast_of(row.forgetting)),
        Column(header="vs LoRA's best", value=lambda row: shown_words(row.words()), terminal=True),
        Column(
            header="against LoRA's frontier [95%]",
            value=lambda row: None if row.gap is None else row.gap.chord,
            terminal=True,
        ),
        Column(header="p (Holm)", value=lambda row: row.p_holm, show=shown_p),
        Column(header="verdict", value=lambda row: row.shown_verdict(), terminal=True),
    ]
    return Table(name=f"tuned_{regime}", columns=columns, rows=rows)


def reached_answer(rows: Sequence[ReachedRow], regime: str, without_a_rate: Sequence[str]) -> str:
    """Where GRIT stands, in a sentence; then how many others stand above and below LoRA's frontier.

    `without_a_rate`: methods of which every learning rate lost a seed.
    """
    own = []
    for row in rows:
        if METHODS[row.tuned.method].geometry:
            frontier = "-" if row.gap is None else shown(row.gap.chord)
            against = shown(contrast_of(row.against))
            own.append(
                f"{row.tuned.title} at its best learning rate: quality {against} against LoRA's best; "
                f"against LoRA's frontier {frontier}: {row.verdict or '-'}"
            )
    words = [word for row in rows for word in row.words() or ()]
    decided = sum(word != "inconclusive" for word in words)
    above = [row.tuned.title for row in rows if row.verdict == "above LoRA's frontier"]
    below = [row.tuned.title for row in rows if row.verdict == "below LoRA's frontier"]
    gone = ""
    if without_a_rate:
        gone = f" Without a rate of which no seed was lost, and so not here: {', '.join(without_a_rate)}."
    return (
        f"{regime.capitalize()}-matched. {'; '.join(own) or 'GRIT was not measured'}. "
        f"{decided} of {len(words)} comparisons with LoRA's best (quality, and forgetting) are decided. "
        "Each at its best rate alone, after Holm's correction above LoRA's frontier, its gaps between two "
        f"points included: {', '.join(above) or 'none'}; below: {', '.join(below) or 'none'}.{gone}"
    )


@dataclass(frozen=True, kw_only=True)
class PathRow:
    """A method's best setting with its trained update multiplied by `factor`; 1 is the setting itself."""

    tuned: TunedMethod
    factor: float
    quality: float
    forgetting: float


def path_rows(data: StudyData, tuned: Mapping[Method, TunedMethod]) -> list[PathRow]:
    """Of every method that was scored on its path; quality on the odd examples."""
    rows = []
    for tuning in tuned.values():
        path = path_of(data, tuning.best)
        for scaled in path:
            values = scaled.values
            rows.append(
                PathRow(
                    tuned=tuning,
                    factor=scaled.factor,
                    quality=float(values.quality.mean()),
                    forgetting=float(values.by_seed.mean()),
                )
            )
        if path:
            whole, forgotten = held_out_quality(data, tuning.best), tuning.best.mean("forgetting")
            rows.append(PathRow(tuned=tuning, factor=1.0, quality=whole, forgetting=forgotten))
    return rows


def path_table(rows: Sequence[PathRow], regime: str) -> Table[PathRow]:
    """One row per method and factor."""
    columns: list[Column[PathRow]] = [
        Column(header="method", value=lambda row: row.tuned.title),
        Column(header="learning rate", value=lambda row: row.tuned.shown_rate()),
        Column(header="update scaled by", value=lambda row: row.factor, style="g"),
        Column(header="quality (test half)", value=lambda row: row.quality, style=".3f"),
        Column(header="forgetting (nats/token)", value=lambda row: row.forgetting, style=".3f"),
    ]
    return Table(name=f"paths_{regime}", columns=columns, rows=rows)


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """What one method costs; memory in bytes, times in milliseconds."""

    tuned: TunedMethod
    peak_memory: float | None
    step_mean: float | None
    step_p99: float | None

    @property
    def point(self) -> PointSummary:
        """The best setting."""
        return self.tuned.best


def cost_rows(tuned: dict[Method, TunedMethod], points: Sequence[PointSummary]) -> list[CostRow]:
    """Every tuned method."""
    return [_cost_row(tuning, points) for tuning in tuned.values()]


def _cost_row(tuned: TunedMethod, points: Sequence[PointSummary]) -> CostRow:
    probed = [p for p in points if p.method == tuned.method and "memory" in p.designs]
    memory = []
    for record in (record for p in probed for record in p.records):
        size = (record.measured.memory_bytes or {}).get(record.method)
        if size is not None:
            memory.append(float(size))
    return CostRow(
        tuned=tuned,
        peak_memory=fmean(memory) if memory else None,
        step_mean=_step_time(tuned.best, "mean"),
        step_p99=_step_time(tuned.best, "p99"),
    )


def _step_time(point: PointSummary, name: str) -> float | None:
    """Mean over seeds."""
    times = [(record.measured.step_time_ms or {}).get(name) for record in point.records]
    numbers = [time for time in times if time is not None]
    return fmean(numbers) if numbers else None


def cost_table(rows: Sequence[CostRow], regime: str) -> Table[CostRow]:
    """One row per method."""
    columns: list[Column[CostRow]] = [
        Column(header="method", value=lambda row: row.tuned.title),
        Column(header="source", value=lambda row: METHODS[row.tuned.method].source),
        mean_column("adapter_parameters"),
        mean_column("effective_parameters", header="effective"),
        Column(header="peak memory (MB)", value=lambda row: row.peak_memory, show=lambda v: f"{v / 1e6:.0f}"),
        Column(header="step (ms)", value=lambda row: row.step_mean, style=".1f"),
        Column(header="P99 (ms)", value=lambda row: row.step_p99, style=".1f"),
        mean_column("adapter_seconds"),
        Column(header="tuning: trials", value=lambda row: row.tuned.trials),
        Column(header="tuning: training s", value=lambda row: row.tuned.train_seconds, style=".0f"),
        Column(header="lost", value=lambda row: row.tuned.lost),
    ]
    return Table(name=f"counts_{regime}", columns=columns, rows=rows)
