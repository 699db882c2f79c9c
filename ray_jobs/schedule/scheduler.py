"""Decides which trial runs next, on plain data: the plan first, then searched points.

Executing them is somebody else's job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from grit.config.overrides import with_overrides
from grit.config.run_config import Overrides
from grit.config.sections import Budget, Regime
from ray_jobs.design.plan import Study, TrialSpec, added_trial, searched_trials
from ray_jobs.design.search_space import Search
from ray_jobs.design.trunk_plan import plan_trunks
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_status import STATUSES
from ray_jobs.records.trunk_record import TrunkOutcome, TrunkRecord
from ray_jobs.schedule.job import Job
from ray_jobs.schedule.search import OptunaSearch
from ray_jobs.schedule.trial_queue import TrialQueue
from ray_jobs.schedule.trunks import TrunkTree

#: Searched points under way at once in one regime: more would be suggested from older knowledge.
OPEN_POINTS = 2
#: How often a search may suggest what has been measured before (a genetic sampler may copy a parent) until
#: its turn is used up.
MAX_REPEATS = 20

#: A setting in one regime: what all its seeds share.
SettingKey = tuple[str, str]
#: Which settings get one more seed, most urgent first, given all records.
ChooseSettings = Callable[[list[TrialRecord]], list[SettingKey]]
#: Settings that a regime's search need not vary, with the values at which it holds them, given all records.
HoldSettings = Callable[[list[TrialRecord], Regime], Overrides]


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What the evidence so far decides of the rest of a study. By default nothing.

    Attributes:
        growth: which settings get one more seed; none of a fixed design.
        held: what a search holds, asked before its first point.
    """

    growth: ChooseSettings = lambda records: []
    held: HoldSettings = lambda records, regime: {}


@dataclass
class _RegimeSearch:
    """One regime's search, how many points have been asked for, and what it holds once it has asked."""

    budget: Budget
    optuna: OptunaSearch
    asked: int = 0
    held: Overrides | None = None


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What lies outside the plan: results of earlier studies, and trunks of an earlier call.

    The defaults know of nothing.

    Attributes:
        result: the record of a trial that another study in the same store has run under the same id, or None.
        trunk: what is known of a trunk whose checkpoint still exists, or None.
        share: whether trunks are run.
        fill: whether a trial that waits for a trunk runs alone, from its first step, where nothing else could
            start: a place would otherwise be idle.
        search: makes the Optuna search of a regime, given how many points were asked for before.
        decisions: what the evidence so far decides of the rest.
    """

    result: Callable[[TrialRecord], TrialRecord | None] = lambda record: None
    trunk: Callable[[str], TrunkOutcome | None] = lambda trunk_id: None
    share: bool = False
    fill: bool = False
    search: Callable[[Search, Budget, int], OptunaSearch] = lambda search, budget, before: OptunaSearch(
        search, asked_before=before
    )
    decisions: Decisions = field(default_factory=Decisions)


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
        recorded: Iterable[TrialRecord] = (),
        *,
        changed: Callable[[TrialRecord], None] = lambda record: None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.study, self._changed, self._elsewhere = study, changed, elsewhere or Elsewhere()
        self.records: dict[str, TrialRecord] = {}
        self._by_setting: dict[SettingKey, list[str]] = {}
        self._told: set[SettingKey] = set()
        self._queue = TrialQueue()
        self._ended = 0
        self._running: dict[str, TrialSpec] = {}
        self._tickets: dict[SettingKey, tuple[_RegimeSearch, str]] = {}
        earlier = {record.trial_id: record for record in recorded}
        self._searches = self._open_searches(earlier.values())
        for trial in study.trials:
            self._admit(trial, earlier.pop(trial.trial_id, None))
        self._readmit(earlier)
        self._readmit_added(earlier.values())
        self._settled = self.study.sequential is None
        self._nothing_to_add_at: int | None = None
        for key in list(self._by_setting):
            self._tell(key)
        shared = plan_trunks(tuple(self._queue)) if self._elsewhere.share else plan_trunks(())
        self._trunks = TrunkTree(shared, outcome_of=self._elsewhere.trunk)

    def _open_searches(self, earlier: Iterable[TrialRecord]) -> list[_RegimeSearch]:
        search = self.study.search
        if search is None:
            return []
        measured = list(earlier)
        opened = []
        for budget in self.study.budgets:
            asked_before = len(_searched(measured, budget))
            opened.append(
                _RegimeSearch(budget=budget, optuna=self._elsewhere.search(search, budget, asked_before))
            )
        return opened

    def _admit(self, trial: TrialSpec, earlier: TrialRecord | None) -> None:
        if trial.trial_id in self.records:
            return
        record = earlier
        if record is None or STATUSES[record.status].runs_again:  # since the plan was made it may have run
            record = self._elsewhere.result(trial.record) or record or trial.record
        if STATUSES[record.status].runs_again:
            record = trial.record if record.status == "failed" else record
            self._queue.append(replace(trial, record=record))
        self._put(record)
        self._by_setting.setdefault(setting_of(record), []).append(trial.trial_id)
        if record is not earlier:
            self._changed(record)

    def _put(self, record: TrialRecord) -> None:
        earlier = self.records.get(record.trial_id)
        self._ended += record.ended - (earlier is not None and earlier.ended)
        self.records[record.trial_id] = record

    def _readmit(self, earlier: Mapping[str, TrialRecord]) -> None:
        """Takes over the searched points of an earlier call: their finished trials count, the others run."""
        for search in self._searches:
            for overrides in _searched(earlier.values(), search.budget).values():
                search.asked += 1
                self._enqueue_point(overrides, search.budget, earlier)

    def _readmit_added(self, earlier: Iterable[TrialRecord]) -> None:
        """Takes over the trials by which a sequential design grew in an earlier call."""
        if self.study.sequential is None:
            return
        for record in earlier:
            if record.trial_id not in self.records and setting_of(record) in self._by_setting:
                self._admit(added_trial(self.study, record, record.plan.seed), record)

    def _grow(self) -> None:
        """One more seed for the setting where it decides most, of those that wait for no result."""
        if self._settled or (self._running and self._nothing_to_add_at == self.ended):
            return
        if any(self._can_ask(search) for search in self._searches):
            return  # the searched points have the first call on trials
        for key in self._elsewhere.decisions.growth(list(self.records.values())):
            siblings = self._siblings(key)
            taken = {record.plan.seed for record in siblings}
            free = [seed for seed in self.study.seeds if seed not in taken]
            if free and all(record.ended for record in siblings):
                self._admit(added_trial(self.study, siblings[0], free[0]), None)
                return
        # Nothing to add until another trial has ended; once none runs, that is the end.
        self._nothing_to_add_at = self.ended
        self._settled = not self._running

    def _enqueue_point(
        self, overrides: Overrides, budget: Budget, earlier: Mapping[str, TrialRecord]
    ) -> SettingKey:
        trials = searched_trials(self.study, overrides, budget)
        for trial in trials:
            self._admit(trial, earlier.get(trial.trial_id))
        return setting_of(trials[0].record)

    @property
    def expected(self) -> int:
        """Trials that the study will have in the end, searched ones included."""
        planned = 0 if self.study.search is None else self.study.search.points
        to_ask = sum(max(0, planned - search.asked) for search in self._searches)
        return len(self.records) + to_ask * len(self.study.searched_seeds)

    @property
    def ended(self) -> int:
        """Trials with an outcome."""
        return self._ended

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to start or to wait for."""
        waiting = self._queue or self._running or self._trunks.busy
        if waiting or any(self._can_ask(search) for search in self._searches):
            return False
        if not self._settled:
            self._grow()
        return self._settled and not self._queue

    def next(self) -> Job | None:
        """The next thing to start; None when there is none now (`finished` tells waiting from the end)."""
        if not self._queue:
            self._ask()
        if not self._queue:
            self._grow()
        while (trial := self._queue.first()) is not None:
            trunk = self._trunks.before(trial.trial_id)
            if trunk is None or self._trunks.is_ready(trunk):
                return self._start(trial, fork_from=trunk)
            started = self._trunks.start(trunk)
            if started is not None:
                return Job(
                    job_id=started.trunk.trunk_id,
                    config=started.trunk.config,
                    trunk_steps=started.trunk.steps,
                    fork_from=started.fork_from,
                )
            self._queue.block(trial)
        waiting = self._queue.last_blocked() if self._elsewhere.fill else None
        return None if waiting is None else self._start(waiting, fork_from=None)

    def _start(self, trial: TrialSpec, *, fork_from: str | None) -> Job:
        self._queue.remove(trial)
        self._running[trial.trial_id] = trial
        stops = self.study.search is not None and self.study.search.stop_dominated
        may_stop = trial.record.plan.design == "search" if stops else None
        return Job(job_id=trial.trial_id, config=trial.config, fork_from=fork_from, may_stop=may_stop)

    def trunk_ended(self, trunk_id: str, outcome: TrunkOutcome | None) -> None:
        """Takes what a trunk left; None when it failed, and its trials run without it."""
        self._trunks.ended(trunk_id, outcome)
        self._queue.unblock()

    def trunks(self) -> list[TrunkRecord]:
        """The trunks that have run, for the store."""
        return self._trunks.records()

    def spent_trunks(self, trial_id: str) -> list[str]:
        """Trunks that nobody will go on from any more: all their trials have ended."""
        return self._trunks.trial_ended(trial_id)

    def is_spent(self, trunk_id: str) -> bool:
        """Whether nobody will go on from a trunk: its trials ran alone, and ended before it."""
        return self._trunks.is_spent(trunk_id)

    def complete(self, record: TrialRecord) -> None:
        """Takes the outcome of a started trial, and tells the search once a point has all its seeds."""
        self._running.pop(record.trial_id, None)
        self._settled = self.study.sequential is None
        self._put(record)
        self._changed(record)
        self._tell(setting_of(record))

    def _tell(self, key: SettingKey) -> None:
        """Tells the regime's search a setting whose trials have all ended.

        As an answer if it asked, else as a gift.
        """
        siblings = self._siblings(key)
        if not all(sibling.ended for sibling in siblings):
            return
        held = self._tickets.pop(key, None)
        if held is not None:
            search, ticket = held
            search.optuna.tell(ticket, siblings)
            self._told.add(key)
            return
        if key in self._told:
            return  # one more seed of a setting that the search has
        self._told.add(key)
        for search in self._searches:
            if search.budget.regime == key[1] and siblings[0].config.uses_grit:
                self._give(search, siblings)

    def _give(self, search: _RegimeSearch, siblings: list[TrialRecord]) -> None:
        """Adds a setting that was measured without being asked for.

        If it moves nothing but what is searched.
        """
        assert self.study.search is not None
        overrides = siblings[0].plan.overrides
        changed = with_overrides(self.study.base, overrides)
        searched = {name: changed.setting(name) for name in self.study.search.space}
        if changed == with_overrides(self.study.base, searched):
            search.optuna.add(searched, siblings)

    def close(self) -> None:
        """Ends the searches: nothing stays RUNNING in Optuna when a study is interrupted."""
        for search in self._searches:
            search.optuna.close()

    def give_back(self, job_id: str) -> None:
        """Puts a started trial that was not run back in front of the queue; a trunk may be started again."""
        trial = self._running.pop(job_id, None)
        if trial is not None:
            self._queue.appendleft(trial)
        else:
            self._trunks.give_back(job_id)
            self._queue.unblock()

    def _siblings(self, key: SettingKey) -> list[TrialRecord]:
        return [self.records[trial_id] for trial_id in self._by_setting[key]]

    def _can_ask(self, search: _RegimeSearch) -> bool:
        return self.study.search is not None and search.asked < self.study.search.points

    def _ask(self) -> None:
        for search in self._searches:
            open_points = sum(held is search for held, _ in self._tickets.values())
            if self._can_ask(search) and open_points < OPEN_POINTS:
                search.asked += 1
                self._ask_for_a_new_point(search)

    def _ask_for_a_new_point(self, search: _RegimeSearch) -> None:
        if search.held is None:
            search.held = self._elsewhere.decisions.held(list(self.records.values()), search.budget.regime)
        for _ in range(MAX_REPEATS):
            ticket, knobs = search.optuna.ask(search.held)
            records_before = len(self.records)
            key = self._enqueue_point(knobs, search.budget, {})
            if key in self._tickets:
                search.optuna.tell(ticket, [])  # it is being measured already: this suggestion is used up
                continue
            siblings = self._siblings(key)
            if not all(record.ended for record in siblings):
                self._tickets[key] = (search, ticket)
                return
            search.optuna.tell(ticket, siblings)
            if len(self.records) > records_before:  # another study has run it: it is one of those asked for
                return
            # it was measured here before, and is answered at once: ask for another


def setting_of(record: TrialRecord) -> SettingKey:
    """What all seeds of a setting share in one regime."""
    return record.plan.point_id, record.plan.regime


def _searched(records: Iterable[TrialRecord], budget: Budget) -> dict[str, Overrides]:
    """The searched points of a regime among earlier records."""
    return {
        record.plan.point_id: record.plan.overrides
        for record in records
        if record.plan.design == "search" and record.plan.regime == budget.regime
    }
