import random
from dataclasses import replace

import pytest
from builders import ended, study

from ray_jobs.scheduler import OPEN_POINTS, StudyScheduler


def _run(scheduler, outcome=ended, slots=2, stop_after=None, seed=0):
    """Executes a scheduler with `slots` trials at once, ending in random order; returns the ended records in order."""
    rng, running, done = random.Random(seed), [], []
    while True:
        while len(running) < slots and (trial := scheduler.next()) is not None:
            running.append(trial)
        if not running:
            return done
        trial = running.pop(rng.randrange(len(running)))
        record = outcome(scheduler.records[trial.job_id])
        scheduler.complete(record)
        done.append(record)
        if stop_after is not None and len(done) >= stop_after:
            for other in running:
                scheduler.give_back(other.job_id)
            return done


def _by_knobs(record):
    tau = record.tau or 1.0
    return ended(record, quality=0.4 + 0.1 * tau, forgetting=0.1, overhead=1 / (10 + (record.T or 0)), footprint=tau)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "random"])
@pytest.mark.parametrize("seed", range(3))
def test_a_study_with_search_runs_every_trial_once(sampler, seed):
    scheduler = StudyScheduler(study(search_points=6, sampler=sampler))
    expected = scheduler.expected
    done = _run(scheduler, _by_knobs, slots=3, seed=seed)
    assert scheduler.finished and len(done) == expected == len({r.trial_id for r in done})
    searched = [r for r in scheduler.records.values() if r.design == "search"]
    assert len(searched) == 6 * 2 * 2
    for search in scheduler._searches:
        assert search.optuna.states().count("RUNNING") == 0
        assert search.optuna.states().count("COMPLETE") == 4 + 6  # the one-at-a-time points were given to it first


def test_designed_points_come_before_searched_ones():
    scheduler = StudyScheduler(study(search_points=2))
    done = _run(scheduler, slots=1)
    designs = [r.design for r in done]
    assert designs.index("search") == len([d for d in designs if d != "search"])


def test_no_more_points_are_open_than_the_search_should_guess():
    scheduler = StudyScheduler(study(seeds=(41,), regimes=("step",), oat={}, search_points=9))
    started = []
    while (trial := scheduler.next()) is not None:
        started.append(scheduler.records[trial.job_id])
    assert sum(record.design == "search" for record in started) == OPEN_POINTS and not scheduler.finished


def test_failed_points_are_told_as_failed_and_never_left_running():
    def outcome(record):
        return ended(record, status="diverged") if record.design == "search" and record.seed == 42 else ended(record)
    scheduler = StudyScheduler(study(search_points=3))
    _run(scheduler, outcome)
    for search in scheduler._searches:
        assert search.optuna.states().count("FAIL") == 3 and search.optuna.states().count("RUNNING") == 0


@pytest.mark.parametrize("stop", range(1, 26, 4))
def test_resuming_pays_for_nothing_twice_and_loses_nothing(stop):
    made = study(search_points=3)
    first = StudyScheduler(made)
    done = _run(first, stop_after=stop, slots=2, seed=stop)
    second = StudyScheduler(made, first.records.values())
    more = _run(second)
    assert not {r.trial_id for r in done} & {r.trial_id for r in more}
    assert second.finished and all(r.ended for r in second.records.values())
    assert len(second.records) == second.expected == 10 * 2 + 3 * 2 * 2
    for search in second._searches:
        assert search.asked == 3


def test_failed_trials_run_again_on_resume():
    made = study()
    first = StudyScheduler(made)
    _run(first, lambda r: ended(r, status="failed") if r.design == "control" else ended(r))
    second = StudyScheduler(made, first.records.values())
    assert {r.design for r in _run(second)} == {"control"}


def test_asking_for_more_points_later_continues_the_same_search():
    first = StudyScheduler(study(search_points=2))
    _run(first)
    more = study(search_points=5)
    second = StudyScheduler(more, first.records.values())
    done = _run(second)
    assert len(done) == 3 * 2 * 2 and {r.design for r in done} == {"search"}


def test_every_change_is_reported():
    seen = []
    scheduler = StudyScheduler(study(seeds=(41,), regimes=("step",)), changed=seen.append)
    assert [r.status for r in seen] == ["planned"] * 5
    _run(scheduler)
    assert [r.status for r in seen[5:]] == ["completed"] * 5


def test_a_searched_point_that_is_already_planned_is_not_run_twice():
    made = study(seeds=(41,), regimes=("step",), search_points=1)
    scheduler = StudyScheduler(made)
    knobs = dict(made.points[0].overrides)
    scheduler._searches[0].optuna.ask = lambda: ("0", knobs)
    scheduler._searches[0].optuna.tell = lambda ticket, records: None
    done = _run(scheduler)
    assert len(done) == len({r.trial_id for r in done}) == 5


def test_records_are_values():
    record = next(iter(StudyScheduler(study()).records.values()))
    with pytest.raises(AttributeError):
        record.status = "completed"
    assert replace(record, status="completed").trial_id == record.trial_id
