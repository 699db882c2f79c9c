"""Whole studies trained in this process, without Ray: real results in the folder that a study would leave."""

from __future__ import annotations

from builders import study_file

from grit.config.sections import Budget
from grit.training.side_by_side import train
from ray_jobs.design.plan import Study
from ray_jobs.execution.outcome import Collected, JobOutcome, filled
from ray_jobs.records.store import StudyStore
from ray_jobs.records.trial_record import Attempt
from ray_jobs.records.trial_tables import write_rows

#: A trial here has one attempt, in this process.
ALONE = Attempt(worker="this process", began_at=0.0)


def trained_study(folder, name, base, points, bench, *, seeds=(41, 42), regimes=("step",), seconds=0.4):
    """Trains every planned trial of these points and writes records and tables as workers do."""
    amounts = {"step": base.budget.amount, "time": seconds}
    study = Study(
        name=name,
        base=base,
        points=tuple(points),
        seeds=seeds,
        budgets=tuple(Budget(regime=regime, amount=amounts[regime]) for regime in regimes),
        content={"task": "t", "documents": "d", "model": "m"},
    )
    store = StudyStore(folder, study.fingerprint(), resume=False)
    store.open(study_file(study))
    records = []
    for trial in study.trials:
        result = train(trial.config, bench)
        for kind, rows in result.tables().items():
            write_rows(folder, kind, trial.trial_id, rows)
        outcome = JobOutcome(status=result.status, error=result.reason, measured=result.measured)
        record = filled(trial.record, Collected(outcome=outcome, deliveries=(ALONE,)))
        store.put(record)
        records.append(record)
    store.release()
    return records
