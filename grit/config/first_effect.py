"""When a setting first acts: until then, runs that differ only in it are one run.

Used to plan studies without computing twice what trials share (a trunk). Which settings wait for what stands
in their declarations (grit/config/method.py); when that comes is what `GritHandle` does, and a test holds the
two together.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from grit.config.method import GritConfig
from grit.config.run_config import RunConfig
from grit.config.settings import waiting_for

#: Settings that do not act before the first refresh of the inverses.
CURVATURE_FIELDS = waiting_for(GritConfig, "refresh")
#: Settings that do not act before the first reprojection.
REPROJECTION_FIELDS = waiting_for(GritConfig, "reprojection")


def refreshes(config: GritConfig, step: int, period: int) -> bool:
    """Whether inverses are refreshed before optimizer step `step` (from 0).

    Every `period` steps, but not while nothing would use them before the next refresh: that is what a warm-up
    is for.
    """
    due = (step + 1) % period == 0 and step + period > config.ng_warmup_steps
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


def reprojection_onset(config: GritConfig) -> float:
    """Steps after which `REPROJECTION_FIELDS` have not acted yet; infinite when they never do."""
    if config.reprojection_freq is None:
        return math.inf
    every = config.reprojection_freq
    return max(1, -(-config.reprojection_warmup_steps // every)) * every - 1


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
