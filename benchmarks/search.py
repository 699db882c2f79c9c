"""How fast searches find the front: ours, Optuna's, Syne Tune's MO-ASHA and chance, on recorded trainings.

    python benchmarks/search.py [--seeds 20] [--trainings 30]
    python -m pip install --no-deps syne-tune==0.16.0      # once, for MO-ASHA; it is left out otherwise

benchmarks/recorded/curves.json holds 256 trainings of the embedded default all over the space of tau, T and
lambda, with their four objectives at a quarter, half, three quarters and all of the steps
(benchmarks/record_curves.py made it). A search is answered with the recorded training next to what it asks
for. A training costs the same seconds whatever its knobs, since all have the same steps: the median of the
recorded ones; a trial that is stopped at a rung costs its share of that, and its scores there are no result.
Nobody is given the designed settings that a study would have measured before.

Measured is the hypervolume of the finished trainings' objectives, each scaled to the recorded range (worst
recorded value plus a tenth as the reference), as a share of that of all recorded trainings. Ends in one line
of JSON: the mean at every tenth of the budget, the budget in seconds, and for every rival the tenths at which
ours is behind: where the 95% interval of the difference, paired by seed, lies below zero.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.stats import t
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import builders  # noqa: E402 - the tests' maker of records
import record_curves  # noqa: E402

from analysis.stats.arrays import Floats  # noqa: E402
from analysis.stats.pareto import hypervolume, non_dominated  # noqa: E402
from grit.training.measurements import OBJECTIVES, Measurements  # noqa: E402
from ray_jobs.design.search_space import Search, SearchRange  # noqa: E402
from ray_jobs.records.trial_record import TrialRecord  # noqa: E402
from ray_jobs.schedule.search import OptunaSearch  # noqa: E402

NAMES = tuple(OBJECTIVES)
#: What makes a cost, lower is better, of each objective.
SIGNS = np.array([-1.0 if OBJECTIVES[name].direction == "maximize" else 1.0 for name in NAMES])
TENTHS = 10
#: By how much one trial must be better than another at a rung to count as better beyond noise, as
#: `--stop-dominated` asks: two paired standard errors of the embedded default.
BEYOND = {"quality": 0.012, "retention": 0.006, "overhead": 0.0, "footprint": 0.0}


def position(interval: SearchRange, value: float) -> float:
    """Where a value lies between the ends of its range, from 0 to 1, on the range's own scale."""
    inside = 1 - value if interval.complement else value
    if interval.log:
        return math.log(inside / interval.low) / math.log(interval.high / interval.low)
    return (inside - interval.low) / (interval.high - interval.low)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The recorded trainings.

    Attributes:
        positions: (trainings, knobs) from 0 to 1. values: (trainings, rungs, objectives) as recorded.
        costs: the same, lower is better, scaled by the last rung's range. seconds: of one training.
    """

    space: dict[str, SearchRange]
    positions: Floats
    values: Floats
    costs: Floats
    seconds: float

    def nearest(self, knobs: dict[str, Any]) -> int:
        """The training next to a setting."""
        own = np.array([position(interval, float(knobs[name])) for name, interval in self.space.items()])
        return int(((self.positions - own) ** 2).sum(axis=1).argmin())


def read_recording(path: Path) -> Recording:
    """The file of benchmarks/record_curves.py."""
    rows = json.loads(path.read_text(encoding="utf8"))
    space = dict(record_curves.searched_space().space)
    places = [[position(space[name], row["knobs"][name]) for name in space] for row in rows]
    values = np.array([_rungs(row) for row in rows])
    costs = values * SIGNS
    best, worst = costs[:, -1].min(axis=0), costs[:, -1].max(axis=0)
    return Recording(
        space=space,
        positions=np.array(places),
        values=values,
        costs=(costs - best) / (worst - best),
        seconds=statistics.median(row["train_seconds"] for row in rows),
    )


def _rungs(row: dict[str, Any]) -> list[list[float]]:
    return [[rung[name] for name in NAMES] for rung in row["rungs"]]


class Searcher(Protocol):
    """A search that is replayed: asked for a setting, told of every rung, and of the end."""

    def suggest(self) -> dict[str, Any]:
        """The next setting."""

    def stops(self, rung: int, training: int) -> bool:
        """Whether the running trial ends at this rung (from 0), which is not its last."""

    def ended(self, rung: int, training: int) -> None:
        """It has ended at this rung."""


class OptunaSearcher:
    """A sampler of `sweeps/tau_T_lambda.py`; with `exits`, as `--stop-dominated` would stop its trials."""

    def __init__(self, recording: Recording, seed: int, *, sampler: str, exits: bool = False) -> None:
        self._recording, self._exits = recording, exits
        search = Search(space=recording.space, points=0, sampler=sampler, seed=seed)
        self._optuna = OptunaSearch(search)
        self._ticket = ""
        self._record = builders.planned(builders.study(seeds=(41,), regimes=("step",)))[1]
        self._finished: list[int] = []
        self._margins = np.array([BEYOND[name] for name in NAMES])

    def suggest(self) -> dict[str, Any]:
        """Of Optuna."""
        self._ticket, knobs = self._optuna.ask()
        return knobs

    def stops(self, rung: int, training: int) -> bool:
        """Where a finished trial was better beyond noise at this rung in quality and retention, no dearer."""
        if not self._exits or not self._finished:
            return False
        costs = self._recording.values[:, rung] * SIGNS
        others = costs[self._finished]
        return bool((others <= costs[training] - self._margins).all(axis=1).any())

    def ended(self, rung: int, training: int) -> None:
        """Told as a study tells it: a stopped trial has no outcome."""
        if rung < self._recording.values.shape[1] - 1:
            self._optuna.tell(self._ticket, [self._outcome(training, "stopped")])
            return
        self._finished.append(training)
        self._optuna.tell(self._ticket, [self._outcome(training, "completed")])

    def _outcome(self, training: int, status: str) -> TrialRecord:
        values = dict(zip(NAMES, self._recording.values[training, -1].tolist(), strict=True))
        ended: TrialRecord = self._record.changed(status=status, measured=Measurements(**values))
        return ended


class MoashaSearcher:
    """Syne Tune's multi-objective ASHA: random settings, halved at rungs by a sort into fronts."""

    def __init__(self, recording: Recording, seed: int) -> None:
        from syne_tune.config_space import randint, uniform
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        np.random.seed(seed)  # its samplers draw from numpy's global state
        self._recording = recording
        space: dict[str, Any] = {}
        for name, interval in recording.space.items():
            kind = randint if interval.integer and not interval.log else uniform
            ends = (interval.low, interval.high)
            space[name] = kind(*(map(math.log, ends) if interval.log else ends))
        rungs = recording.values.shape[1]
        self._scheduler = MOASHA(
            space,
            list(NAMES),
            time_attr="rung",
            max_t=rungs,
            grace_period=1,
            reduction_factor=2,
            random_seed=seed,
        )
        self._trial: Any = None
        self._count = 0

    def suggest(self) -> dict[str, Any]:
        """At random."""
        from syne_tune.backend.trial_status import Trial

        config = self._scheduler.suggest().config
        self._trial = Trial(self._count, config, datetime.datetime.now())
        self._count += 1
        self._scheduler.on_trial_add(self._trial)
        knobs = {}
        for name, interval in self._recording.space.items():
            value = math.exp(config[name]) if interval.log else config[name]
            value = round(value) if interval.integer else value
            knobs[name] = 1 - value if interval.complement else value
        return knobs

    def _result(self, rung: int, training: int) -> dict[str, Any]:
        costs = self._recording.costs[training, rung]
        return {"rung": rung + 1, **dict(zip(NAMES, costs.tolist(), strict=True))}

    def stops(self, rung: int, training: int) -> bool:
        """Its own decision."""
        return str(self._scheduler.on_trial_result(self._trial, self._result(rung, training))) == "STOP"

    def ended(self, rung: int, training: int) -> None:
        """Where it was not stopped, it is told of the end."""
        if rung == self._recording.values.shape[1] - 1:
            self._scheduler.on_trial_complete(self._trial, self._result(rung, training))


MakeSearcher = Callable[[Recording, int], Searcher]
OURS = "ours"
SEARCHERS: dict[str, MakeSearcher] = {
    OURS: partial(OptunaSearcher, sampler=Search(space={}, points=0).sampler),
    "ours, early exits": partial(OptunaSearcher, sampler=Search(space={}, points=0).sampler, exits=True),
    "tpe": partial(OptunaSearcher, sampler="tpe"),
    "nsga2": partial(OptunaSearcher, sampler="nsga2"),
    "moasha": MoashaSearcher,
    "random": partial(OptunaSearcher, sampler="random"),
}


def replay(recording: Recording, searcher: Searcher, trainings: int) -> list[float]:
    """Hypervolume at every tenth of the budget, as a share of all recorded trainings'."""
    reference = np.full(len(NAMES), 1.1)
    whole = hypervolume(recording.costs[:, -1], reference)
    rungs = recording.values.shape[1]
    spent, finished, reached = 0.0, [], [0.0] * TENTHS
    while spent < trainings:
        training = recording.nearest(searcher.suggest())
        last = next((rung for rung in range(rungs - 1) if searcher.stops(rung, training)), rungs - 1)
        spent += (last + 1) / rungs
        searcher.ended(last, training)
        if last < rungs - 1 or spent > trainings:
            continue
        finished.append(recording.costs[training, -1])
        front = np.array(finished)
        volume = hypervolume(front[non_dominated(front)], reference) / whole
        first = math.ceil(spent / trainings * TENTHS - 1e-9) - 1
        reached[first:] = [volume] * (TENTHS - first)
    return reached


def behind(own: Floats, other: Floats) -> list[int]:
    """Tenths (from 1) at which the interval of the mean difference (seeds, tenths) lies below zero."""
    gaps = own - other
    error = gaps.std(axis=0, ddof=1) / math.sqrt(len(gaps))
    high = gaps.mean(axis=0) + t.isf(0.025, len(gaps) - 1) * error
    return [int(place) + 1 for place in np.flatnonzero(high < 0)]


def main() -> None:
    """Replays all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trainings", type=int, default=30, help="budget, in whole trainings")
    arguments = parser.parse_args()
    recording = read_recording(record_curves.FILE)
    curves: dict[str, Floats] = {}
    left_out = []
    for name, make in SEARCHERS.items():
        try:
            seeds = tqdm(range(arguments.seeds), desc=name, unit="seed")
            curves[name] = np.array(
                [replay(recording, make(recording, seed), arguments.trainings) for seed in seeds]
            )
        except ModuleNotFoundError as error:
            left_out.append(f"{name}: {error}")
            continue
        print(f"{name:18}", " ".join(f"{value:.3f}" for value in curves[name].mean(axis=0)))
    print(
        json.dumps(
            {
                "benchmark": "search",
                "seeds": arguments.seeds,
                "trainings": arguments.trainings,
                "seconds": round(arguments.trainings * recording.seconds),
                "hypervolume": {name: [round(v, 3) for v in c.mean(axis=0)] for name, c in curves.items()},
                "behind": {name: behind(curves[OURS], c) for name, c in curves.items() if name != OURS},
                "left_out": left_out,
            }
        )
    )


if __name__ == "__main__":
    main()
