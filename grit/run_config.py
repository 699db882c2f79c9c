"""One training run as data: everything that decides its result, validated once, without importing torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from grit.config import METHOD_VERSION, GritConfig, check_count, check_interval, check_positive, check_types
from grit.errors import ConfigError
from grit.tasks.base import digest

Method = Literal["lora", "qlora", "grit", "qgrit"]
Regime = Literal["step", "time"]
Dtype = Literal["float32", "bfloat16"]
QualityMetric = Literal["primary", "answer_logprob"]
Placement = Literal["all", "attention", "mlp", "auto"]
LabelScoring = Literal["likelihood", "generate"]

#: Every linear layer of the backbone but its output head, whatever they are called.
EVERY_LINEAR = ("auto",)
#: Projections adapted in the paper's main runs. Table 5 names attention and MLP up/down; its parameter counts (24.31 M at rank 16 on 3B) are
#: those of all seven.
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When training ends: after `amount` optimizer steps (regime `step`), or after `amount` seconds of training (regime `time`).

    Seconds count optimizer steps only; evaluation, checkpoints and loading are outside. The learning-rate schedule runs on the same clock.
    """

    regime: Regime
    amount: float

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_types(self)
        if self.regime == "step":
            if self.amount != int(self.amount):
                raise ConfigError("budget-steps", self.amount, "must be a whole number of optimizer steps")
            check_count("budget-steps", int(self.amount), minimum=1)
        else:
            check_positive("budget-seconds", self.amount)

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget used before optimizer step `step` (from 0) after `seconds` of training, in [0, 1]."""
        return min(1.0, (step if self.regime == "step" else seconds) / self.amount)

    def is_spent(self, step: int, seconds: float) -> bool:
        """Whether no further step fits. Under a time budget a step is begun only if at least half of a mean step's time is left."""
        if self.regime == "step":
            return step >= self.amount
        return step > 0 and self.amount - seconds < seconds / step / 2


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """Where examples come from: a task by name, with its own files or the user's. `template` is for task `custom` (grit/tasks/catalog.py)."""

    name: str
    train_file: str | None = None
    eval_file: str | None = None
    retention_file: str | None = None
    template: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides one run's result.

    Attributes:
        model: `embedded`, a folder, or a hub id, there at `revision` (None: what its main branch is; the commit found is part of the identity).
        trust_remote_code: whether code that comes with the model may run.
        targets: names of adapted layers (q_proj), or whole paths (model.layers.0.self_attn.q_proj); `auto` for every linear layer but the head.
        placement: which of them: all, those of attention or of MLP blocks, or the `placement_share` with the highest importance scores.
        last_layers: only those of the last n layers; None for all.
        layer_ranks: one rank per layer of the model, instead of `rank`; alpha / rank stays what `alpha` and `rank` make it.
        learning_rate, weight_decay, warmup_fraction, max_grad_norm: AdamW, linear warm-up, cosine to zero, global-norm clip.
        micro_batch, accumulation: sequences per forward pass, and passes per optimizer step. max_length is in tokens.
        packing: fill each sequence with as many examples as fit; they do not see each other (grit/packing.py).
        max_new_tokens: longest generated answer, in tokens; None leaves it to the task.
        temperature, top_p: how answers are generated; temperature 0 is greedy.
        label_scoring: how a classification is predicted: the label of highest likelihood, or the label that the generated text begins with.
        bertscore_encoder: folder or name of the encoder, for tasks with BERTScore; None: it is recorded as not computed.
        probes: zero-shot tasks of lm-evaluation-harness, by name, or as name=file (grit/probes.py), on the first `probe_examples` items of each.
        eval_examples, retention_documents: fixed samples, the same for every run on these data.
        evaluations: how often quality and retention are measured, evenly over the budget, the last time at its end.
        checkpoint_steps: optimizer steps between checkpoints; None for none. It does not change the result.
        threads: intra-op threads on a CPU; part of the result, since sums are split by thread.
    """

    model: str = "embedded"
    revision: str | None = None
    trust_remote_code: bool = False
    method: Method = "grit"
    task: TaskSource
    budget: Budget
    seed: int = 41
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = EVERY_LINEAR
    placement: Placement = "all"
    placement_share: float = 0.5
    last_layers: int | None = None
    layer_ranks: tuple[int, ...] | None = None
    dtype: Dtype = "float32"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup_fraction: float = 0.05
    max_grad_norm: float = 1.0
    micro_batch: int = 8
    accumulation: int = 1
    max_length: int = 512
    packing: bool = False
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    label_scoring: LabelScoring = "likelihood"
    bertscore_encoder: str | None = None
    probes: tuple[str, ...] = ()
    probe_examples: int = 100
    eval_examples: int = 200
    eval_batch: int = 64
    retention_documents: int = 100
    evaluations: int = 1
    quality: QualityMetric = "primary"
    checkpoint_steps: int | None = None
    threads: int = 1
    grit: GritConfig = field(default_factory=GritConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError with the name, the value and what is allowed."""
        check_types(self)
        for name in ("rank", "micro_batch", "accumulation", "eval_examples", "eval_batch", "retention_documents", "evaluations", "threads",
                     "probe_examples"):
            check_count(name, getattr(self, name), minimum=1)
        check_count("max_length", self.max_length, minimum=8)
        check_count("seed", self.seed, minimum=0)
        for name in ("checkpoint_steps", "max_new_tokens"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), minimum=1)
        for name in ("alpha", "learning_rate", "max_grad_norm"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.weight_decay < float("inf"):
            raise ConfigError("weight_decay", self.weight_decay, "must be a finite number of at least 0")
        if not isinstance(self.targets, tuple) or not self.targets or not all(isinstance(name, str) for name in self.targets):
            raise ConfigError("targets", self.targets, 'must be a list of layer names, e.g. ["q_proj", "v_proj"]')
        self._check_placement()
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError("temperature", self.temperature, "must be a finite number of at least 0 (0 is greedy)")
        check_interval("top_p", self.top_p, 0.0, 1.0)
        if not isinstance(self.probes, tuple) or not all(isinstance(name, str) for name in self.probes):
            raise ConfigError("probes", self.probes, 'must be a list of names, e.g. ["hellaswag", "winogrande=FILE"]')
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", self.dropout, "must lie in [0, 1)")
        check_interval("warmup_fraction", self.warmup_fraction, 0.0, 1.0)

    def _check_placement(self) -> None:
        check_interval("placement_share", self.placement_share, 0.0, 1.0)
        if self.last_layers is not None:
            check_count("last_layers", self.last_layers, minimum=1)
        if self.layer_ranks is not None:
            if not isinstance(self.layer_ranks, tuple) or not self.layer_ranks:
                raise ConfigError("layer_ranks", self.layer_ranks, "must be a list with one rank per layer, e.g. [8, 8, 16, 16]")
            for rank in self.layer_ranks:
                check_count("layer_ranks", rank, minimum=1)
        smallest = min(self.layer_ranks or (self.rank,))
        if self.uses_grit and self.grit.min_lora_rank > smallest:
            raise ConfigError("min_lora_rank", self.grit.min_lora_rank, f"must be at most the rank, {smallest}")

    @property
    def uses_grit(self) -> bool:
        """Whether the method is GRIT or Q-GRIT rather than a first-order control."""
        return self.method in ("grit", "qgrit")

    @property
    def quantized(self) -> bool:
        """Whether the backbone is stored in NF4."""
        return self.method in ("qlora", "qgrit")

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serializable."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of `to_dict`."""
        return cls(**{**values, "task": TaskSource(**values["task"]), "budget": Budget(**values["budget"]),
                      "grit": GritConfig(**values["grit"]), "targets": tuple(values["targets"]), "probes": tuple(values["probes"]),
                      "layer_ranks": None if values["layer_ranks"] is None else tuple(values["layer_ranks"])})

    def identity(self, content: dict[str, str]) -> str:
        """The trial id: a hash of all that decides the result. `content` holds hashes of the model and the data behind the names above.

        What GRIT would do is left out for a method that does not use it, and so is the checkpoint interval, which changes nothing.
        """
        decisive = self.to_dict()
        del decisive["checkpoint_steps"]
        if not self.uses_grit:
            del decisive["grit"]
        for name in ("train_file", "eval_file", "retention_file", "template"):
            decisive["task"][name] = None  # their content counts, not where they lie
        decisive["probes"] = [name.partition("=")[0] for name in self.probes]
        del decisive["model"], decisive["revision"]
        return digest({"config": decisive, "content": content, "method_version": METHOD_VERSION})
