"""MLflow, and the only importer of it.

One experiment per study name, one parent run per study, one nested run per trial.

One thread writes, in batches, so that a slow server never holds up a trial, and tries again what a lost
server did not take. Runs are found again by tag, so that neither a second try nor resuming doubles anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from grit.config.declared_knobs import KNOBS
from grit.errors import ConfigError
from grit.io.files import Row
from grit.secrets import without_secrets
from grit.training.measurements import TRACKED
from ray_jobs.records.describe import changes
from ray_jobs.records.status import STATUSES
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.tracker import Telemetry

#: Points of a curve that are kept: the charts of MLflow's UI get slow above some hundreds.
CURVE_POINTS = 200
#: Runs that one link to the compare page holds at most: a description has room for some thousand characters.
COMPARED = 80
#: Characters that MLflow keeps of a description, with some room.
DESCRIPTION_ROOM = 7500
#: Metrics per request.
BATCH = 500
#: Seconds between tries while the store does not answer, and how long the end of a study waits for it.
RETRY_SECONDS, GIVE_UP_SECONDS = 5.0, 30.0
#: MLflow's own patience with a server, unless the user set one: ours is above it, and keeps what was not
#: delivered.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}

_Job = tuple[TrialRecord, Telemetry]
_CURVES = ("loss", "learning_rate", "grad_norm", "mean_rank", "effective_parameters", "ms_step")


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time: several that open a fresh SQLite file at once break its migration."""
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        yield
        return
    with Path(f"{path}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _create_whole(uri: str) -> None:
    """Makes a new SQLite store beside its place and moves it there once it is migrated.

    A process that is killed in mid-migration would otherwise leave a file that no later call can open.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    for left in path.parent.glob(f".{path.name}.new*"):
        left.unlink()
    new = path.with_name(f".{path.name}.new")
    store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]  # MLflow has no types here
        f"sqlite:///{new}", (path.parent / "mlartifacts").absolute().as_uri()
    )
    store.engine.dispose()
    new.replace(path)


class MlflowTracker:
    """Mirrors a study's records into an MLflow store.

    Args:
        uri: any tracking URI; a SQLite file is created and migrated here, once, before anybody else opens it.
        experiment: the study's name.
        study_id: the study's own id; an earlier parent run with the same one is continued.
        artifacts: where artifacts go when the experiment is new; None leaves it to the store.

    Raises:
        ConfigError: the store cannot be opened.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        study_id: str,
        *,
        params: dict[str, Any],
        artifacts: Path | None = None,
    ) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.uri = uri
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        try:
            with _alone(uri):
                _create_whole(uri)
                self._client = MlflowClient(tracking_uri=uri)
                existing = self._client.get_experiment_by_name(experiment)
                location = None if artifacts is None else artifacts.absolute().as_uri()
                self.experiment_id: str = (
                    existing.experiment_id
                    if existing is not None
                    else self._client.create_experiment(experiment, location)
                )
            self._adopt(study_id, params)
        except (MlflowException, OSError) as error:
            raise ConfigError("tracking-uri", uri, f"cannot be used: {str(error).splitlines()[0]}") from error
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._tried: set[str] = set()
        self._closed = False
        self.failure: str | None = None
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def _adopt(self, study_id: str, params: dict[str, Any]) -> None:
        """Finds the parent run of an earlier call, or makes one, and learns which trials it holds."""
        self._runs: dict[str, Run] = {}
        parents = self._client.search_runs(
            [self.experiment_id], f"tags.study_id = '{study_id}' and tags.kind = 'study'"
        )
        if not parents:
            parent = self._client.create_run(
                self.experiment_id, tags={"study_id": study_id, "kind": "study"}, run_name="study"
            )
            self._client.log_batch(parent.info.run_id, params=[Param(k, str(v)) for k, v in params.items()])
            self.parent_id = parent.info.run_id
            return
        self.parent_id = parents[0].info.run_id
        self._client.update_run(self.parent_id, status="RUNNING")
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], f"tags.`mlflow.parentRunId` = '{self.parent_id}'", page_token=token
            )
            self._runs.update({run.data.tags["trial_id"]: run for run in page})
            token = page.token
            if not token:
                return

    def address(self) -> list[str]:
        """Lines that tell how to look at the study.

        The command that starts MLflow's own UI, if need be, and the page.
        """
        if self.uri.startswith("http"):
            return [f"{without_secrets(self.uri)}/{self.page()}"]
        command = Path(sys.executable).parent / "mlflow"
        return [
            f"{command} ui --workers 1 --backend-store-uri {without_secrets(self.uri)}",
            f"then open http://127.0.0.1:5000/{self.page()}",
        ]

    def page(self) -> str:
        """The part of the UI's address, after the host, that shows the study.

        Its description links to the compare pages.
        """
        return f"#/experiments/{self.experiment_id}/runs/{self.parent_id}"

    def _compare_links(self) -> str:
        """Markdown links that open each regime's trials, without the control, in the compare page."""
        lines: list[str] = []
        compared = dict[tuple[str, str], list[str]]()
        for run in self._runs.values():
            tags = run.data.tags
            if tags["design"] != "control" and tags["status"] == "completed":
                compared.setdefault((tags["method"], tags["regime"]), []).append(run.info.run_id)
        for (method, regime), ids in compared.items():
            run_ids = quote(json.dumps(ids[-COMPARED:]))
            page = f"#/compare-runs?runs={run_ids}&experiments={quote(json.dumps([self.experiment_id]))}"
            line = f"- [compare the {len(ids[-COMPARED:])} {regime}-matched {method} trials]({page})"
            if sum(len(earlier) for earlier in lines) + len(line) < DESCRIPTION_ROOM:
                lines.append(line)
        left = len(compared) - len(lines)
        return "\n".join(
            [*lines, *([f"- {left} more methods: choose their runs by the tag `method`"] if left else [])]
        )

    def log_trial(self, record: TrialRecord, telemetry: Telemetry) -> None:
        """Queues an ended trial; returns at once."""
        self._jobs.put((record, telemetry))

    def _write(self) -> None:
        backlog: deque[_Job] = deque()
        deadline: float | None = None
        while deadline is None or (backlog and time.monotonic() < deadline):
            try:
                patience = RETRY_SECONDS if deadline is None else 1.0
                job = self._jobs.get(timeout=patience if backlog else None)
                if job is None:
                    deadline = time.monotonic() + GIVE_UP_SECONDS
                else:
                    backlog.append(job)
            except queue.Empty:
                pass
            self._deliver(backlog)
        if backlog:
            self.failure = f"{len(backlog)} trials are not in it ({self.failure})"

    def _deliver(self, backlog: deque[_Job]) -> None:
        """Logs what can be logged.

        What cannot goes to the end of the line, and the rest waits for the next try.
        """
        self.failure = None
        while backlog:
            try:
                self._log(*backlog[0])
            except (MlflowException, OSError, ValueError, TypeError) as error:
                self.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                self._tried.add(backlog[0][0].trial_id)
                backlog.rotate(-1)
                return
            backlog.popleft()

    def _clear(self, trial_id: str) -> None:
        """Takes out what a broken try may have left of this trial.

        Even where the server never told that it had taken it.
        """
        where = f"tags.`mlflow.parentRunId` = '{self.parent_id}' and tags.trial_id = '{trial_id}'"
        for run in self._client.search_runs([self.experiment_id], where):
            self._client.delete_run(run.info.run_id)

    def _log(self, record: TrialRecord, telemetry: Telemetry) -> None:
        if record.trial_id in self._tried:
            self._clear(record.trial_id)
            self._runs.pop(record.trial_id, None)
        earlier, terminal = self._runs.get(record.trial_id), STATUSES[record.status].mlflow
        if earlier is not None:
            if earlier.info.status == terminal and earlier.data.tags["status"] == record.status:
                return
            # Half written, or of an attempt that a later one has replaced.
            self._client.delete_run(earlier.info.run_id)
        tags = {
            "mlflow.parentRunId": self.parent_id,
            "trial_id": record.trial_id,
            "point_id": record.plan.point_id,
            "regime": record.plan.regime,
            "design": record.plan.design,
            "seed": str(record.plan.seed),
            "task": record.config.task.name,
            "method": record.method,
            "status": record.status,
            "pareto": "false",
            "kind": "trial",
        }
        name = f"{record.method} {record.plan.regime} s{record.plan.seed} {record.trial_id[:6]}"
        start = int(1000 * (record.times.started_at or record.times.ended_at or time.time()))
        run_id = self._client.create_run(
            self.experiment_id, tags=tags, start_time=start, run_name=name
        ).info.run_id
        self._client.log_batch(
            run_id,
            params=[Param(name, value) for name, value in _trial_params(record).items()],
            tags=[RunTag("error", record.error[:500])] if record.error else [],
        )
        metrics = _trial_metrics(record, telemetry(), start)
        for first in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[first : first + BATCH])
        self._client.set_terminated(
            run_id, terminal, end_time=int(1000 * (record.times.ended_at or time.time()))
        )
        self._runs[record.trial_id] = self._client.get_run(run_id)

    def interrupted(self) -> None:
        """Says at once that the study is no longer running, whatever else there is time for."""
        with contextlib.suppress(MlflowException, OSError):
            self._client.set_terminated(self.parent_id, "KILLED")

    def finish(self, front: Iterable[str], artifacts: Iterable[Path], *, interrupted: bool) -> None:
        """Waits for the writer, tags the front, stores artifacts with the parent run and closes it.

        What goes wrong is in `failure`.
        """
        if self._closed:
            return
        self._jobs.put(None)
        self._writer.join()
        try:
            self._close(set(front), artifacts, "KILLED" if interrupted else "FINISHED")
            self._closed = True
        except (MlflowException, OSError) as error:
            self.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"

    def _close(self, members: set[str], artifacts: Iterable[Path], status: str) -> None:
        links = self._compare_links()
        if links:
            self._client.set_tag(self.parent_id, "mlflow.note.content", links)
        for trial_id, run in self._runs.items():
            self._client.set_tag(run.info.run_id, "pareto", str(trial_id in members).lower())
        for path in artifacts:
            if path.is_dir():
                self._client.log_artifacts(self.parent_id, str(path), artifact_path=path.name)
            else:
                self._client.log_artifact(self.parent_id, str(path))
        self._client.set_terminated(self.parent_id, status)


def _trial_params(record: TrialRecord) -> dict[str, str]:
    """The knobs, what else the setting changes, task and model.

    Seed, regime and design are tags only: the compare page opens with the first parameters that differ, and
    those are the knobs.
    """
    params = {}
    if record.config.uses_grit:
        params = {name: knob_value(record.config.setting(name)) for name in KNOBS}
    return {
        **params,
        **changes(record),
        "task": record.config.task.name,
        "model": record.config.backbone.model,
    }


def knob_value(value: float | int | None) -> str:
    """As MLflow's parallel coordinates read it."""
    return "none" if value is None else str(value)


def _trial_metrics(record: TrialRecord, telemetry: Sequence[Row], start: int) -> list[Metric]:
    """Tracked quantities at the last step, and curves thinned to `CURVE_POINTS`."""
    measured, end = record.measured, record.measured.steps or 0
    ended_at = int(1000 * (record.times.ended_at or 0))
    numbers = {name: getattr(measured, name) for name in TRACKED if name not in _CURVES}
    numbers |= {f"metric/{name}": entry["value"] for name, entry in (measured.metrics or {}).items()}
    numbers |= {f"probe/{name}": entry["accuracy"] for name, entry in (measured.probes or {}).items()}
    metrics = [
        Metric(name, float(value), ended_at, end) for name, value in numbers.items() if value is not None
    ]
    on_the_way = [point for point in measured.curve or [] if point["step"] < end]
    thinned = [*telemetry[:: max(1, -(-len(telemetry) // CURVE_POINTS))], *telemetry[-1:]]
    for rows, names in ((on_the_way, ("quality", "retention")), (thinned, _CURVES)):
        for row in rows:
            at = start + int(1000 * row["train_seconds"])
            values = {name: row[name] for name in names if row.get(name) is not None}
            metrics += [Metric(name, float(value), at, row["step"]) for name, value in values.items()]
    return metrics
