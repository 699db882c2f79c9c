"""What runs inside a Ray Train worker.

A warm loop that takes jobs from the board and trains them with `grit`.
"""

from __future__ import annotations

import gc
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from ray_jobs.execution.job_run import Placement, explain, run_job
from ray_jobs.execution.nodes.admission import Admission, Expected, NodeRefusedError, admitted
from ray_jobs.execution.nodes.storage import StudyStorage
from ray_jobs.execution.outcome import JobOutcome
from ray_jobs.execution.standings import EvaluationKey
from ray_jobs.records.kept_adapters import ADAPTERS
from ray_jobs.schedule.job import Job
from ray_jobs.schedule.stopping import Standing

if TYPE_CHECKING:
    from grit.runtime.workers import Workers
    from grit.training.workbench import Workbench

#: How often a worker is examined before its slot is lost, and the seconds between.
ADMISSION_TRIES, ADMISSION_PAUSE = 3, 5.0
#: A worker whose memory has grown by this much since its first trial is replaced by a fresh one.
LEAK_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class SlotSettings:
    """Where a slot finds its board, and the study's folder, which every node can reach.

    Attributes:
        keeps: whether trials leave their adapters there.
        extensions: the hash of the user's modules that trials were planned with.
        expected, examined: what a worker must be, and the configuration that it must have room for; None
            where workers are not examined.
    """

    board: str
    namespace: str
    slot: str
    folder: str
    keeps: bool = False
    extensions: str | None = None
    expected: Expected | None = None
    examined: RunConfig | None = None

    @property
    def checkpoints(self) -> Path:
        """Where trials and trunks leave what they would go on from."""
        return Path(self.folder) / "checkpoints"


class WorkerRetiredError(RuntimeError):
    """Ends a worker that holds memory it should have given back; Train starts another one."""


def slot_loop(loop_config: dict[str, SlotSettings]) -> None:
    """Serves one slot until the board is closed.

    Backbones, tokenized data and base scores stay loaded between trials. A trial that raises is recorded as
    failed and re-raised: Train replaces this worker, and the next trial starts in a clean process. Where a
    slot has several workers they train each trial together; the first talks to the board for all of them.
    """
    from grit.runtime.allocator import keep_freed_memory
    from grit.runtime.workers import Workers
    from grit.training.workbench import Workbench

    settings = loop_config["settings"]
    keep_freed_memory()
    board: Any = ray.get_actor(settings.board, namespace=settings.namespace)
    workers = Workers()
    if workers.leads:
        ray.get(board.started.remote(settings.slot))
    bench = Workbench(base_cache=Path(settings.folder) / "base")
    if refusal := _refusal(settings, workers, bench, board):
        if workers.leads:
            ray.get(board.lose_slot.remote(settings.slot, refusal))
        return
    first: int | None = None
    while True:
        taken = ray.get(board.take.remote(settings.slot)) if workers.leads else None
        job: Job | None = workers.first_says(taken)
        if job is None:
            return
        _serve(job, bench, board if workers.leads else None, settings)
        if first is None:
            # What the libraries and the backbone hold stays: later collections need not walk through it,
            # which takes a third of a second.
            gc.freeze()
            first = held_bytes()
        if workers.first_says(held_bytes() - first > LEAK_BYTES):
            raise WorkerRetiredError(
                f"its memory grew by more than {LEAK_BYTES >> 20} MiB since its first trial"
            )


def _refusal(settings: SlotSettings, workers: Workers, bench: Workbench, board: Any) -> str | None:
    """Why this slot gets no work, the same on all its workers; None where it does."""
    if settings.expected is None or settings.examined is None:
        return None
    for tries_left in reversed(range(ADMISSION_TRIES)):
        admission, reason = _examined(settings.expected, settings.folder, settings.examined, bench)
        reasons = [each for each in workers.all_say(reason) if each is not None]
        if not reasons or not tries_left:
            break
        time.sleep(ADMISSION_PAUSE)  # a storage that was slow, a GPU that a dead process still held
    if reasons:
        return str(reasons[0])
    assert admission is not None
    names = workers.all_say(admission.name)
    refusal = ray.get(board.admit.remote(settings.slot, admission.row(), names)) if workers.leads else None
    return workers.first_says(refusal)  # type: ignore[no-any-return]  # as the board said it


def _examined(
    expected: Expected, folder: str, config: RunConfig, bench: Workbench
) -> tuple[Admission | None, str | None]:
    """What this process is, or why it is not what the driver means."""
    try:
        return admitted(expected, StudyStorage(folder), config, bench), None
    except (NodeRefusedError, ConfigError, OSError) as error:
        return None, explain(error)


def _serve(job: Job, bench: Workbench, board: Any, settings: SlotSettings) -> None:
    """Runs one job and leaves its outcome on the board; None for a worker that does not lead."""
    from grit.config.extensions import check_extensions
    from grit.runtime.workers import PeerLostError

    try:
        check_extensions(settings.extensions)
        place = Placement(
            checkpoints=settings.checkpoints,
            tables=Path(settings.folder),
            adapters=Path(settings.folder) / ADAPTERS if settings.keeps else None,
        )
        outcome = run_job(job, bench, None if board is None else _ToBoard(board, job), place)
    except PeerLostError:
        # nothing is known to be wrong with the trial: the group is replaced, and gets it again from its
        # checkpoint
        raise
    except Exception as error:
        if board is not None:
            failed = JobOutcome(status="failed", error=explain(error), traceback=traceback.format_exc())
            ray.get(board.finish.remote(settings.slot, job.job_id, failed))
        raise
    if board is not None:
        ray.get(board.finish.remote(settings.slot, job.job_id, outcome))


def held_bytes() -> int:
    """Memory that this process holds: resident, and on the GPU."""
    import torch

    from grit.runtime.memory import resident_bytes

    return resident_bytes() + (torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)


class _ToBoard:
    """Tells the board of a running job."""

    def __init__(self, board: Any, job: Job) -> None:
        self._board, self._job_id = board, job.job_id

    def report(self, progress: dict[str, Any]) -> None:
        """Where it is; nobody waits for an answer."""
        self._board.report.remote(self._job_id, progress)

    def evaluated(self, where: EvaluationKey, standing: Standing) -> bool:
        """Where it stands."""
        return bool(ray.get(self._board.evaluated.remote(self._job_id, where, standing)))
