"""A study as data: points x seeds x regimes, and the trials they expand to.

Pure: nothing here starts anything.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from grit.config.overrides import with_overrides
from grit.config.registry import method_spec
from grit.config.run_config import Overrides, RunConfig
from grit.config.sections import AuditConfig, Budget
from grit.config.settings import declared
from grit.io.hashing import digest
from ray_jobs.design.points import Point, control_method
from ray_jobs.design.search_space import Search
from ray_jobs.records.sequential import SequentialDesign
from ray_jobs.records.trial_record import TrialPlan, TrialRecord


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that is to be measured.

    Attributes:
        base: the configuration that points change; its budget and seed are replaced for each trial.
        budgets: one per regime.
        content: hashes of the data and the model behind the names in `base`.
        sequential: how it grows until its settings are decided; its `seeds` are then those that a setting can
            have at most. None: every setting gets every seed.
    """

    name: str
    base: RunConfig
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    budgets: tuple[Budget, ...]
    content: dict[str, str]
    search: Search | None = None
    sequential: SequentialDesign | None = None

    def control_point(self) -> Point:
        """LoRA, or QLoRA for Q-GRIT.

        With the audits of a point that trains the same: it would be trained twice otherwise.
        """
        control = Point(design="control", method=control_method(self.base))
        alike = [point for point in self.points if self._trains_the_same(point, control)]
        if not alike or not all(
            point.audits for point in alike
        ):  # as it is, it is one trial with one of them
            return control
        return replace(control, audits=alike[0].audits)

    def _trains_the_same(self, point: Point, control: Point) -> bool:
        whole = point.budget == 1.0 and point.seeds is None
        everywhere = point.regime is None or {budget.regime for budget in self.budgets} == {point.regime}
        if not (whole and everywhere and (point.method or self.base.method) == control.method):
            return False
        where = self.seeds[0], self.budgets[0]
        bare = replace(point, audits=())
        return _configuration(self.base, bare, *where) == _configuration(self.base, control, *where)

    @cached_property
    def trials(self) -> tuple[TrialSpec, ...]:
        """All designed trials, each once, in the order in which they should run.

        A setting that two designs ask for is one trial; its record names both. Seeds are the outer loop, so
        that an interrupted study has every setting measured once before any is measured twice.
        """
        trials: dict[str, TrialSpec] = {}
        for seed, (point, count), budget in itertools.product(self.seeds, self._counted(), self.budgets):
            if point.regime not in (None, budget.regime) or seed not in self.seeds[:count]:
                continue
            trial = make_trial(self, point, seed, budget)
            planned = trials.get(trial.trial_id)
            trials[trial.trial_id] = trial if planned is None else planned.also_for(point.design)
        return tuple(trials.values())

    def _counted(self) -> list[tuple[Point, int | None]]:
        """Every point with the number of seeds it is planned with; None for all.

        Under a sequential design the control and the first point, the default, begin with more than others.
        """
        points = [self.control_point(), *self.points]
        if self.sequential is None:
            return [(point, point.seeds) for point in points]
        first, shared = self.sequential.first_seeds, self.sequential.shared_seeds
        counts = [shared, shared, *[first] * len(points)]
        return [(point, point.seeds or count) for point, count in zip(points, counts, strict=False)]

    @property
    def searched_seeds(self) -> tuple[int, ...]:
        """Seeds of a searched point."""
        return self.seeds if self.sequential is None else self.seeds[: self.sequential.first_seeds]

    def fingerprint(self) -> str:
        """A hash of what makes a study this study: records made under another may not be mixed with it."""
        points = [point.identity() for point in self.points]
        space = None
        if self.search is not None:
            space = {name: searched.identity() for name, searched in self.search.space.items()}
        control = self.control_point().audits
        audited = {"control": control} if control else {}
        grows = {} if self.sequential is None else {"sequential": list(self.sequential.identity())}
        return digest(
            {
                **grows,
                **audited,
                "name": self.name,
                "base": self.base.identity(self.content),
                "seeds": self.seeds,
                "budgets": [[budget.regime, budget.amount] for budget in self.budgets],
                "points": points,
                "space": space,
            }
        )


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One training run to do, with the record it will fill."""

    trial_id: str
    config: RunConfig
    record: TrialRecord = field(compare=False)

    def also_for(self, design: str) -> TrialSpec:
        """The same trial, asked for by one more design."""
        plan = self.record.plan
        if design in plan.designs:
            return self
        return replace(self, record=self.record.changed(also_designs=(*plan.also_designs, design)))


#: Stands for whatever budget in a point's id: long enough for every method.
ANY_BUDGET = Budget(regime="step", amount=100)


def make_trial(study: Study, point: Point, seed: int, budget: Budget) -> TrialSpec:
    """The trial of one point under one seed and the study's budget, which the point may stretch."""
    config = _configuration(study.base, point, seed, budget)
    trial_id = config.identity(study.content)
    point_id = replace(config, seed=0, budget=ANY_BUDGET).identity(study.content)
    if point.budget != 1.0:
        point_id = digest([point_id, point.budget])
    plan = TrialPlan(
        point_id=point_id,
        design=point.design,
        regime=budget.regime,
        seed=seed,
        overrides=dict(point.overrides),
    )
    record = TrialRecord(trial_id=trial_id, plan=plan, config=config)
    return TrialSpec(trial_id=trial_id, config=config, record=record)


def _configuration(base: RunConfig, point: Point, seed: int, budget: Budget) -> RunConfig:
    """Audits that a method cannot have are left out: of GRIT's statistics, of a plain LoRA adapter."""
    method = point.method or base.method
    amount = budget.amount * point.budget
    if budget.regime == "step":
        amount = max(1, round(amount))
    audits: dict[str, Any] = {}
    if not method_spec(method).geometry:
        audits = {
            item.name: item.default
            for item, declaration in declared(AuditConfig)
            if declaration.needs_statistics
        }
    if not method_spec(method).factors:
        audits["scales"] = ()
    stretched = Budget(regime=budget.regime, amount=amount)
    config = base.changed(method=method, seed=seed, budget=stretched, **audits)
    return with_overrides(config, dict(point.overrides)).changed(**dict(point.audits))


def searched_trials(study: Study, overrides: Overrides, budget: Budget) -> list[TrialSpec]:
    """The trials of a searched point: every seed."""
    point = Point.of("search", overrides)
    return [make_trial(study, point, seed, budget) for seed in study.searched_seeds]


def added_trial(study: Study, like: TrialRecord, seed: int) -> TrialSpec:
    """The trial of a setting that has been measured, with one more seed."""
    config = replace(like.config, seed=seed)
    trial_id = config.identity(study.content)
    plan = like.plan.model_copy(update={"seed": seed})
    record = TrialRecord(trial_id=trial_id, plan=plan, config=config)
    return TrialSpec(trial_id=trial_id, config=config, record=record)
