"""When a setting first acts: until then, runs that differ only in it are one run.

Used to plan studies without computing a shared beginning twice. It states what `GritHandle` does, and a test
holds the two together.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from grit.config.method import GritConfig
from grit.config.run import RunConfig

#: Gates of both.
_GATES = ("kfac_min_samples", "spectral_snr_min")
#: Fields that act first when inverses are refreshed.
CURVATURE_FIELDS = (
    "preconditioner",
    "kfac_damping",
    "damping_scale",
    "damping_reference_batch",
    "quantization_damping",
    "kfac_update_freq",
    "ng_warmup_steps",
    *_GATES,
)
#: Fields that act first at a reprojection.
REPROJECTION_FIELDS = (
    "reprojection_freq",
    "reprojection_warmup_steps",
    "reprojection_trigger",
    "reprojection_band",
    "reprojection_mix",
    "reprojection_k",
    "two_sided",
    "basis",
    "suppression",
    "project_momentum",
    "rank_adaptation",
    "rank_adaptation_threshold",
    "rank_adaptation_start_step",
    "rank_policy",
    "rank_growth_threshold",
    "rank_hysteresis",
    "rank_energy_ema",
    "min_lora_rank",
    "entropy_floor",
    "subspace_mixing",
    "mixing_seed",
    *_GATES,
)


def refreshes(config: GritConfig, step: int, period: int) -> bool:
    """Whether inverses are refreshed before optimizer step `step` (from 0).

    Every `period` steps, but not while nothing would use them before the next refresh: that is what a warm-up
    is for.
    """
    return (
        config.preconditioner != "none"
        and (step + 1) % period == 0
        and step + period > config.ng_warmup_steps
    )


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
    """The values of both kinds of fields."""
    curvature, reprojection = (
        (getattr(config, name) for name in names) for names in (CURVATURE_FIELDS, REPROJECTION_FIELDS)
    )
    return tuple(curvature), tuple(reprojection)


def without_late_fields(config: RunConfig) -> RunConfig:
    """The run with all late fields at one setting: equal for runs that begin alike."""
    defaults = GritConfig(cadence=config.grit.cadence)
    values = {name: getattr(defaults, name) for name in {*CURVATURE_FIELDS, *REPROJECTION_FIELDS}}
    return replace(config, grit=replace(config.grit, **{**values, "min_lora_rank": 1}))
