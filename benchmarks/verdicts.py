"""What the verdicts are worth: studies with a known truth, and a recorded one, decided seed by seed.

    python benchmarks/verdicts.py [--studies 200] [--replay FILE]

Scores are drawn with the variances that were measured of the embedded default's step-matched trials. Four
truths: `null`, where no setting differs; `null, noisy`, with the larger variances of time-matched trials on
shared cores; `one worse`, where one damping is four tolerances worse; `measured`, with the differences that
such a study measured. `recorded` replays a real study with many seeds (benchmarks/recorded/study.npz, or what
study_worlds.py has kept), whose seeds come in another order each time; nobody knows its truth, so a verdict
counts as false where all of its seeds together, each contrast alone, decide the other way. Each study grows
as `--decide` lets it, by the same code. A fixed design judges every contrast from its own values (Student's
t on its seeds), as before; it needs the number of seeds with which it decides the same share.

Ends in one line of JSON: the share of verdicts in reach that are decided, false verdicts per family, trials
over those of the fixed design, and how often studies leave a default or call a knob tuning-sensitive.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t
from study_worlds import (
    CENTER,
    MOST_SEEDS_DRAWN,
    NOISY,
    OAT,
    QUALITY,
    RECORDED,
    TOLERANCE,
    Truth,
    World,
    designed,
    drawn,
    recorded,
)

from analysis.evidence.corrected import FORGETTING_TOLERANCE
from analysis.evidence.noise import RegimeNoise
from analysis.evidence.point_summary import PointSummary
from analysis.stats.decisions import ERROR_RATE, Looks, Outcome
from analysis.stats.pooled_noise import NoiseModel
from analysis.studies.sensitivity.bands import Band, SettingVerdict
from analysis.studies.sensitivity.criteria import NEAR_BEST, RETENTION, Criterion, Judged, criteria_of
from analysis.studies.sensitivity.growth import worth_of_seeds
from analysis.studies.sensitivity.one_at_a_time import knob_value, sweep_of
from analysis.studies.sensitivity.recommend import picked
from grit.config.declared_knobs import KNOBS
from ray_jobs.records.sequential import FIRST_SEEDS, MOST_SEEDS, SHARED_SEEDS

MAX_TRIALS = 40
#: The row of the replays.
RECORDED_ROW = "recorded"
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
    shared = [p.point_id for p in world.points if p.is_control or p is world.center]
    counts = {p.point_id: SHARED_SEEDS if p.point_id in shared else FIRST_SEEDS for p in world.points}
    while True:
        points, noise = world.cut(counts)
        judged = Judged.of_regime(points, noise, "step", looks)
        assert judged is not None
        verdicts = criteria_of(judged)
        worth = worth_of_seeds(judged, verdicts)
        open_to = [key for key in sorted(worth, key=lambda k: -worth[k]) if counts[key[0]] < MOST_SEEDS]
        if not open_to or sum(counts.values()) >= MAX_TRIALS:
            left = _left_defaults(verdicts, points, noise, world.center)
            return Grown(verdicts=verdicts, trials=sum(counts.values()), left=left)
        counts[open_to[0][0]] += 1


def _left_defaults(
    verdicts: Verdicts, points: Sequence[PointSummary], noise: RegimeNoise, center: PointSummary
) -> int:
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
                    is_default=value == knob_value(center, knob),
                    point=point,
                    criteria=verdicts[knob, point.point_id],
                )
            )
        left += not picked(Band(knob=knob, regime="step", settings=tuple(settings)), noise).is_default
    return left


#: The right answer to a question: by criterion, knob and shown value.
Answers = dict[tuple[str, str, str], bool]


def answers(truth: Truth) -> Answers:
    """The right answer to every question that has noise in it."""
    right = {}
    for knob, values in OAT.items():
        sweep = {CENTER[knob]: (0.0, 0.0)}
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

    def add(self, study: Grown, points: Mapping[str, PointSummary], right: Answers) -> None:
        """One study; what `right` does not answer can be decided either way."""
        verdicts = study.verdicts
        wrong = {NEAR_BEST: False, RETENTION: False}
        for (knob, name), criteria in verdicts.items():
            value = str(points[name].config.setting(knob))
            for criterion in criteria:
                if criterion.name not in wrong or criterion.decision is None:
                    continue
                self._one(criterion.outcome, criterion, right.get((criterion.name, knob, value)), wrong)
        self.studies += 1
        self.trials += study.trials
        self.left += bool(study.left)
        self.families += len(wrong)
        self.false_families += sum(wrong.values())
        for knob in KNOBS:
            failed = [any(c.outcome == "fail" for c in v) for (k, _), v in verdicts.items() if k == knob]
            self.sensitive += 2 * sum(failed) > len(failed)

    def _one(
        self, outcome: Outcome, criterion: Criterion, right: bool | None, wrong: dict[str, bool]
    ) -> None:
        is_decided = outcome in ("pass", "fail")
        reach = outcome != "out of reach"
        self.asked += 1
        self.decided += is_decided
        self.in_reach += reach
        self.decided_in_reach += is_decided and reach
        if is_decided and right is not None and (outcome == "pass") != right:
            wrong[criterion.name] = True


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a fixed design asks of one contrast: whether it lies above minus the tolerance.

    Attributes:
        key: criterion, knob and shown value.
        differences: by seed and item; more is better.
    """

    key: tuple[str, str, str]
    differences: np.ndarray
    weights: np.ndarray
    tolerance: float

    def by_seed(self, seeds: int) -> np.ndarray:
        """Means over items of the first seeds."""
        means: np.ndarray = self.differences[:seeds] @ self.weights
        return means

    def decision(self, seeds: int) -> bool | None:
        """Student's t on the first seeds: above, below, or not told."""
        above = self.by_seed(seeds) + self.tolerance
        error = above.std(ddof=1) / np.sqrt(seeds)
        if abs(above.mean()) < t.isf(ERROR_RATE / 6, seeds - 1) * error:
            return None
        return bool(above.mean() >= 0)


def questions(world: World, seeds: int) -> list[Question]:
    """All that a fixed design with so many seeds asks; a setting's rival is the best other one."""
    asked = []
    for knob in KNOBS:
        sweep = sweep_of(world.points, knob, "step")
        ordered = sorted(sweep, key=lambda p: -_mean(world.noise.quality, p, seeds))
        for point in sweep:
            value, best = str(point.config.setting(knob)), ordered[point is ordered[0]]
            rivals = (
                (NEAR_BEST, world.noise.quality, best, TOLERANCE, 1.0),
                (RETENTION, world.noise.forgetting, world.center, FORGETTING_TOLERANCE, -1.0),
            )
            for name, model, rival, tolerance, sign in rivals:
                if point is not rival:
                    values = [model.scores[each.point_id].values for each in (point, rival)]
                    asked.append(
                        Question(
                            key=(name, knob, value),
                            differences=sign * (values[0] - values[1]),
                            weights=model.weights,
                            tolerance=tolerance,
                        )
                    )
    return asked


def _mean(model: NoiseModel, point: PointSummary, seeds: int) -> float:
    return float((model.scores[point.point_id].values[:seeds] @ model.weights).mean())


def decided_by_all(world: World) -> Answers:
    """What all seeds of a recorded study decide, each contrast alone; what they do not decide is left out."""
    right: Answers = {}
    for question in questions(world, world.seeds):
        decision = question.decision(world.seeds)
        if decision is not None:
            right[question.key] = decision
    return right


def fixed_share(world: World, seeds: int) -> float:
    """Share of the same questions that each contrast alone decides, with so many seeds of every setting."""
    return float(np.mean([question.decision(seeds) is not None for question in questions(world, seeds)]))


def seeds_of_fixed(worlds: Sequence[World], share: float) -> int | None:
    """With how many seeds a fixed design decides this share, on the mean over some worlds; None with none."""
    for seeds in range(2, worlds[0].seeds + 1):
        if np.mean([fixed_share(world, seeds) for world in worlds]) >= share:
            return seeds
    return None


def simulated(name: str) -> tuple[Callable[[np.random.Generator], World], Answers]:
    """Draws studies of one truth; with the right answers."""
    points = designed(CENTER, OAT, MOST_SEEDS_DRAWN)
    quality = NOISY if name == "null, noisy" else QUALITY
    return lambda generator: drawn(points, TRUTHS[name], quality, generator), answers(TRUTHS[name])


def replayed(path: Path) -> tuple[Callable[[np.random.Generator], World], Answers]:
    """The recorded study with its seeds in another order; with what all of them decide."""
    whole = recorded(path)
    return whole.shuffled, decided_by_all(whole)


def run(make: Callable[[np.random.Generator], World], right: Answers, studies: int) -> dict[str, Any]:
    """All studies of one truth."""
    generator, tally = np.random.default_rng(17), Tally()
    worlds = []
    for _ in range(studies):
        worlds.append(make(generator))
        by_id = {point.point_id: point for point in worlds[-1].points}
        tally.add(grown(worlds[-1]), by_id, right)
    share = tally.decided / tally.asked
    seeds, settings = seeds_of_fixed(worlds[:20], share), len(worlds[0].points)
    fixed = None if seeds is None else seeds * settings
    return {
        "studies": studies,
        "decided": share,
        "decided_of_in_reach": tally.decided_in_reach / tally.in_reach,
        "false_per_family": tally.false_families / tally.families,
        "trials": tally.trials / studies,
        "trials_of_fixed": fixed,
        "trials_over_fixed": None if fixed is None else tally.trials / studies / fixed,
        "decided_of_fixed_with_all_seeds": float(np.mean([fixed_share(w, w.seeds) for w in worlds[:20]])),
        "leave_the_default": tally.left / studies,
        "tuning_sensitive": tally.sensitive / (studies * len(KNOBS)),
    }


def main() -> None:
    """One row per truth."""
    parser = argparse.ArgumentParser(description="Verdicts on studies with a known truth.")
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--replay", type=Path, default=RECORDED)
    options = parser.parse_args()
    rows = {}
    for name in (*TRUTHS, RECORDED_ROW):
        make, right = replayed(options.replay) if name == RECORDED_ROW else simulated(name)
        rows[name] = run(make, right, options.studies)
        shown = {key: value if value is None else round(value, 3) for key, value in rows[name].items()}
        print(name, shown, flush=True)
    print(json.dumps({"benchmark": "verdicts", **rows}))


if __name__ == "__main__":
    main()
