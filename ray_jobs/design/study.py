"""A study as data: points x seeds x regimes, and the trials they expand to.

Pure: nothing here starts anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grit.config.overrides import with_overrides
from grit.config.registry import METHODS, Method
from grit.config.run import Overrides, RunConfig
from grit.config.sections import Budget, Regime
from grit.config.settings import at_least
from grit.io.hashing import digest
from ray_jobs.records.trial_record import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting to be measured.

    What it changes against the study's base configuration, and the design that asked for it.

    Attributes:
        budget: what the study's budget is multiplied by for this point; steps are rounded.
        regime: the only regime in which it is measured; None for all of the study's.
        seeds: how many of the study's seeds it is measured with; None for all.
    """

    design: str
    overrides: tuple[tuple[str, Any], ...] = ()
    method: Method | None = None
    budget: float = 1.0
    regime: Regime | None = None
    seeds: int | None = None

    @classmethod
    def of(
        cls,
        design: str,
        overrides: Overrides,
        method: Method | None = None,
        *,
        budget: float = 1.0,
        regime: Regime | None = None,
        seeds: int | None = None,
    ) -> Point:
        """A point from a mapping; the order of its names does not matter."""
        return cls(
            design=design,
            overrides=tuple(sorted(overrides.items())),
            method=method,
            budget=budget,
            regime=regime,
            seeds=seeds,
        )


def one_at_a_time(center: Overrides, grids: Mapping[str, Sequence[Any]]) -> list[Point]:
    """The center, then each knob moved over its grid while the others stay (paper H.3, main effects)."""
    points = [Point.of("oat", center)]
    for knob, values in grids.items():
        points += [Point.of("oat", {**center, knob: value}) for value in values if value != center[knob]]
    return points


def grid(grids: Mapping[str, Sequence[Any]], design: str = "grid") -> list[Point]:
    """Every combination (paper H.3, coarse interaction grid)."""
    return [
        Point.of(design, dict(zip(grids, values, strict=True)))
        for values in itertools.product(*grids.values())
    ]


def listed(points: Sequence[Overrides], design: str = "list") -> list[Point]:
    """These settings and no others."""
    return [Point.of(design, overrides) for overrides in points]


def small_batch(points: Sequence[Point], micro_batch: int, accumulation: int, control: Method) -> list[Point]:
    """The same settings and the control at another batch size (paper H.3, small-batch repeat)."""
    size = {"micro_batch": micro_batch, "accumulation": accumulation}
    return [
        Point.of("small-batch", size, control),
        *(Point.of("small-batch", {**dict(p.overrides), **size}, p.method) for p in points),
    ]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A search range.

    `log` draws on a logarithmic scale; `complement` draws 1 - x, so that tau is resolved near 1.
    """

    low: float
    high: float
    log: bool = True
    integer: bool = False
    complement: bool = False


@dataclass(frozen=True, kw_only=True)
class Search:
    """A multi-objective search: `points` per regime, each measured with every seed of the study.

    `max_overhead` and `max_footprint` are constraints: a point above one is infeasible to the sampler, and
    measured all the same. `stop_dominated` lets searched trials stop when another is better beyond noise and
    no dearer.
    """

    space: Mapping[str, Interval]
    points: int
    sampler: str = "tpe"
    seed: int = 0
    max_overhead: float | None = None
    max_footprint: float | None = None
    stop_dominated: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        at_least(0).check("search-points", self.points)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that is to be measured.

    Attributes:
        base: the configuration that points change; its budget and seed are replaced for each trial.
        budgets: one per regime.
        content: hashes of the data and the model behind the names in `base`.
    """

    name: str
    base: RunConfig
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    budgets: tuple[Budget, ...]
    content: dict[str, str]
    search: Search | None = None

    def control_point(self) -> Point:
        """LoRA, or QLoRA for Q-GRIT."""
        return Point(design="control", method=control_method(self.base))


#: Stands for whatever budget in a point's id: long enough for every method.
ANY_BUDGET = Budget(regime="step", amount=100)


def control_method(base: RunConfig) -> Method:
    """The first-order method on the same backbone."""
    return "qlora" if base.quantized else "lora"


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One training run to do, with the record it will fill."""

    trial_id: str
    config: RunConfig
    record: TrialRecord = field(compare=False)


def make_trial(study: Study, point: Point, seed: int, budget: Budget) -> TrialSpec:
    """The trial of one point under one seed and the study's budget, which the point may stretch.

    What needs GRIT's statistics is left out for a method that has none.
    """
    method = point.method or study.base.method
    audits: dict[str, Any] = {} if METHODS[method].geometry else {"stability": False, "truncations": ()}
    amount = budget.amount * point.budget
    stretched = Budget(
        regime=budget.regime, amount=max(1, round(amount)) if budget.regime == "step" else amount
    )
    config = replace(study.base, method=method, seed=seed, budget=stretched, **audits)
    config = with_overrides(config, dict(point.overrides))
    trial_id = config.identity(study.content)
    point_id = replace(config, seed=0, budget=ANY_BUDGET).identity(study.content)
    if point.budget != 1.0:
        point_id = digest([point_id, point.budget])
    grit = config.grit if config.uses_grit else None
    record = TrialRecord(
        trial_id=trial_id,
        point_id=point_id,
        design=point.design,
        regime=budget.regime,
        seed=seed,
        method=config.method,
        task=config.task.name,
        model=config.backbone.model,
        overrides=dict(point.overrides),
        tau=grit.rank_adaptation_threshold if grit else None,
        T=grit.reprojection_freq if grit else None,
        lambda_=grit.kfac_damping if grit else None,
    )
    return TrialSpec(trial_id=trial_id, config=config, record=record)


def plan(study: Study) -> list[TrialSpec]:
    """All designed trials, each once, in the order in which they should run.

    A setting that two designs ask for is one trial; its record names both. Seeds are the outer loop, so that
    an interrupted study has every setting measured once before any is measured twice.
    """
    points = [study.control_point(), *study.points]
    trials: dict[str, TrialSpec] = {}
    for seed, point, budget in itertools.product(study.seeds, points, study.budgets):
        if point.regime not in (None, budget.regime) or seed not in study.seeds[: point.seeds]:
            continue
        trial = make_trial(study, point, seed, budget)
        known = trials.setdefault(trial.trial_id, trial)
        if known is not trial and point.design not in (known.record.design, *known.record.also_designs):
            known.record.also_designs.append(point.design)
    return list(trials.values())


def fingerprint(study: Study) -> str:
    """A hash of what makes a study this study: records made under another may not be mixed with it."""
    return digest(
        {
            "name": study.name,
            "base": study.base.identity(study.content),
            "seeds": study.seeds,
            "budgets": [[b.regime, b.amount] for b in study.budgets],
            "points": [[p.design, p.method, p.overrides, p.budget, p.regime, p.seeds] for p in study.points],
            "space": None if study.search is None else {k: repr(v) for k, v in study.search.space.items()},
        }
    )
