"""What runs inside a Ray Train worker: a warm loop that takes trials from the board and trains them with `grit`."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train

#: Seconds between progress messages of a running trial.
PROGRESS_SECONDS = 0.5


def slot_loop(settings: dict[str, Any]) -> None:
    """Serves one slot until the board is closed. Backbones, tokenized data and base scores stay loaded between trials.

    A trial that raises is recorded as failed and re-raised: Train replaces this worker, and the next trial starts in a clean process.
    """
    from grit.allocator import keep_freed_memory
    from grit.workbench import Workbench

    keep_freed_memory()
    board: Any = ray.get_actor(settings["board"], namespace=settings["namespace"])
    slot = settings["slot"]
    bench = Workbench()
    while True:
        job: Any = ray.get(board.take.remote(slot))
        if job is None:
            return
        try:
            outcome = run_trial(job, bench, board, settings["checkpoints"])
        except Exception as error:
            outcome = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            ray.get(board.finish.remote(slot, job["trial_id"], outcome))
            raise
        ray.get(board.finish.remote(slot, job["trial_id"], outcome))


def run_trial(job: dict[str, Any], bench: Any, board: Any, checkpoints: str | None) -> dict[str, Any]:
    """Trains one trial; returns its outcome with the result as a plain dictionary."""
    from grit.run_config import RunConfig
    from grit.trainer import train

    trial_id, config = job["trial_id"], RunConfig.from_dict(job["config"])
    sent = 0.0

    def progress(step: int, share: float, loss: float, mean_rank: float) -> None:
        nonlocal sent
        if time.monotonic() - sent >= PROGRESS_SECONDS:
            sent = time.monotonic()
            board.report.remote(trial_id, {"step": step, "share": share, "loss": loss, "rank": mean_rank, "method": config.method})

    folder = None if checkpoints is None or config.checkpoint_steps is None else Path(checkpoints) / trial_id
    result = train(config, bench, checkpoints=folder, progress=progress)
    return {"status": result.status, "error": result.reason, "result": asdict(result)}
