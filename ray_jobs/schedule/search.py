"""Optuna behind ask and tell: four objectives, designed results as a warm start.

The only importer of optuna.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from scipy.stats import qmc
from sqlalchemy.exc import SQLAlchemyError

from grit.errors import ConfigError
from grit.io.local_disk import check_sqlite
from grit.training.measurements import OBJECTIVES
from ray_jobs.design.search_space import Search, SearchRange
from ray_jobs.records.trial_record import TrialRecord


@dataclass(frozen=True)
class SamplerSpec:
    """One of Optuna's samplers.

    Attributes:
        help: what it is good for. make: from a seed.
        even_start: until so many points are measured or under way, they fill the space evenly instead.
    """

    help: str
    make: Callable[[int], optuna.samplers.BaseSampler]
    even_start: int = 0


def _broken_by(trial: optuna.trial.FrozenTrial) -> float:
    """By how much a trial breaks its constraints, all together."""
    return sum(max(0.0, by) for by in trial.constraints.values())


class Scalarizing(optuna.samplers.BaseSampler):
    """For tens of points and many objectives: one Gaussian process on a weighting that is drawn anew.

    ParEGO (Knowles, 2006): for every point, objectives are scaled to the range seen so far, weights drawn
    evenly from the simplex, and Optuna's own Gaussian process proposes the point with the largest expected
    improvement of the augmented Chebyshev value. (Its own multi-objective mode is far slower with four
    objectives: docs/results/search.md.) A point that breaks a constraint is worse than every other by as
    much; one that is still being measured counts as the worst so far, so that it is not proposed again.
    """

    #: What every objective counts for beside the largest.
    AUGMENTED = 0.05

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._random = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """What all trials so far have in common: nothing where there are none."""
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, optuna.distributions.BaseDistribution],
    ) -> dict[str, Any]:
        """All parameters of a trial; none where nothing has been measured."""
        trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if not search_space or not trials:
            return {}
        values = self._scalar_values(study, trials)
        running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        others = [other for other in running if other.number != trial.number and other.params]
        sampler = optuna.samplers.GPSampler(
            seed=int(self._generator.integers(2**31)), n_startup_trials=0, warn_independent_sampling=False
        )
        model = optuna.create_study(sampler=sampler)
        for other, value in zip([*trials, *others], [*values, *[max(values)] * len(others)], strict=True):
            params = {name: other.params[name] for name in search_space}
            model.add_trial(
                optuna.trial.create_trial(params=params, distributions=search_space, value=float(value))
            )
        return dict(model.ask(search_space).params)

    def _scalar_values(self, study: optuna.Study, trials: Sequence[optuna.trial.FrozenTrial]) -> list[float]:
        """Of each trial, lower is better; from 0 to 1, and above that where a constraint is broken."""
        maximized = [direction == optuna.study.StudyDirection.MAXIMIZE for direction in study.directions]
        signs = np.where(maximized, -1.0, 1.0)
        costs = np.array([trial.values for trial in trials], dtype=float) * signs
        spans = np.ptp(costs, axis=0)
        scaled = (costs - costs.min(axis=0)) / np.where(spans > 0, spans, 1.0)
        weighted = self._generator.dirichlet(np.ones(len(signs))) * scaled
        broken = np.array([_broken_by(trial) for trial in trials])
        values = weighted.max(axis=1) + self.AUGMENTED * weighted.sum(axis=1)
        return list(values + broken + (broken > 0))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Any:
        """One parameter where nothing has been measured, at random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


#: Every sampler there is, by name.
SAMPLERS: dict[str, SamplerSpec] = {
    "parego": SamplerSpec(
        "a Gaussian process on weightings drawn anew: tens of points", Scalarizing, even_start=8
    ),
    "tpe": SamplerSpec(
        "multivariate tree-structured Parzen estimator: hundreds of points",
        lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=8),
    ),
    "nsga2": SamplerSpec(
        "genetic, for two or three objectives and many points",
        lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    ),
    "nsga3": SamplerSpec(
        "genetic, for more objectives and many points", lambda seed: optuna.samplers.NSGAIIISampler(seed=seed)
    ),
    "gp": SamplerSpec(
        "Gaussian process on the hypervolume: one or two objectives",
        lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=8),
    ),
    "qmc": SamplerSpec(
        "quasi-random: fills the space evenly",
        lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_asynchronous_seeding=False),
    ),
    "random": SamplerSpec("at random", lambda seed: optuna.samplers.RandomSampler(seed=seed)),
}


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name not in SAMPLERS:
        raise ConfigError("sampler", name, f"must be one of {', '.join(SAMPLERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name].make(seed)


def open_storage(uri: str) -> optuna.storages.BaseStorage:
    """An Optuna storage.

    `sqlite:///...`, a database server's URL, or `journal:PATH` (for network file systems, which SQLite does
    not survive).

    Raises:
        ConfigError: it cannot be opened, or is SQLite on a network file system.
    """
    check_sqlite("optuna-storage", uri, "give journal:PATH, or a database server's URL")
    try:
        if uri.startswith("journal:"):
            return optuna.storages.JournalStorage(JournalFileBackend(uri.removeprefix("journal:")))
        return optuna.storages.RDBStorage(uri)
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise ConfigError(
            "optuna-storage", uri, f"cannot be opened: {str(error).strip().splitlines()[0]}"
        ) from error


def _distribution(interval: SearchRange) -> optuna.distributions.BaseDistribution:
    if interval.integer:
        return optuna.distributions.IntDistribution(int(interval.low), int(interval.high), log=interval.log)
    return optuna.distributions.FloatDistribution(interval.low, interval.high, log=interval.log)


def _measured(record: TrialRecord) -> list[Any]:
    return [getattr(record.measured, name) for name in OBJECTIVES]


def objectives(records: Sequence[TrialRecord]) -> list[float] | None:
    """Means over seeds of the four objectives of one point.

    None when one of its trials failed, was stopped, or left a number that is none.

    A diverged trial has numbers, and they count: the point is told as infeasible, which says more to a
    sampler than a failure.
    """
    values = [_measured(record) for record in records]
    measured = all(record.status in ("completed", "diverged") for record in records)
    if (
        not records
        or not measured
        or not all(value is not None and math.isfinite(value) for row in values for value in row)
    ):
        return None
    return [math.fsum(column) / len(records) for column in zip(*values, strict=True)]


def constraints(search: Search, records: Sequence[TrialRecord], values: Sequence[float]) -> dict[str, float]:
    """By how much a point breaks each constraint (feasible: none above 0)."""
    named = dict(zip(OBJECTIVES, values, strict=True))
    broken = {"diverged": float(sum(record.status == "diverged" for record in records))}
    for name, cap in (("overhead", search.max_overhead), ("footprint", search.max_footprint)):
        if cap is not None:
            broken[name] = named[name] - cap
    return broken


def even_points(space: Mapping[str, SearchRange], count: int, seed: int) -> list[dict[str, Any]]:
    """So many points, evenly over a space on its own scales: a scrambled Sobol sequence."""
    if not count or not space:
        return []
    # powers of two keep the sequence balanced
    sequence = qmc.Sobol(d=len(space), rng=seed).random_base2(math.ceil(math.log2(count)))
    points = []
    for shares in sequence[:count]:
        named = zip(space.items(), shares, strict=True)
        points.append({name: interval.at(float(share)) for (name, interval), share in named})
    return points


class OptunaSearch:
    """One multi-objective Optuna study over a space of knobs, for one regime.

    The records are the truth: an Optuna study is rebuilt from them when a study resumes, so it can neither
    lose nor double a trial, and what a
    killed driver left RUNNING in a storage is gone.

    Args:
        search: what to search.
        asked_before: points that an earlier call of this study asked for. They move the seed on: a sampler
            that started again from the same seed would suggest them again.
        storage: where Optuna keeps its study, for people to look at; None keeps it in memory.
        name: the study's name in the storage.
    """

    def __init__(
        self,
        search: Search,
        *,
        asked_before: int = 0,
        storage: optuna.storages.BaseStorage | None = None,
        name: str = "search",
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._space = search, search.space
        self._distributions = {name: _distribution(interval) for name, interval in search.space.items()}
        seed = search.seed + 7919 * asked_before
        sampler = _sampler(search.sampler, seed)
        self._even = even_points(search.space, SAMPLERS[search.sampler].even_start, seed)
        if storage is not None and name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        self._study = optuna.create_study(
            directions=[
                objective.direction for objective in OBJECTIVES.values() if objective.direction is not None
            ],
            sampler=sampler,
            storage=storage,
            study_name=name,
        )
        self._open: dict[str, optuna.trial.Trial] = {}
        self._asked = 0

    def ask(self, held: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """A ticket and the knobs to measure; those of the space that are in `held` have its values."""
        fixed = {name: value for name, value in (held or {}).items() if self._holds(name, value)}
        if self._measured_or_open() < len(self._even):
            fixed = {**self._even[self._asked % len(self._even)], **fixed}
        self._asked += 1
        if fixed:
            self._study.enqueue_trial({name: self._encode(name, value) for name, value in fixed.items()})
        trial = self._study.ask(self._distributions)
        ticket = str(trial.number)
        self._open[ticket] = trial
        return ticket, {**{name: self._decode(name, value) for name, value in trial.params.items()}, **fixed}

    def _measured_or_open(self) -> int:
        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING)
        return len(self._study.get_trials(deepcopy=False, states=states))

    def _holds(self, name: str, value: Any) -> bool:
        """Whether a value lies in the space."""
        if name not in self._space or value is None:
            return False
        return self._space[name].low <= self._encode(name, value) <= self._space[name].high

    def tell(self, ticket: str, records: Sequence[TrialRecord]) -> None:
        """The outcome of an asked point: its objectives, or that it failed."""
        trial, values = self._open.pop(ticket), objectives(records)
        trial.set_user_attr("statuses", [record.status for record in records])
        if values is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        for name, broken in constraints(self._search, records, values).items():
            trial.set_constraint(name, broken)
        self._study.tell(trial, values)

    def close(self) -> None:
        """Tells every point that is still open as failed: nothing stays RUNNING when a study is interrupted.

        Resuming asks for them again.
        """
        for trial in self._open.values():
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._open = {}

    def add(self, knobs: Mapping[str, Any], records: Sequence[TrialRecord]) -> bool:
        """A point that was measured without being asked for.

        False when it lies outside the space or has no outcome to tell.
        """
        values = objectives(records)
        if not all(self._holds(name, knobs.get(name)) for name in self._space):
            return False
        params = {name: self._encode(name, knobs[name]) for name in self._space}
        statuses = {"statuses": [record.status for record in records]}
        if values is None:
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=params,
                    distributions=self._distributions,
                    user_attrs=statuses,
                    state=optuna.trial.TrialState.FAIL,
                )
            )
            return False
        broken = constraints(self._search, records, values)
        self._study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=self._distributions,
                values=values,
                constraints=broken,
                user_attrs=statuses,
            )
        )
        return True

    def states(self) -> list[str]:
        """State names of all Optuna trials, in order."""
        return [trial.state.name for trial in self._study.get_trials(deepcopy=False)]

    def _decode(self, name: str, value: float) -> float:
        return 1 - value if self._space[name].complement else value

    def _encode(self, name: str, value: float) -> float:
        return 1 - value if self._space[name].complement else value


def importance_shares(settings: Sequence[Mapping[str, float]], values: Sequence[float]) -> dict[str, float]:
    """fANOVA: the share of a value's variance over the space that each setting explains; they sum to 1.

    Args:
        settings: by name, positive and the same names everywhere; those that span a factor of ten or more
            are taken on a logarithmic scale.
        values: of each.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges: dict[str, optuna.distributions.BaseDistribution] = {}
    for name in settings[0]:
        column = [setting[name] for setting in settings]
        low, high = min(column), max(column)
        wide = low > 0 and high >= 10 * low
        ranges[name] = optuna.distributions.FloatDistribution(low, high, log=wide)
    study = optuna.create_study()
    for setting, value in zip(settings, values, strict=True):
        study.add_trial(
            optuna.trial.create_trial(params=dict(setting), distributions=ranges, value=float(value))
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
