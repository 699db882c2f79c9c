import math
import random
from collections import Counter
from dataclasses import replace

import optuna
import pytest
from builders import SPACE, ended, planned, study

from grit.errors import ConfigError
from ray_jobs.design.points import Point
from ray_jobs.design.search_space import Search, SearchRange
from ray_jobs.schedule.scheduler import OPEN_POINTS, Elsewhere, StudyScheduler, setting_of
from ray_jobs.schedule.search import OptunaSearch, open_storage


def _run(scheduler, outcome=ended, slots=2, stop_after=None, seed=0):
    """Executes a scheduler with `slots` trials at once, ending in random order.

    Returns the ended records in order.
    """
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


class WatchedSearches:
    """Optuna searches whose studies can be read, as anybody reads an Optuna storage."""

    def __init__(self):
        self._storage = optuna.storages.InMemoryStorage()
        self.elsewhere = Elsewhere(search=self._open)

    def _open(self, search, budget, before):
        return OptunaSearch(search, asked_before=before, storage=self._storage, name=budget.regime)

    def trials(self, regime):
        return optuna.load_study(study_name=regime, storage=self._storage).get_trials()

    def states(self, regime):
        return [trial.state.name for trial in self.trials(regime)]


@pytest.fixture
def searches():
    return WatchedSearches()


def _by_knobs(record):
    tau = record.tau or 1.0
    return ended(
        record, quality=0.4 + 0.1 * tau, forgetting=0.1, overhead=1 / (10 + (record.T or 0)), footprint=tau
    )


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "qmc", "random"])
@pytest.mark.parametrize("seed", range(3))
def test_a_study_with_search_runs_every_trial_once(searches, sampler, seed):
    made = study(search_points=6, sampler=sampler)
    scheduler = StudyScheduler(made, elsewhere=searches.elsewhere)
    expected = scheduler.expected
    done = _run(scheduler, _by_knobs, slots=3, seed=seed)
    assert scheduler.finished
    assert len(done) == expected == len({r.trial_id for r in done})
    searched = [r for r in scheduler.records.values() if r.plan.design == "search"]
    assert len(searched) == 6 * 2 * 2
    for regime in ("step", "time"):
        # the one-at-a-time points were given to it first
        assert searches.states(regime).count("COMPLETE") == 4 + 6
        assert "RUNNING" not in searches.states(regime)


def test_a_searched_point_that_another_study_has_run_is_one_of_those_asked_for(searches):
    """It once asked for another in its place, so that a study had more trials than were planned."""
    made = study(search_points=2)

    def elsewhere(record):
        return ended(record) if record.plan.design == "search" else None

    scheduler = StudyScheduler(made, elsewhere=replace(searches.elsewhere, result=elsewhere))
    expected = scheduler.expected
    _run(scheduler, _by_knobs, slots=2, seed=1)
    assert scheduler.finished
    assert len(scheduler.records) == scheduler.expected == expected
    searched = [r for r in scheduler.records.values() if r.plan.design == "search"]
    assert len(searched) == 2 * 2 * 2
    assert "RUNNING" not in searches.states("step") + searches.states("time")


def test_designed_points_come_before_searched_ones():
    scheduler = StudyScheduler(study(search_points=2))
    done = _run(scheduler, slots=1)
    designs = [r.plan.design for r in done]
    assert designs.index("search") == len([d for d in designs if d != "search"])


def test_no_more_points_are_open_than_the_search_should_guess():
    scheduler = StudyScheduler(study(seeds=(41,), regimes=("step",), oat={}, search_points=9))
    started = []
    while (trial := scheduler.next()) is not None:
        started.append(scheduler.records[trial.job_id])
    assert sum(record.plan.design == "search" for record in started) == OPEN_POINTS
    assert not scheduler.finished


@pytest.mark.parametrize("status, state", [("failed", "FAIL"), ("stopped", "FAIL"), ("diverged", "COMPLETE")])
def test_points_that_lost_a_trial_are_told_as_such_and_never_left_running(searches, status, state):
    """A failed or stopped point is a failure; a diverged one has numbers, and is told as infeasible."""

    def outcome(record):
        return (
            ended(record, status=status)
            if record.plan.design == "search" and record.plan.seed == 42
            else ended(record)
        )

    _run(StudyScheduler(study(search_points=3), elsewhere=searches.elsewhere), outcome)
    for regime in ("step", "time"):
        trials = [trial for trial in searches.trials(regime) if status in trial.user_attrs["statuses"]]
        assert [trial.state.name for trial in trials] == [state] * 3
        assert "RUNNING" not in searches.states(regime)
        if state == "COMPLETE":
            assert all(trial.constraints["diverged"] == 1.0 for trial in trials)


def test_caps_are_constraints_for_the_search(searches):
    made = study(search_points=4)
    made = replace(made, search=replace(made.search, max_overhead=0.04, max_footprint=0.9))
    scheduler = StudyScheduler(made, elsewhere=searches.elsewhere)
    _run(scheduler, lambda r: ended(r, overhead=0.05 if r.tau is None or r.tau > 0.95 else 0.03))
    for trial in (*searches.trials("step"), *searches.trials("time")):
        expected = 0.01 if 1 - trial.params["tau"] > 0.95 else -0.01
        assert trial.constraints["overhead"] == pytest.approx(expected)
        assert trial.constraints["footprint"] == pytest.approx(-0.1)


def _stored(uri, name="s"):
    return lambda search, budget, before: OptunaSearch(
        search, asked_before=before, storage=open_storage(uri), name=f"{name}-{budget.regime}"
    )


@pytest.mark.parametrize("kind", ["sqlite:///{}/optuna.db", "journal:{}/optuna.log"])
def test_the_storage_follows_the_records_through_an_interruption(tmp_path, kind):
    """Killed with points open, then resumed with more asked for.

    Every point once, nothing RUNNING, whatever the kill left behind.
    """
    uri = kind.format(tmp_path)
    first = StudyScheduler(study(search_points=3), elsewhere=Elsewhere(search=_stored(uri)))
    done = _run(
        first, _by_knobs, stop_after=21
    )  # 20 designed trials, then inside the first searched points; and no close: SIGKILL
    states = {
        t.state.name
        for r in ("step", "time")
        for t in optuna.load_study(study_name=f"s-{r}", storage=open_storage(uri)).trials
    }
    assert "RUNNING" in states
    second = StudyScheduler(
        study(search_points=5), first.records.values(), elsewhere=Elsewhere(search=_stored(uri))
    )
    more = _run(second, _by_knobs)
    second.close()
    assert not {r.trial_id for r in done} & {r.trial_id for r in more}
    for regime in ("step", "time"):
        trials = optuna.load_study(study_name=f"s-{regime}", storage=open_storage(uri)).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * (4 + 5)
        assert len({tuple(trial.params.values()) for trial in trials}) == 9


def test_an_interruption_that_ends_cleanly_leaves_nothing_running(tmp_path):
    uri = f"sqlite:///{tmp_path}/optuna.db"
    scheduler = StudyScheduler(study(search_points=3), elsewhere=Elsewhere(search=_stored(uri)))
    _run(scheduler, _by_knobs, stop_after=21)
    scheduler.close()
    for regime in ("step", "time"):
        assert "RUNNING" not in [
            t.state.name
            for t in optuna.load_study(study_name=f"s-{regime}", storage=open_storage(uri)).trials
        ]


def test_a_storage_that_cannot_be_opened_is_refused():
    for uri in ("sqlite:////nowhere/at/all.db", "nonsense", "journal:/nowhere/at/all.log"):
        with pytest.raises(ConfigError, match="^optuna-storage"):
            open_storage(uri).get_all_studies()


def test_any_field_may_be_searched(searches):
    space = {
        "rank": SearchRange(low=4, high=16, integer=True),
        "learning_rate": SearchRange(low=1e-4, high=1e-2),
    }
    made = study(search_points=3)
    made = replace(made, search=Search(space=space, points=3))
    done = _run(StudyScheduler(made, elsewhere=searches.elsewhere))
    searched = [r for r in done if r.plan.design == "search"]
    assert len(searched) == 12
    assert all(
        set(r.plan.overrides) == {"rank", "learning_rate"} and 4 <= r.plan.overrides["rank"] <= 16
        for r in searched
    )
    assert searches.states("step").count("COMPLETE") >= 3


@pytest.mark.parametrize("stop", range(1, 26, 4))
def test_resuming_pays_for_nothing_twice_and_loses_nothing(stop):
    made = study(search_points=3)
    first = StudyScheduler(made)
    done = _run(first, stop_after=stop, slots=2, seed=stop)
    second = StudyScheduler(made, first.records.values())
    more = _run(second)
    assert not {r.trial_id for r in done} & {r.trial_id for r in more}
    assert second.finished
    assert all(r.ended for r in second.records.values())
    assert len(second.records) == second.expected == 10 * 2 + 3 * 2 * 2
    searched = {setting_of(r) for r in second.records.values() if r.plan.design == "search"}
    assert len(searched) == 3 * 2


def test_failed_trials_run_again_on_resume():
    made = study()
    first = StudyScheduler(made)
    _run(first, lambda r: ended(r, status="failed") if r.plan.design == "control" else ended(r))
    second = StudyScheduler(made, first.records.values())
    assert {r.plan.design for r in _run(second)} == {"control"}


def test_asking_for_more_points_later_continues_the_same_search():
    first = StudyScheduler(study(search_points=2))
    _run(first)
    more = study(search_points=5)
    second = StudyScheduler(more, first.records.values())
    done = _run(second)
    assert len(done) == 3 * 2 * 2
    assert {r.plan.design for r in done} == {"search"}


def test_every_change_is_reported():
    seen = []
    scheduler = StudyScheduler(study(seeds=(41,), regimes=("step",)), changed=seen.append)
    assert [r.status for r in seen] == ["planned"] * 5
    _run(scheduler)
    assert [r.status for r in seen[5:]] == ["completed"] * 5


def test_a_searched_point_that_is_already_planned_is_not_run_twice():
    made = study(seeds=(41,), regimes=("step",), search_points=1)
    knobs = dict(made.points[0].overrides)

    class Repeating(OptunaSearch):
        def ask(self, held=None):
            return super().ask()[0], knobs

    elsewhere = Elsewhere(search=lambda search, budget, before: Repeating(search, asked_before=before))
    done = _run(StudyScheduler(made, elsewhere=elsewhere))
    assert len(done) == len({r.trial_id for r in done}) == 5


def test_records_are_values():
    record = next(iter(StudyScheduler(study()).records.values()))
    with pytest.raises(ValueError, match="frozen"):
        record.status = "completed"
    assert record.changed(status="completed").trial_id == record.trial_id


def test_a_small_batch_repeat_tells_the_search_nothing_about_the_full_batch(searches):
    made = study(seeds=(41,), regimes=("step",), search_points=1)
    center = dict(made.points[0].overrides)
    odd = Point.of("small-batch", {**center, "micro_batch": 2})
    made = replace(made, points=(*made.points, odd))
    scheduler = StudyScheduler(made, elsewhere=searches.elsewhere)
    _run(scheduler, lambda r: ended(r, quality=0.1 if "micro_batch" in r.plan.overrides else 0.9))
    values = [trial.values[0] for trial in searches.trials("step")]
    assert values == [0.9] * 5  # four designed points and the searched one


def test_a_point_that_is_asked_for_twice_is_told_once(searches):
    made = study(seeds=(41,), regimes=("step",), oat={})
    space = {"rank": SearchRange(low=4, high=5, integer=True, log=False)}
    made = replace(made, search=Search(space=space, points=4, sampler="random"))
    scheduler = StudyScheduler(made, elsewhere=searches.elsewhere)
    _run(scheduler, slots=3)
    scheduler.close()
    states = searches.states("step")
    assert "RUNNING" not in states
    assert states.count("COMPLETE") >= 2


def test_few_points_of_the_default_sampler_fill_the_space_evenly():
    search = OptunaSearch(Search(space=SPACE, points=8, seed=3))
    thirds = Counter()
    for _ in range(8):
        _, knobs = search.ask()
        assert SPACE["T"].low <= knobs["T"] <= SPACE["T"].high
        share = math.log10(knobs["lambda"] / 1e-4) / 3
        thirds[int(3 * share)] += 1
    assert sorted(thirds) == [0, 1, 2]
    assert min(thirds.values()) >= 2


def _measured(knobs, optimum):
    """A bowl: quality and retention fall with the distance from the optimum, costs are all the same."""
    distance = abs(math.log10(knobs["lambda"] / optimum)) + 10 * abs(knobs["tau"] - 0.95)
    values = {"quality": -distance, "retention": 1 - 0.1 * distance, "overhead": 0.05, "footprint": 0.8}
    return [ended(planned(study(seeds=(41,), regimes=("step",)))[1], **values)]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_sampler_finds_the_bottom_of_a_bowl(seed):
    search = OptunaSearch(Search(space=SPACE, points=24, seed=seed))
    best = []
    for _ in range(24):
        ticket, knobs = search.ask()
        records = _measured(knobs, 3e-3)
        search.tell(ticket, records)
        best.append(-records[0].measured.quality)
    assert min(best[8:]) < 0.2
    assert min(best[8:]) < min(best[:8])


def test_the_default_sampler_keeps_clear_of_what_breaks_a_constraint():
    """All that cost less footprint than 0.5 lies above a damping of 1e-2; quality falls with damping."""
    search = OptunaSearch(Search(space=SPACE, points=24, seed=1, max_footprint=0.5))
    asked = []
    for _ in range(24):
        ticket, knobs = search.ask()
        values = {
            "quality": -math.log10(knobs["lambda"]),
            "footprint": 0.4 if knobs["lambda"] > 1e-2 else 0.9,
        }
        search.tell(ticket, [ended(planned(study(seeds=(41,), regimes=("step",)))[1], **values)])
        asked.append(knobs["lambda"])
    assert sum(value > 1e-2 for value in asked[8:]) >= 12
