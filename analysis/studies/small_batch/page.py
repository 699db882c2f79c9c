"""The page of `sweeps/small_batch.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import of_one_regime, summarize_points
from analysis.page.document import Page, Section, WrittenPage, write_page
from analysis.page.figure_spec import FigureSpec
from analysis.studies.small_batch import figures
from analysis.studies.small_batch.regimes import (
    JITTER_LIMIT,
    SEVERE_DRIFT,
    SEVERE_VARIANCE,
    BatchRegimes,
    regimes_of,
)
from analysis.studies.small_batch.tables import (
    MitigationRow,
    boundary,
    findings,
    j1_table,
    matched_table,
    mitigation_rows,
    mitigation_table,
)

RULE = (
    "Unstable: a lost trial, or factors in use that vary by more than their own size (Var_F > "
    f"{SEVERE_VARIANCE:g}) and rotate by more than {SEVERE_DRIFT:g}. Degraded: GRIT loses against LoRA at "
    "the "
    "same batch, beyond noise, more than the tolerance more quality or forgetting than it does in the "
    f"reference regime; or preconditioned updates turn by {JITTER_LIMIT:g} degrees more than raw ones. "
    "Stable: the interval of that change in quality lies within the tolerance. Else not told."
)


def build(data: StudyData, folder: Path) -> WrittenPage:
    """Writes the page, its tables and figures in the study's folder."""
    points, left_out = of_one_regime(summarize_points(data.records))
    regimes = regimes_of(data, points)
    mitigations = mitigation_rows(
        data,
        regimes.planned_extreme(deepest=False),
        [p for p in points if "mitigation" in p.designs and p.records],
    )
    aware = mitigation_rows(
        data,
        regimes.planned_extreme(deepest=True),
        [p for p in points if "accumulation" in p.designs and p.records],
    )
    outcome = Section(
        name="j3",
        title="What comes of it",
        figure=FigureSpec(
            name="j3",
            caption="J3: quality and retention over the effective batch.",
            compute=partial(figures.outcome_curves, points, regimes.measured),
            draw=figures.draw_outcomes,
        ),
    )
    answer = ["No regime has been measured yet."]
    if regimes.measured:
        answer = [boundary(regimes), *findings(regimes)]
    page = Page(
        title="Small batches: is the curvature still worth its name?",
        answer=answer,
        sections=[*_regime_sections(data, regimes), outcome, *_mitigation_sections(mitigations, aware)],
        limits=[
            *left_out,
            "All regimes take the same number of optimizer steps at one learning rate: small batches "
            "see fewer examples.",
            "Jitter is measured on the gradients that reach the optimizer, before AdamW's own moments "
            "smooth them.",
        ],
    )
    return write_page(page, [data], folder)


def _regime_sections(data: StudyData, regimes: BatchRegimes) -> list[Section]:
    stability = Section(
        name="j1",
        title="Table J1: stability over batch regimes",
        sentences=[
            RULE,
            "Var_F: variance of a factor over the run after its first quarter, over its own size; of the "
            "factors that GRIT uses (means over all steps so far, A.7), and of single steps. Quality is "
            "compared with LoRA's at the same batch, since fewer sequences teach less.",
        ],
        table=j1_table(regimes),
        figure=FigureSpec(
            name="j1",
            caption="J1: each diagnostic over the effective batch. Lines of different b lie on one another "
            "where splitting a batch changes nothing.",
            compute=partial(figures.diagnostic_curves, regimes.measured),
            draw=figures.draw_diagnostics,
        ),
    )
    matched = Section(
        name="matched",
        title="Matched effective batches",
        sentences=[
            "Statistics are gathered over all micro-batches of a step, weighted by tokens (M4 is on by "
            "default), so pairs of one effective batch agree but for rounding."
        ],
        table=matched_table(regimes),
    )
    spectra = Section(
        name="j2_spectra",
        title="Spectra over time",
        figure=FigureSpec(
            name="j2_spectra",
            caption="J2: leading eigenvalues at the smallest and the largest batch; rotation of the leading "
            "eigenspaces over lags in every regime.",
            compute=partial(figures.rotation_of, data, regimes.measured),
            draw=figures.draw_rotation,
        ),
    )
    return [stability, matched, spectra]


def _mitigation_sections(mitigations: list[MitigationRow], aware: list[MitigationRow]) -> list[Section]:
    table = Section(
        name="j2",
        title="Table J2: mitigations in the smallest regime",
        table=mitigation_table("j2", mitigations),
        figure=FigureSpec(
            name="j2",
            caption="J4: mitigations alone and combined.",
            compute=partial(figures.mitigation_panels, mitigations),
            draw=figures.draw_mitigations,
        ),
    )
    accumulation = Section(
        name="m4",
        title="M4: accumulation-aware statistics",
        sentences=[
            "In the regime with the smallest micro-batch and the most accumulation: off, only the first "
            "micro-batch of a step is seen."
        ],
        table=mitigation_table("m4", aware),
    )
    return [table, accumulation]
