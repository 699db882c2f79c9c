"""The main study: are GRIT's gains robust in tau, T and lambda?

One-at-a-time sweeps, a coarse grid and a multi-objective search.

    python sweeps/tau_T_lambda.py --preset embedded
    ray job submit --address ... --working-dir . -- python sweeps/tau_T_lambda.py --preset llama-3.2-3b ...
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from dataclasses import replace

from grit.config.declared_knobs import KNOBS
from grit.config.overrides import with_overrides
from ray_jobs.design.points import Point, control_method, grid, listed, one_at_a_time, small_batch
from ray_jobs.design.search_space import Search, SearchRange
from sweeps.common.request import StudyRequest
from sweeps.common.script import StudyScript


def points(request: StudyRequest) -> list[Point]:
    """The designed part.

    Each knob alone, their coarse interactions, the settings that were listed, a repeat in small batches.
    """
    preset = request.preset
    alone = one_at_a_time({name: request.base.setting(name) for name in KNOBS}, preset.oat)
    again: list[Point] = []
    if request.small_batch is not None:
        again = small_batch(alone, request.small_batch, 1, control_method(request.base))
    crossed = grid(preset.grid) if preset.grid else []
    return _with_ladder(request, [*alone, *crossed, *listed(request.listed), *again])


def _with_ladder(request: StudyRequest, points: list[Point]) -> list[Point]:
    """The highest tau of the sweep, all else at the default, is scored as the lower ones would leave it.

    So it is with a quarter and a half of its directions. What training has left out cannot be had back, so
    that the least truncated run has the ladder.
    """
    base, taus = request.base, request.preset.oat.get("tau", ())
    every = sorted({*taus, base.grit.tau})
    if len(every) < 2 or base.grit.suppression == "gate" or base.grit.rank_policy == "growth":
        return points
    source = with_overrides(base, {"tau": every[-1]})
    rank = base.adapter.smallest_rank
    directions = sorted({k for k in (rank // 4, rank // 2) if k >= 1})
    rungs = (("ladder", (*every[:-1], *directions)),)
    for place, point in enumerate(points):
        if point.method is None and with_overrides(base, dict(point.overrides)) == source:
            points[place] = replace(point, audits=rungs)
    return points


def search(request: StudyRequest) -> Search:
    """The searched part, with T from 1/40 to 1/2.5 of the run."""
    steps, options = request.budget_steps, request.search
    space = {
        "tau": SearchRange(low=1e-3, high=0.2, complement=True),
        "T": SearchRange(low=max(1, steps // 40), high=max(2, 2 * steps // 5), integer=True),
        "lambda": SearchRange(low=1e-4, high=1e-1),
    }
    swept = {name: interval for name, interval in space.items() if name in request.preset.oat}
    return Search(
        space=request.space or swept,
        points=request.search_points,
        sampler=options.sampler,
        seed=request.seeds[0],
        max_overhead=options.max_overhead,
        max_footprint=options.max_footprint,
        stop_dominated=options.stop_dominated,
    )


SCRIPT = StudyScript(name="tau_T_lambda", description=__doc__, points=points, search=search, decides=True)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
