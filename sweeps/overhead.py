"""What GRIT's geometry costs: step times, tails, components, memory.

Over cadence, rank, layers and a long run (paper appendix F).

python sweeps/overhead.py                                    # embedded backbone
python sweeps/overhead.py --methods lora qlora qgrit --preset llama-3.2-3b ...
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

from grit.backbone import resolve
from grit.config.registry import METHODS, Method
from grit.config.run import RunConfig
from ray_jobs.design.forecast import A100_BYTES, ModelShape, memory_bytes, shape_of
from ray_jobs.design.study import Point, control_method
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.command import main
from sweeps.common.options import SweepOptions

#: Methods that take turns in one process, beside the study's own.
METHODS_TIMED: tuple[Method, ...] = ("lora", "qlora", "grit", "qgrit", "dora", "ia3", "shampoo")
RANKS, LAYERS = (4, 8, 16, 32), (4, 8, 16)
#: The long run's budget, as a multiple of the study's.
LONG = 6.0


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The small presets with 60 steps (smoke: 24) and at most two seeds.

    Quality is measured four times, for the curves.
    """
    small = not preset(name, method, None).resources.gpus
    found = preset(name, method, steps or ({"smoke": 24}.get(name, 60) if small else None), task)
    base = found.base.changed(evaluations=4)
    if not small:  # several models at once: half the micro-batch, the same effective batch
        base = base.changed(
            micro_batch=max(1, base.optimization.micro_batch // 2),
            accumulation=base.optimization.accumulation * 2,
        )
    return replace(
        found,
        base=base,
        seeds=found.seeds[:2] if small else found.seeds[:1],
        budget_seconds=found.budget_seconds * (0.6 if small else 1.0),
    )


def own(parser: argparse.ArgumentParser) -> None:
    """The script's own options."""
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=tuple(METHODS),
        metavar="NAME",
        help=f"which methods take turns (default: {' '.join(METHODS_TIMED)}, as many as fit into memory "
        "together)",
    )


def fitting(base: RunConfig, shape: ModelShape | None, *, gpu: bool) -> tuple[Method, ...]:
    """The default methods beside the study's own.

    The first of them as many as fit together on the preset's GPU; says which do not.
    """
    others = tuple(method for method in METHODS_TIMED if method != base.method)
    kept = others
    while (
        gpu
        and shape is not None
        and kept
        and memory_bytes(base.changed(beside=kept), shape, gpu=True) > A100_BYTES
    ):
        kept = kept[:-1]
    if kept != others:
        print(
            f"note: {', '.join(others[len(kept) :])} do not fit beside the others on one GPU, and are left "
            "out (--methods chooses)",
            file=sys.stderr,
        )
    return kept


def adapted_layer_counts(layers: int) -> list[int]:
    """Layers that carry adapters.

    4, 8, 16 where the model is deeper than that, else a quarter, a half, three quarters of it.
    """
    return (
        [n for n in LAYERS if n < layers]
        if layers > LAYERS[1]
        else sorted({max(1, layers * part // 4) for part in (1, 2, 3)} - {layers})
    )


def points(preset: Preset, options: SweepOptions) -> list[Point]:
    """One session of all methods; then GRIT beside its control over T, rank and layers, and for long.

    Then both alone, for curves over time.
    """
    base = preset.base
    control = control_method(base)
    pair = {"beside": (control,), "evaluations": 1}
    every = base.grit.reprojection_freq or max(1, options.budget_steps // 10)
    shape = shape_of(base.backbone.model, resolve(base.backbone.model))
    if shape is None:
        print(
            f"note: how many layers {base.backbone.model} has is not known before it is loaded: nothing is measured "
            "over layers (add --point last_layers=4)",
            file=sys.stderr,
        )
    named = options.own["methods"]
    others = (
        fitting(base, shape, gpu=preset.resources.gpus > 0)
        if named is None
        else tuple(method for method in named if method != base.method)
    )
    counts = [] if shape is None else adapted_layer_counts(shape.layers)
    session = (
        [Point.of("session", {"beside": others, "evaluations": 1, "memory": True}, regime="step")]
        if others
        else []
    )
    cadence = [
        Point.of("cadence", {**pair, "T": T}, regime="step")
        for T in (max(1, every // 2), every, 2 * every, 4 * every, None)
    ]
    ranks = [
        Point.of(
            "rank",
            {**pair, "memory": True, "rank": r, "alpha": base.adapter.alpha * r / base.adapter.rank},
            regime="step",
        )
        for r in RANKS
        if r >= base.grit.min_lora_rank
    ]
    layers = [Point.of("layers", {**pair, "memory": True, "last_layers": n}, regime="step") for n in counts]
    layers += [
        Point.of("layers", {**pair, "memory": True, **listed}, regime="step") for listed in options.listed
    ]
    long = [Point.of("long", pair, budget=LONG, regime="step")]
    return [*session, *cadence, *ranks, *layers, *long, Point.of("curve", {})]


def run(argv: Sequence[str] | None = None) -> int:
    """The study by its command line; returns the exit code."""
    return main("overhead", __doc__ or "", points, argv=argv, designs=("point",), presets=presets, own=own)


if __name__ == "__main__":
    sys.exit(run())
