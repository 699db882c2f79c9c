"""The page of `sweeps/forgetting_law.py`: of one study, or of one per backbone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.evidence.load import StudyData, load_study
from analysis.page.document import Page, Section, WrittenPage, write_page
from analysis.page.figure_spec import FigureSpec
from analysis.studies.forgetting_law.figures import draw_law, draw_profiles, law_picture, profile_curves
from analysis.studies.forgetting_law.fitted import fit_law, held_out_table, law_answer, law_table
from analysis.studies.forgetting_law.runs import read_runs, run_table
from grit.errors import ConfigError
from ray_jobs.records.study_file import STUDY_FILE

STUDY_NAME = "forgetting_law"
NOTHING_FITTED = "There are too few runs of LoRA and GRIT, or only one budget: nothing was fitted."


def law_page(studies: Sequence[StudyData]) -> Page:
    """The whole page."""
    usable = read_runs(studies)
    fit = fit_law(usable.runs)
    missing = [NOTHING_FITTED] if fit is None else []
    law = Section(
        name="law",
        title="The law and its coefficients",
        sentences=[
            "forgetting = c D^beta / (N Xi)^alpha; Xi = (1 + g_r r_eff)(1 + g_a rho)(1 + g_p pi), relative "
            "to LoRA's at the same rank and budget.",
            *usable.remarks,
            *missing,
        ],
        table=law_table(fit),
        figure=FigureSpec(
            name="law",
            caption="Left: every run. Right: what each law predicts of the largest budget, not seen in "
            "fitting.",
            compute=partial(law_picture, usable.runs, fit),
            draw=draw_law,
        ),
    )
    held_out = Section(
        name="held_out",
        title="Prediction of runs that were not seen",
        sentences=["The largest budget is held out of both stages: it asks for extrapolation in D."],
        table=held_out_table(fit),
    )
    profiles = Section(
        name="profiles",
        title="What the data can tell: profile likelihood",
        figure=FigureSpec(
            name="profiles",
            caption="The likelihood lost when one coefficient is held and the others are fitted anew. "
            "Where the curve stays below the dashed line, the value cannot be excluded.",
            compute=partial(profile_curves, fit),
            draw=draw_profiles,
        ),
    )
    runs = Section(name="runs", title="The runs", table=run_table(usable.runs))
    answer = [NOTHING_FITTED]
    if fit is not None and len(fit.held):
        answer = law_answer(fit)
    return Page(
        title="The law of forgetting",
        answer=answer,
        sections=[law, held_out, profiles, runs],
        limits=[
            "Unique tokens and optimizer steps grow together here (one pass over the data): what either "
            "does alone is not told.",
            "rho takes GRIT's own activation factor, that of the task, for the curvature of pretraining, as "
            "the paper does; exposure is measured on general text, and is not part of the fit.",
            "Bootstrap intervals treat runs as exchangeable; runs of one seed share their data.",
        ],
    )


def build(data: StudyData, folder: Path) -> WrittenPage:
    """Writes the page, its tables and figures in the study's folder."""
    return write_page(law_page([data]), [data], folder)


def build_joint(folder: Path) -> WrittenPage:
    """One page in `folder` for the studies below it, one per backbone.

    Raises:
        ConfigError: there is none.
    """
    studies = [load_study(path.parent) for path in sorted(folder.glob(f"*/{STUDY_FILE}"))]
    members = [data for data in studies if data.study.name == STUDY_NAME]
    if not members:
        raise ConfigError(STUDY_NAME, str(folder), "holds no study")
    return write_page(law_page(members), members, folder)
