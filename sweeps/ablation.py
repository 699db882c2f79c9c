"""One-sided against two-sided GRIT, and every switch of the method on its own against the default.

python sweeps/ablation.py                      # embedded backbone, step-matched
python sweeps/ablation.py --preset llama-3.2-3b --method qgrit --task gsm8k ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.config.first_effect import idle_reason
from grit.config.run_config import Overrides, RunConfig
from grit.errors import ConfigError
from ray_jobs.design.points import Point
from sweeps.common.request import StudyRequest
from sweeps.common.script import StudyScript

#: Each switch alone, all else inherited: what it is called in messages, and what it changes.
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
    "gradients of labelled tokens": {"gradient_tokens": "labelled"},
}
ONE_SIDED = {"two_sided": False}


def grids(base: RunConfig) -> list[dict[str, Any]]:
    """Rank, T and lambda on their own, around the default."""
    every = base.grit.reprojection_freq or max(1, int(base.budget.amount) // 10)
    rank, damping = base.adapter.rank, base.grit.kfac_damping
    ranks = [r for r in (rank // 4, rank // 2, 2 * rank) if r >= base.grit.min_lora_rank]
    sizes: list[dict[str, Any]] = [{"rank": r, "alpha": base.adapter.alpha * r / rank} for r in ranks]
    cadences = [{"T": max(1, every // 2)}, {"T": 2 * every}]
    return [*sizes, *cadences, {"lambda": damping / 10}, {"lambda": damping * 10}]


def check_acts(base: RunConfig, name: str, overrides: Overrides) -> None:
    """Refuses a switch that would change nothing.

    The same configuration, or one that differs only in what never acts within the budget.

    Raises:
        ConfigError: with the switch, and why.
    """
    reason = idle_reason(base, overrides)
    if reason is not None:
        raise ConfigError("ablation", name, f"changes nothing: {reason}")


def points(request: StudyRequest) -> list[Point]:
    """The six methods of the one-sided report, then each switch, then the grids."""
    base = request.base
    for name, overrides in (*SWITCHES.items(), ("one-sided", ONE_SIDED)):
        check_acts(base, name, overrides)
    for overrides in grids(base):
        check_acts(base, str(overrides), overrides)
    family = [
        Point.of("family", {}, "grit"),
        Point.of("family", ONE_SIDED, "grit"),
        Point.of("family", {}, "lora"),
        Point.of("family", {}, "qgrit"),
        Point.of("family", ONE_SIDED, "qgrit"),
        Point.of("family", {}, "qlora"),
    ]
    switches = [Point.of("switch", overrides) for overrides in SWITCHES.values()]
    around = [Point.of("grid", overrides) for overrides in grids(base)]
    return [*family, *switches, *around, *(Point.of("list", overrides) for overrides in request.listed)]


SCRIPT = StudyScript(
    name="ablation", description=__doc__, points=points, regimes=("step",), designs=("point",)
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
