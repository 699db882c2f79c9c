"""The embedded backbone, and a real language model that a laptop can train."""

from __future__ import annotations

from typing import Any

from grit.backbone.smollm2 import SMOLLM2
from grit.config.method import GritConfig
from grit.config.registry import Method
from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.runtime.fast_dtype import fast_dtype


def _small(
    method: Method, steps: int, task: str, *, damping: float, micro_batch: int = 8, **run: Any
) -> RunConfig:
    """Shared by the small backbones: the paper's schedules, scaled from its thousands of steps to `steps`."""
    grit = GritConfig.for_steps(steps, kfac_damping=damping)
    return RunConfig.of(
        method=method,
        budget=Budget(regime="step", amount=steps),
        grit=grit,
        task=TaskSource(name=task),
        rank=16,
        alpha=32.0,
        micro_batch=micro_batch,
        clock="cpu",
        **run,
    )


def embedded(method: Method, task: str | None, steps: int | None) -> RunConfig:
    """The embedded backbone on a laptop."""
    return _small(
        method,
        steps or 160,
        task or "arithmetic",
        damping=1e-2,
        learning_rate=5e-4,
        max_length=96,
        eval_examples=100,
        retention_documents=60,
        eval_batch=128,
        quality="answer_logprob",
        task_metric=True,
    )


def smoke(method: Method, task: str | None, steps: int | None) -> RunConfig:
    """The shortest run that has everything in it; quality is the likelihood of the reference answers."""
    return _small(
        method,
        steps or 40,
        task or "arithmetic",
        damping=1e-3,
        learning_rate=2e-3,
        max_length=256,
        eval_examples=48,
        retention_documents=24,
        eval_batch=16,
        quality="answer_logprob",
    )


def smollm2(method: Method, task: str | None, steps: int | None) -> RunConfig:
    """SmolLM2-135M, a real language model, on a laptop or a GPU (docs/results/smollm2.md)."""
    return _small(
        method,
        steps or 60,
        task or "boolq",
        damping=1e-2,
        micro_batch=4,
        model=SMOLLM2,
        dtype=fast_dtype(),
        learning_rate=5e-4,
        max_length=256,
        eval_examples=96,
        retention_documents=24,
        eval_batch=8,
        quality="answer_logprob",
    )
