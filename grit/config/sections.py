"""The parts of a run's configuration, one class for each concern. Validated when made; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grit.config.registry import METHODS, Method
from grit.config.settings import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    at_least,
    check_names,
    check_settings,
    check_types,
    setting,
    within,
)
from grit.errors import ConfigError

Regime = Literal["step", "time"]
Clock = Literal["wall", "cpu"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]
Dtype = Literal["float32", "bfloat16"]
QualityMetric = Literal["primary", "answer_logprob"]
InterimQuality = Literal["answer_logprob", "quality"]
Placement = Literal["all", "attention", "mlp", "auto", "kappa"]
LabelScoring = Literal["likelihood", "generate"]
LossOn = Literal["answer", "text"]
ElementwiseOptimizer = Literal["adamw", "sgd"]

#: Every linear layer of the backbone but its output head, whatever they are called.
EVERY_LINEAR = ("auto",)
#: Projections adapted in the paper's main runs. Table 5 names attention and MLP up/down; its parameter counts
#: (24.31 M at rank 16 on 3B) are those of all seven.
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When training ends: after `amount` optimizer steps, or after `amount` seconds of training.

    Steps are kept as an int and seconds as a float, however they were written, because a trial's identity
    hashes them.
    Seconds count optimizer steps only; evaluation, checkpoints and loading are outside. The learning-rate
    schedule runs on the same clock.
    """

    regime: Regime
    amount: float

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_types(self)
        if self.regime == "time":
            POSITIVE.check("budget-seconds", self.amount)
            object.__setattr__(self, "amount", float(self.amount))
            return
        if self.amount != int(self.amount):
            raise ConfigError("budget-steps", self.amount, "must be a whole number of optimizer steps")
        at_least(1).check("budget-steps", int(self.amount))
        object.__setattr__(self, "amount", int(self.amount))

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget that is used, from 0 to 1.

        Before optimizer step `step` (counted from 0), after `seconds` of training.
        """
        return min(1.0, (step if self.regime == "step" else seconds) / self.amount)

    def is_spent(self, step: int, seconds: float) -> bool:
        """Whether no further step fits.

        Under a time budget a step is begun only if at least half of a mean step's time is left.
        """
        if self.regime == "step":
            return step >= self.amount
        return step > 0 and self.amount - seconds < seconds / step / 2


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """Where examples come from: a task by name, with its own files or the user's.

    `template` is for task `custom` (grit/tasks/catalog.py).
    """

    name: str
    train_file: str | None = None
    eval_file: str | None = None
    retention_file: str | None = None
    template: str | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which model is adapted, and in which type it computes."""

    model: str = setting(
        "embedded", "`embedded`, a folder, or a hub id", identity="never", scores_untuned=True
    )
    revision: str | None = setting(
        None,
        "of a hub id; none: what its main branch is (the commit found is part of the identity)",
        identity="never",
        scores_untuned=True,
    )
    trust_remote_code: bool = setting(False, "whether code that comes with the model may run")
    dtype: Dtype = setting("float32", "of weights and activations", scores_untuned=True)
    attention: Attention = setting(
        "auto",
        "how attention is computed: `auto` leaves it to transformers; `flash_attention_2` needs its package",
        identity="changed",
        scores_untuned=True,
    )

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What carries an adapter, and of what size."""

    rank: int = setting(16, "directions of each adapter", allowed=at_least(1))
    alpha: float = setting(32.0, "the update is scaled by alpha / rank", allowed=POSITIVE)
    dropout: float = setting(0.0, "on the adapter's input", allowed=SHARE)
    targets: tuple[str, ...] = setting(
        EVERY_LINEAR,
        "names of adapted layers (q_proj), or whole paths (model.layers.0.self_attn.q_proj); `auto` for "
        "every linear layer but "
        "the head",
    )
    placement: Placement = setting(
        "all",
        "which of them: all, those of attention or of MLP blocks, or the `placement_share` with the "
        "highest importance scores (auto) or with the smallest condition numbers (kappa)",
    )
    placement_share: float = setting(0.5, "for placement `auto` and `kappa`", allowed=within(0, 1))
    last_layers: int | None = setting(
        None, "only those of the last n layers; none for all", allowed=at_least(1)
    )
    layer_ranks: tuple[int, ...] | None = setting(
        None,
        "one rank per layer of the model, instead of `rank`; alpha / rank stays what `alpha` and "
        "`rank` make it",
    )

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_settings(self)
        check_names("targets", self.targets, 'layer names, e.g. ["q_proj", "v_proj"]')
        if not self.targets:
            raise ConfigError(
                "targets", self.targets, 'must be a list of layer names, e.g. ["q_proj", "v_proj"]'
            )
        if self.layer_ranks is None:
            return
        if not isinstance(self.layer_ranks, tuple) or not self.layer_ranks:
            raise ConfigError(
                "layer_ranks", self.layer_ranks, "must be a list with one rank per layer, e.g. [8, 8, 16, 16]"
            )
        for rank in self.layer_ranks:
            at_least(1).check("layer_ranks", rank)

    @property
    def smallest_rank(self) -> int:
        """Of all layers."""
        return min(self.layer_ranks or (self.rank,))


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """How it is trained: AdamW or what the method has, linear warm-up, cosine to zero, global-norm clip."""

    learning_rate: float = setting(1e-4, "at its highest", allowed=POSITIVE)
    optimizer: ElementwiseOptimizer = setting(
        "adamw",
        "of methods without one of their own: AdamW, or SGD with momentum 0.9 (its rate is another one)",
        identity="changed",
    )
    weight_decay: float = setting(0.0, "of the optimizer", allowed=NOT_NEGATIVE)
    warmup_fraction: float = setting(
        0.05, "share of the budget over which the rate rises", allowed=within(0, 1)
    )
    max_grad_norm: float = setting(1.0, "global-norm clip", label="max_grad_norm", allowed=POSITIVE)
    micro_batch: int = setting(8, "sequences per forward pass", allowed=at_least(1))
    accumulation: int = setting(1, "passes per optimizer step", allowed=at_least(1))
    max_length: int = setting(512, "longest sequence, in tokens", allowed=at_least(8), scores_untuned=True)
    loss_on: LossOn = setting(
        "answer",
        "what carries loss in training: `answer`, or the whole `text`, prompt and answer",
        identity="changed",
    )
    packing: bool = setting(
        False,
        "fill each sequence with as many examples as fit; they do not see each other (grit/data/packing.py)",
    )

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured on which fixed samples, the same for every run on these data."""

    quality: QualityMetric = setting(
        "primary",
        "`primary` is the task's own metric, `answer_logprob` the mean log-likelihood of its reference "
        "answers",
        scores_untuned=True,
    )
    task_metric: bool = setting(
        False,
        "score the task's own metric as well, where quality is the likelihood of answers",
        identity="changed",
        scores_untuned=True,
    )
    eval_examples: int = setting(200, "evaluation examples", allowed=at_least(1), scores_untuned=True)
    eval_batch: int = setting(64, "rows at a time", allowed=at_least(1), scores_untuned=True)
    retention_documents: int = setting(
        100, "held-out documents on which forgetting is measured", allowed=at_least(1), scores_untuned=True
    )
    interim_quality: InterimQuality = setting(
        "answer_logprob",
        "what evaluations before the last measure: `answer_logprob`, for which no text is generated, or "
        "`quality`, as the last does",
        identity="changed",
    )
    evaluations: int = setting(
        1,
        "how often quality and retention are measured, evenly over the budget, the last time at its end",
        allowed=at_least(1),
    )
    max_new_tokens: int | None = setting(
        None,
        "longest generated answer, in tokens; none leaves it to the task",
        allowed=at_least(1),
        scores_untuned=True,
    )
    temperature: float = setting(
        0.0, "of generated answers; 0 is greedy", allowed=NOT_NEGATIVE, scores_untuned=True
    )
    top_p: float = setting(
        1.0, "most likely mass that is drawn from", allowed=within(0, 1), scores_untuned=True
    )
    label_scoring: LabelScoring = setting(
        "likelihood",
        "how a classification is predicted: the label of highest likelihood, or the one that the generated "
        "text begins with",
        scores_untuned=True,
    )
    bertscore_encoder: str | None = setting(
        None,
        "folder or name of the encoder, for tasks with BERTScore; none: it is recorded as not computed",
        scores_untuned=True,
    )
    probes: tuple[str, ...] = setting(
        (),
        "zero-shot tasks of lm-evaluation-harness, by name or as name=file (grit/evaluation/probes.py)",
        scores_untuned=True,
    )
    probe_examples: int = setting(100, "first items of each probe", allowed=at_least(1), scores_untuned=True)

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_settings(self)
        check_names("probes", self.probes, 'names, e.g. ["hellaswag", "winogrande=FILE"]')

    @property
    def predicts(self) -> bool:
        """Whether the last evaluation asks for the model's own answers."""
        return self.quality == "primary" or self.task_metric

    @property
    def interim_metric(self) -> QualityMetric:
        """What quality is at evaluations before the last."""
        return self.quality if self.interim_quality == "quality" else "answer_logprob"


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What is measured beside the score (grit/audits). Nothing here changes what is trained."""

    stability: bool = setting(
        False,
        "how steady the curvature statistics and the updates are (grit/audits/factor_stability.py); needs "
        "GRIT",
        identity="changed",
        needs_statistics=True,
    )
    truncations: tuple[int, ...] = setting(
        (),
        "ranks at which the trained adapter is scored as well, truncated in every way there is "
        "(grit/audits/truncation.py); needs a plain LoRA adapter, and GRIT for the ways by curvature",
        identity="changed",
    )
    ladder: tuple[int | float, ...] = setting(
        (),
        "thresholds tau (below 1) and numbers of directions k at which the trained adapter is scored as "
        "well, "
        "projected as at a reprojection (grit/audits/ladder.py); needs GRIT",
        identity="changed",
        needs_statistics=True,
    )
    scales: tuple[int | float, ...] = setting(
        (),
        "factors below 1 by which the trained update is multiplied, and with which it is scored as well "
        "(grit/audits/scales.py); needs a plain LoRA adapter",
        identity="changed",
    )
    beside: tuple[Method, ...] = setting(
        (),
        "methods that train the same run in the same process, step by step in turn, so that their times "
        "can be compared "
        "(grit/training/side_by_side.py); only the run's own method is evaluated",
        identity="changed",
    )
    memory: bool = setting(
        False,
        "the peak memory of the run, and of those beside it, each in a fresh process "
        "(grit/training/memory_probe.py)",
        identity="changed",
    )
    exported: bool = setting(
        False, "write the trained adapter to a file once, for the size of it", identity="changed"
    )

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_types(self)
        if not isinstance(self.truncations, tuple):
            raise ConfigError("truncations", self.truncations, "must be a list of ranks, e.g. [2, 4]")
        for rank in self.truncations:
            at_least(1).check("truncations", rank)
        if not isinstance(self.ladder, tuple):
            raise ConfigError(
                "ladder", self.ladder, "must be a list of thresholds or ranks, e.g. [0.9, 0.99, 4]"
            )
        for rung in self.ladder:
            POSITIVE.check("ladder", rung)
            if rung >= 1:
                at_least(1).check("ladder", int(rung) if rung == int(rung) else rung)
        _check_scales(self.scales)
        if not isinstance(self.beside, tuple) or not all(name in METHODS for name in self.beside):
            raise ConfigError("beside", self.beside, f"must be a list of methods: {', '.join(METHODS)}")
        if len(set(self.beside)) < len(self.beside):
            raise ConfigError("beside", self.beside, "must name each method once, and not the run's own")


def _check_scales(scales: object) -> None:
    if not isinstance(scales, tuple):
        raise ConfigError("scales", scales, "must be a list of factors, e.g. [0.25, 0.5, 0.75]")
    if len(set(scales)) < len(scales):
        raise ConfigError("scales", list(scales), "must name each factor once")
    for factor in scales:
        POSITIVE.check("scales", factor)
        if factor >= 1:
            raise ConfigError("scales", factor, "must lie between 0 and 1: at 1 every run is scored")


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How the process runs."""

    threads: int = setting(
        1,
        "intra-op threads on a CPU; part of the result, since sums are split by thread",
        allowed=at_least(1),
        scores_untuned=True,
    )
    deterministic: bool = setting(
        False,
        "only kernels that repeat themselves bit for bit; an operation that has none on the device raises "
        "(on a CPU with one worker runs repeat themselves without it)",
        identity="changed",
        scores_untuned=True,
    )
    tf32: bool = setting(
        False,
        "float32 products on a GPU round their factors to TF32",
        identity="changed",
        scores_untuned=True,
    )
    gradient_checkpointing: bool = setting(
        False,
        "keep only the inputs of each block for the backward pass and compute the rest again: far less "
        "memory, about a third more time",
        identity="changed",
    )
    clock: Clock = setting(
        "wall",
        "what the seconds of a time budget are: wall time, or the process's own CPU time (of all its "
        "threads), which other work on the same cores does not lengthen",
        identity="changed",
    )
    checkpoint_steps: int | None = setting(
        None,
        "optimizer steps between checkpoints; none for none (it does not change the result)",
        allowed=at_least(1),
        identity="never",
    )

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_settings(self)
