"""The mirror of a study in MLflow, while it runs.

One thread writes, in batches, so that a slow server never holds up a trial, and tries again what a lost
server did not take. What it writes while trials run takes at most `LIVE_SHARE` of the time.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grit.cli.pasted import pasted
from grit.secrets import without_secrets
from ray_jobs.records.study_file import StudyFile
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import StudyMarks
from ray_jobs.tracking.mlflow_runs import StudyRuns
from ray_jobs.tracking.mlflow_store import STORE_ERRORS, open_experiment, refused
from ray_jobs.tracking.mlflow_system import SystemMonitor
from ray_jobs.tracking.run_contents import (
    CURVE_POINTS,
    MetricPoint,
    ending_points,
    milliseconds,
    model_request,
    row_points,
)
from ray_jobs.tracking.tracker import Marker, Telemetry

#: Seconds between tries while the store does not answer, and how long the end of a study waits for it.
RETRY_SECONDS, GIVE_UP_SECONDS = 5.0, 30.0
#: Seconds between looks at running trials, at least, and between readings of the machine.
LIVE_SECONDS, SYSTEM_SECONDS = 2.0, 10.0
#: Share of the wall time that goes into showing what runs.
LIVE_SHARE = 0.02
#: Where this project lies, for a process that imports it.
PROJECT = Path(__file__).resolve().parents[2]
_LIVE_CURVES = ("loss", "mean_rank")

_Job = tuple[TrialRecord, Telemetry]


@dataclass(kw_only=True)
class _Live:
    """A running trial: since when, its last point's time and step, what waits, and what was delivered.

    `load` is the last reading of its machine; `anew` says that another attempt has begun: what the one before
    has shown goes.
    """

    record: TrialRecord
    since: float
    latest: float = 0.0
    step: int = 0
    anew: bool = False
    load: Mapping[str, float] | None = None
    waiting: list[MetricPoint] = field(default_factory=list)
    shown: set[tuple[str, int]] = field(default_factory=set)


def _load_points(progress: Mapping[str, Any], live: _Live, at: int) -> list[MetricPoint]:
    """The machine that a trial runs on, where its worker has read it anew."""
    load = progress.get("load")
    if load is None or load == live.load:
        return []
    live.load = load
    return [MetricPoint(f"system/{name}", value, at, progress["step"]) for name, value in load.items()]


class MlflowTracker:
    """Mirrors a study's records into an MLflow store.

    Args:
        uri: any tracking URI.
        study: as `study.json` has it; its name is the experiment's, and an earlier run with the same study id
            is continued.
        artifacts: where artifacts go when the experiment is new; None leaves it to the store.
        marker: what an analysis makes of the trials that have ended, for the study's curves; None for none.

    Raises:
        ConfigError: the store cannot be opened.
    """

    def __init__(
        self, uri: str, study: StudyFile, *, artifacts: Path | None = None, marker: Marker | None = None
    ) -> None:
        self.uri = uri
        self._client, self.experiment_id = open_experiment(uri, study.name, artifacts)
        try:
            self._runs = StudyRuns(self._client, self.experiment_id, study)
        except STORE_ERRORS as error:
            raise refused(uri, error) from error
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._live: dict[str, _Live] = {}
        self._marker, self._ended = marker, dict[str, TrialRecord]()
        self._system = SystemMonitor()
        self._tried: set[str] = set()
        self._past: set[str] = set()
        self._next_look = self._next_reading = self._next_mark = 0.0
        self._marked = self._runs.ended_before  # what an earlier call has shown is delivered anew, not shown
        self._shown: dict[str, tuple[int, float]] = {}
        self._closed = False
        self.failure: str | None = None
        self._broken: str | None = None
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def address(self) -> list[str]:
        """Lines that tell how to look at the study.

        The command that starts MLflow's own UI, if need be, and the page.
        """
        if self.uri.startswith("http"):
            return [f"{without_secrets(self.uri)}/{self.page()}"]
        server = Path(sys.executable).parent / "mlflow"
        uri = without_secrets(self.uri)
        return [
            pasted(server, "ui", "--workers", "1", "--backend-store-uri", uri),
            f"then open http://127.0.0.1:5000/{self.page()}",
        ]

    def page(self) -> str:
        """The part of the UI's address, after the host, that shows the study.

        Its description links to the compare pages.
        """
        return f"#/experiments/{self.experiment_id}/runs/{self._runs.study_run}"

    def running(self, record: TrialRecord, progress: Mapping[str, Any]) -> None:
        """A trial is under way, and where it is; returns at once."""
        now, step = time.time(), progress.get("step", 0)
        with self._lock:
            if record.trial_id in self._past:
                return
            live = self._live.setdefault(record.trial_id, _Live(record=record, since=now))
            if step < live.step:  # its worker was lost, and another has gone back to a checkpoint
                live.waiting, live.step, live.latest, live.anew = [], 0, 0.0, True
            live.waiting += _load_points(progress, live, milliseconds(now))
            due = now - live.latest >= (now - live.since) / CURVE_POINTS
            if progress.get("loss") is None or step == live.step or not due:
                return
            live.latest, live.step = now, step
            live.waiting += row_points(progress, _LIVE_CURVES, milliseconds(now))

    def log_trial(self, record: TrialRecord, telemetry: Telemetry) -> None:
        """Queues an ended trial; returns at once."""
        self._jobs.put((record, telemetry))

    def _write(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self.failure = f"its writer ended: {type(error).__name__}: {error}"
            self._broken = self.failure
            raise

    def _serve(self) -> None:
        backlog: deque[_Job] = deque()
        deadline: float | None = None
        while deadline is None or (backlog and time.monotonic() < deadline):
            try:
                waits = RETRY_SECONDS if backlog else LIVE_SECONDS
                job = self._jobs.get(timeout=waits if deadline is None else 1.0)
                if job is None:
                    deadline = time.monotonic() + GIVE_UP_SECONDS
                else:
                    backlog.append(job)
            except queue.Empty:
                pass
            self._deliver(backlog)
            if deadline is None and not backlog:
                self._show()
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
            except STORE_ERRORS as error:
                self.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                self._tried.add(backlog[0][0].trial_id)
                backlog.rotate(-1)
                return
            backlog.popleft()

    def _log(self, record: TrialRecord, telemetry: Telemetry) -> None:
        with self._lock:
            live = self._live.pop(record.trial_id, None)
            self._past.add(record.trial_id)
        shown = set() if live is None else live.shown
        if record.trial_id in self._tried or (live is not None and live.anew):
            self._runs.clear(record.trial_id)
            shown = set()
        if not self._runs.holds(record):
            self._runs.end(record, ending_points(record, telemetry(), shown))
        self._ended[record.trial_id] = record

    def _show(self) -> None:
        """What runs, how the machine is, and where the study stands: no more often than it may cost.

        Nothing depends on it: what a lost server did not take comes with the trial's end.
        """
        began = time.monotonic()
        if began < self._next_look:
            return
        try:
            self._show_trials()
            if began >= self._next_reading:
                self._next_reading = began + SYSTEM_SECONDS
                self._runs.add_to_study(self._system.reading())
            if began >= self._next_mark and len(self._ended) > self._marked:
                self._show_marks()
                self._next_mark = time.monotonic() + (time.monotonic() - began) / LIVE_SHARE
        except STORE_ERRORS as error:
            self.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        took = time.monotonic() - began
        self._next_look = began + max(LIVE_SECONDS, took / LIVE_SHARE)

    def _show_trials(self) -> None:
        with self._lock:
            waiting = {name: (live, live.waiting) for name, live in self._live.items()}
            for live, _ in waiting.values():
                live.waiting = []
        for trial_id, (live, points) in waiting.items():
            if live.anew:
                self._runs.clear(trial_id)
                live.anew, live.shown = False, set()
            if self._runs.begin(live.record, live=True) and points:
                self._runs.add(trial_id, points)
                live.shown |= {(point.name, point.step) for point in points}

    def _show_marks(self) -> None:
        """Fronts, verdicts and what was spent, of the trials that have ended."""
        if self._marker is None:
            return
        self._marked = len(self._ended)
        try:
            marks = self._marker(list(self._ended.values()))
        # The analysis is a guest in the thread that delivers trials: whatever it raises on half a study costs
        # a point of a curve, is told in `failure`, and no trial is lost for it.
        except Exception as error:  # noqa: BLE001
            self.failure = f"{type(error).__name__}: {error}"
            return
        self._add_marks(marks)

    def _add_marks(self, marks: StudyMarks) -> None:
        at, ended = milliseconds(None), len(self._ended)
        seconds = [record.measured.train_seconds or 0.0 for record in self._ended.values()]
        evaluation = [record.measured.eval_seconds or 0.0 for record in self._ended.values()]
        numbers: dict[str, float] = {"trials": ended, "hours": (sum(seconds) + sum(evaluation)) / 3600}
        kwh = [record.measured.kwh for record in self._ended.values() if record.measured.kwh is not None]
        if kwh:
            numbers["kwh"] = sum(kwh)
        for regime, volume in marks.hypervolume.items():
            numbers[f"hypervolume_{regime}"] = volume
            on_front = [each for each in marks.settings if each.regime == regime and each.on_front]
            numbers[f"front_{regime}"] = len(on_front)
            self._runs.show_front(regime, ended, on_front)
        if marks.decided is not None:
            numbers["decided"] = marks.decided
        numbers = {name: value for name, value in numbers.items() if self._shown.get(name) != (ended, value)}
        self._shown |= {name: (ended, value) for name, value in numbers.items()}
        points = [MetricPoint(name, float(value), at, ended) for name, value in numbers.items()]
        self._runs.add_to_study(points)
        self._runs.mark(marks)

    def interrupted(self) -> None:
        """Says at once that the study is no longer running, whatever else there is time for."""
        self._runs.stop()

    def finish(self, marks: StudyMarks, artifacts: Iterable[Path], *, interrupted: bool) -> None:
        """Waits for the writer, marks settings and trials, stores artifacts with the study's run, closes it.

        What goes wrong is in `failure`.
        """
        if self._closed:
            return
        self._jobs.put(None)
        self._writer.join()
        if self._broken is not None:
            self.failure = self._broken
            return
        try:
            if marks.settings:
                self._add_marks(marks)
            for path in artifacts:
                if path.is_dir():
                    self._client.log_artifacts(self._runs.study_run, str(path), artifact_path=path.name)
                else:
                    self._client.log_artifact(self._runs.study_run, str(path))
            self._runs.close("KILLED" if interrupted else "FINISHED")
            self._closed = True
        except STORE_ERRORS as error:
            self.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"

    def log_adapters(self, adapters: Mapping[str, Path], register: Mapping[str, str]) -> dict[str, str]:
        """Logs adapters as models of their trials' runs, in a process of its own.

        What goes wrong is in `failure`.
        """
        requests = {}
        for trial_id, folder in adapters.items():
            run_id, record = self._runs.trial_run(trial_id), self._ended.get(trial_id)
            if run_id is not None and record is not None:
                request = model_request(record, folder)
                requests[trial_id] = {**request, "run_id": run_id, "register": register.get(trial_id)}
        if not requests:
            return {}
        command = (sys.executable, "-m", "ray_jobs.tracking.mlflow_models")
        asked = json.dumps({"uri": self.uri, "adapters": requests})
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, cwd=PROJECT)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            self.failure = f"adapters are not in it ({lines[-1]})"
            return {}
        addresses: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
        return {trial_id: address for trial_id, address in addresses.items() if address is not None}
