"""What running shared beginnings once saves.

The one-at-a-time plan under the long-run defaults, a twentieth as long, shared and not.

    python benchmarks/shared_prefix.py

Each trial is trained both ways in turn; results must agree bit for bit, and the line of JSON says by how much
the training seconds shrank.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace

from tqdm import tqdm

from grit.config.method import GritConfig
from grit.config.sections import Budget
from grit.runtime.allocator import keep_freed_memory
from grit.training.workbench import Workbench
from ray_jobs.design.plan import Study
from ray_jobs.design.points import one_at_a_time
from ray_jobs.design.study_presets import embedded
from ray_jobs.execution.warm.worker import run_job
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.schedule.scheduler import Elsewhere, StudyScheduler

STEPS = 150
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


def job_of(job):
    return {
        "trial_id": job.job_id,
        "config": job.config.to_dict(),
        "trunk_steps": job.trunk_steps,
        "fork_from": job.fork_from,
        "may_stop": False,
    }


def ended(record: TrialRecord, outcome) -> TrialRecord:
    return replace(record, status=outcome["status"])


def main():
    keep_freed_memory()
    bench = Workbench()
    base = embedded("grit").base.changed(
        grit=GRIT,
        eval_examples=20,
        retention_documents=10,
        evaluations=1,
        budget=Budget(regime="step", amount=STEPS),
    )
    points = one_at_a_time({"tau": 0.99, "T": 15, "lambda": 3e-3}, OAT)
    content = {"task": "t", "documents": "d", "model": "m"}
    study = Study(
        name="b", base=base, points=tuple(points), seeds=(41,), budgets=(base.budget,), content=content
    )
    spent, losses, trunk_count = {}, {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for share in (False, True):
            scheduler = StudyScheduler(study, elsewhere=Elsewhere(share=share))
            total, trunk_seconds = 0.0, {}
            bar = tqdm(
                total=scheduler.expected, desc="shared" if share else "alone", disable=not sys.stderr.isatty()
            )
            while (job := scheduler.next()) is not None:
                outcome = run_job(job_of(job), bench, None, folder)
                if job.trunk_steps is not None:
                    before = trunk_seconds.get(job.fork_from, 0.0)
                    trunk_seconds[job.job_id] = outcome["train_seconds"]
                    total += outcome["train_seconds"] - before
                    trunk_count += 1
                    scheduler.trunk_ended(
                        job.job_id, {key: outcome[key] for key in ("steps", "train_seconds")}
                    )
                    continue
                result = outcome["result"]
                total += result["train_seconds"] - result.get("fork_seconds", 0.0)
                losses.setdefault(job.job_id, []).append([row["loss"] for row in result["telemetry"]])
                scheduler.complete(ended(scheduler.records[job.job_id], outcome))
                bar.update(1)
            bar.close()
            spent["shared" if share else "alone"] = total
    same = all(first == second for first, second in losses.values())
    saved = 1 - spent["shared"] / spent["alone"]
    print(
        f"{len(losses)} trials of {STEPS} steps: {spent['alone']:.0f} s alone, {spent['shared']:.0f} s "
        f"with {trunk_count} shared beginnings; "
        f"{saved:.1%} saved; losses {'equal bit for bit' if same else 'DIFFER'}"
    )
    print(
        json.dumps(
            {
                "benchmark": "shared_prefix",
                "trials": len(losses),
                "steps": STEPS,
                "trunks": trunk_count,
                "train_seconds": spent,
                "ratio": spent["shared"] / spent["alone"],
                "bit_for_bit": same,
            }
        )
    )


if __name__ == "__main__":
    main()
