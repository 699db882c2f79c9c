"""When a worker of Ray's own engine saves, and when it ends."""

import pytest

from grit.runtime.workers import Workers
from ray_jobs.execution.per_trial import saving
from ray_jobs.execution.per_trial.saving import SavingTimes


class Clock:
    """Seconds that the test lets pass, and what is told to a worker meanwhile."""

    def __init__(self):
        self.now, self.notice, self.sigterm = 100.0, False, False

    def monotonic(self):
        return self.now

    def later(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(saving, "time", made)
    return made


@pytest.fixture
def times(clock):
    return SavingTimes(
        Workers(), seconds=300.0, leaving=lambda: clock.notice, told_to_end=lambda: clock.sigterm
    )


def test_a_notice_is_answered_once_and_sigterm_after_it_again(clock, times):
    """The usual order on a cloud: the notice comes first, and the signal when the time is up."""
    clock.later(3)
    assert not times.due()
    clock.notice = True
    assert not times.due()  # it has looked a moment ago
    clock.later(3)
    assert times.due()
    assert times.urgent and not times.ending
    times.saved()
    clock.later(3)
    assert not times.due()  # it trains on
    clock.sigterm = True
    clock.later(3)
    assert times.due()
    assert times.ending


def test_wall_time_alone_is_a_reason_too(clock, times):
    clock.later(299)
    assert not times.due()
    clock.later(2)
    assert times.due()
    assert not times.urgent
    times.saved()
    assert not times.due()
