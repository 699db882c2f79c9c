"""Runs a study.

Connects to Ray, keeps slots warm, lets Tune execute what the scheduler decides, and writes every outcome
down.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grit.config.sections import Budget
from grit.io.files import write_atomically
from grit.training.result import TABLES
from ray_jobs.design.resources import TrialResources
from ray_jobs.design.study import Search, Study
from ray_jobs.execution.cluster import check_resources, connect
from ray_jobs.execution.display import StudyDisplay
from ray_jobs.records.reuse import Neighbours
from ray_jobs.records.store import StudyStore
from ray_jobs.records.trial_record import TRUNK_OUTCOME, TrialRecord
from ray_jobs.schedule.scheduler import Elsewhere, StudyScheduler
from ray_jobs.schedule.search import OptunaSearch, open_storage
from ray_jobs.tracking.mlflow_tracker import MlflowTracker

#: Drivers that one trial may lose before it counts as failed.
MAX_LOST_DRIVERS = 3


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a study is executed; nothing here changes a result of a step-matched trial."""

    concurrent: int
    resources: TrialResources
    address: str | None = None
    may_grow: bool = False
    share: bool = True
    workers: int = 1
    optuna_storage: str | None = None
    verbose: bool = False


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """What a call of `StudyRunner.run` did.

    `seconds` are wall seconds; `broken` says why it could not go on (the disk is full).
    """

    records: list[TrialRecord]
    interrupted: bool
    reused: int
    seconds: float
    broken: str | None = None


class StudyRunner:
    """One execution of a study over its store."""

    def __init__(
        self,
        study: Study,
        options: RunOptions,
        store: StudyStore,
        tracker: MlflowTracker,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._options, self._store, self._tracker, self._neighbours = options, store, tracker, neighbours
        self._lost: Counter[str] = Counter()
        self._broken: str | None = None
        self._optuna: Any = None
        known = list(store.records.values())
        elsewhere = Elsewhere(
            result=self._adopted, trunk=store.trunk, share=options.share, search=self._search
        )
        self._scheduler = StudyScheduler(study, known, changed=store.put, elsewhere=elsewhere)
        self._reused = self._scheduler.ended
        for (
            record
        ) in self._scheduler.records.values():  # what an earlier call finished but did not get to MLflow
            if record.ended:
                tracker.log_trial(record, store.read_rows("telemetry", record.trial_id))
        store.flush()

    def _search(self, search: Search, budget: Budget, before: int) -> OptunaSearch:
        """Optuna's study of one regime in the study's own storage."""
        if self._optuna is None:
            self._optuna = open_storage(
                self._options.optuna_storage or f"sqlite:///{(self._store.folder / 'optuna.db').absolute()}"
            )
        return OptunaSearch(
            search, asked_before=before, storage=self._optuna, name=f"{self._store.study_id}-{budget.regime}"
        )

    def _adopted(self, record: TrialRecord) -> TrialRecord | None:
        found = None if self._neighbours is None else self._neighbours.find(record)
        return None if found is None else self._store.adopt(*found)

    def run(self) -> StudyOutcome:
        """Executes what is left of the study.

        Ctrl-C ends it cleanly: what has finished is on disk, the rest stays `planned`.
        """
        began = time.time()
        if self._scheduler.finished:
            return self._outcome(began)
        with (
            _chatter(self._store.folder / "ray" / "driver.log", keep=self._options.verbose),
            _ray(self._options),
        ):
            check_resources(
                self._options.concurrent * self._options.workers,
                self._options.resources,
                may_grow=self._options.may_grow,
            )
            self._display = StudyDisplay(self._scheduler, self._options.concurrent)
            try:
                self._tune()
            finally:
                self._display.close()
                self._scheduler.close()
        return self._outcome(began)

    def _outcome(self, began: float) -> StudyOutcome:
        try:
            self._store.flush()
            self._store.close_call(time.time() - began)
        except OSError as error:  # what is on disk is whole, and older
            self._broken = self._broken or str(error)
        return StudyOutcome(
            records=list(self._scheduler.records.values()),
            interrupted=not self._scheduler.finished,
            reused=self._reused,
            seconds=time.time() - began,
            broken=self._broken,
        )

    def _tune(self) -> None:
        from ray import tune

        from ray_jobs.execution.warm.slots import SlotPool
        from ray_jobs.execution.warm.tune_bridge import StudySearcher, tune_trial

        name, storage = f"study-{uuid.uuid4().hex[:8]}", str((self._store.folder / "ray").absolute())
        self._pool = SlotPool(
            name=name,
            slots=self._options.concurrent,
            resources=self._options.resources.as_dict(),
            workers=self._options.workers,
            storage=storage,
            checkpoints=str(self._store.checkpoints.absolute()),
        )
        self._display.watch(self._pool.board)
        trainable = tune.with_parameters(
            tune_trial, board=self._pool.board_name, namespace=self._pool.namespace
        )
        # A byte of memory, not a CPU: a driver that held one would keep it from the worker it waits for.
        trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([{"memory": 1}]))
        try:
            self._searcher = StudySearcher(self._scheduler, self._ended)
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=self._searcher,
                    num_samples=-1,
                    reuse_actors=True,
                    max_concurrent_trials=self._options.concurrent,
                ),
                run_config=tune.RunConfig(
                    name=name, storage_path=storage, verbose=1 if self._options.verbose else 0
                ),
            ).fit()
        finally:
            self._pool.close()

    def _ended(self, trial_id: str) -> None:
        """Takes what a job left.

        Where it cannot be written down, the trial counts as not run, and nothing more is started.
        """
        try:
            self._take(trial_id)
        except OSError as error:
            self._broken = (
                self._broken or f"{error.strerror or error}: {error.filename or self._store.folder}"
            )
            self._searcher.stopping = True
            self._scheduler.give_back(trial_id)

    def _take(self, trial_id: str) -> None:
        """Takes a trial's outcome from the board into record, files and MLflow.

        A trunk's into the list of trunks.
        """
        import ray

        outcome = ray.get(self._pool.board.collect.remote(trial_id))
        if (
            outcome is None
        ):  # Tune gave the trial up (Ctrl-C), or its driver died: it stays planned, but not for ever
            self._lost[trial_id] += 1
            if self._lost[trial_id] < MAX_LOST_DRIVERS:
                self._scheduler.give_back(trial_id)
                return
            outcome = {
                "status": "failed",
                "error": f"its Tune driver was lost {MAX_LOST_DRIVERS} times",
                "attempts": 0,
            }
        if trial_id not in self._scheduler.records:
            left = {key: outcome[key] for key in TRUNK_OUTCOME} if outcome["status"] == "trunk" else None
            self._scheduler.trunk_ended(trial_id, left)
            self._store.write_trunks(self._scheduler.trunks())
            self._keep_traceback(trial_id, outcome)
            return
        record = filled(self._scheduler.records[trial_id], outcome)
        result = outcome.get("result")
        telemetry: list[dict[str, Any]] = []
        if result is not None:
            telemetry = result["telemetry"]
            for kind in TABLES:
                self._store.write_rows(kind, trial_id, result[kind])
        self._scheduler.complete(record)
        self._tracker.log_trial(record, telemetry)
        self._store.forget_checkpoints(trial_id)
        for trunk_id in self._scheduler.spent_trunks():
            self._store.forget_checkpoints(trunk_id)
        self._keep_traceback(trial_id, outcome)
        self._display.ended(record)

    def _keep_traceback(self, job_id: str, outcome: dict[str, Any]) -> None:
        if "traceback" in outcome:
            write_atomically(self._store.folder / f"traceback-{job_id}.txt", outcome["traceback"])


def filled(record: TrialRecord, outcome: dict[str, Any]) -> TrialRecord:
    """The planned record with the outcome of its run."""
    result = outcome.get("result") or {}
    measured: dict[str, Any] = {
        key: value
        for key, value in result.items()
        if key in TrialRecord.__dataclass_fields__ and key != "status"
    }
    if result and result["device"] == "cpu" and result["threads"] == 1 and result["train_seconds"]:
        measured["disturbance"] = max(0.0, 1 - result["cpu_seconds"] / result["train_seconds"])
    times: dict[str, Any] = {
        key: outcome.get(key) for key in ("queued_at", "started_at", "ended_at", "worker")
    }
    return replace(
        record,
        status=outcome["status"],
        error=outcome.get("error"),
        attempts=outcome["attempts"],
        **times,
        **measured,
    )


@contextlib.contextmanager
def _ray(options: RunOptions) -> Iterator[None]:
    """A Ray connection that is ended with the block; quiet unless asked otherwise."""
    if not options.verbose:
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
    connect(options.address, verbose=options.verbose)
    import ray

    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _chatter(log: Path, *, keep: bool) -> Iterator[None]:
    """Sends what Tune and the raylet print to a file, unless `keep`.

    Progress and errors have their own places.
    """
    if keep:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = _Log(log)
    try:
        with contextlib.redirect_stdout(handle):
            yield
    finally:
        handle.close()


class _Log(io.TextIOBase):
    """A log file that nobody must fail for: what a full disk does not take is lost."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, text: str) -> int:
        """Writes at once, or not at all."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, text.encode())
        return len(text)

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def output_folder(name: str) -> Path:
    """`results/<study>-<time>`, the default output."""
    return Path("results") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
