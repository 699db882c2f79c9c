"""Presets: named starting points for every sweep. A preset is a function of the method; command-line options are laid over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grit.config import GritConfig
from grit.errors import ConfigError
from grit.run_config import Budget, Method, RunConfig, TaskSource
from ray_jobs.cluster import TrialResources


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a sweep starts from.

    Attributes:
        base: configuration of every trial; its budget and seed are replaced.
        budget_steps, budget_seconds: the two regimes' budgets.
        oat: values of each knob for the one-at-a-time design. grid: values for the coarse grid (empty: no grid).
        search_points: searched points per regime.
    """

    base: RunConfig
    seeds: tuple[int, ...]
    budget_steps: int
    budget_seconds: float
    oat: Mapping[str, tuple[Any, ...]]
    grid: Mapping[str, tuple[Any, ...]]
    search_points: int
    resources: TrialResources
    #: Seconds of one optimizer step and of everything else in a trial, on the hardware the preset is for: predictions, not promises.
    step_seconds: float
    other_seconds: float


def _small(method: Method, *, steps: int, learning_rate: float, **run: Any) -> RunConfig:
    """Shared by the presets for small backbones: the paper's schedules, scaled from its thousands of steps to `steps`."""
    grit = GritConfig(cov_update_freq=max(1, steps // 20), kfac_update_freq=max(1, steps // 10), reprojection_freq=max(1, steps // 10))
    return RunConfig(method=method, learning_rate=learning_rate, budget=Budget(regime="step", amount=steps), grit=grit, **run)


def embedded(method: Method, steps: int | None = None) -> Preset:
    """The embedded backbone on a laptop: some fifty trials of a few seconds."""
    steps = steps or 100
    base = _small(method, steps=steps, learning_rate=2e-3, task=TaskSource(name="arithmetic"), rank=16, alpha=32.0, micro_batch=8,
                  max_length=96, eval_examples=100, retention_documents=60, eval_batch=128, evaluations=2)
    return Preset(
        base=base, seeds=(41, 42), budget_steps=steps, budget_seconds=6.0, search_points=4, resources=TrialResources(cpus=1),
        oat={"tau": (0.9, 0.999), "T": (max(1, steps // 20), max(2, 2 * steps // 5)), "lambda": (1e-4, 1e-1)}, grid={},
        step_seconds=0.065, other_seconds=3.0)


def smoke(method: Method, steps: int | None = None) -> Preset:
    """The shortest path through everything: one seed, both regimes, a few points; quality is the likelihood of the reference answers."""
    steps = steps or 40
    base = _small(method, steps=steps, learning_rate=2e-3, task=TaskSource(name="arithmetic"), rank=16, alpha=32.0, micro_batch=8,
                  max_length=256, eval_examples=48, retention_documents=24, eval_batch=16, quality="answer_logprob")
    return Preset(
        base=base, seeds=(41,), budget_steps=steps, budget_seconds=1.6, search_points=1, resources=TrialResources(cpus=1),
        oat={"tau": (0.9,), "T": (max(2, 2 * steps // 5),), "lambda": (1e-1,)}, grid={}, step_seconds=0.065, other_seconds=3.0)


def _llama(method: Method, steps: int | None, *, model: str, rank: int, learning_rate: float, step_seconds: float) -> Preset:
    """The paper's long-run settings for GSM8K (Tables 5 to 7): 3,000 steps, kfac update 150, lambda 5e-3, T 300, warm-ups of 500."""
    steps = steps or 3000
    grit = GritConfig(kfac_update_freq=150, kfac_min_samples=256, kfac_damping=5e-3, reprojection_freq=300, reprojection_warmup_steps=500,
                      rank_adaptation_start_step=500)
    base = RunConfig(
        model=model, method=method, task=TaskSource(name="gsm8k"), budget=Budget(regime="step", amount=steps), rank=rank, alpha=16.0,
        dtype="bfloat16", learning_rate=learning_rate, micro_batch=8, accumulation=4, max_length=1024, eval_examples=1319, eval_batch=8,
        retention_documents=500, checkpoint_steps=100, evaluations=4, threads=8, grit=grit)
    return Preset(
        base=base, seeds=(41, 42, 43), budget_steps=steps, budget_seconds=steps * step_seconds, search_points=24,
        oat={"tau": (0.80, 0.90, 0.95, 0.999), "T": (75, 150, 600, 1200, None), "lambda": (1e-4, 1e-3, 1e-2, 1e-1)},
        grid={"tau": (0.90, 0.99, 0.999), "T": (75, 300, 1200), "lambda": (1e-3, 5e-3, 1e-1)},
        resources=TrialResources(cpus=8, gpus=1), step_seconds=step_seconds, other_seconds=900.0)


def llama_3b(method: Method, steps: int | None = None) -> Preset:
    """Llama 3.2-3B on one A100 a trial."""
    return _llama(method, steps, model="meta-llama/Llama-3.2-3B", rank=16, learning_rate=2e-4, step_seconds=1.2)


def llama_8b(method: Method, steps: int | None = None) -> Preset:
    """Llama 3.1-8B on one A100 a trial."""
    return _llama(method, steps, model="meta-llama/Llama-3.1-8B", rank=32, learning_rate=1e-4, step_seconds=2.6)


PRESETS: dict[str, Callable[[Method, int | None], Preset]] = {
    "smoke": smoke, "embedded": embedded, "llama-3.2-3b": llama_3b, "llama-3.1-8b": llama_8b}


def preset(name: str, method: Method, steps: int | None) -> Preset:
    """A preset by name; `steps` replaces its step budget and scales the cadences that are shares of it.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError("preset", name, f"must be one of {', '.join(PRESETS)}")
    return PRESETS[name](method, steps)
