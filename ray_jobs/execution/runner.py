"""Runs a study.

Connects to Ray, keeps slots warm, lets Tune execute what the scheduler decides, writes every outcome down.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grit.cli.one_line import EXIT_INTERRUPTED
from grit.cli.pasted import goes_on
from grit.cli.phases import phase
from grit.config.sections import Budget
from grit.io.files import write_atomically
from ray_jobs.design.plan import Study
from ray_jobs.design.resources import TrialResources
from ray_jobs.design.search_space import Search
from ray_jobs.execution.cluster import SlowStartError, check_resources
from ray_jobs.execution.display import StudyDisplay
from ray_jobs.execution.engines import EngineName, job_files, start_engine
from ray_jobs.execution.interrupts import PATIENCE_SECONDS, ended_after, ended_in_order
from ray_jobs.execution.nodes.storage import below
from ray_jobs.execution.nodes.timed_device import TimedDevice, device_of
from ray_jobs.execution.outcome import Collected, JobOutcome, filled
from ray_jobs.execution.quiet import chatter, connected
from ray_jobs.execution.running_file import RunningWriter
from ray_jobs.records.alike_failures import AlikeFailures
from ray_jobs.records.kept_adapters import Keep
from ray_jobs.records.reuse import Neighbours
from ray_jobs.records.store import StudyStore
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_tables import read_rows
from ray_jobs.records.trunk_record import TrunkOutcome
from ray_jobs.schedule.scheduler import Decisions, Elsewhere, StudyScheduler
from ray_jobs.schedule.search import OptunaSearch, open_storage
from ray_jobs.tracking.tracker import Tracker

#: What Ray Tune hands from the driver to every trial.
CLOUD_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
#: Drivers that one trial may lose before it counts as failed.
MAX_LOST_DRIVERS = 3


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a study is executed; nothing here changes a result of a step-matched trial.

    Attributes:
        concurrent: trials at once.
        workers: processes that train one trial together.
        engine: warm slots, or Ray's own (ray_jobs/execution/engines.py).
        storage: where Ray's own engine keeps its files: a folder or a URI that every node can reach; None for
            the study's own folder.
        keep: whose adapters are kept.
        device: that the time budget was measured on, its model; None where it is not known.
    """

    concurrent: int
    resources: TrialResources
    address: str | None = None
    may_grow: bool = False
    share: bool = True
    workers: int = 1
    engine: EngineName = "warm"
    storage: str | None = None
    keep: Keep = "none"
    device: str | None = None
    optuna_storage: str | None = None
    verbose: bool = False


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """What a call of `StudyRunner.run` did.

    Attributes:
        expected: trials that the study will have in the end, as far as that is known.
        reused: trials that this call took over from other studies.
        ran: trials that this call ran to their end.
        seconds: wall seconds.
        broken: why it could not go on (the disk is full, trials fail alike).
    """

    records: list[TrialRecord]
    expected: int
    interrupted: bool
    reused: int
    ran: int
    seconds: float
    broken: str | None = None


class StudyRunner:
    """One execution of a study over its store."""

    def __init__(
        self,
        study: Study,
        options: RunOptions,
        store: StudyStore,
        *,
        tracker: Tracker,
        neighbours: Neighbours | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self._options, self._store, self._tracker, self._neighbours = options, store, tracker, neighbours
        self._content, self._base = study.content, study.base
        self._timed = any(budget.regime == "time" for budget in study.budgets)
        self._files = job_files(options.engine, store.folder, self._storage)
        self._lost: Counter[str] = Counter()
        self._broken: str | None = None
        self._alike = AlikeFailures()
        self._optuna: Any = None
        self._display: StudyDisplay | None = None
        self._reused, self._ran, self._just_adopted = 0, 0, set[str]()
        self._running = RunningWriter(store.folder)
        earlier = list(store.records.values())
        elsewhere = Elsewhere(
            result=self._adopted,
            trunk=self._trunk,
            share=options.share,
            fill=options.engine == "ray",
            search=self._search,
            decisions=decisions or Decisions(),
        )
        self._scheduler = StudyScheduler(study, earlier, changed=self._changed, elsewhere=elsewhere)
        store.compact()  # the whole plan is on disk from now on
        for record in self._scheduler.records.values():
            if record.ended:  # an earlier call may not have got it to the tracker
                self._log(record)

    @property
    def _storage(self) -> str:
        """The root of Ray's own engine: of this study alone."""
        if self._options.storage is None:
            return str((self._store.folder / "ray").absolute())
        return below(self._options.storage, self._store.study_id)

    def _trunk(self, trunk_id: str) -> TrunkOutcome | None:
        """What is known of a trunk of an earlier call whose checkpoint still exists."""
        return self._store.trunk(trunk_id) if self._files.has_trunk(trunk_id) else None

    def _log(self, record: TrialRecord) -> None:
        self._tracker.log_trial(record, partial(read_rows, self._store.folder, "telemetry", record.trial_id))

    def _search(self, search: Search, budget: Budget, before: int) -> OptunaSearch:
        """Optuna's study of one regime in the study's own storage."""
        if self._optuna is None:
            own = f"sqlite:///{(self._store.folder / 'optuna.db').absolute()}"
            self._optuna = open_storage(self._options.optuna_storage or own)
        name = f"{self._store.study_id}-{budget.regime}"
        return OptunaSearch(search, asked_before=before, storage=self._optuna, name=name)

    def _adopted(self, record: TrialRecord) -> TrialRecord | None:
        match = None if self._neighbours is None else self._neighbours.find(record)
        if match is None:
            return None
        self._reused += 1
        self._just_adopted.add(record.trial_id)
        return self._store.adopt(*match)

    def _changed(self, record: TrialRecord) -> None:
        """A record that is new or changed; a trial that is taken over on the way is told of as it comes."""
        self._store.put(record)
        if record.trial_id in self._just_adopted and self._display is not None:
            self._log(record)
            self._display.taken_over(record)
        self._just_adopted.discard(record.trial_id)

    @property
    def reused(self) -> int:
        """Trials that this call has taken over from other studies."""
        return self._reused

    def run(self) -> StudyOutcome:
        """Executes what is left of the study.

        Ctrl-C ends it cleanly: what has finished is on disk, the rest stays `planned`.
        """
        began = time.time()
        if self._scheduler.finished:
            return self._outcome(began)
        self._running.write(self._scheduler.expected, {})
        try:
            self._connected_run()
        except SlowStartError as error:
            self._broken = str(error)
        finally:
            self._running.remove()
        return self._outcome(began)

    def _connected_run(self) -> None:
        options, log = self._options, self._store.folder / "ray" / "driver.log"
        phase("starting Ray" if options.address is None else f"connecting to Ray at {options.address}")
        with chatter(log, keep=options.verbose), ExitStack() as ray_is_here:
            with ended_after():
                ray_is_here.enter_context(connected(options.address, verbose=options.verbose))
            check_resources(
                options.concurrent * options.workers, options.resources, may_grow=options.may_grow
            )
            display = self._display = StudyDisplay(self._scheduler, options.concurrent)
            try:
                # Ray, once connected, has a handler of its own, which this one replaces.
                with ended_in_order(display.interrupted, self._tracker.interrupted, self._left_alone):
                    self._execute(display)
            finally:
                display.close()
                self._scheduler.close()

    def _left_alone(self) -> None:
        """Ends a process that was told to end, and whose Ray answers no more: all that it knew is on disk."""
        self._running.remove()
        print(
            f"interrupted: Ray has not answered for {PATIENCE_SECONDS:g} s; {goes_on(self._store.folder)}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_INTERRUPTED)

    @property
    def keeps(self) -> Keep:
        """Whose adapters this call keeps."""
        return self._options.keep

    def keep_adapters(self, trial_ids: Collection[str]) -> None:
        """Brings the adapters of these trials into the study's folder, and removes all others.

        Raises:
            OSError: one cannot be brought here.
        """
        self._files.keep(trial_ids)

    def _outcome(self, began: float) -> StudyOutcome:
        seconds = time.time() - began
        try:
            self._store.compact()
            self._store.close_call(seconds, self._scheduler.expected)
        except OSError as error:  # what is on disk is whole, and older
            self._broken = self._broken or str(error)
        return StudyOutcome(
            records=list(self._scheduler.records.values()),
            expected=self._scheduler.expected,
            interrupted=not self._scheduler.finished,
            reused=self._reused,
            ran=self._ran,
            seconds=seconds,
            broken=self._broken,
        )

    def _execute(self, display: StudyDisplay) -> None:
        """An engine and Tune, until nothing is left to start."""
        from ray import tune
        from ray.tune.execution import class_cache

        from ray_jobs.execution.tune_bridge import StudySearcher

        options, name = self._options, f"study-{uuid.uuid4().hex[:8]}"
        folder = self._store.folder.absolute()
        engine = start_engine(
            options.engine,
            name=name,
            slots=options.concurrent,
            resources=options.resources,
            workers=options.workers,
            may_grow=options.may_grow,
            folder=folder,
            storage=self._storage,
            content=self._content,
            keeps=options.keep != "none",
            examined=None if options.address is None else self._base,
            timed_device=self._timed_device(),
        )

        def ended(job_id: str) -> None:
            try:
                self._take(job_id, engine.collect(job_id), display)
            except OSError as error:  # the trial counts as not run, and nothing more is started
                where = error.filename or folder
                self._broken = self._broken or f"{error.strerror or error}: {where}"
                searcher.stopping = True
                self._scheduler.give_back(job_id)

            if self._broken is not None:
                searcher.stopping = True

        searcher = StudySearcher(self._scheduler, engine.offer, ended)
        display.watch(engine.board, self._heard)
        # Ray would write these into its own log as it hands them on; a node has credentials of its own.
        class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CLOUD_CREDENTIALS)
        try:
            tune.Tuner(
                engine.trainable(),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                    max_concurrent_trials=options.concurrent,
                ),
                run_config=tune.RunConfig(
                    name=name, storage_path=str(folder / "ray"), verbose=1 if options.verbose else 0
                ),
            ).fit()
        finally:
            engine.close()

    def _timed_device(self) -> TimedDevice | None:
        """What time-matched trials run on: as measured, or as those did that have ended."""
        if not self._timed:
            return None
        return TimedDevice(self._options.device or device_of(self._scheduler.records.values()))

    def _heard(self, running: Mapping[str, Mapping[str, Any]]) -> None:
        """Where running jobs are; trunks have no record of their own."""
        self._running.write(self._scheduler.expected, running)
        for job_id, progress in running.items():
            record = self._scheduler.records.get(job_id)
            if record is not None and not record.ended:
                self._tracker.running(record, progress)

    def _take(self, job_id: str, collected: Collected | None, display: StudyDisplay) -> None:
        """Takes a trial's outcome into record and tracker; a trunk's into the list of trunks.

        Raises:
            OSError: something could not be written down.
        """
        # Tune gave the trial up (Ctrl-C), or its driver died: it stays planned, but not for ever
        if collected is None:
            self._lost[job_id] += 1
            if self._lost[job_id] < MAX_LOST_DRIVERS:
                self._scheduler.give_back(job_id)
                return
            error = f"its Tune driver was lost {MAX_LOST_DRIVERS} times"
            collected = Collected(outcome=JobOutcome(status="failed", error=error))
        outcome = collected.outcome
        if outcome.status == "unwritten":
            raise OSError(outcome.error)
        if outcome.traceback is not None:
            write_atomically(self._store.folder / f"traceback-{job_id}.txt", outcome.traceback)
        if job_id not in self._scheduler.records:
            self._scheduler.trunk_ended(job_id, outcome.trunk)
            self._store.add_trunks(self._scheduler.trunks())
            if self._scheduler.is_spent(job_id):
                self._files.forget(job_id)
            return
        record = filled(self._scheduler.records[job_id], collected)
        self._scheduler.complete(record)
        self._ran += 1
        self._log(record)
        self._alike.add(record)
        self._broken = self._broken or self._alike.reason()
        self._files.forget(job_id)
        for trunk_id in self._scheduler.spent_trunks(job_id):
            self._files.forget(trunk_id)
        display.ended(record)


def output_folder(name: str) -> Path:
    """`results/<study>-<time>`, the default output."""
    return Path("results") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
