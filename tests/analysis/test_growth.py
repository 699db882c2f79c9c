"""A sequential design, from its first seeds to its last verdict: what is added, and when it stops."""

from dataclasses import replace

import numpy as np
import pytest
from builders import ended, study, study_file, write_tables

from analysis.evidence.load import load_study
from analysis.studies.sensitivity.growth import Growth
from analysis.studies.sensitivity.results import analyse
from ray_jobs.records.sequential import SequentialDesign
from ray_jobs.records.trials_file import write_trials
from ray_jobs.schedule.scheduler import Decisions, Elsewhere, StudyScheduler

SEEDS = tuple(range(41, 49))


def _study(**limits):
    made = study(seeds=SEEDS, regimes=("step",))
    return replace(made, sequential=SequentialDesign(**limits))


def _outcome(record):
    """A damping that is clearly worse, all else equal; seeds swing by 0.015."""
    generator = np.random.default_rng([record.plan.seed, int(1e4 * (record.lambda_ or 0)), record.T or 0])
    shift = -0.2 if record.lambda_ == 0.1 else 0.0
    return ended(record, quality=0.6 + shift + 0.015 * generator.normal())


def _run(folder, made, recorded=(), stop_after=None):
    """Runs the study without Ray, one trial at a time; the ids in the order in which they ran."""
    folder.mkdir(exist_ok=True)
    study_file(made).model_copy(update={"sequential": made.sequential}).write(folder)
    growth = Growth(folder=folder, design=made.sequential, gpus=1, began=0.0)
    scheduler = StudyScheduler(made, recorded, elsewhere=Elsewhere(decisions=Decisions(growth=growth)))
    order = []
    while not scheduler.finished and len(order) != stop_after:
        job = scheduler.next()
        record = _outcome(scheduler.records[job.job_id])
        write_tables(folder, record)
        order.append(record.trial_id)
        scheduler.complete(record)
    write_trials(folder, list(scheduler.records.values()))
    return order, list(scheduler.records.values())


def _seeds(records):
    counts = {}
    for record in records:
        knobs = (record.method, record.tau, record.T, record.lambda_)
        counts[knobs] = counts.get(knobs, 0) + 1
    return counts


def test_seeds_go_where_they_decide(tmp_path):
    made = _study()
    order, records = _run(tmp_path, made)
    counts = _seeds(records)
    assert counts["lora", None, None, None] == 3
    assert counts["grit", 0.99, 10, 0.1] == 2  # plainly worse: decided at once
    assert counts["grit", 0.9, 10, 1e-3] > 2  # as the first two seeds fell, the hardest to tell
    assert max(counts.values()) <= len(SEEDS)
    assert len(set(order)) == len(order)
    verdicts = analyse(load_study(tmp_path)).recommendation.verdicts["step"]
    assert verdicts["open"] == 0
    assert verdicts["decided"] >= 0.9 * verdicts["total"]


def test_a_resumed_study_grows_as_an_uninterrupted_one(tmp_path):
    made = _study()
    whole, _ = _run(tmp_path / "whole", made)
    first, records = _run(tmp_path / "resumed", made, stop_after=13)
    rest, _ = _run(tmp_path / "resumed", made, records)
    assert first + rest == whole


@pytest.mark.parametrize("limits", [{"max_trials": 12}, {"max_gpu_hours": 12 * 2.0 / 3600}])
def test_a_limit_ends_the_growth_and_what_is_open_is_said_to_be(tmp_path, limits):
    _, records = _run(tmp_path, _study(**limits))
    assert len(records) == 12
    verdicts = analyse(load_study(tmp_path)).recommendation.verdicts["step"]
    assert verdicts["open"] > 0


def test_hours_are_counted_from_the_first_trial_of_the_call(tmp_path):
    """This call began in 1970."""
    _, records = _run(tmp_path, _study(max_hours=1.0))
    assert len(records) == len(_study().trials)


def test_limits_do_not_make_another_study():
    assert _study().fingerprint() == _study(max_trials=5).fingerprint()
    assert _study().fingerprint() != _study(first_seeds=4).fingerprint()
    assert _study().fingerprint() != replace(_study(), sequential=None).fingerprint()
