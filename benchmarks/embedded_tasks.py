"""What LoRA learns and forgets on each embedded task at the default budget: the table in docs/embedded.md.

python benchmarks/embedded_tasks.py [SEED ...]
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from grit.config.sections import TaskSource
from grit.runtime.allocator import keep_freed_memory
from grit.tasks import embedded
from grit.training.run_presets import configuration
from grit.training.trainer import train
from grit.training.workbench import Workbench

#: Evaluation examples and held-out documents: all that the tasks have, so that the numbers are steadier than
#: a sweep's.
EXAMPLES, DOCUMENTS = 300, 300


def main(seeds: list[int]) -> None:
    keep_freed_memory()
    bench, base, rows = Workbench(), configuration("embedded", "lora"), {}
    print("| task | metric | untuned | LoRA | gain (points) | forgetting (nats/token) | seeds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in embedded.NAMES:
        config = base.changed(
            task=TaskSource(name=name), eval_examples=EXAMPLES, retention_documents=DOCUMENTS, evaluations=1
        )
        runs = [train(replace(config, seed=seed), bench) for seed in seeds]
        before, after = runs[0].base_quality, sum(run.quality for run in runs) / len(runs)
        forgetting = sum(run.forgetting for run in runs) / len(runs)
        print(
            f"| {name} | {runs[0].quality_metric.replace('_', ' ')} | {before:.3f} | {after:.3f} | "
            f"{100 * (after - before):+.1f} | "
            f"{forgetting:+.3f} | {', '.join(map(str, seeds))} |",
            flush=True,
        )
        rows[name] = {"untuned": before, "lora": after, "forgetting": forgetting}
    print(json.dumps({"benchmark": "embedded_tasks", "seeds": seeds, "tasks": rows}))


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [41, 42])
