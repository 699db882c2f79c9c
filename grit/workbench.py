"""What runs share in one process: loaded backbones, tokenized data, and the base model's own scores, each made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grit.adapters import add_lora, load_backbone, load_tokenizer, remove_lora
from grit.backbone import resolve
from grit.data import Encoded, encode, micro_batches
from grit.evaluate import DocumentLoss, Evaluator, Prediction
from grit.placement import importance_scores, matching, place
from grit.run_config import RunConfig, TaskSource
from grit.tasks.base import Example, Task
from grit.tasks.registry import load_documents, load_task

#: Training examples on which `placement = auto` scores layers.
IMPORTANCE_EXAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class BaseScores:
    """The untuned model on the same examples and documents."""

    predictions: list[Prediction]
    documents: list[DocumentLoss]


class Workbench:
    """Caches per process. A backbone is shared by all runs and read only: each run adds its adapter and takes it out again."""

    def __init__(self) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._backbones: dict[tuple[str, bool, str], PreTrainedModel] = {}
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._tasks: dict[TaskSource, tuple[Task, list[str]]] = {}
        self._encoded: dict[tuple[Any, ...], list[Encoded]] = {}
        self._base: dict[tuple[Any, ...], BaseScores] = {}
        self._scores: dict[tuple[Any, ...], dict[str, float]] = {}
        self._in_use = False
        self._warm: set[tuple[str, bool, str]] = set()

    def tokenizer(self, config: RunConfig) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        if config.model not in self._tokenizers:
            self._tokenizers[config.model] = load_tokenizer(resolve(config.model))
        return self._tokenizers[config.model]

    def task(self, config: RunConfig) -> Task:
        """The run's task."""
        return self._source(config)[0]

    def eval_examples(self, config: RunConfig) -> tuple[Example, ...]:
        """The fixed evaluation examples, the same for every run on these data."""
        return self.task(config).evaluation[: config.eval_examples]

    def documents(self, config: RunConfig) -> list[str]:
        """The fixed held-out documents."""
        return self._source(config)[1][: config.retention_documents]

    def _source(self, config: RunConfig) -> tuple[Task, list[str]]:
        if config.task not in self._tasks:
            self._tasks[config.task] = (load_task(config.task), load_documents(config.task))
        return self._tasks[config.task]

    def training_data(self, config: RunConfig) -> list[Encoded]:
        """The tokenized training split."""
        key = (config.model, config.task, config.max_length)
        if key not in self._encoded:
            tokenizer = self.tokenizer(config)
            self._encoded[key] = [encode(tokenizer, e.prompt, e.answer, config.max_length) for e in self.task(config).train]
        return self._encoded[key]

    def adapted(self, config: RunConfig) -> Any:
        """The backbone with a fresh adapter; give it back with `release` before the next call."""
        if self._in_use:
            raise RuntimeError("the backbone already carries an adapter: release it first")
        backbone = self._backbone(config)
        ranks = place(backbone, config, lambda: self._importance(config, backbone))
        model = add_lora(backbone, ranks=ranks, scaling=config.alpha / config.rank, dropout=config.dropout, seed=config.seed)
        self._in_use = True
        return model

    def _importance(self, config: RunConfig, backbone: PreTrainedModel) -> dict[str, float]:
        """Scores of the targets on the first training examples, the same for every run on these data."""
        key = (config.model, config.quantized, config.dtype, config.task, config.max_length, config.targets)
        if key not in self._scores:
            rows, pad = self.training_data(config)[:IMPORTANCE_EXAMPLES], self.tokenizer(config).pad_token_id
            batches = micro_batches(rows, 8, pad, self.device)
            self._scores[key] = importance_scores(backbone.eval(), matching(backbone, config.targets), batches)
        return self._scores[key]

    def warm_up(self, config: RunConfig, model: Any, batch: dict[str, torch.Tensor]) -> None:
        """One forward and backward pass outside every clock, the first time a backbone is trained in this process.

        Kernels, libraries and thread pools start at their first use; a time budget must not depend on which trial comes first.
        """
        key = (config.model, config.quantized, config.dtype)
        if key in self._warm:
            return
        self._warm.add(key)
        model.train()
        model(**batch).loss.backward()
        model.zero_grad(set_to_none=True)
        eye = torch.eye(config.rank, device=self.device)[None]
        torch.linalg.cholesky_ex(eye)
        torch.linalg.eigh(eye)

    def release(self, model: Any) -> None:
        """Takes the adapter out of the shared backbone again."""
        remove_lora(model)
        self._in_use = False

    def _backbone(self, config: RunConfig) -> PreTrainedModel:
        key = (config.model, config.quantized, config.dtype)
        if key not in self._backbones:
            self._backbones[key] = load_backbone(resolve(config.model), quantized=config.quantized, dtype=config.dtype, device=self.device)
        return self._backbones[key]

    def evaluator(self, model: Any, config: RunConfig) -> Evaluator:
        """An evaluator of `model` with the run's sizes."""
        return Evaluator(model, self.tokenizer(config), max_length=config.max_length, batch_size=config.eval_batch)

    def base_scores(self, config: RunConfig, model: Any) -> BaseScores:
        """The scores of `model` with its adapter still zero, computed once per backbone and data."""
        key = (config.model, config.quantized, config.dtype, config.task, config.max_length, config.eval_examples,
               config.retention_documents, config.quality, config.eval_batch, config.threads)
        if key not in self._base:
            evaluator = self.evaluator(model, config)
            self._base[key] = BaseScores(
                predictions=evaluator.task(self.task(config), self.eval_examples(config), config.quality),
                documents=evaluator.documents(self.documents(config)))
        return self._base[key]
