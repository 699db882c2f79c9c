"""Every run with the fitted law, what each law predicts of unseen runs, and profile likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.page.style import COLOURS, SHADES, new_figure, plain_log_axis
from analysis.stats.arrays import Floats
from analysis.stats.forgetting_fit import DEVIANCE, NAMES, Profile, predict
from analysis.studies.forgetting_law.fitted import LORAS_LAW, LawFit
from analysis.studies.forgetting_law.runs import LawRun
from grit.training.measurements import QUANTITIES


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """The runs of one method on one backbone; `number` is the backbone's."""

    label: str
    number: int
    acting: bool
    tokens: Floats
    forgetting: Floats


@dataclass(frozen=True, kw_only=True)
class LawPicture:
    """Left: every run, and LoRA's law at each rank over `tokens`. Right: predicted against measured.

    Attributes:
        lines: by (backbone's number, rank): forgetting over `tokens`.
        predicted: by predictor, of the held-out runs whose forgetting is `measured`.
    """

    groups: tuple[RunGroup, ...]
    beta: float
    tokens: Floats
    lines: dict[tuple[int, float], Floats]
    measured: Floats
    predicted: dict[str, Floats]


def law_picture(runs: Sequence[LawRun], fit: LawFit | None) -> LawPicture | None:
    """None without a fit."""
    if fit is None or not len(fit.held):
        return None
    seen = [run.tokens for run in runs]
    tokens = np.geomspace(min(seen), max(seen), 30)
    groups: list[RunGroup] = []
    lines: dict[tuple[int, float], Floats] = {}
    for number, model in enumerate(dict.fromkeys(run.model for run in runs)):
        members = [run for run in runs if run.model == model]
        groups += [_group(members, number, acting=acting) for acting in (False, True)]
        size = members[0].record.measured.backbone_parameters or 1
        for rank, constant in fit.law.constants.items():
            logs = constant + fit.law.beta * np.log(tokens) - fit.law.alpha * np.log(size)
            lines[number, rank] = np.exp(logs)
    return LawPicture(
        groups=tuple(groups),
        beta=fit.law.beta,
        tokens=tokens,
        lines=lines,
        measured=fit.held.forgetting,
        predicted={
            LORAS_LAW: np.exp(fit.law.predict(fit.held)),
            "budget law of GRIT's runs": np.exp(fit.refit.predict(fit.held)),
            "with geometry": np.exp(predict(fit.law, fit.gains, fit.held)),
        },
    )


def _group(members: Sequence[LawRun], number: int, *, acting: bool) -> RunGroup:
    own = [run for run in members if run.acting is acting]
    method = "GRIT" if acting else "LoRA"
    return RunGroup(
        label=f"{method}, {Path(members[0].model).name} (n = {len(own)})",
        number=number,
        acting=acting,
        tokens=np.array([run.tokens for run in own]),
        forgetting=np.array([run.forgetting for run in own]),
    )


def draw_law(picture: LawPicture) -> Figure:
    """Two panels."""
    figure, (left, right) = new_figure(2, width=3.6, height=3.0)
    for group in picture.groups:
        colour = SHADES[(2 * group.number + group.acting) % len(SHADES)]
        marker = "o" if group.acting else "s"
        left.scatter(
            group.tokens, group.forgetting, s=14, marker=marker, alpha=0.7, color=colour, label=group.label
        )
    for (number, _), values in picture.lines.items():
        left.plot(picture.tokens, values, color=SHADES[(2 * number) % len(SHADES)], linewidth=1)
    plain_log_axis(left)
    left.set_yscale("log")
    left.set_xlabel("unique tokens D")
    left.set_ylabel(QUANTITIES["forgetting"].axis)
    left.set_title(f"lines: LoRA's law at each rank, D^{picture.beta:.2f}")
    left.legend(frameon=False, fontsize=6)
    _draw_predictions(right, picture)
    return figure


def _draw_predictions(axis: Axes, picture: LawPicture) -> None:
    looks = ((COLOURS["neutral"], "s"), (COLOURS["time"], "^"), (COLOURS["step"], "o"))
    for (label, values), (colour, marker) in zip(picture.predicted.items(), looks, strict=True):
        axis.scatter(picture.measured, values, s=16, color=colour, marker=marker, label=label)
    ends = [float(picture.measured.min()) * 0.8, float(picture.measured.max()) * 1.25]
    axis.plot(ends, ends, color="black", linewidth=0.7)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("measured forgetting (nats/token)")
    axis.set_ylabel("predicted")
    axis.set_title(f"held-out runs of GRIT, n = {len(picture.measured)}")
    axis.legend(frameon=False, fontsize=6)


@dataclass(frozen=True, kw_only=True)
class ProfileCurves:
    """One profile per coefficient of geometry; how many runs it is of."""

    profiles: dict[str, Profile]
    runs: int


def profile_curves(fit: LawFit | None) -> ProfileCurves | None:
    """None without a fit."""
    if fit is None:
        return None
    return ProfileCurves(profiles=dict(zip(NAMES, fit.profiles, strict=True)), runs=len(fit.train))


def draw_profiles(curves: ProfileCurves) -> Figure:
    """One panel a coefficient; zero stands apart at the left."""
    figure, axes = new_figure(len(curves.profiles), width=2.6, height=2.4)
    for axis, (name, one) in zip(axes, curves.profiles.items(), strict=True):
        visible = one.values > one.values.max() * 1e-7  # what lies below is as good as 0
        least = float(one.values[visible].min())
        at_zero = min(float(one.deviance[0]), 20)
        colour = COLOURS["step"]
        axis.plot(one.values[visible], np.minimum(one.deviance[visible], 20), color=colour)
        axis.plot([least / 10], [at_zero], color=colour, marker="o", markersize=4)
        axis.axhline(DEVIANCE, color=COLOURS["time"], linestyle="--", linewidth=1)
        axis.set_xscale("log")
        first, last = int(np.ceil(np.log10(least))), int(np.log10(one.values.max()))
        decades = [10.0**power for power in range(first, last + 1, 2)]
        axis.set_xticks([least / 10, *decades], ["0", *(f"{value:g}" for value in decades)])
        axis.minorticks_off()
        axis.set_xlabel(name)
        axis.set_title(one.verdict, fontsize=7)
        axis.tick_params(axis="x", labelsize=6)
    axes[0].set_ylabel("2 x log-likelihood lost (at most 20)")
    figure.suptitle(f"n = {curves.runs} GRIT runs; dashed: 95%", fontsize=8)
    return figure
