"""What LoRA learns and forgets on each embedded task at the default budget.

The table in docs/reference/embedded.md.

    python benchmarks/embedded_tasks.py [SEED ...] [--steps 100] [--examples 300]
"""

from __future__ import annotations

import argparse
import json
from statistics import fmean

from grit.config.sections import Budget, TaskSource
from grit.presets.run_presets import configuration
from grit.runtime.allocator import keep_freed_memory
from grit.tasks import embedded
from grit.tasks.metrics import metric_label
from grit.training.trainer import train
from grit.training.workbench import Workbench

#: Evaluation examples and held-out documents: all that the tasks have, so that the numbers are steadier than
#: a sweep's.
EXAMPLES = 300


def main() -> None:
    """One row per task."""
    parser = argparse.ArgumentParser(description="LoRA on the embedded tasks.")
    parser.add_argument("seeds", nargs="*", type=int, default=[41, 42])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    options = parser.parse_args()
    keep_freed_memory()
    bench, base = Workbench(), configuration("embedded", "lora")
    if options.steps is not None:
        base = base.changed(budget=Budget(regime="step", amount=options.steps))
    rows = {}
    print("| task | metric | untuned | LoRA | gain (points) | forgetting (nats/token) | seeds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in embedded.NAMES:
        config = base.changed(
            task=TaskSource(name=name),
            eval_examples=options.examples,
            retention_documents=options.examples,
            evaluations=1,
            quality="primary",
        )
        runs = [train(config.changed(seed=seed), bench).measured for seed in options.seeds]
        before, after = runs[0].base_quality or 0.0, fmean(run.quality or 0.0 for run in runs)
        forgetting = fmean(run.forgetting or 0.0 for run in runs)
        seeds = ", ".join(map(str, options.seeds))
        scores = f"{before:.3f} | {after:.3f} | {100 * (after - before):+.1f} | {forgetting:+.3f}"
        print(f"| {name} | {metric_label(str(runs[0].quality_metric))} | {scores} | {seeds} |", flush=True)
        rows[name] = {"untuned": before, "lora": after, "forgetting": forgetting}
    print(json.dumps({"benchmark": "embedded_tasks", "seeds": options.seeds, "tasks": rows}))


if __name__ == "__main__":
    main()
