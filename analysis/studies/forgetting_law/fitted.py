"""The law fitted to a study's runs.

Coefficients, and how well each predictor does on runs it has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.page.table import Column, Table
from analysis.stats.arrays import Floats
from analysis.stats.estimates import Interval
from analysis.stats.forgetting_fit import (
    NAMES,
    BudgetLaw,
    LawRuns,
    Profile,
    bootstrap,
    by_setting,
    error,
    fit_budget,
    fit_gains,
    predict,
    profile,
    tells_slope,
)
from analysis.studies.forgetting_law.runs import LawRun, as_columns

#: Runs of LoRA and of GRIT below which nothing is fitted.
MIN_LORA, MIN_GRIT = 4, 8
#: The three predictors.
LORAS_LAW, REFITTED, WITH_GEOMETRY = "LoRA's budget law", "budget law", "with geometry"
#: What the fit cannot tell from 0.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True, kw_only=True)
class LawFit:
    """Both stages on the runs that are not held out, with their uncertainty.

    And the errors on those that are.

    Attributes:
        gains: the three coefficients of geometry; `draws` bootstrap replicates of all coefficients.
        train, held: GRIT's runs; `held_lora` LoRA's that are held out.
        lora_inside: RMS error of LoRA's law on the runs it was fitted to, in log forgetting.
        refit: a budget law of GRIT's own runs.
    """

    law: BudgetLaw
    gains: Floats
    draws: Floats
    profiles: tuple[Profile, ...]
    train: LawRuns
    held: LawRuns
    held_lora: LawRuns
    lora_inside: float
    refit: BudgetLaw

    def errors(self) -> dict[str, Floats]:
        """Squared errors of log forgetting on the held-out GRIT runs, by predictor."""
        return {
            LORAS_LAW: error(self.law.predict(self.held), self.held),
            REFITTED: error(self.refit.predict(self.held), self.held),
            WITH_GEOMETRY: error(predict(self.law, self.gains, self.held), self.held),
        }

    def lora_outside(self) -> float | None:
        """RMS error of LoRA's law on LoRA's own held-out runs, in log forgetting; None without any."""
        if not len(self.held_lora):
            return None
        return float(np.sqrt(error(self.law.predict(self.held_lora), self.held_lora).mean()))


def fit_law(runs: Sequence[LawRun]) -> LawFit | None:
    """None where there are too few runs of either kind, or only one budget."""
    lora = [run for run in runs if not run.acting]
    grit = [run for run in runs if run.acting]
    seen = [run for run in grit if not run.held_out]
    lora_seen = [run for run in lora if not run.held_out]
    if len(lora_seen) < MIN_LORA or len(seen) < MIN_GRIT:
        return None
    first, second = as_columns(lora_seen, lora), as_columns(seen, lora)
    if not tells_slope(first):
        return None
    law = fit_budget(first)
    gains, _ = fit_gains(law, second)
    return LawFit(
        law=law,
        gains=gains,
        draws=bootstrap(first, second),
        profiles=tuple(profile(law, second, index) for index in range(len(NAMES))),
        train=second,
        held=as_columns([run for run in grit if run.held_out], lora),
        held_lora=as_columns([run for run in lora if run.held_out], lora),
        refit=fit_budget(second),
        lora_inside=float(np.sqrt(error(law.predict(first), first).mean())),
    )


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """One coefficient: its estimate, and 95% intervals by bootstrap and by profile likelihood.

    `None` stands for an interval that there is not.
    """

    name: str
    estimate: str
    bootstrap: str | None
    profile: str | None
    identified: str


def coefficients(fit: LawFit) -> list[Coefficient]:
    """All of them, in the order of `LawFit.draws`."""
    low, high = np.quantile(fit.draws, [0.025, 0.975], axis=0)
    spans = [f"[{a:.3f}, {b:.3f}]" for a, b in zip(low, high, strict=True)]
    by_squares = "by least squares"
    rows = []
    for (rank, value), span in zip(fit.law.constants.items(), spans, strict=False):
        rows.append(_coefficient(f"log c, rank {rank:g}", f"{value:.3f}", span, by_squares))
    ranks = len(fit.law.constants)
    rows.append(_coefficient("beta (unique tokens)", f"{fit.law.beta:.3f}", spans[ranks], by_squares))
    alpha_known = fit.law.alpha_found
    alpha = "by the sizes of the backbones" if alpha_known else "no: one backbone; set by convention"
    alpha_span = spans[ranks + 1] if alpha_known else None
    rows.append(_coefficient("alpha (parameters)", f"{fit.law.alpha:.3f}", alpha_span, alpha))
    for index, (name, one) in enumerate(zip(NAMES, fit.profiles, strict=True)):
        place = ranks + 2 + index
        end = "no end" if np.isinf(one.high) else f"{one.high:.3g}"
        rows.append(
            Coefficient(
                name=name,
                estimate=_shown_gain(fit.gains[index]),
                bootstrap=f"[{_shown_gain(low[place])}, {_shown_gain(high[place])}]",
                profile=f"[{one.low:.3g}, {end}]",
                identified=one.verdict,
            )
        )
    return rows


def _coefficient(name: str, estimate: str, span: str | None, identified: str) -> Coefficient:
    return Coefficient(name=name, estimate=estimate, bootstrap=span, profile=None, identified=identified)


def _shown_gain(value: float) -> str:
    return "0" if value < NEGLIGIBLE else f"{value:.3g}"


def law_table(fit: LawFit | None) -> Table[Coefficient]:
    """One row per coefficient."""
    columns: list[Column[Coefficient]] = [
        Column(header="coefficient", value=lambda row: row.name, terminal=True),
        Column(header="estimate", value=lambda row: row.estimate, terminal=True),
        Column(header="bootstrap [95%]", value=lambda row: row.bootstrap, terminal=True),
        Column(header="profile [95%]", value=lambda row: row.profile),
        Column(header="identified", value=lambda row: row.identified, terminal=True),
    ]
    return Table(name="law", columns=columns, rows=[] if fit is None else coefficients(fit))


@dataclass(frozen=True, kw_only=True)
class HeldOutPrediction:
    """How well one predictor does on runs with a larger budget than any it has seen.

    Attributes:
        error: RMS, in log forgetting; None without held-out runs.
        against: squared errors minus those of LoRA's budget law, over settings.
    """

    predictor: str
    fitted_to: str
    runs: int
    error: float | None
    against: Interval | None


def predictions(fit: LawFit) -> list[HeldOutPrediction]:
    """The three predictors on GRIT's held-out runs, and LoRA's law on LoRA's own."""
    fitted_to = {LORAS_LAW: "LoRA runs", REFITTED: "GRIT runs", WITH_GEOMETRY: "both, in two stages"}
    errors = fit.errors()
    rows = []
    for name, squares in errors.items():
        against = None if name == LORAS_LAW else difference(fit, name, LORAS_LAW)
        rows.append(
            HeldOutPrediction(
                predictor=name,
                fitted_to=fitted_to[name],
                runs=len(fit.held),
                error=float(np.sqrt(squares.mean())),
                against=against,
            )
        )
    own = HeldOutPrediction(
        predictor="LoRA's budget law, of LoRA itself",
        fitted_to="LoRA runs",
        runs=len(fit.held_lora),
        error=fit.lora_outside(),
        against=None,
    )
    return [*rows, own]


def difference(fit: LawFit, predictor: str, other: str) -> Interval:
    """Mean difference of squared errors on GRIT's held-out runs, with its interval over settings."""
    errors = fit.errors()
    values = errors[predictor] - errors[other]
    low, high = by_setting(values, fit.held.settings)
    return Interval(mean=float(values.mean()), low=low, high=high)


def held_out_table(fit: LawFit | None) -> Table[HeldOutPrediction]:
    """One row per predictor; none where no run was held out."""
    columns: list[Column[HeldOutPrediction]] = [
        Column(header="predictor", value=lambda row: row.predictor, terminal=True),
        Column(header="fitted to", value=lambda row: row.fitted_to, terminal=True),
        Column(header="held-out runs", value=lambda row: row.runs),
        Column(header="error (RMS, log)", value=lambda row: row.error, style=".3f", terminal=True),
        Column(
            header="squared error vs LoRA's budget law [95%]",
            value=lambda row: row.against,
            style="+.4f",
            terminal=True,
        ),
    ]
    rows = [] if fit is None or not len(fit.held) else predictions(fit)
    return Table(name="held_out", columns=columns, rows=rows)


def law_answer(fit: LawFit) -> list[str]:
    """What the fit comes to, in sentences."""
    identified = [
        name for name, one in zip(NAMES, fit.profiles, strict=True) if one.verdict.startswith("identified")
    ]
    squares = fit.errors()
    gap = difference(fit, WITH_GEOMETRY, REFITTED)
    verdict = "cannot be told from"
    if gap.high < 0:
        verdict = "predicts better than"
    elif gap.low > 0:
        verdict = "predicts worse than"
    own, refitted = (float(np.sqrt(squares[name].mean())) for name in (WITH_GEOMETRY, REFITTED))
    return [
        f"Forgetting grows as D^{fit.law.beta:.2f} for LoRA. Geometry's coefficients that the data identify "
        f"above zero: {', '.join(identified) or 'none'}.",
        f"On {len(fit.held)} held-out GRIT runs of the largest budget the law with geometry {verdict} a "
        f"budget law refitted to GRIT's own runs (RMS error in log forgetting {own:.3f} against "
        f"{refitted:.3f}; difference of squared errors [{gap.low:+.4f}, {gap.high:+.4f}]; the interval is "
        f"over settings, the fits held as they are).{_bends(fit)}",
    ]


def _bends(fit: LawFit) -> str:
    """Whether LoRA's own law holds for LoRA at the largest budget; nothing where that cannot be said."""
    outside = fit.lora_outside()
    if outside is None or outside < 2 * fit.lora_inside:
        return ""
    return (
        f" LoRA's own law misses LoRA's own held-out runs by {outside:.3f} (and those it was fitted to by "
        f"{fit.lora_inside:.3f}): the power law itself bends."
    )
