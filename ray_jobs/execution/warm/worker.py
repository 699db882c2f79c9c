"""What runs inside a Ray Train worker.

A warm loop that takes jobs from the board and trains them with `grit`.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from grit.runtime.checkpoint_files import CHECKPOINT_FILE
from ray_jobs.execution.outcome import Fork, JobOutcome
from ray_jobs.records.trial_tables import write_rows
from ray_jobs.records.trunk_record import TrunkOutcome
from ray_jobs.schedule.job import Job
from ray_jobs.schedule.stopping import Standing

if TYPE_CHECKING:
    from grit.training.hooks import Interim
    from grit.training.result import RunResult
    from grit.training.workbench import Workbench

#: Seconds between progress messages of a running trial.
PROGRESS_SECONDS = 0.5
#: What a message of a failed allocation says, on a CPU or a GPU.
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
#: A worker whose memory has grown by this much since its first trial is replaced by a fresh one.
LEAK_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class SlotSettings:
    """Where a slot finds its board, and the study's folder, which every node can reach."""

    board: str
    namespace: str
    slot: str
    folder: str

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
    bench = Workbench(base_cache=Path(settings.folder) / "base")
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


def _serve(job: Job, bench: Workbench, board: Any, settings: SlotSettings) -> None:
    """Runs one job and leaves its outcome on the board; None for a worker that does not lead."""
    from grit.runtime.workers import PeerLostError

    try:
        outcome = run_job(job, bench, board, settings)
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


def explain(error: Exception) -> str:
    """An error in one line, with a hint where memory ran out."""
    line = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, MemoryError) or any(words in line.lower() for words in _OUT_OF_MEMORY):
        return (
            f"out of memory ({line}); lower micro_batch and raise accumulation, or lower max_length or rank"
        )
    return line


class _Watch:
    """What the board is told of a running job.

    Attributes:
        setup_seconds: from the beginning to the end of the first step; None before that.
    """

    def __init__(self, job: Job, board: Any) -> None:
        self._job, self._board = job, board
        self._began, self._sent = time.monotonic(), 0.0
        self.setup_seconds: float | None = None

    def progress(self, step: int, share: float, loss: float, mean_rank: float) -> None:
        """Tells where the job is, now and then."""
        now = time.monotonic()
        seconds = max(1e-9, now - self._began)
        if self.setup_seconds is None:
            self.setup_seconds = seconds
        if self._board is None or now - self._sent < PROGRESS_SECONDS:
            return
        self._sent = now
        config = self._job.config
        message = {
            "step": step,
            "share": share,
            "left": seconds * (1 - share) / share if share > 0 else None,
            "loss": loss,
            "rank": mean_rank,
            "method": config.method,
            "seed": config.seed,
            "regime": config.budget.regime,
        }
        self._board.report.remote(self._job.job_id, message)

    def evaluated(self, interim: Interim) -> bool:
        """Tells where the job stands; True where it should stop."""
        if self._board is None:
            return False
        config = self._job.config
        where = (config.budget.regime, config.seed, interim.number)
        standing = Standing(
            scores=interim.scores,
            document_losses=interim.document_losses,
            footprint=interim.footprint,
            overhead=interim.overhead,
        )
        dominated = ray.get(self._board.evaluated.remote(self._job.job_id, where, standing))
        return bool(dominated) and bool(self._job.may_stop)


def run_job(job: Job, bench: Workbench, board: Any, settings: SlotSettings) -> JobOutcome:
    """Trains one trial, or one trunk; writes a trial's tables, and returns the outcome.

    Args:
        job: what the board handed out.
        bench: what this worker has loaded.
        board: told of progress; None for a worker that does not lead.
        settings: of its slot.
    """
    from grit.runtime.workers import Workers
    from grit.training.hooks import Hooks
    from grit.training.side_by_side import train

    watch = _Watch(job, board)
    hooks = Hooks(progress=watch.progress, evaluated=None if job.may_stop is None else watch.evaluated)
    folder, fork = settings.checkpoints / job.job_id, None
    if job.fork_from is not None:
        trunk = settings.checkpoints / job.fork_from
        fork = Workers().first_does(lambda: fork_checkpoint(trunk, folder))
    if job.trunk_steps is not None:
        return _train_trunk(job, job.trunk_steps, bench, folder, hooks)
    keeps = job.config.execution.checkpoint_steps is not None or fork is not None
    result = train(job.config, bench, checkpoints=folder if keeps else None, hooks=hooks)
    if board is not None:
        try:
            _write_tables(result, settings.folder, job.job_id)
        except OSError as error:
            return JobOutcome(
                status="unwritten", error=f"{error.strerror or error}: {error.filename or settings.folder}"
            )
    return JobOutcome(
        status=result.status,
        error=result.reason,
        measured=result.measured,
        setup_seconds=_setup_seconds(watch.setup_seconds, result),
        fork=fork,
    )


def _train_trunk(job: Job, steps: int, bench: Workbench, folder: Path, hooks: Any) -> JobOutcome:
    from grit.training.trainer import train_trunk

    left = train_trunk(job.config, bench, steps=steps, checkpoints=folder, hooks=hooks)
    if left is None:
        return JobOutcome(
            status="failed", error="the shared steps diverged: its trials run alone, and tell so themselves"
        )
    return JobOutcome(status="trunk", trunk=TrunkOutcome(**asdict(left)))


def _write_tables(result: RunResult, folder: str, trial_id: str) -> None:
    for kind, rows in result.tables().items():
        write_rows(Path(folder), kind, trial_id, rows)


def _setup_seconds(until_first_step: float | None, result: RunResult) -> float | None:
    """Without the first step itself: the clock was read after it. None where this process has taken none."""
    first = result.measured.resumed_from_step or 0
    if until_first_step is None or first >= len(result.telemetry):
        return None
    return max(0.0, until_first_step - float(result.telemetry[first]["ms_step"]) / 1e3)


def fork_checkpoint(trunk: Path, folder: Path) -> Fork | None:
    """Puts the trunk's checkpoint where the trial looks for its own; returns what the trunk left there.

    A trial that has a checkpoint already goes on from that one: then what it says of the trunk it came from,
    if it did, is
    returned.

    Raises:
        FileNotFoundError: the trunk's checkpoint is gone.
    """
    from grit.runtime import checkpoint

    note = folder / "fork.json"
    if checkpoint.exists(folder):
        return Fork(**json.loads(note.read_text(encoding="utf8"))) if note.exists() else None
    state = checkpoint.load(trunk)
    if state is None:
        raise FileNotFoundError(
            f"the checkpoint of {trunk.name} is gone: run the study again with --no-share"
        )
    folder.mkdir(parents=True, exist_ok=True)
    fork = Fork(
        trunk_id=trunk.name,
        step=state["step"],
        train_seconds=state["train_seconds"],
        eval_seconds=state["eval_seconds"],
    )
    note.write_text(json.dumps(asdict(fork)), encoding="utf8")
    partial = folder / f"{CHECKPOINT_FILE}.fork"
    shutil.copyfile(trunk / CHECKPOINT_FILE, partial)
    partial.replace(folder / CHECKPOINT_FILE)
    return fork
