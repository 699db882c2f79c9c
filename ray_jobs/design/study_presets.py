"""Presets of studies.

A run's configuration (grit/presets/run_presets.py) with seeds, budgets, grids and resources.

Command-line options are laid over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grit.backbone.smollm2 import SMOLLM2
from grit.config.registry import Method
from grit.config.run_config import RunConfig
from grit.presets.peft_metamath import PEFT_METAMATH
from grit.presets.run_presets import CONFIGURATIONS, configuration
from ray_jobs.design.resources import Costs, TrialResources
from ray_jobs.records.sequential import SequentialDesign

PRESETS = tuple(CONFIGURATIONS)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a sweep starts from.

    Attributes:
        base: configuration of every trial; its budget and seed are replaced.
        budget_steps, budget_seconds: the two regimes' budgets; no seconds: to be measured where trials run.
        oat: values of each knob for the one-at-a-time design.
        grid: values for the coarse grid (empty: no grid).
        search_points: searched points per regime.
        costs: predicted, on the hardware the preset is for.
        sequential: how a study grows that can; its seeds are then those of a fixed design. None: it does not.
    """

    base: RunConfig
    seeds: tuple[int, ...]
    budget_steps: int
    budget_seconds: float | None
    oat: Mapping[str, tuple[Any, ...]]
    grid: Mapping[str, tuple[Any, ...]]
    search_points: int
    resources: TrialResources
    costs: Costs
    sequential: SequentialDesign | None = None

    @property
    def small(self) -> bool:
        """Whether it is for a laptop: its trials hold no GPU."""
        return not self.resources.gpus


#: A preset by name, method, steps and task.
PresetOf = Callable[[str, Method, int | None, str | None], Preset]


#: What a step takes more where activations are computed again: a second forward pass beside the first and a
#: backward pass of two.
RECOMPUTED = 4 / 3


def preset(name: str, method: Method, steps: int | None = None, task: str | None = None) -> Preset:
    """A preset by name.

    `steps` and `task` replace its own, and the cadences that are shares of the steps follow.

    Raises:
        ConfigError: there is no preset or no task of that name.
    """
    base = configuration(name, method, task=task, steps=steps)
    count = int(base.budget.amount)
    if name == "embedded":
        return _embedded(base, count)
    if name == SMOLLM2:
        return _smollm2(base, count)
    if name == PEFT_METAMATH:
        return _peft_metamath(base, count)
    return _smoke(base, count) if name == "smoke" else _paper(name, base, count)


def _around_default(steps: int) -> dict[str, tuple[Any, ...]]:
    """A smaller and a larger value of every knob; cadences as shares of the steps."""
    return {"tau": (0.9, 0.999), "T": (max(1, steps // 20), max(2, 2 * steps // 5)), "lambda": (1e-3, 1e-1)}


def _embedded(base: RunConfig, steps: int) -> Preset:
    return Preset(
        base=base,
        seeds=(41, 42, 43),
        budget_steps=steps,
        budget_seconds=7.0,
        search_points=2,
        resources=TrialResources(cpus=1),
        sequential=SequentialDesign(max_trials=56),
        oat=_around_default(steps),
        grid={},
        costs=Costs(step_seconds=0.045, other_seconds=2.0),
    )


def _smollm2(base: RunConfig, steps: int) -> Preset:
    return Preset(
        base=base,
        seeds=(41, 42, 43),
        budget_steps=steps,
        budget_seconds=None,
        search_points=0,
        resources=TrialResources(cpus=1),
        sequential=SequentialDesign(max_trials=24),
        oat=_around_default(steps),
        grid={},
        costs=Costs(step_seconds=3.5, other_seconds=60.0, startup_seconds=90.0),
    )


def _smoke(base: RunConfig, steps: int) -> Preset:
    return Preset(
        base=base,
        seeds=(41,),
        budget_steps=steps,
        budget_seconds=1.6,
        search_points=1,
        resources=TrialResources(cpus=1),
        oat={"tau": (0.9,), "T": (max(2, 2 * steps // 5),), "lambda": (1e-1,)},
        grid={},
        costs=Costs(step_seconds=0.045, other_seconds=2.0),
    )


def _peft_metamath(base: RunConfig, steps: int) -> Preset:
    """One GPU of 48 GB a trial.

    Seconds are those that PEFT publishes of LoRA on an L40S: 942 for 5,000 steps, 211 for the answers.
    """
    step_seconds = 942 / 5000
    return Preset(
        base=base,
        seeds=(41, 42, 43),
        budget_steps=steps,
        budget_seconds=None,
        search_points=0,
        oat={"tau": (0.90, 0.999), "T": (150, 1200), "lambda": (1e-3, 1e-1)},
        grid={},
        resources=TrialResources(cpus=4, gpus=1),
        sequential=SequentialDesign(max_trials=48),
        costs=Costs(step_seconds=step_seconds, other_seconds=211.0),
    )


def _paper(name: str, base: RunConfig, steps: int) -> Preset:
    """One A100 a trial.

    Seconds of a step were not measured (no A100 was at hand): guessed from the tokens of a step.
    """
    at_32k_tokens = {"llama-3.2-3b": 1.2, "llama-3.1-8b": 2.6}[name]
    step_seconds = at_32k_tokens * base.step_sequences * base.optimization.max_length / (32 * 1024)
    if base.execution.gradient_checkpointing:
        step_seconds *= RECOMPUTED
    return Preset(
        base=base,
        seeds=(41, 42, 43),
        budget_steps=steps,
        budget_seconds=None,
        search_points=24,
        oat={
            "tau": (0.80, 0.90, 0.95, 0.999),
            "T": (75, 150, 600, 1200, None),
            "lambda": (1e-4, 1e-3, 1e-2, 1e-1),
        },
        grid={
            "tau": (0.90, 0.99, 0.999),
            "T": (75, 300, 1200),
            "lambda": (1e-3, base.grit.kfac_damping, 1e-1),
        },
        resources=TrialResources(cpus=8, gpus=1),
        sequential=SequentialDesign(max_trials=354),
        costs=Costs(step_seconds=step_seconds, other_seconds=900.0),
    )
