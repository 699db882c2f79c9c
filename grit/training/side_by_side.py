"""Several methods train the same run in one process, step by step in turn.

A noisy machine disturbs all of them alike (paper appendix F, F.2).

Each has a backbone, an adapter, an optimizer and a clock of its own; who goes first changes from step to
step. What a run computes is what it computes alone, bit for bit on a CPU.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from grit.config.run import RunConfig
from grit.runtime.clock import SECTIONS
from grit.training.memory_probe import peaks
from grit.training.result import Row, RunResult, Status
from grit.training.summary import summarize
from grit.training.trainer import Hooks, Run, adapted
from grit.training.trainer import train as train_alone
from grit.training.workbench import Workbench


def train(
    config: RunConfig, bench: Workbench, *, checkpoints: Path | None = None, hooks: Hooks | None = None
) -> RunResult:
    """`config` alone, or beside other methods where it names any; then there is no checkpoint.

    Runs that take turns begin anew together.
    """
    if config.audits.beside:
        return train_together(config, bench, hooks)
    result = train_alone(config, bench, checkpoints=checkpoints, hooks=hooks)
    return replace(result, memory_bytes=peaks([config])) if config.audits.memory else result


def train_together(config: RunConfig, bench: Workbench, hooks: Hooks | None = None) -> RunResult:
    """Trains `config` and, beside it, the same run under each method of `config.beside`.

    Only `config`'s own is evaluated.

    Returns:
        The result of `config`, with the table `interleaved`: one row per method and step, and with `memory`,
        the peak of each in a fresh process. It has `diverged` where any of them did.
    """
    hooks = hooks or Hooks()
    configs = [config.changed(beside=(), method=method) for method in (config.method, *config.audits.beside)]
    memory = peaks(configs) if config.audits.memory else {}
    with ExitStack() as stack:
        runs = [_opened(stack, each, bench if each is configs[0] else bench.sibling()) for each in configs]
        runs[0].measure_base()
        status, reason = _take_turns(runs, hooks)
        runs[0].finish()
        result = replace(
            summarize(runs[0], status, reason),
            interleaved=[row for run in runs for row in step_rows(run)],
            memory_bytes=memory,
        )
        runs.clear()  # so that what hangs on their models can go with them
        return result


def _opened(stack: ExitStack, config: RunConfig, bench: Workbench) -> Run:
    return Run(config, bench, stack.enter_context(adapted(config, bench)), None)


def _take_turns(runs: list[Run], hooks: Hooks) -> tuple[Status, str | None]:
    main = runs[0]
    budget = main.config.budget
    while not budget.is_spent(main.step, main.train_seconds):
        first = main.step % len(runs)
        for run in (*runs[first:], *runs[:first]):
            loss = run.take_step()
            reason = run.divergence.update(loss, skipped=run.guard.skipped_last)
            if reason is not None:
                return "diverged", f"{run.config.method}, step {run.step}: {reason}"
            if run is main and hooks.progress is not None:
                hooks.progress(
                    main.step, budget.progress(main.step, main.train_seconds), loss, main.mean_rank()
                )
    return "completed", None


def step_rows(run: Run) -> list[Row]:
    """One row per step: method, step, milliseconds in all and by section, and whether it reprojected."""
    run.log.flush()
    rows = []
    for row in run.log.rows:
        events: list[dict[str, Any]] = json.loads(row["events"] or "[]")
        rows.append(
            {
                "method": run.config.method,
                "step": row["step"],
                "tokens": row["tokens"],
                "ms_step": row["ms_step"],
                **{f"ms_{name}": row[f"ms_{name}"] for name in SECTIONS},
                "reprojected": any(
                    event["kind"] == "reprojection" and event["trigger"] != "end" for event in events
                ),
            }
        )
    return rows
