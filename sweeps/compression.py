"""Train at r and keep k directions, or train at k?

Reprojection during training against a small rank from the start and truncation after training.

    python sweeps/compression.py                                 # embedded backbone, k = 2, 4, 8 of r = 16
    python sweeps/compression.py --ranks 2 8 --learning-rates 1e-3 4e-3
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.cli.parser import flag
from grit.config.registry import METHODS, Method
from grit.errors import ConfigError
from ray_jobs.design.points import Point, control_method
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.request import StudyRequest, learning_rate_grid
from sweeps.common.script import StudyScript

#: What reprojection to k directions may use.
BASES: dict[str, dict[str, Any]] = {
    "two-sided": {},
    "one-sided": {"two_sided": False},
    "balanced": {"basis": "balanced"},
}
#: The method whose first directions are adapters themselves.
NESTED = "matryoshka"
#: Learning rates as multiples of the preset's, when none are given.
MULTIPLES = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class CompressionOptions:
    """The script's own options."""

    _argument_group_name = "this study"

    ranks: list[int] | None = flag(None, "directions that are kept (default: r/8, r/4, r/2)", metavar="K")
    learning_rates: list[float] | None = flag(
        None, "the grid (default: 1, 2, 4 times the preset's)", metavar="V"
    )


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The presets with the size of the exported file, the small ones with one evaluation."""
    usual = preset(name, method, steps, task)
    evaluations = 1 if usual.small else usual.base.evaluation.evaluations
    return replace(usual, base=usual.base.changed(exported=True, evaluations=evaluations))


def _ranks(request: StudyRequest) -> list[int]:
    """The k that are looked at.

    Raises:
        ConfigError: one is not below the rank.
    """
    rank = request.base.adapter.rank
    ranks: list[int] = request.own.ranks or [max(1, rank // divisor) for divisor in (8, 4, 2)]
    for k in ranks:
        if not 1 <= k < rank:
            raise ConfigError("ranks", k, f"must be at least 1 and below the rank, {rank}")
    return ranks


def points(request: StudyRequest) -> list[Point]:
    """Per learning rate: trained at r and truncated afterwards, and GRIT as it is; per k too.

    Trained at k, and at r with reprojection to k. Reprojection begins in the middle of the run, in each
    basis. And trained so that its first directions are adapters themselves.
    """
    base, ranks = request.base, _ranks(request)
    rates = learning_rate_grid(request, MULTIPLES)
    if base.grit.reprojection_freq is None:
        raise ConfigError("T (reprojection_freq)", None, "must be a number of steps: this study reprojects")
    late = {
        "reprojection_warmup_steps": request.budget_steps // 2,
        "rank_adaptation": False,
        "min_lora_rank": 1,
    }
    # Without preconditioning and reprojection GRIT trains as LoRA does, and has watched the curvature by
    # which it can be truncated.
    watched = {"preconditioner": "none", "T": None, "truncations": tuple(ranks)}
    nested = {"truncations": tuple(ranks)}
    designed: list[Point] = []
    for value in rates:
        lr = {"learning_rate": value}
        designed += [Point.of("after", {**lr, **watched}), Point.of("grit", lr)]
        if not base.quantized:
            own = value * METHODS[NESTED].rate_multiple
            designed.append(Point.of("nested", {"learning_rate": own, **nested}, NESTED))
        for k in ranks:
            small = {"rank": k, "alpha": base.adapter.alpha * k / base.adapter.rank, **lr}
            designed.append(Point.of("at k", small, control_method(base)))
            for basis in BASES.values():
                designed.append(Point.of("reproject", {**lr, **late, **basis, "reprojection_k": k}))
    return designed


SCRIPT = StudyScript(
    name="compression",
    description=__doc__,
    points=points,
    regimes=("step",),
    designs=(),
    presets=presets,
    own=CompressionOptions,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
