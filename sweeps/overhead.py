"""What GRIT's geometry costs: step times, tails, components, memory.

Over cadence, rank, layers and a long run (paper appendix F).

    python sweeps/overhead.py                                    # embedded backbone
    python sweeps/overhead.py --methods lora qlora qgrit --preset llama-3.2-3b ...
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.backbone import resolve
from grit.cli.parser import flag
from grit.config.registry import METHODS, Method
from grit.config.run_config import RunConfig
from ray_jobs.design.forecast import A100_BYTES, ModelShape, memory_bytes, shape_of
from ray_jobs.design.points import Point, control_method
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.request import StudyRequest
from sweeps.common.script import StudyScript

#: Methods that take turns in one process, beside the study's own.
METHODS_TIMED: tuple[Method, ...] = ("lora", "qlora", "grit", "qgrit", "dora", "ia3", "shampoo")
RANKS, LAYERS = (4, 8, 16, 32), (4, 8, 16)
#: The long run's budget, as a multiple of the study's.
LONG = 6.0
#: Steps of the small presets, and what their seconds are multiplied by.
STEPS, SECONDS = {"smoke": 24}, 0.6


@dataclass(frozen=True)
class OverheadOptions:
    """The script's own options."""

    _argument_group_name = "this study"

    methods: list[str] | None = flag(
        None,
        f"which methods take turns (default: {' '.join(METHODS_TIMED)}, as many as fit into memory together)",
        choices=METHODS,
        metavar="NAME",
    )


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The small presets with 60 steps (smoke: 24) and at most two seeds.

    Quality is measured four times, for the curves.
    """
    if preset(name, method).small:
        usual = preset(name, method, steps or STEPS.get(name, 60), task)
        base = usual.base.changed(evaluations=4, interim_quality="quality")
        seconds = None if usual.budget_seconds is None else usual.budget_seconds * SECONDS
        return replace(usual, base=base, seeds=usual.seeds[:2], budget_seconds=seconds)
    usual = preset(name, method, steps, task)
    held = usual.base.optimization
    # Several models at once: half the micro-batch, the same effective batch.
    halved = {"micro_batch": max(1, held.micro_batch // 2), "accumulation": held.accumulation * 2}
    base = usual.base.changed(evaluations=4, interim_quality="quality", **halved)
    return replace(usual, base=base, seeds=usual.seeds[:1])


def fitting(base: RunConfig, shape: ModelShape | None, *, gpu: bool) -> tuple[Method, ...]:
    """The default methods beside the study's own.

    The first of them, as many as fit together on the preset's GPU.

    Says which do not.
    """
    others = tuple(method for method in METHODS_TIMED if method != base.method)
    kept = others
    while gpu and shape is not None and kept:
        if memory_bytes(base.changed(beside=kept), shape, gpu=True) <= A100_BYTES:
            break
        kept = kept[:-1]
    if kept != others:
        left_out = ", ".join(others[len(kept) :])
        print(
            f"note: {left_out} do not fit beside the others on one GPU, and are left out (--methods chooses)",
            file=sys.stderr,
        )
    return kept


def adapted_layer_counts(layers: int) -> list[int]:
    """Layers that carry adapters.

    4, 8, 16 in a deeper model, else a quarter, a half, three quarters of it.
    """
    if layers > LAYERS[1]:
        return [n for n in LAYERS if n < layers]
    return sorted({max(1, layers * part // 4) for part in (1, 2, 3)} - {layers})


def _layer_counts(base: RunConfig, shape: ModelShape | None) -> list[int]:
    if shape is not None:
        return adapted_layer_counts(shape.layers)
    print(
        f"note: how many layers {base.backbone.model} has is not known before it is loaded: nothing is "
        "measured over layers "
        "(add --point last_layers=4)",
        file=sys.stderr,
    )
    return []


def points(request: StudyRequest) -> list[Point]:
    """One session of all methods; then GRIT beside its control over T, rank and layers, and for long.

    Then both alone, for curves over time.
    """
    base = request.base
    every = base.grit.reprojection_freq or max(1, request.budget_steps // 10)
    shape = shape_of(base.backbone.model, resolve(base.backbone.model))
    named = request.own.methods
    others = tuple(method for method in named or () if method != base.method)
    if named is None:
        others = fitting(base, shape, gpu=not request.preset.small)
    pair: dict[str, Any] = {"beside": (control_method(base),), "evaluations": 1}
    measured = {**pair, "memory": True}
    designed: list[Point] = []
    if others:
        session = {"beside": others, "evaluations": 1, "memory": True}
        designed.append(Point.of("session", session, regime="step"))
    for cadence in (max(1, every // 2), every, 2 * every, 4 * every, None):
        designed.append(Point.of("cadence", {**pair, "T": cadence}, regime="step"))
    for rank in (r for r in RANKS if r >= base.grit.min_lora_rank):
        size = {"rank": rank, "alpha": base.adapter.alpha * rank / base.adapter.rank}
        designed.append(Point.of("rank", {**measured, **size}, regime="step"))
    for count in _layer_counts(base, shape):
        designed.append(Point.of("layers", {**measured, "last_layers": count}, regime="step"))
    for overrides in request.listed:
        designed.append(Point.of("layers", {**measured, **overrides}, regime="step"))
    return [*designed, Point.of("long", pair, budget=LONG, regime="step"), Point.of("curve", {})]


SCRIPT = StudyScript(
    name="overhead",
    description=__doc__,
    points=points,
    designs=("point",),
    presets=presets,
    own=OverheadOptions,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
