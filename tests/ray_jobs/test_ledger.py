"""Ray's own engine without Ray: whose word counts, what faults cost, which nodes are left alone."""

import asyncio

import pytest
from builders import ended, planned, study

from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.training.measurements import Measurements
from ray_jobs.execution.nodes.timed_device import TimedDevice, device_of
from ray_jobs.execution.outcome import JobOutcome
from ray_jobs.execution.per_trial.blame import Place
from ray_jobs.execution.per_trial.ledger import TrialLedger
from ray_jobs.execution.per_trial.trial import avoided
from ray_jobs.records.faults import FAULTS, MAX_BACKOFF_SECONDS, NODE_PATIENCE, backoff
from ray_jobs.records.trial_record import Attempt
from ray_jobs.schedule.job import Job

CONFIG = RunConfig.of(task=TaskSource(name="arithmetic"), budget=Budget(regime="step", amount=4))
DONE = JobOutcome(status="completed", measured=Measurements(quality=0.5))


def _place(node="n1"):
    return Place(node_id=node, address="10.0.0.1", process=7)


class Driven:
    """A ledger whose calls are awaited one after the other."""

    def __init__(self, *jobs):
        self.ledger = TrialLedger()
        for job in jobs or ("t",):
            self("offer", Job(job_id=job, config=CONFIG))

    def __call__(self, name, *arguments):
        return asyncio.run(getattr(self.ledger, name)(*arguments))


def test_an_attempt_that_is_superseded_is_not_heard():
    on = Driven()
    assert on("begin", "t", "first", _place())
    assert on("begin", "t", "second", _place("n2"))
    assert not on("finish", "t", "first", JobOutcome(status="completed", measured=Measurements(quality=0.1)))
    on("fault", "t", "first", "trial", "too late", _place())
    on("report", "t", "first", {"step": 1})
    assert on("snapshot")["running"] == {}
    assert on("finish", "t", "second", DONE)
    assert not on("finish", "t", "second", DONE)
    assert on("closing", "t") == ("completed", "second")
    collected, token = on("collect", "t")
    assert token == "second"
    assert collected.outcome.measured.quality == 0.5
    assert [attempt.fault for attempt in collected.deliveries] == ["preemption", None]
    assert on("collect", "t") is None
    assert not on("begin", "t", "third", _place())  # there is nothing left to do


def test_a_node_that_is_taken_away_costs_no_attempt():
    on = Driven()
    for number in range(20):
        assert on("begin", "t", f"a{number}", _place(f"n{number}"))
    assert on("finish", "t", "a19", DONE)
    collected, _ = on("collect", "t")
    assert collected.attempts == 20
    assert {attempt.fault for attempt in collected.deliveries[:-1]} == {"preemption"}


@pytest.mark.parametrize("kind", ["trial", "configuration"])
def test_what_would_fail_again_is_not_tried_again(kind):
    on = Driven()
    on("begin", "t", "a", _place())
    on("fault", "t", "a", kind, "ValueError: no", _place())
    assert not on("ended_early", "t", "Ray's word").again
    collected, _ = on("collect", "t")
    assert collected.outcome.status == "failed"
    assert collected.outcome.error == f"{kind}: ValueError: no"
    assert collected.deliveries[0].fault == kind


def test_a_worker_that_dies_without_a_word_is_tried_again_with_growing_patience():
    on = Driven()
    waits = []
    for number in range(FAULTS["infrastructure"].retries):
        on("begin", "t", f"a{number}", _place(f"n{number}"))
        verdict = on("ended_early", "t", "the actor died")
        assert verdict.again
        waits.append(verdict.wait_seconds)
    assert waits == [5.0, 10.0, 20.0]
    on("begin", "t", "last", _place("n9"))
    assert not on("ended_early", "t", "the actor died").again
    collected, _ = on("collect", "t")
    assert collected.outcome.error == "infrastructure: the actor died (4 times)"
    assert backoff("infrastructure", 30) == MAX_BACKOFF_SECONDS


def test_faults_of_one_kind_do_not_use_up_the_patience_with_another():
    on = Driven()
    for number in range(3):
        on("begin", "t", f"a{number}", _place(f"n{number}"))
        on("fault", "t", f"a{number}", "node", "its GPU is gone", _place(f"n{number}"))
        assert on("ended_early", "t", "-").again
    for number in range(3):
        on("begin", "t", f"b{number}", _place(f"m{number}"))
        assert on("ended_early", "t", "the actor died").again


def test_a_node_with_repeated_faults_is_put_aside_and_a_success_clears_it():
    jobs = [f"t{number}" for number in range(NODE_PATIENCE + 1)]
    on = Driven(*jobs)
    for job in jobs[:-2]:
        on("begin", job, "a", _place("bad"))
        on("fault", job, "a", "node", "its GPU is gone", _place("bad"))
        on("ended_early", job, "-")
    on("begin", jobs[-1], "a", _place("bad"))
    on("finish", jobs[-1], "a", DONE)
    on("begin", jobs[-2], "a", _place("bad"))
    on("fault", jobs[-2], "a", "node", "its GPU is gone", _place("bad"))
    assert on("avoided", jobs[-2]) == (set(), {"bad"}, set())

    on = Driven(*jobs)
    for job in jobs[:NODE_PATIENCE]:
        on("begin", job, "a", _place("bad"))
        on("fault", job, "a", "node", "its GPU is gone", _place("bad"))
    assert on("avoided", jobs[-1]) == ({"bad"}, set(), set())
    on("no_node", jobs[-1])
    collected, _ = on("collect", jobs[-1])
    assert "(10.0.0.1: its GPU is gone)" in collected.outcome.error


@pytest.mark.parametrize(
    "room, aside, failed_on, workers, expected",
    [
        ({"a": 1, "b": 1}, set(), {"a"}, 1, ["a"]),
        ({"a": 1}, set(), {"a"}, 1, []),  # there is no other: it goes where it failed before
        ({"a": 1, "b": 1}, set(), {"a"}, 2, []),  # the other has no room for both workers
        ({"a": 1, "b": 2}, set(), {"a"}, 2, ["a"]),
        ({"a": 1, "b": 1}, {"b"}, {"a"}, 1, ["b"]),
        ({"a": 1}, {"a"}, set(), 1, ["a"]),  # it waits for another node
    ],
)
def test_where_a_trial_is_not_placed(room, aside, failed_on, workers, expected):
    assert avoided(room, aside, failed_on, workers) == expected


def test_a_run_that_fails_before_any_worker_begins_is_counted_each_time():
    on = Driven()
    for _ in range(FAULTS["infrastructure"].retries):
        on("opening", "t")
        assert on("places", "t") == []
        assert on("ended_early", "t", "no worker group started").again
    on("opening", "t")
    assert not on("ended_early", "t", "no worker group started").again
    collected, _ = on("collect", "t")
    assert collected.outcome.error == "infrastructure: no worker group started (4 times)"
    assert collected.deliveries == ()


def test_a_run_that_fails_to_start_says_nothing_of_the_attempt_before_it():
    on = Driven()
    on("opening", "t")
    on("begin", "t", "a", _place())
    on("fault", "t", "a", "node", "its GPU is gone", _place())
    assert on("ended_early", "t", "-").again
    on("opening", "t")
    assert on("ended_early", "t", "no worker group started").again
    on("opening", "t")
    on("begin", "t", "b", _place("n2"))
    on("finish", "t", "b", DONE)
    collected, _ = on("collect", "t")
    assert [(a.fault, a.error) for a in collected.deliveries] == [("node", "its GPU is gone"), (None, None)]


def test_all_workers_of_a_run_are_asked_whether_their_node_is_gone():
    on = Driven()
    on("opening", "t")
    on("begin", "t", "a", _place("n1"))
    on("joined", "t", "a", _place("n2"))
    assert [place.node_id for place in on("places", "t")] == ["n1", "n2"]
    verdict = on("ended_early", "t", "a peer is gone", None)
    assert verdict.again


def test_a_trial_that_kills_its_worker_again_and_again_puts_no_node_aside():
    on = Driven("t", "u")
    for number in range(4):
        on("opening", "t")
        on("begin", "t", f"a{number}", _place("only"))
        on("ended_early", "t", "the actor died")
    assert on("avoided", "u") == (set(), set(), set())


def test_what_an_earlier_driver_s_worker_left_is_taken_over():
    on = Driven()
    on("adopt", "t", "old", DONE)
    assert on("closing", "t") == ("completed", "old")
    assert not on("begin", "t", "new", _place())
    collected, token = on("collect", "t")
    assert (token, collected.attempts) == ("old", 0)


def test_time_matched_trials_are_for_one_kind_of_device():
    """Another kind is no fault of its node: others may run there, and the trial goes elsewhere."""
    timed = CONFIG.changed(budget=Budget(regime="time", amount=2.0))
    on = Driven("step")
    on.ledger = TrialLedger(TimedDevice("A100"))
    on("offer", Job(job_id="step", config=CONFIG))
    on("offer", Job(job_id="time", config=timed))
    for job in ("step", "time"):
        on("begin", job, "a", _place("other"))
    assert on("admitted", "step", "a", {"name": "H100"}, ["H100"]) is None
    refusal = on("admitted", "time", "a", {"name": "H100"}, ["H100"])
    assert refusal == "it is a H100, and time budgets of this study are for a A100"
    for _ in range(NODE_PATIENCE):
        on("fault", "time", "a", "device", refusal, _place("other"))
        assert on("ended_early", "time", "-").again
        on("opening", "time")
        on("begin", "time", "a", _place("other"))
    assert on("avoided", "time") == (set(), {"other"}, set())
    assert on("avoided", "step") == (set(), set(), set())
    on("begin", "time", "b", _place("right"))
    assert on("admitted", "time", "b", {"name": "A100"}, ["A100", "A100"]) is None
    assert "it is a A10, and" in on("admitted", "time", "b", {"name": "A100"}, ["A100", "A10"])


def test_the_device_of_a_continued_study_is_that_of_its_trials():
    records = [record for record in planned(study()) if record.plan.regime == "time"]
    attempt = Attempt(worker="w", began_at=0.0, admission={"name": "A100"})
    done = ended(records[0]).changed(deliveries=(attempt,))
    assert device_of(records) is None
    assert device_of([records[1], done]) == "A100"


def test_a_device_is_that_of_all_workers_or_none():
    device = TimedDevice()
    assert device.refusal(["A100", "A10"]) == "it is a A10, and time budgets of this study are for a A100"
    assert device.refusal(["A10"]) is None  # no trial has run on the other yet
    assert device.refusal(["A100"]) is not None
