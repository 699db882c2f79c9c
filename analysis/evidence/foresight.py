"""What a design can tell before it runs: from the noise of an earlier study of the same task and model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from analysis.evidence.load import load_study
from analysis.evidence.noise import regime_noise
from analysis.evidence.point_summary import measured_regimes, summarize_points
from analysis.stats.decisions import Looks, Question, decide, smallest_difference
from analysis.stats.pooled_noise import Contrast, NoiseModel
from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from ray_jobs.records.study_file import STUDY_FILE


@dataclass(frozen=True, kw_only=True)
class SeenNoise:
    """What is known of a metric's noise.

    Attributes:
        seed_setting: standard deviation of seed x setting.
        examples: standard error that the examples leave in a difference, however many seeds there are.
        source: where that is from.
    """

    seed_setting: float
    examples: float
    source: str

    def contrast(self, seeds: int, settings: int) -> Contrast:
        """The difference of two equal settings with so many seeds each."""
        by_seed = 2 * self.seed_setting**2 / seeds
        return Contrast(
            mean=0.0,
            error=math.sqrt(by_seed + self.examples**2),
            freedom=max(1.0, (settings - 1) * (seeds - 1)),
            seed_variance=by_seed,
            item_variance=self.examples**2,
            seeds=seeds,
        )


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What a design can tell of one metric.

    Attributes:
        first, most: the smallest difference from its bound that is told (with a probability of 80%) with the
            first and with the most seeds.
        seeds_needed: seeds that decide a setting which is equal to what it is compared with; None where no
            number that is allowed does.
    """

    first: float
    most: float
    seeds_needed: int | None


def foreseen(noise: SeenNoise, tolerance: float, *, first: int, settings: int, looks: Looks) -> Foreseen:
    """Of a family of so many settings, each judged against a tolerance."""
    differences = []
    for seeds in (first, looks.most_seeds):
        level = looks.spent_at(seeds) / settings
        differences.append(smallest_difference(noise.contrast(seeds, settings), level))
    return Foreseen(
        first=differences[0],
        most=differences[1],
        seeds_needed=_seeds_for_equals(noise, tolerance, first=first, settings=settings, looks=looks),
    )


def _seeds_for_equals(
    noise: SeenNoise, tolerance: float, *, first: int, settings: int, looks: Looks
) -> int | None:
    for seeds in range(first, looks.most_seeds + 1):
        question = Question.of(noise.contrast(seeds, settings), -tolerance)
        if decide([question] * settings, looks)[0].outcome == "pass":
            return seeds
    return None


def seen_noise(store: Path, config: RunConfig) -> dict[str, SeenNoise]:
    """By metric, the noise of the newest study in `store` with the same model, task, length and measure.

    Only of its trials that share those too: another rate, or other tasks before, stray otherwise.
    None of it where there is no such study with two seeds.
    """
    folders = sorted(store.glob(f"*/{STUDY_FILE}"), key=lambda path: -path.stat().st_mtime)
    for folder in (path.parent for path in folders):
        noise = _of_folder(folder, config)
        if noise:
            return noise
    return {}


def _of_folder(folder: Path, config: RunConfig) -> dict[str, SeenNoise]:
    try:
        data = load_study(folder)
    except ConfigError:
        return {}
    of_this_length = data.study.config.budget.amount == config.budget.amount
    if not of_this_length or _trains_like(data.study.config) != _trains_like(config):
        return {}
    same = [record for record in data.records if _trains_like(record.config) == _trains_like(config)]
    points = summarize_points(same)
    for regime in measured_regimes(points)[:1]:
        noise = regime_noise(data, [point for point in points if point.regime == regime])
        if noise is not None and noise.quality.several_seeds:
            return {
                "quality": _seen(noise.quality, folder.name),
                "forgetting": _seen(noise.forgetting, folder.name),
            }
    return {}


def _trains_like(config: RunConfig) -> tuple[object, ...]:
    """What two trials have in common, whichever budget their regime gives them."""
    return (
        config.backbone.model,
        config.task,
        config.sequence,
        config.optimization.learning_rate,
        config.evaluation.quality,
    )


def _seen(model: NoiseModel, source: str) -> SeenNoise:
    parts = [model.difference(*pair).item_variance for pair in pairwise(model.names)]
    return SeenNoise(
        seed_setting=math.sqrt(float(model.variances.variances.mean())),
        examples=math.sqrt(median(parts)) if parts else 0.0,
        source=f"the records of {source}",
    )


def foresight_rows(
    noise: dict[str, SeenNoise], tolerances: dict[str, float], *, first: int, settings: int, looks: Looks
) -> list[Sequence[str]]:
    """Rows (metric, tolerance, told with the first seeds, with the most, seeds for equals) as text."""
    rows: list[Sequence[str]] = []
    for name, seen in noise.items():
        tells = foreseen(seen, tolerances[name], first=first, settings=settings, looks=looks)
        needed = "out of reach" if tells.seeds_needed is None else str(tells.seeds_needed)
        rows.append(
            (name, f"{tolerances[name]:g}", f"{tells.first:.3g}", f"{tells.most:.3g}", needed, seen.source)
        )
    return rows
