"""Optuna behind ask and tell: four objectives, designed results as a warm start. The only importer of optuna."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optuna

from grit.errors import ConfigError
from ray_jobs.records import TrialRecord
from ray_jobs.study import Interval, Search

#: What is searched: record field and direction. The order is that of Optuna's values.
OBJECTIVES: tuple[tuple[str, Literal["maximize", "minimize"]], ...] = (
    ("quality", "maximize"), ("retention", "maximize"), ("overhead", "minimize"), ("footprint", "minimize"))
SAMPLERS = ("tpe", "nsga2", "nsga3", "random")


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=8)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if name == "nsga3":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.NSGAIIISampler(seed=seed)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    raise ConfigError("sampler", name, f"must be one of {', '.join(SAMPLERS)}")


def _distribution(interval: Interval) -> optuna.distributions.BaseDistribution:
    if interval.integer:
        return optuna.distributions.IntDistribution(int(interval.low), int(interval.high), log=interval.log)
    return optuna.distributions.FloatDistribution(interval.low, interval.high, log=interval.log)


def objectives(records: Sequence[TrialRecord]) -> list[float] | None:
    """Means over seeds of the four objectives of one point; None when any of its trials is not usable."""
    if not records or not all(record.usable for record in records):
        return None
    return [math.fsum(getattr(record, name) for record in records) / len(records) for name, _ in OBJECTIVES]


class OptunaSearch:
    """One multi-objective Optuna study over a space of knobs, for one regime.

    The records are the truth: an Optuna study is rebuilt from them when a study resumes, so it can neither lose nor double a trial.

    Args:
        asked_before: points that an earlier call of this study asked for. They move the seed on: a sampler that started again from the same
            seed would suggest them again.
    """

    def __init__(self, search: Search, *, asked_before: int = 0) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = search.space
        self._distributions = {name: _distribution(interval) for name, interval in search.space.items()}
        sampler = _sampler(search.sampler, search.seed + 7919 * asked_before)
        self._study = optuna.create_study(directions=[direction for _, direction in OBJECTIVES], sampler=sampler)
        self._open: dict[str, optuna.trial.Trial] = {}

    def ask(self) -> tuple[str, dict[str, Any]]:
        """A ticket and the knobs to measure."""
        trial = self._study.ask(self._distributions)
        ticket = str(trial.number)
        self._open[ticket] = trial
        return ticket, {name: self._decode(name, value) for name, value in trial.params.items()}

    def tell(self, ticket: str, records: Sequence[TrialRecord]) -> None:
        """The outcome of an asked point: its objectives, or that it failed."""
        trial, values = self._open.pop(ticket), objectives(records)
        if values is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, values)

    def add(self, knobs: Mapping[str, Any], records: Sequence[TrialRecord]) -> bool:
        """A point that was measured without being asked for; False when it lies outside the space or has no usable outcome."""
        values = objectives(records)
        if values is None or any(knobs.get(name) is None for name in self._space):
            return False
        params = {name: self._encode(name, knobs[name]) for name in self._space}
        if not all(self._space[name].low <= value <= self._space[name].high for name, value in params.items()):
            return False
        self._study.add_trial(optuna.trial.create_trial(params=params, distributions=self._distributions, values=values))
        return True

    def states(self) -> list[str]:
        """State names of all Optuna trials, in order."""
        return [trial.state.name for trial in self._study.get_trials(deepcopy=False)]

    def _decode(self, name: str, value: float) -> float:
        return 1 - value if self._space[name].complement else value

    def _encode(self, name: str, value: float) -> float:
        return 1 - value if self._space[name].complement else value
