"""Studies whose every score is known beforehand: drawn with a known truth, or recorded with many seeds.

    python benchmarks/study_worlds.py FOLDER FILE

keeps the step-matched trials of a real study for `verdicts.py --replay FILE`. Ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import builders  # noqa: E402 - the tests' maker of records

from analysis.evidence.load import load_study  # noqa: E402
from analysis.evidence.noise import RegimeNoise, regime_noise  # noqa: E402
from analysis.evidence.point_summary import PointSummary, control_of, summarize_points  # noqa: E402
from analysis.stats.arrays import Floats  # noqa: E402
from analysis.stats.pooled_noise import NoiseModel, SettingScores  # noqa: E402
from analysis.studies.sensitivity.one_at_a_time import default_point, knob_value, sweep_of  # noqa: E402
from grit.config.declared_knobs import KNOBS  # noqa: E402
from grit.tasks.metrics import tolerance_of  # noqa: E402
from ray_jobs.design.points import one_at_a_time  # noqa: E402
from ray_jobs.records.sequential import MOST_SEEDS  # noqa: E402

RECORDED = Path(__file__).parent / "recorded" / "study.npz"
MEASURE = "answer_logprob"
TOLERANCE = tolerance_of(MEASURE)
#: Seeds of the largest fixed design that is simulated.
MOST_SEEDS_DRAWN = 40


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations of one metric's parts, and how many items it has."""

    seed: float
    seed_setting: float
    item: float
    item_setting: float
    rest: float
    items: int


#: As measured of the embedded default: quality is the log-likelihood of answers, in nats per token.
QUALITY = Noise(seed=0.025, seed_setting=0.006, item=0.055, item_setting=0.018, rest=0.04, items=100)
FORGETTING = Noise(seed=0.012, seed_setting=0.0045, item=0.065, item_setting=0.019, rest=0.031, items=60)
#: Of time-matched trials, whose steps follow the clock.
NOISY = replace(QUALITY, seed=0.031, seed_setting=0.016)
#: Overhead and footprint of a trial: mean, and standard deviation over trials.
OVERHEAD, FOOTPRINT = (0.025, 0.001), (0.82, 0.01)

CENTER = builders.CENTER
OAT = {"tau": (0.9, 0.999), "T": (5, 40), "lambda": (1e-4, 1e-1)}
#: Differences to the default, by knob and value: quality, forgetting.
Truth = Mapping[tuple[str, float], tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class World:
    """One study with all the seeds that it could have: everything that its trials would show.

    Attributes:
        points: the control and the one-at-a-time design, with a record for every seed.
        noise: the models of all seeds.
    """

    points: tuple[PointSummary, ...]
    noise: RegimeNoise

    @property
    def seeds(self) -> int:
        """How many each setting has."""
        return len(self.points[0].records)

    @property
    def center(self) -> PointSummary:
        """The default setting."""
        center = default_point(self.points, "step")
        assert center is not None
        return center

    def cut(self, counts: Mapping[str, int]) -> tuple[list[PointSummary], RegimeNoise]:
        """What is known with the first so many seeds of each setting."""
        points = []
        for point in self.points:
            run = point.records[: counts[point.point_id]]
            points.append(replace(point, records=run, planned_trials=run))
        return points, self._each(lambda name: np.arange(counts[name]))

    def shuffled(self, generator: np.random.Generator) -> World:
        """The same study, had its seeds come in another order."""
        order = generator.permutation(self.seeds)
        points = []
        for point in self.points:
            records = tuple(point.records[number] for number in order)
            points.append(replace(point, records=records, planned_trials=records))
        return World(points=tuple(points), noise=self._each(lambda _name: order))

    def _each(self, rows: Callable[[str], np.ndarray]) -> RegimeNoise:
        """The models of the chosen seeds of each setting, numbered anew."""
        names = [field.name for field in fields(RegimeNoise)]
        return RegimeNoise(**{name: _chosen(getattr(self.noise, name), rows) for name in names})


def _chosen(model: NoiseModel, rows: Callable[[str], np.ndarray]) -> NoiseModel:
    scores = {}
    for name, of_setting in model.scores.items():
        values = of_setting.values[rows(name)]
        scores[name] = SettingScores(seeds=tuple(range(len(values))), values=values)
    return replace(model, scores=scores)


def designed(
    center: Mapping[str, float], neighbours: Mapping[str, Sequence[float]], seeds: int
) -> tuple[PointSummary, ...]:
    """The control and the one-at-a-time design, with records for every seed."""
    study = builders.study(
        seeds=range(seeds),
        regimes=("step",),
        oat=one_at_a_time(dict(center), dict(neighbours)),
        quality=MEASURE,
    )
    records = [builders.ended(record, quality_metric=MEASURE) for record in builders.planned(study)]
    return tuple(summarize_points(records))


def _models(
    points: Sequence[PointSummary],
    quality: Sequence[Floats],
    forgetting: Sequence[Floats],
    costs: tuple[Sequence[Floats], Sequence[Floats]],
    tokens: Floats,
) -> RegimeNoise:
    """The models of scores that are given by setting, in the order of `points`: (seeds, items) each."""
    answers = _model(points, quality, np.ones(quality[0].shape[1]))
    return RegimeNoise(
        quality=answers,
        answers=answers,
        forgetting=_model(points, forgetting, tokens),
        overhead=_model(points, costs[0], np.ones(1)),
        footprint=_model(points, costs[1], np.ones(1)),
    )


def _model(points: Sequence[PointSummary], values: Sequence[Floats], weights: Floats) -> NoiseModel:
    scores = {}
    for point, of_setting in zip(points, values, strict=True):
        seeds = tuple(range(len(of_setting)))
        scores[point.point_id] = SettingScores(seeds=seeds, values=np.asarray(of_setting, dtype=float))
    return NoiseModel(scores=scores, weights=weights / weights.sum())


def drawn(
    points: Sequence[PointSummary], truth: Truth, quality: Noise, generator: np.random.Generator
) -> World:
    """A study's scores: the control is as the default."""
    shifts = []
    for point in points:
        shift = (0.0, 0.0)
        for (knob, value), difference in truth.items():
            if point.config.uses_grit and point.config.setting(knob) == value:
                shift = difference
        shifts.append(shift)
    seeds = len(points[0].records)
    answers = _scores([shift[0] for shift in shifts], quality, seeds, generator)
    overhead = [generator.normal(*OVERHEAD, (seeds, 1)) for _ in points]
    footprint = [generator.normal(*FOOTPRINT, (seeds, 1)) for _ in points]
    forgetting = _scores([shift[1] for shift in shifts], FORGETTING, seeds, generator)
    models = _models(points, answers, forgetting, (overhead, footprint), np.ones(FORGETTING.items))
    return World(points=tuple(points), noise=models)


def _scores(means: Sequence[float], noise: Noise, seeds: int, generator: np.random.Generator) -> list[Floats]:
    seed = generator.normal(0, noise.seed, (seeds, 1))
    item = generator.normal(0, noise.item, (1, noise.items))
    # The seed x setting deviation that was measured holds the rest term's share in a mean over items.
    own = np.sqrt(max(0.0, noise.seed_setting**2 - noise.rest**2 / noise.items))
    scores = []
    for mean in means:
        parts = (
            generator.normal(0, own, (seeds, 1)),
            generator.normal(0, noise.item_setting, (1, noise.items)),
            generator.normal(0, noise.rest, (seeds, noise.items)),
        )
        scores.append(mean + seed + item + sum(parts))
    return scores


def keep(folder: Path, path: Path) -> None:
    """Keeps the step-matched trials of a real study, of all settings with the same seeds.

    Raises:
        ValueError: they have not, or too few for a study to grow, or another measure decides.
    """
    data = load_study(folder)
    points = [point for point in summarize_points(data.records) if point.regime == "step"]
    center, control = default_point(points, "step"), control_of(points, "step")
    assert center is not None
    assert control is not None
    ordered, neighbours = [control, center], {}
    for knob in KNOBS:
        others = [point for point in sweep_of(points, knob, "step") if point is not center]
        neighbours[knob] = [knob_value(point, knob) for point in others]
        ordered += others
    if len({point.seeds for point in ordered}) > 1 or len(center.seeds) < MOST_SEEDS:
        raise ValueError(f"{folder}: its settings need the same seeds, at least {MOST_SEEDS}")
    if center.quality_metric != MEASURE:
        raise ValueError(f"{folder}: decided by {center.quality_metric}, not by {MEASURE}")
    noise = regime_noise(data, ordered)
    assert noise is not None
    design = {"center": {knob: knob_value(center, knob) for knob in KNOBS}, "neighbours": neighbours}

    def stacked(model: NoiseModel) -> np.ndarray:
        """(settings, seeds, items)."""
        return np.stack([model.scores[p.point_id].values for p in ordered]).astype(np.float32)

    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        design=json.dumps(design),
        tokens=noise.forgetting.weights,
        quality=stacked(noise.quality),
        forgetting=stacked(noise.forgetting),
        overhead=stacked(noise.overhead),
        footprint=stacked(noise.footprint),
    )


def recorded(path: Path = RECORDED) -> World:
    """The study that `keep` has kept."""
    with np.load(path) as arrays:
        design = json.loads(str(arrays["design"]))
        points = designed(design["center"], design["neighbours"], arrays["quality"].shape[1])
        costs = (list(arrays["overhead"]), list(arrays["footprint"]))
        models = _models(points, list(arrays["quality"]), list(arrays["forgetting"]), costs, arrays["tokens"])
    return World(points=tuple(_priced(point, models) for point in points), noise=models)


def _priced(point: PointSummary, models: RegimeNoise) -> PointSummary:
    """The point with the recorded costs in its records, which criteria read as well."""
    records = []
    overhead, footprint = (m.scores[point.point_id].values[:, 0] for m in (models.overhead, models.footprint))
    for number, record in enumerate(point.records):
        costs = {"overhead": float(overhead[number]), "footprint": float(footprint[number])}
        records.append(builders.ended(record, quality_metric=MEASURE, **costs))
    return replace(point, records=tuple(records), planned_trials=tuple(records))


def main() -> None:
    """Keeps a study."""
    parser = argparse.ArgumentParser(description="Keeps a study for verdicts.py to replay.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    keep(options.folder, options.file)
    world = recorded(options.file)
    print(json.dumps({"benchmark": "study_worlds", "settings": len(world.points), "seeds": world.seeds}))


if __name__ == "__main__":
    main()
