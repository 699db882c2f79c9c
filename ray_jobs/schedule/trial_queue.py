"""The trials that wait to be started, in order: taking one costs the same, however many there are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ray_jobs.design.plan import TrialSpec


class TrialQueue:
    """First in, first out, with those set aside that wait for a trunk."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, TrialSpec] = OrderedDict()
        self._blocked: OrderedDict[str, TrialSpec] = OrderedDict()

    def __len__(self) -> int:
        """All that wait."""
        return len(self._waiting) + len(self._blocked)

    def __iter__(self) -> Iterator[TrialSpec]:
        """All that wait, those first that wait for a trunk."""
        yield from self._blocked.values()
        yield from self._waiting.values()

    def append(self, trial: TrialSpec) -> None:
        """At the end."""
        self._waiting[trial.trial_id] = trial

    def appendleft(self, trial: TrialSpec) -> None:
        """In front."""
        self._waiting[trial.trial_id] = trial
        self._waiting.move_to_end(trial.trial_id, last=False)

    def first(self) -> TrialSpec | None:
        """The first that is not known to wait for a trunk."""
        return next(iter(self._waiting.values()), None)

    def block(self, trial: TrialSpec) -> None:
        """Sets a trial aside until a trunk has ended."""
        self._blocked[trial.trial_id] = self._waiting.pop(trial.trial_id)

    def unblock(self) -> None:
        """Looks again at all that were set aside: in front, in their order."""
        while self._blocked:
            trial_id, trial = self._blocked.popitem()
            self._waiting[trial_id] = trial
            self._waiting.move_to_end(trial_id, last=False)

    def last_blocked(self) -> TrialSpec | None:
        """The one whose turn would come last of those that wait for a trunk."""
        return next(reversed(self._blocked.values()), None)

    def remove(self, trial: TrialSpec) -> None:
        """Wherever it waits."""
        if self._waiting.pop(trial.trial_id, None) is None:
            del self._blocked[trial.trial_id]
