"""Table J1, matched effective batches, and Table J2, with what they come to in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, paired_quality
from analysis.page.columns import mean_column, seeds_column, spread_column
from analysis.page.table import Column, Table
from analysis.stats.estimates import Estimate
from analysis.studies.small_batch.diagnostics import CurvatureDiagnostics, diagnostics_of, finite_mean
from analysis.studies.small_batch.published import TABLE_J1, TABLE_J2
from analysis.studies.small_batch.regimes import BatchRegime, BatchRegimes, LostRegime

#: Mitigations by the field that switches them on.
MITIGATIONS = {
    "ema_decay": "M1 exponential mean",
    "ng_warmup_steps": "M2 burn-in",
    "damping_reference_batch": "M3 batch-aware damping",
}
ALONE = "GRIT alone"
VERDICTS = ("stable", "degraded", "unstable", "not told")


@dataclass(frozen=True, kw_only=True)
class J1Row:
    """One regime, measured or lost."""

    regime: BatchRegime | LostRegime
    reference: BatchRegime | None

    @property
    def measured(self) -> BatchRegime | None:
        """None for a lost regime."""
        return self.regime if isinstance(self.regime, BatchRegime) else None

    @property
    def variance_ratio(self) -> float | None:
        """Var_F in use over the reference's."""
        if self.measured is None or self.reference is None:
            return None
        return self.measured.diagnostics.variance_used / self.reference.diagnostics.variance_used


def j1_table(regimes: BatchRegimes) -> Table[J1Row]:
    """One row per regime, the lost ones first."""
    rows = [J1Row(regime=one, reference=regimes.reference) for one in regimes.all]
    columns: list[Column[J1Row]] = [
        Column(header="b", value=lambda row: row.regime.micro, terminal=True),
        Column(header="a", value=lambda row: row.regime.passes, terminal=True),
        Column(header="B", value=lambda row: row.regime.batch, terminal=True),
        Column(header="n", value=_of_regime(lambda regime: len(regime.point.seeds))),
        _diagnostic("Var_F in use", "variance_used", ".3f", terminal=True),
        Column(header="of the reference", value=lambda row: row.variance_ratio, style=".2f"),
        _diagnostic("Var_F of a step", "variance_batch", ".3f", terminal=True),
        _diagnostic("eigenvalue CV", "eigenvalue_cv", ".3f"),
        _diagnostic("drift", "drift", ".3f", terminal=True),
        _diagnostic("jitter raw (deg)", "jitter_raw", ".1f", terminal=True),
        _diagnostic("preconditioned (deg)", "jitter_preconditioned", ".1f", terminal=True),
        _diagnostic("rank changes", "rank_changes", ".1f"),
        _diagnostic("their mean step, SD", "change_step_spread", ".1f"),
        _diagnostic("final rank, SD", "final_rank_spread", ".2f"),
        _measured(spread_column("quality")),
        Column(header="against LoRA, same B [95%]", value=_of_regime(lambda regime: regime.against)),
        Column(header="change from the reference [95%]", value=_of_regime(_quality_change), terminal=True),
        _measured(spread_column("retention")),
        Column(header="verdict", value=lambda row: row.regime.verdict, terminal=True),
        Column(
            header="paper: Var_F, CV, drift, jitter, quality, retention", value=_of_regime(_published_regime)
        ),
    ]
    return Table(name="j1", columns=columns, rows=rows)


def _of_regime(value: Callable[[BatchRegime], Any]) -> Callable[[J1Row], Any]:
    return lambda row: None if row.measured is None else value(row.measured)


def _diagnostic(header: str, name: str, style: str, *, terminal: bool = False) -> Column[J1Row]:
    value = _of_regime(lambda regime: getattr(regime.diagnostics, name))
    return Column(header=header, value=value, style=style, terminal=terminal)


def _measured(column: Column[Any]) -> Column[J1Row]:
    return Column(header=column.header, value=_of_regime(column.value), style=column.style)


def _quality_change(regime: BatchRegime) -> Estimate | None:
    return None if regime.change is None else regime.change.quality


def _published_regime(regime: BatchRegime) -> str | None:
    printed = TABLE_J1.get((regime.micro, regime.passes))
    return None if printed is None else printed.shown()


def matched_pairs(regimes: Sequence[BatchRegime]) -> list[BatchRegime]:
    """Of every effective batch that was split in several ways, the most and the least accumulated.

    Does accumulation recover what the micro-batch lost?
    """
    pairs = []
    for batch in sorted({regime.batch for regime in regimes}):
        members = sorted((r for r in regimes if r.batch == batch), key=lambda r: r.micro)
        if len(members) > 1:
            pairs += [members[0], members[-1]]
    return pairs


def matched_table(regimes: BatchRegimes) -> Table[BatchRegime]:
    """Two rows per effective batch."""
    columns: list[Column[BatchRegime]] = [
        Column(header="B", value=lambda row: row.batch),
        Column(header="b x a", value=lambda row: f"{row.micro} x {row.passes}"),
        Column(header="Var_F in use", value=lambda row: row.diagnostics.variance_used, style=".4f"),
        Column(header="drift", value=lambda row: row.diagnostics.drift, style=".4f"),
        Column(
            header="jitter preconditioned (deg)",
            value=lambda row: row.diagnostics.jitter_preconditioned,
            style=".2f",
        ),
        mean_column("quality", style=".4f"),
    ]
    return Table(name="matched", columns=columns, rows=matched_pairs(regimes.measured))


@dataclass(frozen=True, kw_only=True)
class MitigationRow:
    """One mitigation, or several; `against` is quality minus that of GRIT alone."""

    name: str
    diagnostics: CurvatureDiagnostics
    is_base: bool
    against: Estimate | None

    @property
    def point(self) -> PointSummary:
        """Its trials."""
        return self.diagnostics.point

    def shown_against(self) -> Estimate | str | None:
        """The difference, or that there is none."""
        return "the reference" if self.is_base else self.against


def mitigation_rows(
    data: StudyData, base: PointSummary | None, others: Sequence[PointSummary]
) -> list[MitigationRow]:
    """The base first, where it was measured."""
    rows = []
    for point in (*([] if base is None else [base]), *others):
        diagnostics = diagnostics_of(data, point) if point.records else None
        if diagnostics is not None:
            alone = point is base
            against = None if base is None or alone else paired_quality(data, point, base)
            row = MitigationRow(
                name=mitigation_name(point), diagnostics=diagnostics, is_base=alone, against=against
            )
            rows.append(row)
    return rows


def mitigation_name(point: PointSummary) -> str:
    """The mitigations of a setting in words."""
    overrides = point.planned_trials[0].plan.overrides
    names = [name for field, name in MITIGATIONS.items() if field in overrides]
    if overrides.get("accumulated_statistics") is False:
        names.append("first micro-batch only (M4 off)")
    elif "accumulation" in point.designs:
        names.append("M4 accumulation-aware")
    return " + ".join(names) or ALONE


def mitigation_table(name: str, rows: Sequence[MitigationRow]) -> Table[MitigationRow]:
    """Table J2."""
    columns: list[Column[MitigationRow]] = [
        Column(header="setting", value=lambda row: row.name, terminal=True),
        seeds_column(),
        Column(header="lost", value=lambda row: row.point.lost),
        Column(
            header="Var_F in use", value=lambda row: row.diagnostics.variance_used, style=".3f", terminal=True
        ),
        Column(header="Var_F of a step", value=lambda row: row.diagnostics.variance_batch, style=".3f"),
        Column(
            header="eigenvalue CV",
            value=lambda row: row.diagnostics.eigenvalue_cv,
            style=".3f",
            terminal=True,
        ),
        Column(header="drift", value=lambda row: row.diagnostics.drift, style=".3f", terminal=True),
        Column(
            header="jitter preconditioned (deg)",
            value=lambda row: row.diagnostics.jitter_preconditioned,
            style=".1f",
            terminal=True,
        ),
        spread_column("quality", terminal=True),
        mean_column("retention", terminal=True),
        mean_column("overhead"),
        Column(header="against GRIT alone [95%]", value=lambda row: row.shown_against(), terminal=True),
        Column(
            header="paper (b = a = 1): Var_F, CV, drift, jitter, diverged %, quality, retention, runtime",
            value=lambda row: TABLE_J2.get(row.name),
        ),
    ]
    return Table(name=name, columns=columns, rows=rows)


def boundary(regimes: BatchRegimes) -> str:
    """Where stability begins, in words."""
    verdicts = [(regime.batch, regime.verdict) for regime in regimes.all]
    by_verdict: dict[str, list[int]] = {}
    for word in VERDICTS:
        by_verdict[word] = sorted({batch for batch, verdict in verdicts if verdict == word})
    counts: Counter[str] = Counter(verdict for _, verdict in verdicts)
    listed = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])
    sentences = [f"Of {len(verdicts)} regimes: {listed}."]
    bad = sorted({*by_verdict["degraded"], *by_verdict["unstable"]})
    if bad:
        safe = sorted({batch for batch, _ in verdicts if batch > max(bad)})
        rule = "no effective batch is found from which on none is"
        if safe:
            rule = f"use an effective batch of at least {safe[0]}"
        batches = ", ".join(map(str, bad))
        sentences.append(f"Degraded or unstable at effective batches {batches}: {rule}.")
    else:
        sentences.append("No boundary was found: no regime is degraded or unstable by the stated rule.")
    if by_verdict["not told"]:
        batches = ", ".join(map(str, by_verdict["not told"]))
        sentences.append(
            f"At effective batches {batches} the interval of the change in quality reaches beyond the "
            "tolerance: more seeds would tell."
        )
    return " ".join(sentences)


def findings(regimes: BatchRegimes) -> list[str]:
    """What was measured, against what the paper's tables say."""
    by_size = sorted(regimes.measured, key=lambda regime: regime.batch)
    low, high = by_size[0], by_size[-1]
    batches = sorted({regime.batch for regime in by_size})
    variances = []
    for batch in batches:
        variances.append(finite_mean([r.diagnostics.variance_used for r in by_size if r.batch == batch]))
    falls = sum(after <= before for before, after in zip(variances, variances[1:], strict=False))
    sentences = [
        "Var_F of the factors in use, a mean over steps that must shrink, is "
        f"{low.diagnostics.variance_used:.3g} at B = {low.batch} and "
        f"{high.diagnostics.variance_used:.3g} at B = {high.batch}; it falls in {falls} of "
        f"{len(variances) - 1} steps of B. Of one step's factors it is {low.diagnostics.variance_batch:.3g} "
        f"and {high.diagnostics.variance_batch:.3g}."
    ]
    if regimes.reference is not None and low.batch == 1:
        reference = regimes.reference.diagnostics
        used = low.diagnostics.variance_used / reference.variance_used
        single = low.diagnostics.variance_batch / reference.variance_batch
        sentences.append(
            f"Against the paper's main setting (8 x 4) B = 1 has {used:.1f} times its Var_F in use and "
            f"{single:.1f} times that of a step; the paper's Table J1 (appendix H) prints "
            f"{TABLE_J1[1, 1].variance:g}, and there exactly half of that at twice the batch."
        )
    return sentences
