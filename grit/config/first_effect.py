"""When a setting first acts, if it does: until then, runs that differ only in it are one run.

Used to plan studies without computing twice what trials share (a trunk), and to refuse a setting that would
train what is trained already. Which settings wait for what, and beside which others they act, stands in their
declarations (grit/config/method.py); when that comes is what `GritHandle` does, and a test holds the two
together.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from grit.config.declared_knobs import ALIASES
from grit.config.method import GritConfig
from grit.config.overrides import with_overrides
from grit.config.run_config import RUN_SECTIONS, Overrides, RunConfig, section_of
from grit.config.settings import Setting, declared, waiting_for

#: Settings that do not act before the first refresh of the inverses.
CURVATURE_FIELDS = waiting_for(GritConfig, "refresh")
#: Settings that do not act before the first reprojection.
REPROJECTION_FIELDS = waiting_for(GritConfig, "reprojection")


def refreshes(config: GritConfig, step: int, period: int) -> bool:
    """Whether inverses are refreshed before optimizer step `step` (from 0).

    Every `period` steps, but not while nothing would use them before the next refresh: that is what a warm-up
    is for.
    """
    warmup = 0 if config.preconditioner == "soap" else config.ng_warmup_steps
    due = (step + 1) % period == 0 and step + period > warmup
    return due and config.preconditioner != "none"


def curvature_onset(config: GritConfig) -> float:
    """Steps after which `CURVATURE_FIELDS` have not acted yet; infinite when they never do."""
    if config.preconditioner == "none":
        return math.inf
    if config.cadence == "adaptive":  # the controller may refresh at any window's end
        return 0
    period = config.kfac_update_freq
    step = period - 1
    while not refreshes(config, step, period):
        step += period
    return step


def preconditioning_onset(config: GritConfig) -> float:
    """Steps after which no gradient has been preconditioned yet: inverses exist, and the warm-up is over."""
    first = curvature_onset(config)
    return first if config.preconditioner == "soap" else max(first, config.ng_warmup_steps)


def reprojection_onset(config: GritConfig) -> float:
    """Steps after which `REPROJECTION_FIELDS` have not acted yet; infinite when they never do."""
    if config.reprojection_freq is None:
        return math.inf
    every = config.reprojection_freq
    return max(1, -(-config.reprojection_warmup_steps // every)) * every - 1


def idle_schedules(config: GritConfig, steps: float) -> list[str]:
    """What is switched on and does not act within `steps` optimizer steps, in words."""
    idle = []
    first = preconditioning_onset(config)
    if math.isfinite(first) and first >= steps:
        idle.append(
            f"kfac_update_freq = {config.kfac_update_freq}: preconditioning begins in step {first + 1:g}"
        )
    first = reprojection_onset(config)
    if math.isfinite(first) and first >= steps:
        idle.append(f"T = {config.T}: the first reprojection comes in step {first + 1:g}")
    return idle


def beyond_budget(reason: str, steps: float) -> str:
    """Why something does not act, with the steps that there are."""
    return f"{reason}, and the budget is {steps:.15g}"


def late_fields(config: GritConfig) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The values of `CURVATURE_FIELDS` and of `REPROJECTION_FIELDS`."""
    curvature = tuple(getattr(config, name) for name in CURVATURE_FIELDS)
    reprojection = tuple(getattr(config, name) for name in REPROJECTION_FIELDS)
    return curvature, reprojection


def without_late_fields(config: RunConfig) -> RunConfig:
    """The run with all late fields at one setting: equal for runs that begin alike."""
    defaults = GritConfig(cadence=config.grit.cadence)
    values = {name: getattr(defaults, name) for name in {*CURVATURE_FIELDS, *REPROJECTION_FIELDS}}
    return replace(config, grit=replace(config.grit, **{**values, "min_lora_rank": 1}))


def controller_onset(config: GritConfig) -> float:
    """Steps after which the controller of an adaptive cadence has not looked yet; infinite without one."""
    return math.inf if config.cadence == "fixed" else config.cadence_window


#: When a setting first acts that does so at no moment of its own: its name, and what that is called.
_ONSETS = (
    (CURVATURE_FIELDS, curvature_onset, "the preconditioner acts"),
    (REPROJECTION_FIELDS, reprojection_onset, "reprojection acts"),
    (("cadence", "cadence_window", "cadence_max_stretch"), controller_onset, "the controller looks"),
)


def idle_reason(base: RunConfig, overrides: Overrides) -> str | None:
    """Why laying `overrides` over `base` would train what `base` trains; None where one of them acts.

    A setting is idle at the base's own value, beside another setting that keeps it from acting, and where it
    first acts when the budget of steps is spent. Of several, the first one's reason is given.

    Raises:
        ConfigError: an unknown name, or a value that its field does not allow.
    """
    changed = with_overrides(base, overrides)
    if changed == base:
        settings = ", ".join(f"{name} = {value}" for name, value in overrides.items())
        return f"{settings} is the default here already"
    names = [ALIASES.get(name, name) for name in overrides]
    names += ["rank_growth_threshold"] * _growth_follows_tau(base, changed)
    reasons = [_idle(base, changed, name) for name in names if base.setting(name) != changed.setting(name)]
    return None if None in reasons else reasons[0]


def _growth_follows_tau(base: RunConfig, changed: RunConfig) -> bool:
    """Whether tau was laid over a rank that grows (see `with_overrides`)."""
    return base.grit.rank_growth_threshold != changed.grit.rank_growth_threshold


def _idle(base: RunConfig, changed: RunConfig, name: str) -> str | None:
    """Why this setting alone does not act, neither at its old value nor at its new one."""
    for other, values in _declaration(name).acts_with.items():
        if base.setting(other) not in values and changed.setting(other) not in values:
            words = " or ".join(str(value) for value in values)
            return f"{name} acts only with {other} = {words}, and that is {changed.setting(other)} here"
    needed = _declaration(name).acts_if
    if needed is not None and not (getattr(base.grit, needed) or getattr(changed.grit, needed)):
        return f"{name} acts only beside source_weight or source_penalty, which are 0 here"
    moments = [(onset, what) for fields, onset, what in _ONSETS if name in fields]
    if base.budget.regime == "time" or not moments:
        return None
    first, what = min((min(onset(base.grit), onset(changed.grit)), what) for onset, what in moments)
    if first < base.budget.amount:
        return None
    return beyond_budget(f"{what} after {first:g} steps at the earliest", base.budget.amount)


def _declaration(name: str) -> Setting:
    settings = declared(RUN_SECTIONS[section_of(name)])
    return next(declaration for item, declaration in settings if item.name == name)
