"""Scores a model on fixed examples: answer loss by teacher forcing, labels by likelihood, answers by greedy generation, retention by document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerBase

from grit.data import Encoded, collate, encode, prompt_tokens
from grit.positions import IGNORED_LABEL
from grit.run_config import QualityMetric
from grit.tasks.base import Example, Task


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One evaluated example. `score` is the task's metric on it (None where only the likelihood was asked for)."""

    example_id: str
    prediction: str | None
    reference: str
    score: float | None
    answer_loss: float
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class DocumentLoss:
    """Loss of one held-out document in nats per token, over `tokens` predicted tokens."""

    document_id: str
    loss: float
    tokens: int


def quality_name(metric: QualityMetric, task_metric: str) -> str:
    """The name under which quality is reported: the task's own metric, or the mean log-likelihood of its reference answers."""
    return task_metric if metric == "primary" else "answer_logprob"


def token_losses(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed loss (nats) and number of scored tokens of each row, both (batch,)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    # Row by row, scored positions only: a large vocabulary in float32 for a whole batch would be most of a GPU's memory.
    scored = labels != IGNORED_LABEL
    sums = [cross_entropy(row[kept].float(), label[kept], reduction="sum") for row, label, kept in zip(logits, labels, scored, strict=True)]
    return torch.stack(sums), scored.sum(-1)


class Evaluator:
    """Evaluates one model; `batch_size` rows at a time, sorted by length so that little is padded."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, max_length: int, batch_size: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._max_length, self._batch_size = max_length, batch_size

    @torch.inference_mode()
    def losses(self, encoded: Sequence[Encoded]) -> list[tuple[float, int]]:
        """(summed loss in nats, scored tokens) per item, in the given order."""
        found: list[tuple[float, int]] = [(math.nan, 0)] * len(encoded)
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i].tokens), i))
        for start in range(0, len(order), self._batch_size):
            part = order[start : start + self._batch_size]
            batch = collate([encoded[i] for i in part], self._tokenizer.pad_token_id)
            sums, counts = token_losses(self._model, {key: value.to(self._model.device) for key, value in batch.items()})
            for i, total, count in zip(part, sums.tolist(), counts.tolist(), strict=True):
                found[i] = (total, count)
        return found

    def task(self, task: Task, examples: Sequence[Example], quality: QualityMetric) -> list[Prediction]:
        """Predictions and losses on `examples`."""
        answers = self.losses([encode(self._tokenizer, e.prompt, e.answer, self._max_length) for e in examples])
        texts: list[str | None] = [None] * len(examples)
        if quality == "primary":
            texts = list(self._choose(examples) if task.decoding == "choose" else self._generate(examples, task.max_new_tokens))
        return [
            Prediction(example_id=e.example_id, prediction=text, reference=e.answer, score=None if text is None else task.score(text, e),
                       answer_loss=total / count, answer_tokens=count)
            for e, text, (total, count) in zip(examples, texts, answers, strict=True)]

    def _choose(self, examples: Sequence[Example]) -> list[str]:
        """The label with the highest log-likelihood (its tokens and the end of text, summed)."""
        flat = [(e, label) for e in examples for label in e.labels]
        losses = self.losses([encode(self._tokenizer, e.prompt, label, self._max_length) for e, label in flat])
        best: dict[str, tuple[float, str]] = {}
        for (example, label), (total, _) in zip(flat, losses, strict=True):
            if example.example_id not in best or total < best[example.example_id][0]:
                best[example.example_id] = (total, label)
        return [best[e.example_id][1] for e in examples]

    @torch.inference_mode()
    def _generate(self, examples: Sequence[Example], max_new_tokens: int) -> list[str]:
        """Greedy continuations, left-padded, decoded up to the end of text."""
        prompts = [prompt_tokens(self._tokenizer, e.prompt)[-self._max_length :] for e in examples]
        texts = [""] * len(examples)
        order = sorted(range(len(examples)), key=lambda i: (len(prompts[i]), i))
        pad, end = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        # A configuration of our own: the checkpoint's may sample, penalize repetition, or end elsewhere than training taught.
        greedy = GenerationConfig(do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, pad_token_id=pad, eos_token_id=end)
        for start in range(0, len(order), self._batch_size):
            part = order[start : start + self._batch_size]
            length = max(len(prompts[i]) for i in part)
            ids = torch.tensor([[pad] * (length - len(prompts[i])) + prompts[i] for i in part], device=self._model.device)
            mask = torch.tensor([[0] * (length - len(prompts[i])) + [1] * len(prompts[i]) for i in part], device=self._model.device)
            made = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)[:, length:].tolist()
            for i, row in zip(part, made, strict=True):
                texts[i] = str(self._tokenizer.decode(row[: row.index(end)] if end in row else row, skip_special_tokens=True))
        return texts

    def documents(self, texts: Sequence[str]) -> list[DocumentLoss]:
        """Loss of each document on its own, every token but the first; over-long ones keep their first `max_length` tokens."""
        rows = [tuple(self._tokenizer(text)["input_ids"][: self._max_length]) for text in texts]
        losses = self.losses([Encoded(tokens=row, answer_start=1, truncated=False) for row in rows])
        return [DocumentLoss(document_id=str(i), loss=total / max(count, 1), tokens=count) for i, (total, count) in enumerate(losses)]


def mean_quality(predictions: Sequence[Prediction], metric: QualityMetric) -> float:
    """Mean per-example score, or mean log-likelihood of the answers in nats per token."""
    return sum(example_quality(p, metric) for p in predictions) / len(predictions)


def example_quality(prediction: Prediction, metric: QualityMetric) -> float:
    """What one example contributes to quality; higher is better."""
    if metric == "answer_logprob":
        return -prediction.answer_loss
    if prediction.score is None:
        raise ValueError(f"example {prediction.example_id} has no score: the task metric was not computed")
    return prediction.score


def nats_per_token(losses: Sequence[DocumentLoss]) -> float:
    """Token-weighted mean loss."""
    return sum(item.loss * item.tokens for item in losses) / sum(item.tokens for item in losses)
