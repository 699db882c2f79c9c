"""Decides which trial runs next, on plain data: the plan first, then searched points.

Executing them is somebody else's job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from grit.config.overrides import with_overrides
from grit.config.run import Overrides, RunConfig
from grit.config.sections import Budget
from ray_jobs.design.sharing import Trunk, plan_trunks
from ray_jobs.design.study import Point, Search, Study, TrialSpec, make_trial, plan
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.schedule.search import OptunaSearch

#: Searched points under way at once in one regime: more would be suggested from older knowledge.
OPEN_POINTS = 2
#: How often a search may suggest what has been measured before (a genetic sampler may copy a parent) until
#: its turn is used up.
MAX_REPEATS = 20


@dataclass
class _RegimeSearch:
    """One regime's search: tickets under way, and how many points have been asked for."""

    budget: Budget
    optuna: OptunaSearch
    asked: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One thing for a worker to do: a trial, or a trunk that trials go on from.

    Attributes:
        job_id: the trial's id, or the trunk's.
        trunk_steps: None for a trial; the steps a trunk trains.
        fork_from: id of the trunk whose checkpoint it starts from, or None.
        may_stop: whether it may stop early when it is dominated; None where no trial of the study may, and
            standings need not be told.
    """

    job_id: str
    config: RunConfig
    trunk_steps: int | None = None
    fork_from: str | None = None
    may_stop: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What lies outside the plan: results of earlier studies, and trunks of an earlier call.

    The defaults know of nothing.

    Attributes:
        result: the record of a trial that another study in the same store has run under the same id, or None.
        trunk: what is known of a trunk whose checkpoint still exists, or None.
        share: whether shared beginnings are run once.
        search: makes the Optuna search of a regime, given how many points were asked for before.
    """

    result: Callable[[TrialRecord], TrialRecord | None] = lambda record: None
    trunk: Callable[[str], dict[str, Any] | None] = lambda trunk_id: None
    share: bool = False
    search: Callable[[Search, Budget, int], OptunaSearch] = lambda search, budget, before: OptunaSearch(
        search, asked_before=before
    )


@dataclass
class _TrunkState:
    """A trunk and where it stands: `waiting`, `running`, `ready`, or `lost` (its trials then run alone)."""

    trunk: Trunk
    status: str = "waiting"
    outcome: dict[str, Any] = field(default_factory=dict)


class StudyScheduler:
    """The queue of one study.

    Args:
        known: records of trials that were planned before (a resumed study, or searched points of an earlier
            call).
        changed: called with every record that is new or has changed.
        elsewhere: what may be taken over instead of being run.
    """

    def __init__(
        self,
        study: Study,
        known: Iterable[TrialRecord] = (),
        changed: Callable[[TrialRecord], None] = lambda record: None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.study, self._changed, self._elsewhere = study, changed, elsewhere or Elsewhere()
        self.records: dict[str, TrialRecord] = {}
        self._trunks: dict[str, _TrunkState] = {}
        self._forks: dict[str, str] = {}
        self._queue: deque[TrialSpec] = deque()
        self._running: dict[str, TrialSpec] = {}
        self._tickets: dict[tuple[str, str], tuple[_RegimeSearch, str]] = {}
        earlier = {record.trial_id: record for record in known}
        self._searches = (
            []
            if study.search is None
            else [
                _RegimeSearch(
                    budget=budget,
                    optuna=self._elsewhere.search(
                        study.search, budget, len(_searched(earlier.values(), budget))
                    ),
                )
                for budget in study.budgets
            ]
        )
        for trial in plan(study):
            self._admit(trial, earlier.pop(trial.trial_id, None))
        self._readmit(list(earlier.values()))
        for point_id, regime in dict.fromkeys((r.point_id, r.regime) for r in self.records.values()):
            self._tell(point_id, regime)
        if self._elsewhere.share:
            self._plan_trunks()

    def _plan_trunks(self) -> None:
        shared = plan_trunks(self._queue)
        self._forks = dict(shared.fork_of)
        for trunk in shared.trunks:
            found = self._elsewhere.trunk(trunk.trunk_id)
            self._trunks[trunk.trunk_id] = _TrunkState(
                trunk, "waiting" if found is None else "ready", found or {}
            )

    def _admit(self, trial: TrialSpec, earlier: TrialRecord | None) -> None:
        if trial.trial_id in self.records:
            return
        record = (self._elsewhere.result(trial.record) or trial.record) if earlier is None else earlier
        self.records[trial.trial_id] = record
        if record.status in ("planned", "failed"):
            if record.status == "failed":
                record = replace(trial.record, attempts=0)
                self.records[trial.trial_id] = record
            self._queue.append(replace(trial, record=record))
        self._changed(record)

    def _readmit(self, searched: list[TrialRecord]) -> None:
        """Takes over the searched points of an earlier call: their finished trials count, the others run."""
        earlier = {record.trial_id: record for record in searched}
        for search in self._searches:
            for overrides in _searched(searched, search.budget).values():
                search.asked += 1
                self._enqueue_point(overrides, search.budget, earlier)

    def _enqueue_point(self, overrides: Overrides, budget: Budget, earlier: Mapping[str, TrialRecord]) -> str:
        trials = [
            make_trial(self.study, Point.of("search", overrides), seed, budget) for seed in self.study.seeds
        ]
        for trial in trials:
            self._admit(trial, earlier.get(trial.trial_id))
        return trials[0].record.point_id

    @property
    def expected(self) -> int:
        """Trials that the study will have in the end, searched ones included."""
        to_ask = (
            0
            if self.study.search is None
            else sum(max(0, self.study.search.points - s.asked) for s in self._searches)
        )
        return len(self.records) + to_ask * len(self.study.seeds)

    @property
    def ended(self) -> int:
        """Trials with an outcome."""
        return sum(record.ended for record in self.records.values())

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to start or to wait for."""
        return (
            not self._queue
            and not self._running
            and not self.busy_trunks
            and not any(self._can_ask(search) for search in self._searches)
        )

    @property
    def busy_trunks(self) -> bool:
        """Whether a trunk is running."""
        return any(state.status == "running" for state in self._trunks.values())

    def next(self) -> Job | None:
        """The next thing to start.

        None when there is none now (look at `finished` to tell waiting from the end).
        """
        if not self._queue:
            self._ask()
        for trial in self._queue:
            fork = self._fork(self._forks.get(trial.trial_id))
            state = None if fork is None else self._trunks[fork]
            if state is not None and state.status == "waiting":
                job = self._start_trunk(state)
                if job is not None:
                    return job
                continue
            if state is None or state.status == "ready":
                self._queue.remove(trial)
                self._running[trial.trial_id] = trial
                stops = self.study.search is not None and self.study.search.stop_dominated
                may_stop = trial.record.design == "search" if stops else None
                return Job(job_id=trial.trial_id, config=trial.config, fork_from=fork, may_stop=may_stop)
        return None

    def _fork(self, trunk_id: str | None) -> str | None:
        """The deepest trunk at or above this one that is not lost."""
        while trunk_id is not None and self._trunks[trunk_id].status == "lost":
            trunk_id = self._trunks[trunk_id].trunk.parent
        return trunk_id

    def _start_trunk(self, state: _TrunkState) -> Job | None:
        """Starts a trunk, or the one it goes on from; None while that one is running."""
        parent = self._fork(state.trunk.parent)
        above = None if parent is None else self._trunks[parent]
        if above is not None and above.status == "waiting":
            return self._start_trunk(above)
        if above is not None and above.status == "running":
            return None
        state.status = "running"
        return Job(
            job_id=state.trunk.trunk_id,
            config=state.trunk.config,
            trunk_steps=state.trunk.steps,
            fork_from=parent,
        )

    def trunk_ended(self, trunk_id: str, outcome: dict[str, Any] | None) -> None:
        """Takes what a trunk left: `steps` and `train_seconds`.

        None when it failed, and its trials run without it.
        """
        state = self._trunks[trunk_id]
        state.status, state.outcome = ("lost", {}) if outcome is None else ("ready", outcome)

    def trunks(self) -> list[dict[str, Any]]:
        """The trunks that have run, for the store."""
        return [
            {
                "trunk_id": state.trunk.trunk_id,
                "parent": self._fork(state.trunk.parent),
                "members": list(state.trunk.members),
                **state.outcome,
            }
            for state in self._trunks.values()
            if state.status == "ready"
        ]

    def spent_trunks(self) -> list[str]:
        """Trunks that nobody will go on from any more: all their trials have ended."""
        return [
            trunk_id
            for trunk_id, state in self._trunks.items()
            if all(self.records[member].ended for member in state.trunk.members)
        ]

    def complete(self, record: TrialRecord) -> None:
        """Takes the outcome of a started trial, and tells the search once a point has all its seeds."""
        self._running.pop(record.trial_id, None)
        self.records[record.trial_id] = record
        self._changed(record)
        self._tell(record.point_id, record.regime)

    def _tell(self, point_id: str, regime: str) -> None:
        """Tells the regime's search a point whose trials have all ended.

        As an answer if it asked, else as a gift.
        """
        siblings = self._siblings(point_id, regime)
        if not all(sibling.ended for sibling in siblings):
            return
        held = self._tickets.pop((point_id, regime), None)
        if held is not None:
            search, ticket = held
            search.optuna.tell(ticket, siblings)
            return
        first = siblings[0]
        for search in self._searches:
            if search.budget.regime == regime and first.tau is not None:
                knobs = self._knobs(first)
                if with_overrides(self.study.base, first.overrides) == with_overrides(
                    self.study.base, knobs
                ):  # nothing else is moved
                    search.optuna.add(knobs, siblings)

    def _knobs(self, record: TrialRecord) -> dict[str, Any]:
        """The values of the searched fields that a trial had."""
        assert self.study.search is not None
        config = with_overrides(self.study.base, record.overrides)
        return {name: config.setting(name) for name in self.study.search.space}

    def close(self) -> None:
        """Ends the searches: nothing stays RUNNING in Optuna when a study is interrupted."""
        for search in self._searches:
            search.optuna.close()

    def give_back(self, trial_id: str) -> None:
        """Puts a started trial that was not run back in front of the queue; a trunk may be started again."""
        if trial_id in self._trunks:
            self._trunks[trial_id].status = "waiting"
        trial = self._running.pop(trial_id, None)
        if trial is not None:
            self._queue.appendleft(trial)

    def _siblings(self, point_id: str, regime: str) -> list[TrialRecord]:
        return [r for r in self.records.values() if r.point_id == point_id and r.regime == regime]

    def _can_ask(self, search: _RegimeSearch) -> bool:
        return self.study.search is not None and search.asked < self.study.search.points

    def _ask(self) -> None:
        for search in self._searches:
            open_points = sum(held is search for held, _ in self._tickets.values())
            if not self._can_ask(search) or open_points >= OPEN_POINTS:
                continue
            search.asked += 1
            for _ in range(MAX_REPEATS):
                ticket, knobs = search.optuna.ask()
                point_id = self._enqueue_point(knobs, search.budget, {})
                siblings = self._siblings(point_id, search.budget.regime)
                if (point_id, search.budget.regime) in self._tickets:
                    search.optuna.tell(ticket, [])  # it is being measured already: this suggestion is used up
                    continue
                if not all(record.ended for record in siblings):
                    self._tickets[point_id, search.budget.regime] = (search, ticket)
                    break
                search.optuna.tell(
                    ticket, siblings
                )  # it was measured before: answer at once, and ask for another


def _searched(records: Iterable[TrialRecord], budget: Budget) -> dict[str, Overrides]:
    """The searched points of a regime among earlier records."""
    return {r.point_id: r.overrides for r in records if r.design == "search" and r.regime == budget.regime}
