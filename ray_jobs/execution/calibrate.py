"""What a trial takes on this machine, measured before anything is planned: steps, evaluation, memory.

`python -m ray_jobs.execution.calibrate` reads a run's configuration from standard input and prints what one
process measured; `measured_costs` runs as many of these at once as the study runs trials, and keeps the
answer in the user's cache: a plan that is looked at twice is measured once.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from grit.config.run_config import RunConfig
from grit.config.sections import AuditConfig, Budget, EvaluationConfig, QualityMetric
from grit.errors import ConfigError
from grit.io.cache import cache_folder
from grit.io.files import write_atomically
from grit.io.hashing import digest
from grit.io.versions import SCHEMA_VERSION
from ray_jobs.execution.cluster import ROOT

#: Steps of each method that are run, the first of which does not count; fewer, but never below `FEWEST`, once
#: they have taken `LONG` seconds.
STEPS, FEWEST, LONG = 8, 3, 20.0
#: A measurement is believed for so many seconds: a machine may be busier another day.
BELIEVED = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class MeasuredCosts:
    """Medians over the processes that ran at once. Seconds, but for the last.

    Attributes:
        step: one optimizer step of the study's method, on the wall clock.
        control_step: one of the first-order control, by the clock of the budget.
        evaluation: the last evaluation of a trial. likelihood: one by the likelihood of
            answers and documents alone.
        start: until a fresh process has a model with an adapter.
        memory: bytes at the peak of a process.
    """

    step: float
    control_step: float
    evaluation: float
    likelihood: float
    start: float
    memory: float

    def evaluations(self, config: EvaluationConfig) -> float:
        """Seconds of all evaluations of a trial."""
        interim = self.by(config.interim_metric)
        return (config.evaluations - 1) * interim + self.evaluation

    def by(self, metric: QualityMetric) -> float:
        """Seconds of an evaluation that measures no more than `metric`."""
        return self.evaluation if metric == "primary" else self.likelihood


def measured_costs(base: RunConfig, concurrent: int) -> MeasuredCosts:
    """What a trial of `base` takes here while `concurrent` run at once; measured at most once a day.

    Raises:
        ConfigError: the probe fails, as every trial would.
    """
    probe = probe_of(base)
    kept = cache_folder() / "costs" / f"{digest(_decisive(probe, concurrent))}.json"
    try:
        if time.time() - kept.stat().st_mtime < BELIEVED:
            return MeasuredCosts(**json.loads(kept.read_text(encoding="utf8")))
    except (OSError, ValueError, TypeError):
        pass  # never measured, or by another version: measured now
    costs = _measured_side_by_side(probe, concurrent)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(asdict(costs)))
    except OSError:
        pass  # a cache that cannot be written is measured again next time
    return costs


def probe_of(base: RunConfig) -> RunConfig:
    """The few steps that tell what a trial of `base` takes."""
    alone = base.stages()[-1]
    return alone.changed(audits=AuditConfig(), probes=(), budget=Budget(regime="step", amount=STEPS))


def median_costs(measured: Sequence[MeasuredCosts]) -> MeasuredCosts:
    """Medians over processes that ran at once."""
    values = [asdict(one) for one in measured]
    medians = {}
    for name in values[0]:
        medians[name] = statistics.median(one[name] for one in values)
    return MeasuredCosts(**medians)


def budget_of(costs: MeasuredCosts, steps: int) -> float:
    """Training seconds of `steps` steps of the first-order control, by the clock of the budget.

    To two significant digits.
    """
    return float(f"{steps * costs.control_step:.2g}")


def _decisive(probe: RunConfig, concurrent: int) -> list[Any]:
    """What costs depend on: the machine, the model, the sizes of things; not rates, seeds or knobs."""
    machine = [platform.node(), os.cpu_count(), SCHEMA_VERSION, concurrent]
    values, sizes = probe.to_dict(), ("micro_batch", "accumulation", "max_length", "packing")
    kept = ("method", "task", "backbone", "adapter", "evaluation", "execution")
    return [machine, {k: values[k] for k in kept}, {k: values["optimization"][k] for k in sizes}]


def _measured_side_by_side(probe: RunConfig, concurrent: int) -> MeasuredCosts:
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
                "model", probe.backbone.model, f"does not train: {errors.strip().splitlines()[-1]}"
            )
    return median_costs([MeasuredCosts(**json.loads(out.splitlines()[-1])) for out, _ in outputs])


def measure(config: RunConfig) -> MeasuredCosts:
    """In this process: the control's steps, the steps of `config`, a part of an evaluation."""
    from grit.runtime.allocator import keep_freed_memory
    from grit.training.memory_probe import high_water
    from grit.training.run import Run
    from grit.training.trainer import adapted
    from grit.training.workbench import Workbench

    keep_freed_memory()
    bench, began = Workbench(), time.perf_counter()
    control = config.changed(method="qlora" if config.quantized else "lora")
    with adapted(control, bench) as model:
        start = time.perf_counter() - began
        run = Run(control, bench, model, checkpoints=None)
        wall, cpu = _steps(run)
        control_step = cpu if config.execution.clock == "cpu" else wall
        evaluation = _evaluation(config, bench, model.eval(), predict=config.evaluation.predicts)
        likelihood = evaluation
        if config.evaluation.predicts:
            likelihood = _evaluation(config, bench, model, predict=False)
    with adapted(config, bench) as model:
        run = Run(config, bench, model, checkpoints=None)
        step, _ = _steps(run)
        memory = run.state.memory.bytes if bench.device == "cuda" else high_water()
    return MeasuredCosts(
        step=step,
        control_step=control_step,
        evaluation=evaluation,
        likelihood=likelihood,
        start=start,
        memory=float(memory),
    )


def _steps(run: Any) -> tuple[float, float]:
    """Median seconds of a step on the wall clock and on the process's: of all but the first."""
    wall: list[float] = []
    cpu: list[float] = []
    while not run.spent() and (len(wall) <= FEWEST or sum(wall) < LONG):
        before = run.state.train_seconds, run.state.cpu_seconds
        run.take_step()
        wall.append(run.state.train_seconds - before[0])
        cpu.append(run.state.cpu_seconds - before[1])
    return statistics.median(wall[1:]), statistics.fmean(cpu[1:])


def _evaluation(config: RunConfig, bench: Any, model: Any, *, predict: bool) -> float:
    """Seconds of a whole evaluation, from one batch of each kind: of the first examples and documents."""
    evaluator, task = bench.evaluator(model, config), bench.task(config)
    seconds = 0.0
    kinds = (
        (bench.eval_examples(config), lambda part: evaluator.task(task, part, predict=predict)),
        (bench.documents(config), evaluator.documents),
    )
    whole = time.perf_counter()
    with bench.merged(model, config):
        once = time.perf_counter() - whole  # the adapter goes into the weights once, however much is scored
        for items, score in kinds:
            part = items[: config.evaluation.eval_batch]
            began = time.perf_counter()
            score(part)
            seconds += (time.perf_counter() - began) * len(items) / max(1, len(part))
    return once + seconds


def main() -> None:
    """One probe: prints what it measured as JSON."""
    print(json.dumps(asdict(measure(RunConfig.from_dict(json.loads(sys.stdin.read()))))))


if __name__ == "__main__":
    main()
