"""What trunks save.

The one-at-a-time plan under the long-run defaults, a twentieth as long, with and without.

    python benchmarks/trunks.py [--steps 150] [--values 5]

Each trial is trained both ways; results must agree bit for bit, and the line of JSON says by how much the
training seconds shrank.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from grit.config.method import GritConfig
from grit.config.sections import Budget
from grit.presets.run_presets import configuration
from grit.runtime.allocator import keep_freed_memory
from grit.training.workbench import Workbench
from ray_jobs.design.plan import Study
from ray_jobs.design.points import one_at_a_time
from ray_jobs.execution.job_run import Placement, run_job
from ray_jobs.schedule.scheduler import Elsewhere, StudyScheduler

#: The method's defaults for long runs, a twentieth: kfac update 150, natural-gradient warm-up 300, T 300,
#: warm-ups of 500, of 3,000 steps.
GRIT = GritConfig(
    cov_update_freq=5,
    kfac_update_freq=7,
    kfac_min_samples=192,
    ng_warmup_steps=15,
    kfac_damping=3e-3,
    reprojection_freq=15,
    reprojection_warmup_steps=25,
    rank_adaptation_start_step=25,
)
OAT = {"tau": (0.80, 0.90, 0.95, 0.999), "T": (4, 8, 30, 60, None), "lambda": (1e-4, 1e-3, 1e-2, 1e-1)}


@dataclass
class Spent:
    """What one way of running the plan took: training seconds, and what each trial measured."""

    seconds: float = 0.0
    trunks: int = 0
    measured: dict[str, tuple[object, ...]] = field(default_factory=dict)


def run(study: Study, bench: Workbench, *, share: bool) -> Spent:
    """Every trial of the plan, one after the other."""
    scheduler = StudyScheduler(study, elsewhere=Elsewhere(share=share))
    spent = Spent()
    reached: dict[str | None, float] = {}
    label = "with trunks" if share else "alone"
    bar = tqdm(total=scheduler.expected, desc=label, disable=not sys.stderr.isatty())
    with tempfile.TemporaryDirectory() as folder:
        place = Placement(checkpoints=Path(folder), tables=Path(folder))
        while (job := scheduler.next()) is not None:
            outcome = run_job(job, bench, None, place)
            if outcome.trunk is not None:
                spent.seconds += outcome.trunk.train_seconds - reached.get(job.fork_from, 0.0)
                reached[job.job_id] = outcome.trunk.train_seconds
                spent.trunks += 1
                scheduler.trunk_ended(job.job_id, outcome.trunk)
                continue
            measured = outcome.measured
            assert measured is not None
            before = 0.0 if outcome.fork is None else outcome.fork.train_seconds
            spent.seconds += (measured.train_seconds or 0.0) - before
            spent.measured[job.job_id] = (measured.quality, measured.answer_loss, measured.forgetting)
            scheduler.complete(scheduler.records[job.job_id].changed(status="completed", measured=measured))
            bar.update(1)
    bar.close()
    return spent


def main() -> None:
    """Both ways, in turn."""
    parser = argparse.ArgumentParser(description="What trunks save.")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--values", type=int, default=5, help="of each knob, at the most")
    options = parser.parse_args()
    steps = options.steps
    keep_freed_memory()
    bench = Workbench()
    base = configuration("embedded", "grit").changed(
        grit=GRIT,
        eval_examples=20,
        retention_documents=10,
        evaluations=1,
        budget=Budget(regime="step", amount=steps),
    )
    values = {knob: tried[: options.values] for knob, tried in OAT.items()}
    study = Study(
        name="b",
        base=base,
        points=tuple(one_at_a_time({"tau": 0.99, "T": 15, "lambda": 3e-3}, values)),
        seeds=(41,),
        budgets=(base.budget,),
        content={"task": "t", "documents": "d", "model": "m"},
    )
    alone, shared = run(study, bench, share=False), run(study, bench, share=True)
    same = alone.measured == shared.measured
    ratio = shared.seconds / alone.seconds
    print(
        f"{len(alone.measured)} trials of {steps} steps: {alone.seconds:.0f} s alone, {shared.seconds:.0f} "
        "s "
        f"with {shared.trunks} trunks; {1 - ratio:.1%} saved; results "
        f"{'equal bit for bit' if same else 'DIFFER'}"
    )
    summary = {
        "benchmark": "trunks",
        "trials": len(alone.measured),
        "steps": steps,
        "trunks": shared.trunks,
        "train_seconds": {"alone": alone.seconds, "with_trunks": shared.seconds},
        "ratio": ratio,
        "bit_for_bit": same,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
