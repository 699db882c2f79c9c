"""From options to what a study is asked to be.

Everything laid over the preset, checked before anything is launched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from grit.cli.options import DataOptions, ModelOptions, named_settings, with_data_options
from grit.config.declared_knobs import KNOBS
from grit.config.first_effect import beyond_budget, idle_reason, idle_schedules
from grit.config.method import GritConfig
from grit.config.overrides import parse_cadence, parse_setting, with_overrides
from grit.config.run_config import Overrides, RunConfig
from grit.config.sections import Budget, Regime
from grit.config.settings import POSITIVE, at_least, within
from grit.errors import ConfigError
from ray_jobs.design.points import Point
from ray_jobs.design.search_space import SearchRange
from ray_jobs.design.study_presets import Preset, PresetOf
from ray_jobs.records.sequential import MOST_SEEDS, SequentialDesign
from sweeps.common.study_options import (
    KNOB_OPTIONS,
    DesignOptions,
    ExecutionOptions,
    SearchOptions,
    parse_space,
)

#: How many times as fast as a preset states a step may be elsewhere: a GPU, where it was measured on a CPU.
FASTEST = 20


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """A whole command line, option by option. `own` are the script's own options, if it has any."""

    design: DesignOptions
    search: SearchOptions
    execution: ExecutionOptions
    data: DataOptions
    model: ModelOptions
    own: Any = None


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What the user asked for.

    Attributes:
        preset: with everything laid over it.
        budget_seconds: None: to be measured where trials run.
        space: of the search; empty: the script's own.
        listed: settings that were named one by one.
        own: the script's own options.
        sequential: how the design grows; None for a fixed one.
        decides: whether its script can grow a study until it is decided.
        not_swept: a sentence on each knob of the preset that changes nothing beside what was asked for.
    """

    preset: Preset
    preset_name: str
    regimes: tuple[Regime, ...]
    budget_steps: int
    budget_seconds: float | None
    seeds: tuple[int, ...]
    search_points: int
    space: Mapping[str, SearchRange]
    listed: tuple[Overrides, ...]
    small_batch: int | None
    search: SearchOptions
    execution: ExecutionOptions
    decides: bool = False
    own: Any = None

    @property
    def measures_its_budget(self) -> bool:
        """Whether its seconds are measured before the first trial."""
        return self.budget_seconds is None and "time" in self.regimes

    sequential: SequentialDesign | None = None
    not_swept: tuple[str, ...] = ()

    @property
    def base(self) -> RunConfig:
        """The configuration that points change."""
        return self.preset.base

    def budgets(self, seconds: float) -> tuple[Budget, ...]:
        """One budget per regime."""
        amounts: dict[Regime, float] = {"step": self.budget_steps, "time": seconds}
        return tuple(Budget(regime=regime, amount=amounts[regime]) for regime in self.regimes)


def resolve(
    line: CommandLine, presets: PresetOf, regimes: tuple[Regime, ...], *, decides: bool = False
) -> StudyRequest:
    """Lays a command line over the preset.

    Args:
        line: what was asked for.
        presets: what the study starts from, by a preset's name.
        regimes: those of the study where none are named.
        decides: whether the study can grow until its settings are decided.

    Raises:
        ConfigError: a value that cannot be used.
    """
    design, method = line.design, line.design.method
    if design.budget_steps is not None:
        at_least(1).check("budget-steps", design.budget_steps)
    named_settings(line.data)  # before a preset may have to measure something
    asked_preset = presets(design.preset, method, design.budget_steps, line.data.task)
    usual = presets(design.preset, method, None, None)
    base = with_data_options(asked_preset.base, line.data, line.model.model)
    if design.clock is not None:
        base = base.changed(clock=design.clock)
    named_grids = _named_grids(design)
    if line.search.stop_dominated and base.evaluation.quality == "primary":
        base = base.changed(interim_quality="quality")  # who may end a trial judges it by what the study asks
    oat = {**asked_preset.oat, **named_grids}
    _check_values(base, oat)
    reasons = {knob: _all_idle(base, knob, oat[knob]) for knob in oat if knob not in named_grids}
    idle = {knob: reason for knob, reason in reasons.items() if reason is not None}
    oat = {knob: values for knob, values in oat.items() if knob not in idle}
    grid = _coarse_grid(base.grit, oat) if design.grid and not asked_preset.grid else asked_preset.grid
    grid = {knob: values for knob, values in grid.items() if knob in oat}
    asked = line.search.search_points
    named = cast("list[Regime]", design.regimes)
    sequential = _sequential(design, asked_preset, decides=decides)
    request = StudyRequest(
        preset=replace(asked_preset, base=base, oat=oat, grid=grid),
        preset_name=design.preset,
        regimes=tuple(dict.fromkeys(named or regimes)),
        budget_steps=asked_preset.budget_steps,
        budget_seconds=_budget_seconds(line, asked_preset, base, usual, presets),
        seeds=_seeds(design, asked_preset, sequential),
        sequential=sequential,
        decides=decides,
        search_points=asked_preset.search_points if asked is None else asked,
        space=parse_space(line.search.space),
        listed=tuple(_listed(texts) for texts in design.point),
        small_batch=design.small_batch,
        search=line.search,
        execution=line.execution,
        own=line.own,
        not_swept=tuple(f"{knob} is not swept: {reason}" for knob, reason in idle.items()),
    )
    _check(request)
    return request


def _sequential(design: DesignOptions, asked: Preset, *, decides: bool) -> SequentialDesign | None:
    """How the design grows: not at all where seeds are named, unless `--decide` is.

    Raises:
        ConfigError: a limit of growth for a design that does not grow, or one that cannot be used.
    """
    limits = {name: getattr(design, name) for name in ("max_trials", "max_hours", "max_gpu_hours")}
    named = {name: value for name, value in limits.items() if value is not None}
    for name, value in named.items():
        POSITIVE.check(name.replace("_", "-"), value)
    if not (decides and (design.decide or (not design.seeds and asked.sequential is not None))):
        for name, value in {**({"decide": True} if design.decide else {}), **named}.items():
            why = "has no meaning for a fixed design (--seeds, or a study or preset that does not grow)"
            raise ConfigError(name.replace("_", "-"), value, why)
        return None
    return (asked.sequential or SequentialDesign()).model_copy(update=named)


def _seeds(design: DesignOptions, asked: Preset, sequential: SequentialDesign | None) -> tuple[int, ...]:
    """Those of a fixed design; of one that grows, those that a setting can have at most."""
    if design.seeds:
        repeated = [seed for seed in design.seeds if design.seeds.count(seed) > 1]
        if repeated:
            raise ConfigError("seeds", repeated[0], "is named twice: a seed is trained once")
        return tuple(design.seeds)
    if sequential is None:
        return asked.seeds
    return tuple(range(asked.seeds[0], asked.seeds[0] + MOST_SEEDS))


def _listed(texts: Sequence[str]) -> Overrides:
    """One setting that was named: `field=value`, one after the other."""
    for text in texts:
        _, comma, rest = text.partition(",")
        if comma and "=" in rest and "[" not in text:
            apart = " ".join(part.strip() for part in text.split(","))
            raise ConfigError("point", text, f"its settings are separated by blanks: --point {apart}")
    return dict(parse_setting(text, "point") for text in texts)


def _budget_seconds(
    line: CommandLine, asked_preset: Preset, base: RunConfig, usual: Preset, presets: PresetOf
) -> float | None:
    """The time budget: as asked for, or the preset's on a machine of one's own, scaled with the steps.

    None where it is to be measured: on a cluster, and where the preset knows neither model nor task.

    Raises:
        ConfigError: one that ends before the first step does on any machine.
    """
    design = line.design
    same_model = line.model.model in (None, asked_preset.base.backbone.model)
    # The files of a task have lengths of their own.
    is_known = same_model and not (asked_preset.small and base.task != usual.base.task)
    if design.budget_seconds is not None:
        asked = Budget(regime="time", amount=design.budget_seconds).amount
        step = asked_preset.costs.step_seconds
        if is_known and asked < step / FASTEST:
            raise ConfigError(
                "budget-seconds", asked, f"is far less than a step, which takes some {step:g} s"
            )
        return asked
    seconds, elsewhere = asked_preset.budget_seconds, line.execution.address is not None
    if seconds is None or elsewhere or not is_known:
        return None
    if design.budget_steps is None:
        return seconds
    own = presets(design.preset, design.method, None, line.data.task).budget_steps
    return seconds * design.budget_steps / own


def _named_grids(design: DesignOptions) -> dict[str, tuple[Any, ...]]:
    """The values that were named for a knob."""
    options = {name: getattr(design, option) for option, name in KNOB_OPTIONS.items()}
    named = {name: values for name, values in options.items() if values is not None}
    if "T" in named:
        named["T"] = [parse_cadence(text) for text in named["T"]]
    return {name: tuple(values) for name, values in named.items()}


def _check_values(base: RunConfig, oat: Mapping[str, tuple[Any, ...]]) -> None:
    for knob, values in oat.items():
        for value in values:
            with_overrides(base, {knob: value})


def _all_idle(base: RunConfig, knob: str, values: Sequence[Any]) -> str | None:
    """Why no value of a knob's sweep would change what is trained; None where one of them does."""
    reasons = [idle_reason(base, {knob: value}) for value in values if value != base.setting(knob)]
    return None if not reasons or None in reasons else reasons[0]


def learning_rate_grid(request: StudyRequest, multiples: Sequence[float]) -> list[float]:
    """The learning rates that were named, else multiples of the preset's.

    Raises:
        ConfigError: one that is not positive.
    """
    rate = request.base.optimization.learning_rate
    rates: list[float] = request.own.learning_rates or [multiple * rate for multiple in multiples]
    for value in rates:
        POSITIVE.check("learning-rates", value)
    return rates


def check_points_act(request: StudyRequest, points: Sequence[Point]) -> None:
    """Refuses a setting that would train once more what the default trains.

    Raises:
        ConfigError: with the setting, and why it changes nothing.
    """
    steps = "step" in request.regimes
    budget = (
        Budget(regime="step", amount=request.budget_steps) if steps else Budget(regime="time", amount=1.0)
    )
    base = request.base.changed(budget=budget)
    for point in points:
        overrides = dict(point.overrides)
        if "before" in overrides and overrides["before"] != base.sequence.before and overrides["before"]:
            why = "must be the same in all trials: the study is known by what its files hold (--set before=)"
            raise ConfigError("before", list(overrides["before"]), why)
        if point.method not in (None, base.method) or with_overrides(base, overrides) == base:
            continue
        reason = idle_reason(base, overrides)
        if reason is not None:
            name, value = next((n, v) for n, v in overrides.items() if base.setting(n) != v)
            raise ConfigError(name, value, f"changes nothing: {reason}")


def idle_sentences(request: StudyRequest, points: Sequence[Point]) -> list[str]:
    """A sentence on each setting that is swept or listed and does not act within the budget of steps."""
    if "step" not in request.regimes:
        return []
    base, steps, sentences = request.base, request.budget_steps, []
    usual = idle_schedules(base.grit, steps)
    for point in points:
        if point.method not in (None, base.method):
            continue
        own = idle_schedules(with_overrides(base, dict(point.overrides)).grit, steps)
        sentences += [beyond_budget(reason, steps) for reason in own if reason not in usual]
    sentences += [f"{beyond_budget(reason, steps)}: nothing of it is measured" for reason in usual]
    return list(dict.fromkeys(sentences))


def _coarse_grid(grit: GritConfig, oat: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """Each knob's lowest, default and highest value (paper H.3); a cadence of `none` stays out."""
    grid = {}
    for knob, values in oat.items():
        center = getattr(grit, KNOBS[knob].field)
        numbers = [value for value in (*values, center) if value is not None]
        grid[knob] = tuple(dict.fromkeys((min(numbers), center, max(numbers))))
    return grid


def _check(request: StudyRequest) -> None:
    execution, search, base = request.execution, request.search, request.base
    for seed in request.seeds:
        at_least(0).check("seeds", seed)
    at_least(0).check("search-points", request.search_points)
    for name, cap in (("max-overhead", search.max_overhead), ("max-footprint", search.max_footprint)):
        if cap is not None:
            within(0, 1).check(name, cap)
    if execution.max_concurrent is not None:
        at_least(1).check("max-concurrent", execution.max_concurrent)
    if execution.resume and execution.output is None:
        raise ConfigError("resume", True, "needs --output: the folder of the study to continue")
    _check_workers(request)
    for name, interval in request.space.items():
        for end in _ends(interval):
            with_overrides(base, {name: end})
        if reason := _all_idle(base, name, _ends(interval)):
            raise ConfigError("space", name, f"changes nothing: {reason}")
    for point in request.listed:
        with_overrides(base, point)


def _ends(interval: SearchRange) -> tuple[float, float]:
    """The two values of a setting between which a search looks."""
    if interval.complement:
        return 1 - interval.high, 1 - interval.low
    return interval.low, interval.high  # of the range's own type


def _check_workers(request: StudyRequest) -> None:
    workers, accumulation = request.execution.workers_per_trial, request.base.optimization.accumulation
    at_least(1).check("workers-per-trial", workers)
    if accumulation % workers:
        raise ConfigError(
            "workers-per-trial",
            workers,
            f"must divide accumulation = {accumulation}, whose micro-batches they share (see --set "
            "accumulation=N)",
        )
    if request.small_batch is not None:
        at_least(1).check("small-batch", request.small_batch)
        if workers > 1:
            raise ConfigError(
                "small-batch", request.small_batch, "has no accumulation for several workers to share"
            )
