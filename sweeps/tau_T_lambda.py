"""The main study: are GRIT's gains robust in tau, T and lambda?

One-at-a-time sweeps, a coarse grid and a multi-objective search.

python sweeps/tau_T_lambda.py --preset embedded
ray job submit --address ... --working-dir . -- python sweeps/tau_T_lambda.py --preset llama-3.2-3b ...
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python sweeps/x.py` puts sweeps/ there, not the repository

from ray_jobs.design.study import (
    Interval,
    Point,
    Search,
    control_method,
    grid,
    listed,
    one_at_a_time,
    small_batch,
)
from ray_jobs.design.study_presets import Preset
from sweeps.common.command import main
from sweeps.common.options import SweepOptions


def points(preset: Preset, options: SweepOptions) -> list[Point]:
    """The designed part.

    Each knob alone, their coarse interactions, the settings that were listed, a repeat in small batches.
    """
    grit = preset.base.grit
    center = {"tau": grit.rank_adaptation_threshold, "T": grit.reprojection_freq, "lambda": grit.kfac_damping}
    alone = one_at_a_time(center, preset.oat)
    again = (
        []
        if options.small_batch is None
        else small_batch(alone, options.small_batch, 1, control_method(preset.base))
    )
    return [*alone, *(grid(preset.grid) if preset.grid else []), *listed(options.listed), *again]


def search(preset: Preset, options: SweepOptions) -> Search | None:
    """The searched part, with T from 1/40 to 1/2.5 of the run."""
    steps = options.budget_steps
    space = {
        "tau": Interval(low=1e-3, high=0.2, complement=True),
        "T": Interval(low=max(1, steps // 40), high=max(2, 2 * steps // 5), integer=True),
        "lambda": Interval(low=1e-4, high=1e-1),
    }
    return Search(
        space=options.space or space,
        points=options.search_points,
        sampler=options.sampler,
        seed=options.seeds[0],
        max_overhead=options.max_overhead,
        max_footprint=options.max_footprint,
        stop_dominated=options.stop_dominated,
    )


if __name__ == "__main__":
    sys.exit(main("tau_T_lambda", __doc__ or "", points, search))
