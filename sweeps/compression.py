"""Train at r and keep k directions, or train at k?

Reprojection during training against a small rank from the start and truncation after training.

python sweeps/compression.py                                 # embedded backbone, k = 2, 4, 8 of r = 16
python sweeps/compression.py --ranks 2 8 --learning-rates 1e-3 4e-3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python sweeps/x.py` puts sweeps/ there, not the repository

from grit.config.registry import Method
from grit.config.settings import POSITIVE
from grit.errors import ConfigError
from ray_jobs.design.study import Point, control_method
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.command import main
from sweeps.common.options import SweepOptions

#: What reprojection to k directions may use.
BASES: dict[str, dict[str, Any]] = {
    "two-sided": {},
    "one-sided": {"two_sided": False},
    "balanced": {"basis": "balanced"},
}
#: Learning rates as multiples of the preset's, when none are given.
MULTIPLES = (1.0, 2.0, 4.0)


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The presets with the size of the exported file, the small ones with one evaluation."""
    found = preset(name, method, steps, task)
    small = not found.resources.gpus
    base = found.base.changed(exported=True, evaluations=1 if small else found.base.evaluation.evaluations)
    return replace(found, base=base, seeds=found.seeds)


def own(parser: argparse.ArgumentParser) -> None:
    """The script's own options."""
    parser.add_argument(
        "--ranks", nargs="+", type=int, metavar="K", help="directions that are kept (default: r/8, r/4, r/2)"
    )
    parser.add_argument(
        "--learning-rates",
        nargs="+",
        type=float,
        metavar="V",
        help="the grid (default: 1, 2, 4 times the preset's)",
    )


def points(preset: Preset, options: SweepOptions) -> list[Point]:
    """Per learning rate: trained at r and truncated afterwards, and GRIT as it is; per k too.

    Trained at k, and at r with reprojection to k.

    Reprojection begins in the middle of the run, in each basis.
    """
    base = preset.base
    rates = options.own["learning_rates"] or [
        multiple * base.optimization.learning_rate for multiple in MULTIPLES
    ]
    ranks = options.own["ranks"] or [max(1, base.adapter.rank // divisor) for divisor in (8, 4, 2)]
    for rate in rates:
        POSITIVE.check("learning-rates", rate)
    if base.grit.reprojection_freq is None:
        raise ConfigError("T (reprojection_freq)", None, "must be a number of steps: this study reprojects")
    for k in ranks:
        if not 1 <= k < base.adapter.rank:
            raise ConfigError("ranks", k, f"must be at least 1 and below the rank, {base.adapter.rank}")
    late = {
        "reprojection_warmup_steps": options.budget_steps // 2,
        "rank_adaptation": False,
        "min_lora_rank": 1,
    }
    found: list[Point] = []
    for rate in rates:
        lr = {"learning_rate": rate}
        # Without preconditioning and reprojection GRIT trains as LoRA does, and has watched the curvature by
        # which it can be truncated.
        found += [
            Point.of("after", {**lr, "preconditioner": "none", "T": None, "truncations": tuple(ranks)}),
            Point.of("grit", lr),
        ]
        for k in ranks:
            small = {"rank": k, "alpha": base.adapter.alpha * k / base.adapter.rank, **lr}
            found.append(Point.of("at k", small, control_method(base)))
            found += [
                Point.of("reproject", {**lr, **late, **basis, "reprojection_k": k})
                for basis in BASES.values()
            ]
    return found


def run(argv: Sequence[str] | None = None) -> int:
    """The study by its command line; returns the exit code."""
    return main(
        "compression",
        __doc__ or "",
        points,
        argv=argv,
        regimes=("step",),
        designs=(),
        presets=presets,
        own=own,
    )


if __name__ == "__main__":
    sys.exit(run())
