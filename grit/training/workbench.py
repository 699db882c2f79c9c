"""What runs share in one process.

Loaded backbones, tokenized data, and the base model's own scores, each made once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import grit.adapters.quick_import  # noqa: F401 - first: it says why

# isort: split
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grit.adapters.backbones import count_parameters, load_backbone, load_tokenizer
from grit.adapters.lean_pass import lean_pass
from grit.adapters.merged_while import merged_while
from grit.adapters.peft_adapters import remove_lora
from grit.adapters.placement import condition_scores, importance_scores, matching, place
from grit.backbone import resolve
from grit.config.run_config import RunConfig
from grit.config.sections import QualityMetric, TaskSource
from grit.data.encode import Encoded, collate, encode, encode_documents, micro_batches, moved, prompt_tokens
from grit.data.packing import Pack, by_length, check_separation, collate_packs, pack
from grit.errors import ConfigError
from grit.evaluation.evaluator import EvaluationBar, Evaluator
from grit.evaluation.scores import DocumentLoss, Prediction, Scores
from grit.io.files import held_alone, write_atomically
from grit.io.hashing import digest
from grit.methods.makers import add_adapter
from grit.runtime.workers import Workers
from grit.tasks.base import Example, Task
from grit.tasks.loading import content_hashes, load_documents, load_task, source_documents

#: Training examples that are looked at beside training: by `placement = auto`, by initializations that need
#: data, and for the curvature of a task that has been learned.
FIRST_EXAMPLES = 32


class Workbench:
    """Caches per process.

    A backbone is shared by all runs and read only: each run adds its adapter and takes it out again.

    Args:
        base_cache: folder in which the untuned model's scores are kept, by the hash of all that decides them;
            None: in memory only.
        progress: opened around long evaluations.
        training: whether tasks need their training examples.
    """

    def __init__(
        self, base_cache: Path | None = None, progress: EvaluationBar | None = None, *, training: bool = True
    ) -> None:
        self._base_cache, self._progress, self._training = base_cache, progress, training
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._backbones: dict[tuple[Any, ...], PreTrainedModel] = {}
        self._sizes: dict[tuple[Any, ...], int] = {}
        self._tokenizers: dict[tuple[Any, ...], PreTrainedTokenizerBase] = {}
        self._tasks: dict[TaskSource, tuple[Task, list[str]]] = {}
        self._encoded: dict[tuple[Any, ...], list[Encoded]] = {}
        self._base: dict[str, Scores] = {}
        self._content: dict[tuple[Any, ...], dict[str, str]] = {}
        self._packs: dict[tuple[Any, ...], list[Pack]] = {}
        self._scores: dict[tuple[Any, ...], dict[str, float]] = {}
        self._in_use = False
        self._warm: set[tuple[Any, ...]] = set()
        self._moved: dict[str, torch.Tensor] = {}
        self.adapter_seconds = 0.0

    def sibling(self) -> Workbench:
        """Another bench with the same data and backbones of its own.

        For a run that takes turns with this one's.
        """
        other = Workbench(self._base_cache, self._progress, training=self._training)
        other._tokenizers, other._tasks, other._encoded, other._packs = (
            self._tokenizers,
            self._tasks,
            self._encoded,
            self._packs,
        )
        return other

    def backbone_parameters(self, config: RunConfig) -> int:
        """Parameters of the model without its adapter.

        Those stored in 4 bits count as what they stand for.
        """
        self.backbone(config)
        return self._sizes[self._backbone_key(config)]

    def tokenizer(self, config: RunConfig) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        key = (config.backbone.model, config.backbone.revision, config.backbone.trust_remote_code)
        if key not in self._tokenizers:
            self._tokenizers[key] = load_tokenizer(
                resolve(config.backbone.model),
                revision=config.backbone.revision,
                trust_remote_code=config.backbone.trust_remote_code,
            )
        return self._tokenizers[key]

    def task(self, config: RunConfig) -> Task:
        """The run's task."""
        return self._source(config)[0]

    def eval_examples(self, config: RunConfig) -> tuple[Example, ...]:
        """The fixed evaluation examples, the same for every run on these data."""
        return self.task(config).evaluation[: config.evaluation.eval_examples]

    def documents(self, config: RunConfig) -> list[str]:
        """The fixed held-out documents."""
        return self._source(config)[1][: config.evaluation.retention_documents]

    def source_batches(self, config: RunConfig) -> list[dict[str, torch.Tensor]]:
        """General text for `source_weight` and `source_penalty`: documents that nothing is measured on."""
        return self.text_batches(config, self._source_documents(config))

    def source_packs(self, config: RunConfig) -> list[Pack]:
        """The same documents, as training examples of their own."""
        length = config.optimization.max_length
        rows = encode_documents(self.tokenizer(config), self._source_documents(config), length)
        return [(row,) for row in rows]

    def _source_documents(self, config: RunConfig) -> list[str]:
        return source_documents(config, self._source(config)[1])

    def text_batches(self, config: RunConfig, documents: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """Documents in batches of as much as a training step has room for, every token with its label."""
        tokenizer = self.tokenizer(config)
        rows = encode_documents(tokenizer, documents, config.optimization.max_length)
        return micro_batches(rows, config.optimization.micro_batch, tokenizer.pad_token_id, self.device)

    def _source(self, config: RunConfig) -> tuple[Task, list[str]]:
        if config.task not in self._tasks:
            self._tasks[config.task] = (
                load_task(config.task, training=self._training),
                load_documents(config.task),
            )
        return self._tasks[config.task]

    def training_data(self, config: RunConfig) -> list[Encoded]:
        """The tokenized training split."""
        length, loss_on = config.optimization.max_length, config.optimization.loss_on
        key = (config.backbone.model, config.task, length, loss_on)
        if key not in self._encoded:
            tokenizer = self.tokenizer(config)
            self._encoded[key] = [
                encode(tokenizer, e.prompt, e.answer, length, loss_on=loss_on)
                for e in self.task(config).train
            ]
        return self._encoded[key]

    def packs(self, config: RunConfig) -> list[Pack]:
        """The training split as packs, or each example on its own."""
        key = (
            config.backbone.model,
            config.task,
            config.optimization.max_length,
            config.optimization.loss_on,
            config.optimization.packing,
        )
        if key not in self._packs:
            rows = self.training_data(config)
            packs: list[Pack] = [(row,) for row in rows]
            if config.optimization.packing:
                packs = pack(rows, config.optimization.max_length)
            self._packs[key] = packs
        return self._packs[key]

    def micro_batches(self, config: RunConfig, packs: Sequence[Pack]) -> list[dict[str, torch.Tensor]]:
        """`packs` in parts of at most `micro_batch`, as tensors on the device.

        Those of similar length stand together, so that little is padded; which of them make up a step is not
        touched.
        """
        pad, parts = self.tokenizer(config).pad_token_id, by_length(packs, config.optimization.micro_batch)
        if config.optimization.packing:
            return [moved(collate_packs(part, pad), self.device) for part in parts]
        return [moved(collate(list(chain.from_iterable(part)), pad), self.device) for part in parts]

    def adapted(self, config: RunConfig) -> Any:
        """The backbone with a fresh adapter; give it back with `release` before the next call."""
        if self._in_use:
            raise RuntimeError("the backbone already carries an adapter: release it first")
        backbone = self.backbone(config)
        if config.execution.gradient_checkpointing and not backbone.supports_gradient_checkpointing:
            raise ConfigError("gradient_checkpointing", True, f"{type(backbone).__name__} cannot do it")
        ranks = place(backbone, config, lambda: self._importance(config, backbone))
        if config.spec.inexact:  # before the adapter, whose rounding is not the backbone's
            for stage in config.stages():
                self.base_scores(stage, backbone.eval())
        if config.spec.moves_backbone:
            self._moved = {
                f"{name}.weight": backbone.get_parameter(f"{name}.weight").detach().to("cpu", copy=True)
                for name in ranks
            }
        self._in_use = True
        began = time.perf_counter()
        try:
            model = add_adapter(
                backbone,
                config,
                ranks,
                examples=lambda: self.first_examples(config),
                general_text=lambda: self.source_batches(config),
            )
        except BaseException:
            # It may be half adapted: whoever comes next loads another.
            del self._backbones[self._backbone_key(config)]
            self._moved, self._in_use = {}, False
            raise
        if config.execution.gradient_checkpointing:
            backbone.activation_checkpointing_enable()
        self.adapter_seconds = time.perf_counter() - began
        return model

    def first_examples(self, config: RunConfig, stage: int = 0) -> list[dict[str, torch.Tensor]]:
        """The first training examples of a stage's task, the same for every run on these data."""
        rows = self.training_data(config.stages()[stage])[:FIRST_EXAMPLES]
        pad = self.tokenizer(config).pad_token_id
        return micro_batches(rows, 8, pad, self.device)

    def _importance(self, config: RunConfig, backbone: PreTrainedModel) -> dict[str, float]:
        """Scores of the targets, of weights or of the first examples: the same for all runs on these data."""
        key = (
            config.adapter.placement,
            config.backbone.model,
            config.quantized,
            config.backbone.dtype,
            config.stages()[0].task,
            config.optimization.max_length,
            config.optimization.loss_on,
            config.adapter.targets,
        )
        if key not in self._scores:
            names = matching(backbone, config.adapter.targets)
            if config.adapter.placement == "kappa":
                self._scores[key] = condition_scores(backbone, names)
            else:
                batches = self.first_examples(config)
                self._scores[key] = importance_scores(backbone.eval(), names, batches)
        return self._scores[key]

    def warm_up(self, config: RunConfig, model: Any, batch: dict[str, torch.Tensor]) -> None:
        """One forward and backward pass outside every clock.

        The first time a backbone is trained in this process.

        Kernels, libraries and thread pools start at their first use; a time budget must not depend on which
        trial comes first.
        """
        key = (*self._backbone_key(config), config.optimization.packing)
        if key in self._warm:
            return
        self._warm.add(key)
        if config.optimization.packing and (
            shared := [members for members in self.packs(config) if len(members) > 1]
        ):
            check_separation(model.eval(), shared[0], self.tokenizer(config).pad_token_id, self.device)
        model.train()
        with lean_pass(model, batch) as inputs:
            model(**inputs, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)
        eye = torch.eye(config.adapter.rank, device=self.device)[None]
        torch.linalg.cholesky_ex(eye)
        torch.linalg.eigh(eye)

    def release(self, model: Any) -> None:
        """Takes the adapter out of the shared backbone again.

        And puts back what its initialization changed.
        """
        backbone = remove_lora(model)
        backbone.activation_checkpointing_disable()
        with torch.no_grad():
            for name, weight in self._moved.items():
                backbone.get_parameter(name).copy_(weight)
        self._moved = {}
        self._in_use = False

    def forget_moved(self) -> None:
        """Gives up what an adapter's initialization changed: for a process that ends with this run."""
        self._moved = {}

    def backbone(self, config: RunConfig) -> PreTrainedModel:
        """The model without an adapter, loaded once."""
        key = self._backbone_key(config)
        if key not in self._backbones:
            self._backbones[key] = load_backbone(
                resolve(config.backbone.model),
                quantized=config.quantized,
                dtype=config.backbone.dtype,
                device=self.device,
                revision=config.backbone.revision,
                trust_remote_code=config.backbone.trust_remote_code,
                attention=config.backbone.attention,
            )
            self._sizes[key] = count_parameters(self._backbones[key])
        return self._backbones[key]

    @staticmethod
    def _backbone_key(config: RunConfig) -> tuple[Any, ...]:
        return (
            config.backbone.model,
            config.backbone.revision,
            config.backbone.trust_remote_code,
            config.quantized,
            config.backbone.dtype,
            config.backbone.attention,
        )

    def evaluator(self, model: Any, config: RunConfig) -> Evaluator:
        """An evaluator of `model` as the run wants it."""
        return Evaluator(model, self.tokenizer(config), config, progress=self._progress)

    def score(self, model: Any, config: RunConfig, metric: QualityMetric) -> Scores:
        """`model` on the run's examples and documents: what `metric` needs, and no more."""
        return self._scored(model, config, predict=metric == "primary", last=False)

    def predictions(self, model: Any, config: RunConfig) -> list[Prediction]:
        """`model` on the run's examples alone: what its quality needs."""
        predict = config.evaluation.quality == "primary"
        with self.merged(model, config):
            return self.evaluator(model, config).task(
                self.task(config), self.eval_examples(config), predict=predict
            )

    def general_losses(self, model: Any, config: RunConfig) -> list[DocumentLoss]:
        """`model` on the run's held-out documents alone."""
        with self.merged(model, config):
            return self.evaluator(model, config).documents(self.documents(config))

    def score_fully(self, model: Any, config: RunConfig) -> Scores:
        """The same with all that the run asks for: the task's own and further metrics, and the probes."""
        return self._scored(model, config, predict=config.evaluation.predicts, last=True)

    def _scored(self, model: Any, config: RunConfig, *, predict: bool, last: bool) -> Scores:
        evaluator, task = self.evaluator(model, config), self.task(config)
        examples = self.eval_examples(config)
        with self.merged(model, config):
            predictions = evaluator.task(task, examples, predict=predict)
            documents = evaluator.documents(self.documents(config))
            probes = evaluator.probes() if last else {}
        measured = evaluator.measure(task, predictions) if last else {}
        return Scores(predictions=predictions, documents=documents, measured=measured, probes=probes)

    def merged(self, model: Any, config: RunConfig) -> AbstractContextManager[bool]:
        """`model` as it is scored: its adapter in the weights, where that changes nothing."""
        examples = self.eval_examples(config)
        prompt: list[int] = []  # nothing is merged: PEFT does not know of a gate between the factors
        if examples and not (config.uses_grit and config.grit.suppression == "gate"):
            length = config.optimization.max_length
            prompt = prompt_tokens(self.tokenizer(config), examples[0].prompt)[-length:]
        return merged_while(model, prompt)

    def base_scores(self, config: RunConfig, model: Any) -> Scores:
        """The scores of `model` with its adapter still zero, computed once per backbone and data."""
        decisive = {**config.untuned_key(), "device": self.device}
        key = digest(decisive)
        if key not in self._base and self._base_cache is None:
            self._base[key] = self.score_fully(model, config)
        if key not in self._base:
            kept = self._base_file(config, decisive)
            kept.parent.mkdir(parents=True, exist_ok=True)
            # Whoever comes second reads what the first has found. Workers of one run score together.
            alone = Workers().count == 1
            with held_alone(kept.with_suffix(".lock")) if alone else nullcontext():
                if not kept.exists():
                    scores = self.score_fully(model, config)
                    write_atomically(kept, json.dumps(asdict(scores)))
                self._base[key] = Scores.from_dict(json.loads(kept.read_text(encoding="utf8")))
        return self._base[key]

    def content(self, config: RunConfig) -> dict[str, str]:
        """Hashes of what the names in a run's configuration stand for here (grit/tasks/loading.py)."""
        evaluation = config.evaluation
        key = (config.task, config.sequence, config.backbone, evaluation.probes, evaluation.bertscore_encoder)
        if key not in self._content:  # a model's files are read whole
            task, documents = self._source(config)
            model = resolve(config.backbone.model)
            self._content[key] = content_hashes(task, documents, config, model)
        return self._content[key]

    def _base_file(self, config: RunConfig, decisive: dict[str, Any]) -> Path:
        """Where the scores of the untuned model are kept.

        Named by the content behind the names, not by the names alone.
        """
        assert self._base_cache is not None
        return self._base_cache / f"base-{digest([decisive, self.content(config)])}.json"
