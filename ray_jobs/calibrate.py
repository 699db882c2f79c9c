"""Measures the time budget that matches a step budget: how long the first-order control needs for it on this machine."""

from __future__ import annotations

from dataclasses import replace

from grit.run_config import Budget, RunConfig

#: Steps that are run; the first are warm-up.
STEPS = 8


def seconds_for(base: RunConfig, steps: int) -> float:
    """Training seconds of `steps` LoRA (or QLoRA) steps, by the median of a short run, to two significant digits."""
    from grit.allocator import keep_freed_memory
    from grit.trainer import train
    from grit.workbench import Workbench

    keep_freed_memory()
    probe = replace(base, method="qlora" if base.quantized else "lora", budget=Budget(regime="step", amount=STEPS), eval_examples=1,
                    retention_documents=1, quality="answer_logprob", evaluations=1)
    result = train(probe, Workbench())
    return float(f"{steps * result.step_time_ms['p50'] / 1e3:.2g}")
