"""What runs inside the Ray Train workers of one trial: admission, the job, and what it leaves."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
from pydantic import TypeAdapter

from grit.adapters.kept_adapter import ADAPTER_FILE
from grit.errors import ConfigError
from grit.runtime.checkpoint_files import CHECKPOINT_FILE
from ray_jobs.execution.job_run import Placement, explain, run_job
from ray_jobs.execution.nodes.admission import Expected, NodeRefusedError, OtherDeviceError, admitted
from ray_jobs.execution.nodes.storage import StudyStorage
from ray_jobs.execution.outcome import JobOutcome
from ray_jobs.execution.per_trial.blame import Place
from ray_jobs.execution.per_trial.gpu_hold import gpus_here
from ray_jobs.execution.per_trial.saving import SavingTimes
from ray_jobs.execution.per_trial.stored_files import attempt_folder, stored_adapter, trunk_file
from ray_jobs.execution.per_trial.termination import TERMINATION, TOLD_TO_END, TerminatedError
from ray_jobs.execution.per_trial.watchdog import Patience, Watchdog
from ray_jobs.execution.standings import EvaluationKey
from ray_jobs.records.faults import FaultKind
from ray_jobs.schedule.job import Job
from ray_jobs.schedule.stopping import Standing

if TYPE_CHECKING:
    from grit.runtime.workers import Workers
    from grit.training.workbench import Workbench

#: Seconds that a process whose time is up waits for the ledger to hear why.
FAREWELL_SECONDS = 5.0
#: As text, whole and typed.
OUTCOMES: TypeAdapter[JobOutcome] = TypeAdapter(JobOutcome)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What every worker and every trial's driver is told.

    Attributes:
        ledger, namespace: of the ledger's actor.
        storage: the study's root, a path or a URI.
        resources, workers: of one worker, and how many train a trial together.
        may_grow: whether more nodes may come.
        keeps: whether completed trials leave their adapters in the storage.
        checkpoint_seconds: of wall time between checkpoints.
    """

    ledger: str
    namespace: str
    storage: str
    expected: Expected
    resources: dict[str, float]
    workers: int = 1
    may_grow: bool = False
    keeps: bool = False
    checkpoint_seconds: float = 300.0
    patience: Patience = field(default_factory=Patience)

    def ledger_actor(self) -> Any:
        """The study's ledger."""
        return ray.get_actor(self.ledger, namespace=self.namespace)


class _ToLedger:
    """Tells the ledger of a running job; an attempt that is superseded is not heard."""

    def __init__(self, ledger: Any, job_id: str, token: str) -> None:
        self._ledger, self._job_id, self._token = ledger, job_id, token

    def report(self, progress: dict[str, Any]) -> None:
        """Where it is; nobody waits for an answer."""
        self._ledger.report.remote(self._job_id, self._token, progress)

    def evaluated(self, where: EvaluationKey, standing: Standing) -> bool:
        """Where it stands."""
        return bool(ray.get(self._ledger.evaluated.remote(self._job_id, self._token, where, standing)))

    def fault(self, kind: FaultKind, error: str, place: Place, timeout: float | None = None) -> None:
        """Why it ends early, heard before the process goes, within `timeout` seconds if they are given."""
        ray.get(self._ledger.fault.remote(self._job_id, self._token, kind, error, place), timeout=timeout)


def train_job(loop_config: dict[str, Any]) -> None:
    """Trains one job; its outcome goes to the ledger, and its files to the storage.

    Raises:
        Exception: whatever ended it early, after the ledger has been told.
    """
    from grit.runtime.workers import PeerLostError, Workers

    settings: EngineSettings = loop_config["settings"]
    job_id: str = loop_config["job_id"]
    ledger, workers = settings.ledger_actor(), Workers()
    place = Place(
        node_id=ray.get_runtime_context().get_node_id(),
        address=ray.util.get_node_ip_address(),
        process=os.getpid(),
        gpus=tuple(gpus_here()),
        shared=0 < settings.resources.get("GPU", 0.0) < 1,
    )
    token = workers.first_says(uuid.uuid4().hex)
    heard = _ToLedger(ledger, job_id, token)
    begun = workers.first_says(workers.leads and ray.get(ledger.begin.remote(job_id, token, place)))
    if not begun:
        return
    if not workers.leads:
        ray.get(ledger.joined.remote(job_id, token, place))
    try:
        _Attempt(settings, ray.get(ledger.job.remote(job_id)), token, workers, heard, place).run()
    except PeerLostError:
        raise  # the other worker, or Ray, says why
    except Exception as error:
        heard.fault(fault_kind(error), explain(error), place)
        raise


def fault_kind(error: Exception) -> FaultKind:
    """What kind of fault an exception in a worker is."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return "trial"
    kinds: dict[type[Exception], FaultKind] = {
        TerminatedError: "preemption",
        OtherDeviceError: "device",
        NodeRefusedError: "node",
        ray.exceptions.RayError: "infrastructure",
        OSError: "infrastructure",  # the storage, or a full disk of this node
        torch.AcceleratorError: "infrastructure",
        ConfigError: "configuration",
    }
    return next((kind for cause, kind in kinds.items() if isinstance(error, cause)), "trial")


class _Attempt:
    """One attempt at a job, on one of its workers."""

    def __init__(
        self, settings: EngineSettings, job: Job, token: str, workers: Workers, heard: _ToLedger, place: Place
    ) -> None:
        self._settings, self._job, self._token = settings, job, token
        self._workers, self._heard, self._place = workers, heard, place
        self._storage = _opened(settings.storage)
        remove_left_behind()
        self._folder = _own_folder()
        (self._folder / "tables").mkdir()
        self._times = SavingTimes(
            workers,
            seconds=settings.checkpoint_seconds,
            leaving=lambda: ray.train.get_preemption_info() is not None,
            told_to_end=lambda: TERMINATION.heard,
        )

    def run(self) -> None:
        """Admission, training, and what is left of it."""
        from grit.config.extensions import check_extensions
        from grit.runtime.allocator import keep_freed_memory

        check_extensions(self._settings.expected.content.get("extensions"))
        keep_freed_memory()
        TERMINATION.expect(self._ended_untimely)
        watchdog = Watchdog(self._settings.patience, self._hung)
        try:
            bench = self._admitted()
            fetched = self._fetch()
            place = Placement(
                checkpoints=self._checkpoints,
                tables=self._folder / "tables",
                adapters=self._folder / "adapters" if self._settings.keeps else None,
                private=True,
                stepped=watchdog.stepped,
                phase=watchdog.phase,
                should_save=self._times.due,
                saved=self._saved,
            )
            listener = self._heard if self._workers.leads else None
            outcome = run_job(self._job, bench, listener, place)
            watchdog.phase("leaving what it found")
            if self._workers.leads:
                self._leave(outcome, fetched)
        finally:
            TERMINATION.expect(None)
            watchdog.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ended_untimely(self) -> None:
        """There was no step, at whose end it would have left a checkpoint."""
        self._heard.fault("preemption", TOLD_TO_END, self._place, timeout=FAREWELL_SECONDS)

    def _hung(self, reason: str, stacks: str) -> None:
        """Leaves a stack dump, and tells why this process is about to end."""
        name = f"stacks/{self._job.job_id}-{self._token}.txt"
        self._storage.write(name, stacks.encode())
        self._heard.fault("infrastructure", f"{reason}; stacks in {name}", self._place)

    @property
    def _checkpoints(self) -> Path:
        return self._folder / "checkpoints"

    def _admitted(self) -> Workbench:
        """What this process has loaded, once it is found to be what the driver means.

        Raises:
            NodeRefusedError: it is not.
            OtherDeviceError: it is fit, but not for a time-matched trial of this study.
        """
        from grit.training.workbench import Workbench

        bench = Workbench(base_cache=self._folder / "base")
        admission = admitted(self._settings.expected, self._storage, self._job.config, bench)
        refusal, names = None, self._workers.all_say(admission.name)
        if self._workers.leads:
            ledger = self._settings.ledger_actor()
            answer = ledger.admitted.remote(self._job.job_id, self._token, admission.row(), names)
            refusal = ray.get(answer)
        if refusal := self._workers.first_says(refusal):
            raise OtherDeviceError(refusal)
        return bench

    def _fetch(self) -> set[str]:
        """Brings here what the job goes on from; the names of base scores that are known already."""
        latest = ray.train.get_checkpoint()
        if latest is not None:
            latest.to_directory(str(self._checkpoints / self._job.job_id))
        if self._job.fork_from is not None:
            local = self._checkpoints / self._job.fork_from / CHECKPOINT_FILE
            self._storage.download(trunk_file(self._job.fork_from), local)
        names = self._storage.names("shared/base")
        for name in names:
            self._storage.download(name, self._folder / "base" / Path(name).name)
        return {Path(name).name for name in names}

    def _saved(self, folder: Path) -> None:
        """Hands a checkpoint to Ray Train, which writes it beside training; before a node goes, at once.

        Raises:
            TerminatedError: the process was told to end: it has left what the trial goes on from.
        """
        from ray.train import Checkpoint, CheckpointUploadMode

        self._times.saved()
        handed = None
        if self._workers.leads:
            copy = _own_folder()  # beside: it is uploaded, and removed, when this attempt may have ended
            for path in folder.iterdir():
                if path.is_file() and not path.name.endswith(".partial"):
                    os.link(path, copy / path.name)
            handed = Checkpoint.from_directory(str(copy))
        mode = CheckpointUploadMode.SYNC if self._times.urgent else CheckpointUploadMode.ASYNC
        ray.train.report({}, handed, checkpoint_upload_mode=mode, delete_local_checkpoint_after_upload=True)
        if self._times.ending:
            raise TerminatedError(TOLD_TO_END)

    def _leave(self, outcome: JobOutcome, fetched: set[str]) -> None:
        """Uploads base scores, a trunk's checkpoint, adapter, tables and the outcome, and closes the job."""
        if outcome.status == "unwritten":
            raise OSError(outcome.error)
        for path in (self._folder / "base").glob("*.json"):
            if path.name not in fetched:
                self._storage.upload(path, f"shared/base/{path.name}")
        if outcome.status == "trunk":
            own = self._checkpoints / self._job.job_id / CHECKPOINT_FILE
            self._storage.upload(own, trunk_file(self._job.job_id))
        folder = attempt_folder(self._job.job_id, self._token)
        tables = self._folder / "tables"
        for path in tables.rglob("*.parquet"):
            self._storage.upload(path, f"{folder}/tables/{path.relative_to(tables)}")
        for path in sorted(
            (self._folder / "adapters").rglob("*"), key=lambda path: path.name == ADAPTER_FILE
        ):
            if path.is_file():  # what says that an adapter is whole comes last
                self._storage.upload(path, f"{stored_adapter(self._job.job_id, self._token)}/{path.name}")
        self._storage.write(f"{folder}/outcome.json", OUTCOMES.dump_json(outcome))
        ledger = self._settings.ledger_actor()
        ray.get(ledger.finish.remote(self._job.job_id, self._token, outcome))


#: Folders of attempts and of checkpoints under way: with the process in the name, so that those of processes
#: that were killed can be told.
_PREFIX = "grit-trial-"


def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def remove_left_behind() -> None:
    """Removes the folders of processes that ended without doing so."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _opened(storage: str) -> StudyStorage:
    """The study's storage.

    Raises:
        NodeRefusedError: this node cannot open it, and the driver could.
    """
    try:
        return StudyStorage(storage)
    except ConfigError as error:
        raise NodeRefusedError(f"it cannot open the storage: {error}") from error


def describe_failure(error: Exception) -> tuple[str, str]:
    """(one line, the whole) of what ended an attempt."""
    whole = "".join(traceback.format_exception(error))
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__), whole
