"""What a run leaves behind: plain numbers, rows and events, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["completed", "diverged", "stopped"]
Row = dict[str, Any]
#: Parts of a result that are tables; each becomes a file of its own.
TABLES = ("telemetry", "predictions", "geometry", "stability", "truncated", "interleaved")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The outcome of one run.

    Attributes:
        quality: mean per-example quality under `quality_metric`, higher is better.
        forgetting: held-out loss after minus before, in nats per token; retention = exp(-forgetting).
        overhead: (fisher + reprojection + rank) / step time over the steady steps.
        footprint: effective parameters / parameters of the same adapter at full rank.
        unique_tokens: tokens of the distinct training examples that were seen. backbone_parameters: of the
            model without its adapter.
        adapter_seconds: what making the adapter took (decompositions, data passes), outside the training
            clock.
        exported_bytes: of the weights file of the trained adapter, truncated to its ranks; None where the run
            does not ask for it.
        memory_bytes: peak of a few steps of each method in a fresh process, where the run asks for it
            (`memory`).
        train_seconds: seconds inside optimizer steps; cpu_seconds: processor time in the same steps.
        step_time_ms: mean, p50, p95, p99 over the steady steps (the first tenth, at most 5, is warm-up);
            `components_ms` are means.
        modules: names of the adapted layers, in the model's order. final_ranks: directions kept in each
            (empty without GRIT).
        telemetry: one row per optimizer step. predictions: one row per evaluated example and per retention
            document.
        geometry: one row per adapted module (grit/audits/update_geometry.py). Tables of audits, empty where
            the run does not ask for them: stability (grit/audits/factor_stability.py), truncated
            (grit/audits/truncation.py), interleaved (grit/training/side_by_side.py).
        metrics: further metrics of the task, each {value, base_value, problem}; a value that could not be
            computed is None, and `problem` says why.
        probes: accuracy on each zero-shot probe, {accuracy, base_accuracy, items}.
        curve: quality, forgetting and retention at each evaluation, the untrained adapter first.
    """

    status: Status
    reason: str | None
    steps: int
    tokens: int
    unique_tokens: int
    backbone_parameters: int
    adapter_seconds: float
    train_seconds: float
    cpu_seconds: float
    threads: int
    device: str
    quality_metric: str
    quality: float
    base_quality: float
    answer_loss: float
    base_answer_loss: float
    retention: float
    forgetting: float
    base_retention_loss: float
    overhead: float
    footprint: float
    effective_parameters: int
    adapter_parameters: int
    step_time_ms: dict[str, float]
    components_ms: dict[str, float]
    peak_memory_bytes: int
    final_ranks: list[int]
    modules: list[str]
    reprojections: int
    rank_events: int
    skipped_steps: int
    truncated_examples: int
    eval_seconds: float
    resumed_from_step: int
    metrics: dict[str, Row]
    probes: dict[str, Row]
    curve: list[Row]
    telemetry: list[Row] = field(repr=False)
    predictions: list[Row] = field(repr=False)
    geometry: list[Row] = field(repr=False)
    stability: list[Row] = field(repr=False, default_factory=list)
    truncated: list[Row] = field(repr=False, default_factory=list)
    interleaved: list[Row] = field(repr=False, default_factory=list)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    exported_bytes: int | None = None
