"""Measures the time budget that matches a step budget.

How long the first-order control needs for it on this machine, as loaded as in a study.

`python -m ray_jobs.execution.calibrate` reads a run's configuration from standard input and prints the time
of a step by the clock of its budget; `seconds_for` runs as many of these at once as the study runs trials.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from grit.config.run_config import RunConfig
from grit.config.sections import Budget
from grit.errors import ConfigError
from ray_jobs.execution.cluster import ROOT

#: Steps that are run, and how many of them count (the last ones).
STEPS, COUNTED = 8, 6


def seconds_for(base: RunConfig, steps: int, concurrent: int) -> float:
    """Training seconds of `steps` LoRA (or QLoRA) steps with `concurrent` runs at once.

    To two significant digits.

    Raises:
        ConfigError: the probe fails, as every trial would.
    """
    probe = base.changed(
        method="qlora" if base.quantized else "lora",
        budget=Budget(regime="step", amount=STEPS),
        eval_examples=1,
        retention_documents=1,
        quality="answer_logprob",
        evaluations=1,
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "ray_jobs.execution.calibrate"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(concurrent)
    ]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write(json.dumps(probe.to_dict()))
        run.stdin.close()
        run.stdin = None
    outputs = [run.communicate() for run in runs]
    for run, (_, errors) in zip(runs, outputs, strict=True):
        if run.returncode:
            raise ConfigError(
                "model", base.backbone.model, f"does not train: {errors.strip().splitlines()[-1]}"
            )
    return float(f"{steps * statistics.median(float(out.split()[-1]) for out, _ in outputs) / 1e3:.2g}")


def main() -> None:
    """One probe: prints the median milliseconds of a step."""
    from grit.runtime.allocator import keep_freed_memory
    from grit.training.trainer import train
    from grit.training.workbench import Workbench

    keep_freed_memory()
    config = RunConfig.from_dict(json.loads(sys.stdin.read()))
    result = train(config, Workbench())
    if config.execution.clock == "cpu":
        print(1e3 * (result.measured.cpu_seconds or 0.0) / STEPS)
    else:
        print(statistics.median(row["ms_step"] for row in result.telemetry[-COUNTED:]))


if __name__ == "__main__":
    main()
