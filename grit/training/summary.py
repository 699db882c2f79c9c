"""From the state of a finished run to its result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit.adapters.peft_adapters import trained_modules
from grit.audits.exposure import EXPOSURE_DOCUMENTS
from grit.audits.update_geometry import geometry_rows
from grit.config.run_config import RunConfig
from grit.config.sections import ExecutionConfig
from grit.evaluation.scores import ProbeAnswer, Scores, mean_quality, mean_score, nats_per_token, quality_name
from grit.geometry.events import Event, RankChange, reprojections
from grit.geometry.export import exported_bytes
from grit.io.files import Row
from grit.runtime.clock import GEOMETRY_SECTIONS, SECTIONS
from grit.runtime.energy import JOULES_PER_KWH
from grit.runtime.numerics import numerics
from grit.training.measurements import Measurements
from grit.training.result import RunResult, RunStatus
from grit.training.score_rows import score_rows

if TYPE_CHECKING:
    from grit.training.run import Run

#: Steps at the start that count as warm-up in timings: a tenth of the run, at most this many.
MAX_WARMUP_STEPS = 5


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank).

    NaN of no values.
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _mean_ms(rows: list[Row], section: str) -> float:
    return _mean([row[f"ms_{section}"] for row in rows])


def steady(rows: list[Row]) -> list[Row]:
    """The rows after warm-up."""
    return rows[min(MAX_WARMUP_STEPS, len(rows) // 10) :]


def step_times(rows: list[Row]) -> tuple[dict[str, float | None], dict[str, float | None], float]:
    """Step time {mean, p50, p95, p99} and mean components, in ms, and the share of the geometry components.

    Over steady steps.
    """
    steady_rows = steady(rows)
    total = [row["ms_step"] for row in steady_rows]
    times: dict[str, float | None] = {"mean": _mean(total)}
    times |= {f"p{share}": percentile(total, share / 100) for share in (50, 95, 99)}
    means = {name: _mean_ms(steady_rows, name) for name in SECTIONS}
    geometry = sum(means[name] for name in GEOMETRY_SECTIONS)
    return times, dict(means), geometry / _mean(total)


def result_of(run: Run, status: RunStatus, reason: str | None) -> RunResult:
    """The result of a run that has ended with `status` and has been evaluated."""
    state, audits = run.state, run.config.audits
    state.log.flush()
    handle = state.handle
    events = handle.events if handle else []
    return RunResult(
        status=status,
        reason=reason,
        measured=_measurements(run).model_copy(
            update={"exported_bytes": exported_bytes(state.model, handle) if audits.exported else None}
        ),
        telemetry=state.log.rows,
        events=[event.row() for event in events],
        predictions=score_rows(run.scores, run.base),
        geometry=geometry_rows(state.model, handle, general_text(run)) if run.config.spec.factors else [],
        spectra=state.spectra.rows,
        stages=state.stage_rows,
        audits=run.audits,
    )


def general_text(run: Run) -> list[dict[str, Tensor]]:
    """The first retention documents in batches, to measure the exposure of general text on.

    None where dW is not what lies beside the weights: an initialization that moved them.
    """
    if run.config.spec.moves_backbone:
        return []
    documents = run.bench.documents(run.config)[:EXPOSURE_DOCUMENTS]
    return run.bench.text_batches(run.config, documents)


def _measurements(run: Run) -> Measurements:
    """The numbers of a run that has ended."""
    state, config, handle = run.state, run.config, run.state.handle
    times, components, overhead = step_times(state.log.rows)
    parameters = state.adapter_parameters()
    effective = state.maker.effective_parameters(state.model, parameters)
    events: Sequence[Event] = ()
    if handle is not None:
        effective, events = handle.effective_parameters(), handle.events
    return Measurements(
        steps=state.step,
        tokens=state.tokens,
        unique_tokens=run.unique_tokens(),
        backbone_parameters=run.bench.backbone_parameters(config),
        adapter_seconds=run.bench.adapter_seconds,
        train_seconds=state.train_seconds,
        cpu_seconds=state.cpu_seconds,
        kwh=float(run.workers.add(torch.tensor(state.joules(), dtype=torch.float64))) / JOULES_PER_KWH,
        energy_source=state.energy.source,
        disturbance=disturbance(state.train_seconds, state.cpu_seconds, config.execution, run.bench.device),
        eval_seconds=state.eval_seconds,
        threads=config.execution.threads,
        device=run.bench.device,
        numerics=numerics(),
        **score_summary(run.scores, run.base, config, run.bench.task(config).metric),
        overhead=overhead,
        footprint=effective / parameters,
        effective_parameters=effective,
        adapter_parameters=parameters,
        step_time_ms=times,
        components_ms=components,
        peak_memory_bytes=state.memory.bytes,
        memory_bytes={},
        final_ranks=[] if handle is None else list(handle.ranks().values()),
        modules=trained_modules(state.model),
        reprojections=len(reprojections(events)),
        rank_events=sum(isinstance(event, RankChange) for event in events),
        skipped_steps=state.guard.skipped,
        truncated_examples=sum(item.truncated for item in run.bench.training_data(config)),
        resumed_from_step=state.resumed_from,
        curve=state.curve,
    )


def disturbance(
    train_seconds: float, cpu_seconds: float, execution: ExecutionConfig, device: str
) -> float | None:
    """Share of the training time in which one thread on a CPU did not have its core.

    None where that cannot be told.
    """
    if device != "cpu" or execution.threads != 1 or train_seconds == 0:
        return None
    return max(0.0, 1 - cpu_seconds / train_seconds)


def metric_rows(scores: Scores, base: Scores) -> dict[str, Row]:
    """Each further metric with the base model's value and, where it could not be computed, the reason."""
    return {
        name: {"value": measured.value, "base_value": base.measured[name].value, "problem": measured.problem}
        for name, measured in scores.measured.items()
    }


def probe_rows(scores: Scores, base: Scores) -> dict[str, Row]:
    """Accuracy on each probe, with the base model's on the same items."""

    def accuracy(answers: list[ProbeAnswer]) -> float:
        return statistics.fmean(answer.correct for answer in answers)

    return {
        name: {
            "accuracy": accuracy(answers),
            "base_accuracy": accuracy(base.probes[name]),
            "items": len(answers),
        }
        for name, answers in scores.probes.items()
    }


def score_summary(scores: Scores, base: Scores, config: RunConfig, metric: str) -> Row:
    """What scores say in a few numbers, beside the untuned model's.

    Quality, losses, retention, further metrics, probes.
    """
    forgetting = nats_per_token(scores.documents) - nats_per_token(base.documents)
    return {
        "quality_metric": quality_name(config.evaluation.quality, metric),
        "quality": mean_quality(scores.predictions, config.evaluation.quality),
        "base_quality": mean_quality(base.predictions, config.evaluation.quality),
        "task_score": mean_score(scores.predictions),
        "base_task_score": mean_score(base.predictions),
        "answer_loss": -mean_quality(scores.predictions, "answer_logprob"),
        "base_answer_loss": -mean_quality(base.predictions, "answer_logprob"),
        "retention": math.exp(-forgetting),
        "forgetting": forgetting,
        "base_retention_loss": nats_per_token(base.documents),
        "metrics": metric_rows(scores, base),
        "probes": probe_rows(scores, base),
    }
