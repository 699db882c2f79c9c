"""One training run as data.

Everything that decides its result, nested by concern, validated once, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from grit.config.declared_knobs import ALIASES
from grit.config.earlier_methods import RETIRED
from grit.config.method import METHOD_VERSION, GritConfig
from grit.config.registry import METHODS, Method, MethodSpec, method_spec
from grit.config.sections import (
    AdapterConfig,
    AuditConfig,
    BackboneConfig,
    Budget,
    EvaluationConfig,
    ExecutionConfig,
    OptimizationConfig,
    TaskSource,
)
from grit.config.sequence import SequenceConfig
from grit.config.settings import at_least, decisive, declared
from grit.errors import ConfigError, among
from grit.io.hashing import digest
from grit.io.validation import validated

Overrides = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides one run's result, by concern.

    What each setting does stands beside it in its section.
    """

    method: Method = "grit"
    task: TaskSource
    budget: Budget
    seed: int = 41
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    audits: AuditConfig = field(default_factory=AuditConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    grit: GritConfig = field(default_factory=GritConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError where sections do not fit each other."""
        for name, value in method_spec(self.method).switches.items():
            section = section_of(name)
            object.__setattr__(self, section, replace(getattr(self, section), **{name: value}))
        at_least(0).check("seed", self.seed)
        self._check_method()
        self._check_audits()
        self._check_sequence()

    def _check_sequence(self) -> None:
        before, budget = self.sequence.before, self.budget
        if not before:
            return
        self.sequence.sources(self.task)
        if budget.regime == "time" or budget.amount < 2 * (len(before) + 1):
            raise ConfigError(
                "before",
                list(before),
                "needs a budget of steps, at least two for each task and the run's own",
            )
        if self.audits.beside:
            raise ConfigError(
                "beside", self.audits.beside, "takes turns on one task, and `before` names others"
            )
        held = self.sequence.earlier_penalty
        if held and (self.uses_grit or not self.spec.factors or self.spec.adapter != "lora"):
            raise ConfigError(
                "earlier_penalty", held, f"holds A and B that are trained as they are, not {self.spec.title}"
            )
        replay, size = self.sequence.replay, self.step_sequences
        if replay and not 1 <= round(replay * size) < size:
            raise ConfigError(
                "replay",
                replay,
                f"must leave room for the new task and draw at least one of a step's {size} examples",
            )

    def _check_method(self) -> None:
        spec, adapter = self.spec, self.adapter
        if spec.scheduled and self.budget.regime == "time":
            raise ConfigError(
                "method", self.method, "needs to know its number of steps: give it a step budget"
            )
        if spec.scheduled and self.budget.amount < 3:
            raise ConfigError(
                "budget-steps",
                self.budget.amount,
                f"must be at least 3 for {spec.title}, which trains by a schedule of its own",
            )
        if spec.optimizer != "adamw" and self.optimization.optimizer != "adamw":
            raise ConfigError("optimizer", self.optimization.optimizer, f"{spec.title} has one of its own")
        if self.method == "orthogonal" and any(rank % 2 for rank in adapter.layer_ranks or (adapter.rank,)):
            raise ConfigError("rank", adapter.rank, "must be even for an orthogonal initialization")
        if adapter.layer_ranks is not None and spec.one_rank:
            raise ConfigError("layer_ranks", adapter.layer_ranks, f"{spec.title} has one rank for all layers")
        if self.uses_grit and self.grit.min_lora_rank > adapter.smallest_rank:
            raise ConfigError(
                "min_lora_rank", self.grit.min_lora_rank, f"must be at most the rank, {adapter.smallest_rank}"
            )

    def _check_audits(self) -> None:
        audits = self.audits
        of_factors = {"exported": audits.exported, "scales": audits.scales, "truncations": audits.truncations}
        asked_name = next((name for name, asked in of_factors.items() if asked), None)
        if asked_name is not None and not self.spec.factors:
            raise ConfigError(
                asked_name, of_factors[asked_name], f"{self.spec.title} is no plain LoRA adapter"
            )
        for item, declaration in declared(audits):
            asked = getattr(audits, item.name)
            if declaration.needs_statistics and asked and not self.uses_grit:
                raise ConfigError(
                    item.name,
                    asked,
                    "needs the statistics of method grit or qgrit (which with preconditioner=none and "
                    "T=none trains as LoRA does)",
                )
        asked_for: dict[str, tuple[float, ...]] = {"truncations": audits.truncations, "ladder": audits.ladder}
        for name, kept in asked_for.items():
            if kept and self.grit.suppression == "gate":
                raise ConfigError(
                    name, kept, "needs suppression = 'project': a gate is no part of the factors"
                )
            for rank in kept:
                if rank > self.adapter.smallest_rank:
                    raise ConfigError(name, rank, f"must be at most the rank, {self.adapter.smallest_rank}")
        if audits.beside and self.budget.regime == "time":
            raise ConfigError(
                "beside", audits.beside, "needs a step budget: runs that take turns share their seconds"
            )
        if self.method in audits.beside:
            raise ConfigError("beside", audits.beside, "must name each method once, and not the run's own")

    @property
    def spec(self) -> MethodSpec:
        """The method's declaration."""
        return METHODS[self.method]

    @property
    def reads_source(self) -> bool:
        """Whether general text is looked at before or while it trains."""
        geometry = self.uses_grit and self.grit.knows_source
        return self.spec.reads_general_text or geometry or self.sequence.general_replay > 0

    @property
    def uses_grit(self) -> bool:
        """Whether the method is GRIT or Q-GRIT rather than one it is compared with."""
        return self.spec.geometry

    @property
    def why_no_adapter(self) -> str | None:
        """Why its adapter cannot be kept beside an unchanged backbone; None where it can."""
        if self.spec.moves_backbone:
            return f"{self.spec.title} changes the backbone's weights, beside which its adapter means nothing"
        return "it took turns with other methods" if self.audits.beside else None

    def stages(self) -> tuple[RunConfig, ...]:
        """This run with each task of its sequence as its own, in order; the last is this run's."""
        alone = replace(self, sequence=SequenceConfig())
        return (*(replace(alone, task=source) for source in self.sequence.sources(self.task)), alone)

    @property
    def task_title(self) -> str:
        """The run's task; of a sequence all tasks in order, with what is replayed."""
        title = ", then ".join(stage.task.name for stage in self.stages())
        replay = self.sequence.replay
        return f"{title} ({replay:.0%} of each step replayed)" if replay else title

    @property
    def quantized(self) -> bool:
        """Whether the backbone is stored in NF4."""
        return self.spec.quantized

    @property
    def step_sequences(self) -> int:
        """Sequences per optimizer step, over all micro-batches."""
        return self.optimization.micro_batch * self.optimization.accumulation

    @classmethod
    def of(cls, *, task: TaskSource, budget: Budget, **values: Any) -> RunConfig:
        """A run from settings by name, whichever section they belong to (see `changed`)."""
        return cls(task=task, budget=budget).changed(**values)

    def changed(self, **values: Any) -> RunConfig:
        """This run with fields of its own, or settings of any section by their name, replaced.

        Raises:
            ConfigError: an unknown name, or a value that its field does not allow.
        """
        if self.spec.switches and values.get("method", self.method) != self.method:
            raise ConfigError(
                "method",
                values["method"],
                f"cannot take the place of {self.method}, whose settings would stay: start from another",
            )
        own: dict[str, Any] = {}
        inside: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name in _OWN:
                own[name] = value
            else:
                inside.setdefault(section_of(name), {})[ALIASES.get(name, name)] = value
        for section, changes in inside.items():
            own[section] = replace(own.get(section, getattr(self, section)), **changes)
        return replace(self, **own)

    def setting(self, name: str) -> Any:
        """The value of a setting by its name (or a knob's), whichever section it belongs to.

        Raises:
            ConfigError: an unknown name.
        """
        return getattr(getattr(self, section_of(name)), ALIASES.get(name, name))

    def to_dict(self) -> dict[str, Any]:
        """All fields, nested, JSON-serializable."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The inverse of `to_dict`.

        Also reads what version 0.1 wrote, where all settings lay beside each other.

        Raises:
            ConfigError: an unknown name, a value of another type, or one that is not allowed.
        """
        nested = values if "adapter" in values else nested_from_flat(values)
        config: RunConfig = validated(TypeAdapter(cls), nested)
        return config

    def identity(self, content: dict[str, str]) -> str:
        """The trial id: a hash of all that decides the result.

        `content` holds hashes of the model and the data behind the names of `decisive_settings`.
        """
        decided = self.decisive_settings()
        return digest({"config": decided, "content": content, "method_version": METHOD_VERSION})

    def decisive_settings(self) -> dict[str, Any]:
        """All settings that decide the result.

        What GRIT would do is left out for a method that does not use it, and so is what changes nothing.
        """
        decided: dict[str, Any] = {"method": self.method, "seed": self.seed, "budget": asdict(self.budget)}
        decided["task"] = {item.name: None for item in fields(self.task)}  # content counts, not where it lies
        decided["task"]["name"] = self.task.name
        for section in RUN_SECTIONS:
            if section != "grit":
                decided |= decisive(getattr(self, section))
        if any(METHODS[name].geometry for name in (self.method, *self.audits.beside)):
            decided["grit"] = decisive(self.grit)
        if self.sequence.before:
            decided["before"] = [source.name for source in self.sequence.sources(self.task)]
        decided["probes"] = [name.partition("=")[0] for name in self.evaluation.probes]
        return decided

    def untuned_key(self) -> dict[str, Any]:
        """The settings on which the untuned model's scores depend, by name."""
        key: dict[str, Any] = {"quantized": self.quantized, "task": asdict(self.task)}
        for section in RUN_SECTIONS:
            config = getattr(self, section)
            key |= {
                item.name: getattr(config, item.name)
                for item, declaration in declared(config)
                if declaration.scores_untuned
            }
        return key


#: The sections of a run by the name of their field.
RUN_SECTIONS: dict[str, type] = {
    "backbone": BackboneConfig,
    "adapter": AdapterConfig,
    "optimization": OptimizationConfig,
    "evaluation": EvaluationConfig,
    "audits": AuditConfig,
    "execution": ExecutionConfig,
    "sequence": SequenceConfig,
    "grit": GritConfig,
}
_OWN = {item.name for item in fields(RunConfig)}
#: The section of every setting. `max_grad_norm` is a run's: GRIT's own is for other people's loops.
_SECTION_OF: dict[str, str] = {
    item.name: section for section, kind in reversed(RUN_SECTIONS.items()) for item in fields(kind)
}
SETTING_NAMES = tuple(sorted(_SECTION_OF))


def section_of(name: str) -> str:
    """The section of a setting, by its name or a knob's.

    Raises:
        ConfigError: there is no such setting.
    """
    field_name = ALIASES.get(name, name)
    if field_name not in _SECTION_OF:
        reference = "must be tau, T, lambda or another setting: --help-fields lists them"
        raise ConfigError("setting", name, among(name, [*ALIASES, *SETTING_NAMES], reference=reference))
    return _SECTION_OF[field_name]


def nested_from_flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as version 0.1 wrote it, all settings beside each other, in today's sections."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if name in _OWN:
            nested[name] = value
        else:
            section = RETIRED[name] if name in RETIRED else section_of(name)
            nested.setdefault(section, {})[name] = value
    return nested


for _kind in (RunConfig, Budget, TaskSource, *RUN_SECTIONS.values()):
    _kind.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]  # pydantic's name for a dataclass
