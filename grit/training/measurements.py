"""What is measured of one run: every quantity declared once, with its label, unit, format and direction.

The trainer's result and a study's records share `Measurements`, so that nothing is joined by name. Imports no
torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from grit.io.files import Row

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What is known of one measured number.

    Attributes:
        label: as tables and axes have it, with the unit where there is one.
        style: format of a value in tables.
        tracked: whether it is a metric of the trial in MLflow.
        direction: which way is better; None where neither is.
        reference: what the hypervolume counts an objective from; None for what is no objective. The reference
            of quality is the untuned model's, which no declaration knows: NaN.
        axis_label, axis_scale: of a figure's axis, and what the value is multiplied by there.
    """

    label: str
    style: str = ".3g"
    tracked: bool = False
    direction: Direction | None = None
    reference: float | None = None
    axis_label: str | None = None
    axis_scale: float = 1.0

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return self.axis_label or self.label

    def shown(self, value: float | int | None) -> str:
        """A value as tables have it; a dash where there is none."""
        return "-" if value is None else format(value, self.style)


def _quantity(label: str, style: str = ".3g", **more: Any) -> Any:
    """A field of `Measurements` that is None until it is measured."""
    return Field(default=None, json_schema_extra={"quantity": Quantity(label=label, style=style, **more)})  # type: ignore[dict-item]


class Measurements(BaseModel):
    """What was measured of one run.

    A number that was not measured is None; one that is not finite is null in files.

    Losses are in nats per token. `step_time_ms` holds mean, p50, p95, p99 over the steady steps (the first
    tenth, at most 5, is warm-up), `components_ms` the mean of each section. `metrics` holds further metrics
    of the task, each {value, base_value, problem}: a value that could not be computed is None, and `problem`
    says why. `numerics` holds what torch had in force: `deterministic` kernels, `tf32`. `probes` holds
    {accuracy, base_accuracy, items} of each zero-shot probe. `curve` has quality (None where only the
    answers' likelihood, beside it, was measured), forgetting and retention at each evaluation, the untrained
    adapter first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = _quantity("optimizer steps", "d", tracked=True)
    tokens: int | None = _quantity("tokens", ",d", tracked=True)
    unique_tokens: int | None = _quantity("tokens of the distinct training examples that were seen", ",d")
    backbone_parameters: int | None = _quantity("parameters of the model without its adapter", ",d")
    adapter_seconds: float | None = _quantity("making the adapter (s)", ".2f")
    train_seconds: float | None = _quantity("training (s)", ".2f", tracked=True)
    cpu_seconds: float | None = _quantity("processor time of training (s)", ".2f")
    kwh: float | None = _quantity("energy (kWh)", ".2e", tracked=True)
    energy_source: str | None = _quantity("where the energy's number comes from", "s")
    disturbance: float | None = _quantity("share of its core's time that went to others", ".0%", tracked=True)
    eval_seconds: float | None = _quantity("evaluation (s)", ".2f")
    threads: int | None = _quantity("intra-op threads", "d")
    device: str | None = _quantity("device", "s")
    numerics: dict[str, bool] | None = _quantity("arithmetic in force")
    quality_metric: str | None = _quantity("quality metric", "s")
    quality: float | None = _quantity(
        "quality", ".3f", direction="maximize", reference=math.nan, tracked=True
    )
    base_quality: float | None = _quantity("the untuned model's quality", ".3f")
    task_score: float | None = _quantity("the task's own metric", ".3f", tracked=True)
    base_task_score: float | None = _quantity("the untuned model's, by the task's own metric", ".3f")
    answer_loss: float | None = _quantity(
        "answer loss (nats/token)", ".3f", direction="minimize", tracked=True
    )
    base_answer_loss: float | None = _quantity("the untuned model's answer loss (nats/token)", ".3f")
    retention: float | None = _quantity("retention", ".3f", direction="maximize", reference=0.0, tracked=True)
    forgetting: float | None = _quantity(
        "forgetting (nats/token)", "+.3f", direction="minimize", tracked=True
    )
    base_retention_loss: float | None = _quantity("the untuned model's general loss (nats/token)", ".3f")
    overhead: float | None = _quantity(
        "overhead",
        ".1%",
        direction="minimize",
        reference=1.0,
        tracked=True,
        axis_label="overhead (% of step)",
        axis_scale=100.0,
    )
    footprint: float | None = _quantity(
        "footprint",
        ".0%",
        direction="minimize",
        reference=1.05,
        tracked=True,
        axis_label="footprint (% of full)",
        axis_scale=100.0,
    )
    effective_parameters: int | None = _quantity("effective parameters", ",d", tracked=True)
    adapter_parameters: int | None = _quantity("trained parameters", ",d")
    step_time_ms: dict[str, float | None] | None = _quantity("step time (ms)")
    components_ms: dict[str, float | None] | None = _quantity("time by component (ms)")
    peak_memory_bytes: int | None = _quantity("peak memory (bytes)", ",d", tracked=True)
    memory_bytes: dict[str, int] | None = _quantity("peak memory in a fresh process, by method (bytes)")
    exported_bytes: int | None = _quantity("exported file (bytes)", ",d")
    final_ranks: list[int] | None = _quantity("directions kept in each module")
    modules: list[str] | None = _quantity("adapted modules")
    reprojections: int | None = _quantity("reprojections", "d", tracked=True)
    rank_events: int | None = _quantity("rank changes", "d", tracked=True)
    skipped_steps: int | None = _quantity("skipped steps", "d", tracked=True)
    truncated_examples: int | None = _quantity("truncated training examples", "d")
    resumed_from_step: int | None = _quantity("resumed from step", "d")
    metrics: dict[str, Row] | None = _quantity("further metrics")
    probes: dict[str, Row] | None = _quantity("zero-shot probes")
    curve: list[Row] | None = _quantity("scores on the way")

    @field_serializer("*", when_used="json")
    def _finite(self, value: Any) -> Any:
        """Strict JSON has no NaN."""
        return finite(value)


def finite(value: Any) -> Any:
    """The same value with null for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _declarations() -> dict[str, Quantity]:
    quantities: dict[str, Quantity] = {}
    for name, item in Measurements.model_fields.items():
        extra = item.json_schema_extra
        assert isinstance(extra, dict)
        quantity: Any = extra["quantity"]
        quantities[name] = quantity
    return quantities


#: Every measured quantity by its name.
QUANTITIES = _declarations()
#: Those that a study trades against each other, in the order of tables, fronts and Optuna's values.
OBJECTIVES: dict[str, Quantity] = {
    name: quantity for name, quantity in QUANTITIES.items() if quantity.reference is not None
}
#: Those that MLflow holds as a trial's metrics.
TRACKED = tuple(name for name, quantity in QUANTITIES.items() if quantity.tracked)
