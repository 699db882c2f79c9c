"""Whole studies trained in this process, without Ray.

Real results of the trainer in the folder that a study would leave.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from grit.training.result import TABLES
from grit.training.side_by_side import train
from ray_jobs.design.plan import Study, fingerprint, plan
from ray_jobs.execution.runner import filled
from ray_jobs.records.store import StudyStore
from ray_jobs.records.study_file import STUDY_FILE
from ray_jobs.records.trials_file import write_trials


def trained_study(folder, name, base, points, bench, *, seeds=(41, 42), regimes=("step",), seconds=0.4):
    """Trains every planned trial of these points and writes records and tables as `StudyRunner` does."""
    from grit.config.sections import Budget

    budgets = tuple(Budget(regime=r, amount=base.budget.amount if r == "step" else seconds) for r in regimes)
    study = Study(
        name=name,
        base=base,
        points=tuple(points),
        seeds=seeds,
        budgets=budgets,
        content={"task": "t", "documents": "d", "model": "m"},
    )
    store = StudyStore(folder, fingerprint(study), resume=False)
    described = {
        "name": name,
        "config": study.base.to_dict(),
        "budgets": {b.regime: b.amount for b in budgets},
        "seeds": list(seeds),
        "content": {},
    }
    store.open(
        described,
        {
            "created": "2026-01-01",
            "execution": {"concurrent": 1},
            "command_line": ["x.py"],
            "git_commit": None,
            "git_dirty": None,
            "platform": "p",
            "cpu_count": 2,
            "python": "3",
            "versions": {"torch": "2"},
        },
    )
    records = []
    for trial in plan(study):
        result = asdict(train(trial.config, bench))
        for kind in TABLES:
            store.write_rows(kind, trial.trial_id, result[kind])
        records.append(filled(trial.record, {"status": result["status"], "attempts": 1, "result": result}))
    write_trials(folder, records)
    store.release()
    assert json.loads((folder / STUDY_FILE).read_text())["name"] == name
    return [replace(record) for record in records]
