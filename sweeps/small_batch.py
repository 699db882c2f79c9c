"""Do small batches break the curvature?

Micro-batch x accumulation, five diagnostics of stability, four mitigations (paper appendices G and H).

python sweeps/small_batch.py                                 # embedded backbone
python sweeps/small_batch.py --sizes 1 2 4 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python sweeps/x.py` puts sweeps/ there, not the repository

from grit.config.registry import Method
from grit.config.settings import at_least
from ray_jobs.design.study import Point, control_method
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.command import main
from sweeps.common.options import SweepOptions

SIZES = (1, 2, 4, 8, 16)
#: The paper's main setting, which batches are compared with (Table J1), and to which M3's damping refers.
REFERENCE = (8, 4)


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The small presets with 30 steps (smoke: 16), at most two seeds, quality as the likelihood of answers.

    Every trial measures its stability.
    """
    small = not preset(name, method, None).resources.gpus
    found = preset(name, method, steps or ({"smoke": 16}.get(name, 30) if small else None), task)
    changes: dict[str, Any] = {"stability": True, "evaluations": 1}
    if small:
        changes |= {"quality": "answer_logprob", "grit": replace(found.base.grit, cov_update_freq=1)}
    return replace(found, base=found.base.changed(**changes), seeds=found.seeds[:2] if small else found.seeds)


def own(parser: argparse.ArgumentParser) -> None:
    """The script's own options."""
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=list(SIZES),
        metavar="N",
        help="micro-batches and accumulations (1 2 4 8 16)",
    )


def mitigations(steps: int) -> dict[str, dict[str, Any]]:
    """M1 to M3 of appendix G.4 by name.

    Exponential mean, burn-in of a quarter of the run, damping that grows as batches shrink.
    """
    quarter = max(1, steps // 4)
    return {
        "M1": {"ema_decay": 0.9},
        "M2": {"ng_warmup_steps": quarter, "reprojection_warmup_steps": quarter},
        "M3": {"damping_reference_batch": REFERENCE[0] * REFERENCE[1]},
    }


def _split(batch: int, largest: int) -> dict[str, Any]:
    """An effective batch in the largest micro-batches that divide it."""
    micro = max(size for size in range(1, min(batch, largest) + 1) if batch % size == 0)
    return {"micro_batch": micro, "accumulation": batch // micro}


def points(preset: Preset, options: SweepOptions) -> list[Point]:
    """The grid, the reference, and in the smallest regime every mitigation alone and combined.

    M4 where there is accumulation to be aware of.
    """
    sizes = sorted(set(options.own["sizes"]))
    for size in sizes:
        at_least(1).check("sizes", size)

    def regime(micro: int, passes: int) -> dict[str, Any]:
        return {"micro_batch": micro, "accumulation": passes}

    grid = [Point.of("batch", regime(micro, passes)) for micro, passes in itertools.product(sizes, repeat=2)]
    least, known = regime(sizes[0], 1), mitigations(options.budget_steps)
    chosen = [
        {**least, **{k: v for name in names for k, v in known[name].items()}}
        for count in (1, 2, 3)
        for names in itertools.combinations(known, count)
    ]
    unaware = {**regime(sizes[0], sizes[-1]), "accumulated_statistics": False}
    aware = [
        unaware,
        {**unaware, "ema_decay": 0.9},
        {**unaware, "accumulated_statistics": True, "ema_decay": 0.9},
    ]
    # LoRA does not depend on how a batch is split: one run for each effective batch.
    batches = sorted(
        {micro * passes for micro, passes in itertools.product(sizes, repeat=2)}
        | {REFERENCE[0] * REFERENCE[1]}
    )
    first_order = [
        Point.of("first-order", _split(batch, max(sizes)), control_method(preset.base)) for batch in batches
    ]
    return [
        Point.of("reference", regime(*REFERENCE)),
        *grid,
        *first_order,
        *(Point.of("mitigation", c) for c in chosen),
        *(Point.of("accumulation", a) for a in aware if sizes[-1] > 1),
    ]


def run(argv: Sequence[str] | None = None) -> int:
    """The study by its command line; returns the exit code."""
    return main(
        "small_batch",
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
