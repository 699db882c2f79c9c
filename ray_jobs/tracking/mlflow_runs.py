"""A study's runs in an MLflow store: the study's, below it one per setting and regime, below that trials.

Runs are found again by tag, so that neither a second try nor resuming doubles anything.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from ray_jobs.records.study_file import StudyFile
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_status import STATUSES
from ray_jobs.tracking.growing_front import GrowingFront
from ray_jobs.tracking.marks import SettingMarks, StudyMarks
from ray_jobs.tracking.mlflow_store import STORE_ERRORS
from ray_jobs.tracking.run_contents import (
    MetricPoint,
    ending_tags,
    mark_tags,
    milliseconds,
    setting_name,
    setting_params,
    setting_points,
    setting_tags,
    study_params,
    study_tags,
    trial_name,
    trial_params,
    trial_tags,
)

#: Seconds that the end of a study waits for a run that is being made.
BEGIN_SECONDS = 1.0
#: Metrics per request: as many as MLflow takes.
BATCH = 1000
#: Runs that one link to the compare page holds at most: a description has room for some thousand characters.
COMPARED = 80
#: Characters that MLflow keeps of a description, with some room.
DESCRIPTION_ROOM = 7500

_Setting = tuple[str, str]
#: Tags of a trial's run that are asked for later.
ASKED = ("status", "point_id", "regime", "design", "method")


@dataclass(kw_only=True)
class _TrialRun:
    """A trial's run: its id, MLflow's status of it, and of its tags `ASKED`."""

    run_id: str
    status: str
    tags: dict[str, str]

    def learn(self, tags: Mapping[str, str]) -> None:
        """Keeps what is asked for."""
        self.tags |= {name: tags[name] for name in ASKED if name in tags}


class StudyRuns:
    """The runs of one study.

    Args:
        client, experiment_id: of the store.
        study: as `study.json` has it.

    Attributes:
        study_run: id of the study's own run.
        ended_before: trials that an earlier call has delivered.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, study: StudyFile) -> None:
        self._client, self._experiment, self._study = client, experiment_id, study
        self._trials: dict[str, _TrialRun] = {}
        self._settings: dict[_Setting, str] = {}
        self._names: dict[_Setting, str] = {}
        self._fronts: dict[str, GrowingFront] = {}
        self._sent: dict[_Setting, tuple[dict[str, str], int]] = {}
        self._marked: dict[str, dict[str, str]] = {}
        self._own: set[str] = set()
        self._tried: set[str | _Setting] = set()  # whose run this call has tried to make
        self._beginning, self._stopped = threading.Lock(), False
        self.study_run = self._adopt()

    def _adopt(self) -> str:
        """Finds the runs of an earlier call, or makes the study's."""
        earlier = self._all(f"tags.study_id = '{self._study.study_id}'")
        for run in earlier:
            tags = run.data.tags
            if tags.get("kind") == "setting":
                self._settings[tags["point_id"], tags["regime"]] = run.info.run_id
                self._names[tags["point_id"], tags["regime"]] = run.info.run_name
            elif tags.get("kind") == "trial":
                self._trials[tags["trial_id"]] = _TrialRun(
                    run_id=run.info.run_id, status=run.info.status, tags={}
                )
                self._trials[tags["trial_id"]].learn(tags)
                if run.info.status == "RUNNING":  # of a driver that was killed
                    self._client.set_terminated(run.info.run_id, "KILLED")
        own = [run.info.run_id for run in earlier if run.data.tags.get("kind") == "study"]
        self.ended_before = sum(run.status != "RUNNING" for run in self._trials.values())
        if own:
            for run in self._all(f"tags.`mlflow.parentRunId` = '{own[0]}'"):
                if "study_id" not in run.data.tags:  # of an earlier layout: it is written anew
                    self._client.delete_run(run.info.run_id)
            self._client.update_run(own[0], status="RUNNING")
            return str(own[0])
        return self._create(study_tags(self._study), self._study.name, study_params(self._study))

    def _all(self, where: str) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment], where, max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _create(
        self, tags: Mapping[str, str], name: str, params: Mapping[str, str], started: float | None = None
    ) -> str:
        run = self._client.create_run(
            self._experiment, start_time=milliseconds(started), tags=dict(tags), run_name=name
        )
        run_id: str = run.info.run_id
        self._client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
        self._client.log_inputs(run_id, self._datasets())
        return run_id

    def _datasets(self) -> list[DatasetInput]:
        """What the study reads, each with the hash of its content."""
        task = self._study.config.task
        held_out = f"{task.name} held-out text"
        named = {
            "task": (task.name, task.train_file or task.name, "training"),
            "documents": (held_out, task.retention_file or held_out, "retention"),
        }
        inputs = []
        for kind, (name, path, context) in named.items():
            digest = self._study.content.get(kind)
            if digest is not None:
                dataset = Dataset(name, digest, "local", json.dumps({"path": path}))
                inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        return inputs

    def _setting(self, record: TrialRecord) -> str:
        """The run of a trial's setting in its regime."""
        key = (record.plan.point_id, record.plan.regime)
        if key in self._tried and key not in self._settings:  # a try whose answer was lost may have made it
            where = f"tags.study_id = '{self._study.study_id}' and tags.kind = 'setting' and "
            where += f"tags.point_id = '{key[0]}' and tags.regime = '{key[1]}'"
            for run in self._all(where):
                self._settings[key] = run.info.run_id
        if key not in self._settings:
            self._tried.add(key)
            tags = {**setting_tags(self._study, record), "mlflow.parentRunId": self.study_run}
            self._settings[key] = self._create(tags, setting_name(record), setting_params(record))
        self._names[key] = setting_name(record)
        return self._settings[key]

    def begin(self, record: TrialRecord, *, live: bool) -> bool:
        """A trial has a run of its own, whatever an earlier attempt has left.

        With `live` it is under way: False once the study was stopped.
        """
        if record.trial_id in self._own:
            return True
        with self._beginning:
            if live and self._stopped:
                return False
            if record.trial_id in self._trials or record.trial_id in self._tried:
                self.clear(record.trial_id)
            self._tried.add(record.trial_id)
            tags = {**trial_tags(self._study, record), "mlflow.parentRunId": self._setting(record)}
            run_id = self._create(tags, trial_name(record), trial_params(record), record.times.started_at)
            self._trials[record.trial_id] = _TrialRun(run_id=run_id, status="RUNNING", tags={})
            self._trials[record.trial_id].learn(tags)
            self._own.add(record.trial_id)
        return True

    def clear(self, trial_id: str) -> None:
        """Takes out what a broken try may have left of a trial, even where the server never said so."""
        self._own.discard(trial_id)
        self._trials.pop(trial_id, None)
        where = f"tags.study_id = '{self._study.study_id}' and tags.trial_id = '{trial_id}'"
        for run in self._client.search_runs([self._experiment], where):
            self._client.delete_run(run.info.run_id)

    def add(self, trial_id: str, points: Sequence[MetricPoint]) -> None:
        """Adds to a trial's curves."""
        self._log(self._trials[trial_id].run_id, points)

    def add_to_study(self, points: Sequence[MetricPoint]) -> None:
        """Adds to the study's curves."""
        self._log(self.study_run, points)

    def _log(self, run_id: str, points: Sequence[MetricPoint], tags: Sequence[RunTag] = ()) -> None:
        """The tags go with the first metrics, or alone."""
        metrics = [Metric(point.name, point.value, point.at, point.step) for point in points]
        if metrics or tags:
            self._client.log_batch(run_id, metrics=metrics[:BATCH], tags=tags)
        for first in range(BATCH, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[first : first + BATCH])

    def holds(self, record: TrialRecord) -> bool:
        """Whether the trial is there as it has ended."""
        run = self._trials.get(record.trial_id)
        if run is None or record.trial_id in self._own:
            return False
        same_end = run.status == STATUSES[record.status].mlflow
        return same_end and run.tags.get("status") == record.status

    def end(self, record: TrialRecord, points: Sequence[MetricPoint]) -> None:
        """A trial has ended."""
        self.begin(record, live=False)
        run, tags = self._trials[record.trial_id], ending_tags(record)
        self._log(run.run_id, points, [RunTag(name, value) for name, value in tags.items()])
        terminal = STATUSES[record.status].mlflow
        self._client.set_terminated(run.run_id, terminal, end_time=milliseconds(record.times.ended_at))
        run.status = terminal
        run.learn(tags)
        self._own.discard(record.trial_id)

    def mark(self, marks: StudyMarks) -> None:
        """Marks settings and their trials; sends what has changed."""
        at = milliseconds(None)
        trials: dict[_Setting, list[str]] = {}
        for run in self._trials.values():
            trials.setdefault((run.tags["point_id"], run.tags["regime"]), []).append(run.run_id)
        for setting in marks.settings:
            key = (setting.point_id, setting.regime)
            if key not in self._settings:
                continue
            tags = mark_tags(setting)
            before, seeds = self._sent.get(key, ({}, 0))
            run_tags = [RunTag(name, value) for name, value in tags.items()]
            if (tags, setting.seeds) != (before, seeds) or setting.front_probability is not None:
                self._log(self._settings[key], setting_points(setting, at), run_tags)
                self._sent[key] = (tags, setting.seeds)
            for run_id in trials.get(key, ()):
                if self._marked.get(run_id) != tags:
                    self._client.log_batch(run_id, tags=run_tags)
                    self._marked[run_id] = tags

    def show_front(self, regime: str, trials: int, members: Sequence[SettingMarks]) -> None:
        """Adds a regime's front after so many trials to the study's table `front_<regime>.json`."""
        front = self._fronts.setdefault(regime, GrowingFront())
        names = {point_id: name for (point_id, own), name in self._names.items() if own == regime}
        if not front.add(trials, members, names):
            return
        self._client.log_dict(self.study_run, front.table(), f"front_{regime}.json")
        tables = [{"path": f"front_{each}.json", "type": "table"} for each in self._fronts]
        self._client.set_tag(self.study_run, "mlflow.loggedArtifacts", json.dumps(tables))

    def trial_run(self, trial_id: str) -> str | None:
        """The id of a trial's run."""
        run = self._trials.get(trial_id)
        return None if run is None else run.run_id

    def stop(self) -> None:
        """Says at once that nothing of the study runs any more."""
        self._stopped = True
        alone = self._beginning.acquire(timeout=BEGIN_SECONDS)  # a run that is being made is stopped, too
        try:
            trials = [self._trials[name].run_id for name in tuple(self._own)]
            for run_id in (self.study_run, *trials, *self._settings.values()):
                with contextlib.suppress(*STORE_ERRORS):
                    self._client.set_terminated(run_id, "KILLED")
        finally:
            if alone:
                self._beginning.release()

    def close(self, status: str) -> None:
        """Ends all that is open: the study and its settings with `status`, trials that have not ended."""
        for trial_id in tuple(self._own):
            self._client.set_terminated(self._trials[trial_id].run_id, "KILLED")
        for run_id in self._settings.values():
            self._client.set_terminated(run_id, status)
        links = self._compare_links()
        if links:
            self._client.set_tag(self.study_run, "mlflow.note.content", links)
        self._client.set_terminated(self.study_run, status, end_time=int(1000 * time.time()))

    def _compare_links(self) -> str:
        """Markdown links that open each regime's settings in the compare page, and its trials.

        The page opens on the first parameters that differ: beside a control, those that it has none of.
        """
        lines: list[str] = []
        by_regime = dict[str, list[str]]()
        trials = self._trials.values()
        controls = {run.tags["point_id"] for run in trials if run.tags["design"] == "control"}
        for (point_id, regime), run_id in self._settings.items():
            if point_id not in controls:
                by_regime.setdefault(regime, []).append(run_id)
        for regime, ids in by_regime.items():
            lines.append(
                f"- [compare the {len(ids[-COMPARED:])} {regime}-matched settings]({self._page(ids)})"
            )
        compared = dict[tuple[str, str], list[str]]()
        for run in trials:
            if run.tags["design"] != "control" and run.tags.get("status") == "completed":
                compared.setdefault((run.tags["method"], run.tags["regime"]), []).append(run.run_id)
        shown = 0
        for (method, regime), ids in compared.items():
            line = (
                f"- [compare the {len(ids[-COMPARED:])} {regime}-matched {method} trials]({self._page(ids)})"
            )
            if sum(len(earlier) for earlier in lines) + len(line) < DESCRIPTION_ROOM:
                lines.append(line)
                shown += 1
        left = len(compared) - shown
        return "\n".join(
            [*lines, *([f"- {left} more methods: choose their runs by the tag `method`"] if left else [])]
        )

    def _page(self, run_ids: Collection[str]) -> str:
        listed = quote(json.dumps(list(run_ids)[-COMPARED:]))
        return f"#/compare-runs?runs={listed}&experiments={quote(json.dumps([self._experiment]))}"
