"""Whether the forecast of a trial holds: predicted from a measured step, and then trained.

    python benchmarks/forecast.py [--preset embedded] [--method grit] [--steps N]

The line of JSON has predicted and actual seconds (training and evaluation) and bytes at the peak, and the
larger over the smaller of each: the forecast is meant to be within 1.5.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.presets.run_presets import CONFIGURATIONS, configuration
from grit.runtime.allocator import keep_freed_memory
from grit.training.memory_probe import high_water
from grit.training.trainer import train
from grit.training.workbench import Workbench
from ray_jobs.execution.calibrate import measured_costs


def _asked() -> RunConfig:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=tuple(CONFIGURATIONS), default="embedded")
    parser.add_argument("--method", choices=("lora", "grit", "qlora", "qgrit"), default="grit")
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the preset's)")
    for name in ("task", "train-file", "eval-file", "retention-file"):
        parser.add_argument(f"--{name}", help="as in the sweeps")
    asked = parser.parse_args()
    base = configuration(asked.preset, asked.method, task=asked.task)
    files = TaskSource(
        name=base.task.name,
        train_file=asked.train_file,
        eval_file=asked.eval_file,
        retention_file=asked.retention_file,
    )
    budget = Budget(regime="step", amount=asked.steps) if asked.steps else base.budget
    return replace(base, task=files, budget=budget)


def _times(first: float, second: float) -> float:
    return round(max(first, second) / min(first, second), 3)


def main() -> None:
    """Forecasts, trains, compares."""
    config = _asked()
    costs = measured_costs(config, concurrent=1)
    count = int(config.budget.amount)
    untuned = costs.evaluation
    seconds = count * costs.step + untuned + costs.evaluations(config.evaluation)
    keep_freed_memory()
    measured = train(config, Workbench()).measured
    assert measured.train_seconds is not None and measured.eval_seconds is not None
    actual, memory = measured.train_seconds + measured.eval_seconds, float(high_water())
    print(
        json.dumps(
            {
                "benchmark": "forecast",
                "model": config.backbone.model,
                "task": config.task.name,
                "dtype": config.backbone.dtype,
                "steps": count,
                "predicted_seconds": round(seconds, 1),
                "actual_seconds": round(actual, 1),
                "seconds_apart": _times(seconds, actual),
                "predicted_gb": round(costs.memory / 1e9, 2),
                "actual_gb": round(memory / 1e9, 2),
                "memory_apart": _times(costs.memory, memory),
            }
        )
    )


if __name__ == "__main__":
    main()
