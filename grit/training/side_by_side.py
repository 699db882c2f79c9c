"""Several methods train the same run in one process, step by step in turn.

A noisy machine disturbs all of them alike (paper appendix F, F.2). Each has a backbone, an adapter, an
optimizer and a clock of its own; who goes first changes from step to step. What a run computes is what it
computes alone, bit for bit on a CPU.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from grit.config.run_config import RunConfig
from grit.geometry.events import reprojections
from grit.io.files import Row
from grit.runtime.step_sections import SECTIONS
from grit.training.hooks import Hooks
from grit.training.memory_probe import peaks
from grit.training.result import RunResult, RunStatus
from grit.training.run import Run
from grit.training.summary import result_of
from grit.training.trainer import adapted
from grit.training.trainer import train as train_alone
from grit.training.workbench import Workbench


def train(
    config: RunConfig,
    bench: Workbench,
    *,
    checkpoints: Path | None = None,
    hooks: Hooks | None = None,
    adapter: Path | None = None,
) -> RunResult:
    """`config` alone, or beside other methods where it names any; then there is no checkpoint.

    Runs that take turns begin anew together, and leave no adapter.
    """
    if config.audits.beside:
        return train_together(config, bench, hooks or Hooks())
    to = None if config.why_no_adapter else adapter
    result = train_alone(config, bench, checkpoints=checkpoints, hooks=hooks, adapter=to)
    return with_memory(result, peaks([config])) if config.audits.memory else result


def with_memory(result: RunResult, peak_bytes: dict[str, int]) -> RunResult:
    """The result with the peak memory of each method in a fresh process."""
    return replace(result, measured=result.measured.model_copy(update={"memory_bytes": peak_bytes}))


def train_together(config: RunConfig, bench: Workbench, hooks: Hooks) -> RunResult:
    """Trains `config` and, beside it, the same run under each method that its audits name.

    Only `config`'s own is evaluated.

    Returns:
        The result of `config`, with the table `interleaved`: one row per method and step. It has `diverged`
        where any of them did.
    """
    configs = [config.changed(beside=(), method=method) for method in (config.method, *config.audits.beside)]
    peak_bytes = peaks(configs) if config.audits.memory else {}
    with ExitStack() as stack:
        benches = [bench, *(bench.sibling() for _ in configs[1:])]
        runs = [_opened(stack, each, place) for each, place in zip(configs, benches, strict=True)]
        runs[0].measure_base()
        status, reason = _take_turns(runs, hooks)
        runs[0].finish()
        runs[0].audit(lost=status != "completed")
        result = result_of(runs[0], status, reason)
        # the processor's time is that of all who took turns
        result = replace(
            result, measured=result.measured.model_copy(update={"kwh": None, "energy_source": None})
        )
        rows = [row for run in runs for row in step_rows(run)]
        runs.clear()  # so that what hangs on their models can go with them
    return with_memory(replace(result, interleaved=rows), peak_bytes)


def _opened(stack: ExitStack, config: RunConfig, bench: Workbench) -> Run:
    return Run(config, bench, stack.enter_context(adapted(config, bench)), checkpoints=None)


def _take_turns(runs: list[Run], hooks: Hooks) -> tuple[RunStatus, str | None]:
    main = runs[0]
    while not main.spent():
        first = main.state.step % len(runs)
        for run in (*runs[first:], *runs[:first]):
            loss = run.take_step()
            state = run.state
            reason = state.divergence.update(loss, skipped=state.guard.skipped_last)
            if reason is not None:
                return "diverged", f"{run.config.method}, step {state.step}: {reason}"
            if run is main and hooks.progress is not None:
                hooks.progress(state.step, run.share(), loss, state.mean_rank())
    return "completed", None


def step_rows(run: Run) -> list[Row]:
    """One row per step: method, step, milliseconds in all and by section, and whether it reprojected."""
    state = run.state
    state.log.flush()
    events = state.handle.events if state.handle else []
    reprojected = {event.step for event in reprojections(events)}
    rows = []
    for row in state.log.rows:
        times = {f"ms_{name}": row[f"ms_{name}"] for name in ("step", *SECTIONS)}
        named = {"method": run.config.method, "step": row["step"], "tokens": row["tokens"]}
        rows.append({**named, **times, "reprojected": row["step"] in reprojected})
    return rows
