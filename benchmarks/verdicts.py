"""What the verdicts are worth: studies with a known truth, decided seed by seed.

    python benchmarks/verdicts.py [--studies 200]

Scores are drawn with the variances that were measured of the embedded default's step-matched trials. Four
truths: `null`, where no setting differs; `null, noisy`, with the larger variances of time-matched trials on
shared cores; `one worse`, where one damping is four tolerances worse; `measured`, with the differences that
such a study measured. Each study grows as `--decide` lets it, by the same code. A fixed design judges every
contrast from its own values (Student's t on its seeds), as before; it needs the number of seeds with which it
decides the same share.

Ends in one line of JSON: the share of verdicts in reach that are decided, false verdicts per family, trials
over those of the fixed design, and how often studies leave a default or call a knob tuning-sensitive.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import builders  # noqa: E402 - the tests' maker of records

from analysis.evidence.corrected import FORGETTING_TOLERANCE  # noqa: E402
from analysis.evidence.noise import RegimeNoise  # noqa: E402
from analysis.evidence.point_summary import PointSummary, summarize_points  # noqa: E402
from analysis.stats.decisions import ERROR_RATE, Looks, Outcome  # noqa: E402
from analysis.stats.pooled_noise import NoiseModel, SettingScores  # noqa: E402
from analysis.studies.sensitivity.bands import Band, SettingVerdict  # noqa: E402
from analysis.studies.sensitivity.criteria import (  # noqa: E402
    NEAR_BEST,
    RETENTION,
    Criterion,
    Judged,
    criteria_of,
)
from analysis.studies.sensitivity.growth import worth_of_seeds  # noqa: E402
from analysis.studies.sensitivity.one_at_a_time import default_point, knob_value, sweep_of  # noqa: E402
from analysis.studies.sensitivity.recommend import picked  # noqa: E402
from grit.config.declared_knobs import KNOBS  # noqa: E402
from grit.tasks.metrics import tolerance_of  # noqa: E402
from ray_jobs.design.points import one_at_a_time  # noqa: E402
from ray_jobs.records.sequential import FIRST_SEEDS, MOST_SEEDS, SHARED_SEEDS  # noqa: E402

MAX_TRIALS = 40
#: Seeds of the largest fixed design that is looked at.
MOST_FIXED = 40
TOLERANCE = tolerance_of("answer_logprob")


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

OAT = {"tau": (0.9, 0.999), "T": (5, 40), "lambda": (1e-4, 1e-1)}
#: Differences to the default, by knob and value: quality, forgetting.
Truth = Mapping[tuple[str, float], tuple[float, float]]
TRUTHS: dict[str, Truth] = {
    "null": {},
    "null, noisy": {},
    "one worse": {("lambda", 1e-1): (-4 * TOLERANCE, 0.0)},
    "measured": {
        ("tau", 0.9): (-0.064, -0.017),
        ("tau", 0.999): (0.015, -0.001),
        ("T", 5): (0.003, 0.001),
        ("T", 40): (0.012, 0.0),
        ("lambda", 1e-4): (-0.025, -0.011),
        ("lambda", 1e-1): (0.035, 0.026),
    },
}


@dataclass(frozen=True, kw_only=True)
class World:
    """One simulated study: everything that its trials would show, drawn beforehand."""

    points: tuple[PointSummary, ...]
    quality: dict[str, np.ndarray]
    forgetting: dict[str, np.ndarray]
    overhead: dict[str, np.ndarray]
    footprint: dict[str, np.ndarray]

    def cut(self, counts: Mapping[str, int]) -> tuple[list[PointSummary], RegimeNoise]:
        """What is known with so many seeds of each setting."""
        points = []
        for point in self.points:
            run = point.records[: counts[point.point_id]]
            points.append(replace(point, records=run, planned_trials=run))
        even = np.full(QUALITY.items, 1 / QUALITY.items)
        quality = _model(points, self.quality, even)
        forgetting = _model(points, self.forgetting, np.full(FORGETTING.items, 1 / FORGETTING.items))
        return points, RegimeNoise(
            quality=quality,
            answers=quality,
            forgetting=forgetting,
            overhead=_model(points, self.overhead, np.ones(1)),
            footprint=_model(points, self.footprint, np.ones(1)),
        )


def _model(
    points: Sequence[PointSummary], values: Mapping[str, np.ndarray], weights: np.ndarray
) -> NoiseModel:
    scores = {}
    for point in points:
        count = len(point.records)
        scores[point.point_id] = SettingScores(
            seeds=tuple(range(count)), values=values[point.point_id][:count]
        )
    return NoiseModel(scores=scores, weights=weights)


def made_points() -> tuple[PointSummary, ...]:
    """The control and the one-at-a-time design, with records for every seed."""
    study = builders.study(
        seeds=range(MOST_FIXED),
        regimes=("step",),
        oat=one_at_a_time(builders.CENTER, OAT),
        quality="answer_logprob",
    )
    records = [builders.ended(r, quality_metric="answer_logprob") for r in builders.planned(study)]
    return tuple(summarize_points(records))


def drawn(
    points: Sequence[PointSummary], truth: Truth, quality: Noise, generator: np.random.Generator
) -> World:
    """A study's scores: the control is as the default."""
    shifts = {}
    for point in points:
        shift = (0.0, 0.0)
        for (knob, value), difference in truth.items():
            if point.config.uses_grit and point.config.setting(knob) == value:
                shift = difference
        shifts[point.point_id] = shift
    return World(
        points=tuple(points),
        quality=_scores({name: s[0] for name, s in shifts.items()}, quality, generator),
        overhead={name: generator.normal(*OVERHEAD, (MOST_FIXED, 1)) for name in shifts},
        footprint={name: generator.normal(*FOOTPRINT, (MOST_FIXED, 1)) for name in shifts},
        forgetting=_scores({name: s[1] for name, s in shifts.items()}, FORGETTING, generator),
    )


def _scores(
    means: Mapping[str, float], noise: Noise, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    seed = generator.normal(0, noise.seed, (MOST_FIXED, 1))
    item = generator.normal(0, noise.item, (1, noise.items))
    # The seed x setting deviation that was measured holds the rest term's share in a mean over items.
    own = np.sqrt(max(0.0, noise.seed_setting**2 - noise.rest**2 / noise.items))
    scores = {}
    for name, mean in means.items():
        parts = (
            generator.normal(0, own, (MOST_FIXED, 1)),
            generator.normal(0, noise.item_setting, (1, noise.items)),
            generator.normal(0, noise.rest, (MOST_FIXED, noise.items)),
        )
        scores[name] = mean + seed + item + sum(parts)
    return scores


Verdicts = dict[tuple[str, str], tuple[Criterion, ...]]


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A sequential study at its end: verdicts, trials, and how many knobs' advice leaves the default."""

    verdicts: Verdicts
    trials: int
    left: int


def grown(world: World) -> Grown:
    """A sequential study."""
    looks = Looks(sequential=True, most_seeds=MOST_SEEDS)
    center = default_point(world.points, "step")
    assert center is not None
    counts = {p.point_id: SHARED_SEEDS if p.is_control or p is center else FIRST_SEEDS for p in world.points}
    while True:
        points, noise = world.cut(counts)
        judged = Judged.of_regime(points, noise, "step", looks)
        assert judged is not None
        verdicts = criteria_of(judged)
        worth = worth_of_seeds(judged, verdicts)
        open_to = [key for key in sorted(worth, key=lambda k: -worth[k]) if counts[key[0]] < MOST_SEEDS]
        if not open_to or sum(counts.values()) >= MAX_TRIALS:
            left = _left_defaults(verdicts, points, noise)
            return Grown(verdicts=verdicts, trials=sum(counts.values()), left=left)
        counts[open_to[0][0]] += 1


def _left_defaults(verdicts: Verdicts, points: Sequence[PointSummary], noise: RegimeNoise) -> int:
    """How many knobs are advised to leave their default."""
    left = 0
    for knob in KNOBS:
        settings = []
        for point in sweep_of(points, knob, "step"):
            value = knob_value(point, knob)
            settings.append(
                SettingVerdict(
                    knob=knob,
                    value=value,
                    is_default=value == builders.CENTER[knob],
                    point=point,
                    criteria=verdicts[knob, point.point_id],
                )
            )
        left += not picked(Band(knob=knob, regime="step", settings=tuple(settings)), noise).is_default
    return left


def answers(truth: Truth) -> dict[tuple[str, str, str], bool]:
    """The right answer to every question that has noise in it: by criterion, knob and shown value."""
    right = {}
    for knob, values in OAT.items():
        sweep = {builders.CENTER[knob]: (0.0, 0.0)}
        sweep |= {value: truth.get((knob, value), (0.0, 0.0)) for value in values}
        best = max(quality for quality, _ in sweep.values())
        for value, (quality, forgetting) in sweep.items():
            right[NEAR_BEST, knob, str(value)] = quality - best >= -TOLERANCE
            right[RETENTION, knob, str(value)] = forgetting <= FORGETTING_TOLERANCE
    return right


@dataclass
class Tally:
    """Counts over studies of one truth."""

    studies: int = 0
    trials: int = 0
    asked: int = 0
    decided: int = 0
    in_reach: int = 0
    decided_in_reach: int = 0
    families: int = 0
    false_families: int = 0
    sensitive: int = 0
    left: int = 0

    def add(self, study: Grown, points: Mapping[str, PointSummary], truth: Truth) -> None:
        """One study."""
        verdicts = study.verdicts
        right, wrong = answers(truth), {NEAR_BEST: False, RETENTION: False}
        for (knob, name), criteria in verdicts.items():
            value = str(points[name].config.setting(knob))
            for criterion in criteria:
                if criterion.name not in wrong or criterion.decision is None:
                    continue
                self._one(criterion.outcome, criterion, right[criterion.name, knob, value], wrong)
        self.studies += 1
        self.trials += study.trials
        self.left += bool(study.left)
        self.families += len(wrong)
        self.false_families += sum(wrong.values())
        for knob in KNOBS:
            failed = [any(c.outcome == "fail" for c in v) for (k, _), v in verdicts.items() if k == knob]
            self.sensitive += 2 * sum(failed) > len(failed)

    def _one(self, outcome: Outcome, criterion: Criterion, right: bool, wrong: dict[str, bool]) -> None:
        is_decided = outcome in ("pass", "fail")
        reach = outcome != "out of reach"
        self.asked += 1
        self.decided += is_decided
        self.in_reach += reach
        self.decided_in_reach += is_decided and reach
        if is_decided and (outcome == "pass") != right:
            wrong[criterion.name] = True


def fixed_share(world: World, seeds: int) -> float:
    """Share of the same questions that each contrast alone decides, with so many seeds of every setting."""
    center = default_point(world.points, "step")
    assert center is not None
    level = ERROR_RATE / 6
    decided, asked = 0, 0
    for knob in KNOBS:
        sweep = sweep_of(world.points, knob, "step")
        best = max(sweep, key=lambda p: float(world.quality[p.point_id][:seeds].mean()))
        for point in sweep:
            pairs = (
                (world.quality, best, TOLERANCE, 1.0),
                (world.forgetting, center, FORGETTING_TOLERANCE, -1.0),
            )
            for values, reference, tolerance, sign in pairs:
                if point is reference:
                    continue
                asked += 1
                decided += _alone(
                    sign * (values[point.point_id] - values[reference.point_id])[:seeds], tolerance, level
                )
    return decided / asked


def _alone(differences: np.ndarray, tolerance: float, level: float) -> bool:
    by_seed = differences.mean(axis=1)
    error = by_seed.std(ddof=1) / np.sqrt(len(by_seed))
    return bool(abs(by_seed.mean() + tolerance) >= t.isf(level, len(by_seed) - 1) * error)


def seeds_of_fixed(worlds: Sequence[World], share: float) -> int:
    """With how many seeds a fixed design decides this share, on the mean over some worlds."""
    for seeds in range(2, MOST_FIXED):
        if np.mean([fixed_share(world, seeds) for world in worlds]) >= share:
            return seeds
    return MOST_FIXED


def run(name: str, studies: int, points: Sequence[PointSummary]) -> dict[str, Any]:
    """All studies of one truth."""
    generator, tally = np.random.default_rng(17), Tally()
    by_id = {point.point_id: point for point in points}
    worlds = []
    for _ in range(studies):
        quality = NOISY if name == "null, noisy" else QUALITY
        worlds.append(drawn(points, TRUTHS[name], quality, generator))
        tally.add(grown(worlds[-1]), by_id, TRUTHS[name])
    share = tally.decided / tally.asked
    fixed = seeds_of_fixed(worlds[:20], share) * len(points)
    return {
        "studies": studies,
        "decided": share,
        "decided_of_in_reach": tally.decided_in_reach / tally.in_reach,
        "false_per_family": tally.false_families / tally.families,
        "trials": tally.trials / studies,
        "trials_of_fixed": fixed,
        "trials_over_fixed": tally.trials / studies / fixed,
        "leave_the_default": tally.left / studies,
        "tuning_sensitive": tally.sensitive / (studies * len(KNOBS)),
    }


def main() -> None:
    """One row per truth."""
    parser = argparse.ArgumentParser(description="Verdicts on studies with a known truth.")
    parser.add_argument("--studies", type=int, default=200)
    options = parser.parse_args()
    points = made_points()
    rows = {}
    for name in TRUTHS:
        rows[name] = run(name, options.studies, points)
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
    print(json.dumps({"benchmark": "verdicts", **rows}))


if __name__ == "__main__":
    main()
