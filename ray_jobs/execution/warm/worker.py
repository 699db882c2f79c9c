"""What runs inside a Ray Train worker.

A warm loop that takes trials from the board and trains them with `grit`.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train

#: Seconds between progress messages of a running trial.
PROGRESS_SECONDS = 0.5
#: What a message of a failed allocation says, on a CPU or a GPU.
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
#: A worker whose memory has grown by this much since its first trial is replaced by a fresh one.
LEAK_BYTES = 2 << 30


class WorkerRetiredError(RuntimeError):
    """Ends a worker that holds memory it should have given back; Train starts another one."""


def slot_loop(settings: dict[str, Any]) -> None:
    """Serves one slot until the board is closed.

    Backbones, tokenized data and base scores stay loaded between trials.

    A trial that raises is recorded as failed and re-raised: Train replaces this worker, and the next trial
    starts in a clean process. Where a slot has several workers they train each trial together; the first
    talks to the board for all of them.
    """
    from grit.runtime.allocator import keep_freed_memory
    from grit.runtime.workers import PeerLostError, Workers
    from grit.training.workbench import Workbench

    keep_freed_memory()
    board: Any = ray.get_actor(settings["board"], namespace=settings["namespace"])
    slot, workers = settings["slot"], Workers()
    bench = Workbench(
        base_cache=None
        if settings["checkpoints"] is None
        else Path(settings["checkpoints"]).with_name("base")
    )
    first: int | None = None
    while True:
        taken = ray.get(board.take.remote(slot)) if workers.leads else None
        job: Any = workers.first_says(taken)
        if job is None:
            return
        try:
            outcome = run_job(job, bench, board if workers.leads else None, settings["checkpoints"])
        except PeerLostError:
            # nothing is known to be wrong with the trial: the group is replaced, and gets it again from its
            # checkpoint
            raise
        except Exception as error:
            outcome = {"status": "failed", "error": explain(error), "traceback": traceback.format_exc()}
            ray.get(board.finish.remote(slot, job["trial_id"], outcome))
            raise
        if workers.leads:
            ray.get(board.finish.remote(slot, job["trial_id"], outcome))
        if first is None:
            # What the libraries and the backbone hold stays: later collections need not walk through it,
            # which takes a third of a second.
            gc.freeze()
            first = held_bytes()
        if workers.first_says(held_bytes() - first > LEAK_BYTES):
            raise WorkerRetiredError(
                f"its memory grew by more than {LEAK_BYTES >> 20} MiB since its first trial"
            )


def held_bytes() -> int:
    """Memory that this process holds: resident, and on the GPU."""
    import torch

    from grit.runtime.memory import resident_bytes

    return resident_bytes() + (torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)


def explain(error: Exception) -> str:
    """An error in one line, with a hint where memory ran out."""
    said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, MemoryError) or any(words in said.lower() for words in _OUT_OF_MEMORY):
        return (
            f"out of memory ({said}); lower micro_batch and raise accumulation, or lower max_length or rank"
        )
    return said


def run_job(job: dict[str, Any], bench: Any, board: Any, checkpoints: str | None) -> dict[str, Any]:
    """Trains one trial, or one trunk; returns its outcome with the result as a plain dictionary.

    Args:
        job: what the board handed out.
        bench: what this worker has loaded.
        board: told of progress; None for a worker that does not lead.
        checkpoints: folder of all checkpoints of the study, or None.
    """
    from grit.config.run import RunConfig
    from grit.runtime.workers import Workers
    from grit.training.side_by_side import train
    from grit.training.trainer import Hooks, train_trunk

    trial_id, config = job["trial_id"], RunConfig.from_dict(job["config"])
    began, sent, setup = time.monotonic(), 0.0, None

    def progress(step: int, share: float, loss: float, mean_rank: float) -> None:
        nonlocal sent, setup
        setup = time.monotonic() - began if setup is None else setup
        if board is not None and time.monotonic() - sent >= PROGRESS_SECONDS:
            sent = time.monotonic()
            seconds = max(1e-9, time.monotonic() - began)
            left = seconds * (1 - share) / share if share > 0 else None
            board.report.remote(
                trial_id,
                {
                    "step": step,
                    "share": share,
                    "left": left,
                    "loss": loss,
                    "rank": mean_rank,
                    "method": config.method,
                    "seed": config.seed,
                    "regime": config.budget.regime,
                },
            )

    def evaluated(interim: Any) -> bool:
        if board is None:
            return False
        where = (config.budget.regime, config.seed, interim.number)
        stands = {
            "scores": interim.scores,
            "document_losses": interim.document_losses,
            "footprint": interim.footprint,
            "overhead": interim.overhead,
        }
        return bool(ray.get(board.evaluated.remote(trial_id, where, stands))) and job["may_stop"]

    folder = None if checkpoints is None else Path(checkpoints) / trial_id
    fork = None
    if checkpoints is not None and folder is not None and job["fork_from"] is not None:
        fork = Workers().first_does(lambda: fork_checkpoint(Path(checkpoints), job["fork_from"], folder))
    hooks = Hooks(progress=progress, evaluated=None if job["may_stop"] is None else evaluated)
    if job["trunk_steps"] is not None:
        assert folder is not None
        left = train_trunk(config, bench, steps=job["trunk_steps"], checkpoints=folder, hooks=hooks)
        if left is None:
            return {
                "status": "failed",
                "error": "the shared steps diverged: its trials run alone, and tell so themselves",
            }
        return {"status": "trunk", **asdict(left)}
    keeps = config.execution.checkpoint_steps is not None or fork is not None
    result = train(config, bench, checkpoints=folder if keeps else None, hooks=hooks)
    measured = asdict(result)
    if setup is not None and result.resumed_from_step < len(
        result.telemetry
    ):  # the clock was read after the first step
        measured["setup_seconds"] = max(
            0.0, setup - result.telemetry[result.resumed_from_step]["ms_step"] / 1e3
        )
    if fork is not None:
        measured |= fork
    return {"status": result.status, "error": result.reason, "result": measured}


def fork_checkpoint(checkpoints: Path, trunk: str, folder: Path) -> dict[str, Any] | None:
    """Puts the trunk's checkpoint where the trial looks for its own; returns what the trunk left there.

    A trial that has a checkpoint already goes on from that one: then what it says of the trunk it came from,
    if it did, is returned.

    Raises:
        FileNotFoundError: the trunk's checkpoint is gone.
    """
    from grit.runtime import checkpoint

    told = folder / "fork.json"
    if checkpoint.exists(folder):
        return json.loads(told.read_text()) if told.exists() else None
    state = checkpoint.load(checkpoints / trunk)
    if state is None:
        raise FileNotFoundError(f"the checkpoint of {trunk} is gone: run the study again with --no-share")
    folder.mkdir(parents=True, exist_ok=True)
    left = {
        "forked_from": trunk,
        "forked_at_step": state["step"],
        "fork_seconds": state["train_seconds"],
        "fork_eval_seconds": state["eval_seconds"],
    }
    told.write_text(json.dumps(left))
    partial = folder / f"{checkpoint.FILE}.fork"
    shutil.copyfile(checkpoints / trunk / checkpoint.FILE, partial)
    partial.replace(folder / checkpoint.FILE)
    return left
