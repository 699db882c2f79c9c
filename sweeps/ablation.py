"""One-sided against two-sided GRIT, and every switch of the method on its own against the default.

python sweeps/ablation.py                           # embedded backbone, step-matched
python sweeps/ablation.py --preset llama-3.2-3b --method qgrit --task gsm8k ...
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python sweeps/x.py` puts sweeps/ there, not the repository

from grit.config.first_effect import curvature_onset, reprojection_onset
from grit.config.overrides import with_overrides
from grit.config.run import RunConfig
from grit.errors import ConfigError
from ray_jobs.design.study import Point
from ray_jobs.design.study_presets import Preset
from sweeps.common.command import main
from sweeps.common.options import SweepOptions

#: Each switch alone, all else inherited: what it is called in the report, and what it changes.
SWITCHES: dict[str, dict[str, Any]] = {
    "no K-FAC": {"preconditioner": "none"},
    "no reprojection": {"T": None},
    "fixed rank": {"rank_adaptation": False},
    "attention only": {"placement": "attention"},
    "MLP only": {"placement": "mlp"},
    "K-FAC's own pairing": {"preconditioner": "kfac"},
    "relative damping": {"damping_scale": "relative"},
    "gate, not projection": {"suppression": "gate"},
    "balanced basis": {"basis": "balanced"},
    "momentum not projected": {"project_momentum": False},
    "growing rank": {"rank_policy": "growth"},
    "adaptive cadence": {"cadence": "adaptive"},
    "regularizers": {"lambda_k": 1e-5, "lambda_r": 1e-4},
}
#: Fields that act through the preconditioner alone, and through reprojection alone.
_CURVATURE, _REPROJECTION = (
    {"preconditioner", "damping_scale", "kfac_damping", "lambda", "cadence"},
    {"T", "rank_adaptation", "suppression", "basis", "project_momentum", "rank_policy", "two_sided", "tau"},
)


def grids(base: RunConfig) -> list[dict[str, Any]]:
    """Rank, T and lambda on their own, around the default."""
    every = base.grit.reprojection_freq or max(1, int(base.budget.amount) // 10)
    ranks = [
        rank
        for rank in (base.adapter.rank // 4, base.adapter.rank // 2, 2 * base.adapter.rank)
        if rank >= base.grit.min_lora_rank
    ]
    found: list[dict[str, Any]] = [
        {"rank": rank, "alpha": base.adapter.alpha * rank / base.adapter.rank} for rank in ranks
    ]
    found += [
        {"T": max(1, every // 2)},
        {"T": 2 * every},
        {"lambda": base.grit.kfac_damping / 10},
        {"lambda": base.grit.kfac_damping * 10},
    ]
    return found


def check_acts(base: RunConfig, name: str, overrides: dict[str, Any]) -> None:
    """Refuses a switch that would change nothing.

    The same configuration, or one that differs only in what never acts within the budget.

    Raises:
        ConfigError: with the switch, and why.
    """
    changed = with_overrides(base, overrides)
    if changed == base:
        raise ConfigError(
            "ablation",
            name,
            f"changes nothing: {', '.join(f'{k} = {v}' for k, v in overrides.items())} is the default here "
            "already",
        )
    steps = base.budget.amount if base.budget.regime == "step" else math.inf
    for fields, onset, what in (
        (_CURVATURE, curvature_onset, "the preconditioner acts"),
        (_REPROJECTION, reprojection_onset, "reprojection acts"),
    ):
        first = min(onset(base.grit), onset(changed.grit))
        if set(overrides) <= fields and first >= steps:
            raise ConfigError(
                "ablation",
                name,
                f"changes nothing: {what} after {first:g} steps at the earliest, and the budget is {steps:g}",
            )


def points(preset: Preset, options: SweepOptions) -> list[Point]:
    """The six methods of the one-sided report, then each switch, then the grids."""
    base = preset.base
    for name, overrides in (
        *SWITCHES.items(),
        ("one-sided", {"two_sided": False}),
        *((str(o), o) for o in grids(base)),
    ):
        check_acts(base, name, overrides)
    one_sided = {"two_sided": False}
    family = [
        Point.of("family", {}, "grit"),
        Point.of("family", one_sided, "grit"),
        Point.of("family", {}, "lora"),
        Point.of("family", {}, "qgrit"),
        Point.of("family", one_sided, "qgrit"),
        Point.of("family", {}, "qlora"),
    ]
    switches = [Point.of("switch", overrides) for overrides in SWITCHES.values()]
    listed = [Point.of("list", overrides) for overrides in options.listed]
    return [*family, *switches, *(Point.of("grid", overrides) for overrides in grids(base)), *listed]


if __name__ == "__main__":
    sys.exit(main("ablation", __doc__ or "", points, regimes=("step",), designs=("point",)))
