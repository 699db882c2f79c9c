"""Everything GRIT is compared with, each at its own best learning rate from one grid.

Chosen on examples that do not judge it.

python sweeps/baselines.py                                   # embedded backbone, all methods, step-matched
python sweeps/baselines.py --methods lora grit dora --learning-rates 1e-3 4e-3 python sweeps/baselines.py
--model ../shared/backbone --task gsm8k --train-file ... --eval-file ... --retention-file ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python sweeps/x.py` puts sweeps/ there, not the repository

from grit.config.registry import METHODS, Method
from grit.config.settings import POSITIVE
from ray_jobs.design.study import Point
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.command import main
from sweeps.common.options import SweepOptions

#: The learning rates, as multiples of the preset's, when none are given: the same for every method.
MULTIPLES = (0.25, 1.0, 4.0, 16.0)
#: Share of the budget of the runs that only serve to have their memory measured (in a process of its own,
#: beside them), and their least steps.
MEMORY_BUDGET, MEMORY_STEPS = 0.04, 4


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The small presets with 40 steps and one evaluation: the grid is wide instead."""
    small = not preset(name, method, None).resources.gpus
    found = preset(name, method, steps or (40 if small else None), task)
    return replace(found, base=found.base.changed(evaluations=1)) if small else found


def own(parser: argparse.ArgumentParser) -> None:
    """The script's own options."""
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=tuple(METHODS),
        default=list(METHODS),
        metavar="NAME",
        help=f"which methods (default: all): {', '.join(METHODS)}",
    )
    parser.add_argument(
        "--learning-rates",
        nargs="+",
        type=float,
        metavar="V",
        help="the grid, the same for every method (default: 1/4, 1, 4 and 16 times the preset's)",
    )


def points(preset: Preset, options: SweepOptions) -> list[Point]:
    """Every method at every learning rate; what needs to know its steps has no time-matched form."""
    rates = options.own["learning_rates"] or [
        multiple * preset.base.optimization.learning_rate for multiple in MULTIPLES
    ]
    for rate in rates:
        POSITIVE.check("learning-rates", rate)
    methods: list[Method] = options.own["methods"]
    found = [
        Point.of(
            "baseline", {"learning_rate": rate}, method, regime="step" if METHODS[method].scheduled else None
        )
        for rate in rates
        for method in methods
    ]
    memory = {"memory": True, "evaluations": 1, "quality": "answer_logprob"}
    share = max(MEMORY_BUDGET, MEMORY_STEPS / options.budget_steps)
    return found + [
        Point.of("memory", memory, method, budget=share, regime="step", seeds=1) for method in methods
    ]


def run(argv: Sequence[str] | None = None) -> int:
    """The study by its command line; returns the exit code."""
    return main(
        "baselines", __doc__ or "", points, argv=argv, regimes=("step",), designs=(), presets=presets, own=own
    )


if __name__ == "__main__":
    sys.exit(run())
