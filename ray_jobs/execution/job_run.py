"""Runs one job in this process, whoever handed it out: a trial or a trunk, with those who watch it.

Knows nothing of Ray.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from grit.runtime.checkpoint_files import CHECKPOINT_FILE
from grit.runtime.machine_load import MachineLoad
from ray_jobs.execution.outcome import Fork, JobOutcome
from ray_jobs.execution.standings import EvaluationKey
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


class Listener(Protocol):
    """Who is told of a running job."""

    def report(self, progress: dict[str, Any]) -> None:
        """Where it is."""

    def evaluated(self, where: EvaluationKey, standing: Standing) -> bool:
        """Where it stands at an evaluation; True where a completed trial dominates it there."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a job finds and leaves what it needs.

    Attributes:
        checkpoints: folder with one folder per job; `private`: this worker's alone, not of all of a trial.
        tables: the folder that a trial's tables go to.
        adapters: the folder that its adapter goes to, under its id; None where it is not kept.
        stepped, phase, should_save, saved: as in grit/training/hooks.py, for who places jobs.
    """

    checkpoints: Path
    tables: Path
    adapters: Path | None = None
    private: bool = False
    stepped: Callable[[], None] = lambda: None
    phase: Callable[[str], None] = lambda name: None
    should_save: Callable[[], bool] | None = None
    saved: Callable[[Path], None] | None = None


def explain(error: Exception) -> str:
    """An error in one line, with a hint where memory ran out."""
    line = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, MemoryError) or any(words in line.lower() for words in _OUT_OF_MEMORY):
        return (
            f"out of memory ({line}); lower micro_batch and raise accumulation, or lower max_length or rank"
        )
    return line


class _Watch:
    """What those who listen are told of a running job.

    Attributes:
        setup_seconds: from the beginning to the end of the first step; None before that.
    """

    def __init__(self, job: Job, listener: Listener | None, place: Placement, device: str) -> None:
        self._job, self._listener = job, listener
        self._stepped, self._phase = place.stepped, place.phase
        self._began, self._sent = time.monotonic(), 0.0
        self._since, self._place = time.time(), f"{platform.node()}, process {os.getpid()}"
        self._machine = MachineLoad(device)
        self._load: dict[str, float] | None = None
        self.setup_seconds: float | None = None

    def progress(self, step: int, share: float, loss: float, mean_rank: float) -> None:
        """Tells where the job is, now and then."""
        self._stepped()
        now = time.monotonic()
        seconds = max(1e-9, now - self._began)
        if self.setup_seconds is None:
            self.setup_seconds = seconds
        if self._listener is None or now - self._sent < PROGRESS_SECONDS:
            return
        self._sent = now
        left = seconds * (1 - share) / share if share > 0 else None
        self._load = self._machine.reading() or self._load
        self._tell(step=step, share=share, left=left, loss=loss, mean_rank=mean_rank, load=self._load)

    def phase(self, name: str) -> None:
        """Tells what begins before the first step."""
        self._phase(name)
        if self._listener is not None and self.setup_seconds is None:
            self._tell(phase=name, loss=None)

    def _tell(self, **where: Any) -> None:
        assert self._listener is not None
        config = self._job.config
        who = {"method": config.method, "seed": config.seed, "regime": config.budget.regime}
        self._listener.report({**who, "since": self._since, "place": self._place, **where})

    def evaluated(self, interim: Interim) -> bool:
        """Tells where the job stands; True where it should stop."""
        if self._listener is None:
            return False
        config = self._job.config
        where = (config.budget.regime, config.seed, interim.number)
        standing = Standing(
            scores=interim.scores,
            document_losses=interim.document_losses,
            footprint=interim.footprint,
            overhead=interim.overhead,
        )
        dominated = self._listener.evaluated(where, standing)
        return bool(dominated) and bool(self._job.may_stop)


def run_job(job: Job, bench: Workbench, listener: Listener | None, place: Placement) -> JobOutcome:
    """Trains one trial, or one trunk; writes a trial's tables, and returns the outcome.

    Args:
        job: what was handed out.
        bench: what this process has loaded.
        listener: told of progress; None for a worker that does not lead.
        place: where its files are.
    """
    from grit.runtime.workers import Workers
    from grit.training.hooks import Hooks
    from grit.training.keep import UnwrittenAdapterError
    from grit.training.side_by_side import train

    watch = _Watch(job, listener, place, bench.device)
    hooks = Hooks(
        progress=watch.progress,
        phase=watch.phase,
        should_save=place.should_save,
        saved=place.saved,
        evaluated=None if job.may_stop is None else watch.evaluated,
    )
    folder, fork = place.checkpoints / job.job_id, None
    if job.fork_from is not None:
        trunk = place.checkpoints / job.fork_from
        if place.private:
            fork = fork_checkpoint(trunk, folder)
        else:
            fork = Workers().first_does(lambda: fork_checkpoint(trunk, folder))
    if job.trunk_steps is not None:
        return _train_trunk(job, job.trunk_steps, bench, folder, hooks)
    reasons = (job.config.execution.checkpoint_steps, fork, place.should_save)
    keeps = any(reason is not None for reason in reasons)
    adapter = None if place.adapters is None else place.adapters / job.job_id
    try:
        result = train(job.config, bench, checkpoints=folder if keeps else None, hooks=hooks, adapter=adapter)
    except UnwrittenAdapterError as error:
        return JobOutcome(status="unwritten", error=f"{error.strerror}: {error.filename}")
    if listener is not None:
        try:
            _write_tables(result, place.tables, job.job_id)
        except OSError as error:
            reason = f"{error.strerror or error}: {error.filename or place.tables}"
            return JobOutcome(status="unwritten", error=reason)
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


def _write_tables(result: RunResult, folder: Path, trial_id: str) -> None:
    for kind, rows in result.tables().items():
        write_rows(folder, kind, trial_id, rows)


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
