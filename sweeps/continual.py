"""Tasks one after the other in one adapter: what is still known of the earlier ones, and of general text?

LoRA alone, with replay and with EWC over its tasks, GRIT and the methods that are made against forgetting.

    python sweeps/continual.py                                       # embedded backbone, three tasks
    python sweeps/continual.py --before entailment --task reading --methods lora grit
    python sweeps/continual.py --model PATH --before boolq=TRAIN,EVAL --task gsm8k --train-file ...
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.cli.options import absolute_task
from grit.cli.parser import flag
from grit.config.registry import METHODS, Method
from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from grit.tasks import embedded
from ray_jobs.design.points import Point
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.request import StudyRequest, learning_rate_grid
from sweeps.common.script import StudyScript

#: What is compared: the control, the method, and what is made against forgetting.
USUAL: tuple[Method, ...] = ("lora", "grit", "grit_source", "lora_ewc", "osf")
#: Learned before the run's own, of the embedded tasks.
EMBEDDED_BEFORE = ("reading", "context")
#: Share of the steps' examples that replay draws from earlier tasks.
REPLAY = 0.25
#: Weight of EWC's penalty by each earlier task's curvature: nats of loss per nat that is predicted.
EARLIER_PENALTY = 3000.0
#: The learning rates, as multiples of the preset's, when none are given.
MULTIPLES = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class ContinualOptions:
    """The script's own options."""

    _argument_group_name = "this study"

    methods: list[str] = flag(
        list(USUAL), f"which methods, of {', '.join(METHODS)}", choices=METHODS, metavar="NAME"
    )
    before: list[str] | None = flag(
        None,
        "the tasks that are learned before --task, in order, by name or as NAME=TRAIN_FILE,EVAL_FILE "
        f"(default, of embedded tasks: {' '.join(EMBEDDED_BEFORE)})",
        metavar="TASK",
    )
    learning_rates: list[float] | None = flag(
        None,
        "the grid, the same for every method (default: 1/4, 1/2, 1 and 2 times the preset's)",
        metavar="V",
    )
    replay: float = flag(
        REPLAY, "share of a step's examples that LoRA with replay draws from earlier tasks; 0: no such arm"
    )
    earlier_penalty: float = flag(
        EARLIER_PENALTY,
        "weight of the penalty by earlier tasks' curvature, of LoRA with their EWC; 0: no such arm",
    )


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The presets with one evaluation at the end: every stage has its own."""
    usual = preset(name, method, steps, task)
    return replace(usual, base=usual.base.changed(evaluations=1))


def after_others(request: StudyRequest) -> RunConfig:
    """The run with the tasks that come before its own.

    Raises:
        ConfigError: none are named, and there is no default for such a task.
    """
    named: list[str] | None = request.own.before
    own = request.base.task.name
    if named is None and own in embedded.NAMES:
        named = [name for name in EMBEDDED_BEFORE if name != own]
    if not named:
        raise ConfigError("before", None, f"must name the tasks that are learned before {own!r}")
    return request.base.changed(before=tuple(map(absolute_task, named)))


def points(request: StudyRequest) -> list[Point]:
    """Every method on the same sequence, and LoRA with what it may keep of the tasks before."""
    own: ContinualOptions = request.own
    designed = []
    for value in learning_rate_grid(request, MULTIPLES):
        at_rate: dict[str, Any] = {"learning_rate": value}
        designed += [Point.of("continual", at_rate, method, regime="step") for method in own.methods]
        memories = {"replay": own.replay, "earlier_penalty": own.earlier_penalty}
        kept = {name: value for name, value in memories.items() if value}
        designed += [
            Point.of("continual", {**at_rate, name: value}, "lora", regime="step")
            for name, value in kept.items()
        ]
    return designed


SCRIPT = StudyScript(
    name="continual",
    description=__doc__,
    points=points,
    regimes=("step",),
    designs=(),
    presets=presets,
    own=ContinualOptions,
    based_on=after_others,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
