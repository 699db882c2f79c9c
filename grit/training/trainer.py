"""The trainer: one run from its configuration to its result, under a budget of steps or seconds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from grit.config.run_config import RunConfig
from grit.runtime import checkpoint
from grit.runtime.numerics import set_numerics
from grit.training.divergence import DivergenceRule
from grit.training.hooks import Hooks
from grit.training.keep import reload_and_compare, try_to_write
from grit.training.result import RunResult, RunStatus
from grit.training.run import Run, RunState
from grit.training.summary import result_of
from grit.training.workbench import Workbench

Returned = TypeVar("Returned")


def train(
    config: RunConfig,
    bench: Workbench,
    *,
    checkpoints: Path | None = None,
    hooks: Hooks | None = None,
    keep: bool = False,
    adapter: Path | None = None,
) -> RunResult:
    """Runs `config` to the end of its budget and returns its result.

    Where torch.distributed is initialized, all its processes must call this; each takes its share of every
    step's micro-batches, and the result is that of one process up to rounding.

    Args:
        config: the run.
        bench: what this process has loaded already.
        checkpoints: folder of this run's checkpoint; one found there is resumed, bit for bit on a CPU under a
            step budget.
        hooks: who watches it.
        keep: leave the run's last state as its checkpoint, for `on_finished`; otherwise there is none once it
            has ended.
        adapter: where its adapter goes, if the run completes and it can be kept (grit/training/keep.py).

    Raises:
        UnwrittenAdapterError: there is no room for the adapter.
    """
    with adapted(config, bench) as model:
        run = Run(config, bench, model, checkpoints=checkpoints)
        result = _to_its_end(run, hooks or Hooks(), keep=keep)
        written = None
        if adapter is not None and result.status == "completed" and run.workers.leads:
            written = try_to_write(run.state, adapter)
        # or the collection at the end of the block would still find it in use, and all that hangs on it
        del model, run
    if written is not None:
        reload_and_compare(config, bench, written)
    return result


def on_finished(config: RunConfig, bench: Workbench, work: Callable[[RunState], Returned]) -> Returned:
    """What `work` makes of a run that was trained with `keep`.

    `state.untrained()` is its model before, `state.restored(checkpoints)` after.
    """
    with adapted(config, bench) as model:
        outcome = work(RunState(config, bench, model))
        del model
    return outcome


@contextmanager
def adapted(config: RunConfig, bench: Workbench) -> Iterator[Any]:
    """The backbone with this run's adapter; after the block it is as it was."""
    execution = config.execution
    torch.set_num_threads(execution.threads)
    set_numerics(deterministic=execution.deterministic, tf32=execution.tf32)
    model = bench.adapted(config)
    try:
        yield model
    finally:
        bench.release(model)
        del model
        # Hooks and optimizer refer to each other: without this, the next run would find this one's memory
        # still taken.
        gc.collect()


#: The phases of a run, as who watches is told of them.
SCORING_UNTUNED, TRAINING, EVALUATION = "scoring the untuned model", "training", "evaluation"


@dataclass(frozen=True)
class TrunkResult:
    """What a trunk took, from the very beginning: optimizer steps, seconds of training and of evaluation."""

    steps: int
    train_seconds: float
    eval_seconds: float


def train_trunk(
    config: RunConfig, bench: Workbench, *, steps: int, checkpoints: Path, hooks: Hooks | None = None
) -> TrunkResult | None:
    """Runs the first `steps` optimizer steps of `config` and leaves a checkpoint.

    From which other runs may go on.

    Args:
        config: any of the runs that share these steps.
        bench: what this process has loaded already.
        steps: where they part. Under a time budget that is spent before, the checkpoint is its last step.
        checkpoints: where the checkpoint goes; one found there is resumed.
        hooks: who watches it.

    Returns:
        What it took; None, and no checkpoint, if it diverged: each of its trials would have ended there by
        itself.
    """
    with adapted(config, bench) as model:
        outcome = _trunk(Run(config, bench, model, checkpoints=checkpoints), hooks or Hooks(), steps)
        del model
    return outcome


def _to_its_end(run: Run, hooks: Hooks, *, keep: bool) -> RunResult:
    hooks.phase(SCORING_UNTUNED)
    run.measure_base()
    run.resume()
    status, reason = take_steps(run, hooks)
    hooks.phase(EVALUATION)
    run.finish()
    run.audit(lost=status != "completed")
    if keep:
        run.save()
    elif run.checkpoints is not None and run.workers.leads:
        checkpoint.discard(run.checkpoints)
    return result_of(run, status, reason)


def _trunk(run: Run, hooks: Hooks, steps: int) -> TrunkResult | None:
    hooks.phase(SCORING_UNTUNED)
    run.measure_base()
    run.resume()
    status, _ = take_steps(run, hooks, until=steps)
    if status == "diverged" and run.checkpoints is not None:
        checkpoint.discard(run.checkpoints)
        return None
    run.save()
    return TrunkResult(run.state.step, run.state.train_seconds, run.state.eval_seconds)


def take_steps(run: Run, hooks: Hooks, until: int | None = None) -> tuple[RunStatus, str | None]:
    """Trains until the budget is spent, step `until` is reached, the run diverges.

    Or somebody asks it to stop.
    """
    state = run.state
    hooks.phase(TRAINING)
    while not run.spent() and state.step != until:
        if hooks.should_stop is not None and run.workers.first_says(hooks.should_stop()):
            return "stopped", "stopped on request"
        loss = run.take_step()
        reason = state.divergence.update(loss, skipped=state.guard.skipped_last)
        if reason is not None:
            return "diverged", f"step {state.step}: {reason}"
        if hooks.progress is not None:
            hooks.progress(state.step, run.share(), loss, state.mean_rank())
        ended = run.stages.ended(state.step)
        if ended is not None:
            hooks.phase(EVALUATION)
            run.look_back(ended)
            state.divergence = DivergenceRule()  # another task's losses are no sign of it
            hooks.phase(TRAINING)
        if _evaluation_is_due(run):
            hooks.phase(EVALUATION)
            run.evaluate()
            if _ends_here(run, hooks):
                return "stopped", f"step {state.step}: another setting is better beyond noise, and no dearer"
            hooks.phase(TRAINING)
        if run.checkpoints is not None and _checkpoint_is_due(run, hooks):
            run.save()
            if hooks.saved is not None:
                hooks.saved(run.checkpoints)
    return "completed", None


def _evaluation_is_due(run: Run) -> bool:
    """Whether one falls before the last: evenly over the budget."""
    share, done = run.share(), max(0, len(run.state.curve) - 1)
    return share < 1 and done < int(share * run.config.evaluation.evaluations)


def _checkpoint_is_due(run: Run, hooks: Hooks) -> bool:
    """By the cadence, or because who watches wants one now (its node is about to go)."""
    wanted = hooks.should_save is not None and hooks.should_save()
    every = run.config.execution.checkpoint_steps
    return wanted or (every is not None and run.state.step % every == 0)


def _ends_here(run: Run, hooks: Hooks) -> bool:
    """Whether who watches ends the run at this evaluation."""
    if hooks.evaluated is None:
        return False
    return bool(run.workers.first_says(run.workers.leads and hooks.evaluated(run.interim())))
