"""One training run as data: everything that decides its result, validated once, without importing torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from grit.config.method import (
    METHOD_VERSION,
    GritConfig,
    check_count,
    check_interval,
    check_positive,
    check_types,
)
from grit.config.registry import METHODS, Method, MethodSpec
from grit.errors import ConfigError
from grit.io.hashing import digest

Regime = Literal["step", "time"]
Dtype = Literal["float32", "bfloat16"]
QualityMetric = Literal["primary", "answer_logprob"]
Placement = Literal["all", "attention", "mlp", "auto"]
LabelScoring = Literal["likelihood", "generate"]

#: Every linear layer of the backbone but its output head, whatever they are called.
EVERY_LINEAR = ("auto",)
#: Projections adapted in the paper's main runs. Table 5 names attention and MLP up/down; its parameter counts
#: (24.31 M at rank 16 on 3B) are those of all seven.
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When training ends.

    After `amount` optimizer steps (regime `step`), or after `amount` seconds of training (regime `time`).

    Seconds count optimizer steps only; evaluation, checkpoints and loading are outside. The learning-rate
    schedule runs on the same clock.
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
        """Share of the budget used before optimizer step `step` (from 0) after `seconds` of training, in [0.

        1].
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
class RunConfig:
    """Everything that decides one run's result.

    Attributes:
        model: `embedded`, a folder, or a hub id, there at `revision` (None: what its main branch is; the
            commit found is part of the identity).
        trust_remote_code: whether code that comes with the model may run.
        targets: names of adapted layers (q_proj), or whole paths (model.layers.0.self_attn.q_proj); `auto`
            for every linear layer but the head.
        placement: which of them: all, those of attention or of MLP blocks, or the `placement_share` with the
            highest importance scores.
        last_layers: only those of the last n layers; None for all.
        layer_ranks: one rank per layer of the model, instead of `rank`; alpha / rank stays what `alpha` and
            `rank` make it.
        learning_rate, weight_decay, warmup_fraction, max_grad_norm: AdamW, linear warm-up, cosine to zero,
            global-norm clip.
        micro_batch, accumulation: sequences per forward pass, and passes per optimizer step. max_length is in
            tokens.
        packing: fill each sequence with as many examples as fit; they do not see each other
            (grit/data/packing.py).
        max_new_tokens: longest generated answer, in tokens; None leaves it to the task.
        temperature, top_p: how answers are generated; temperature 0 is greedy.
        label_scoring: how a classification is predicted: the label of highest likelihood, or the label that
            the generated text begins with.
        bertscore_encoder: folder or name of the encoder, for tasks with BERTScore; None: it is recorded as
            not computed.
        probes: zero-shot tasks of lm-evaluation-harness, by name, or as name=file
            (grit/evaluation/probes.py), on the first `probe_examples` items of each.
        eval_examples, retention_documents: fixed samples, the same for every run on these data.
        evaluations: how often quality and retention are measured, evenly over the budget, the last time at
            its end.
        checkpoint_steps: optimizer steps between checkpoints; None for none. It does not change the result.
        threads: intra-op threads on a CPU; part of the result, since sums are split by thread.
        stability: measure how steady the curvature statistics and the updates are
            (grit/audits/factor_stability.py); needs GRIT.
        truncations: ranks at which the trained adapter is scored as well, truncated in every way there is
            (grit/audits/truncation.py); needs GRIT.
        memory: measure the peak memory of the run, and of those beside it, each in a fresh process
            (grit/training/memory_probe.py).
        exported: write the trained adapter to a file once, for the size of it.
        beside: methods that train the same run in the same process, step by step in turn, so that their times
            can be compared (grit/training/side_by_side.py). Only this run's own method is evaluated.
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
    stability: bool = False
    truncations: tuple[int, ...] = ()
    beside: tuple[Method, ...] = ()
    memory: bool = False
    exported: bool = False
    grit: GritConfig = field(default_factory=GritConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError with the name, the value and what is allowed."""
        check_types(self)
        for name in (
            "rank",
            "micro_batch",
            "accumulation",
            "eval_examples",
            "eval_batch",
            "retention_documents",
            "evaluations",
            "threads",
            "probe_examples",
        ):
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
        if (
            not isinstance(self.targets, tuple)
            or not self.targets
            or not all(isinstance(name, str) for name in self.targets)
        ):
            raise ConfigError(
                "targets", self.targets, 'must be a list of layer names, e.g. ["q_proj", "v_proj"]'
            )
        self._check_placement()
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                "temperature", self.temperature, "must be a finite number of at least 0 (0 is greedy)"
            )
        check_interval("top_p", self.top_p, 0.0, 1.0)
        if not isinstance(self.probes, tuple) or not all(isinstance(name, str) for name in self.probes):
            raise ConfigError(
                "probes", self.probes, 'must be a list of names, e.g. ["hellaswag", "winogrande=FILE"]'
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", self.dropout, "must lie in [0, 1)")
        check_interval("warmup_fraction", self.warmup_fraction, 0.0, 1.0)
        self._check_method()
        self._check_audits()

    def _check_method(self) -> None:
        if self.spec.scheduled and self.budget.regime == "time":
            raise ConfigError(
                "method", self.method, "needs to know its number of steps: give it a step budget"
            )
        if self.spec.scheduled and self.budget.amount < 3:
            raise ConfigError(
                "budget-steps",
                self.budget.amount,
                f"must be at least 3 for {self.spec.title}, which allocates ranks on the way",
            )
        if self.method == "orthogonal" and any(rank % 2 for rank in self.layer_ranks or (self.rank,)):
            raise ConfigError("rank", self.rank, "must be even for an orthogonal initialization")
        if self.layer_ranks is not None and not (self.spec.ranked and self.spec.adapter == "LoraConfig"):
            raise ConfigError(
                "layer_ranks", self.layer_ranks, f"{self.spec.title} has one rank for all layers"
            )

    def _check_audits(self) -> None:
        if self.exported and not self.spec.factors:
            raise ConfigError("exported", True, f"{self.spec.title} is no plain LoRA adapter")
        for name in ("stability", "truncations"):
            if getattr(self, name) and not self.uses_grit:
                raise ConfigError(
                    name,
                    getattr(self, name),
                    "needs the statistics of method grit or qgrit (which with preconditioner=none and "
                    "T=none trains as LoRA does)",
                )
        if not isinstance(self.truncations, tuple):
            raise ConfigError("truncations", self.truncations, "must be a list of ranks, e.g. [2, 4]")
        if self.truncations and self.grit.suppression == "gate":
            raise ConfigError(
                "truncations",
                self.truncations,
                "needs suppression = 'project': a gate is no part of the factors",
            )
        for rank in self.truncations:
            check_count("truncations", rank, minimum=1)
            if rank > min(self.layer_ranks or (self.rank,)):
                raise ConfigError(
                    "truncations", rank, f"must be at most the rank, {min(self.layer_ranks or (self.rank,))}"
                )
        self._check_beside()

    def _check_beside(self) -> None:
        if not isinstance(self.beside, tuple) or not all(name in METHODS for name in self.beside):
            raise ConfigError("beside", self.beside, f"must be a list of methods: {', '.join(METHODS)}")
        if self.beside and self.budget.regime == "time":
            raise ConfigError(
                "beside", self.beside, "needs a step budget: runs that take turns share their seconds"
            )
        if self.method in self.beside or len(set(self.beside)) < len(self.beside):
            raise ConfigError("beside", self.beside, "must name each method once, and not the run's own")

    def _check_placement(self) -> None:
        check_interval("placement_share", self.placement_share, 0.0, 1.0)
        if self.last_layers is not None:
            check_count("last_layers", self.last_layers, minimum=1)
        if self.layer_ranks is not None:
            if not isinstance(self.layer_ranks, tuple) or not self.layer_ranks:
                raise ConfigError(
                    "layer_ranks",
                    self.layer_ranks,
                    "must be a list with one rank per layer, e.g. [8, 8, 16, 16]",
                )
            for rank in self.layer_ranks:
                check_count("layer_ranks", rank, minimum=1)
        smallest = min(self.layer_ranks or (self.rank,))
        if self.uses_grit and self.grit.min_lora_rank > smallest:
            raise ConfigError(
                "min_lora_rank", self.grit.min_lora_rank, f"must be at most the rank, {smallest}"
            )

    @property
    def spec(self) -> MethodSpec:
        """The method's declaration."""
        return METHODS[self.method]

    @property
    def uses_grit(self) -> bool:
        """Whether the method is GRIT or Q-GRIT rather than one it is compared with."""
        return self.spec.geometry

    @property
    def quantized(self) -> bool:
        """Whether the backbone is stored in NF4."""
        return self.spec.quantized

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serializable."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of `to_dict`."""
        return cls(
            **{
                **values,
                "task": TaskSource(**values["task"]),
                "budget": Budget(**values["budget"]),
                "grit": GritConfig(**values["grit"]),
                "targets": tuple(values["targets"]),
                "probes": tuple(values["probes"]),
                "truncations": tuple(values.get("truncations", ())),
                "beside": tuple(values.get("beside", ())),
                "layer_ranks": None if values["layer_ranks"] is None else tuple(values["layer_ranks"]),
            }
        )

    def identity(self, content: dict[str, str]) -> str:
        """The trial id: a hash of all that decides the result.

        `content` holds hashes of the model and the data behind the names above.

        What GRIT would do is left out for a method that does not use it, and so is the checkpoint interval,
        which changes nothing.
        """
        decisive = self.to_dict()
        del decisive["checkpoint_steps"]
        for name in (
            "stability",
            "truncations",
            "beside",
            "memory",
            "exported",
        ):  # what is not asked for is as if it did not exist
            if not decisive[name]:
                del decisive[name]
        if decisive["grit"]["accumulated_statistics"]:
            del decisive["grit"]["accumulated_statistics"]
        if not any(METHODS[name].geometry for name in (self.method, *self.beside)):
            del decisive["grit"]
        for name in ("train_file", "eval_file", "retention_file", "template"):
            decisive["task"][name] = None  # their content counts, not where they lie
        decisive["probes"] = [name.partition("=")[0] for name in self.probes]
        del decisive["model"], decisive["revision"]
        return digest({"config": decisive, "content": content, "method_version": METHOD_VERSION})
