"""What a planned study can tell, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grit.evaluation.scores import quality_name
from grit.tasks.metrics import tolerance_of
from ray_jobs.design.plan import Study
from sweeps.common.terminal_tables import foresight_table

#: The noise of the embedded default, as measured on two cores (docs/results/default_study.md): standard
#: deviation of seed x setting, and the standard error that its examples leave in a difference.
ASSUMED_NOISE: dict[str, dict[str, Any]] = {
    "quality": {"seed_setting": 0.006, "examples": 0.003, "source": "assumed: as measured of this preset"},
    "forgetting": {"seed_setting": 0.004, "examples": 0.003, "source": "assumed: as measured of this preset"},
}


def foresight(study: Study, preset: str, task_metric: str, output: Path) -> str:
    """What this design can tell, from an earlier study beside `output` or from what its preset assumes."""
    from analysis.evidence.corrected import FORGETTING_TOLERANCE
    from analysis.evidence.foresight import SeenNoise, foresight_rows, seen_noise
    from analysis.stats.decisions import looks_of

    noise = seen_noise(output.parent, study.base)
    if not noise and preset == "embedded" and not study.base.sequence.before:
        noise = {name: SeenNoise(**values) for name, values in ASSUMED_NOISE.items()}
    if not noise:
        several = study.sequential is not None or len(study.seeds) > 1
        would_say = "its own first trials will say" if several else "a pilot with --seeds 41 42 would say"
        return (
            "what this design can tell is not known: no study of this task and model with two seeds or more "
            f"lies beside its output; {would_say}"
        )
    metric = quality_name(study.base.evaluation.quality, task_metric)
    tolerances = {"quality": tolerance_of(metric), "forgetting": FORGETTING_TOLERANCE}
    first = len(study.seeds) if study.sequential is None else study.sequential.first_seeds
    grows = study.sequential is not None
    looks = looks_of(sequential=grows, seeds=len(study.seeds))
    settings = max(2, sum(point.method is None for point in study.points))
    rows = foresight_rows(noise, tolerances, first=first, settings=settings, looks=looks)
    return foresight_table(rows, first=first, most=looks.most_seeds)
