"""Do small batches break the curvature?

Micro-batch x accumulation, five diagnostics of stability, four mitigations (paper appendices G and H).

    python sweeps/small_batch.py                                 # embedded backbone
    python sweeps/small_batch.py --sizes 1 2 4 --seeds 1 2 3
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.cli.parser import flag
from grit.config.registry import Method
from grit.config.settings import at_least
from ray_jobs.design.points import Point, control_method
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.request import StudyRequest
from sweeps.common.script import StudyScript

SIZES = (1, 2, 4, 8, 16)
#: The paper's main setting, which batches are compared with (Table J1), and to which M3's damping refers.
REFERENCE = (8, 4)
#: Steps of the small presets.
STEPS = {"smoke": 16}


@dataclass(frozen=True)
class SmallBatchOptions:
    """The script's own options."""

    _argument_group_name = "this study"

    sizes: list[int] = flag(list(SIZES), "micro-batches and accumulations (1 2 4 8 16)", metavar="N")


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The small presets with 30 steps (smoke: 16), at most two seeds, quality as the likelihood of answers.

    Every trial measures its stability.
    """
    if not preset(name, method).small:
        usual = preset(name, method, steps, task)
        return replace(usual, base=usual.base.changed(stability=True, evaluations=1))
    usual = preset(name, method, steps or STEPS.get(name, 30), task)
    base = usual.base.changed(stability=True, evaluations=1, quality="answer_logprob", cov_update_freq=1)
    return replace(usual, base=base, seeds=usual.seeds[:2])


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


def _batch(micro: int, passes: int) -> dict[str, Any]:
    return {"micro_batch": micro, "accumulation": passes}


def _split(batch: int, largest: int) -> dict[str, Any]:
    """An effective batch in the largest micro-batches that divide it."""
    micro = max(size for size in range(1, min(batch, largest) + 1) if batch % size == 0)
    return _batch(micro, batch // micro)


def points(request: StudyRequest) -> list[Point]:
    """The grid, the reference, and in the smallest regime every mitigation alone and combined.

    M4 where there is accumulation to be aware of.
    """
    sizes = sorted(set(request.own.sizes))
    for size in sizes:
        at_least(1).check("sizes", size)
    pairs = list(itertools.product(sizes, repeat=2))
    designed = [Point.of("reference", _batch(*REFERENCE))]
    designed += [Point.of("batch", _batch(micro, passes)) for micro, passes in pairs]
    # LoRA does not depend on how a batch is split: one run for each effective batch.
    batches = sorted({micro * passes for micro, passes in pairs} | {REFERENCE[0] * REFERENCE[1]})
    control = control_method(request.base)
    designed += [Point.of("first-order", _split(batch, max(sizes)), control) for batch in batches]
    least, mitigated = _batch(sizes[0], 1), mitigations(request.budget_steps)
    for count in (1, 2, 3):
        for names in itertools.combinations(mitigated, count):
            combined = {key: value for name in names for key, value in mitigated[name].items()}
            designed.append(Point.of("mitigation", {**least, **combined}))
    if sizes[-1] > 1:
        unaware = {**_batch(sizes[0], sizes[-1]), "accumulated_statistics": False}
        smoothed = {**unaware, "ema_decay": 0.9}
        for overrides in (unaware, smoothed, {**smoothed, "accumulated_statistics": True}):
            designed.append(Point.of("accumulation", overrides))
    return designed


SCRIPT = StudyScript(
    name="small_batch",
    description=__doc__,
    points=points,
    regimes=("step",),
    designs=(),
    presets=presets,
    own=SmallBatchOptions,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
