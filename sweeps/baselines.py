"""Everything GRIT is compared with, each at its own best learning rate from one grid.

A rate is chosen on examples that do not judge it.

    python sweeps/baselines.py             # embedded backbone, step-matched: the paper's set and controls
    python sweeps/baselines.py --all       # the whole field
    python sweeps/baselines.py --methods lora grit dora --learning-rates 1e-3 4e-3
    python sweeps/baselines.py --model PATH --task gsm8k --train-file ... --eval-file ...
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.cli.parser import flag
from grit.config.registry import METHODS, Method
from grit.config.sections import Regime
from grit.config.sequence import ALONE
from grit.errors import ConfigError
from ray_jobs.design.points import Point
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.request import StudyRequest, learning_rate_grid
from sweeps.common.script import StudyScript

#: The learning rates, as multiples of the preset's, when none are given: those of AdamW on A and B. A
#: method that needs other rates has them times a multiple of its own (grit/config/registry.py).
MULTIPLES = (1.0, 4.0, 16.0)
#: Share of the budget of the runs that only serve to have their memory measured (in a process of its own,
#: beside them), and their least steps.
MEMORY_BUDGET, MEMORY_STEPS = 0.04, 4
#: Factors with which trained updates are scored as well, of every method whose adapter is a plain LoRA: a
#: frontier is made of the paths that these give, not of learning rates alone.
SCALES = (0.25, 0.5, 0.75)
#: The methods when none are named: what the project is about, what the paper compares it with, what its
#: claims must survive, and our further attempts.
USUAL = tuple(name for name, spec in METHODS.items() if spec.role != "neighbour")


@dataclass(frozen=True)
class BaselinesOptions:
    """The script's own options."""

    _argument_group_name = "this study"

    methods: list[str] | None = flag(
        None,
        f"which methods (default: {', '.join(USUAL)}), of {', '.join(METHODS)}",
        choices=METHODS,
        metavar="NAME",
    )
    all: bool = flag(False, "all methods there are")
    learning_rates: list[float] | None = flag(
        None,
        "the grid (default: 1, 4 and 16 times the preset's); a method whose rates are of another size has it "
        "times a multiple of its own: "
        + ", ".join(
            f"{name} {spec.rate_multiple:g}" for name, spec in METHODS.items() if spec.rate_multiple != 1
        ),
        metavar="V",
    )


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The small presets with 100 steps and one evaluation: the grid is wide instead."""
    if not preset(name, method).small:
        return preset(name, method, steps, task)
    usual = preset(name, method, steps or 100, task)
    return replace(usual, base=usual.base.changed(evaluations=1))


def _paths(method: Method, request: StudyRequest) -> tuple[tuple[str, tuple[int | float, ...]], ...]:
    asked = request.base.audits.scales or SCALES
    return (("scales", asked),) if METHODS[method].factors else ()


def points(request: StudyRequest) -> list[Point]:
    """Every method at every learning rate; what needs to know its steps has no time-matched form."""
    own: BaselinesOptions = request.own
    rates = learning_rate_grid(request, MULTIPLES)
    if own.all and own.methods is not None:
        raise ConfigError("all", own.all, "cannot be given together with --methods")
    methods = list(METHODS) if own.all else own.methods or USUAL
    designed = []
    for value in rates:
        for method in methods:
            regime: Regime | None = "step" if METHODS[method].scheduled else None
            rate = value * METHODS[method].rate_multiple
            point = Point.of("baseline", {"learning_rate": rate}, method, regime=regime)
            designed.append(replace(point, audits=_paths(method, request)))
    memory = {"memory": True, "evaluations": 1, "quality": "answer_logprob", "scales": ()}
    if request.base.sequence.before:
        memory |= ALONE
    share = max(MEMORY_BUDGET, MEMORY_STEPS / request.budget_steps)
    probes = [Point.of("memory", memory, method, budget=share, regime="step", seeds=1) for method in methods]
    return [*designed, *probes]


SCRIPT = StudyScript(
    name="baselines",
    description=__doc__,
    points=points,
    regimes=("step",),
    designs=(),
    presets=presets,
    own=BaselinesOptions,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
